"""One VM's recovery: pre-script, hold, rebuild, create, power on, ready, post-script, release;
a Windows is prepared before it is created, and validated when it is ready.

Saga. Decides the steps of one VM. Does not decide when its boot order opens, nor what its failure
means for the operation (`recovery`), nor how readiness is seen (`watch`).
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from schemas import recovery as said
from schemas import recovery_steering as steer
from schemas.common import Problem, StepTiming
from schemas.envelope import Received
from schemas.prep import SeatGranted, SeatRefused, VmSeated
from schemas.recovery_work import InstanceState
from services.recovery.domain import prep_seats, prompts, scripts, vm_work, windows_steps
from services.recovery.domain.scripts import POST_STEP, PRE_STEP
from services.recovery.domain.vm_state import (
    HOLD,
    POWER_ON,
    REBUILD,
    RELEASE,
    WAIT,
    VmRecovery,
    definition,
    halted,
    is_over,
    is_step,
    question_due,
    script_of,
    vm_stream,
    work_left,
)
from services.recovery.domain.vm_steered import evolve, to_do_again
from services.recovery.domain.work import merged_steps, step_of
from shared.decider import NOTHING, Decision, EffectOutcome, EffectTrouble, Family, Send, Timer

DEFINITION_VERSION = 2
_SCRIPT_STEPS = (PRE_STEP, POST_STEP)

WITHDRAWN = "withdrawn"
"""The code of an effect that found its VM paused before it began."""


# ── Messages ─────────────────────────────────────────────────────────────────────────────────


def enrol(state: VmRecovery, received: Received) -> Decision:
    """Keep what is to be recovered; nothing starts before the parent says so."""
    m: said.EnrolVm = received.body
    if state.enrolled is not None:
        return NOTHING
    event = said.VmEnrolled(
        job=m.job,
        plan=m.plan,
        mode=m.mode,
        definition=m.definition,
        header=m.header,
        checkpoint=m.checkpoint,
        skip_scripts=m.skip_scripts,
        on_error=m.on_error,
        definition_version=DEFINITION_VERSION,
    )
    steps = vm_work.step_list(evolve(state, event))
    return Decision(events=(msgspec.structs.replace(event, steps=steps),))


def launch(state: VmRecovery, received: Received) -> Decision:
    """Begin; with `boot` the guest may start as soon as it is built."""
    m: said.LaunchVm = received.body
    if state.enrolled is None or state.launched is not None or state.finished:
        return NOTHING
    event = said.VmLaunched(
        boot=m.boot,
        requested_at=m.requested_at or received.at,
        plan_outputs=m.plan_outputs,
    )
    return proceed(state, (event,), received.at)


def allow_boot(state: VmRecovery, received: Received) -> Decision:
    """The boot order is open."""
    if state.launched is None or state.boot or state.finished or halted(state):
        return NOTHING
    return proceed(state, (said.VmBootAllowed(),), received.at)


def abandon(state: VmRecovery, received: Received) -> Decision:
    """Do not go on. A *stop* leaves a guest alone that is on or about to be."""
    m: said.AbandonVm = received.body
    if state.enrolled is None or state.finished:
        return NOTHING
    if state.failed or not work_left(state):
        return _let_end(state, m, received.at)
    if state.abandoned and not (state.abandoned == "stop" and m.reason == "cancel"):
        return NOTHING
    on = state.powered_on_at is not None or any(is_step(p, POWER_ON) for p in state.running)
    if m.reason == "stop" and on:
        return NOTHING
    return proceed(state, (said.VmAbandoned(reason=m.reason, at=received.at),), received.at)


def _let_end(state: VmRecovery, m: said.AbandonVm, now: dt.datetime) -> Decision:
    """A VM that only has to end is not kept by a pause from ending with what is cancelled."""
    if m.reason != "cancel" or not state.paused:
        return NOTHING
    lifted = tuple(steer.VmResumed(by=by, at=now) for by in state.paused)
    return proceed(state, lifted, now)


def instance_ready(state: VmRecovery, received: Received) -> Decision:
    """The guest answered."""
    m: said.InstanceReady = received.body
    if not _waits(state):
        return NOTHING
    return proceed(state, (said.VmReady(at=m.at, addresses=m.addresses),), received.at)


def instance_late(state: VmRecovery, received: Received) -> Decision:
    """The guest did not answer within its time. One that waits anew was powered on since."""
    m: said.InstanceLate = received.body
    if not _waits(state) or m.until != _ready_until(state):
        return NOTHING
    probe = definition(state).definition.ready
    problem = Problem(
        code="not-ready",
        message=f"the guest did not answer ({probe.kind}) within {probe.within_s:g} s",
        remedy="look at the instance's console, or give `ready.within` more time",
    )
    if m.error:
        problem = Problem(
            code="not-ready",
            message=f"its site cannot be asked whether the guest answers: {m.error}",
            remedy="see that the site answers (`seawall site show`), then `seawall job retry`",
        )
    timing = StepTiming(
        name=WAIT,
        state="failed",
        attempts=1 + state.tried.get(WAIT, 0),
        started_at=state.powered_on_at,
        ended_at=received.at,
        error=problem.message,
        remedy=problem.remedy,
    )
    return proceed(state, (said.VmStepEnded(timing=timing, problem=problem),), received.at)


def seat_granted(state: VmRecovery, received: Received) -> Decision:
    """A prep node may work on its disks. One that needs none any more has said so already."""
    m: SeatGranted = received.body
    if prep_seats.need_of(state) != "now" or state.windows.node:
        return NOTHING
    return proceed(state, (VmSeated(node=m.node),), received.at)


def seat_refused(state: VmRecovery, received: Received) -> Decision:
    """No prep node can serve it: its preparation failed before it began."""
    m: SeatRefused = received.body
    if not prep_seats.need_of(state) or state.windows.node:
        return NOTHING
    timing = StepTiming(
        name=windows_steps.PREPARE,
        state="failed",
        attempts=1 + state.tried.get(windows_steps.PREPARE, 0),
        ended_at=received.at,
        error=m.problem.message,
        remedy=m.problem.remedy,
    )
    return proceed(state, (said.VmStepEnded(timing=timing, problem=m.problem),), received.at)


def script_started(state: VmRecovery, received: Received) -> Decision:
    """A script's process is about to exist. Committed under the claim of its effect."""
    m: said.VmScriptStarted = received.body
    if scripts.part_of_run(m.step, m.run) not in state.running:
        return NOTHING
    return proceed(state, (m,), received.at)


