"""A protection plan: its version, its groups of iterations, checkpoints and recoveries.

Owns the state and how events change it. Decisions are in `application` and `membership` (apply,
delete), `groups`, `switching`, `checkpoints` and `recoveries`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

import msgspec

from schemas import scheduler as said
from schemas import scheduler_operations as said_ops
from schemas.children import ParentJobEnded
from schemas.clean_points import CheckpointJudged, CleanPointSearchRequested
from schemas.common import Problem
from schemas.plans import PlanDefinition, ReplicationPolicy
from schemas.recovery_groups import RecoveryGroupRequested
from schemas.recovery_steering import RecoveryHeldAgain
from services.scheduler.domain.names import recovery_of, vm_streams
from shared.decider import Family
from shared.errors import Refused

_US: Final = dt.timedelta(microseconds=1)


class Application(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A plan that waits for its sites. `waiting` are sites that have not answered yet."""

    command_id: str
    definition: PlanDefinition
    requested_at: dt.datetime
    waiting: tuple[str, ...]
    dry_run: bool = False
    inventory: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    over_capacity: bool = False
    disks: int = 0
    limits: dict[str, tuple[said.SiteLimit, ...]] = {}


class CheckpointEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A PIT checkpoint that exists or is being made or deleted; `reverse` as told when made."""

    created_at: dt.datetime
    state: Literal["creating", "available", "expiring"] = "creating"
    preserved: bool = False
    vms: tuple[str, ...] = ()
    reverse: tuple[str, ...] = ()


class RecoveryEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A recovery that runs, or has ended and still holds VMs. `checkpoint` empty: not held.

    `synced`: its last sync was started. `parent` is the job that asked for it, where no person
    did.
    """

    mode: said.RecoveryMode
    vms: tuple[str, ...] = ()
    checkpoint: str = ""
    dry_run: bool = False
    ended: bool = False
    released: bool = False
    parent: str = ""
    synced: bool = False


