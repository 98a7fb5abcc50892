"""What one VM's recovery is at a moment, and what must be under way then.

Saga. Owns the state, its folding, and the one rule that says which parts are due; what goes out
into the world when something becomes due is `vm_recovery`'s.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final, Literal

import msgspec

from schemas import recovery as said
from schemas.common import Problem, StepTiming
from schemas.ids import parts_of, stream_id
from schemas.plans import ScriptDefinition
from schemas.prep import VmSeated
from schemas.recovery_work import CopyHeld, DiskRebuilt
from services.recovery.domain import scripts, windows_steps
from services.recovery.domain.scripts import POST_STEP, PRE_STEP, ScriptRun
from services.recovery.domain.windows_steps import PREPARE, VALIDATE, WindowsWork

HOLD: Final = "hold-copy"
REBUILD: Final = "rebuild-disks"
CREATE: Final = "create-instance"
POWER_ON: Final = "power-on"
WAIT: Final = "wait-ready"
RELEASE: Final = "release-copy"


class VmRecovery(msgspec.Struct, frozen=True, kw_only=True):
    """One VM's recovery. `running` are the effect parts whose end has not been heard of."""

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
    if state.finished or state.enrolled is None or state.running:
        return False
    return halted(state) or not work_left(state)


def work_left(state: VmRecovery) -> bool:
    """Whether anything but letting the held copy go is still to be done."""
    told = definition(state)
    if state.ready_at is None or windows_steps.to_validate(told, state.copy, state.windows):
        return True
    return not _post_over(state)


def _post_over(state: VmRecovery) -> bool:
    return state.post.over or post_script(state) is None


def _due(state: VmRecovery) -> tuple[str, ...]:
    if state.launched is None or state.finished:
        return ()
    forward = () if halted(state) else _forward(state)
    return (*forward, RELEASE) if _release_due(state) else forward


def _forward(state: VmRecovery) -> tuple[str, ...]:
    if not state.pre.over and pre_script(state) is not None:
        # A VM with a pre-script builds nothing before its boot order is open.
        return (scripts.part_of_run(PRE_STEP, state.pre.run),) if state.boot else ()
    if state.copy is None:
        return (HOLD,)
    rebuilt = state.disks
    if missing := tuple(d.name for d in state.copy.disks if d.name not in rebuilt):
        return tuple(f"rebuild/{name}" for name in missing)
    told = definition(state)
    if windows_steps.to_prepare(told, state.copy, state.windows):
        return (PREPARE,) if state.windows.node else ()
    if not state.instance_id:
        return (CREATE,) if state.boot or state.copy.early else ()
    if state.powered_on_at is None:
        return (POWER_ON,) if state.boot else ()
    if state.ready_at is None:
        return ()
    if windows_steps.to_validate(told, state.copy, state.windows):
        return (VALIDATE,)
    if _post_over(state):
        return ()
    return (scripts.part_of_run(POST_STEP, state.post.run),)


def _release_due(state: VmRecovery) -> bool:
    """The held copy goes once nothing reads it and the guest is on: it must not cost RTO."""
    if state.released or not state.hold_tried or definition(state).checkpoint != "latest":
        return False
    if any(part == HOLD or part.startswith("rebuild/") for part in state.running):
        return False
    return state.powered_on_at is not None or halted(state)


# ── Folding ──────────────────────────────────────────────────────────────────────────────────


def evolve(state: VmRecovery, event: Any) -> VmRecovery:
    """Apply one fact and bring `running` up to what is due afterwards."""
    state = _applied(state, event)
    fresh = tuple(part for part in _due(state) if part not in state.running)
    if not fresh:
        return state
    return msgspec.structs.replace(
        state,
        running=state.running + fresh,
        hold_tried=state.hold_tried or HOLD in fresh,
        made=state.made or any(part.startswith("rebuild/") for part in fresh),
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
            return replace(state, abandoned=event.reason)
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
                _without(state, POWER_ON),
                powered_on_at=event.at,
                addresses=event.addresses or state.addresses,
                steps=(*state.steps, event.timing),
            )
        case said.VmReady():
            waited = StepTiming(
                name=WAIT, state="completed", started_at=state.powered_on_at, ended_at=event.at
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
            return replace(state, finished=True, running=())
    raise AssertionError(f"{type(event).__name__} is no event of a VM's recovery")


def _without(state: VmRecovery, part: str) -> VmRecovery:
    running = tuple(other for other in state.running if other != part)
    return msgspec.structs.replace(state, running=running)


def _with_script(state: VmRecovery, step: str, **changes: Any) -> VmRecovery:
    field = "pre" if step == PRE_STEP else "post"
    changed = msgspec.structs.replace(getattr(state, field), **changes)
    return msgspec.structs.replace(state, **{field: changed})


def _script_ended(state: VmRecovery, event: said.VmScriptEnded) -> VmRecovery:
    state = _without(state, scripts.part_of_run(event.step, event.run))
    state = msgspec.structs.replace(state, steps=(*state.steps, event.timing))
    if event.again:
        return _with_script(state, event.step, run=event.run + 1, started=False)
    state = _with_script(state, event.step, over=True)
    if event.report.outputs:
        outputs = {**state.outputs, event.step: event.report.outputs}
        state = msgspec.structs.replace(state, outputs=outputs)
    if event.report.outcome == "done" or event.timing.state == "cancelled":
        return state
    return _script_failed(state, event)


def _script_failed(state: VmRecovery, event: said.VmScriptEnded) -> VmRecovery:
    script = pre_script(state) if event.step == PRE_STEP else post_script(state)
    assert script is not None, "a script that ended was chosen"
    effect = scripts.on_failure(script, definition(state).on_error)
    # A pre-script that stops the operation leaves a VM that was not brought up: failed. A VM
    # that is ready when its post-script stops the operation stays usable.
    fails = effect == "fail_vm" or (effect == "stop" and event.step == PRE_STEP)
    return msgspec.structs.replace(
        state,
        degraded=True,
        failed=state.failed or fails,
        stop=state.stop or effect == "stop",
        problem=state.problem
        or Problem(
            code=f"script-{event.report.outcome}",
            message=f"{event.step} {script.run}: {event.report.error}",
            remedy=event.report.remedy or "mend the script and run the operation again",
        ),
    )


def _step_ended(state: VmRecovery, event: said.VmStepEnded) -> VmRecovery:
    step = event.timing.name
    state = _without(state, f"rebuild/{event.disk}" if step == REBUILD else step)
    state = msgspec.structs.replace(state, steps=(*state.steps, event.timing))
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
    return msgspec.structs.replace(state, failed=True, problem=state.problem or event.problem)


def _made(state: VmRecovery, step: str, made: dict[str, Any]) -> VmRecovery:
    match step:
        case "hold-copy":
            return msgspec.structs.replace(state, copy=msgspec.convert(made, CopyHeld))
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
