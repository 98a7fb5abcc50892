"""What one VM's recovery is at a moment, and what must be under way then.

Saga. Owns the state, its folding, and the one rule that says which parts are due; what goes out
into the world when something becomes due is `vm_recovery`'s.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final, Literal

import msgspec

from schemas import recovery as said
from schemas import recovery_steering as steer
from schemas.common import Problem, StepTiming
from schemas.ids import parts_of, stream_id
from schemas.plans import ManualPoint, ManualStep, ScriptDefinition
from schemas.prep import VmSeated
from schemas.recovery_work import CopyHeld, DiskRebuilt
from services.recovery.domain import manual, prompts, scripts, windows_steps
from services.recovery.domain.scripts import POST_STEP, PRE_STEP, ScriptRun
from services.recovery.domain.waits import Waits
from services.recovery.domain.windows_steps import PREPARE, VALIDATE, WindowsWork

HOLD: Final = "hold-copy"
REBUILD: Final = "rebuild-disks"
CREATE: Final = "create-instance"
POWER_ON: Final = "power-on"
WAIT: Final = "wait-ready"
RELEASE: Final = "release-copy"


class VmRecovery(msgspec.Struct, frozen=True, kw_only=True):
    """One VM's recovery. `running` are the effect parts whose end has not been heard of.

    `paused` is by whom. `question` waits for a person, the `asked`-th of this stream; `by_hand`
    are the manual steps that are over. `failed_step` failed the VM, `skipped` were gone on
    without. `tried` are attempts before a retry, by step. `holds`, `copies` and `powers` number
    what is done with another token once it is done again: holding the copy, making disks and
    instance of another copy than `last_copy`, powering on. `round` counts retries; `source` must
    be off when a retried VM is powered on.
    """

    enrolled: said.VmEnrolled | None = None
    launched: said.VmLaunched | None = None
    boot: bool = False
    abandoned: Literal["", "stop", "cancel", "dry-run"] = ""
    pre: ScriptRun = ScriptRun()
    post: ScriptRun = ScriptRun()
    outputs: dict[str, Any] = {}
    hold_tried: bool = False
    copy: CopyHeld | None = None
    disks: dict[str, DiskRebuilt] = {}
    windows: WindowsWork = WindowsWork()
    made: bool = False
    instance_id: str = ""
    addresses: tuple[str, ...] = ()
    powered_on_at: dt.datetime | None = None
    ready_at: dt.datetime | None = None
    released: bool = False
    troubled: bool = False
    failed: bool = False
    degraded: bool = False
    stop: bool = False
    problem: Problem | None = None
    running: tuple[str, ...] = ()
    steps: tuple[StepTiming, ...] = ()
    finished: bool = False
    finished_at: dt.datetime | None = None
    paused: tuple[steer.PausedBy, ...] = ()
    question: steer.Question | None = None
    asked: int = 0
    by_hand: dict[str, manual.Result] = {}
    waits: Waits = Waits()
    failed_step: str = ""
    skipped: tuple[str, ...] = ()
    tried: dict[str, int] = {}
    holds: int = 1
    copies: int = 1
    powers: int = 1
    last_copy: str = ""
    round: int = 0
    source: steer.SourceCheck | None = None


def vm_stream(job: str, vm: str) -> str:
    """The stream of a VM's recovery in the recovery `job`."""
    _, plan, key = parts_of(job)
    return stream_id("vm-recovery", plan, key, vm)


def definition(state: VmRecovery) -> said.VmEnrolled:
    """What the VM's recovery was told; asserts that it was."""
    assert state.enrolled is not None, "enrolled before anything else"
    return state.enrolled


def pre_script(state: VmRecovery) -> ScriptDefinition | None:
    """The VM's own pre-script, if it runs in this operation."""
    told = definition(state)
    vm = told.definition
    return scripts.chosen(
        vm.pre_script, mode=told.mode, hook="pre-recovery", skip=told.skip_scripts, vm=vm.name
    )


def post_script(state: VmRecovery) -> ScriptDefinition | None:
    """The VM's own post-script, if it runs in this operation."""
    told = definition(state)
    vm = told.definition
    return scripts.chosen(
        vm.post_script, mode=told.mode, hook="post-recovery", skip=told.skip_scripts, vm=vm.name
    )


# ── What is due ──────────────────────────────────────────────────────────────────────────────


