"""Questions to people: scripts whose end is unknown, and what an answer to any question means.

Owns the choices, the time-out of a prompt, and which answers are refused. What a choice does to a
recovery or a VM is their own fold's.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Final, Protocol, get_args

from schemas.common import ScriptReport, StepState, StepTiming
from schemas.plans import ScriptDefinition
from schemas.recovery_steering import TIME_OUT, Choice, Question
from services.recovery.domain.scripts import POST_STEP, PRE_STEP, ScriptRun
from shared.decider import Timer
from shared.errors import Refused

PROMPT_TIMEOUT_S: Final = 4 * 3600.0
"""How long a script of unknown end waits for a person before it counts as failed."""

CHOICES: Final[tuple[Choice, ...]] = ("done", "failed", "rerun", "skip")
TIMER: Final = "answer"

_STATES: Final[dict[Choice, StepState]] = {
    "done": "completed",
    "failed": "failed",
    "skip": "skipped",
}


class Steered(Protocol):
    """What asks: its scripts, and how often its other steps were tried before."""

    @property
    def pre(self) -> ScriptRun: ...
    @property
    def post(self) -> ScriptRun: ...
    @property
    def tried(self) -> Mapping[str, int]: ...


def asks(script: ScriptDefinition, report: ScriptReport) -> bool:
    """Whether the end of a script is for a person to judge."""
    return report.outcome == "unknown" and script.on_unknown == "prompt"


def question(script: ScriptDefinition, step: str, *, number: int, at: dt.datetime) -> Question:
    """What is asked about a script that was cut off."""
    return Question(
        step=step,
        number=number,
        kind="unknown-script",
        text=f"{script.run} was started and its end is not known: did it do its work? "
        "Look at what it changes. `done`: it did; `failed`: it did not; `rerun`: run it again; "
        "`skip`: go on without it.",
        choices=CHOICES,
        default="failed",
        at=at,
        until=at + dt.timedelta(seconds=PROMPT_TIMEOUT_S),
    )


def checked(
    asked: Question | None, *, job: str, step: str, choice: str, elsewhere: str = ""
) -> Choice:
    """A choice that the open question allows. Raises Refused `no-question` or `invalid`.

    `elsewhere` says where else a question about the step is open, if it is.
    """
    if asked is None or asked.step != step:
        waits = f"it waits at {asked.step}" if asked is not None else "see `job show`"
        raise Refused(
            f"{job} asks nothing at step {step!r}",
            code="no-question",
            remedy=elsewhere or waits,
        )
    for known in get_args(Choice):
        if known == choice and known in asked.choices:
            return known  # type: ignore[no-any-return]
    raise Refused(
        f"choice: found {choice!r}; allowed: {', '.join(asked.choices)}",
        code="invalid",
        remedy="answer with one of these",
    )


def timing(
    asked: Question, choice: Choice, *, at: dt.datetime, attempts: int = 1, by: str = ""
) -> StepTiming | None:
    """The step as an answer ends it; None where it goes on."""
    if choice == "rerun":
        return None
    error = ""
    if choice == "failed":
        who = "nobody answered in time" if by == TIME_OUT else f"so {by} answered"
        error = f"{asked.step} failed: {who}"
    return StepTiming(
        name=asked.step,
        state=_STATES[choice],
        attempts=attempts,
        started_at=asked.at,
        ended_at=at,
        error=error,
    )


def answered(
    asked: Question, choice: Choice, *, state: Steered, at: dt.datetime, by: str
) -> StepTiming | None:
    """`timing` of a question that a recovery or a VM asked, with the step's attempts so far."""
    runs = {PRE_STEP: state.pre.run, POST_STEP: state.post.run}
    attempts = runs.get(asked.step) or 1 + state.tried.get(asked.step, 0)
    return timing(asked, choice, at=at, attempts=attempts, by=by)


def timer(asked: Question, message: object) -> Timer:
    """The end of the wait for an answer."""
    return Timer(name=TIMER, due=asked.until, message=message)
