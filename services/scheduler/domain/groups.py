"""Iterations that start together: the ticks of a synchronized plan, and `plan run`.

A group is a run: its members' iterations share the run's id. The next tick of the plan waits for
the slowest member of the groups under way. No event is written per member: each end asks, by a
timer that a whole batch shares, whether it was the last.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

from schemas import scheduler as said
from schemas.envelope import Received
from schemas.replicator import StartRun
from services.scheduler.domain.grid import VmClock, advance, grid_for
from services.scheduler.domain.membership import group_timer
from services.scheduler.domain.moves import at_home, check_quarantine
from services.scheduler.domain.names import (
    operation_of,
    plan_stream,
    run_id,
    vm_stream,
    vm_streams,
)
from services.scheduler.domain.plan import Plan, all_vm_streams, chosen_vms, standing
from services.scheduler.domain.protected_vm import ProtectedVm, blocker
from services.scheduler.domain.ticks import dispatch, missed_ticks, tick_script
from shared.decider import NOTHING, Decision, Send
from shared.errors import Refused


def group_tick_due(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """A tick of a synchronized plan: start the group, queue the tick, or look again later."""
    stream = received.stream
    plan: Plan = states[stream]
    if plan.header is None or not plan.header.replication.synchronize:
        return {}
    return _tick(states, stream, plan, under_way=bool(plan.runs), now=received.at)


def group_check_due(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """A member ended: when it was the slowest, the group ends and a queued tick starts."""
    m: said.GroupCheckDue = received.body
    stream = received.stream
    plan: Plan = states[stream]
    if m.run not in plan.runs or _alive(states, m.run):
        return {}
    ended = Decision(events=(said.GroupTickEnded(run=m.run),))
    if plan.group_queued is None or len(plan.runs) > 1 or plan.header is None:
        return {stream: ended}
    decisions = dict(_tick(states, stream, plan, under_way=False, now=received.at))
    after = decisions.get(stream, NOTHING)
    decisions[stream] = Decision(
        events=ended.events + after.events, sends=after.sends, timers=after.timers
    )
    return decisions


def run_plan(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Replicate now, on the grid or off, started or stopped, in a blackout too."""
    m: said.RunPlan = received.body
    stream = plan_stream(m.plan)
    plan: Plan = states[stream]
    header = standing(plan, m.plan, expected_version=m.expected_version)
    check_quarantine(plan, m.plan)
    vms = at_home(states, m.plan, chosen_vms(plan, m.plan, m.vms), named=bool(m.vms))
    if m.job in plan.runs:
        return {}
    for vm in vms:
        state: ProtectedVm = states[vm_stream(m.plan, vm)]
        if state.queued_run:
            raise Refused(
                f"VM {vm!r} already waits for its turn in {state.queued_run}",
                code="busy",
                remedy="wait for that run to start",
            )
    return _start(states, stream, header, run=m.job, tick_at=received.at, vms=vms)


def streams_of_plan(states: Mapping[str, Any], received: Received) -> tuple[str, ...]:
    """All VMs of the plan whose stream the message concerns."""
    ((_, plan),) = states.items()
    header = plan.header
    return () if header is None else all_vm_streams(plan, header.name)


def streams_of_run(states: Mapping[str, Any], received: Received) -> tuple[str, ...]:
    """The members of a run, and all VMs where a tick is queued behind it."""
    m: said.GroupCheckDue = received.body
    ((_, plan),) = states.items()
    members = plan.runs.get(m.run, ())
    if plan.header is not None and plan.group_queued is not None:
        members = tuple(dict.fromkeys((*members, *plan.vms)))
    return vm_streams(received.stream.split(":", 2)[1], members)


