"""`Inventory` in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shared.platforms.memory.site import Frame, MemoryVm, disk_facts
from shared.platforms.ports import (
    SiteFacts,
    VmFacts,
)

_CAPACITY: Final = 1 << 40


class MemoryInventory:
    """`Inventory` in memory."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    async def check(self) -> SiteFacts:
        site = self._frame.site
        return await self._frame.run(
            "check",
            None,
            lambda: SiteFacts(capacity_free=_CAPACITY, networks=(), instances=len(site.instances)),
        )

    async def list_vms(self, names: Sequence[str] | None = None) -> tuple[VmFacts, ...]:
        vms = self._frame.site.vms
        return await self._frame.run(
            "list_vms",
            None,
            lambda: tuple(
                _vm_facts(vm, power=vm.power)
                for name, vm in vms.items()
                if names is None or name in names
            ),
        )

    async def list_made(self, instance_ids: Sequence[str]) -> tuple[VmFacts, ...]:
        made = self._frame.site.instances
        return await self._frame.run(
            "list_made",
            None,
            lambda: tuple(
                _vm_facts(made[each].machine, power=made[each].facts.power, instance=each)
                for each in instance_ids
                if each in made
            ),
        )


def _vm_facts(vm: MemoryVm, *, power: str, instance: str = "") -> VmFacts:
    return VmFacts(
        name=vm.name,
        os=vm.os,
        cpus=1,
        memory=1 << 30,
        disks=disk_facts(vm.disks),
        networks=("prod",),
        power=power,
        configuration=vm.configuration(),
        instance=instance,
    )
