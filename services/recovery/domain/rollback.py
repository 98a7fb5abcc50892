"""Roll back: the instances of a full recovery go, its sources come back, replication goes on.

Saga. Decides the order: instances are off and proven gone before any source is switched on, so
that no VM runs twice. Removing them is a cleanup's, switching a source on is the source's own undo
(`operations.source`), replicating again is the scheduler's. What could not be undone may be tried
again by another roll back, which finds done what was done.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from schemas import operations as said
from schemas.common import Problem, StepState, StepTiming
from schemas.envelope import Received
from schemas.ids import family_of, parts_of, stream_id
from schemas.recovery import BeginCleanup, RecoveryState
from schemas.scheduler import ReturnVms
from services.recovery.domain import commit_window, refusals
from services.recovery.domain.operations.source import source_stream
from services.recovery.domain.recovery_state import Recovery, told
from shared.decider import NOTHING, Decision, Family, Send
from shared.errors import Refused

# ── Parameters ───────────────────────────────────────────────────────────────────────────────

DEFINITION_VERSION: Final = 1
REMOVE: Final = "remove-instances"
POWER_ON: Final = "power-on-sources"
STEPS: Final = (REMOVE, POWER_ON)
DISCARDS_MAX: Final = 150
"""VMs whose discarded data the first event names: with 2,000 VMs it stays below 64 KiB."""


class Rollback(msgspec.Struct, frozen=True, kw_only=True):
    """A roll back. `remaining` None: whether the instances are gone is not known yet."""

    started: said.RollbackStarted | None = None
    remaining: int | None = None
    returned: dict[str, said.Returned] = {}
    problem: Problem | None = None
    steps: tuple[StepTiming, ...] = ()
    finished: bool = False


# ── Actions ──────────────────────────────────────────────────────────────────────────────────


def begin(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Roll a recovery back. Decides over the roll back and the recovery together.

    Raises Refused as `commit_window.check_open`, `being-cleaned`, and `confirm`, which names what
    is discarded.
    """
    m: said.StartRollback = received.body
    if family_of(m.recovery) != "recovery" or family_of(m.job) != "rollback":
        raise Refused(f"{m.recovery} is no recovery", code="unknown-job", remedy="see `job list`")
    state: Rollback = states[m.job]
    parent: Recovery = states[m.recovery]
    if state.started is not None:
        return {}
    commit_window.check_open(parent, m.recovery, verb="roll back")
    refusals.check_not_being_cleaned(m.recovery, parent.cleaning)
    discards = commit_window.discards(parent, now=received.at)
    _check_confirmed(m, told(parent).plan, discards)
    start = told(parent)
    removes = parent.made and not parent.cleaned
    _, plan, key = parts_of(m.job)
    event = said.RollbackStarted(
        job=m.job,
        plan=start.plan,
        recovery=m.recovery,
        cleanup=stream_id("cleanup", plan, f"rollback-{key}") if removes else "",
        vms=() if parent.source.lost else tuple(parent.roster),
        discards=discards[:DISCARDS_MAX],
        at=received.at,
        steps=STEPS if removes else (POWER_ON,),
        definition_version=DEFINITION_VERSION,
    )
    marked = Decision(events=(said.RecoveryRollingBack(rollback=m.job),))
    return {m.job: _step(state, (event,), received.at), m.recovery: marked}


def cleaned(state: Rollback, received: Received) -> Decision:
    """The cleanup of the instances ended."""
    m: said.RollbackCleaned = received.body
    if state.started is None or state.finished or state.remaining is not None:
        return NOTHING
    problem = None if not m.remaining else _left_over(state.started, m.remaining)
    timing = _timing(REMOVE, state.started.at, received.at, problem)
    event = said.RollbackInstancesRemoved(remaining=m.remaining, timing=timing)
    return _step(state, (event,), received.at)


def source_news(state: Rollback, received: Received) -> Decision:
    """A VM's source is as it was, or could not be switched on."""
    m: said.SourceNews = received.body
    if state.started is None or state.finished or m.vm in state.returned:
        return NOTHING
    if m.news not in ("on", "untouched", "stays-off"):
        return NOTHING
    event = said.RollbackSourceEnded(vm=m.vm, at=m.at, state=m.news, problem=m.problem)
    return _step(state, (event,), received.at)


# ── Definition ───────────────────────────────────────────────────────────────────────────────


def _phase(state: Rollback) -> str:
    """`remove`, `power-on`, or `over`: nothing is to be waited for any more."""
    start = state.started
    assert start is not None, "started before anything else"
    if start.cleanup and state.remaining is None:
        return "remove"
    if state.remaining:
        return "over"
    return "power-on" if len(state.returned) < len(start.vms) else "over"


