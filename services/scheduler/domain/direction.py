"""Which way a VM is replicated, and how that is turned round.

Owns the rules over one VM's direction, and what a reversal and a committed failback do to it. The
steps of both are the recovery service's; holds and last syncs are as for all full recoveries.
Each direction has copies of its own: what was newest in one is remembered while the other stands.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from schemas import directions as said_dir
from schemas import scheduler as said
from schemas.directions import SourceInstance
from schemas.envelope import Received
from schemas.plans import RecoveryNetworks
from schemas.reversals import ReversalGroup, StartReversal
from services.scheduler.domain.grid import grid_for, next_tick
from services.scheduler.domain.membership import cancel_running, drop_queued, group_timer
from services.scheduler.domain.names import plan_stream, vm_stream, vm_streams
from services.scheduler.domain.patience import NotYet
from services.scheduler.domain.plan import Plan
from services.scheduler.domain.protected_vm import ProtectedVm, blocker, evolve, heading
from services.scheduler.domain.rpo import judge_rpo
from services.scheduler.domain.ticks import check_timer, dispatch, tick_timer
from shared.decider import Decision, Send, Timer
from shared.errors import Refused

REVERSAL: Final = "reversal"
"""The family of reversals' jobs."""

# ── Rules ────────────────────────────────────────────────────────────────────────────────────


def oriented(header: said.PlanHeader, *, reverse: bool) -> said.PlanHeader:
    """The header as the direction looks: `protected` is copied from, `recovery_site` to.

    Networks of the plan are names at its recovery site. At the other one a VM has its own.
    """
    if not reverse:
        return header
    networks = RecoveryNetworks(test=header.recovery.networks.test)
    return msgspec.structs.replace(
        header,
        protected=header.recovery_site,
        recovery_site=header.protected,
        recovery=msgspec.structs.replace(header.recovery, networks=networks),
    )


def common(members: Mapping[str, ProtectedVm]) -> bool:
    """Whether the VMs are replicated in reverse. Raises Refused `mixed-directions`."""
    reverse = [vm for vm, state in members.items() if heading(state).reverse]
    if not reverse or len(reverse) == len(members):
        return bool(reverse)
    raise Refused(
        f"{len(reverse)} of {len(members)} VMs are replicated in reverse, {reverse[0]!r} among "
        "them: no site has copies of all",
        code="mixed-directions",
        remedy="recover those of one direction: choose them with --vm",
    )


def check_reverse(m: said.Recover, members: Mapping[str, ProtectedVm]) -> None:
    """Raise Refused where VMs cannot become sources: `invalid`, `not-failed-over`,
    `already-reversed`; NotYet `awaits-commit`, `busy`."""
    if m.checkpoint != "latest" or m.last_sync is not None or m.source_gone or m.skip_scripts:
        raise Refused(
            "a reversal brings nothing up: it has no checkpoint, no last sync and no scripts of "
            "a recovery",
            code="invalid",
            remedy="leave --checkpoint, --last-sync, --source-gone and --skip-script out",
        )
    for vm, state in members.items():
        _check_away(m.plan, vm, state)
        if state.moved_by in state.holds:
            raise NotYet(
                f"{state.moved_by} of VM {vm!r} is neither committed nor rolled back",
                code="awaits-commit",
                remedy=f"`seawall commit {state.moved_by}` first",
            )
        if state.iteration:
            raise NotYet(
                f"VM {vm!r} is held by {state.iteration}",
                code="busy",
                remedy="wait for it to end",
            )


def _check_away(plan: str, vm: str, state: ProtectedVm) -> None:
    if state.moved:
        return
    if state.direction.reverse:
        raise Refused(
            f"VM {vm!r} is replicated in reverse already",
            code="already-reversed",
            remedy=f"`seawall recover {plan} --mode failback` brings it back to its own site",
        )
    raise Refused(
        f"VM {vm!r} runs where it is replicated from: there is nothing to reverse",
        code="not-failed-over",
        remedy=f"`seawall recover {plan} --mode failover` or `--mode migrate` comes first",
    )


