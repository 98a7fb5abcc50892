"""Find clean point: try checkpoints one at a time in isolation, judge each, clean each up.

Saga. Decides which test recovery is asked for, when the verdict script runs and what its end says.
Test recoveries, their holds and their cleanups are others': it asks for them by message. One at a
time, because two tests of a VM exclude each other (*own-instance*).

| action | forward | undo |
|---|---|---|
| test | `_ask_test`: the scheduler is asked for a test recovery | `_call_off`, then `_clean` |
| verdict | `_run_script` | `_stop_script` |
| keep or clean | `_keep_or_clean` | none: it is the undo of the test |
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from schemas import clean_points as said
from schemas.children import (
    CancelChild,
    ChildCleaned,
    ChildEnded,
    ChildRefused,
    ChildStarted,
    ParentEnded,
    RecoverChild,
)
from schemas.common import ScriptReport, ScriptWork, StepState, StepTiming
from schemas.envelope import Received
from schemas.ids import parts_of, stream_id
from schemas.recovery import BeginCleanup, CancelRecoveryJob
from schemas.recovery_work import RunScript
from schemas.scheduler import Recover
from services.recovery.domain import refusals, scripts
from services.recovery.domain.clean_point_order import newest_clean, next_checkpoint
from services.recovery.domain.clean_point_state import (
    STEP_STATES,
    Search,
    Trial,
    checkpoints_of,
    evolve,
    outcome_of,
    phase_of,
    told,
    trial_of,
    verdict_of,
    why,
)
from services.recovery.domain.draft import Draft
from services.recovery.domain.plan_work import vm_told
from services.recovery.domain.recovery_state import Recovery
from services.recovery.domain.work import recovery_effect
from shared.decider import NOTHING, Decision, Effect, EffectOutcome, Family, Send, Timer

# ── Parameters ───────────────────────────────────────────────────────────────────────────────

DEFINITION_VERSION: Final = 1
CLEANUPS_MAX: Final = 5
"""Cleanups of one test: each tries every deletion nine times (decision 0019)."""

CLEAN_AGAIN_S: Final = 10.0
PASSED_OVER: Final = frozenset({"unknown-checkpoint", "no-copy"})
"""Refusals that concern one checkpoint; whatever else is refused would be for the next one too."""

_CLEAN_TIMER: Final = "clean-again"
_STEP: Final = "verdict"


# ── Actions ──────────────────────────────────────────────────────────────────────────────────


def _ask_test(draft: _Draft) -> None:
    """Ask for the next checkpoint's test recovery, or end the search where there is none."""
    state, start = draft.state, told(draft.state)
    checkpoint = "" if state.cancelling or state.problem else _next(state)
    if not checkpoint:
        _finish(draft)
        return
    job = stream_id("recovery", start.plan, f"{_key(start)}-{state.trials + 1}")
    draft.say(said.CleanPointTestAsked(checkpoint=checkpoint, job=job, at=draft.now))
    recover = Recover(
        command_id=job,
        plan=start.plan,
        job=job,
        mode="test",
        vms=start.vms,
        checkpoint=checkpoint,
        skip_scripts=start.skip_scripts,
    )
    draft.tell("scheduler", RecoverChild(parent=start.job, recover=recover))


def _call_off(draft: _Draft) -> None:
    """Undo of a test that runs: it ends cancelled. One that is asked for is awaited first."""
    trial = trial_of(draft.state)
    draft.tell("recovery", CancelChild(job=trial.job))


def _run_script(draft: _Draft, child: Recovery) -> None:
    """All VMs of the test are ready: judge it."""
    draft.effects.append(_verdict_effect(draft.state, child))


def _stop_script(draft: _Draft) -> None:
    """Undo of a script that runs."""
    draft.cancel_effects.append(_part(trial_of(draft.state)))


def _keep_or_clean(draft: _Draft) -> None:
    """A test is judged, or will not be: it stays up where that was asked for, else it goes."""
    state, trial = draft.state, trial_of(draft.state)
    clean = state.verdicts.get(trial.checkpoint) == "clean"
    if clean and told(state).keep and not state.cancelling:
        draft.say(said.CleanPointTestKept(job=trial.job))
        return
    _clean(draft)


def _clean(draft: _Draft) -> None:
    """Undo of a test: everything it made goes, and a listing shows that it is gone."""
    trial, start = trial_of(draft.state), told(draft.state)
    attempt = trial.cleanups + 1
    _, plan, key = parts_of(trial.job)
    cleanup = stream_id("cleanup", plan, f"{key}-{attempt}")
    draft.say(said.CleanPointTestCleaning(job=trial.job, cleanup=cleanup, attempt=attempt))
    draft.tell("recovery", BeginCleanup(job=cleanup, recovery=trial.job, parent=start.job))


