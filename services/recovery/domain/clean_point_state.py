"""What a search for a clean point is at a moment: its trial, its verdicts, its phase, its outcome.

Owns the state, its folding and the rules read from it; what is asked and started when the phase
changes is `clean_point`'s.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final, Literal

import msgspec

from schemas import clean_points as said
from schemas.common import Problem, ScriptReport, StepState
from schemas.recovery import RecoveryState
from services.recovery.domain.clean_point_order import newest_clean

_replace = msgspec.structs.replace


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """The checkpoint that is being tried, by the test recovery `job`.

    `judging`: its script was asked for. `dirty`: the test made something. `cleaning` is the
    cleanup under way, `cleanups` how many were asked for.
    """

    number: int
    checkpoint: str
    job: str
    asked_at: dt.datetime
    started: bool = False
    ended: bool = False
    judging: bool = False
    script_started: bool = False
    judged: bool = False
    dirty: bool = False
    cleaning: str = ""
    cleanups: int = 0


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """A search. `verdicts` are in the order of the tries; `doubt` is the first one without a
    clear answer."""

    started: said.CleanPointSearchStarted | None = None
    verdicts: dict[str, said.Verdict] = {}
    trials: int = 0
    trial: Trial | None = None
    kept: str = ""
    left: str = ""
    cancelling: bool = False
    doubt: Problem | None = None
    problem: Problem | None = None
    finished: bool = False


Phase = Literal[
    "new", "choosing", "asking", "testing", "judging", "settling", "cleaning", "resting", "ended"
]


# ── Rules ────────────────────────────────────────────────────────────────────────────────────


def phase_of(state: Search) -> Phase:
    """Where the search stands; follows from the facts alone."""
    if state.started is None:
        return "new"
    if state.finished:
        return "ended"
    trial = state.trial
    if trial is None or (trial.judged and not trial.dirty):
        return "choosing"
    if not trial.ended:
        return "testing" if trial.started else "asking"
    if trial.judging and not trial.judged:
        return "judging"
    if not trial.dirty:
        return "choosing"
    if trial.cleaning:
        return "cleaning"
    return "resting" if trial.cleanups else "settling"


STEP_STATES: Final[dict[said.Verdict, StepState]] = {
    "clean": "completed",
    "infected": "completed",
    "failed": "failed",
    "unknown": "unknown",
}
"""An infected checkpoint is an answer: its step did what it was for."""


def verdict_of(report: ScriptReport) -> tuple[said.Verdict, str]:
    """What the end of the script says, and why. Only an exit code is an answer."""
    if report.outcome == "done":
        return "clean", ""
    if report.outcome == "failed" and report.exit_code is not None:
        return "infected", f"the verdict script ended with {report.exit_code}"
    return "unknown", f"the verdict script gave no answer: {report.error or report.outcome}"


def outcome_of(state: Search) -> RecoveryState:
    """The search's outcome, by the rules of product.md §5: a clean point is what is *usable*."""
    if state.cancelling:
        return "cancelled"
    if not newest_clean(checkpoints_of(told(state)), state.verdicts):
        return "failed"
    return "partially-completed" if state.problem or state.doubt else "completed"


def why(state: Search) -> Problem | None:
    """What a person must know about how the search ends; None where all is well."""
    if state.problem is not None:
        return state.problem
    start = told(state)
    if newest_clean(checkpoints_of(start), state.verdicts):
        return state.doubt
    untried = len(start.candidates) - len(state.verdicts)
    counts = [f"{list(state.verdicts.values()).count(v)} {v}" for v in STEP_STATES if v != "clean"]
    more = f", {untried} not tried" if untried else ""
    return Problem(
        code="no-clean-point",
        message=f"no clean checkpoint among {len(start.candidates)}: {', '.join(counts)}{more}",
        remedy="allow more tries, or look at the verdict script's output of each step",
    )


def checkpoints_of(start: said.CleanPointSearchStarted) -> list[str]:
    """The candidates, newest first."""
    return [each.checkpoint for each in start.candidates]


def told(state: Search) -> said.CleanPointSearchStarted:
    """What the search was started with; asserts that it was."""
    assert state.started is not None, "started before anything else"
    return state.started


def trial_of(state: Search) -> Trial:
    """The trial under way; asserts that there is one."""
    assert state.trial is not None, "a phase of a trial"
    return state.trial


# ── Folding ──────────────────────────────────────────────────────────────────────────────────


def evolve(state: Search, event: Any) -> Search:
    """Apply one fact."""
    match event:
        case said.CleanPointSearchStarted():
            return _replace(state, started=event)
        case said.CleanPointTestAsked():
            number = state.trials + 1
            trial = Trial(
                number=number, checkpoint=event.checkpoint, job=event.job, asked_at=event.at
            )
            return _replace(state, trials=number, trial=trial)
        case said.CleanPointTestStarted():
            return _tried(state, started=True)
        case said.CleanPointTestRefused():
            return _replace(state, trial=None, problem=state.problem or event.problem)
        case said.CleanPointTestEnded():
            judging = event.up and not state.cancelling
            return _tried(state, ended=True, judging=judging, dirty=event.awaits_cleanup)
        case said.VerdictScriptStarted():
            return _tried(state, script_started=True)
        case said.CleanPointJudged():
            return _judged(state, event)
        case said.CleanPointTestKept():
            return _replace(state, trial=None, kept=event.job)
        case said.CleanPointTestCleaning():
            return _tried(state, cleaning=event.cleanup, cleanups=event.attempt)
        case said.CleanPointTestCleaned():
            return _cleaned(state, event)
        case said.CleanPointSearchCancelRequested():
            return _replace(state, cancelling=True)
        case said.CleanPointSearchFinished():
            return _replace(state, finished=True, trial=None)
    raise AssertionError(f"{type(event).__name__} is no event of a search")


def _tried(state: Search, **changes: Any) -> Search:
    return _replace(state, trial=_replace(trial_of(state), **changes))


def _judged(state: Search, event: said.CleanPointJudged) -> Search:
    state = _tried(state, judged=True)
    if event.timing.state == "cancelled":
        return state
    verdicts = {**state.verdicts, event.checkpoint: event.verdict}
    doubt = state.doubt
    if doubt is None and event.verdict in ("failed", "unknown"):
        doubt = Problem(
            code=f"verdict-{event.verdict}",
            message=f"{event.checkpoint} could not be judged: {event.reason}",
            remedy=f"`seawall job show {event.job}`; search again once that is mended",
        )
    return _replace(state, verdicts=verdicts, doubt=doubt)


def _cleaned(state: Search, event: said.CleanPointTestCleaned) -> Search:
    if not event.remaining:
        return _replace(state, trial=None)
    if not event.given_up:
        return _tried(state, cleaning="")
    why = event.problem.message if event.problem is not None else f"{event.remaining} objects left"
    problem = Problem(
        code="left-over",
        message=f"test recovery {event.job} could not be cleaned up: {why}",
        remedy=f"look at the site, then `seawall cleanup {event.job}`",
    )
    return _replace(state, trial=None, left=event.job, problem=state.problem or problem)
