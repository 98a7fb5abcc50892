"""Random plans, VMs and tempers of worlds in which everything is about recoveries.

Smaller disks and quicker guests than elsewhere: what is looked at here is order and outcome, and
hundreds of worlds must pass in minutes. What all worlds share is in `plans`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from schemas.plans import (
    RECOVERY_OPERATIONS,
    CheckpointPolicy,
    ManualStep,
    PlanDefinition,
    ScriptDefinition,
    VmDefinition,
)
from shared.platforms.memory import MemoryVm
from tests.simulation.plane import CHUNK_BYTES
from tests.simulation.plans import UNPREPARED, Scripts, Temper, random_plan

INTERVALS_S: Final = (600.0, 1200.0, 3600.0)
BOOTS_S: Final = (0.0, 1.0, 4.0, 15.0)
"""One of them does not answer within the shortest time that a VM is given."""

PLAN_POINTS: Final = ("before-pre-script", "after-pre-script", "before-post-script")
VM_POINTS: Final = ("before-boot", "after-boot")

replace = msgspec.structs.replace


def drill_temper(chance: random.Random) -> Temper:
    """A temper; in a calm world nothing is left to luck, so that its ends are known exactly."""
    calm = chance.random() < 0.35
    return Temper(
        vms_max=chance.choice((1, 3, 5, 8)),
        faults=not calm and chance.random() < 0.6,
        quotas=chance.random() < 0.5,
        scripts=chance.random() < 0.75,
        failing_guests=chance.random() < 0.4,
        calm=calm,
        acts={},
    )


def drill_vm(chance: random.Random, name: str) -> MemoryVm:
    """A VM with one or two disks of a few KiB; one of four is a Windows."""
    disks = {}
    for number in range(chance.choice((1, 1, 2))):
        size = chance.choice((1, 2, 3)) * CHUNK_BYTES + chance.choice((0, 512))
        disks[f"sd{'ab'[number]}"] = chance.randbytes(size)
    os = "windows" if chance.random() < 0.25 else "linux"
    if os == "windows":
        disks["sda"] = UNPREPARED + disks["sda"][len(UNPREPARED) :]
    return MemoryVm(name, disks, boots_in_s=chance.choice(BOOTS_S), os=os)


def drill_plan(
    chance: random.Random, name: str, *, vms: Sequence[str], scripts: Scripts, temper: Temper
) -> PlanDefinition:
    """A plan that seldom replicates by itself, with manual steps at any of its points."""
    plan = random_plan(chance, name, vms=vms, scripts=scripts, temper=temper)
    orders = sorted({vm.boot_order for vm in plan.vms})
    steps = [_manual(chance, f"plan{n}", at) for n, at in enumerate(PLAN_POINTS)]
    gate = _manual(chance, "gate", "before-boot-order")
    if gate is not None:
        gate = replace(gate, boot_order=chance.choice(orders))
    return replace(
        plan,
        replication=replace(plan.replication, interval_s=chance.choice(INTERVALS_S)),
        checkpoints=CheckpointPolicy(every_s=600.0, keep_last=2) if plan.checkpoints else None,
        recovery=replace(
            plan.recovery,
            manual_steps=tuple(each for each in (*steps, gate) if each is not None),
            auto_rollback=chance.random() < 0.4,
        ),
        vms=tuple(_drilled(chance, vm) for vm in plan.vms),
    )


def _drilled(chance: random.Random, vm: VmDefinition) -> VmDefinition:
    steps = [_manual(chance, f"{vm.name}-{at}", at, share=0.06) for at in VM_POINTS]
    return replace(
        vm,
        pre_script=_own_failure(chance, vm.pre_script),
        post_script=_own_failure(chance, vm.post_script),
        manual_steps=tuple(each for each in steps if each is not None),
    )


def _own_failure(
    chance: random.Random, script: ScriptDefinition | None
) -> ScriptDefinition | None:
    """Scripts of VMs may fail their VM alone."""
    if script is None or chance.random() > 0.3:
        return script
    return replace(script, on_failure="fail_vm")


def _manual(chance: random.Random, name: str, at: Any, *, share: float = 0.08) -> Any:
    if chance.random() > share:
        return None
    return ManualStep(
        name=name,
        text="look at it",
        at=at,
        operations=RECOVERY_OPERATIONS,
        timeout_s=chance.choice((20.0, 600.0)),
        on_timeout=chance.choice(("fail", "continue")),
    )
