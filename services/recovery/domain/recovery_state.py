"""What a recovery is at a moment: its roster, its boot orders, its phase, its outcome.

Saga. Owns the state and the rules read from it. What each fact does to it is `recovery_fold`'s,
what is sent and started when the phase changes is `recovery`'s.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final, Literal

import msgspec

from schemas import recovery as said
from schemas import recovery_steering as steer
from schemas.common import Problem, StepTiming
from schemas.directions import SourceInstance
from schemas.plans import ManualPoint, ManualStep, ScriptDefinition
from services.recovery.domain import manual, prompts, scripts
from services.recovery.domain.operations import securing
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
    `failed_step`: what failed it; `asks`: the step at which it waits for a person. `round` counts
    its retries."""

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
    failed_step: str = ""
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
    are what VMs run as whose source is no VM of a site's own. `without` are VMs that a commit
    leaves out: what was made of them is gone, or being removed.
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
    without: frozenset[str] = frozenset()


def told(state: Recovery) -> said.RecoveryStarted:
    """What the recovery was started with; asserts that it was."""
    assert state.started is not None, "started before anything else"
    return state.started


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
        return "vms" if securing.coming_back(state.source) else "closing"
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
