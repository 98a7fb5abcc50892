"""Steering a recovery: pause, resume, answer, retry and skip, as people ask for them.

Decides what makes sense and refuses the rest with its reason. An ended recovery goes on under its
own id: the scheduler is asked for its holds first, so that nothing else touches the VMs. What
each fact does is `recovery_steered`'s; a VM's own part is in `vm_steering`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from schemas import recovery_steering as steer
from schemas.common import CommandSettled
from schemas.envelope import Received
from schemas.ids import family_of, parts_of, stream_id
from schemas.units import some_of
from services.recovery.domain import (
    commit_window,
    naming,
    prompts,
    refusals,
    stranded,
    vm_steering,
)
from services.recovery.domain.operations import of, securing
from services.recovery.domain.recovery import AUTO_CLEANUP_TIMER, proceed
from services.recovery.domain.recovery_state import (
    MemberState,
    Recovery,
    phase_of,
    told,
)
from services.recovery.domain.scripts import POST_STEP, PRE_STEP
from services.recovery.domain.vm_state import VmRecovery, vm_stream
from shared.decider import NOTHING, Decision, Send
from shared.errors import Refused

NAMED_MAX: Final = 10
"""VMs that a refusal names; more are counted."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a retry does again: steps of the recovery itself and VMs; `skip` is gone on without,
    of `vm` where that is named."""

    steps: tuple[str, ...] = ()
    vms: tuple[str, ...] = ()
    skip: str = ""
    vm: str = ""


# ── Pause, resume, answer ────────────────────────────────────────────────────────────────────


def pause(state: Recovery, received: Received) -> Decision:
    """Start no new step. Raises Refused `unknown-job`, `job-ended` or `cancelling`."""
    job = received.body.job
    _check_goes_on(state, job)
    if state.cancelling:
        raise Refused(f"{job} is being cancelled", code="cancelling", remedy="wait for its end")
    if state.paused:
        return NOTHING
    paused = steer.RecoveryPaused(at=received.at, actor=received.meta.actor)
    return _with_vms(state, proceed(state, (paused,), received.at), steer.PauseVm)


def resume(state: Recovery, received: Received) -> Decision:
    """Go on. Raises Refused `unknown-job` or `job-ended`."""
    _check_goes_on(state, received.body.job)
    if not state.paused:
        return NOTHING
    resumed = steer.RecoveryResumed(at=received.at, actor=received.meta.actor)
    return _with_vms(state, proceed(state, (resumed,), received.at), steer.ResumeVm)


def answer(state: Recovery, received: Received) -> Decision:
    """A person answers a question of the recovery itself. Raises Refused."""
    m: steer.AnswerQuestion = received.body
    _check_goes_on(state, m.job)
    choice = prompts.checked(
        state.question,
        job=m.job,
        step=m.step,
        choice=m.choice,
        elsewhere=_asked_elsewhere(state, m.step),
    )
    return _answered(state, choice, received.at, actor=received.meta.actor)


def answer_due(state: Recovery, received: Received) -> Decision:
    """Nobody answered in time: the question's default stands."""
    m: steer.AnswerDue = received.body
    asked = state.question
    if asked is None or asked.number != m.number or state.finished is not None:
        return NOTHING
    return _answered(state, asked.default, received.at, actor=steer.TIME_OUT)


def member_asks(state: Recovery, received: Received) -> Decision:
    """A VM waits for a person, or no longer."""
    m: steer.MemberAsks = received.body
    member = state.members.get(m.vm, MemberState())
    if state.finished is not None or m.vm not in state.roster or member.ended:
        return NOTHING
    if member.round != m.round or bool(member.asks) == m.open:
        return NOTHING
    kind = steer.MemberAsked if m.open else steer.MemberAnswered
    return proceed(state, (kind(vm=m.vm, step=m.step, at=m.at),), received.at)


