"""The `lab` fixture of the script tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.scripts.watching import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A runner with folders that the script user can reach."""
    # Not tmp_path: pytest closes its parent to other users, and root runs scripts as one.
    base = Path(tempfile.mkdtemp(prefix="seawall-test-scripts-"))
    base.chmod(0o755)
    yield Lab(base)
    shutil.rmtree(base)
