"""Roll back: the instances of a full recovery go, its sources come back, replication goes on.

Saga. Decides the order: sources are looked at, and what is discarded is measured, while all is as
it was; instances are off and proven gone before any source is switched on, so that no VM runs
twice. Removing them is a cleanup's, switching a source on is the source's own undo
(`operations.source`), replicating again is the scheduler's. Where VMs have nothing to come back to
it ends before anything is undone, unless they may stay off by word (`comeback`). What could not be
undone may be tried again by another roll back, which finds done what was done.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from schemas import operations as said
from schemas.common import CommandSettled, Problem, StepState, StepTiming
from schemas.envelope import Received
from schemas.ids import family_of, parts_of, stream_id
from schemas.recovery import BeginCleanup, RecoveryState
from schemas.scheduler import ReturnVms
from services.recovery.domain import comeback, commit_window, discards, refusals
from services.recovery.domain.comeback import LOOK
from services.recovery.domain.operations import securing
from services.recovery.domain.operations.source import source_stream
from services.recovery.domain.recovery_state import Recovery, told
from services.recovery.domain.work import step_of
from shared.decider import NOTHING, Decision, Effect, EffectOutcome, Family, Send
from shared.errors import Refused

# ── Parameters ───────────────────────────────────────────────────────────────────────────────

DEFINITION_VERSION: Final = 3
"""2: measures what is discarded; 3: looks at sources. A list without these is continued as it
is."""

MEASURE: Final = "measure-discards"
REMOVE: Final = "remove-instances"
POWER_ON: Final = "power-on-sources"


class Rollback(msgspec.Struct, frozen=True, kw_only=True):
    """A roll back. `remaining` None: whether the instances are gone is not known yet.

    `unconfirmed`: it was asked for without the word that it wants; the answer says what is lost.
    `untouched`: the look at the sources ends it. `returned` has those that it settled as off.
    """

    started: said.RollbackStarted | None = None
    unconfirmed: said.RollbackUnconfirmed | None = None
    looked: bool = False
    untouched: bool = False
    measured: bool = False
    remaining: int | None = None
    returned: dict[str, said.Returned] = {}
    problem: Problem | None = None
    steps: tuple[StepTiming, ...] = ()
    finished: bool = False


# ── Actions ──────────────────────────────────────────────────────────────────────────────────


def begin(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Roll a recovery back. Decides over the roll back and the recovery together.

    Raises Refused as `commit_window.check_open`, and `being-cleaned`. Without the plan's name it
    is answered `confirm`, with what is discarded, once that was measured. One that begins by
    itself (`BeginRollback`) does nothing where a person was faster.
    """
    m: said.StartRollback | said.BeginRollback = received.body
    by_itself = isinstance(m, said.BeginRollback)
    if family_of(m.recovery) != "recovery" or family_of(m.job) != "rollback":
        raise Refused(f"{m.recovery} is no recovery", code="unknown-job", remedy="see `job list`")
    state: Rollback = states[m.job]
    parent: Recovery = states[m.recovery]
    if state.started is not None or state.unconfirmed is not None:
        return {}
    try:
        commit_window.check_open(parent, m.recovery, verb="roll back")
        refusals.check_not_being_cleaned(m.recovery, parent.cleaning)
    except Refused:
        if by_itself:
            return {}
        raise
    lost = discards.of_recovery(parent, now=received.at)
    if isinstance(m, said.StartRollback) and m.confirm != told(parent).plan:
        return {m.job: _unconfirmed(m, parent, lost, received.at)}
    start = told(parent)
    removes = parent.made and not parent.cleaned
    # One that stayed what it was, was given back when the recovery ended: it is another's.
    stayed = frozenset(securing.stayed(parent.source))
    _, plan, key = parts_of(m.job)
    before = (*((LOOK,) if removes else ()), *((MEASURE,) if lost else ()))
    steps = (*before, *((REMOVE,) if removes else ()), POWER_ON)
    event = said.RollbackStarted(
        job=m.job,
        plan=start.plan,
        recovery=m.recovery,
        cleanup=stream_id("cleanup", plan, f"rollback-{key}") if removes else "",
        vms=tuple(vm for vm in parent.roster if vm not in stayed),
        discards=lost[: discards.KEPT_MAX],
        at=received.at,
        steps=steps,
        definition_version=DEFINITION_VERSION,
        automatic=by_itself,
        leave_off=isinstance(m, said.StartRollback) and m.leave_off,
        source_site=start.header.protected.site,
    )
    marked = Decision(events=(said.RecoveryRollingBack(rollback=m.job),))
    asked = {
        LOOK: comeback.look(parent, vms=event.vms, now=received.at),
        MEASURE: _measure(parent, lost, received.at),
    }
    decision = msgspec.structs.replace(
        _step(state, (event,), received.at), effects=tuple(asked[step] for step in before)
    )
    return {m.job: decision, m.recovery: marked}


