"""What steering does to a recovery: pauses, questions and answers, retries, skips.

Folds the facts of `schemas.recovery_steering` on top of `recovery_fold`. Whether a person may
ask for them is decided in `steering`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from schemas import recovery_steering as steer
from schemas.common import Problem
from services.recovery.domain import manual, plan_work, recovery_fold
from services.recovery.domain.recovery_fold import (
    script_failed,
    was_launched,
    with_member,
    with_order,
    with_problem,
    with_run,
)
from services.recovery.domain.recovery_state import (
    MemberState,
    Recovery,
    plan_script,
    told,
)
from services.recovery.domain.scripts import POST_STEP, PRE_STEP
from services.recovery.domain.waits import Waits

_RESULTS: Final[dict[steer.Choice, manual.Result]] = {
    "done": "done",
    "failed": "failed",
    "skip": "skipped",
}


def evolve(state: Recovery, event: Any) -> Recovery:
    """Apply any fact of a recovery and bring `running` up to what is due afterwards."""
    replace = msgspec.structs.replace
    match event:
        case steer.RecoveryPaused():
            state = replace(state, paused=True, waits=state.waits.begun(event.at))
        case steer.RecoveryResumed():
            state = replace(state, paused=False, waits=state.waits.over(event.at))
        case steer.RecoveryAsked():
            asked = event.question
            waits = state.waits.begun(asked.at)
            state = replace(state, question=asked, asked=asked.number, waits=waits)
        case steer.RecoveryAnswered():
            state = _answered(state, event)
        case steer.MemberAsked():
            state = with_member(state, event.vm, asks=event.step)
            state = replace(state, waits=state.waits.begun(event.at))
        case steer.MemberAnswered():
            state = with_member(state, event.vm, asks="")
            state = replace(state, waits=state.waits.over(event.at))
        case steer.RetryRequested():
            state = replace(state, retrying=event)
        case steer.RetryRefused():
            state = replace(state, retrying=None)
        case steer.MemberRetried():
            state = _member_retried(state, event)
        case steer.RecoveryReopened():
            state = _reopened(state, event)
        case _:
            state = recovery_fold.evolve(state, event)
    return _up_to_date(state)


def _up_to_date(state: Recovery) -> Recovery:
    """What is under way goes on whatever happens; something new begins only if not paused."""
    due = plan_work.part_of(state)
    if due == state.running:
        return state
    return msgspec.structs.replace(state, running="" if state.paused else due)


def _answered(state: Recovery, event: steer.RecoveryAnswered) -> Recovery:
    asked = state.question
    assert asked is not None, "an answer follows a question"
    steps = state.steps if event.timing is None else (*state.steps, event.timing)
    state = msgspec.structs.replace(
        state, question=None, steps=steps, waits=state.waits.over(event.at)
    )
    message = event.timing.error if event.timing is not None else ""
    remedy = "mend it, then `seawall job retry`"
    if asked.kind == "manual":
        over = {**state.by_hand, event.step: _RESULTS[event.choice]}
        state = msgspec.structs.replace(state, by_hand=over)
        if event.choice != "failed":
            return state
        problem = Problem(code="manual-step-failed", message=message, remedy=remedy)
        return msgspec.structs.replace(
            state,
            stopping=state.stopping or told(state).on_error == "stop",
            problems=with_problem(state, event.step, problem),
        )
    if event.choice == "skip":
        state = msgspec.structs.replace(state, passed=(*state.passed, event.step))
    run = state.pre if event.step == PRE_STEP else state.post
    state = with_run(state, event.step, run.answered(event.choice))
    script = plan_script(state, event.step)
    if event.choice != "failed" or script is None:
        return state
    problem = Problem(code="script-unknown", message=message, remedy=remedy)
    return script_failed(state, event.step, script, problem)


def _member_retried(state: Recovery, event: steer.MemberRetried) -> Recovery:
    """A VM goes on; its boot order waits for it again if it had not been ready.

    One that was given up before it began may not have been heard of: its news is old now.
    """
    vm = event.vm
    before = state.members.get(vm, MemberState())
    kept = before if before.ready_at is not None else MemberState()
    after = msgspec.structs.replace(
        kept,
        ended=False,
        outcome=None,
        degraded=False,
        error="",
        again=False,
        made=before.made,
        failed_step="",
        round=event.round,
    )
    state = msgspec.structs.replace(
        _uncounted(state, vm, before),
        problems={key: each for key, each in state.problems.items() if key != vm},
    )
    number = state.roster[vm].boot_order
    held = tuple(each for each in state.by_order[number].held if each != vm)
    state = with_order(state, number, held=(*held, vm) if event.held else held)
    return msgspec.structs.replace(state, members={**state.members, vm: after})


def _uncounted(state: Recovery, vm: str, before: MemberState) -> Recovery:
    """The sums without a VM that had ended."""
    if not before.ended:
        return state
    failed, was_ready = before.outcome == "failed", before.outcome == "ready"
    number = state.roster[vm].boot_order
    order = state.by_order[number]
    # One that had been ready, whatever failed later, keeps its order settled.
    waits = before.ready_at is None
    state = with_order(
        state, number, failed=order.failed - failed, unsettled=order.unsettled + waits
    )
    return msgspec.structs.replace(
        state,
        launched_ended=state.launched_ended - was_launched(state, vm),
        attempted=state.attempted - (failed or was_ready),
        ready=state.ready - was_ready,
        failed=state.failed - failed,
        degraded=state.degraded - before.degraded,
    )


def _reopened(state: Recovery, event: steer.RecoveryReopened) -> Recovery:
    again = set(event.steps)
    tried = {step.name: step.attempts for step in state.steps if step.name in again}
    gone = {*again, event.skip}
    state = msgspec.structs.replace(
        state,
        finished=None,
        retrying=None,
        stopping=False,
        preflight=None if "preflight" in again else state.preflight,
        pre=state.pre.anew() if PRE_STEP in again else state.pre,
        post=state.post.anew() if POST_STEP in again else state.post,
        by_hand={name: how for name, how in state.by_hand.items() if name not in again},
        steps=tuple(step for step in state.steps if step.name not in again),
        tried={**state.tried, **tried},
        problems={key: each for key, each in state.problems.items() if key not in gone},
        waits=Waits(total_s=state.waits.total_s + event.waited_s),
    )
    if not event.skip:
        return state
    run = state.pre if event.skip == PRE_STEP else state.post
    state = msgspec.structs.replace(state, passed=(*state.passed, event.skip))
    if event.skip in (PRE_STEP, POST_STEP):
        return with_run(state, event.skip, msgspec.structs.replace(run, failed=False))
    return msgspec.structs.replace(state, by_hand={**state.by_hand, event.skip: "skipped"})
