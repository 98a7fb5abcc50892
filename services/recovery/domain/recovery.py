"""A recovery: preflight, plan pre-script, VMs in boot order, plan post-script, outcome.

Saga, parent of one `vm-recovery` per VM. Decides when boot orders open, when the operation stops
and how it ends. Does not decide a VM's own steps (`vm_recovery`) nor how cleanup goes (`cleanup`).
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import msgspec

from schemas import operations as said_ops
from schemas import recovery as said
from schemas import recovery_steering as steer
from schemas.common import Problem, StepState, StepTiming
from schemas.envelope import Received
from schemas.ids import parts_of, stream_id
from schemas.recovery_work import PreflightReport
from schemas.scheduler import RecoveryEnded
from services.recovery.domain import (
    boot_orders,
    commit_window,
    left,
    plan_work,
    prompts,
    refusals,
    scripts,
)
from services.recovery.domain.operations import driving, of, securing, undoing
from services.recovery.domain.recovery_draft import RecoveryDraft
from services.recovery.domain.recovery_state import (
    Recovery,
    order_step,
    outcome_of,
    phase_of,
    plan_script,
    problem_of,
    question_due,
    rto_s,
    step_list,
    told,
)
from services.recovery.domain.recovery_steered import evolve
from services.recovery.domain.scripts import POST_STEP, PRE_STEP
from services.recovery.domain.work import merged_steps, refuted, step_of
from shared.decider import NOTHING, Decision, EffectOutcome, Family, Send, Timer
from shared.errors import Refused

DEFINITION_VERSION: Final = 1
AUTO_CLEANUP_TIMER: Final = "auto-cleanup"

RETRYING_S: Final = 10.0
"""So long waits a cleanup that falls due while the scheduler is asked about a retry."""


# ── Messages ─────────────────────────────────────────────────────────────────────────────────


def start(state: Recovery, received: Received) -> Decision:
    """Begin with preflight."""
    m: said.StartRecovery = received.body
    if state.started is not None:
        return NOTHING
    event = said.RecoveryStarted(
        job=m.job,
        plan=m.plan,
        plan_version=m.plan_version,
        mode=m.mode,
        header=m.header,
        members=m.members,
        checkpoint=m.checkpoint,
        skip_scripts=m.skip_scripts,
        on_error=m.on_error,
        dry_run=m.dry_run,
        requested_at=m.requested_at,
        actor=m.actor,
        last_sync=m.last_sync,
        source_gone=m.source_gone,
        auto_rollback=m.auto_rollback,
        homeward=m.homeward,
        definition_version=DEFINITION_VERSION,
        parent=m.parent,
    )
    return proceed(state, (msgspec.structs.replace(event, steps=step_list(event)),), received.at)


def script_started(state: Recovery, received: Received) -> Decision:
    """A plan script's process is about to exist. Committed under the claim of its effect."""
    m: said.PlanScriptStarted = received.body
    if state.running != scripts.part_of_run(m.step, m.run):
        return NOTHING
    return proceed(state, (m,), received.at)


def member_news(state: Recovery, received: Received) -> Decision:
    """A VM was powered on, is ready, or ended."""
    m: said.MemberNews = received.body
    if state.started is None or state.finished is not None or m.vm not in state.roster:
        return NOTHING
    event = _news_event(state, m)
    return NOTHING if event is None else proceed(state, (event,), received.at)


def source_news(state: Recovery, received: Received) -> Decision:
    """A VM's source is off, or is not, or is on again."""
    if state.started is None or state.finished is not None:
        return NOTHING
    event = driving.about_source(state, received.body)
    return NOTHING if event is None else proceed(state, (event,), received.at)


def last_sync_ended(state: Recovery, received: Received) -> Decision:
    """The last iteration of a VM ended."""
    event = driving.about_sync(state, received.body, at=received.at)
    return NOTHING if event is None else proceed(state, (event,), received.at)


def delay_over(state: Recovery, received: Received) -> Decision:
    """A boot delay may be over."""
    if phase_of(state) != "vms":
        return NOTHING
    return proceed(state, (), received.at)


