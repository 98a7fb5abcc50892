"""Full recoveries: how they get VMs that are being replicated, their last sync, who runs where.

Decides, with all VMs of a recovery at once: whether iterations are cancelled and waited for, the
last iterations under the recovery's own hold, and what of replication stands afterwards. What all
recoveries have in common is in `recoveries`; steps are the recovery service's.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from schemas import scheduler as said
from schemas import scheduler_operations as said_ops
from schemas.common import Problem
from schemas.envelope import Received
from schemas.ids import family_of
from schemas.replicator import StartRun
from services.scheduler.domain import direction
from services.scheduler.domain.answers import refused_by
from services.scheduler.domain.checkpoints import tidy
from services.scheduler.domain.grid import grid_for, next_tick
from services.scheduler.domain.groups import start_run
from services.scheduler.domain.holds import MODES
from services.scheduler.domain.membership import cancel_running, drop_queued, group_timer
from services.scheduler.domain.moves import moved_elsewhere
from services.scheduler.domain.names import (
    key_of_job,
    last_sync_run,
    plan_stream,
    vm_stream,
    vm_streams,
)
from services.scheduler.domain.plan import Plan
from services.scheduler.domain.protected_vm import ProtectedVm
from services.scheduler.domain.rpo import RPO_TIMER, judge_rpo
from services.scheduler.domain.ticks import (
    TICK_TIMER,
    check_timer,
    start_queued,
    tick_timer,
)
from shared.decider import Decision, Send, Timer
from shared.errors import Refused

MOVES: Final[Mapping[said.RecoveryMode, said_ops.Moved]] = {
    "failover": "failed-over",
    "migrate": "migrated",
    # A migration the other way: the direction says which.
    "failback": "migrated",
}
"""What the VMs of a full recovery are when it has ended."""

UNDONE_BY_THEMSELVES: Final[frozenset[said.RecoveryMode]] = frozenset({"test", "migrate"})
"""Modes that may be (product.md §5)."""

RELEASE_S_MAX: Final = 60.0
"""How long cancelled iterations may take to let their VMs go (architecture.md §3, Holds)."""


# ── What is asked ────────────────────────────────────────────────────────────────────────────


def check(m: said.Recover, members: Mapping[str, ProtectedVm]) -> None:
    """Raise Refused where a full recovery cannot be what is asked: `invalid`, `failed-over`,
    `migrated`, `reversed`, `not-reversed`, and as `direction.check_reverse`."""
    if (m.mode == "reverse") != (family_of(m.job) == direction.REVERSAL):
        raise Refused(
            f"{m.job} is no job of mode {m.mode!r}",
            code="invalid",
            remedy="ask again by a gateway of this version",
        )
    if m.auto_rollback and m.mode not in UNDONE_BY_THEMSELVES:
        raise Refused(
            f"a recovery in mode {m.mode!r} is never rolled back by itself: its sources may be "
            "gone",
            code="invalid",
            remedy="leave --auto-rollback out; `seawall rollback` is yours to give",
        )
    if m.mode == "test":
        _check_test(m)
        return
    if m.mode == "reverse":
        direction.check_reverse(m, members)
        return
    if m.mode == "migrate":
        _check_migration(m)
        direction.check_migration(m.plan, members)
    if m.mode == "failback":
        direction.check_failback(m, members)
    for state in members.values():
        if state.moved:
            raise moved_elsewhere(state)


def _check_test(m: said.Recover) -> None:
    if m.last_sync or m.source_gone:
        raise Refused(
            "a test recovery leaves its sources alone: it has no last sync and shuts nothing down",
            code="invalid",
            remedy="leave --last-sync and --source-gone out, or choose another mode",
        )


def _check_migration(m: said.Recover) -> None:
    if m.checkpoint != "latest":
        raise Refused(
            "a migration takes the latest copy: nothing that was written may be lost",
            code="invalid",
            remedy="leave --checkpoint out, or fail over to the checkpoint with --mode failover",
        )
    if m.last_sync is False or m.source_gone:
        raise Refused(
            "a migration shuts its sources down and copies them once more",
            code="invalid",
            remedy="use --mode failover where the sources are gone or the last sync is unwanted",
        )


def rolls_back_by_itself(m: said.Recover, header: said.PlanHeader) -> bool:
    """Whether it is undone where a VM does not come up: as the operator says, else the plan."""
    if m.mode not in UNDONE_BY_THEMSELVES:
        return False
    return header.recovery.auto_rollback if m.auto_rollback is None else m.auto_rollback


def syncs_last(m: said.Recover) -> bool:
    """Whether the sources are copied once more: unless said otherwise, for the latest copy.

    A point in time is chosen because what came after it is not wanted.
    """
    if m.mode in ("test", "reverse"):
        return False
    return m.checkpoint == "latest" if m.last_sync is None else m.last_sync


# ── Waiting for iterations ───────────────────────────────────────────────────────────────────


def must_wait(m: said.Recover, members: Mapping[str, ProtectedVm]) -> bool:
    """Whether running iterations are in the way. With a last sync they may end by themselves."""
    if m.mode in ("test", "reverse") or syncs_last(m):
        return False
    return any(state.iteration for state in members.values())


def wait(
    m: said.Recover,
    members: Mapping[str, ProtectedVm],
    received: Received,
    *,
    asked_at: dt.datetime,
) -> dict[str, Decision]:
    """Cancel the iterations; no newer one starts, and the command is answered when they end."""
    until = received.at + dt.timedelta(seconds=RELEASE_S_MAX)
    awaited = said_ops.RecoveryAwaited(
        # Names stand once: twice two thousand would not fit one event.
        request=msgspec.structs.replace(m, put_off=None, vms=()),
        vms=tuple(members),
        asked_at=asked_at,
        until=until,
        actor=received.meta.actor,
    )
    deadline = Timer(name=deadline_timer(m.job), due=until, message=said.ClaimDue(job=m.job))
    decisions = {plan_stream(m.plan): Decision(events=(awaited,), timers=(deadline,), defer=True)}
    claim = said_ops.HoldQueued(job=m.job, modes=MODES[m.mode])
    for vm, state in members.items():
        decisions[vm_stream(m.plan, vm)] = Decision(
            events=(claim,),
            sends=cancel_running(state, m.plan, reason=f"a {m.mode} takes the VM over"),
        )
    return decisions


def deadline_timer(job: str) -> str:
    """The name of the timer that ends the wait for a recovery's holds."""
    return f"claim-deadline-{key_of_job(job)}"


