"""`Power` in memory: a source is on or off. `deaf` ones do not end when they are asked to, and
those that are `stuck` as well cannot be powered off."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import msgspec

from shared.errors import Permanent
from shared.platforms.memory.site import Frame, MadeInstance, MemoryVm, made_instance, moment
from shared.platforms.ports import NO_SUCH_SOURCE, Call, RunningVm


class MemoryPower:
    """`Power` in memory."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    async def state(self, *, vm: str, instance: str = "") -> str:
        return await self._frame.run(
            "source_state",
            Call(key="", vm=vm),
            lambda: self._source(None, vm, instance).power,
        )

    async def list_running(
        self, vms: Sequence[str], *, instances: Mapping[str, str] = {}
    ) -> tuple[RunningVm, ...]:
        def work() -> tuple[RunningVm, ...]:
            return tuple(
                RunningVm(name=vm) for vm in vms if self._power(vm, instances.get(vm, "")) == "on"
            )

        return await self._frame.run("source_state", None, work)

    async def shut_down(self, call: Call, *, vm: str, within_s: float, instance: str = "") -> None:
        def ask() -> None:
            source = self._source(call, vm, instance)
            if not source.deaf:
                source.switch("off")

        scope = instance or vm
        await self._frame.run("shut_down_source", call, ask, scope=scope, mutates=True)
        if self._source(call, vm, instance).power != "off":
            await asyncio.sleep(within_s)
            raise Permanent(
                f"the guest of {vm} did not end within {within_s:g} s",
                code="shutdown-timed-out",
                remedy="power it off",
            )

    async def power_off(self, call: Call, *, vm: str, instance: str = "") -> None:
        await self._switch("power_off_source", call, vm, instance, "off")

    async def power_on(self, call: Call, *, vm: str, instance: str = "") -> None:
        await self._switch("power_on_source", call, vm, instance, "on")

    async def _switch(self, name: str, call: Call, vm: str, instance: str, power: str) -> None:
        def work() -> None:
            source = self._source(call, vm, instance)
            if power == "off" and source.stuck:
                raise Permanent(f"{vm} does not go off", code="stuck", remedy="look at its host")
            source.switch(power)

        await self._frame.run(name, call, work, scope=instance or vm, mutates=True)

    def _power(self, vm: str, instance: str) -> str:
        try:
            return self._source(None, vm, instance).power
        except Permanent as missing:
            if missing.code in NO_SUCH_SOURCE:
                return "missing"
            raise

    def _source(self, call: Call | None, name: str, instance: str) -> _Vm | _Instance:
        if instance:
            return _Instance(made_instance(self._frame.site, call, instance))
        vm = self._frame.site.vms.get(name)
        if vm is None:
            raise Permanent(f"there is no VM {name}", code="no-such-vm", remedy="bring it back")
        return _Vm(vm)


class _Vm:
    def __init__(self, vm: MemoryVm) -> None:
        self._vm = vm
        self.deaf, self.stuck = vm.deaf, vm.stuck

    @property
    def power(self) -> str:
        return self._vm.power

    def switch(self, power: str) -> None:
        self._vm.power = power


class _Instance:
    def __init__(self, made: MadeInstance) -> None:
        self._made = made
        self.deaf, self.stuck = made.machine.deaf, made.machine.stuck

    @property
    def power(self) -> str:
        return self._made.facts.power

    def switch(self, power: str) -> None:
        facts = self._made.facts
        if facts.power == power:
            return
        since = moment() if power == "on" else facts.powered_on_at
        self._made.facts = msgspec.structs.replace(facts, power=power, powered_on_at=since)