def evolve(state: Rollback, event: Any) -> Rollback:
    """Apply one fact."""
    replace = msgspec.structs.replace
    match event:
        case said.RollbackStarted():
            return replace(state, started=event)
        case said.RollbackInstancesRemoved():
            return replace(state, remaining=event.remaining, steps=(*state.steps, event.timing))
        case said.RollbackSourceEnded():
            return replace(
                state,
                returned={**state.returned, event.vm: event.state},
                problem=state.problem or event.problem,
            )
        case said.RollbackFinished():
            return replace(state, finished=True)
    raise AssertionError(f"{type(event).__name__} is no event of a roll back")


FAMILY = Family(
    name="rollback",
    state=Rollback,
    initial=Rollback,
    evolve=evolve,
    is_terminal=lambda state: state.finished,
)

# ── Implementations ──────────────────────────────────────────────────────────────────────────


def _step(state: Rollback, events: tuple[Any, ...], now: dt.datetime) -> Decision:
    """The decision that goes with `events`: what the new phase asks for, or the end."""
    after = state
    for event in events:
        after = evolve(after, event)
    before = _phase(state) if state.started is not None else ""
    phase, start = _phase(after), after.started
    assert start is not None, "started before anything else"
    if phase == "over":
        end, sends = _finish(after, now)
        return Decision(events=(*events, end), sends=sends)
    if phase == before:
        return Decision(events=events)
    messages: list[Any] = []
    if phase == "remove":
        messages.append(
            BeginCleanup(job=start.cleanup, recovery=start.recovery, rollback=start.job)
        )
    else:
        messages += [
            said.RestoreSource(stream=source_stream(start.recovery, vm), by=start.job)
            for vm in start.vms
        ]
    sends = tuple(Send(to="recovery", key=start.plan, message=each) for each in messages)
    return Decision(events=events, sends=sends)


def _finish(state: Rollback, now: dt.datetime) -> tuple[said.RollbackFinished, tuple[Send, ...]]:
    start = state.started
    assert start is not None, "started before anything else"
    steps, problem = state.steps, state.problem
    if state.remaining:
        problem = _left_over(start, state.remaining)
    else:
        steps = (*steps, _timing(POWER_ON, _removed_at(state), now, problem))
    outcome = _outcome(state)
    end = said.RollbackFinished(
        plan=start.plan, recovery=start.recovery, state=outcome, steps=steps, problem=problem
    )
    done = outcome == "completed"
    ended = said.RollbackEnded(recovery=start.recovery, rollback=start.job, done=done)
    sends = [Send(to="recovery", key=start.plan, message=ended)]
    if done:
        # Before the recovery gives its holds back: until then nobody else may have the VMs.
        back = ReturnVms(plan=start.plan, job=start.recovery)
        sends.insert(0, Send(to="scheduler", key=start.plan, message=back))
    return end, tuple(sends)


def _removed_at(state: Rollback) -> dt.datetime | None:
    """When the sources' turn came."""
    start = state.started
    return state.steps[-1].ended_at if state.steps else start.at if start is not None else None


def _outcome(state: Rollback) -> RecoveryState:
    if state.remaining:
        return "failed"
    stays = sum(each == "stays-off" for each in state.returned.values())
    if not stays:
        return "completed"
    return "failed" if stays == len(state.returned) else "partially-completed"


def _timing(
    step: str, since: dt.datetime | None, now: dt.datetime, problem: Problem | None
) -> StepTiming:
    state: StepState = "completed" if problem is None else "failed"
    return StepTiming(
        name=step,
        state=state,
        started_at=since,
        ended_at=now,
        error=problem.message if problem is not None else "",
        remedy=problem.remedy if problem is not None else "",
    )


def _left_over(start: said.RollbackStarted, remaining: int) -> Problem:
    return Problem(
        code="left-over",
        message=f"{remaining} object(s) of the recovery are not proven gone, so no source was "
        "switched on: no VM may run twice",
        remedy=f"see `seawall job show {start.cleanup}`, then roll back again",
    )


def _check_confirmed(m: said.StartRollback, plan: str, discards: tuple[said.Discard, ...]) -> None:
    if m.confirm == plan:
        return
    lost = "no instance was powered on, so nothing that was written is lost"
    if discards:
        lost = f"all that was written since power-on is lost: {commit_window.in_words(discards)}"
    raise Refused(
        f"rolling back {m.recovery} deletes its instances; {lost}",
        code="confirm",
        remedy=f"type the plan's name to go on: `seawall rollback {m.recovery} --confirm {plan}`",
    )
