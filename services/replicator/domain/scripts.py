"""Scripts around replication: which ones run, and what the end of one means.

Owns the rules of product.md §6 as far as replication goes. How content is kept is
`shared.scripts.stored`; running a script is an effect.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from schemas.common import Problem, ScriptReport, ScriptWork, StepState, StepTiming
from schemas.envelope import Received
from schemas.plans import OnFailure, Operation, ScriptDefinition
from schemas.replicator import ScriptStored
from schemas.replicator_work import ScriptRan
from shared.decider import Decision, EffectOutcome
from shared.scripts import stored

PRE_STEP: Final = "pre-script"
POST_STEP: Final = "post-script"
SCRIPT_STEPS: Final = (PRE_STEP, POST_STEP)
RUN_SCRIPT: Final = "run-script"
RUNS_MAX: Final = 5
"""A repeatable script whose end stays unknown is given up after so many runs."""

ON_FAILURE_DEFAULT: Final[OnFailure] = "continue"
"""Replication has no on-error policy of its own, and a copy beats none: it goes on and says so."""


def store_part(state: stored.ScriptContent, received: Received) -> Decision:
    """Keep one part of a script's content; a repeat gives nothing."""
    return stored.store_part(state, received, fact=ScriptStored)


# ── Which scripts run, and what their end means ──────────────────────────────────────────────


class ScriptRun(msgspec.Struct, frozen=True, kw_only=True):
    """How far a script is: its `run` (from 1), whether that began, whether all is over."""

    run: int = 1
    started: bool = False
    over: bool = False


def part_of_run(step: str, run: int) -> str:
    """The effect part of a script's run: a declared repeat is another effect."""
    return step if run == 1 else f"{step}/{run}"


def runs_here(
    script: ScriptDefinition | None, operation: Operation = "replication"
) -> ScriptDefinition | None:
    """The script if it is declared for the operation that the replication is part of."""
    return script if script is not None and operation in script.operations else None


def on_failure(script: ScriptDefinition) -> OnFailure:
    """What a failure of the script means."""
    return script.on_failure or ON_FAILURE_DEFAULT


def report_of(outcome: EffectOutcome) -> ScriptReport:
    """How a script ended, from the end of its effect."""
    if outcome.ok and isinstance(outcome.result, ScriptRan):
        return outcome.result.report
    verdict: Literal["failed", "killed", "unknown"] = "failed"
    error, remedy = outcome.error, outcome.remedy
    if outcome.unknown:
        verdict = "unknown"
        error = "the script was started and its service ended: whether it did its work is unknown"
        remedy = remedy or "look at what the script changes, then let the next iteration run it"
    elif outcome.code == "cancelled":
        verdict, error = "killed", "cancelled"
    return ScriptReport(
        outcome=verdict,
        error=error,
        remedy=remedy,
        started_at=outcome.started_at,
        ended_at=outcome.at,
    )


def goes_again(script: ScriptDefinition, report: ScriptReport, *, run: int) -> bool:
    """Whether the script is declared repeatable for this end. `prompt` counts as *fail*."""
    if report.outcome == "unknown":
        return script.on_unknown == "rerun" and run < RUNS_MAX
    return report.outcome in ("failed", "timed-out", "killed") and run <= script.retries


def timing_of(step: str, report: ScriptReport, outcome: EffectOutcome, *, run: int) -> StepTiming:
    """The finished step of a script's run."""
    state: StepState = "completed"
    if outcome.code == "cancelled" and not outcome.unknown:
        state = "cancelled"
    elif report.outcome != "done":
        state = "unknown" if report.outcome == "unknown" else "failed"
    return StepTiming(
        name=step,
        state=state,
        attempts=run,
        started_at=report.started_at or outcome.started_at,
        ended_at=report.ended_at or outcome.at,
        error=report.error,
        remedy=report.remedy,
        warning=report.warning,
        output=report.output,
        output_sha256=report.output_sha256,
    )


def script_problem(script: ScriptDefinition, step: str, report: ScriptReport) -> Problem:
    """What a failed script means, in words for the job."""
    return Problem(
        code=f"script-{report.outcome}",
        message=f"{step} {script.run}: {report.error}",
        remedy=report.remedy or "mend the script and apply the plan again",
    )


def script_work(
    script: ScriptDefinition, *, step: str, plan: str, context: dict[str, Any]
) -> ScriptWork:
    """Everything the effect needs to run the script. Replication hands out no credentials."""
    return ScriptWork(
        step=step,
        plan=plan,
        sha256=script.sha256,
        runtime=script.runtime,
        timeout_s=script.timeout_s,
        context=context,
        network=script.network,
    )