def _answered(state: Recovery, choice: steer.Choice, now: dt.datetime, *, actor: str) -> Decision:
    asked = state.question
    assert asked is not None, "a question was answered"
    event = steer.RecoveryAnswered(
        plan=told(state).plan,
        step=asked.step,
        choice=choice,
        at=now,
        actor=actor,
        timing=prompts.answered(asked, choice, state=state, at=now, by=actor),
    )
    return proceed(state, (event,), now)


def _asked_elsewhere(state: Recovery, step: str) -> str:
    for vm, member in state.members.items():
        if member.asks == step:
            return f"VM {vm!r} waits at it: answer {vm_stream(told(state).job, vm)}"
    return ""


def _check_goes_on(state: Recovery, job: str) -> None:
    if state.started is None:
        raise refusals.no_job(job)
    if state.finished is not None:
        raise Refused(
            f"job {job} has ended: {state.finished.state}",
            code="job-ended",
            remedy="`seawall job retry` does again what failed",
        )


def _with_vms(state: Recovery, decision: Decision, message: type) -> Decision:
    """The VMs are told as well; messages are in order, so before whatever else they hear."""
    start = told(state)
    if not state.launched:
        return decision
    sends = tuple(
        Send(to="recovery", key=start.plan, message=message(stream=vm_stream(start.job, vm)))
        for vm in state.roster
        if not state.members.get(vm, MemberState()).ended
    )
    return msgspec.structs.replace(decision, sends=(*sends, *decision.sends))


# ── Retry and skip ───────────────────────────────────────────────────────────────────────────


def route(received: Received) -> tuple[str, ...]:
    """A recovery alone, or a VM's recovery and the one it belongs to; the job asked for first."""
    job = naming.stream_of_job(received.body.job)
    if family_of(job) != "vm-recovery":
        return (job,)
    _, plan, key, _ = parts_of(job)
    return job, stream_id("recovery", plan, key)


