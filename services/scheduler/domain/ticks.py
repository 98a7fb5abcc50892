"""Iterations of one VM: a tick starts one, or is queued behind the running one; its end.

Reconciler over the grid (product.md §2). A routine iteration is one event and one message when
it starts and one event when it ends. What a synchronized plan starts together is in `groups`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from schemas.envelope import Received
from schemas.operations import LastSyncEnded
from schemas.plans import Operation, ScriptDefinition
from schemas.replicator import StartIteration
from schemas.scheduler import (
    ClaimDue,
    GroupCheckDue,
    IterationDispatched,
    IterationEnded,
    IterationRecorded,
    TickDue,
    TickQueued,
    TicksMissed,
    VmProtected,
)
from schemas.sync_state import SyncFacts, fold_sync, needs_full
from services.scheduler.domain.grid import (
    Advance,
    Grid,
    VmClock,
    advance,
    due_count,
    from_us,
    grid_for,
    last_tick,
    next_tick,
    to_us,
)
from services.scheduler.domain.names import (
    iteration_id,
    key_of_job,
    operation_of,
    plan_stream,
    recovery_of,
    tick_id,
    tick_of_run,
    vm_stream,
)
from services.scheduler.domain.protected_vm import (
    ProtectedVm,
    blocker,
    copy_taken_by,
    heading,
    priority_of,
)
from services.scheduler.domain.rpo import judge_rpo
from shared.decider import NEW_STORY, NOTHING, Decision, Send, Story, Timer

TICK_TIMER: Final = "tick"
CHECK_TIMER: Final = "group-check"


def tick_due(state: ProtectedVm, received: Received) -> Decision:
    """A tick of one VM: start its iteration, queue the tick, or look again later."""
    setup = state.setup
    if setup is None or not state.on or setup.replication.synchronize:
        return NOTHING
    behind = blocker(state)
    if behind and state.queued_at is not None:
        # The end of what it waits for looks at the grid again.
        return NOTHING
    if state.queued_at is not None:
        return start_queued(state, sync=state.sync, now=received.at)
    grid = grid_for(setup.replication, vm=setup.vm)
    now = received.at
    cursor = now if state.cursor is None else state.cursor
    ahead = advance(
        grid,
        VmClock(cursor=cursor, running=bool(behind)),
        now=now,
        blackouts=setup.replication.blackouts,
    )
    if behind:
        if ahead.clock.queued is None:
            return Decision(timers=(tick_timer(ahead.wake_at),))
        return Decision(events=(TickQueued(tick_at=ahead.clock.queued, behind=behind),))
    timers = (tick_timer(ahead.wake_at),)
    if ahead.start is None:
        return Decision(timers=timers)
    started, send = dispatch(
        state,
        setup,
        tick_at=ahead.start,
        next_due_at=ahead.wake_at,
        missed=ahead.missed_count,
        sync=state.sync,
    )
    events = (*missed_ticks(grid, ahead, cursor=cursor, now=now), started)
    return Decision(events=events, sends=(send,), timers=timers)


def iteration_ended(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """An iteration ended: record it, judge the RPO, start what was queued, tell its group."""
    m: IterationEnded = received.body
    stream = vm_stream(m.plan, m.vm)
    state: ProtectedVm = states[stream]
    if not m.iteration or state.iteration != m.iteration:
        return {}
    decisions = {stream: _end(state, m, now=received.at)}
    timers: tuple[Timer, ...] = ()
    if state.run:
        timers += (check_timer(state.run, received.at),)
    if state.claim:
        timers += (claim_timer(state.claim, received.at),)
    if timers:
        decisions[plan_stream(m.plan)] = Decision(timers=timers)
    return decisions


def dispatch(
    state: ProtectedVm,
    setup: VmProtected,
    *,
    tick_at: dt.datetime,
    sync: SyncFacts,
    next_due_at: dt.datetime | None = None,
    run: str = "",
    missed: int = 0,
    story: Story | None = None,
    gated: bool | None = None,
) -> tuple[IterationDispatched, Send]:
    """The event and the message that start an iteration. `run` is the group it belongs to.

    `gated`: whether that began with a pre-script; None where it is not known, as of runs that a
    build before began: then it is what the plan says now.
    """
    iteration = iteration_id(setup.plan, setup.vm, tick_of_run(run) if run else tick_id(tick_at))
    full = needs_full(sync)
    operation = operation_of(run)
    if gated is None:
        gated = tick_script(setup.replication.pre_script, operation) is not None
    way = heading(state)
    sites = (setup.protected, setup.recovery_site)
    source, target = sites[::-1] if way.reverse else sites
    event = IterationDispatched(
        iteration=iteration,
        tick_at=tick_at,
        due_at=tick_at,
        next_due_at=next_due_at,
        run=run,
        missed=missed,
    )
    message = StartIteration(
        iteration=iteration,
        plan=setup.plan,
        plan_version=setup.plan_version,
        vm=setup.vm,
        tick_at=tick_at,
        due_at=tick_at,
        protected=source,
        recovery_site=target,
        definition=setup.definition,
        replication=setup.replication,
        priority=priority_of(state, setup),
        full=full,
        resync=full and sync.has_copy,
        run=run,
        gated=bool(run) and gated,
        operation=operation,
        instance=way.instance,
        reverse=way.reverse,
    )
    return event, Send(to="replicator", key=setup.plan, message=message, story=story)


def tick_script(
    script: ScriptDefinition | None, operation: Operation = "replication"
) -> ScriptDefinition | None:
    """A plan's script, where it is to run around ticks, or around a recovery's last sync."""
    return script if script is not None and operation in script.operations else None


def tick_timer(due: dt.datetime) -> Timer:
    """Look at the VM's grid at `due`."""
    return Timer(name=TICK_TIMER, due=due, message=TickDue(tick_at=due), story=NEW_STORY)