def outcome(state: VmRecovery, received: Received) -> Decision:
    """An effect of this VM ended."""
    ended: EffectOutcome = received.body
    if ended.part not in state.running:
        return NOTHING
    if ended.code == WITHDRAWN:
        withdrawn = steer.VmStepWithdrawn(part=ended.part)
        return proceed(state, (withdrawn,), received.at)
    step = ended.part.partition("/")[0]
    if step in _SCRIPT_STEPS:
        return proceed(state, (_script_end(state, step, ended),), received.at)
    if step == POWER_ON and ended.ok:
        return proceed(state, (_power_on_end(state, ended),), received.at)
    event = _step_end(state, ended)
    if step == HOLD and windows_steps.is_windows(state.enrolled, evolve(state, event).copy):
        steps = vm_work.step_list(evolve(state, event))
        event = msgspec.structs.replace(event, steps=steps)
    return proceed(state, (event,), received.at)


def trouble(state: VmRecovery, received: Received) -> Decision:
    """The held copy cannot be let go, for which the VM's end waits: people are told, once."""
    body: EffectTrouble = received.body
    if state.enrolled is None or state.troubled or body.part not in state.running:
        return NOTHING
    told = definition(state)
    fact = said.VmReleaseTroubled(
        plan=told.plan,
        vm=told.definition.name,
        job=told.job,
        attempts=body.attempts,
        problem=Problem(
            code=body.code or "step-failed",
            message=f"{body.part}: {body.error}",
            remedy=body.remedy,
        ),
    )
    return Decision(events=(fact,))


# ── Facts ────────────────────────────────────────────────────────────────────────────────────


def _waits(state: VmRecovery) -> bool:
    on = state.powered_on_at is not None and state.ready_at is None
    return on and not halted(state) and not state.finished


def _ready_until(state: VmRecovery) -> dt.datetime:
    assert state.powered_on_at is not None, "waiting means powered on"
    return state.powered_on_at + dt.timedelta(seconds=definition(state).definition.ready.within_s)


def _script_end(state: VmRecovery, step: str, ended: EffectOutcome) -> said.VmScriptEnded:
    script = script_of(state, step)
    assert script is not None, "a running script was chosen"
    current = state.pre if step == PRE_STEP else state.post
    run = current.run
    report = scripts.report_of(ended)
    timing = scripts.timing_of(step, report, ended, run=run)
    again = not halted(state) and scripts.goes_again(script, report, run=run - current.base)
    return said.VmScriptEnded(step=step, report=report, timing=timing, run=run, again=again)