def _finish(draft: _Draft) -> None:
    state, start = draft.state, told(draft.state)
    end = said.CleanPointSearchFinished(
        plan=start.plan,
        state=outcome_of(state),
        clean_point=newest_clean(checkpoints_of(start), state.verdicts),
        judged=tuple(said.Judged(name, verdict) for name, verdict in state.verdicts.items()),
        kept=state.kept,
        left=state.left,
        problem=None if state.cancelling and not state.left else why(state),
    )
    draft.say(end)
    draft.tell("scheduler", ParentEnded(plan=start.plan, job=start.job, state=end.state))


# ── Definition ───────────────────────────────────────────────────────────────────────────────

_DUE: Final = {"choosing": _ask_test, "settling": _keep_or_clean}
"""Phase → what is done as soon as it is reached. In every other phase somebody is waited for."""

_UNDO: Final = {"testing": _call_off, "judging": _stop_script}
"""Phase → what a cancel does. Where nothing runs, nothing new is begun."""


class _Draft(Draft[Search]):
    """A decision about a search."""

    def tell(self, to: str, message: Any) -> None:
        self.sends.append(Send(to=to, key=told(self.state).plan, message=message))

    def done(self) -> Decision:
        """Whatever is due now, and the decision that comes of it."""
        while (action := _DUE.get(phase_of(self.state))) is not None:
            action(self)
        return self.decision()


# ── Implementations: messages ────────────────────────────────────────────────────────────────


def start(state: Search, received: Received) -> Decision:
    """Begin with the first checkpoint."""
    m: said.StartCleanPointSearch = received.body
    if state.started is not None:
        return NOTHING
    fields = {name: getattr(m, name) for name in m.__struct_fields__}
    draft = _Draft(state, now=received.at, evolve=evolve)
    draft.say(said.CleanPointSearchStarted(**fields, definition_version=DEFINITION_VERSION))
    return draft.done()


def child_started(state: Search, received: Received) -> Decision:
    """A test holds its VMs and runs; called off at once where the search was cancelled."""
    m: ChildStarted = received.body
    if phase_of(state) != "asking" or trial_of(state).job != m.job:
        return NOTHING
    draft = _Draft(state, now=received.at, evolve=evolve)
    draft.say(said.CleanPointTestStarted(job=m.job))
    if state.cancelling:
        _call_off(draft)
    return draft.done()


def child_refused(state: Search, received: Received) -> Decision:
    """A test could not start: this checkpoint is passed over, or the search ends."""
    m: ChildRefused = received.body
    if phase_of(state) != "asking" or trial_of(state).job != m.job:
        return NOTHING
    draft = _Draft(state, now=received.at, evolve=evolve)
    if state.cancelling or m.problem.code not in PASSED_OVER:
        draft.say(said.CleanPointTestRefused(job=m.job, problem=m.problem))
    else:
        _judge(draft, "unknown", reason=m.problem.message)
    return draft.done()


def child_ended(state: Search, child: Recovery, received: Received) -> Decision:
    """A test ended. With all its VMs ready the script runs; else there is nothing to judge."""
    m: ChildEnded = received.body
    if phase_of(state) not in ("asking", "testing") or trial_of(state).job != m.job:
        return NOTHING
    end = child.finished
    usable = end is not None and m.state in ("completed", "partially-completed")
    draft = _Draft(state, now=received.at, evolve=evolve)
    draft.say(
        said.CleanPointTestEnded(
            job=m.job,
            state=m.state,
            up=usable and child.ready == len(child.roster),
            # One that a person retries at this very moment is cleaned up after that.
            awaits_cleanup=end is None or end.awaits_cleanup,
        )
    )
    if phase_of(draft.state) == "judging":
        _run_script(draft, child)
    elif not state.cancelling:
        problem = end.problem if end is not None else None
        why = problem.message if problem is not None else "not all its VMs became ready"
        verdict: said.Verdict = "unknown" if end is None or m.state == "cancelled" else "failed"
        _judge(draft, verdict, reason=f"its test recovery ended {m.state}: {why}")
    return draft.done()


def script_started(state: Search, received: Received) -> Decision:
    """The script's process is about to exist. Committed under the claim of its effect."""
    m: said.VerdictScriptStarted = received.body
    if phase_of(state) != "judging" or trial_of(state).number != m.trial:
        return NOTHING
    return Decision(events=(m,))


def outcome(state: Search, received: Received) -> Decision:
    """The verdict script ended."""
    ended: EffectOutcome = received.body
    if phase_of(state) != "judging" or ended.part != _part(trial_of(state)):
        return NOTHING
    report = scripts.report_of(ended)
    verdict, reason = verdict_of(report)
    draft = _Draft(state, now=received.at, evolve=evolve)
    _judge(draft, verdict, reason=reason, report=report)
    return draft.done()


