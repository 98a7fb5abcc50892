"""How fresh a VM's copy is, as people see it: the sync states of product.md §2, from facts alone.

Owns the fold of a protected VM's events into the few facts that matter and the name that follows.
The scheduler decides by the same facts; whoever shows a VM folds its events through here.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from schemas import directions
from schemas import scheduler as said

SyncState = Literal[
    "init-in-progress",
    "init-sync-in-progress",
    "init-success",
    "init-failed",
    "init-sync-failed",
    "sync-in-progress",
    "in-sync",
    "exceeded-interval",
    "sync-failed",
    "resync-in-progress",
    "resync-success",
    "resync-failed",
]


class SyncFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a VM's copy.

    `resync`: the copy counts as invalid and no running iteration makes it good. `full`: the
    running iteration copies everything. `exceeded`: a tick fell due while an iteration ran.
    `last`: how the newest iteration with a result ended.
    """

    has_copy: bool = False
    resync: bool = False
    running: bool = False
    full: bool = False
    exceeded: bool = False
    last: Literal["", "synced", "resynced", "failed", "resync-failed"] = ""


NEW: Final = SyncFacts()


def sync_state(facts: SyncFacts) -> SyncState:
    """The state's name. A VM is inspected before it is protected, so *init* itself has succeeded.

    Overrun is said of ordinary replication only: a first copy or resync is expected to be long.
    """
    if facts.running:
        if not facts.has_copy:
            return "init-sync-in-progress"
        if facts.full:
            return "resync-in-progress"
        return "exceeded-interval" if facts.exceeded else "sync-in-progress"
    if not facts.has_copy:
        return "init-sync-failed" if facts.last in ("failed", "resync-failed") else "init-success"
    if facts.last == "resync-failed":
        return "resync-failed"
    if facts.resync:
        return "resync-in-progress"
    if facts.last == "failed":
        return "sync-failed"
    return "resync-success" if facts.last == "resynced" else "in-sync"


def fold_sync(facts: SyncFacts, event: Any) -> SyncFacts:
    """The facts after an event of the VM's stream; other events change nothing."""
    kind = type(event)
    if kind is said.IterationDispatched:
        return SyncFacts(
            has_copy=facts.has_copy,
            running=True,
            full=facts.resync or not facts.has_copy,
            last=facts.last,
        )
    if kind is said.IterationRecorded:
        return _ended(facts, event)
    if kind is said.TickQueued:
        exceeded = event.group or not event.run
        return _with(facts, exceeded=facts.exceeded or exceeded)
    if kind is said.VmReset:
        return NEW if event.lost else _with(facts, resync=True)
    if kind is said.VmProtected and event.last_checkpoint_at is not None:
        return _with(facts, has_copy=True)
    if kind in (directions.VmDirectionMarked, directions.VmDirectionDropped):
        # What there is of that direction is from before: all of it is to be compared.
        there = event.copy_at is not None
        return SyncFacts(has_copy=there, resync=there)
    if kind in (said.VmStopped, said.VmReleased):
        return _with(facts, exceeded=False)
    return facts


def needs_full(facts: SyncFacts) -> bool:
    """Whether the next iteration must copy everything."""
    return facts.resync or not facts.has_copy


def _ended(facts: SyncFacts, event: said.IterationRecorded) -> SyncFacts:
    # A partially completed iteration that finalized a copy is a success for the copy.
    resynced = facts.has_copy and (facts.full or event.resync)
    if event.checkpoint_at is not None:
        last = "resynced" if resynced else "synced"
        return SyncFacts(has_copy=True, resync=facts.resync, last=last)  # type: ignore[arg-type]
    # The copy that was invalid still is: whatever the iteration was to mend is still to be done.
    resync = facts.resync or (facts.has_copy and facts.full)
    last = facts.last
    if event.state != "cancelled":
        last = "resync-failed" if resync or resynced else "failed"
    return SyncFacts(has_copy=facts.has_copy, resync=resync, last=last)  # type: ignore[arg-type]


def _with(facts: SyncFacts, **changes: bool) -> SyncFacts:
    return msgspec.structs.replace(facts, **changes)