class Plan(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is known of one plan; changed in place by `evolve`.

    `header` None: no such plan stands. `priority` is the operator's, where it differs from the
    header's. `runs` are group jobs under way and their members; `group_cursor` and
    `group_queued` are the grid of a synchronized plan. `awaited` are recoveries that wait for
    their holds, `quarantined` those of its sites that nothing may replicate from or to. `parents`
    are searches and groups under way that ask for recoveries, and the checkpoints kept for them.
    """

    version: int = 0
    digest: str = ""
    header: said.PlanHeader | None = None
    vms: tuple[str, ...] = ()
    priority: int | None = None
    pending: Application | None = None
    runs: dict[str, tuple[str, ...]] = {}
    group_cursor: dt.datetime | None = None
    group_queued: dt.datetime | None = None
    checkpoints: dict[str, CheckpointEntry] = {}
    recoveries: dict[str, RecoveryEntry] = {}
    parents: dict[str, tuple[str, ...]] = {}
    awaited: dict[str, said_ops.RecoveryAwaited] = {}
    quarantined: tuple[str, ...] = ()


def standing(state: Plan, plan: str, *, expected_version: int = 0) -> said.PlanHeader:
    """The plan's header; refuses where there is no such plan, or another version stands."""
    if state.header is None:
        raise Refused(
            f"no plan is named {plan!r}",
            code="unknown-plan",
            remedy="`seawall plan list` shows the plans there are",
        )
    check_version(state, plan, expected_version)
    return state.header


def check_version(state: Plan, plan: str, expected: int) -> None:
    """Raise Refused `version` where another version stands than the one that was expected."""
    stands = state.version if state.header is not None else 0
    if expected and expected != stands:
        raise Refused(
            f"plan {plan!r} is at version {stands}, not {expected}",
            code="version",
            remedy="read the plan again and decide by what stands",
        )


def chosen_vms(state: Plan, plan: str, vms: tuple[str, ...]) -> tuple[str, ...]:
    """The VMs a command names, or all; refuses names that the plan does not have."""
    if not vms:
        return state.vms
    missing = sorted(set(vms) - set(state.vms))
    if missing:
        raise Refused(
            f"plan {plan!r} has no VM {', '.join(map(repr, missing[:10]))}",
            code="unknown-vm",
            remedy=f"`seawall vm list --plan {plan}` shows its VMs",
        )
    asked = set(vms)
    return tuple(vm for vm in state.vms if vm in asked)


def all_vm_streams(state: Plan, plan: str) -> tuple[str, ...]:
    """The streams of the plan's VMs."""
    return vm_streams(plan, state.vms)


def with_priority(replication: ReplicationPolicy, priority: int | None) -> ReplicationPolicy:
    """The policy with the operator's priority, where there is one."""
    if priority is None:
        return replication
    return msgspec.structs.replace(replication, priority=priority)


def holding_jobs(state: Plan) -> tuple[str, ...]:
    """Recoveries that hold VMs of the plan, or wait for it, ended ones that await included; and
    jobs that ask for more of them."""
    holding = tuple(job for job, entry in state.recoveries.items() if not entry.released)
    return (*holding, *state.awaited, *state.parents)


def uses(state: Plan) -> Iterator[tuple[str, str]]:
    """Every job that needs a checkpoint, with it: recoveries that read from one or wait for their
    holds, searches and groups that have yet to ask for theirs. Some pairs name none that exists:
    "" and `latest`."""
    yield from ((job, entry.checkpoint) for job, entry in state.recoveries.items())
    yield from ((job, each.request.checkpoint) for job, each in state.awaited.items())
    yield from ((job, each) for job, kept in state.parents.items() for each in kept)


def jobs_using(state: Plan, checkpoint: str) -> tuple[str, ...]:
    """The jobs that need a checkpoint, which is neither deleted nor expires before they let go."""
    return tuple(job for job, used in uses(state) if used == checkpoint)


def evolve(state: Plan, event: Any) -> Plan:
    """Apply a fact of the stream, in place."""
    _APPLY[type(event)](state, event)
    return state


def _requested(state: Plan, event: said.PlanApplicationRequested) -> None:
    definition = event.definition
    state.pending = Application(
        command_id=event.command_id,
        definition=definition,
        requested_at=event.requested_at or dt.datetime.fromtimestamp(0, dt.UTC),
        waiting=(definition.protected_site, definition.recovery_site),
        dry_run=event.dry_run,
        over_capacity=event.over_capacity,
    )


def _more_vms(state: Plan, event: said.PlanApplicationVms) -> None:
    pending = state.pending
    assert pending is not None
    vms = pending.definition.vms + event.vms
    definition = msgspec.structs.replace(pending.definition, vms=vms)
    state.pending = msgspec.structs.replace(pending, definition=definition)


def _inspected(state: Plan, event: said.PlanSiteInspected) -> None:
    pending = state.pending
    assert pending is not None
    state.pending = msgspec.structs.replace(
        pending,
        waiting=tuple(site for site in pending.waiting if site != event.site),
        inventory=pending.inventory + event.vms,
        problems=pending.problems + event.problems,
        disks=pending.disks + event.disks,
        limits={**pending.limits, event.site: event.limits},
    )


def _no_longer_pending(state: Plan, event: Any) -> None:
    if state.pending is not None and state.pending.command_id == event.command_id:
        state.pending = None


def _applied(state: Plan, event: said.PlanApplied) -> None:
    before = state.header
    if before is None or before.replication.priority != event.header.replication.priority:
        state.priority = None
    state.pending = None
    state.version = event.plan_version
    state.digest = event.digest
    state.header = event.header
    state.vms = event.vms
    if event.next_due_at is not None:
        state.group_cursor = event.next_due_at - _US
    if not event.header.replication.synchronize:
        state.group_cursor = state.group_queued = None
    sites = (event.header.protected.site, event.header.recovery_site.site)
    state.quarantined = tuple(site for site in state.quarantined if site in sites)


def _deleted(state: Plan, event: said.PlanDeleted) -> None:
    state.header = state.pending = state.priority = None
    state.group_cursor = state.group_queued = None
    state.vms = state.quarantined = ()
    state.digest = ""


def _prioritised(state: Plan, event: said.PlanPrioritised) -> None:
    state.priority = event.priority


def _group_started(state: Plan, event: said.GroupTickDispatched) -> None:
    _change_recovery(state, recovery_of(event.run), synced=True)
    state.runs = {**state.runs, event.run: event.vms}
    if event.next_due_at is not None:
        state.group_cursor = event.next_due_at - _US
        state.group_queued = None


def _group_queued(state: Plan, event: said.GroupTickQueued) -> None:
    state.group_queued = event.tick_at
    state.group_cursor = event.tick_at


def _group_ended(state: Plan, event: said.GroupTickEnded) -> None:
    state.runs = {run: vms for run, vms in state.runs.items() if run != event.run}


def _ticks_missed(state: Plan, event: said.TicksMissed) -> None:
    if state.group_cursor is None or state.group_cursor < event.last_at:
        state.group_cursor = event.last_at


def _checkpoint_requested(state: Plan, event: said.CheckpointRequested) -> None:
    entry = CheckpointEntry(
        created_at=event.requested_at,
        preserved=event.preserved,
        vms=event.vms,
        reverse=event.reverse,
    )
    state.checkpoints = {**state.checkpoints, event.checkpoint: entry}


def _checkpoint_recorded(state: Plan, event: said.CheckpointRecorded) -> None:
    others = {key: entry for key, entry in state.checkpoints.items() if key != event.checkpoint}
    entry = state.checkpoints.get(event.checkpoint)
    if entry is None or event.state in ("failed", "deleted"):
        state.checkpoints = others
        return
    kept: Literal["available", "expiring"] = (
        "available" if event.state == "available" else "expiring"
    )
    entry = msgspec.structs.replace(
        entry, state=kept, created_at=event.created_at, vms=event.vms or entry.vms
    )
    state.checkpoints = {**others, event.checkpoint: entry}


def _preservation(state: Plan, event: said.CheckpointPreservationChanged) -> None:
    entry = msgspec.structs.replace(state.checkpoints[event.checkpoint], preserved=event.preserved)
    state.checkpoints = {**state.checkpoints, event.checkpoint: entry}


def _recovery_requested(state: Plan, event: said.RecoveryRequested) -> None:
    held = "" if event.dry_run or event.checkpoint == "latest" else event.checkpoint
    entry = RecoveryEntry(
        mode=event.mode,
        vms=() if event.dry_run else event.vms,
        checkpoint=held,
        dry_run=event.dry_run,
        released=event.dry_run,
        parent=event.parent,
    )
    state.recoveries = {**state.recoveries, event.job: entry}
    _no_longer_awaited(state, event.job)


def _awaited(state: Plan, event: said_ops.RecoveryAwaited) -> None:
    state.awaited = {**state.awaited, event.request.job: event}


def _not_started(state: Plan, event: said_ops.RecoveryNotStarted) -> None:
    _no_longer_awaited(state, event.job)


def _no_longer_awaited(state: Plan, job: str) -> None:
    if job in state.awaited:
        state.awaited = {key: each for key, each in state.awaited.items() if key != job}


def _quarantined(state: Plan, event: said_ops.PlanQuarantined) -> None:
    state.quarantined = (*state.quarantined, event.site)


def _quarantine_ended(state: Plan, event: said_ops.PlanQuarantineEnded) -> None:
    state.quarantined = tuple(site for site in state.quarantined if site != event.site)


def _held_again(state: Plan, event: RecoveryHeldAgain) -> None:
    """An ended recovery goes on; of what it holds still nothing is forgotten."""
    before = state.recoveries.get(event.job)
    vms = before.vms if before is not None and not before.released else ()
    entry = RecoveryEntry(
        mode=event.mode,
        vms=(*vms, *(vm for vm in event.vms if vm not in vms)),
        checkpoint="" if event.checkpoint == "latest" else event.checkpoint,
    )
    state.recoveries = {**state.recoveries, event.job: entry}


def _recovery_recorded(state: Plan, event: said.RecoveryRecorded) -> None:
    _change_recovery(state, event.job, ended=True)


def _holds_released(state: Plan, event: said.RecoveryHoldsReleased) -> None:
    _change_recovery(state, event.job, released=True)


def _checkpoint_released(state: Plan, event: said.CheckpointHoldReleased) -> None:
    _change_recovery(state, event.job, checkpoint="")


def _search_requested(state: Plan, event: CleanPointSearchRequested) -> None:
    state.parents = {**state.parents, event.job: event.checkpoints}


def _group_requested(state: Plan, event: RecoveryGroupRequested) -> None:
    # A dry run holds nothing, like that of one plan.
    latest = event.dry_run or event.checkpoint == "latest"
    state.parents = {**state.parents, event.job: () if latest else (event.checkpoint,)}


def _parent_ended(state: Plan, event: ParentJobEnded) -> None:
    state.parents = {job: kept for job, kept in state.parents.items() if job != event.job}


def _judged(state: Plan, event: CheckpointJudged) -> None:
    """A verdict is for people: nothing here is decided by it."""


def _change_recovery(state: Plan, job: str, **changes: Any) -> None:
    """Change an entry; one that has ended and holds nothing is forgotten."""
    entry = state.recoveries.get(job)
    if entry is None:
        return
    entry = msgspec.structs.replace(entry, **changes)
    others = {key: other for key, other in state.recoveries.items() if key != job}
    over = entry.ended and entry.released and not entry.checkpoint
    state.recoveries = others if over else {**others, job: entry}


_APPLY: Final[dict[type, Callable[[Plan, Any], None]]] = {
    said.PlanApplicationRequested: _requested,
    said.PlanApplicationVms: _more_vms,
    said.PlanSiteInspected: _inspected,
    said.PlanApplicationRefused: _no_longer_pending,
    said.PlanUnchanged: _no_longer_pending,
    said.PlanApplied: _applied,
    said.PlanDeleted: _deleted,
    said.PlanPrioritised: _prioritised,
    said.GroupTickDispatched: _group_started,
    said.GroupTickQueued: _group_queued,
    said.GroupTickEnded: _group_ended,
    said.TicksMissed: _ticks_missed,
    said.CheckpointRequested: _checkpoint_requested,
    said.CheckpointRecorded: _checkpoint_recorded,
    said.CheckpointPreservationChanged: _preservation,
    said.RecoveryRequested: _recovery_requested,
    said.RecoveryRecorded: _recovery_recorded,
    RecoveryHeldAgain: _held_again,
    said.RecoveryHoldsReleased: _holds_released,
    said.CheckpointHoldReleased: _checkpoint_released,
    CleanPointSearchRequested: _search_requested,
    RecoveryGroupRequested: _group_requested,
    ParentJobEnded: _parent_ended,
    CheckpointJudged: _judged,
    said_ops.RecoveryAwaited: _awaited,
    said_ops.RecoveryNotStarted: _not_started,
    said_ops.PlanQuarantined: _quarantined,
    said_ops.PlanQuarantineEnded: _quarantine_ended,
}

FAMILY = Family(
    name="plan",
    state=Plan,
    initial=Plan,
    evolve=evolve,
    # A deleted plan's name may be used again, and its checkpoints stay: the stream never ends.
    is_terminal=lambda state: False,
    schema=2,
)