def child_cleaned(state: Search, received: Received) -> Decision:
    """A cleanup came back. Without proof that all is gone it is asked for again, up to a bound:
    the next test needs what this one holds."""
    m: ChildCleaned = received.body
    if phase_of(state) != "cleaning" or trial_of(state).cleaning != m.cleanup:
        return NOTHING
    attempt = trial_of(state).cleanups
    given_up = m.remaining > 0 and attempt >= CLEANUPS_MAX
    draft = _Draft(state, now=received.at, evolve=evolve)
    draft.say(
        said.CleanPointTestCleaned(
            job=m.recovery, remaining=m.remaining, problem=m.problem, given_up=given_up
        )
    )
    if m.remaining and not given_up:
        due = received.at + dt.timedelta(seconds=CLEAN_AGAIN_S)
        message = said.CleanAgainDue(attempt=attempt + 1)
        draft.timers.append(Timer(name=_CLEAN_TIMER, due=due, message=message))
    return draft.done()


def clean_again(state: Search, received: Received) -> Decision:
    """Time to clean a test up once more."""
    m: said.CleanAgainDue = received.body
    if phase_of(state) != "resting" or trial_of(state).cleanups + 1 != m.attempt:
        return NOTHING
    draft = _Draft(state, now=received.at, evolve=evolve)
    _clean(draft)
    return draft.done()


def cancel(state: Search, received: Received) -> Decision:
    """Stop safely and clean up. Raises Refused `unknown-job` or `job-ended`."""
    m: CancelRecoveryJob = received.body
    begun, over = state.started is not None, state.finished
    refusals.check_goes_on(m.job, begun=begun, over=over)
    if state.cancelling:
        return NOTHING
    draft = _Draft(state, now=received.at, evolve=evolve)
    draft.say(said.CleanPointSearchCancelRequested())
    undo = _UNDO.get(phase_of(state))
    if undo is not None:
        undo(draft)
    return draft.done()


# ── Implementations: verdicts ────────────────────────────────────────────────────────────────


def _judge(
    draft: _Draft, verdict: said.Verdict, *, reason: str, report: ScriptReport | None = None
) -> None:
    """Record a verdict here and, unless the search was cancelled meanwhile, on the checkpoint."""
    state, trial, start = draft.state, trial_of(draft.state), told(draft.state)
    stopped = state.cancelling and verdict == "unknown"
    step: StepState = STEP_STATES[verdict]
    timing = StepTiming(
        name=trial.checkpoint,
        state="cancelled" if stopped else step,
        started_at=trial.asked_at,
        ended_at=draft.now,
        error="" if step == "completed" else reason,
        output="" if report is None else report.output,
        output_sha256="" if report is None else report.output_sha256,
        warning="" if report is None else report.warning,
    )
    draft.say(
        said.CleanPointJudged(
            checkpoint=trial.checkpoint,
            verdict=verdict,
            job=trial.job,
            at=draft.now,
            timing=timing,
            report=report,
            reason=reason,
        )
    )
    if stopped:
        return
    record = said.RecordVerdict(
        plan=start.plan,
        checkpoint=trial.checkpoint,
        verdict=verdict,
        job=start.job,
        at=draft.now,
        script_sha256=start.verdict.sha256,
        reason=reason,
    )
    draft.tell("scheduler", record)


# ── Implementations: parts ───────────────────────────────────────────────────────────────────


def _verdict_effect(state: Search, child: Recovery) -> Effect:
    start, trial = told(state), trial_of(state)
    created = {each.checkpoint: each.created_at for each in start.candidates}
    site = start.header.recovery_site.site
    context: dict[str, Any] = {
        "hook": _STEP,
        "operation": "find-clean-point",
        "job": start.job,
        "test": trial.job,
        "plan": {"name": start.plan, "version": start.plan_version, "recovery_site": site},
        "checkpoint": trial.checkpoint,
        "checkpoint_created_at": scripts.moment(created[trial.checkpoint]),
        "vms": [vm_told(child, vm) for vm in child.roster],
    }
    work = ScriptWork(
        step=_STEP,
        plan=start.plan,
        sha256=start.verdict.sha256,
        runtime=start.verdict.runtime,
        timeout_s=start.verdict.timeout_s,
        context=context,
        network=start.verdict.network,
    )
    return recovery_effect(
        _part(trial),
        "run-verdict",
        RunScript(work=work, run=trial.number),
        site=site,
        plan=start.plan,
        due=start.requested_at,
        priority=start.header.replication.priority,
    )


def _part(trial: Trial) -> str:
    return f"{_STEP}/{trial.number}"


def _next(state: Search) -> str:
    start = told(state)
    return next_checkpoint(
        start.order, checkpoints_of(start), state.verdicts, tries_max=start.tries_max
    )


def _key(start: said.CleanPointSearchStarted) -> str:
    return parts_of(start.job)[-1]


FAMILY = Family(
    name="find-clean-point",
    state=Search,
    initial=Search,
    evolve=evolve,
    is_terminal=lambda state: state.finished,
    outcome=outcome,
)