def _tick(
    states: Mapping[str, Any], stream: str, plan: Plan, *, under_way: bool, now: dt.datetime
) -> Mapping[str, Decision]:
    header = plan.header
    assert header is not None
    if under_way and plan.group_queued is not None:
        return {}
    members = [vm for vm in plan.vms if states[vm_stream(header.name, vm)].on]
    if not members:
        # Starting the plan, or one of its VMs, looks at the grid again.
        return {}
    grid = grid_for(header.replication)
    cursor = now if plan.group_cursor is None else plan.group_cursor
    ahead = advance(
        grid,
        VmClock(cursor=cursor, running=under_way, queued=plan.group_queued),
        now=now,
        blackouts=header.replication.blackouts,
    )
    if under_way:
        if ahead.clock.queued is None:
            return {stream: Decision(timers=(group_timer(ahead.wake_at),))}
        return _queue(states, stream, header.name, members, tick_at=ahead.clock.queued)
    timers = (group_timer(ahead.wake_at),)
    if ahead.start is None:
        return {stream: Decision(timers=timers)}
    decisions = _start(
        states,
        stream,
        header,
        run=run_id(header.name, ahead.start),
        tick_at=ahead.start,
        vms=members,
        next_due_at=ahead.wake_at,
    )
    group = decisions[stream]
    missed = missed_ticks(grid, ahead, cursor=cursor, now=now)
    decisions[stream] = Decision(events=(*missed, *group.events), sends=group.sends, timers=timers)
    return decisions


def _start(
    states: Mapping[str, Any],
    stream: str,
    header: said.PlanHeader,
    *,
    run: str,
    tick_at: dt.datetime,
    vms: Iterable[str],
    next_due_at: dt.datetime | None = None,
) -> dict[str, Decision]:
    """Open the run and start its members; a busy one starts when what it does has ended.

    The plan's own decision comes first: the run's message goes out before its members'.
    """
    members = tuple(vms)
    started = said.GroupTickDispatched(
        run=run, tick_at=tick_at, vms=members, next_due_at=next_due_at
    )
    message = start_run(header, run=run, tick_at=tick_at, vms=members)
    send = Send(to="replicator", key=header.name, message=message)
    decisions = {stream: Decision(events=(started,), sends=(send,))}
    for vm in members:
        key = vm_stream(header.name, vm)
        decisions[key] = _start_member(states[key], message, next_due_at=next_due_at)
    return decisions


def _start_member(
    state: ProtectedVm, start: StartRun, *, next_due_at: dt.datetime | None
) -> Decision:
    """A member's iteration, or its place in the queue: with a gate where the run has one now."""
    run, tick_at, gated = start.run, start.tick_at, start.pre_script is not None
    setup = state.setup
    assert setup is not None
    behind = blocker(state)
    if behind:
        queued = said.TickQueued(tick_at=tick_at, behind=behind, run=run, gated=gated)
        return Decision(events=(queued,))
    event, send = dispatch(
        state,
        setup,
        tick_at=tick_at,
        next_due_at=next_due_at,
        run=run,
        sync=state.sync,
        gated=gated,
    )
    return Decision(events=(event,), sends=(send,))


def start_run(
    header: said.PlanHeader, *, run: str, tick_at: dt.datetime, vms: tuple[str, ...]
) -> StartRun:
    """The message that opens a run, sent before those of its members."""
    operation = operation_of(run)
    # Iterations are named after their run: listing thousands of ids would not fit a message.
    return StartRun(
        run=run,
        plan=header.name,
        tick_at=tick_at,
        vms=vms,
        iterations=(),
        pre_script=tick_script(header.replication.pre_script, operation),
        post_script=tick_script(header.replication.post_script, operation),
        operation=operation,
    )


def _queue(
    states: Mapping[str, Any], stream: str, plan: str, members: list[str], *, tick_at: dt.datetime
) -> dict[str, Decision]:
    """The tick waits; the VMs it waits for have exceeded the interval."""
    queued = said.GroupTickQueued(tick_at=tick_at)
    decisions = {stream: Decision(events=(queued,))}
    for vm in members:
        key = vm_stream(plan, vm)
        state: ProtectedVm = states[key]
        if state.iteration and not state.sync.exceeded:
            slow = said.TickQueued(
                tick_at=tick_at, behind=state.iteration, run=state.run, group=True
            )
            decisions[key] = Decision(events=(slow,))
    return decisions


def _alive(states: Mapping[str, Any], run: str) -> bool:
    """Whether a member of the run still runs or waits for its turn."""
    return any(
        isinstance(state, ProtectedVm) and run in (state.run, state.queued_run)
        for state in states.values()
    )