def check_failback(m: said.Recover, members: Mapping[str, ProtectedVm]) -> None:
    """Raise Refused where VMs cannot go back: `invalid`, `not-reversed`."""
    if m.checkpoint != "latest" or m.last_sync is False or m.source_gone:
        raise Refused(
            "a failback shuts the instances down, copies them once more and takes that copy",
            code="invalid",
            remedy="leave --checkpoint, --no-last-sync and --source-gone out; where the site "
            "of the instances is gone, use --mode failover",
        )
    for vm, state in members.items():
        if state.direction.reverse:
            continue
        remedy = f"`seawall recover {m.plan} --mode reverse` comes first, and must complete"
        if not (state.moved or state.turning_by):
            remedy = "it is at its own site: there is nothing to bring back"
        # A reversal that has ended may not have been heard of yet.
        raise (NotYet if state.turning_by else Refused)(
            f"VM {vm!r} is not replicated in reverse", code="not-reversed", remedy=remedy
        )


def check_migration(plan: str, members: Mapping[str, ProtectedVm]) -> None:
    """Raise Refused `reversed` for VMs whose migration would be a failback."""
    for vm, state in members.items():
        if state.direction.reverse and not state.moved:
            raise Refused(
                f"VM {vm!r} is replicated in reverse: moving it on purpose is a failback",
                code="reversed",
                remedy=f"`seawall recover {plan} --mode failback`",
            )


def sources_of(members: Mapping[str, ProtectedVm]) -> tuple[SourceInstance, ...]:
    """The instances that VMs run as, where they are no VMs of a site's own."""
    return tuple(
        SourceInstance(vm, state.direction.instance, state.direction.made_by)
        for vm, state in members.items()
        if state.direction.instance
    )


# ── Reversal ─────────────────────────────────────────────────────────────────────────────────


def start_message(
    m: said.Recover, plan: Plan, members: Mapping[str, ProtectedVm], *, at: dt.datetime, actor: str
) -> Send:
    """Have the recovery service reverse VMs whose holds are taken."""
    assert plan.header is not None, "a plan that does not stand is refused before"
    groups: dict[str, list[str]] = {}
    for vm, state in members.items():
        groups.setdefault(state.moved_by, []).append(vm)
    reverse = not common(members)
    message = StartReversal(
        job=m.job,
        plan=m.plan,
        plan_version=plan.version,
        header=oriented(plan.header, reverse=reverse),
        groups=tuple(ReversalGroup(by, tuple(vms)) for by, vms in groups.items()),
        dry_run=m.dry_run,
        requested_at=at,
        actor=actor,
    )
    return Send(to="recovery", key=m.plan, message=message)


def streams_of_sources(states: Mapping[str, Any], received: Received) -> tuple[str, ...]:
    """The VMs whose sources are named."""
    m: said_dir.MarkDirection | said_dir.TurnVms = received.body
    return vm_streams(m.plan, (each.vm for each in m.sources))


