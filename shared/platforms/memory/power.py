"""`Power` in memory: a VM is on or off; `deaf` ones do not end when they are asked to, and those
that are `stuck` as well cannot be powered off."""

from __future__ import annotations

import asyncio

from shared.errors import Permanent
from shared.platforms.memory.site import Frame, MemoryVm
from shared.platforms.ports import Call


class MemoryPower:
    """`Power` in memory."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    async def state(self, *, vm: str) -> str:
        return await self._frame.run(
            "source_state", Call(key="", vm=vm), lambda: self._vm(vm).power
        )

    async def shut_down(self, call: Call, *, vm: str, within_s: float) -> None:
        def ask() -> None:
            machine = self._vm(vm)
            if not machine.deaf:
                machine.power = "off"

        await self._frame.run("shut_down_source", call, ask, scope=vm, mutates=True)
        if self._vm(vm).power != "off":
            await asyncio.sleep(within_s)
            raise Permanent(
                f"the guest of {vm} did not end within {within_s:g} s",
                code="shutdown-timed-out",
                remedy="power it off",
            )

    async def power_off(self, call: Call, *, vm: str) -> None:
        def work() -> None:
            machine = self._vm(vm)
            if machine.stuck:
                raise Permanent(f"{vm} does not go off", code="stuck", remedy="look at its host")
            machine.power = "off"

        await self._frame.run("power_off_source", call, work, scope=vm, mutates=True)

    async def power_on(self, call: Call, *, vm: str) -> None:
        def work() -> None:
            self._vm(vm).power = "on"

        await self._frame.run("power_on_source", call, work, scope=vm, mutates=True)

    def _vm(self, name: str) -> MemoryVm:
        vm = self._frame.site.vms.get(name)
        if vm is None:
            raise Permanent(f"there is no VM {name}", code="no-such-vm", remedy="bring it back")
        return vm