def cancel(state: Recovery, received: Received) -> Decision:
    """Stop safely. Raises Refused `unknown-job` or `job-ended`."""
    m: said.CancelRecoveryJob = received.body
    begun, over = state.started is not None, state.finished is not None
    refusals.check_goes_on(m.job, begun=begun, over=over)
    if state.cancelling:
        return NOTHING
    return proceed(state, (said.RecoveryCancelRequested(at=received.at),), received.at)


def outcome(state: Recovery, received: Received) -> Decision:
    """An effect of the recovery itself ended: preflight, or a plan script."""
    ended: EffectOutcome = received.body
    if not ended.part or state.running != ended.part:
        return NOTHING
    if ended.part == "preflight":
        return proceed(state, (_preflight_end(state, ended),), received.at)
    step = ended.part.partition("/")[0]
    return proceed(state, (_script_end(state, step, ended),), received.at)


# ── Its cleanups ─────────────────────────────────────────────────────────────────────────────


def begin_cleanup(
    state: Recovery, *, job: str, cleanup: str, confirm: str = "", rollback: str = ""
) -> Decision:
    """A cleanup of this recovery begins. Raises Refused where there is nothing to clean, or a
    full recovery's instances are not to be: `rollback` names the roll back that asks for it."""
    end = state.finished
    refusals.check_made_something(
        job,
        "recovery",
        begun=state.started is not None,
        over=end is not None,
        cleaned=state.cleaned,
        made=end is not None and (end.awaits_cleanup or (end.awaits_commit and state.made)),
    )
    assert end is not None, "checked"
    if state.retrying is not None:
        raise Refused(f"{job} is about to be retried", code="still-running", remedy="wait for it")
    if end.awaits_commit and not (rollback and rollback == state.window.rolling_back):
        commit_window.check_cleanup(state, job, confirm=confirm)
    refusals.check_not_being_cleaned(job, state.cleaning)
    return Decision(
        events=(said.RecoveryCleaning(cleanup=cleanup),), cancel_timers=(AUTO_CLEANUP_TIMER,)
    )


def cleanup_news(state: Recovery, received: Received) -> Decision:
    """A cleanup ended: what it held for the instances is given back once nothing is left."""
    m: said.CleanupNews = received.body
    if state.cleaning != m.cleanup:
        return NOTHING
    event: Any = said.RecoveryCleaned(cleanup=m.cleanup)
    sends: tuple[Send, ...] = (commit_window.given_back(state),)
    if m.remaining:
        event = said.RecoveryCleanupIncomplete(cleanup=m.cleanup, remaining=m.remaining)
        sends = ()
    if state.window.rolling_back:
        # The roll back goes on, and the holds are given back when it is done.
        news = said_ops.RollbackCleaned(job=state.window.rolling_back, remaining=m.remaining)
        sends = (Send(to="recovery", key=told(state).plan, message=news),)
    return Decision(events=(event,), sends=sends)


def auto_cleanup(state: Recovery, received: Received) -> Decision:
    """The plan's `auto_cleanup_after` is over: ask for a cleanup, under an id of its own."""
    if state.finished is None or not state.finished.awaits_cleanup:
        return NOTHING
    if state.cleaning or state.cleaned:
        return NOTHING
    if state.retrying is not None:
        due = received.at + dt.timedelta(seconds=RETRYING_S)
        again = Timer(name=AUTO_CLEANUP_TIMER, due=due, message=said.AutoCleanupDue())
        return Decision(timers=(again,))
    start = told(state)
    _, plan, key = parts_of(start.job)
    message = said.BeginCleanup(job=stream_id("cleanup", plan, f"auto-{key}"), recovery=start.job)
    return Decision(sends=(Send(to="recovery", key=plan, message=message),))


# ── Facts ────────────────────────────────────────────────────────────────────────────────────


