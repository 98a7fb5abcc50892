"""What a recovery is at a moment: its roster, its boot orders, its phase, its outcome.

Saga. Owns the state, its folding and the rules read from it; what is sent and started when the
phase changes is `recovery`'s. Work per message does not grow with the number of VMs, but for one
shallow copy of a dictionary.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final, Literal

import msgspec

from schemas import operations as said_ops
from schemas import recovery as said
from schemas import recovery_steering as steer
from schemas.common import Problem, StepTiming
from schemas.directions import InstancesFreed, InstancesTaken, SourceInstance, SourcesNamed
from schemas.plans import ManualPoint, ManualStep, ScriptDefinition
from services.recovery.domain import manual, prompts, scripts
from services.recovery.domain.operations import securing, window
from services.recovery.domain.operations.securing import SourcePhase, SourceSide
from services.recovery.domain.operations.window import Window
from services.recovery.domain.scripts import POST_STEP, PRE_STEP, ScriptRun
from services.recovery.domain.waits import Waits

Phase = (
    Literal[
        "new",
        "preflight",
        "manual",
        "pre-script",
        "launch",
        "vms",
        "post-script",
        "closing",
        "ended",
    ]
    | SourcePhase
)


class MemberState(msgspec.Struct, frozen=True, kw_only=True):
    """How far one VM of the roster is. `again`: something of it failed that can be done again;
    `asks`: the step at which it waits for a person. `round` counts its retries."""

    powered_on_at: dt.datetime | None = None
    ready_at: dt.datetime | None = None
    ended: bool = False
    outcome: said.VmOutcome | None = None
    degraded: bool = False
    instance_id: str = ""
    addresses: tuple[str, ...] = ()
    error: str = ""
    again: bool = False
    made: bool = False
    asks: str = ""
    round: int = 0


class OrderState(msgspec.Struct, frozen=True, kw_only=True):
    """One boot order. `unsettled` VMs are neither ready nor ended; the next order waits for
    them and until `not_before`, the latest power-on plus boot delay. `held` VMs were retried and
    boot when it is opened again."""

    total: int = 0
    unsettled: int = 0
    failed: int = 0
    opened_at: dt.datetime | None = None
    settled_at: dt.datetime | None = None
    not_before: dt.datetime | None = None
    held: tuple[str, ...] = ()


class Recovery(msgspec.Struct, frozen=True, kw_only=True):
    """A recovery. `orders` are the boot orders, ascending; the first `opened` of them are open.

    `running` is the effect part of its own under way. `question` waits for a person, the
    `asked`-th of this stream; `by_hand` are the manual steps that are over, `passed` the steps
    that were gone on without. `problems` are why it is not *completed*, by step or VM, in the
    order they came. `retrying`: it ended, is to go on, and its holds are asked for. `instances`
    are what VMs run as whose source is no VM of a site's own.
    """

    started: said.RecoveryStarted | None = None
    roster: dict[str, said.Member] = {}
    orders: tuple[int, ...] = ()
    opened: int = 0
    by_order: dict[int, OrderState] = {}
    members: dict[str, MemberState] = {}
    launched: int = 0
    launched_ended: int = 0
    preflight: said.PreflightFinished | None = None
    pre: ScriptRun = ScriptRun()
    post: ScriptRun = ScriptRun()
    plan_outputs: dict[str, Any] = {}
    stopping: bool = False
    cancelling: bool = False
    made: bool = False
    attempted: int = 0
    ready: int = 0
    failed: int = 0
    degraded: int = 0
    problems: dict[str, Problem] = {}
    steps: tuple[StepTiming, ...] = ()
    finished: said.RecoveryFinished | None = None
    cleaning: str = ""
    cleaned: bool = False
    source: SourceSide = SourceSide()
    window: Window = Window()
    running: str = ""
    paused: bool = False
    question: steer.Question | None = None
    asked: int = 0
    by_hand: dict[str, manual.Result] = {}
    passed: tuple[str, ...] = ()
    waits: Waits = Waits()
    tried: dict[str, int] = {}
    retrying: steer.RetryRequested | None = None
    instances: dict[str, SourceInstance] = {}


def told(state: Recovery) -> said.RecoveryStarted:
    """What the recovery was started with; asserts that it was."""
    assert state.started is not None, "started before anything else"
    return state.started


# ── Rules ────────────────────────────────────────────────────────────────────────────────────


def plan_script(state: Recovery, step: str) -> ScriptDefinition | None:
    """The plan's own script of a step, if it runs in this operation."""
    start = told(state)
    policy = start.header.recovery
    if step == PRE_STEP:
        return scripts.chosen(
            policy.pre_script, mode=start.mode, hook="pre-recovery", skip=start.skip_scripts
        )
    return scripts.chosen(
        policy.post_script, mode=start.mode, hook="post-recovery", skip=start.skip_scripts
    )