def check_timer(run: str, due: dt.datetime) -> Timer:
    """See whether a run is over: one of its members ended, or will not come."""
    name = f"{CHECK_TIMER}-{tick_of_run(run)}"
    return Timer(name=name, due=due, message=GroupCheckDue(run=run))


def claim_timer(job: str, due: dt.datetime) -> Timer:
    """See whether a recovery that waits for its holds can have them."""
    return Timer(name=f"claim-{key_of_job(job)}", due=due, message=ClaimDue(job=job))


def missed_ticks(
    grid: Grid, ahead: Advance, *, cursor: dt.datetime, now: dt.datetime
) -> tuple[TicksMissed, ...]:
    """The report of ticks since `cursor` that did not run at their time, where there are any."""
    count = ahead.missed_count + ahead.catch_up
    last = last_tick(grid, now)
    if count == 0 or last is None:
        return ()
    if not ahead.catch_up and ahead.start == last:
        last = from_us(to_us(last) - grid.interval_us)
    first = next_tick(grid, cursor)
    return (TicksMissed(count=count, first_at=first, last_at=last, caught_up=ahead.catch_up),)


def _end(state: ProtectedVm, m: IterationEnded, *, now: dt.datetime) -> Decision:
    recorded = IterationRecorded(
        iteration=m.iteration,
        state=m.state,
        checkpoint_at=m.checkpoint_at,
        resync=m.resync,
        problem=m.problem,
    )
    events: tuple[Any, ...] = (recorded,)
    timers: tuple[Timer, ...] = ()
    sends = _last_sync_news(state, m)
    if m.checkpoint_at is not None and state.protected and state.setup is not None:
        newest = m.checkpoint_at
        changed, timers = judge_rpo(
            state.setup, newest=newest, breached=state.rpo_breached, now=now
        )
        events += changed
    if state.queued_at is None or copy_taken_by(state, but=recovery_of(state.queued_run)):
        return Decision(events=events, timers=timers, sends=sends)
    follow = start_queued(state, sync=fold_sync(state.sync, recorded), now=now)
    return Decision(
        events=events + follow.events,
        timers=timers + follow.timers,
        sends=(*sends, *follow.sends),
    )


def _last_sync_news(state: ProtectedVm, m: IterationEnded) -> tuple[Send, ...]:
    """The recovery whose last sync the iteration was hears how it ended."""
    job = recovery_of(state.run)
    if not job:
        return ()
    ended = LastSyncEnded(
        job=job, vm=m.vm, state=m.state, checkpoint_at=m.checkpoint_at, problem=m.problem
    )
    return (Send(to="recovery", key=m.plan, message=ended),)


def start_queued(
    state: ProtectedVm,
    *,
    sync: SyncFacts,
    now: dt.datetime,
    story: Story | None = NEW_STORY,
) -> Decision:
    """Start the tick that waited for the VM; the caller has seen that nothing blocks it now.

    The operator's *run now* starts inside a blackout too; a grid tick waits for its end.
    """
    setup = state.setup
    if setup is None or state.queued_at is None:
        return NOTHING
    grid = grid_for(setup.replication, vm=setup.vm)
    by_grid = state.on and not setup.replication.synchronize
    if state.queued_run:
        on_grid = grid if by_grid else None
        return _start_queued_run(state, setup, grid=on_grid, sync=sync, now=now, story=story)
    if not by_grid:
        return NOTHING
    cursor = state.queued_at if state.cursor is None else state.cursor
    ahead = advance(
        grid,
        VmClock(cursor=cursor, queued=state.queued_at),
        now=now,
        blackouts=setup.replication.blackouts,
    )
    timers = (tick_timer(ahead.wake_at),)
    if ahead.start is None:
        return Decision(timers=timers)
    started, send = dispatch(
        state,
        setup,
        tick_at=ahead.start,
        next_due_at=ahead.wake_at,
        missed=ahead.missed_count,
        sync=sync,
        story=NEW_STORY,
    )
    missed = missed_ticks(grid, ahead, cursor=cursor, now=now)
    return Decision(events=(*missed, started), sends=(send,), timers=timers)


def _start_queued_run(
    state: ProtectedVm,
    setup: VmProtected,
    *,
    grid: Grid | None,
    sync: SyncFacts,
    now: dt.datetime,
    story: Story | None,
) -> Decision:
    assert state.queued_at is not None
    missed, next_due_at = 0, None
    timers: tuple[Timer, ...] = ()
    if grid is not None and state.cursor is not None:
        # The run stands for one grid tick that fell due while it waited.
        missed = max(due_count(grid, after=state.cursor, until=now) - 1, 0)
        next_due_at = next_tick(grid, max(now, state.cursor))
        timers = (tick_timer(next_due_at),)
    started, send = dispatch(
        state,
        setup,
        tick_at=state.queued_at,
        next_due_at=next_due_at,
        run=state.queued_run,
        missed=missed,
        sync=sync,
        story=story,
        gated=state.queued_gated,
    )
    return Decision(events=(started,), sends=(send,), timers=timers)
