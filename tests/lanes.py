"""Which tests run side by side.

Those that judge time or kill processes have one lane, one after the other, so that no two of them
fill the machine; the others give way to them. All else goes by module, for fixtures that a module
shares.
"""

from __future__ import annotations

import os
from pathlib import PurePath
from typing import Final

from xdist.scheduler import LoadScopeScheduling

_ALONE: Final = frozenset({
    "test_auto_rollback", "test_chaos", "test_clean_point", "test_crash", "test_databases",
    "test_ending", "test_following", "test_lost_site", "test_mixed", "test_outage",
    "test_reverse", "test_rolling", "test_watching", "test_woken",
})  # fmt: skip
_LONG: Final = ("tests/acceptance/", "tests/simulation/")


def lane_of(nodeid: str) -> str:
    """The lane of a test, by its id."""
    module = PurePath(nodeid.partition("::")[0])
    return "alone" if module.stem in _ALONE else str(module)


def place_of(nodeid: str) -> int:
    """Long work begins first: what begins last is what everything waits for in the end."""
    return 0 if lane_of(nodeid) == "alone" else 1 if nodeid.startswith(_LONG) else 2


_GIVES_WAY: Final = 10
"""Niceness of a worker, and of all that it starts, from its first test that is not alone."""


def give_way(nodeid: str) -> None:
    """Called by a worker before each of its tests. Nothing takes it back: that wants root."""
    if lane_of(nodeid) != "alone" and os.nice(0) < _GIVES_WAY:
        os.nice(_GIVES_WAY)


class Lanes(LoadScopeScheduling):  # type: ignore[misc]  # it ships no types
    """A lane is one worker's as a whole."""

    def _split_scope(self, nodeid: str) -> str:
        return lane_of(nodeid)