def phase_of(state: Recovery) -> Phase:
    """Where the recovery stands; follows from the facts alone."""
    if state.started is None:
        return "new"
    if state.finished is not None:
        return "ended"
    if state.preflight is None:
        return "closing" if state.cancelling else "preflight"
    if state.preflight.problems or state.started.dry_run:
        return "closing"
    halted = state.stopping or state.cancelling
    if (early := _before_vms(state, halted=halted)) is not None:
        return early
    if not halted and gate_again(state) is not None:
        return "manual"
    if state.launched_ended < state.launched or (not halted and more_to_open(state)):
        return "vms"
    if not _post_due(state):
        return "closing"
    return "post-script" if halted or _by_hand_over(state, "before-post-script") else "manual"


def _before_vms(state: Recovery, *, halted: bool) -> Phase | None:
    """What is still to come before the first VM is told to begin; None where nothing is."""
    # One that was gone on without is asked for again by a retry, whatever has been built since.
    if not halted and not _by_hand_over(state, "before-pre-script"):
        return "manual"
    # A halted recovery lets a pre-script that began end, and begins none.
    begun = not halted or state.running.startswith(PRE_STEP)
    if not state.pre.over and begun and plan_script(state, PRE_STEP) is not None:
        return "pre-script"
    if not halted and not _by_hand_over(state, "after-pre-script"):
        return "manual"
    sources = None if state.launched else securing.phase(told(state), state.source, halted=halted)
    if sources is not None:
        return sources
    # Where nobody of the first boot order is left to launch, it is opened all the same.
    launches = not (state.launched or state.opened)
    return "launch" if launches and state.roster and not halted else None


def more_to_open(state: Recovery) -> bool:
    """Whether boot orders are still closed."""
    return state.opened < len(state.orders)


def _post_due(state: Recovery) -> bool:
    script = plan_script(state, POST_STEP)
    if script is None or state.post.over:
        return False
    return not state.cancelling or script.always


def manual_due(
    state: Recovery, at: ManualPoint, *, boot_order: int | None = None
) -> ManualStep | None:
    """The manual step that comes next at a point of the plan; None where all are over."""
    start = told(state)
    steps = start.header.recovery.manual_steps
    here = manual.chosen(steps, at, mode=start.mode, boot_order=boot_order)
    return manual.next_of(here, state.by_hand)


def _by_hand_over(state: Recovery, at: ManualPoint) -> bool:
    return manual_due(state, at) is None


def gate(state: Recovery, order: int) -> ManualStep | None:
    """The manual step that a boot order still waits for."""
    return manual_due(state, "before-boot-order", boot_order=order)


def gate_again(state: Recovery) -> ManualStep | None:
    """The manual step before an open boot order that a retry asks for again."""
    due = (gate(state, order) for order in state.orders[: state.opened])
    return next((step for step in due if step is not None), None)


def question_due(state: Recovery, at: dt.datetime) -> steer.Question | None:
    """What a person is to be asked now about the recovery itself, if nothing is asked already.

    What stands before a boot order is asked when that would open (`recovery`).
    """
    if state.paused or state.question is not None or phase_of(state) not in _ASKING:
        return None
    number = state.asked + 1
    for step, run in ((PRE_STEP, state.pre), (POST_STEP, state.post)):
        script = plan_script(state, step)
        if run.asks and script is not None:
            return prompts.question(script, step, number=number, at=at)
    if phase_of(state) != "manual":
        return None
    points = [manual_due(state, point) for point in _POINTS]
    for due in (*points[:2], gate_again(state), points[2]):
        if due is not None:
            return manual.question(due, number=number, at=at)
    raise AssertionError("in the phase of manual steps one is due")