def mark_direction(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Mark the other direction for VMs that the reversal holds; asked again, it is answered."""
    m: said_dir.MarkDirection = received.body
    stream = plan_stream(m.plan)
    plan: Plan = states[stream]
    answer = said_dir.DirectionMarked(job=m.job, count=len(m.sources))
    decisions = {stream: Decision(sends=(Send(to="recovery", key=m.plan, message=answer),))}
    if m.job not in plan.recoveries:
        return {}
    for source in m.sources:
        key = vm_stream(m.plan, source.vm)
        state: ProtectedVm = states[key]
        if state.turning_by != m.job and m.job in state.holds:
            decisions[key] = Decision(events=(_marked(state, m.job, source),))
    return decisions


def _marked(state: ProtectedVm, job: str, source: SourceInstance) -> said_dir.VmDirectionMarked:
    return said_dir.VmDirectionMarked(
        job=job,
        reverse=not state.direction.reverse,
        instance=source.instance,
        made_by=source.made_by,
        copy_at=state.elsewhere,
    )


def cancel_sync(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Have the iterations of a job end; those that wait for their turn do not begin."""
    m: said_dir.CancelSync = received.body
    entry = states[plan_stream(m.plan)].recoveries.get(m.job)
    decisions: dict[str, Decision] = {}
    checks: list[Timer] = []
    for vm in () if entry is None else entry.vms:
        key = vm_stream(m.plan, vm)
        state: ProtectedVm = states[key]
        if state.turning_by != m.job:
            continue
        sends = drop_queued(state, m.plan, vm)
        if state.queued_run:
            checks.append(check_timer(state.queued_run, received.at))
            decisions[key] = Decision(events=(said.VmStopped(),), sends=sends)
        elif state.iteration:
            cancelled = cancel_running(state, m.plan, reason="the reversal was cancelled")
            decisions[key] = Decision(sends=cancelled)
    if checks:
        decisions[plan_stream(m.plan)] = Decision(timers=tuple(checks))
    return decisions


def reversal_ended(
    states: Mapping[str, Any], m: said.RecoveryEnded, vms: tuple[str, ...], *, now: dt.datetime
) -> dict[str, Decision]:
    """The VMs whose copies were verified change roles; of the others nothing is left marked."""
    stream = plan_stream(m.plan)
    plan: Plan = states[stream]
    decisions: dict[str, Decision] = {}
    turned = False
    for vm in vms:
        key = vm_stream(m.plan, vm)
        state: ProtectedVm = states[key]
        if state.turning_by != m.job:
            continue
        if m.moved and vm not in m.stayed:
            turned = True
            event = said_dir.VmTurned(job=m.job)
            starts = state.moved_on and not plan.quarantined
            decisions[key] = _turn(state, (event,), starts=starts, now=now)
        else:
            dropped = said_dir.VmDirectionDropped(job=m.job, copy_at=state.elsewhere)
            decisions[key] = Decision(events=(dropped,))
    if turned and plan.header is not None and plan.header.replication.synchronize:
        due = next_tick(grid_for(plan.header.replication), now)
        decisions[stream] = Decision(timers=(group_timer(due),))
    return decisions


# ── Failback ─────────────────────────────────────────────────────────────────────────────────


def turn_vms(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """A committed failback: replication goes the original way again, at once.

    What the target has is from before the VMs left it: all of it is compared.
    """
    m: said_dir.TurnVms = received.body
    stream = plan_stream(m.plan)
    plan: Plan = states[stream]
    decisions: dict[str, Decision] = {}
    for source in m.sources:
        key = vm_stream(m.plan, source.vm)
        state: ProtectedVm = states[key]
        if state.moved_by != m.job:
            continue
        marked = _marked(state, m.job, source)
        events = (marked, said_dir.VmTurned(job=m.job))
        starts = state.moved_on and not plan.quarantined
        decisions[key] = _turn(state, events, starts=starts, now=received.at)
    if decisions and plan.header is not None and plan.header.replication.synchronize:
        decisions[stream] = Decision(timers=(group_timer(received.at),))
    return decisions


def _turn(
    state: ProtectedVm, events: tuple[Any, ...], *, starts: bool, now: dt.datetime
) -> Decision:
    """The direction stands, and replication is on again if it was. Where the copy of this
    direction is from before, the iteration that brings it up to date does not wait for the grid.
    """
    setup = state.setup
    if setup is None or not state.protected:
        return Decision(events=events)
    after = msgspec.structs.replace(state)
    for event in events:
        evolve(after, event)
    judged, timers = judge_rpo(setup, newest=after.last_checkpoint_at, breached=False, now=now)
    events = (*events, *judged)
    if not starts:
        return Decision(events=events, timers=timers)
    due = next_tick(grid_for(setup.replication, vm=setup.vm), now)
    started = said.VmStarted(next_due_at=due)
    events = (*events, started)
    if setup.replication.synchronize:
        return Decision(events=events, timers=timers)
    timers += (tick_timer(due),)
    if not after.sync.resync or blocker(after):
        return Decision(events=events, timers=timers)
    evolve(after, started)
    first, send = dispatch(after, setup, tick_at=now, next_due_at=due, sync=after.sync)
    return Decision(events=(*events, first), sends=(send,), timers=timers)


def homeward(m: said.Recover, members: Mapping[str, ProtectedVm]) -> bool:
    """Whether a recovery brings VMs up at the site that their plan protects, for good."""
    return m.mode != "test" and common(members)
