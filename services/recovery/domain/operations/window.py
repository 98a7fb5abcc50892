"""The commit window of a full recovery: what was decided about its instances since it ended.

Owns the state and its folding. Who may decide what is `commit_window`'s.
"""

from __future__ import annotations

from typing import Any

import msgspec

from schemas import operations as said


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The jobs that decide, or have decided, about the instances; empty or False: none."""

    committing: str = ""
    committed: str = ""
    rolling_back: str = ""
    rolled_back: bool = False


def fold(window: Window, event: Any) -> Window:
    """Apply one fact about the window."""
    replace = msgspec.structs.replace
    match event:
        case said.RecoveryCommitting():
            return replace(window, committing=event.commit)
        case said.RecoveryCommitRefuted():
            return replace(window, committing="")
        case said.RecoveryCommitted():
            return replace(window, committing="", committed=event.commit)
        case said.RecoveryRollingBack():
            return replace(window, rolling_back=event.rollback)
        case said.RecoveryRollbackIncomplete():
            return replace(window, rolling_back="")
        case said.RecoveryRolledBack():
            return replace(window, rolling_back="", rolled_back=True)
        case said.CommitOverdue():
            return window
    raise AssertionError(f"{type(event).__name__} is no event of a commit window")
