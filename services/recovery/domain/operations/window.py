"""The commit window of a full recovery: what became of its instances since it ended.

Owns the state and its folding. Who may decide what is `commit_window`'s.
"""

from __future__ import annotations

from typing import Any

import msgspec

from schemas import operations as said
from schemas.directions import InstancesFreed, InstancesTaken


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The jobs that decide, or have decided, about the instances; empty or False: none.

    `half_undone`: a roll back ended before all was undone; only another one is left to decide.
    `taken` are VMs that are replicated from their instances here, `home` those that went back to
    their own site since.
    """

    committing: str = ""
    committed: str = ""
    rolling_back: str = ""
    rolled_back: bool = False
    half_undone: bool = False
    taken: frozenset[str] = frozenset()
    home: frozenset[str] = frozenset()


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
            half = window.half_undone or not event.untouched
            return replace(window, rolling_back="", half_undone=half)
        case said.RecoveryRolledBack():
            return replace(window, rolling_back="", rolled_back=True)
        case said.CommitOverdue():
            return window
        case InstancesTaken():
            taken = window.taken.union(event.vms)
            return replace(window, taken=taken, home=window.home.difference(event.vms))
        case InstancesFreed():
            home = window.home.union(event.vms) if event.home else window.home
            return replace(window, taken=window.taken.difference(event.vms), home=home)
    raise AssertionError(f"{type(event).__name__} is no event of a commit window")