_ASKING: Final = ("manual", "pre-script", "post-script")
_POINTS: Final[tuple[ManualPoint, ...]] = (
    "before-pre-script",
    "after-pre-script",
    "before-post-script",
)


def outcome_of(state: Recovery) -> said.RecoveryState:
    """The recovery's outcome: the first rule of product.md §5 that fits."""
    if state.cancelling:
        return "cancelled"
    preflight_failed = state.preflight is not None and bool(state.preflight.problems)
    if preflight_failed or state.source.failed or (state.attempted > 0 and state.ready == 0):
        return "failed"
    return "partially-completed" if _troubled(state) else "completed"


def _troubled(state: Recovery) -> bool:
    """Whether the last attempt of anything failed, or something was gone on without."""
    own = state.pre.failed or state.post.failed or state.source.troubled
    by_hand = any(how != "done" for how in state.by_hand.values())
    return bool(own or by_hand or state.passed or state.failed or state.degraded)


def problem_of(state: Recovery) -> Problem | None:
    """The first thing that went wrong and still stands."""
    return next(iter(state.problems.values()), None)


def rto_s(state: Recovery) -> float | None:
    """Seconds from the operator's command to the last usable VM's readiness; None without one."""
    moments = [
        member.ready_at
        for member in state.members.values()
        if member.outcome == "ready" and member.ready_at is not None
    ]
    if not moments:
        return None
    return (max(moments) - told(state).requested_at).total_seconds()


def step_list(start: said.RecoveryStarted) -> tuple[str, ...]:
    """The steps of the recovery, in order; each boot order is one."""
    state = Recovery(started=start)
    pre = (PRE_STEP,) if plan_script(state, PRE_STEP) is not None else ()
    post = (POST_STEP,) if plan_script(state, POST_STEP) is not None else ()
    if start.dry_run:
        return ("preflight",)
    orders: list[str] = []
    for order in sorted({member.boot_order for member in start.members}):
        orders += [*_by_hand(start, "before-boot-order", boot_order=order), order_step(order)]
    before, after = _by_hand(start, "before-pre-script"), _by_hand(start, "after-pre-script")
    last = _by_hand(start, "before-post-script") if post else ()
    sources = securing.steps_of(start)
    return ("preflight", *before, *pre, *after, *sources, *orders, *last, *post)


def _by_hand(
    start: said.RecoveryStarted, at: ManualPoint, *, boot_order: int | None = None
) -> tuple[str, ...]:
    steps = start.header.recovery.manual_steps
    return manual.names(steps, at, mode=start.mode, boot_order=boot_order)


def order_step(order: int) -> str:
    """The step name of a boot order."""
    return f"boot-order-{order}"


# ── Folding ──────────────────────────────────────────────────────────────────────────────────


def evolve(state: Recovery, event: Any) -> Recovery:
    """Apply one fact of bringing up; facts of steering are folded by `recovery_steered`."""
    replace = msgspec.structs.replace
    match event:
        case said.RecoveryStarted():
            return _started(state, event)
        case said.PreflightFinished():
            return _preflight(state, event)
        case said.PlanScriptStarted():
            return _with_script(state, event.step, started=True)
        case said.PlanScriptEnded():
            return _script_ended(state, event)
        case said.VmsLaunched():
            return replace(state, launched=state.launched + event.count)
        case said.BootOrderOpened():
            if state.by_order[event.boot_order].opened_at is not None:
                return with_order(state, event.boot_order, held=())
            state = with_order(state, event.boot_order, opened_at=event.at)
            return replace(state, opened=state.opened + 1)
        case said.MemberPoweredOn():
            return _powered_on(state, event)
        case said.MemberReady():
            return _ready(state, event)
        case said.MemberEnded():
            return _ended(state, event)
        case said.RecoveryCancelRequested():
            return _cancelled(state, event)
        case said.RecoveryFinished():
            waits = Waits(total_s=event.waited_s)
            return replace(state, finished=event, waits=waits, question=None, paused=False)
        case said.RecoveryCleaning():
            return replace(state, cleaning=event.cleanup)
        case said.RecoveryCleanupIncomplete():
            return replace(state, cleaning="")
        case said.RecoveryCleaned():
            return replace(state, cleaning="", cleaned=True)
        case SourcesNamed():
            named = {source.vm: source for source in event.sources}
            return replace(state, instances={**state.instances, **named})
        case _ if type(event) in _ABOUT_SOURCES:
            return _about_sources(state, event)
        case _ if type(event) in _ABOUT_WINDOW:
            return replace(state, window=window.fold(state.window, event))
    raise AssertionError(f"{type(event).__name__} is no event of a recovery")