def halted(state: VmRecovery) -> bool:
    """No further step starts, but for letting the held copy go."""
    return state.failed or bool(state.abandoned)


def is_over(state: VmRecovery) -> bool:
    """Everything that can happen has: the VM's recovery may be finished."""
    if state.finished or state.enrolled is None or state.running or is_paused(state):
        return False
    return halted(state) or not work_left(state)


def is_paused(state: VmRecovery) -> bool:
    """No new step starts. Who gives the VM up does not wait for whoever paused it."""
    return bool(state.paused) and not state.abandoned


def work_left(state: VmRecovery) -> bool:
    """Whether anything but letting the held copy go is still to be done."""
    if state.ready_at is None or not _post_over(state) or validating(state):
        return True
    if not _pre_over(state):
        # It is done again for a VM that came up without it.
        return True
    return manual_due(state, "after-boot") is not None


def validating(state: VmRecovery) -> bool:
    """Whether a Windows is still to be asked how it is."""
    return windows_steps.to_validate(definition(state), state.copy, state.windows)


def manual_at(state: VmRecovery, at: ManualPoint) -> tuple[ManualStep, ...]:
    """The VM's manual steps of this operation at a point."""
    told = definition(state)
    return manual.chosen(told.definition.manual_steps, at, mode=told.mode)


def manual_due(state: VmRecovery, at: ManualPoint) -> ManualStep | None:
    """The manual step that comes next at a point; None where all are over."""
    return manual.next_of(manual_at(state, at), state.by_hand)


def question_due(state: VmRecovery, at: dt.datetime) -> steer.Question | None:
    """What a person is to be asked now, if nothing is asked already."""
    if state.launched is None or state.finished or halted(state) or is_paused(state):
        return None
    if state.question is not None:
        return None
    number = state.asked + 1
    for step, run in ((PRE_STEP, state.pre), (POST_STEP, state.post)):
        script = script_of(state, step)
        if run.asks and script is not None:
            return prompts.question(script, step, number=number, at=at)
    due = _manual_now(state)
    return None if due is None else manual.question(due, number=number, at=at)


def _manual_now(state: VmRecovery) -> ManualStep | None:
    if state.ready_at is not None:
        return None if validating(state) else manual_due(state, "after-boot")
    if state.instance_id and state.boot and state.powered_on_at is None and not state.running:
        return manual_due(state, "before-boot")
    return None


def script_of(state: VmRecovery, step: str) -> ScriptDefinition | None:
    """The VM's own script of a step, if it runs in this operation."""
    return pre_script(state) if step == PRE_STEP else post_script(state)


def _pre_over(state: VmRecovery) -> bool:
    return state.pre.over or pre_script(state) is None


def _post_over(state: VmRecovery) -> bool:
    return state.post.over or post_script(state) is None


def _due(state: VmRecovery) -> tuple[str, ...]:
    if state.launched is None or state.finished or is_paused(state):
        return ()
    forward = () if halted(state) else _forward(state)
    return (*forward, numbered(RELEASE, state.holds)) if _release_due(state) else forward


def _forward(state: VmRecovery) -> tuple[str, ...]:
    if not _pre_over(state):
        # A VM with a pre-script builds nothing before its boot order is open.
        due = state.boot and not state.pre.asks
        return (scripts.part_of_run(PRE_STEP, state.pre.run),) if due else ()
    if state.copy is None:
        return (hold_part(state),)
    if not state.instance_id:
        return _building(state, state.copy)
    if state.powered_on_at is None:
        may = state.boot and manual_due(state, "before-boot") is None
        return (numbered(POWER_ON, state.powers),) if may else ()
    if state.ready_at is not None and validating(state):
        return (VALIDATE,)
    if state.ready_at is None or manual_due(state, "after-boot") is not None:
        return ()
    if _post_over(state) or state.post.asks:
        return ()
    return (scripts.part_of_run(POST_STEP, state.post.run),)


def _building(state: VmRecovery, copy: CopyHeld) -> tuple[str, ...]:
    if missing := tuple(disk.name for disk in copy.disks if disk.name not in state.disks):
        return tuple(numbered(f"rebuild/{name}", state.copies) for name in missing)
    if windows_steps.to_prepare(definition(state), copy, state.windows):
        return (numbered(PREPARE, state.copies),) if state.windows.node else ()
    return (numbered(CREATE, state.copies),) if state.boot or copy.early else ()


