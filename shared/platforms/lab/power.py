"""`Power` of the lab: sources, a site's VMs or instances, shut down, switched off and on.

Owns what switching a source VM means for its `state.yaml`, its guest and its network's host file;
processes are `guests`', the file's shape is `machines`'.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from shared.errors import Permanent
from shared.platforms.lab import machines, sources, sparse
from shared.platforms.lab.calls import Frame
from shared.platforms.lab.folder import SiteFolder
from shared.platforms.lab.guests import Guest, runs
from shared.platforms.lab.machines import InstanceRecord, Machine
from shared.platforms.lab.settings import read_vm
from shared.platforms.ports import NO_SUCH_SOURCE, Call, RunningVm

_POLL_S: Final = 0.05


class LabPower:
    """Switches the VMs under `vms/` of a site folder, and the instances that were made there."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    async def state(self, *, vm: str, instance: str = "") -> str:
        def work() -> str:
            return self._source(None, vm, instance).machine().power

        return await self._frame.read("source_state", Call(key="", vm=vm), work)

    async def list_running(
        self, vms: Sequence[str], *, instances: Mapping[str, str] = {}
    ) -> tuple[RunningVm, ...]:
        def work() -> tuple[RunningVm, ...]:
            self._frame.folder.require()
            machines_there = ((vm, self._machine(vm, instances.get(vm, ""))) for vm in vms)
            return tuple(
                RunningVm(name=vm, since=machine.powered_on_at)
                for vm, machine in machines_there
                if machine is not None and machine.power == "on"
            )

        return await self._frame.read("source_state", None, work)

    async def shut_down(self, call: Call, *, vm: str, within_s: float, instance: str = "") -> None:
        def ask(pause: sparse.Checkpoint) -> None:
            source = self._source(call, vm, instance)
            with machines.lock_machine(source.folder):
                machine = source.machine()
                if machine.power == "on" and machine.boots:
                    Guest(source.folder, machine.boots).ask_to_end()

        def is_off() -> bool:
            return self._is_off(self._source(call, vm, instance))

        scope = instance or vm
        await self._frame.mutate("shut_down_source", call, ask, type(None), scope=scope)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        while not await self._frame.look("shut_down_source", call, is_off):
            if loop.time() >= deadline:
                raise Permanent(
                    f"the guest of {vm} did not end within {within_s:g} s of being asked to",
                    code="shutdown-timed-out",
                    remedy="look at its console; powering it off loses what it had not written",
                )
            await asyncio.sleep(_POLL_S)

    async def power_off(self, call: Call, *, vm: str, instance: str = "") -> None:
        def work(pause: sparse.Checkpoint) -> None:
            source = self._source(call, vm, instance)
            with machines.lock_machine(source.folder):
                source.switch_off()

        scope = instance or vm
        await self._frame.mutate("power_off_source", call, work, type(None), scope=scope)

    async def power_on(self, call: Call, *, vm: str, instance: str = "") -> None:
        def work(pause: sparse.Checkpoint) -> None:
            source = self._source(call, vm, instance)
            with machines.lock_machine(source.folder):
                source.switch_on()

        scope = instance or vm
        await self._frame.mutate("power_on_source", call, work, type(None), scope=scope)

    def _is_off(self, source: _Vm | _Instance) -> bool:
        """Whether nothing of the guest runs; then the machine is recorded as off."""
        with machines.lock_machine(source.folder):
            machine = source.machine()
            if machine.power != "off":
                if machine.boots and Guest(source.folder, machine.boots).is_running():
                    return False
                source.switch_off()
            return True

    def _machine(self, vm: str, instance: str) -> Machine | None:
        try:
            return self._source(None, vm, instance).machine()
        except Permanent as missing:
            if missing.code in NO_SUCH_SOURCE:
                return None
            raise

    def _source(self, call: Call | None, vm: str, instance: str) -> _Vm | _Instance:
        site = self._frame.folder
        path = sources.require(site, call, vm=vm, instance=instance)
        return _Instance(site, path) if instance else _Vm(path)


class _Vm:
    """A VM of the site. Whoever changes it holds its lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def machine(self) -> Machine:
        return machines.read_state(self.folder)

    def switch_off(self) -> None:
        switch_off(self.folder, self.machine())

    def switch_on(self) -> None:
        switch_on(self.folder)


class _Instance:
    """An instance that we made. Whoever changes it holds its lock."""

    def __init__(self, site: SiteFolder, folder: Path) -> None:
        self._site = site
        self.folder = folder

    def record(self) -> InstanceRecord:
        return sources.owned_instance(self._site, None, self.folder)

    def machine(self) -> Machine:
        return self.record().machine()

    def switch_off(self) -> None:
        record = self.record()
        off = machines.power_off(self.folder, record.machine())
        machines.save_instance(self.folder, record, off)

    def switch_on(self) -> None:
        machines.boot_instance(self._site, self.folder, self.record())


def switch_off(folder: Path, machine: Machine, *, grace_s: float = 0.0) -> None:
    """End the guest for sure and record the source VM as off. The caller holds its lock."""
    machines.write_state(folder, machines.power_off(folder, machine, grace_s=grace_s))


def switch_on(folder: Path) -> None:
    """Boot the source VM unless it runs. The caller holds its lock."""
    spec = read_vm(folder)
    site = SiteFolder(folder.parent.parent)
    address = address_of(folder)
    state = machines.switched_on(revived(folder, machines.read_state(folder)), spec)
    machines.write_state(folder, state)
    for network in spec.networks:
        machines.add_host(site, network, spec.name, f"{address}:{spec.guest.port}")
    hosts = machines.hosts_path(site, spec.networks[0] if spec.networks else f"@{spec.name}")
    files = [disk.file for disk in spec.disks]
    started = machines.start_guest(folder, state, spec, files, hosts=hosts, address=address)
    machines.write_state(folder, started)


def revived(folder: Path, machine: Machine) -> Machine:
    """A machine whose guest died counts as off, so that it is booted again."""
    dead = machine.power == "on" and machine.has_command and machine.pid is not None
    if dead and not runs(machine.pid, machine.started):
        return machines.power_off(folder, machine)
    return machine


def address_of(folder: Path) -> str:
    """The loopback address of a source VM."""
    site = SiteFolder(folder.parent.parent)
    return machines.address_for(site, f"vm/{folder.name}", ())
