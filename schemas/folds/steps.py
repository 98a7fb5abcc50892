"""The steps of a job as facts come in: listed, begun, ended, and closed with the job.

Pure. A step that no list announced is appended, so that a job of a newer build is shown whole.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from schemas.common import JobState, ScriptReport, StepState, StepTiming
from schemas.envelope import Recorded
from schemas.joins import DONE_STEPS, percent_of
from schemas.steps import MANUAL
from schemas.views import Error, Job, Step

_replace = msgspec.structs.replace

_SCRIPT_STATES: dict[str, StepState] = {"done": "completed", "unknown": "unknown"}


def listed(names: Iterable[str]) -> tuple[Step, ...]:
    """The steps a job announced, none begun."""
    return tuple(Step(name=name) for name in names)


def relisted(steps: Sequence[Step], names: Iterable[str]) -> tuple[Step, ...]:
    """The steps of a job that knows more of them than it announced; what has begun stays."""
    known = {step.name: step for step in steps}
    after = [known.pop(name, Step(name=name)) for name in names]
    return (*after, *known.values())


def changed(steps: Sequence[Step], name: str, **changes: Any) -> tuple[Step, ...]:
    """The steps with one changed; it is appended if it was not announced."""
    for place, step in enumerate(steps):
        if step.name == name:
            return (*steps[:place], _replace(step, **changes), *steps[place + 1 :])
    return (*steps, Step(name=name, **changes))


def begun(
    steps: Sequence[Step], name: str, when: dt.datetime | None, *, state: StepState = "running"
) -> tuple[Step, ...]:
    """A step begins, or begins again; `when` None leaves its start open."""
    before = next((step for step in steps if step.name == name), None)
    attempts = before.attempts if before is not None else 0
    if state == "running":
        attempts += 1
    started_at = before.started_at if before is not None and before.started_at else when
    return changed(
        steps, name, state=state, attempts=attempts, started_at=started_at, ended_at=None
    )


def script_begun(
    steps: Sequence[Step], name: str, when: dt.datetime | None, *, run: int
) -> tuple[Step, ...]:
    """A script starts for the `run`-th time, whether its step was shown as begun or not.

    A start that was given anew, because its service ended before the script's process existed,
    is of the same run.
    """
    return changed(begun(steps, name, when), name, attempts=run)


def next_begun(
    steps: Sequence[Step], when: dt.datetime | None, *, waits: frozenset[str] = frozenset()
) -> tuple[Step, ...]:
    """The step after the last one that is done begins, unless one is under way.

    One of `waits` waits. Steps that were passed over stay as they are.
    """
    found: Step | None = None
    for step in reversed(steps):
        if step.state in DONE_STEPS:
            break
        found = step
    if found is None or any(step.state in ("running", "waiting") for step in steps):
        return tuple(steps)
    if found.name.startswith(MANUAL):
        # It begins when its person is asked.
        return tuple(steps)
    if found.name in waits:
        return changed(steps, found.name, state="waiting")
    return begun(steps, found.name, when)


def ended(steps: Sequence[Step], timing: StepTiming) -> tuple[Step, ...]:
    """A step ended as `timing` says."""
    for place, step in enumerate(steps):
        if step.name == timing.name:
            return (*steps[:place], _ended(step, timing), *steps[place + 1 :])
    return (*steps, _ended(Step(name=timing.name), timing))


def _ended(step: Step, timing: StepTiming) -> Step:
    error = None
    if timing.error:
        code = f"step-{timing.state}"
        error = Error(code=code, message=timing.error, remedy=timing.remedy)
    return Step(
        name=step.name,
        state=timing.state,
        attempts=max(timing.attempts, step.attempts),
        started_at=timing.started_at or step.started_at,
        ended_at=timing.ended_at,
        percent=100.0 if timing.state == "completed" else step.percent,
        error=error,
        output=timing.output or step.output,
        output_sha256=timing.output_sha256 if timing.output else step.output_sha256,
        warning=timing.warning or step.warning,
        answer=step.answer,
    )


def script_ended(
    steps: Sequence[Step], name: str, report: ScriptReport, *, timing: StepTiming | None = None
) -> tuple[Step, ...]:
    """A script's step ended as its report says; `timing`, where there is one, knows better."""
    told = timing or StepTiming(
        name=name,
        state=_SCRIPT_STATES.get(report.outcome, "failed"),
        started_at=report.started_at,
        ended_at=report.ended_at,
        error=report.error,
        remedy=report.remedy,
    )
    if not told.output:
        told = _replace(told, output=report.output, output_sha256=report.output_sha256)
    # Of this run: one before it may have been on another machine.
    return changed(ended(steps, told), name, warning=report.warning)


def over(doc: Job | None, event: Any, recorded: Recorded, row: str) -> Job | None:
    """The fold of any fact whose `timing` says how a step of a job ended."""
    return doc and moved(doc, ended(doc.steps, event.timing))


def moved(job: Job, steps: tuple[Step, ...], **changes: Any) -> Job:
    """A job with other steps, and the percent that follows."""
    return _replace(job, steps=steps, percent=max(job.percent, percent_of(steps)), **changes)


def closed(
    job: Job,
    *,
    state: JobState,
    when: dt.datetime,
    timings: Sequence[StepTiming] = (),
    error: Error | None = None,
    **changes: Any,
) -> Job:
    """A job at its end. Steps that were not reached are *skipped*, what still ran *cancelled*."""
    steps = _all_ended(job.steps, timings)
    percent = percent_of(steps)
    if state in ("completed", "partially-completed"):
        percent = 100.0
    return _replace(
        job,
        state=state,
        ended_at=when,
        percent=max(percent, job.percent),
        steps=tuple([s if s.state in DONE_STEPS else _left(s, when) for s in steps]),
        error=error,
        **changes,
    )


def _all_ended(steps: Sequence[Step], timings: Sequence[StepTiming]) -> tuple[Step, ...]:
    """As `ended` for each timing, in one pass: every routine iteration goes through here."""
    told = {timing.name: timing for timing in timings}
    after = [_ended(step, told.pop(step.name)) if step.name in told else step for step in steps]
    after += [_ended(Step(name=name), timing) for name, timing in told.items()]
    return tuple(after)


def _left(step: Step, when: dt.datetime) -> Step:
    if step.state == "running" or step.waiting is not None:
        return _replace(step, state="cancelled", ended_at=when, waiting=None)
    return _replace(step, state="skipped")