def outcome(state: Rollback, received: Received) -> Decision:
    """The sources were looked at, or what is discarded was measured; or neither could be."""
    ended: EffectOutcome = received.body
    if state.finished:
        return NOTHING
    if ended.part == LOOK:
        return _looked(state, ended, received.at)
    return _measured(state, ended, received.at) if ended.part == MEASURE else NOTHING


def _looked(state: Rollback, ended: EffectOutcome, now: dt.datetime) -> Decision:
    if state.started is None or state.looked:
        return NOTHING
    return _step(state, (comeback.seen(state.started, ended),), now)


def _measured(state: Rollback, ended: EffectOutcome, now: dt.datetime) -> Decision:
    """What is discarded is not known where it could not be measured: that keeps nobody back."""
    measured: said.WrittenMeasured | None = ended.result if ended.ok else None
    if state.unconfirmed is not None:
        return _say_what_is_lost(state.unconfirmed, measured)
    if state.started is None or state.measured:
        return NOTHING
    timing = step_of(ended, MEASURE)
    if not ended.ok:
        timing = msgspec.structs.replace(timing, state="skipped")
    event = said.RollbackMeasured(
        discards=discards.with_bytes(state.started.discards, measured),
        total=None if measured is None else measured.total,
        unknown=len(state.started.discards) if measured is None else measured.unknown,
        timing=timing,
    )
    return _step(state, (event,), now)


def cleaned(state: Rollback, received: Received) -> Decision:
    """The cleanup of the instances ended."""
    m: said.RollbackCleaned = received.body
    if state.started is None or state.finished or state.remaining is not None:
        return NOTHING
    problem = None if not m.remaining else _left_over(state.started, m.remaining)
    timing = _timing(REMOVE, _before_removal(state.started, state), received.at, problem)
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
    """`look`, `remove`, `power-on`, or `over`: nothing is to be waited for any more.

    While it looks it measures as well: both only read.
    """
    start = state.started
    assert start is not None, "started before anything else"
    over = {LOOK: state.looked, MEASURE: state.measured}
    if any(step in start.steps and not done for step, done in over.items()):
        return "look"
    if state.untouched:
        return "over"
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
        case said.RollbackUnconfirmed():
            return replace(state, unconfirmed=event)
        case said.RollbackNotConfirmed():
            return replace(state, finished=True)
        case said.RollbackSourcesSeen():
            return _sources_seen(state, event)
        case said.RollbackMeasured():
            return replace(state, measured=True, steps=(*state.steps, event.timing))
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


def _sources_seen(state: Rollback, event: said.RollbackSourcesSeen) -> Rollback:
    assert state.started is not None, "started before it looks"
    leaves = state.started.leave_off
    settled: dict[str, said.Returned] = dict.fromkeys(event.missing if leaves else (), "stays-off")
    return msgspec.structs.replace(
        state,
        looked=True,
        untouched=event.problem is not None and not leaves,
        returned={**state.returned, **settled},
        problem=event.problem,
        steps=(*state.steps, event.timing),
    )


FAMILY = Family(
    name="rollback",
    state=Rollback,
    initial=Rollback,
    evolve=evolve,
    is_terminal=lambda state: state.finished,
    outcome=outcome,
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
    if phase in (before, "look"):
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
            if vm not in after.returned
        ]
    sends = tuple(Send(to="recovery", key=start.plan, message=each) for each in messages)
    return Decision(events=events, sends=sends)