_ABOUT_SOURCES: Final = frozenset(
    {
        said_ops.SourcesSecuring,
        said_ops.SourceSiteLost,
        said_ops.MemberSecured,
        said_ops.SourcesSecured,
        said_ops.LastSyncAsked,
        said_ops.MemberSynced,
        said_ops.LastSyncFinished,
        said_ops.SourcesRestoring,
        said_ops.MemberRestored,
        said_ops.SourcesRestored,
    }
)
_ABOUT_WINDOW: Final = frozenset(
    {
        said_ops.RecoveryCommitting,
        said_ops.RecoveryCommitRefuted,
        said_ops.RecoveryCommitted,
        said_ops.RecoveryRollingBack,
        said_ops.RecoveryRollbackIncomplete,
        said_ops.RecoveryRolledBack,
        said_ops.CommitOverdue,
        InstancesTaken,
        InstancesFreed,
    }
)


def _about_sources(state: Recovery, event: Any) -> Recovery:
    side = securing.fold(told(state), state.source, event)
    return msgspec.structs.replace(
        state,
        source=side,
        stopping=state.stopping or side.failed,
        problems=with_problem(state, "sources", side.problem),
    )


def _started(state: Recovery, event: said.RecoveryStarted) -> Recovery:
    by_order: dict[int, OrderState] = {}
    for member in event.members:
        before = by_order.get(member.boot_order, OrderState())
        count = before.total + 1
        by_order[member.boot_order] = OrderState(total=count, unsettled=count)
    return msgspec.structs.replace(
        state,
        started=event,
        roster={member.vm: member for member in event.members},
        orders=tuple(sorted(by_order)),
        by_order=by_order,
    )


def _preflight(state: Recovery, event: said.PreflightFinished) -> Recovery:
    first = event.problems[0] if event.problems else None
    return msgspec.structs.replace(
        state,
        # Facts are for people who read the job: the state need not carry them.
        preflight=msgspec.structs.replace(event, facts={}),
        problems=with_problem(state, "preflight", first),
        steps=(*state.steps, event.timing),
    )


PROBLEMS_MAX: Final = 100
"""Problems kept with a recovery; of more than these the VMs' own jobs tell."""


def with_problem(state: Recovery, key: str, problem: Problem | None) -> dict[str, Problem]:
    """The problems with one more, of a step or VM that has none yet."""
    if problem is None or key in state.problems or len(state.problems) >= PROBLEMS_MAX:
        return state.problems
    return {**state.problems, key: problem}


def _cancelled(state: Recovery, event: said.RecoveryCancelRequested) -> Recovery:
    """Nobody is asked any more, and no pause lasts. An end that was to be judged counts as bad."""
    open_waits = state.paused + (state.question is not None)
    state = msgspec.structs.replace(
        state,
        cancelling=True,
        paused=False,
        question=None,
        waits=state.waits.over(event.at, count=open_waits),
    )
    for step, run in ((PRE_STEP, state.pre), (POST_STEP, state.post)):
        if run.asks:
            state = with_run(state, step, run.answered("failed"))
    return state


def with_run(state: Recovery, step: str, run: ScriptRun) -> Recovery:
    """The state with another run of one of the plan's scripts."""
    return msgspec.structs.replace(state, **{"pre" if step == PRE_STEP else "post": run})


def _with_script(state: Recovery, step: str, **changes: Any) -> Recovery:
    field = "pre" if step == PRE_STEP else "post"
    changed = msgspec.structs.replace(getattr(state, field), **changes)
    return msgspec.structs.replace(state, **{field: changed})


