"""The work of one VM's recovery as data: its step list, its effects, what its scripts are told.

Decides nothing about order: `vm_state` says what is due, this says what that is.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import msgspec

from schemas.common import Fact
from schemas.recovery import VmEnrolled
from schemas.recovery_work import (
    CopyHeld,
    CreateInstance,
    HoldCopy,
    PowerOn,
    PrepareWindows,
    RebuildDisk,
    ReleaseCopy,
    RunScript,
    ValidateWindows,
)
from services.recovery.domain import scripts, windows_steps
from services.recovery.domain.manual import step_name
from services.recovery.domain.operations import of
from services.recovery.domain.scripts import POST_STEP, PRE_STEP
from services.recovery.domain.vm_state import (
    CREATE,
    HOLD,
    POWER_ON,
    REBUILD,
    RELEASE,
    WAIT,
    VmRecovery,
    definition,
    hold_part,
    manual_at,
    post_script,
    pre_script,
    vm_stream,
)
from services.recovery.domain.windows_steps import PREPARE, VALIDATE
from services.recovery.domain.work import instance_name, rate, recovery_effect
from shared.decider import Effect

PRODUCTION: Final = "production"
"""The network of an instance whose VM had none of its own and whose plan names none."""


def step_list(state: VmRecovery) -> tuple[str, ...]:
    """The steps this VM's recovery has, in order, as far as they are known: those of a Windows
    are once its copy is held."""
    pre = (PRE_STEP,) if pre_script(state) is not None else ()
    post = (POST_STEP,) if post_script(state) is not None else ()
    # An immutable checkpoint needs no hold, and so no release.
    release = (RELEASE,) if definition(state).checkpoint == "latest" else ()
    before, after = (
        tuple(map(step_name, manual_at(state, at))) for at in ("before-boot", "after-boot")
    )
    prepare, validate = windows_steps.names(definition(state), state.copy)
    boot = (*before, POWER_ON, WAIT, *validate, *after)
    return (*pre, HOLD, REBUILD, *prepare, CREATE, *boot, *post, *release)


_PLACES: Final = {POWER_ON: 0, CREATE: 1, "rebuild": 2, HOLD: 3, RELEASE: 6}
_PLACES_MAX: Final = 8


def _place(boot_order: int, step: str) -> int:
    """Where work stands among all that is due since the command, in microseconds behind it.

    Lower boot orders first; in one the VM that is furthest: 2,000 VMs that all held their copies
    before the first one was created would leave the site's limits idle meanwhile. A copy is let
    go last: nobody waits for it.
    """
    return boot_order * _PLACES_MAX + _PLACES.get(step, 0)


def effect_of(state: VmRecovery, part: str, now: dt.datetime) -> Effect:
    """The effect of a part that became due."""
    told = definition(state)
    asked_at = state.launched.requested_at if state.launched is not None else now
    step, _, rest = part.partition("/")
    disk = rest.partition("/")[0]
    is_script = step in (PRE_STEP, POST_STEP)
    kind, payload = _script(state, step) if is_script else _platform_work(state, step, disk)
    effect = recovery_effect(
        part,
        kind,
        payload,
        site=told.header.recovery_site.site,
        plan=told.plan,
        due=asked_at + dt.timedelta(microseconds=_place(told.definition.boot_order, step)),
        priority=told.definition.priority or told.header.replication.priority,
    )
    if step == POWER_ON and state.source is not None:
        look = rate(state.source.site.site, "look-at-source")
        return msgspec.structs.replace(effect, needs=(*effect.needs, *look))
    return effect


def _platform_work(state: VmRecovery, step: str, disk: str) -> tuple[str, Fact]:
    told = definition(state)
    vm = told.definition.name
    tags: dict[str, Any] = {
        "site": told.header.recovery_site,
        "plan": told.plan,
        "job": told.job,
        "vm": vm,
    }
    match step:
        case "hold-copy":
            return step, HoldCopy(checkpoint=told.checkpoint, **tags)
        case "release-copy":
            held_under = f"{vm_stream(told.job, vm)}/{hold_part(state)}"
            copy_id = state.copy.copy_id if state.copy is not None else ""
            return step, ReleaseCopy(held_under=held_under, copy_id=copy_id, **tags)
        case "power-on":
            return step, PowerOn(instance_id=state.instance_id, source=state.source, **tags)
    assert state.copy is not None, "only a held copy is rebuilt from"
    if step == "rebuild":
        return "rebuild-disk", RebuildDisk(copy_id=state.copy.copy_id, disk=disk, **tags)
    disks = tuple(state.disks[disk.name] for disk in state.copy.disks)
    if step == PREPARE:
        return step, PrepareWindows(node=state.windows.node, disks=disks, **tags)
    if step == VALIDATE:
        return step, ValidateWindows(instance_id=state.instance_id, disks=len(disks), **tags)
    assert step == CREATE, step
    instance = CreateInstance(
        name=instance_name(vm, job=told.job, mode=told.mode),
        network=_network(told, state.copy),
        isolated=of(told.mode).isolated,
        disks=disks,
        configuration=state.copy.configuration,
        **tags,
    )
    return step, instance


def _network(told: VmEnrolled, copy: CopyHeld) -> str:
    """The network of the instance; where the plan names none, the VM's own at its site."""
    networks = told.header.recovery.networks
    if of(told.mode).isolated:
        return networks.test
    if networks.production is not None:
        return networks.production
    own = copy.configuration.get("networks")
    return str(own[0]) if isinstance(own, list | tuple) and own else PRODUCTION


def _script(state: VmRecovery, step: str) -> tuple[str, Fact]:
    told = definition(state)
    vm = told.definition
    script = pre_script(state) if step == PRE_STEP else post_script(state)
    assert script is not None, "a script that is due was chosen"
    work = scripts.script_work(
        script,
        step=step,
        plan=told.plan,
        context=_context(state, step),
        credentials=vm.credentials if step == POST_STEP else {},
    )
    run = (state.pre if step == PRE_STEP else state.post).run
    return "run-script", RunScript(work=work, vm=vm.name, run=run)


def _context(state: VmRecovery, step: str) -> dict[str, Any]:
    """What a VM script reads. Credentials are added by the effect, at that moment."""
    told = definition(state)
    context: dict[str, Any] = {
        "hook": "pre-recovery" if step == PRE_STEP else "post-recovery",
        "operation": told.mode,
        "job": told.job,
        "plan": {"name": told.plan, "recovery_site": told.header.recovery_site.site},
        "vm": {
            "name": told.definition.name,
            "boot_order": told.definition.boot_order,
            "checkpoint": told.checkpoint,
        },
        "outputs": {
            "plan": state.launched.plan_outputs if state.launched is not None else {},
            "vm": state.outputs,
        },
    }
    if step == POST_STEP:
        context["instance"] = {
            "id": state.instance_id,
            "addresses": list(state.addresses),
            "powered_on_at": scripts.moment(state.powered_on_at),
            "ready_at": scripts.moment(state.ready_at),
            "copy_taken_at": scripts.moment(state.copy.taken_at if state.copy else None),
        }
    return context