def streams_awaited(states: Mapping[str, Any], received: Received) -> tuple[str, ...]:
    """The VMs that a recovery waits for."""
    m: said.ClaimDue = received.body
    ((_, plan),) = states.items()
    awaited = plan.awaited.get(m.job)
    return () if awaited is None else vm_streams(awaited.request.plan, awaited.vms)


def give_up(
    plan: Plan,
    awaited: said_ops.RecoveryAwaited,
    members: Mapping[str, ProtectedVm],
    *,
    now: dt.datetime,
) -> dict[str, Decision]:
    """The iterations did not end in time: the recovery is refused."""
    vm, holder = next((vm, state.iteration) for vm, state in members.items() if state.iteration)
    problem = Problem(
        code="busy",
        message=f"VM {vm!r} is held by {holder}, which did not end within "
        f"{RELEASE_S_MAX:.0f} s of being cancelled",
        remedy=f"see `seawall job show {holder}`, then try again",
    )
    return not_started(plan, awaited, members, problem, now=now)


def not_started(
    plan: Plan,
    awaited: said_ops.RecoveryAwaited,
    members: Mapping[str, ProtectedVm],
    problem: Problem,
    *,
    now: dt.datetime,
) -> dict[str, Decision]:
    """A recovery that waited is refused: VMs go on as before, its checkpoint may expire."""
    m = awaited.request
    stream = plan_stream(m.plan)
    tidied = tidy(plan, plan.checkpoints, now=now, released=m.job)
    decisions = {
        stream: Decision(
            events=(said_ops.RecoveryNotStarted(job=m.job, problem=problem), *tidied.events),
            sends=tidied.sends,
            timers=tidied.timers,
            answers=(refused_by(m.command_id, problem, stream=stream),),
            cancel_timers=(deadline_timer(m.job),),
        )
    }
    for name, state in members.items():
        decisions[vm_stream(m.plan, name)] = _unclaimed(state, m.job, now=now)
    return decisions


def _unclaimed(state: ProtectedVm, job: str, *, now: dt.datetime) -> Decision:
    dropped = said_ops.HoldDropped(job=job)
    if state.iteration:
        return Decision(events=(dropped,))
    follow = start_queued(state, sync=state.sync, now=now)
    return Decision(events=(dropped, *follow.events), sends=follow.sends, timers=follow.timers)


# ── The last sync ────────────────────────────────────────────────────────────────────────────


