"""What belongs to others at the sites of a world, and must be as it was when all is over."""

from __future__ import annotations

import random
from typing import Any, Final

from shared.platforms.memory import MemoryVm
from shared.platforms.memory.site import LooseDisk, MadeInstance
from shared.platforms.ports import DiskRef, Instance, Owned
from tests.simulation.plane import Plane

STRANGER: Final = "stranger"
"""The name of the VM, the plan and the job of all that is not ours."""


def move_in(world: Plane, chance: random.Random) -> None:
    """A VM at the source site; an instance and a disk at the other, under tags of their own.

    Now and then the instance has the name of a VM that may be recovered.
    """
    disk = chance.randbytes(512)
    vm = MemoryVm(STRANGER, {"sda": disk})
    vm.power = "off"
    world.add_vm(vm)
    west = world.sites["west"]
    name = "vm0" if chance.random() < 0.1 else STRANGER
    facts = Instance(
        instance_id="i-stranger",
        name=name,
        plan=STRANGER,
        vm=STRANGER,
        job=STRANGER,
        key=STRANGER,
        power="on",
        powered_on_at=None,
        network="prod",
        addresses=(),
        disks=("d-stranger-1",),
        heartbeat=False,
    )
    west.instances["i-stranger"] = MadeInstance(
        facts=facts,
        owned=_owned("instance"),
        boots_in_s=0.0,
        machine=MemoryVm(STRANGER, {"sda": disk}),
    )
    west.disks["d-stranger"] = LooseDisk(
        facts=DiskRef(disk_id="d-stranger", name="sda", file="sda.raw", size=len(disk)),
        owned=_owned("disk"),
        content=disk,
    )
    west.look()


def _owned(kind: str) -> Owned:
    return Owned(
        kind=kind, object_id=f"{kind[0]}-stranger", plan=STRANGER, vm=STRANGER, job=STRANGER,
        key=STRANGER,
    )  # fmt: skip


def seen(world: Plane) -> dict[str, Any]:
    """All of theirs as it is now; empty where nobody moved in."""
    east, west = world.sites["east"], world.sites["west"]
    if STRANGER not in east.vms:
        return {}
    vm, made = east.vms[STRANGER], west.instances.get("i-stranger")
    return {
        "vm": (vm.power, {name: bytes(disk) for name, disk in vm.disks.items()}),
        "instance": None if made is None else (made.facts, made.content),
        "disk": west.disks.get("d-stranger"),
    }