def retry(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Do again what failed. Raises Refused with the reason where that makes no sense."""
    m: steer.RetryJob = received.body
    job, parent = _streams(states, m.job, "retried")
    state: Recovery = states[parent]
    _check_may_go_on(state, parent)
    if job == parent:
        wanted = _failed(state, m.step)
    else:
        vm = vm_steering.retried(states[job], job=job, step=m.step)
        _check_fenced(state, vm)
        _check_heard_of(state, vm, job)
        wanted = Wanted(vms=(vm, *_never_done(state, but=vm)))
    _check_word(state, wanted, word=m.source_gone)
    return {parent: _go_on(state, wanted, received)}


def skip(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Go on without a failed step, or without one that waits for a person. Raises Refused."""
    m: steer.SkipStep = received.body
    job, parent = _streams(states, m.job, "skipped")
    vm_steering.check_skippable(m.step)
    if states[job].question is not None and states[job].question.step == m.step:
        decide = answer if job == parent else vm_steering.answer
        as_answer = steer.AnswerQuestion(
            command_id=m.command_id, job=m.job, step=m.step, choice="skip"
        )
        return {job: decide(states[job], msgspec.structs.replace(received, body=as_answer))}
    state: Recovery = states[parent]
    _check_may_go_on(state, parent)
    if job == parent:
        wanted = Wanted(skip=_stopped_at(state, m.step), vms=_never_done(state))
    else:
        vm = vm_steering.skipped(states[job], job=job, step=m.step)
        _check_fenced(state, vm)
        _check_heard_of(state, vm, job)
        wanted = Wanted(vms=(vm, *_never_done(state, but=vm)), skip=m.step, vm=vm)
    _check_word(state, wanted, word=False)
    return {parent: _go_on(state, wanted, received)}


def holds_answered(state: Recovery, received: Received) -> Decision:
    """The scheduler's word: the VMs are held again and the recovery goes on, or why not."""
    m: steer.HoldsAnswered = received.body
    asked = state.retrying
    if asked is None or asked.command_id != m.command_id:
        return NOTHING
    job = told(state).job
    if m.problem is not None:
        refused = CommandSettled(
            command_id=m.command_id,
            outcome="refused",
            code=m.problem.code,
            message=m.problem.message,
            remedy=m.problem.remedy,
            stream=job,
        )
        event = steer.RetryRefused(command_id=m.command_id, problem=m.problem)
        return Decision(events=(event,), answers=(refused,))
    wanted = Wanted(steps=asked.steps, vms=asked.vms, skip=asked.skip, vm=asked.vm)
    decision = _reopen(state, wanted, received.at, actor=asked.actor)
    done = CommandSettled(command_id=m.command_id, outcome="done", stream=job)
    return msgspec.structs.replace(decision, answers=(done,))


def _streams(states: Mapping[str, Any], job: str, what: str) -> tuple[str, str]:
    """The job's own stream and its recovery's. Raises Refused for all that is neither a recovery
    nor a VM's; a cleanup is repeated as a new job."""
    if family_of(job) == "cleanup":
        raise Refused(
            f"a cleanup is not {what}",
            code="not-available",
            remedy="`seawall cleanup RECOVERY` cleans what is left",
        )
    parent = tuple(states)[-1]
    if not isinstance(states.get(job), Recovery | VmRecovery):
        raise refusals.no_job(job)
    if not isinstance(states[parent], Recovery):
        raise refusals.no_job(job)
    return job, parent


def _check_may_go_on(state: Recovery, job: str) -> None:
    if state.started is None:
        raise refusals.no_job(job)
    if state.started.dry_run:
        raise Refused(f"{job} was a dry run", code="nothing-failed", remedy="start a recovery")
    if state.cancelling:
        raise Refused(
            f"{job} was cancelled", code="job-cancelled", remedy="clean it up and start another"
        )
    if state.retrying is not None:
        raise Refused(f"{job} is being retried already", code="retry-pending", remedy="wait")
    if state.finished is not None and _has_window(state):
        _check_window(state, job)
    if state.cleaned or state.cleaning:
        raise Refused(
            f"what {job} made is {'gone' if state.cleaned else 'being removed'}",
            code="already-cleaned" if state.cleaned else "being-cleaned",
            remedy="start another recovery",
        )
    if state.finished is None and (state.stopping or phase_of(state) != "vms"):
        raise Refused(
            f"{job} is at a point where nothing joins it any more",
            code="still-running",
            remedy="wait for its end, then try again",
        )


def _check_heard_of(state: Recovery, vm: str, job: str) -> None:
    """In a running recovery news is under way: of the VM's end, or that it goes on already."""
    if state.finished is None and not state.members.get(vm, MemberState()).ended:
        raise Refused(f"{job} is about to go on or to end", code="still-running", remedy="wait")


def _has_window(state: Recovery) -> bool:
    return of(told(state).mode).ends_with == "commit"


def _check_window(state: Recovery, job: str) -> None:
    """An ended full recovery goes on while nobody has decided about it: its sources are off, its
    VMs are held, and what came up is kept. Raises Refused."""
    start = told(state)
    another = f"start another with `seawall recover {start.plan} --mode {start.mode}`"
    try:
        commit_window.check_open(state, job, verb="retry")
    except Refused as closed:
        remedy = closed.remedy or (
            "wait for its end" if closed.code.startswith("being") else another
        )
        raise Refused(closed.message, code=closed.code, remedy=remedy) from closed
    commit_window.check_whole(state, job)
    stranded.check_may_go_on(state, job)
    if state.source.restoring_at is not None:
        raise Refused(
            f"{job} took its sources back: some of them run, and two of a VM must not",
            code="taken-back",
            remedy=f"`seawall rollback {job}` switches on what stayed off; then {another}",
        )
    if (end := state.finished) is not None and end.undone_by:
        raise Refused(
            f"{job} is undone by itself: {end.undone_by}",
            code="being-rolled-back",
            remedy=f"`seawall job show {end.undone_by}`; where it could not end, roll back again",
        )


def _check_word(state: Recovery, wanted: Wanted, *, word: bool) -> None:
    """A VM whose source nobody saw off was recovered by a person's word. Once the job has ended
    that word is old: the site may be back, so it must be given again. Raises Refused."""
    if state.finished is None or not _has_window(state) or word:
        return
    unseen = [vm for vm in wanted.vms if not securing.seen_off(state.source, vm)]
    if unseen:
        job = told(state).job
        raise Refused(
            f"the source of {some_of(unseen, NAMED_MAX)} was never seen off, and may run by now: "
            "two of it must not run",
            code="source-gone",
            remedy="only if you know that it does not run: "
            f"`seawall job retry {job} --source-gone`",
        )


def _check_fenced(state: Recovery, vm: str) -> None:
    if securing.runs_still(state.source, vm):
        raise Refused(
            f"the source of VM {vm!r} could not be shut down: two of it must not run",
            code="not-fenced",
            remedy="power it off at its site, and recover that VM once this job is committed",
        )


def _failed(state: Recovery, step: str) -> Wanted:
    """All that failed of a recovery, or one step of its own."""
    running = state.finished is None
    steps = () if running else _failed_steps(state)
    vms = tuple(
        vm
        for vm, member in state.members.items()
        if member.ended
        and (member.outcome == "failed" or member.again)
        and not securing.runs_still(state.source, vm)
    )
    waiting = state.question is not None or any(m.asks for m in state.members.values())
    if step and step not in steps:
        raise Refused(
            f"step {step!r} of the recovery has not failed",
            code="not-failed",
            remedy=f"failed are: {', '.join(steps)}" if steps else "see `job show`",
        )
    if not steps and not vms and not _never_done(state):
        raise Refused(
            "nothing failed that could be done again",
            code="waiting" if waiting else "nothing-failed",
            remedy="answer what it asks" if waiting else "see `job show`",
        )
    if step:
        return Wanted(steps=(step,), vms=_never_done(state))
    return Wanted(steps=steps, vms=(*vms, *_never_done(state)))


def _failed_steps(state: Recovery) -> tuple[str, ...]:
    preflight = state.preflight is not None and bool(state.preflight.problems)
    by_hand = tuple(name for name, how in state.by_hand.items() if how == "failed")
    if state.finished is not None and state.launched and _has_window(state):
        # What comes before the VMs was gone on without: it is not done behind their back.
        return (POST_STEP,) if state.post.failed else ()
    return (
        *(("preflight",) if preflight else ()),
        *by_hand,
        *((PRE_STEP,) if state.pre.failed else ()),
        *((POST_STEP,) if state.post.failed else ()),
    )


def _never_done(state: Recovery, *, but: str = "") -> tuple[str, ...]:
    """VMs that an ended recovery gave up without an attempt: it goes on with all of them."""
    if state.finished is None:
        return ()
    ended = state.members
    return tuple(
        vm
        for vm in state.roster
        if vm != but and (vm not in ended or ended[vm].outcome in (None, "skipped"))
    )


def _stopped_at(state: Recovery, step: str) -> str:
    """The failed step of the plan that ended the recovery. Raises Refused."""
    if state.finished is None or step not in _failed_steps(state):
        raise Refused(
            f"step {step!r} of the recovery has not failed",
            code="not-failed",
            remedy="name a failed step; one of a VM with the VM's job",
        )
    if not _never_done(state) or step == POST_STEP:
        raise Refused(
            f"the recovery has gone on without {step!r} already",
            code="gone-on",
            remedy="`seawall job retry` does it again",
        )
    return step


def _go_on(state: Recovery, wanted: Wanted, received: Received) -> Decision:
    """At once while the recovery runs, else once the scheduler grants its holds."""
    actor = received.meta.actor
    if state.finished is None:
        return _rejoin(state, wanted, received.at, actor=actor)
    start = told(state)
    asked = steer.RetryRequested(
        command_id=received.body.command_id,
        steps=wanted.steps,
        vms=wanted.vms,
        skip=wanted.skip,
        vm=wanted.vm,
        actor=actor,
    )
    ask = steer.HoldAgain(
        plan=start.plan,
        job=start.job,
        mode=start.mode,
        checkpoint=start.checkpoint,
        vms=wanted.vms
        or tuple(vm for vm in state.roster if not securing.runs_still(state.source, vm)),
        command_id=received.body.command_id,
    )
    send = Send(to="scheduler", key=start.plan, message=ask)
    return Decision(events=(asked,), sends=(send,), defer=True)


def _rejoin(state: Recovery, wanted: Wanted, now: dt.datetime, *, actor: str) -> Decision:
    """VMs that failed go on in a recovery that still runs: its holds stand."""
    members = _members(state, wanted)
    decision = proceed(state, members, now)
    return _with_retries(state, decision, wanted, members, actor=actor)


def _reopen(state: Recovery, wanted: Wanted, now: dt.datetime, *, actor: str) -> Decision:
    end = state.finished
    assert end is not None, "only what ended is opened again"
    event = steer.RecoveryReopened(
        at=now,
        steps=wanted.steps,
        vms=len(wanted.vms),
        skip="" if wanted.vm else wanted.skip,
        actor=actor,
        waited_s=max((now - end.at).total_seconds(), 0.0) if end.at is not None else 0.0,
    )
    # VMs first: the recovery is opened when its sums tell what is to come.
    members = _members(state, wanted)
    decision = proceed(state, (*members, event), now)
    decision = _with_retries(state, decision, wanted, members, actor=actor)
    timers = (*decision.cancel_timers, AUTO_CLEANUP_TIMER, commit_window.REMINDER)
    return msgspec.structs.replace(decision, cancel_timers=timers)


def _members(state: Recovery, wanted: Wanted) -> tuple[steer.MemberRetried, ...]:
    held = _held(state, wanted)
    return tuple(
        steer.MemberRetried(
            vm=vm, round=state.members.get(vm, MemberState()).round + 1, held=vm in held
        )
        for vm in wanted.vms
    )


def _held(state: Recovery, wanted: Wanted) -> frozenset[str]:
    """The VMs of open boot orders that wait, for one of a lower order is to be ready first."""
    unready = [vm for vm in wanted.vms if state.members.get(vm, MemberState()).ready_at is None]
    waited_for = {state.roster[vm].boot_order for vm in unready}
    waited_for |= {number for number, order in state.by_order.items() if order.unsettled}
    opened = set(state.orders[: state.opened])
    first = min(waited_for & opened, default=None)
    if first is None:
        return frozenset()
    orders = {vm: state.roster[vm].boot_order for vm in unready}
    return frozenset(vm for vm, order in orders.items() if order in opened and order > first)


def _source(state: Recovery, vm: str) -> steer.SourceCheck | None:
    """What must not run beside a VM of a full recovery."""
    start = told(state)
    if not of(start.mode).source_step:
        return None
    source = state.instances.get(vm)
    return steer.SourceCheck(
        site=start.header.protected, instance=source.instance if source is not None else ""
    )


def _with_retries(
    state: Recovery,
    decision: Decision,
    wanted: Wanted,
    members: tuple[steer.MemberRetried, ...],
    *,
    actor: str,
) -> Decision:
    start = told(state)
    opened = set(state.orders[: state.opened])
    sends = tuple(
        Send(
            to="recovery",
            key=start.plan,
            message=steer.RetryVm(
                stream=vm_stream(start.job, each.vm),
                boot=state.roster[each.vm].boot_order in opened and not each.held,
                round=each.round,
                skip=wanted.skip if each.vm == wanted.vm else "",
                actor=actor,
                source=_source(state, each.vm),
            ),
        )
        for each in members
    )
    return msgspec.structs.replace(decision, sends=(*sends, *decision.sends))