def numbered(part: str, number: int) -> str:
    """An effect part that is done for the `number`-th time under another token."""
    return part if number == 1 else f"{part}/{number}"


def hold_part(state: VmRecovery) -> str:
    """The part that holds the copy: letting it go looks for what that one held."""
    return numbered(HOLD, state.holds)


def is_step(part: str, step: str) -> bool:
    """Whether an effect part belongs to a step, whatever its number."""
    return part.partition("/")[0] == ("rebuild" if step == REBUILD else step)


def _release_due(state: VmRecovery) -> bool:
    """The held copy goes once nothing reads it and the guest is on: it must not cost RTO."""
    if state.released or not state.hold_tried or definition(state).checkpoint != "latest":
        return False
    if any(is_step(part, HOLD) or is_step(part, REBUILD) for part in state.running):
        return False
    return state.powered_on_at is not None or halted(state)


# ── Folding ──────────────────────────────────────────────────────────────────────────────────


def evolve(state: VmRecovery, event: Any) -> VmRecovery:
    """Apply one fact of bringing the VM up; facts of steering are folded by `vm_steered`."""
    return up_to_date(_applied(state, event))


def up_to_date(state: VmRecovery) -> VmRecovery:
    """The state with `running` brought up to what is due."""
    fresh = tuple(part for part in _due(state) if part not in state.running)
    if not fresh:
        return state
    return msgspec.structs.replace(
        state,
        running=state.running + fresh,
        hold_tried=state.hold_tried or any(is_step(part, HOLD) for part in fresh),
        made=state.made or any(is_step(part, REBUILD) for part in fresh),
    )


def _applied(state: VmRecovery, event: Any) -> VmRecovery:
    replace = msgspec.structs.replace
    match event:
        case said.VmEnrolled():
            return replace(state, enrolled=event)
        case said.VmLaunched():
            return replace(state, launched=event, boot=event.boot)
        case said.VmBootAllowed():
            return replace(state, boot=True)
        case said.VmAbandoned():
            return replace(unasked(state, event.at), abandoned=event.reason)
        case said.VmScriptStarted():
            return _with_script(state, event.step, started=True)
        case said.VmScriptEnded():
            return _script_ended(state, event)
        case said.VmStepEnded():
            return _step_ended(state, event)
        case VmSeated():
            return replace(state, windows=replace(state.windows, node=event.node))
        case said.VmPoweredOn():
            return replace(
                without(state, numbered(POWER_ON, state.powers)),
                powered_on_at=event.at,
                addresses=event.addresses or state.addresses,
                steps=(*state.steps, event.timing),
            )
        case said.VmReady():
            waited = StepTiming(
                name=WAIT,
                state="completed",
                attempts=1 + state.tried.get(WAIT, 0),
                started_at=state.powered_on_at,
                ended_at=event.at,
            )
            return replace(
                state,
                ready_at=event.at,
                addresses=event.addresses or state.addresses,
                steps=(*state.steps, waited),
            )
        case said.VmReleaseTroubled():
            return replace(state, troubled=True)
        case said.VmFinished():
            return _finished(state, event)
    raise AssertionError(f"{type(event).__name__} is no event of a VM's recovery")


def _finished(state: VmRecovery, event: said.VmFinished) -> VmRecovery:
    return msgspec.structs.replace(
        state,
        finished=True,
        finished_at=event.at,
        running=(),
        question=None,
        paused=(),
        waits=Waits(total_s=event.waited_s),
    )


def without(state: VmRecovery, part: str) -> VmRecovery:
    """The state without a part under way."""
    running = tuple(other for other in state.running if other != part)
    return msgspec.structs.replace(state, running=running)


def _with_script(state: VmRecovery, step: str, **changes: Any) -> VmRecovery:
    field = "pre" if step == PRE_STEP else "post"
    changed = msgspec.structs.replace(getattr(state, field), **changes)
    return msgspec.structs.replace(state, **{field: changed})