def _counted(state: VmRecovery, timing: StepTiming) -> StepTiming:
    """The attempts of a step include those before a person had it done again."""
    before = state.tried.get(timing.name, 0)
    return msgspec.structs.replace(timing, attempts=timing.attempts + before) if before else timing


def _power_on_end(state: VmRecovery, ended: EffectOutcome) -> said.VmPoweredOn:
    answer: InstanceState = ended.result
    at = answer.powered_on_at or ended.at
    # Delays count from power-on by the platform's clock as far as it agrees with ours: a clock
    # that is wrong by an hour must neither end a boot delay at once nor stretch it by an hour.
    at = min(max(at, ended.started_at), ended.at)
    return said.VmPoweredOn(
        instance_id=answer.instance_id,
        at=at,
        addresses=answer.addresses,
        timing=_counted(state, step_of(ended, POWER_ON)),
    )


def _step_end(state: VmRecovery, ended: EffectOutcome) -> said.VmStepEnded:
    mode = definition(state).mode
    part, _, rest = ended.part.partition("/")
    step, disk = (REBUILD, rest.partition("/")[0]) if part == "rebuild" else (part, "")
    timing = windows_steps.with_output(_counted(state, step_of(ended, step)), ended)
    if ended.ok:
        made = {} if step == RELEASE else msgspec.to_builtins(ended.result)
        return said.VmStepEnded(timing=timing, disk=disk, made=made, mode=mode)
    problem = Problem(
        code=ended.code or "step-failed",
        message=f"{step}{f' of {disk}' if disk else ''}: {ended.error}",
        remedy=ended.remedy,
    )
    return said.VmStepEnded(timing=timing, disk=disk, problem=problem, mode=mode)


def _finish(state: VmRecovery, now: dt.datetime) -> said.VmFinished:
    told = definition(state)
    ready = state.ready_at if state.launched is not None else None
    since = state.launched.requested_at if state.launched is not None else None
    end: said.VmOutcome = "ready"
    job: said.RecoveryState = "partially-completed" if state.degraded else "completed"
    if state.failed:
        end, job = "failed", "failed"
    elif state.abandoned:
        end = "cancelled" if state.abandoned == "cancel" else "skipped"
        job = "completed" if state.abandoned == "dry-run" else "cancelled"
    return said.VmFinished(
        plan=told.plan,
        vm=told.definition.name,
        job=told.job,
        outcome=end,
        state=job,
        instance_id=state.instance_id,
        addresses=state.addresses,
        rto_s=(ready - since).total_seconds() if ready and since else None,
        steps=merged_steps(state.steps),
        problem=state.problem,
        at=now,
        waited_s=state.waits.until(now),
        left=_left(state) if state.abandoned == "cancel" else "",
    )


def _left(state: VmRecovery) -> str:
    """What a cancelled VM leaves at the recovery site, in words."""
    if state.instance_id:
        was_on = state.powered_on_at is not None or state.powers > 1
        power = "powered on" if was_on else "off"
        return f"instance {state.instance_id} is {power}"
    if state.disks:
        return f"{len(state.disks)} disks are made, no instance"
    return "it may have begun disks" if state.made else "nothing was made"


# ── From facts to decisions ──────────────────────────────────────────────────────────────────


def proceed(state: VmRecovery, events: tuple[Any, ...], now: dt.datetime) -> Decision:
    """The decision that goes with `events`: whatever became due, news, and the end."""
    after = state
    for event in events:
        after = evolve(after, event)
    # One that had not begun when it was taken back may be due again already.
    back = {event.part for event in events if isinstance(event, steer.VmStepWithdrawn)}
    known = set(state.running) - back
    fresh = tuple(part for part in after.running if part not in known)
    if (question := question_due(after, now)) is not None:
        asks = _asked(after, question)
        events, after = (*events, asks), evolve(after, asks)
    over = is_over(after)
    if over:
        end = _finish(after, now)
        events, after = (*events, end), evolve(after, end)
    asking, timers, cancel_timers = _asking(state, after, now)
    news = _news(state, after, now, over=over)
    return Decision(
        events=events,
        effects=tuple(vm_work.effect_of(after, part, now) for part in fresh),
        timers=timers,
        cancel_timers=cancel_timers,
        cancel_effects=_to_stop(state, after),
        sends=(*_watching(state, after), *prep_seats.seats(state, after), *asking, *news),
    )