def _finish(state: Rollback, now: dt.datetime) -> tuple[said.RollbackFinished, tuple[Send, ...]]:
    start = state.started
    assert start is not None, "started before anything else"
    steps, problem = state.steps, state.problem
    off = _staying_off(state)
    if state.remaining:
        problem = _left_over(start, state.remaining)
    elif not state.untouched:
        problem = comeback.staying_off(start, off, problem) if off else None
        steps = (*steps, _timing(POWER_ON, _removed_at(state), now, problem))
    outcome = _outcome(state)
    done = outcome == "completed" or (outcome == "partially-completed" and start.leave_off)
    end = said.RollbackFinished(
        plan=start.plan,
        recovery=start.recovery,
        state=outcome,
        steps=steps,
        problem=problem,
        untouched=state.untouched,
        left_off=off[: comeback.KEPT_MAX] if done else (),
    )
    ended = said.RollbackEnded(
        recovery=start.recovery, rollback=start.job, done=done, untouched=state.untouched
    )
    sends = [Send(to="recovery", key=start.plan, message=ended)]
    if done:
        # Before the recovery gives its holds back: until then nobody else may have the VMs.
        back = ReturnVms(plan=start.plan, job=start.recovery)
        sends.insert(0, Send(to="scheduler", key=start.plan, message=back))
    return end, tuple(sends)


def _before_removal(start: said.RollbackStarted, state: Rollback) -> dt.datetime | None:
    """When the instances' turn came."""
    return state.steps[-1].ended_at if state.steps else start.at


def _removed_at(state: Rollback) -> dt.datetime | None:
    """When the sources' turn came."""
    start = state.started
    return state.steps[-1].ended_at if state.steps else start.at if start is not None else None


def _outcome(state: Rollback) -> RecoveryState:
    start = state.started
    assert start is not None, "started before anything else"
    if state.remaining or state.untouched:
        return "failed"
    off = _staying_off(state)
    if not off:
        return "completed"
    none = len(off) == len(state.returned) and not start.leave_off
    return "failed" if none else "partially-completed"


def _staying_off(state: Rollback) -> tuple[str, ...]:
    return tuple(vm for vm, how in state.returned.items() if how == "stays-off")


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


def _measure(parent: Recovery, lost: tuple[said.Discard, ...], now: dt.datetime) -> Effect:
    named = [each.vm for each in lost[: discards.KEPT_MAX]]
    return discards.measure(MEASURE, parent, vms=named, now=now)


def _unconfirmed(
    m: said.StartRollback, parent: Recovery, lost: tuple[said.Discard, ...], now: dt.datetime
) -> Decision:
    """The plan's name is missing: say what is lost, after having asked how much that is."""
    plan = told(parent).plan
    if not lost:
        nothing = "no instance was powered on, so nothing that was written is lost"
        raise _wants_confirmation(m.recovery, plan, nothing, leave_off=m.leave_off)
    event = said.RollbackUnconfirmed(
        command_id=m.command_id,
        job=m.job,
        plan=plan,
        recovery=m.recovery,
        discards=lost[: discards.KEPT_MAX],
        leave_off=m.leave_off,
    )
    return Decision(events=(event,), effects=(_measure(parent, lost, now),), defer=True)


def _say_what_is_lost(
    asked: said.RollbackUnconfirmed, measured: said.WrittenMeasured | None
) -> Decision:
    lost = discards.in_words(asked.discards, measured)
    refusal = _wants_confirmation(asked.recovery, asked.plan, lost, leave_off=asked.leave_off)
    found = discards.with_bytes(asked.discards, measured)
    answer = CommandSettled(
        command_id=asked.command_id,
        outcome="refused",
        code=refusal.code,
        message=refusal.message,
        remedy=refusal.remedy,
        stream=asked.job,
        details={"discards": [msgspec.to_builtins(each) for each in found]},
    )
    return Decision(events=(said.RollbackNotConfirmed(),), answers=(answer,))


def _wants_confirmation(recovery: str, plan: str, lost: str, *, leave_off: bool) -> Refused:
    word = "; VMs whose sources cannot come back run nowhere then" if leave_off else ""
    return Refused(
        f"rolling back {recovery} deletes its instances{word}; {lost}",
        code="confirm",
        remedy="type the plan's name to go on: "
        f"`{comeback.command(recovery, plan, leave_off=leave_off)}`",
    )
