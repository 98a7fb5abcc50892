"""A protected VM: its schedule, its copy, who holds it. One stream per VM and plan.

Owns the state and how events change it. Decisions are in `ticks` (iterations), `rpo`, and, where a
plan decides for all its VMs at once, in `groups`, `switching`, `membership` and `recoveries`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from schemas import scheduler as said
from schemas import scheduler_operations as said_ops
from schemas.common import HoldMode
from schemas.directions import VmDirectionDropped, VmDirectionMarked, VmTurned
from schemas.plans import ReplicationPolicy
from schemas.sync_state import NEW, SyncFacts, fold_sync
from services.scheduler.domain.holds import without
from shared.decider import Family

_US: Final = dt.timedelta(microseconds=1)


class Direction(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which way a VM is replicated, and from what: the `instance` that the recovery `made_by`
    made of it, or the VM of its site."""

    reverse: bool = False
    instance: str = ""
    made_by: str = ""


ORIGINAL: Final = Direction()


class ProtectedVm(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is known of one VM of one plan; changed in place by `evolve`.

    `setup` is what the plan last said of it. `cursor`: every grid tick up to here is accounted
    for. `iteration` is the running one (it holds write-copy) and `run` its group job, if any.
    `queued_at` is the one tick that waits for it, `queued_gated` whether its run has a gate.
    `holds` are other jobs' modes, `claim` is the job that holds it next. `moved`: it runs at the
    other site since the job `moved_by`, and its replication was on before (`moved_on`).
    `direction` is the one that stands, `turning` the one that the job `turning_by` marked.
    `last_checkpoint_at` and `sync` are of the direction iterations go, `elsewhere` is the newest
    copy of the other one.
    """

    setup: said.VmProtected | None = None
    protected: bool = False
    on: bool = False
    priority: int | None = None
    cursor: dt.datetime | None = None
    next_due_at: dt.datetime | None = None
    iteration: str = ""
    run: str = ""
    queued_at: dt.datetime | None = None
    queued_run: str = ""
    queued_gated: bool | None = None
    claim: str = ""
    moved: said_ops.Moved | Literal[""] = ""
    moved_by: str = ""
    moved_on: bool = False
    holds: dict[str, tuple[HoldMode, ...]] = {}
    sync: SyncFacts = NEW
    last_checkpoint_at: dt.datetime | None = None
    rpo_breached: bool = False
    direction: Direction = ORIGINAL
    turning: Direction | None = None
    turning_by: str = ""
    elsewhere: dt.datetime | None = None


def heading(state: ProtectedVm) -> Direction:
    """The direction that iterations go: the marked one, where there is one."""
    return state.turning or state.direction


def blocker(state: ProtectedVm) -> str:
    """The job that keeps an iteration from starting: the running one, or who writes the copy."""
    return state.iteration or copy_taken_by(state)


def copy_taken_by(state: ProtectedVm, *, but: str = "") -> str:
    """The job, other than `but`, whose hold keeps the next iteration from starting; or ""."""
    if state.claim and state.claim != but:
        return state.claim
    for job, modes in state.holds.items():
        if "write-copy" in modes and job != but:
            return job
    return ""


def copy_is_coming(state: ProtectedVm) -> bool:
    """Whether an iteration that would make a copy is under way, as far as is known here."""
    return bool(state.iteration) or state.queued_at is not None


def holders(state: ProtectedVm) -> dict[str, tuple[HoldMode, ...]]:
    """All jobs that hold the VM, the running iteration included."""
    if not state.iteration:
        return state.holds
    return {state.iteration: ("write-copy",), **state.holds}


def priority_of(state: ProtectedVm, setup: said.VmProtected) -> int:
    """The operator's word for the VM, else its definition's, else the plan's."""
    if state.priority is not None:
        return state.priority
    own = setup.definition.priority
    return setup.replication.priority if own is None else own


def has_own_priority(state: ProtectedVm) -> bool:
    """Whether the plan's priority means nothing for the VM."""
    if state.priority is not None:
        return True
    return state.setup is not None and state.setup.definition.priority is not None


def same_grid(one: ReplicationPolicy, other: ReplicationPolicy) -> bool:
    """Whether two policies put a VM's ticks at the same moments, by the same clock."""
    return (
        one.interval_s == other.interval_s
        and one.start_at == other.start_at
        and one.spread_s == other.spread_s
        and one.synchronize == other.synchronize
    )


def evolve(state: ProtectedVm, event: Any) -> ProtectedVm:
    """Apply a fact of the stream, in place."""
    _APPLY[type(event)](state, event)
    return state


def _protected(state: ProtectedVm, event: said.VmProtected) -> None:
    before = state.setup
    if before is not None and not same_grid(before.replication, event.replication):
        state.cursor = None
    if before is None or before.definition.priority != event.definition.priority:
        state.priority = None
    state.setup = event
    state.protected = True


def _released(state: ProtectedVm, event: said.VmReleased) -> None:
    state.protected = state.on = False
    state.cursor = state.next_due_at = state.priority = None
    state.rpo_breached = False
    _unqueue(state)
    _home(state)
    state.sync = fold_sync(state.sync, event)
    if heading(state).reverse:
        # Should it come back, it is the VM of its own site, whose copies are the other ones.
        state.last_checkpoint_at = state.elsewhere
        state.sync = SyncFacts(has_copy=state.elsewhere is not None)
    _forget_direction(state)


def _started(state: ProtectedVm, event: said.VmStarted) -> None:
    state.on = True
    state.next_due_at = event.next_due_at
    # After a stop the cursor stands where it stood: what was missed meanwhile is caught up once.
    if state.cursor is None:
        state.cursor = event.next_due_at - _US


def _stopped(state: ProtectedVm, event: said.VmStopped) -> None:
    state.on = False
    state.next_due_at = None
    _unqueue(state)
    state.sync = fold_sync(state.sync, event)


def _prioritised(state: ProtectedVm, event: said.VmPrioritised) -> None:
    if not event.of_plan:
        state.priority = event.priority
        return
    assert state.setup is not None
    replication = msgspec.structs.replace(state.setup.replication, priority=event.priority)
    state.setup = msgspec.structs.replace(state.setup, replication=replication)


def _reset(state: ProtectedVm, event: said.VmReset) -> None:
    state.sync = fold_sync(state.sync, event)
    if event.lost:
        state.last_checkpoint_at = None
        _home(state)
        _forget_direction(state)


def _dispatched(state: ProtectedVm, event: said.IterationDispatched) -> None:
    state.iteration = event.iteration
    state.run = event.run
    _unqueue(state)
    if event.next_due_at is not None:
        state.next_due_at = event.next_due_at
        state.cursor = event.next_due_at - _US
    state.sync = fold_sync(state.sync, event)


def _queued(state: ProtectedVm, event: said.TickQueued) -> None:
    state.sync = fold_sync(state.sync, event)
    if event.group:
        return
    state.queued_at = event.tick_at
    state.queued_run = event.run
    state.queued_gated = event.gated
    if not event.run:
        state.cursor = event.tick_at


def _recorded(state: ProtectedVm, event: said.IterationRecorded) -> None:
    state.iteration = state.run = ""
    state.sync = fold_sync(state.sync, event)
    if event.checkpoint_at is not None:
        state.last_checkpoint_at = event.checkpoint_at


def _missed(state: ProtectedVm, event: said.TicksMissed) -> None:
    if state.cursor is None or state.cursor < event.last_at:
        state.cursor = event.last_at


def _held(state: ProtectedVm, event: said.Held) -> None:
    state.claim = ""
    # A new mapping: an empty default may be shared between states.
    state.holds = {**state.holds, event.job: event.modes}


def _claimed(state: ProtectedVm, event: said_ops.HoldQueued) -> None:
    state.claim = event.job


def _unclaimed(state: ProtectedVm, event: said_ops.HoldDropped) -> None:
    state.claim = ""


def _moved(state: ProtectedVm, event: said_ops.VmMoved) -> None:
    state.moved, state.moved_by, state.moved_on = event.to, event.job, event.was_on


def _returned(state: ProtectedVm, event: said_ops.VmReturned) -> None:
    _home(state)


def _home(state: ProtectedVm) -> None:
    state.moved = state.moved_by = ""
    state.moved_on = False


def _direction_marked(state: ProtectedVm, event: VmDirectionMarked) -> None:
    state.turning = Direction(
        reverse=event.reverse, instance=event.instance, made_by=event.made_by
    )
    state.turning_by = event.job
    _other_copies(state, event)


def _direction_dropped(state: ProtectedVm, event: VmDirectionDropped) -> None:
    state.turning, state.turning_by = None, ""
    _other_copies(state, event)


def _other_copies(state: ProtectedVm, event: VmDirectionMarked | VmDirectionDropped) -> None:
    state.elsewhere, state.last_checkpoint_at = state.last_checkpoint_at, event.copy_at
    state.sync = fold_sync(state.sync, event)


def _turned(state: ProtectedVm, event: VmTurned) -> None:
    assert state.turning is not None, "a direction is marked before it stands"
    state.direction = state.turning
    state.turning, state.turning_by = None, ""
    _home(state)
    # The grid begins anew: what fell due while the VM ran elsewhere was not missed.
    state.cursor = None


def _forget_direction(state: ProtectedVm) -> None:
    state.direction, state.turning, state.turning_by = ORIGINAL, None, ""
    state.elsewhere = None


def _given_back(state: ProtectedVm, event: said.HoldReleased) -> None:
    left = without(state.holds.get(event.job, ()), event.modes)
    others = {job: modes for job, modes in state.holds.items() if job != event.job}
    state.holds = {**others, event.job: left} if left else others


def _breached(state: ProtectedVm, event: said.RpoBreached) -> None:
    state.rpo_breached = True


def _restored(state: ProtectedVm, event: said.RpoRestored) -> None:
    state.rpo_breached = False


def _unqueue(state: ProtectedVm) -> None:
    state.queued_at = None
    state.queued_run = ""
    state.queued_gated = None


_APPLY: Final[dict[type, Callable[[ProtectedVm, Any], None]]] = {
    said.VmProtected: _protected,
    said.VmReleased: _released,
    said.VmStarted: _started,
    said.VmStopped: _stopped,
    said.VmPrioritised: _prioritised,
    said.VmReset: _reset,
    said.IterationDispatched: _dispatched,
    said.TickQueued: _queued,
    said.IterationRecorded: _recorded,
    said.TicksMissed: _missed,
    said.Held: _held,
    said.HoldReleased: _given_back,
    said.RpoBreached: _breached,
    said.RpoRestored: _restored,
    said_ops.HoldQueued: _claimed,
    said_ops.HoldDropped: _unclaimed,
    said_ops.VmMoved: _moved,
    said_ops.VmReturned: _returned,
    VmDirectionMarked: _direction_marked,
    VmDirectionDropped: _direction_dropped,
    VmTurned: _turned,
}

FAMILY = Family(
    name="protected-vm",
    state=ProtectedVm,
    initial=ProtectedVm,
    evolve=evolve,
    # A released VM may come back to its plan: the stream never ends.
    is_terminal=lambda state: False,
    schema=3,
)