def sync_last(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Start the last iterations of a recovery's VMs, as one run; those that run end first.

    An iteration whose source is gone is cancelled and not waited for: the recovery reads from a
    copy that it holds, whatever is finalized meanwhile.
    """
    m: said.SyncLast = received.body
    stream = plan_stream(m.plan)
    plan: Plan = states[stream]
    entry = plan.recoveries.get(m.job)
    if entry is None or entry.synced or plan.header is None:
        return {}
    decisions: dict[str, Decision] = {}
    for vm in entry.vms:
        if vm not in m.vms:
            sends = cancel_running(
                states[vm_stream(m.plan, vm)], m.plan, reason="its site is gone"
            )
            decisions[vm_stream(m.plan, vm)] = Decision(sends=sends)
    if not m.vms:
        return decisions
    run = last_sync_run(m.job, entry.mode)
    started = said.GroupTickDispatched(run=run, tick_at=received.at, vms=m.vms)
    message = start_run(plan.header, run=run, tick_at=received.at, vms=m.vms)
    checks: list[Timer] = []
    opened: dict[str, Decision] = {}
    for vm in m.vms:
        state: ProtectedVm = states[vm_stream(m.plan, vm)]
        if state.queued_run:
            checks.append(check_timer(state.queued_run, received.at))
        opened[vm_stream(m.plan, vm)] = _last(state, message, vm)
    send = Send(to="replicator", key=m.plan, message=message)
    # The run's message goes out before its members'.
    whole = Decision(events=(started,), sends=(send,), timers=tuple(checks))
    return {stream: whole, **decisions, **opened}


def _last(state: ProtectedVm, start: StartRun, vm: str) -> Decision:
    dropped = drop_queued(state, start.plan, vm)
    now, gated = start.tick_at, start.pre_script is not None
    if state.iteration:
        queued = said.TickQueued(tick_at=now, behind=state.iteration, run=start.run, gated=gated)
        return Decision(events=(queued,), sends=dropped)
    waiting = msgspec.structs.replace(
        state, queued_at=now, queued_run=start.run, queued_gated=gated
    )
    # Unlike a tick that waited, it belongs to the story of the recovery.
    started = start_queued(waiting, sync=state.sync, now=now, story=None)
    return msgspec.structs.replace(started, sends=(*dropped, *started.sends))


# ── Afterwards ───────────────────────────────────────────────────────────────────────────────


def move_out(state: ProtectedVm, m: said.RecoveryEnded, *, vm: str) -> Decision:
    """The VM runs elsewhere now: its replication ends."""
    moved = said_ops.VmMoved(job=m.job, to=MOVES[m.mode], was_on=state.on)
    events: tuple[Any, ...] = (moved,)
    if state.on or state.queued_at is not None:
        events = (said.VmStopped(), moved)
    if state.rpo_breached:
        # It has no copy that could be too old: it is its own original.
        events += (said.RpoRestored(plan=m.plan, vm=vm),)
    sends = (
        *drop_queued(state, m.plan, vm),
        *cancel_running(state, m.plan, reason="the VM runs elsewhere now"),
    )
    return Decision(events=events, sends=sends, cancel_timers=(TICK_TIMER, RPO_TIMER))


def return_vms(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """A recovery was rolled back, or committed without these VMs: they are replicated again,
    unless a site is quarantined."""
    m: said.ReturnVms = received.body
    stream = plan_stream(m.plan)
    plan: Plan = states[stream]
    entry = plan.recoveries.get(m.job)
    if entry is None or plan.header is None:
        return {}
    decisions: dict[str, Decision] = {}
    for vm in entry.vms:
        key = vm_stream(m.plan, vm)
        state: ProtectedVm = states[key]
        if state.moved_by == m.job and (not m.vms or vm in m.vms):
            decisions[key] = _return(state, plan, m.job, now=received.at)
    synchronized = plan.header.replication.synchronize
    if synchronized and any(_starts(each) for each in decisions.values()):
        decisions[stream] = Decision(timers=(group_timer(received.at),))
    return decisions


def _return(state: ProtectedVm, plan: Plan, job: str, *, now: dt.datetime) -> Decision:
    returned = said_ops.VmReturned(job=job)
    setup = state.setup
    if setup is None or not state.protected:
        return Decision(events=(returned,))
    judged, timers = judge_rpo(setup, newest=state.last_checkpoint_at, breached=False, now=now)
    events: tuple[Any, ...] = (returned, *judged)
    if not state.moved_on or plan.quarantined:
        return Decision(events=events, timers=timers)
    started = said.VmStarted(next_due_at=next_tick(grid_for(setup.replication, vm=setup.vm), now))
    if not setup.replication.synchronize:
        # As after any stop: what was missed meanwhile is caught up once.
        timers += (tick_timer(now),)
    return Decision(events=(*events, started), timers=timers)


def _starts(decision: Decision) -> bool:
    return any(isinstance(event, said.VmStarted) for event in decision.events)
