"""`Power` of the lab: source VMs under `vms/`, shut down, switched off, switched on.

Owns what switching a source VM means for its `state.yaml`, its guest and its network's host file;
processes are `guests`', the file's shape is `machines`'.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from shared.errors import Permanent
from shared.platforms.lab import machines, sparse
from shared.platforms.lab.calls import Frame
from shared.platforms.lab.folder import SiteFolder, component
from shared.platforms.lab.guests import Guest, runs
from shared.platforms.lab.machines import Machine
from shared.platforms.lab.settings import read_vm
from shared.platforms.ports import Call, RunningVm

_POLL_S: Final = 0.05


class LabPower:
    """Switches the VMs under `vms/` of a site folder."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    async def state(self, *, vm: str) -> str:
        def work() -> str:
            return machines.read_state(self._folder(vm)).power

        return await self._frame.read("source_state", Call(key="", vm=vm), work)

    async def list_running(self, vms: Sequence[str]) -> tuple[RunningVm, ...]:
        def work() -> tuple[RunningVm, ...]:
            self._frame.folder.require()
            root = self._frame.folder.root / "vms"
            there = (vm for vm in vms if (root / component(vm) / "vm.yaml").exists())
            states = ((vm, machines.read_state(root / component(vm))) for vm in there)
            return tuple(
                RunningVm(name=vm, since=state.powered_on_at)
                for vm, state in states
                if state.power == "on"
            )

        return await self._frame.read("source_state", None, work)

    async def shut_down(self, call: Call, *, vm: str, within_s: float) -> None:
        def ask(pause: sparse.Checkpoint) -> None:
            folder = self._folder(vm)
            with machines.lock_machine(folder):
                machine = machines.read_state(folder)
                if machine.power == "on" and machine.boots:
                    Guest(folder, machine.boots).ask_to_end()

        await self._frame.mutate("shut_down_source", call, ask, type(None), scope=vm)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        while not await self._frame.look("shut_down_source", call, lambda: self._is_off(vm)):
            if loop.time() >= deadline:
                raise Permanent(
                    f"the guest of {vm} did not end within {within_s:g} s of being asked to",
                    code="shutdown-timed-out",
                    remedy="look at its console; powering it off loses what it had not written",
                )
            await asyncio.sleep(_POLL_S)

    async def power_off(self, call: Call, *, vm: str) -> None:
        def work(pause: sparse.Checkpoint) -> None:
            folder = self._folder(vm)
            with machines.lock_machine(folder):
                switch_off(folder, machines.read_state(folder))

        await self._frame.mutate("power_off_source", call, work, type(None), scope=vm)

    async def power_on(self, call: Call, *, vm: str) -> None:
        def work(pause: sparse.Checkpoint) -> None:
            folder = self._folder(vm)
            with machines.lock_machine(folder):
                switch_on(folder)

        await self._frame.mutate("power_on_source", call, work, type(None), scope=vm)

    def _is_off(self, vm: str) -> bool:
        """Whether nothing of the guest runs; then the machine is recorded as off."""
        folder = self._folder(vm)
        with machines.lock_machine(folder):
            machine = machines.read_state(folder)
            if machine.power != "off":
                if machine.boots and Guest(folder, machine.boots).is_running():
                    return False
                switch_off(folder, machine)
            return True

    def _folder(self, vm: str) -> Path:
        folder = self._frame.folder.root / "vms" / component(vm)
        if not (folder / "vm.yaml").exists():
            self._frame.folder.require()
            raise Permanent(
                f"there is no VM {vm} at {self._frame.folder.root}",
                code="no-such-vm",
                remedy="bring its folder back, or take the VM out of the plan",
            )
        return folder


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