def _asked(state: VmRecovery, question: steer.Question) -> steer.VmAsked:
    told = definition(state)
    return steer.VmAsked(plan=told.plan, vm=told.definition.name, job=told.job, question=question)


def _asking(
    before: VmRecovery, after: VmRecovery, now: dt.datetime
) -> tuple[tuple[Send, ...], tuple[Timer, ...], tuple[str, ...]]:
    """The recovery hears of a question and of its end; a time-out answers what nobody does."""
    old, new = before.question, after.question
    if old == new:
        return (), (), ()
    told = definition(after)
    news = tuple(
        steer.MemberAsks(
            job=told.job,
            vm=told.definition.name,
            step=asked.step,
            at=now,
            open=asked is new,
            round=after.round,
        )
        for asked in (old, new)
        if asked is not None
    )
    sends = tuple(Send(to="recovery", key=told.plan, message=each) for each in news)
    if new is None:
        return sends, (), (prompts.TIMER,)
    return sends, (prompts.timer(new, steer.AnswerDue(number=new.number)),), ()


def _to_stop(before: VmRecovery, after: VmRecovery) -> tuple[str, ...]:
    """What runs is stopped when the VM fails or is abandoned.

    A *stop* of the operation lets a script end by itself: killing it half-way helps nobody.
    """
    if not halted(after) or (halted(before) and after.abandoned == before.abandoned):
        return ()
    kept = {RELEASE} if after.abandoned == "cancel" else {RELEASE, *_SCRIPT_STEPS}
    return tuple(
        part
        for part in after.running
        if part in before.running and part.partition("/")[0] not in kept
    )


def _watching(before: VmRecovery, after: VmRecovery) -> tuple[Send, ...]:
    """The watcher is told at power-on, and when the VM is given up before it is ready or late."""
    told = definition(after)
    site, probe = told.header.recovery_site, told.definition.ready
    stream = vm_stream(told.job, told.definition.name)
    if _waits(after) and not _waits(before):
        watch = said.WatchInstance(
            site=site,
            stream=stream,
            instance_id=after.instance_id,
            kind=probe.kind,
            until=_ready_until(after),
            port=probe.port or _guest_port(after),
            path=probe.path,
        )
        return (Send(to="recovery", key=site.site, message=watch),)
    if _waits(before) and not _waits(after) and after.ready_at is None:
        unwatch = said.UnwatchInstance(site=site.site, stream=stream)
        return (Send(to="recovery", key=site.site, message=unwatch),)
    return ()


def _guest_port(state: VmRecovery) -> int | None:
    """The port the guest itself says its service is on: the one thing read from what platforms
    keep of a VM's configuration, under `guest.port`."""
    guest = state.copy.configuration.get("guest") if state.copy is not None else None
    port = guest.get("port") if isinstance(guest, dict) else None
    return port if isinstance(port, int) else None


def _news(
    before: VmRecovery, after: VmRecovery, now: dt.datetime, *, over: bool
) -> tuple[Send, ...]:
    told = definition(after)
    news: list[said.MemberNews] = []
    about = said.MemberNews(
        job=told.job,
        vm=told.definition.name,
        news="powered-on",
        at=now,
        instance_id=after.instance_id,
        addresses=after.addresses,
        round=after.round,
    )
    replace = msgspec.structs.replace
    if before.powered_on_at is None and after.powered_on_at is not None:
        news.append(replace(about, at=after.powered_on_at))
    if before.ready_at is None and after.ready_at is not None:
        news.append(replace(about, news="ready", at=after.ready_at))
    if over:
        news.append(replace(about, news="ended", **_ending(after, now)))
    return tuple(Send(to="recovery", key=told.plan, message=each) for each in news)


def _ending(state: VmRecovery, now: dt.datetime) -> dict[str, Any]:
    return {
        "outcome": _finish(state, now).outcome,
        "stop": state.stop,
        "degraded": state.degraded,
        "made": state.made,
        "problem": state.problem,
        "again": bool(to_do_again(state)),
        "failed_step": state.failed_step if state.failed else "",
    }


FAMILY = Family(
    name="vm-recovery",
    state=VmRecovery,
    initial=VmRecovery,
    evolve=evolve,
    is_terminal=lambda state: state.finished,
    outcome=outcome,
    trouble=trouble,
    schema=5,
)