def _news_event(state: Recovery, m: said.MemberNews) -> Any:
    before = state.members.get(m.vm)
    if before is not None and (before.ended or before.round != m.round):
        return None
    match m.news:
        case "powered-on":
            known = before is not None and before.powered_on_at is not None
            return None if known else said.MemberPoweredOn(vm=m.vm, at=m.at)
        case "ready":
            if before is not None and before.ready_at is not None:
                return None
            return said.MemberReady(
                vm=m.vm, at=m.at, instance_id=m.instance_id, addresses=m.addresses
            )
    assert m.outcome is not None, "a VM that ended says how"
    stops = m.stop or (m.outcome == "failed" and told(state).on_error == "stop")
    return said.MemberEnded(
        vm=m.vm,
        at=m.at,
        outcome=m.outcome,
        degraded=m.degraded,
        stop=stops,
        made=m.made,
        problem=m.problem,
        again=m.again,
        failed_step=m.failed_step,
    )


def _preflight_end(state: Recovery, ended: EffectOutcome) -> said.PreflightFinished:
    site = told(state).header.recovery_site.site
    timing = step_of(ended, "preflight")
    if before := state.tried.get("preflight", 0):
        timing = msgspec.structs.replace(timing, attempts=timing.attempts + before)
    if not ended.ok:
        problem = Problem(
            code=ended.code or "preflight-failed",
            message=ended.error,
            remedy=ended.remedy or f"look at the site with `site check {site}`",
        )
        return said.PreflightFinished(timing=timing, problems=(problem,))
    report: PreflightReport = ended.result
    if report.problems:
        timing = refuted(timing, report.problems[0])
    return said.PreflightFinished(
        timing=timing,
        problems=report.problems,
        facts=report.facts,
        source_lost=report.source_lost,
    )


def _script_end(state: Recovery, step: str, ended: EffectOutcome) -> said.PlanScriptEnded:
    script = plan_script(state, step)
    assert script is not None, "a running script was chosen"
    current = state.pre if step == PRE_STEP else state.post
    run, report = current.run, scripts.report_of(ended)
    since = run - current.base
    again = not state.cancelling and scripts.goes_again(script, report, run=since)
    timing = scripts.timing_of(step, report, ended, run=run)
    return said.PlanScriptEnded(step=step, report=report, timing=timing, run=run, again=again)


def _finish(state: Recovery, now: dt.datetime) -> said.RecoveryFinished:
    start = told(state)
    tested = of(start.mode).ends_with == "cleanup"
    end = said.RecoveryFinished(
        plan=start.plan,
        mode=start.mode,
        state=outcome_of(state),
        rto_s=rto_s(state),
        ready=state.ready,
        failed=state.failed,
        steps=_all_steps(state),
        problem=problem_of(state),
        awaits_cleanup=state.made and tested,
        dry_run=start.dry_run,
        awaits_commit=not tested and commit_window.opens(state),
        note=securing.note(state.source),
        at=now,
        waited_s=state.waits.until(now),
        left=left.told_of(state) if state.cancelling else "",
    )
    return msgspec.structs.replace(end, undone_by=undoing.undone_by(state, end))


def _all_steps(state: Recovery) -> tuple[StepTiming, ...]:
    done = {step.name: step for step in merged_steps((*state.source.steps, *state.steps))}
    for number, order in state.by_order.items():
        if order.opened_at is not None:
            unsettled: StepState = "cancelled" if order.unsettled else "completed"
            done[order_step(number)] = StepTiming(
                name=order_step(number),
                state="failed" if order.failed else unsettled,
                started_at=order.opened_at,
                ended_at=order.settled_at,
            )
    names = (*told(state).steps, securing.RESTORE)
    return tuple(done[name] for name in names if name in done)


# ── From facts to decisions ──────────────────────────────────────────────────────────────────


def proceed(state: Recovery, events: tuple[Any, ...], now: dt.datetime) -> Decision:
    """The decision that goes with `events`: whatever the new phase starts, tells and ends."""
    draft = RecoveryDraft(state, now=now)
    for event in events:
        draft.say(event)
    if not draft.state.paused:
        driving.drive(draft)
    _halt(state, draft)
    if not draft.state.paused:
        _go_on(draft)
    part = draft.state.running
    if part and part != state.running:
        draft.effects.append(plan_work.effect_of(draft.state, part, now))
    if phase_of(draft.state) == "closing" and not draft.state.paused:
        _close(draft)
    return draft.decision(cancel_timers=_over_timers(state, draft.state))


