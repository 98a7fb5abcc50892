"""`python -m shared.windows` is the reader's process; only `inspect` starts it."""

from __future__ import annotations

import sys

from shared.windows.reader import main

sys.exit(main())