def _script_ended(state: Recovery, event: said.PlanScriptEnded) -> Recovery:
    state = msgspec.structs.replace(state, steps=(*state.steps, event.timing))
    script = plan_script(state, event.step)
    assert script is not None, "a script that ended was chosen"
    run = state.pre if event.step == PRE_STEP else state.post
    after = run.ended(
        event.report,
        again=event.again,
        cancelled=event.timing.state == "cancelled",
        asks=prompts.asks(script, event.report) and not state.cancelling,
    )
    state = with_run(state, event.step, after)
    if after.over and event.report.outputs:
        outputs = {**state.plan_outputs, event.step: event.report.outputs}
        state = msgspec.structs.replace(state, plan_outputs=outputs)
    if not after.failed:
        return state
    problem = Problem(
        code=f"script-{event.report.outcome}",
        message=f"plan {event.step} {script.run}: {event.report.error}",
        remedy=event.report.remedy or "mend the script, then `seawall job retry`",
    )
    return script_failed(state, event.step, script, problem)


def script_failed(
    state: Recovery, step: str, script: ScriptDefinition, problem: Problem
) -> Recovery:
    """A plan script failed for good: what that means for the operation."""
    stops = scripts.on_failure(script, told(state).on_error) == "stop"
    return msgspec.structs.replace(
        state,
        stopping=state.stopping or stops,
        problems=with_problem(state, step, problem),
    )


def with_order(state: Recovery, order: int, **changes: Any) -> Recovery:
    """The state with one boot order changed."""
    changed = msgspec.structs.replace(state.by_order[order], **changes)
    return msgspec.structs.replace(state, by_order={**state.by_order, order: changed})


def with_member(state: Recovery, vm: str, **changes: Any) -> Recovery:
    """The state with one VM changed."""
    changed = msgspec.structs.replace(state.members.get(vm, MemberState()), **changes)
    members = state.members.copy()
    members[vm] = changed
    return msgspec.structs.replace(state, members=members)


def _powered_on(state: Recovery, event: said.MemberPoweredOn) -> Recovery:
    member = state.roster[event.vm]
    order = state.by_order[member.boot_order]
    until = event.at + dt.timedelta(seconds=member.boot_delay_s)
    latest = until if order.not_before is None else max(order.not_before, until)
    state = with_order(state, member.boot_order, not_before=latest)
    return with_member(state, event.vm, powered_on_at=event.at)


def _ready(state: Recovery, event: said.MemberReady) -> Recovery:
    state = _settled(state, event.vm, event.at)
    return with_member(
        state,
        event.vm,
        ready_at=event.at,
        instance_id=event.instance_id,
        addresses=event.addresses,
    )


def _settled(state: Recovery, vm: str, at: dt.datetime) -> Recovery:
    """One VM fewer that its boot order waits for."""
    before = state.members.get(vm, MemberState())
    if before.ready_at is not None or before.ended:
        return state
    order = state.by_order[state.roster[vm].boot_order]
    last = at if order.settled_at is None else max(order.settled_at, at)
    return with_order(
        state, state.roster[vm].boot_order, unsettled=order.unsettled - 1, settled_at=last
    )


def was_launched(state: Recovery, vm: str) -> bool:
    """Whether the VM's recovery was told to begin."""
    if not state.launched:
        return False
    if told(state).header.recovery.build_ahead:
        return True
    return state.by_order[state.roster[vm].boot_order].opened_at is not None


def _ended(state: Recovery, event: said.MemberEnded) -> Recovery:
    launched = was_launched(state, event.vm)
    state = _settled(state, event.vm, event.at)
    failed, ready = event.outcome == "failed", event.outcome == "ready"
    if failed:
        order = state.roster[event.vm].boot_order
        state = with_order(state, order, failed=state.by_order[order].failed + 1)
    asked = state.members.get(event.vm, MemberState()).asks
    state = with_member(
        state,
        event.vm,
        ended=True,
        outcome=event.outcome,
        degraded=event.degraded,
        error=event.problem.message if event.problem is not None else "",
        again=event.again,
        made=event.made,
        asks="",
    )
    bad = event.problem if failed or event.degraded else None
    return msgspec.structs.replace(
        state,
        waits=state.waits.over(event.at, count=1 if asked else 0),
        launched_ended=state.launched_ended + (1 if launched else 0),
        attempted=state.attempted + (1 if failed or ready else 0),
        ready=state.ready + (1 if ready else 0),
        failed=state.failed + (1 if failed else 0),
        degraded=state.degraded + (1 if event.degraded else 0),
        stopping=state.stopping or event.stop,
        made=state.made or event.made,
        problems=with_problem(state, event.vm, bad),
    )