def _go_on(draft: RecoveryDraft) -> None:
    if phase_of(draft.state) == "launch":
        boot_orders.launch(draft)
    if phase_of(draft.state) == "vms":
        boot_orders.open_due(draft)
    if (question := question_due(draft.state, draft.now)) is not None:
        draft.ask(question)


def _over_timers(before: Recovery, after: Recovery) -> tuple[str, ...]:
    unasked = before.question is not None and after.question is None
    waiting = (boot_orders.DELAY_TIMER,) if _ends_waiting(before, after) else ()
    return (*waiting, prompts.TIMER) if unasked else waiting


def _ends_waiting(before: Recovery, after: Recovery) -> bool:
    return phase_of(before) == "vms" and phase_of(after) != "vms" and len(before.orders) > 1


def _halt(before: Recovery, draft: RecoveryDraft) -> None:
    """Pass a stop or a cancel on, once: to the VMs, and to what the recovery itself runs."""
    state = draft.state
    if state.cancelling and not before.cancelling:
        _abandon(draft, "cancel")
        part = before.running
        post = plan_script(state, POST_STEP)
        always = part.startswith(POST_STEP) and post is not None and post.always
        if part and not always:
            draft.cancel_effects.append(part)
    elif state.stopping and not before.stopping and not state.cancelling:
        _abandon(draft, "stop")
        _unask(draft)


def _unask(draft: RecoveryDraft) -> None:
    """What was to be done by hand before a step that will not come is asked no more."""
    asked = draft.state.question
    if asked is None or asked.kind != "manual":
        return
    gone = steer.RecoveryAnswered(
        plan=told(draft.state).plan,
        step=asked.step,
        choice="skip",
        at=draft.now,
        timing=prompts.timing(asked, "skip", at=draft.now),
    )
    draft.say(gone)


def _abandon(draft: RecoveryDraft, reason: said.AbandonReason) -> None:
    for vm in draft.state.roster:
        member = draft.state.members.get(vm)
        if member is not None and member.ended:
            continue
        if reason == "stop" and member is not None and member.powered_on_at is not None:
            continue
        draft.tell_vm(vm, said.AbandonVm, reason=reason)


def _close(draft: RecoveryDraft) -> None:
    """End the recovery: its outcome, the holds it gives back, what waits for cleanup."""
    state = draft.state
    start = told(state)
    if not (state.launched or state.stopping or state.cancelling):
        _abandon(draft, "dry-run" if start.dry_run and not state.problems else "stop")
    end = _finish(state, draft.now)
    draft.say(end)
    ended = RecoveryEnded(
        plan=start.plan,
        job=start.job,
        mode=start.mode,
        state=end.state,
        rto_s=end.rto_s,
        moved=end.awaits_commit,
        stayed=securing.stayed(state.source) if end.awaits_commit else (),
    )
    # Whose VMs moved is said first: with the holds a tick that waits would start.
    for message in (ended, *commit_window.given_back_at_end(state, end, ended.stayed)):
        draft.sends.append(Send(to="scheduler", key=start.plan, message=message))
    if end.undone_by:
        message = undoing.begin(start.job, end.undone_by)
        draft.sends.append(Send(to="recovery", key=start.plan, message=message))
    if end.awaits_commit:
        draft.timers.append(commit_window.reminder(draft.now))
    after_s = start.header.recovery.auto_cleanup_after_s
    if end.awaits_cleanup and after_s is not None:
        due = draft.now + dt.timedelta(seconds=after_s)
        timer = Timer(name=AUTO_CLEANUP_TIMER, due=due, message=said.AutoCleanupDue())
        draft.timers.append(timer)


def _is_over(state: Recovery) -> bool:
    """Whether nothing more is to be decided about the recovery."""
    end = state.finished
    if end is None:
        return False
    if end.awaits_commit:
        return state.window.rolled_back or (bool(state.window.committed) and state.cleaned)
    return state.cleaned or not end.awaits_cleanup


FAMILY = Family(
    name="recovery",
    state=Recovery,
    initial=Recovery,
    evolve=evolve,
    is_terminal=_is_over,
    outcome=outcome,
    schema=5,
)
