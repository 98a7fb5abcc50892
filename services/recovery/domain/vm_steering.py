"""Steering one VM's recovery: pause, resume, answer, and what of it may be retried or skipped.

Decides for the VM; whether its recovery may go on at all is `steering`'s. What is made on a
platform is never skipped: a VM without its disks or instance is none.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

from schemas import recovery_steering as steer
from schemas.common import StepTiming
from schemas.envelope import Received
from schemas.steps import MANUAL
from services.recovery.domain import prompts, refusals
from services.recovery.domain.scripts import POST_STEP, PRE_STEP
from services.recovery.domain.vm_recovery import proceed
from services.recovery.domain.vm_state import WAIT, VmRecovery, definition, halted
from services.recovery.domain.vm_steered import to_do_again
from services.recovery.domain.windows_steps import VALIDATE
from shared.decider import NOTHING, Decision
from shared.errors import Refused

_SKIPPABLE: Final = (WAIT, VALIDATE, PRE_STEP, POST_STEP)


# ── Pause and resume ─────────────────────────────────────────────────────────────────────────


def pause(state: VmRecovery, received: Received) -> Decision:
    """A person pauses this VM alone. Raises Refused `unknown-job`, `job-ended`, `stopping`."""
    job = received.body.job
    _check_goes_on(state, job)
    if halted(state):
        raise Refused(f"{job} is about to end", code="stopping", remedy="wait for its end")
    return _pause(state, "job", received)


def resume(state: VmRecovery, received: Received) -> Decision:
    """A person has it go on. Raises Refused where its recovery is what is paused."""
    job = received.body.job
    _check_goes_on(state, job)
    if "job" not in state.paused and state.paused:
        told = definition(state)
        raise Refused(
            f"{job} is paused with its recovery",
            code="paused-with-recovery",
            remedy=f"`seawall job resume {told.job}`",
        )
    return _resume(state, "job", received)


def pause_with_recovery(state: VmRecovery, received: Received) -> Decision:
    """The whole recovery is paused."""
    if state.enrolled is None or state.finished or state.abandoned:
        return NOTHING
    return _pause(state, "recovery", received)


def resume_with_recovery(state: VmRecovery, received: Received) -> Decision:
    """The whole recovery goes on; a VM that was paused alone stays so."""
    return _resume(state, "recovery", received)


def _pause(state: VmRecovery, by: steer.PausedBy, received: Received) -> Decision:
    if by in state.paused:
        return NOTHING
    event = steer.VmPaused(by=by, at=received.at, actor=received.meta.actor)
    return proceed(state, (event,), received.at)


def _resume(state: VmRecovery, by: steer.PausedBy, received: Received) -> Decision:
    if by not in state.paused or state.finished:
        return NOTHING
    event = steer.VmResumed(by=by, at=received.at, actor=received.meta.actor)
    return proceed(state, (event,), received.at)


# ── Answers ──────────────────────────────────────────────────────────────────────────────────


def answer(state: VmRecovery, received: Received) -> Decision:
    """A person answers what the VM asks. Raises Refused."""
    m: steer.AnswerQuestion = received.body
    _check_goes_on(state, m.job)
    choice = prompts.checked(state.question, job=m.job, step=m.step, choice=m.choice)
    return _answered(state, choice, received.at, actor=received.meta.actor)


def answer_due(state: VmRecovery, received: Received) -> Decision:
    """Nobody answered in time: the question's default stands."""
    m: steer.AnswerDue = received.body
    asked = state.question
    if asked is None or asked.number != m.number or state.finished:
        return NOTHING
    return _answered(state, asked.default, received.at, actor=steer.TIME_OUT)


def _answered(
    state: VmRecovery, choice: steer.Choice, now: dt.datetime, *, actor: str
) -> Decision:
    asked, told = state.question, definition(state)
    assert asked is not None, "a question was answered"
    event = steer.VmAnswered(
        plan=told.plan,
        vm=told.definition.name,
        step=asked.step,
        choice=choice,
        at=now,
        actor=actor,
        timing=prompts.answered(asked, choice, state=state, at=now, by=actor),
    )
    return proceed(state, (event,), now)


# ── Retry and skip ───────────────────────────────────────────────────────────────────────────


def retry(state: VmRecovery, received: Received) -> Decision:
    """The recovery has it go on: what failed is done again or, where asked, skipped."""
    m: steer.RetryVm = received.body
    if not state.finished or m.round != state.round + 1:
        return NOTHING
    timing = None
    if m.skip:
        before = next((step for step in state.steps if step.name == m.skip), None)
        timing = StepTiming(
            name=m.skip,
            state="skipped",
            attempts=before.attempts if before is not None else 1,
            started_at=before.started_at if before is not None else None,
            ended_at=received.at,
        )
    event = steer.VmRetried(
        at=received.at,
        boot=m.boot,
        round=m.round,
        steps=() if m.skip else to_do_again(state),
        skip=m.skip,
        actor=m.actor,
        timing=timing,
        source=m.source,
    )
    return proceed(state, (event,), received.at)


def retried(state: VmRecovery, *, job: str, step: str) -> str:
    """The VM, if it has ended and something of it can be done again. Raises Refused."""
    told = _ended(state, job)
    again = to_do_again(state)
    if step and step not in again:
        raise Refused(
            f"step {step!r} of {job} has not failed",
            code="not-failed",
            remedy=f"failed are: {', '.join(again)}" if again else "see `job show`",
        )
    if not again and not state.failed and not state.abandoned:
        raise Refused(
            f"nothing of {job} failed that could be done again",
            code="nothing-failed",
            remedy="see `job show`",
        )
    return told


def check_skippable(step: str) -> None:
    """Raises Refused `not-skippable` for a step that nobody may go on without."""
    if step in _SKIPPABLE or step.startswith(MANUAL):
        return
    raise Refused(
        f"step {step!r} cannot be skipped",
        code="not-skippable",
        remedy="retry it; skipped may be wait-ready, a script, validation, a manual step",
    )


def skipped(state: VmRecovery, *, job: str, step: str) -> str:
    """The VM, if it failed at the step. Raises Refused `not-failed` or `gone-on`."""
    if state.enrolled is not None and not state.finished:
        raise Refused(
            f"step {step!r} of {job} has not failed",
            code="not-failed",
            remedy="wait for its end, or cancel the recovery",
        )
    vm = _ended(state, job)
    if state.failed and state.failed_step == step:
        return vm
    if step in to_do_again(state) or step in state.skipped:
        raise Refused(
            f"{job} has gone on without {step!r} already",
            code="gone-on",
            remedy="`seawall job retry` does it again",
        )
    raise Refused(
        f"step {step!r} of {job} has not failed",
        code="not-failed",
        remedy=f"it failed at {state.failed_step!r}" if state.failed else "see `job show`",
    )


def _check_goes_on(state: VmRecovery, job: str) -> None:
    if state.enrolled is None:
        raise refusals.no_job(job)
    if state.finished:
        raise Refused(
            f"job {job} has ended",
            code="job-ended",
            remedy="`seawall job retry` does again what failed",
        )


def _ended(state: VmRecovery, job: str) -> str:
    if state.enrolled is None:
        raise refusals.no_job(job)
    if not state.finished:
        raise Refused(f"{job} is still running", code="still-running", remedy="wait for its end")
    return definition(state).definition.name