def _script_ended(state: VmRecovery, event: said.VmScriptEnded) -> VmRecovery:
    state = without(state, scripts.part_of_run(event.step, event.run))
    state = msgspec.structs.replace(state, steps=(*state.steps, event.timing))
    script = script_of(state, event.step)
    assert script is not None, "a script that ended was chosen"
    asks = prompts.asks(script, event.report) and not halted(state)
    run = state.pre if event.step == PRE_STEP else state.post
    after = run.ended(
        event.report, again=event.again, cancelled=event.timing.state == "cancelled", asks=asks
    )
    state = with_run(state, event.step, after)
    if after.over and event.report.outputs:
        outputs = {**state.outputs, event.step: event.report.outputs}
        state = msgspec.structs.replace(state, outputs=outputs)
    if not after.failed:
        return state
    problem = Problem(
        code=f"script-{event.report.outcome}",
        message=f"{event.step} {script.run}: {event.report.error}",
        remedy=event.report.remedy or "mend the script, then `seawall job retry`",
    )
    return script_failed(state, event.step, script, problem)


def script_failed(
    state: VmRecovery, step: str, script: ScriptDefinition, problem: Problem
) -> VmRecovery:
    """A script failed for good: what that means for the VM and the operation."""
    effect = scripts.on_failure(script, definition(state).on_error)
    # A pre-script that stops the operation leaves a VM that was not brought up: failed. A VM
    # that is ready when its post-script stops the operation stays usable.
    fails = effect == "fail_vm" or (effect == "stop" and step == PRE_STEP)
    state = msgspec.structs.replace(
        state,
        degraded=True,
        stop=state.stop or effect == "stop",
        problem=state.problem or problem,
    )
    return failing(state, step, problem) if fails else state


def failing(state: VmRecovery, step: str, problem: Problem | None) -> VmRecovery:
    """The VM fails at a step."""
    return msgspec.structs.replace(
        state,
        failed=True,
        failed_step=state.failed_step or step,
        problem=state.problem or problem,
    )


def with_run(state: VmRecovery, step: str, run: ScriptRun) -> VmRecovery:
    """The state with another run of one of its scripts."""
    return msgspec.structs.replace(state, **{"pre" if step == PRE_STEP else "post": run})


def _step_ended(state: VmRecovery, event: said.VmStepEnded) -> VmRecovery:
    step = event.timing.name
    running = tuple(
        part
        for part in state.running
        if not (is_step(part, step) and (not event.disk or event.disk == _disk_of(part)))
    )
    state = msgspec.structs.replace(state, running=running, steps=(*state.steps, event.timing))
    if step in windows_steps.STEPS:
        work = windows_steps.ended(state.windows, event.timing)
        state = msgspec.structs.replace(state, windows=work)
    if step in (RELEASE, VALIDATE):
        # Neither takes away what is ready: the VM is degraded where they fail.
        late = event.timing.state != "completed"
        if step == VALIDATE and event.timing.state == "cancelled" and halted(state):
            return state
        return msgspec.structs.replace(
            state,
            released=state.released or step == RELEASE,
            degraded=state.degraded or late,
            problem=state.problem or event.problem,
        )
    if event.timing.state == "completed":
        return _made(state, step, event.made)
    if event.timing.state == "cancelled" and halted(state):
        return state
    return failing(state, step, event.problem)


def _disk_of(part: str) -> str:
    return part.split("/")[1]


def _made(state: VmRecovery, step: str, made: dict[str, Any]) -> VmRecovery:
    match step:
        case "hold-copy":
            return _held(state, msgspec.convert(made, CopyHeld))
        case "rebuild-disks":
            disk = msgspec.convert(made, DiskRebuilt)
            return msgspec.structs.replace(state, disks={**state.disks, disk.name: disk})
        case "create-instance":
            return msgspec.structs.replace(
                state,
                instance_id=made["instance_id"],
                addresses=tuple(made.get("addresses", ())),
            )
        case "prepare-windows":
            return state
    raise AssertionError(f"{step} makes nothing")


def _held(state: VmRecovery, copy: CopyHeld) -> VmRecovery:
    """The copy to read from. Disks of another one are never put together with its: all are made
    anew, under tokens of their own, and cleanup finds the others by their tag."""
    state = msgspec.structs.replace(state, copy=copy)
    if not state.last_copy or state.last_copy == copy.copy_id:
        return state
    return msgspec.structs.replace(state, disks={}, copies=state.copies + 1, windows=WindowsWork())


def unasked(state: VmRecovery, at: dt.datetime | None) -> VmRecovery:
    """Nobody waits for a person, or for whoever paused it, any more."""
    count = len(state.paused) + (state.question is not None)
    return msgspec.structs.replace(
        state, question=None, paused=(), waits=state.waits.over(at, count=count)
    )
