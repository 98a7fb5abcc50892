"""Real components that tests need and a machine may lack: skip with the reason, or fail.

`REQUIRE_POSTGRES=1`, `REQUIRE_GO=1`, `REQUIRE_KAFKA=1`, `REQUIRE_NTFS=1` (set in CI) turn the skip
into a failure; so does `REQUIRE_NETNS=1` where network namespaces can be made. What was absent is
listed at the end of the run by `tests/conftest.py`.
"""

from __future__ import annotations

import os
import shutil
from typing import Final, NoReturn

import pytest

absent: Final[dict[str, str]] = {}
"""Part name → why it is absent; filled while the tests run."""


def require(part: str, reason: str) -> NoReturn:
    """End the test because `part` is absent: a skip, or a failure when `REQUIRE_<PART>=1`.

    Call it only after finding the part absent: `if go is None: require("go", "no go on PATH")`.
    """
    absent[part] = reason
    message = f"{part} is absent: {reason}"
    if is_required(part):
        pytest.fail(f"{message} (and REQUIRE_{part.upper()}=1)", pytrace=False)
    pytest.skip(message)


def is_required(part: str) -> bool:
    """Whether `REQUIRE_<PART>` is set to anything but 0 or nothing."""
    return os.environ.get(f"REQUIRE_{part.upper()}", "0") not in {"", "0"}


def require_go() -> str:
    """Path of the Go tool, or the end of the test by `require`."""
    return shutil.which("go") or require("go", "no `go` on PATH")
