"""What steering does to one VM's recovery: pauses, questions and answers, retries, skips.

Folds the facts of `schemas.recovery_steering` on top of `vm_state`. Whether a person may ask for
them is decided in `vm_steering`.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import msgspec

from schemas import recovery_steering as steer
from schemas.common import Problem
from services.recovery.domain import manual, vm_state
from services.recovery.domain.scripts import POST_STEP, PRE_STEP, ScriptRun
from services.recovery.domain.vm_state import (
    POWER_ON,
    RELEASE,
    WAIT,
    VmRecovery,
    definition,
    failing,
    script_failed,
    script_of,
    up_to_date,
    with_run,
    without,
)
from services.recovery.domain.waits import Waits
from services.recovery.domain.windows_steps import VALIDATE

_RESULTS: Final[dict[steer.Choice, manual.Result]] = {
    "done": "done",
    "failed": "failed",
    "skip": "skipped",
}
_DONE: Final = ("completed", "skipped")


def evolve(state: VmRecovery, event: Any) -> VmRecovery:
    """Apply any fact of a VM's recovery and bring `running` up to what is due afterwards."""
    replace = msgspec.structs.replace
    match event:
        case steer.VmPaused():
            waits = state.waits.begun(event.at)
            state = replace(state, paused=(*state.paused, event.by), waits=waits)
        case steer.VmResumed():
            left = tuple(by for by in state.paused if by != event.by)
            state = replace(state, paused=left, waits=state.waits.over(event.at))
        case steer.VmAsked():
            asked = event.question
            waits = state.waits.begun(asked.at)
            state = replace(state, question=asked, asked=asked.number, waits=waits)
        case steer.VmAnswered():
            state = _answered(state, event)
        case steer.VmRetried():
            state = _retried(state, event)
        case steer.VmStepWithdrawn():
            state = without(state, event.part)
        case _:
            return vm_state.evolve(state, event)
    return up_to_date(state)


def to_do_again(state: VmRecovery) -> tuple[str, ...]:
    """The steps of an ended VM's recovery that did not end well and may be done again.

    Letting the copy go is no such step: it was tried until it was true.
    """
    last = [step.name for step in state.steps if step.state not in _DONE]
    runs = {PRE_STEP: state.pre, POST_STEP: state.post}
    again = dict.fromkeys(
        name for name in last if name != RELEASE and (name not in runs or not _well(runs[name]))
    )
    # A guest that did not answer is powered on again before it is waited for.
    return (POWER_ON, *again) if WAIT in again else tuple(again)


def _well(run: ScriptRun) -> bool:
    return run.over and not run.failed


def _answered(state: VmRecovery, event: steer.VmAnswered) -> VmRecovery:
    asked = state.question
    assert asked is not None, "an answer follows a question"
    steps = state.steps if event.timing is None else (*state.steps, event.timing)
    state = msgspec.structs.replace(
        state, question=None, steps=steps, waits=state.waits.over(event.at)
    )
    if event.choice == "skip":
        state = _passed(state, event.step)
    if asked.kind == "manual":
        return _manual_over(state, event)
    run = state.pre if event.step == PRE_STEP else state.post
    state = with_run(state, event.step, run.answered(event.choice))
    if event.choice != "failed":
        return state
    script = script_of(state, event.step)
    assert script is not None, "a script that was asked about was chosen"
    return script_failed(state, event.step, script, _problem_of(event, "script-unknown"))


def _manual_over(state: VmRecovery, event: steer.VmAnswered) -> VmRecovery:
    over = {**state.by_hand, event.step: _RESULTS[event.choice]}
    state = msgspec.structs.replace(state, by_hand=over)
    if event.choice != "failed":
        return state
    return failing(state, event.step, _problem_of(event, "manual-step-failed"))


def _problem_of(event: steer.VmAnswered, code: str) -> Problem:
    message = event.timing.error if event.timing is not None else event.step
    return Problem(code=code, message=message, remedy="mend it, then `seawall job retry`")


def _passed(state: VmRecovery, step: str) -> VmRecovery:
    """Gone on without a step: the VM is usable, and not as it should be."""
    return msgspec.structs.replace(state, degraded=True, skipped=(*state.skipped, step))


def _retried(state: VmRecovery, event: steer.VmRetried) -> VmRecovery:
    """What had been reached stands; what failed is done again under another token, or skipped."""
    again = set(event.steps)
    state = msgspec.structs.replace(
        _copy_again(state),
        finished=False,
        failed=False,
        failed_step="",
        abandoned="",
        stop=False,
        troubled=False,
        problem=None,
        round=event.round,
        source=event.source,
        boot=event.boot,
        waits=_waits(state, event.at),
        pre=state.pre.anew() if PRE_STEP in again else state.pre,
        post=state.post.anew() if POST_STEP in again else state.post,
        by_hand={name: how for name, how in state.by_hand.items() if name not in again},
        steps=tuple(step for step in state.steps if step.name not in again),
        tried={**state.tried, **_attempts(state, again)},
    )
    if VALIDATE in again:
        work = msgspec.structs.replace(state.windows, validated=False)
        state = msgspec.structs.replace(state, windows=work)
    if WAIT in again:
        # Whatever is wrong with the guest, it is on when it is asked again.
        state = msgspec.structs.replace(state, powered_on_at=None, powers=state.powers + 1)
    if event.skip:
        state = _skipped(state, event)
    late = any(step.name == RELEASE and step.state != "completed" for step in state.steps)
    degraded = bool(state.skipped) or late or state.pre.failed or state.post.failed
    return msgspec.structs.replace(state, degraded=degraded)


def _copy_again(state: VmRecovery) -> VmRecovery:
    """The copy is held again where it is needed and was let go."""
    missing = state.copy is None or any(d.name not in state.disks for d in state.copy.disks)
    if not missing or not state.hold_tried:
        return state
    if definition(state).checkpoint == "latest":
        # Never two holds: the one before was let go before the VM's end.
        assert state.released, "an ended VM holds no copy"
    last = state.copy.copy_id if state.copy is not None else state.last_copy
    return msgspec.structs.replace(
        state, copy=None, last_copy=last, holds=state.holds + 1, hold_tried=False, released=False
    )


def _waits(state: VmRecovery, at: dt.datetime) -> Waits:
    """That it was over until a person had it go on is time that people took."""
    if state.finished_at is None:
        return state.waits
    return Waits(since=state.finished_at, total_s=state.waits.total_s, open=1).over(at)


def _attempts(state: VmRecovery, again: set[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for step in state.steps:
        if step.name in again:
            found[step.name] = max(found.get(step.name, 0), step.attempts)
    return found


def _skipped(state: VmRecovery, event: steer.VmRetried) -> VmRecovery:
    step = event.skip
    assert event.timing is not None, "a skipped step says how it stands"
    steps = (*(each for each in state.steps if each.name != step), event.timing)
    state = _passed(msgspec.structs.replace(state, steps=steps), step)
    if step == WAIT:
        return msgspec.structs.replace(state, ready_at=event.at)
    if step in (PRE_STEP, POST_STEP):
        run = state.pre if step == PRE_STEP else state.post
        return with_run(state, step, msgspec.structs.replace(run, failed=False))
    return msgspec.structs.replace(state, by_hand={**state.by_hand, step: "skipped"})
