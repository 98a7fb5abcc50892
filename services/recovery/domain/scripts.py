"""Scripts of a recovery: which ones run, and what the end of one means.

Owns the rules of product.md §6. How content is kept is `shared.scripts.stored`; running a script
is an effect.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final, Literal

import msgspec

from schemas.common import ScriptReport, ScriptWork, StepState, StepTiming
from schemas.envelope import Received
from schemas.plans import OnError, OnFailure, RecoveryHook, ScriptDefinition
from schemas.recovery import RecoveryScriptStored
from schemas.recovery_steering import Choice
from schemas.recovery_work import ScriptRan
from schemas.scheduler import RecoveryMode
from shared.decider import Decision, EffectOutcome
from shared.scripts import stored

PRE_STEP: Final = "pre-script"
POST_STEP: Final = "post-script"
RUNS_MAX: Final = 5
"""A repeatable script whose end stays unknown is given up after so many runs."""


def store_part(state: stored.ScriptContent, received: Received) -> Decision:
    """Keep one part of a script's content; a repeat gives nothing."""
    return stored.store_part(state, received, fact=RecoveryScriptStored)


# ── Which scripts run, and what their end means ──────────────────────────────────────────────


class ScriptRun(msgspec.Struct, frozen=True, kw_only=True):
    """How far a script is: its `run` (from 1), whether that began, whether all is over.

    `base` are the runs before a person had it run again: declared repeats count from there.
    `failed`: it is over and its last run failed. `asks`: a person is to judge its last run.
    """

    run: int = 1
    started: bool = False
    over: bool = False
    base: int = 0
    failed: bool = False
    asks: bool = False

    def anew(self) -> ScriptRun:
        """Another run, because a person wants it: another effect, so that each runs once."""
        return ScriptRun(run=self.run + 1, base=self.run)

    def ended(
        self, report: ScriptReport, *, again: bool, cancelled: bool, asks: bool
    ) -> ScriptRun:
        """After the end of the run under way."""
        if again:
            return ScriptRun(run=self.run + 1, base=self.base)
        if asks:
            return msgspec.structs.replace(self, asks=True)
        failed = report.outcome != "done" and not cancelled
        return msgspec.structs.replace(self, over=True, failed=failed)

    def answered(self, choice: Choice) -> ScriptRun:
        """After a person judged it. What is skipped is over, and its step says so."""
        if choice == "rerun":
            return self.anew()
        return msgspec.structs.replace(self, over=True, asks=False, failed=choice == "failed")


def part_of_run(step: str, run: int) -> str:
    """The effect part of a script's run: a declared repeat is another effect."""
    return step if run == 1 else f"{step}/{run}"


def chosen(
    script: ScriptDefinition | None,
    *,
    mode: RecoveryMode,
    hook: RecoveryHook,
    skip: tuple[str, ...],
    vm: str = "",
) -> ScriptDefinition | None:
    """The script if it runs here: declared for the operation, not deselected as `HOOK[:VM]`."""
    if script is None or mode not in script.operations:
        return None
    name = f"{hook}:{vm}" if vm else hook
    return None if name in skip else script


def on_failure(script: ScriptDefinition, policy: OnError) -> OnFailure:
    """What a failure of the script means: its own word, else the operation's policy."""
    return script.on_failure or policy


def report_of(outcome: EffectOutcome) -> ScriptReport:
    """How a script ended, from the end of its effect."""
    if outcome.ok and isinstance(outcome.result, ScriptRan):
        return outcome.result.report
    error, remedy = outcome.error, outcome.remedy
    verdict: Literal["failed", "killed", "unknown"] = "failed"
    if outcome.unknown:
        verdict = "unknown"
        error = "the script was started and its service ended: whether it did its work is unknown"
        remedy = remedy or "look at what the script changes, then run the operation again"
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
    """Whether the script is declared repeatable for this end; `run` counts since a person last
    had it run. With `prompt` a person says (`prompts`)."""
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
    )


def script_work(
    script: ScriptDefinition,
    *,
    step: str,
    plan: str,
    context: dict[str, Any],
    credentials: dict[str, str] | None = None,
) -> ScriptWork:
    """Everything the effect needs to run the script."""
    return ScriptWork(
        step=step,
        plan=plan,
        sha256=script.sha256,
        runtime=script.runtime,
        timeout_s=script.timeout_s,
        context=context,
        network=script.network,
        credentials=credentials or {},
    )


def moment(value: dt.datetime | None) -> str | None:
    """A moment as scripts read it: ISO 8601 with its zone."""
    return value.isoformat() if value is not None else None
