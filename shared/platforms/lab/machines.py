"""Machines: instances under `instances/` and source VMs under `vms/`, on or off, with a guest.

Owns `instance.yaml`, `state.yaml`, addresses, and the host files through which guests of one
network find each other. Everything here blocks; whoever changes a machine holds its lock.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import msgspec

from shared.platforms.lab.folder import SiteFolder, component, locked, replace_file
from shared.platforms.lab.guests import Guest, runs
from shared.platforms.lab.records import read_flat, write_flat
from shared.platforms.lab.settings import DiskSpec, VmSpec
from shared.platforms.ports import Instance

_BOOT_LOCK_S_MAX: Final = 10.0


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Power and guest of a machine: the fields that `instance.yaml` and `state.yaml` share."""

    power: str = "off"
    powered_on_at: dt.datetime | None = None
    pid: int | None = None
    started: int | None = None
    boots: int = 0
    boots_in_s: float = 0.0
    has_command: bool = False

    def heartbeat(self, now: dt.datetime) -> bool:
        """Whether the guest is up: the time to boot has passed, its process (if any) runs."""
        if self.power != "on" or self.powered_on_at is None:
            return False
        if now < self.powered_on_at + dt.timedelta(seconds=self.boots_in_s):
            return False
        return not self.has_command or runs(self.pid, self.started)


class InstanceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`instance.yaml`."""

    id: str
    name: str
    plan: str
    vm: str
    job: str
    effect_id: str
    power: str = "off"
    powered_on_at: dt.datetime | None = None
    network: str
    addresses: tuple[str, ...]
    disks: tuple[str, ...]
    pid: int | None = None
    started: int | None = None
    boots: int = 0
    boots_in_s: float = 0.0
    has_command: bool = False
    port: int = 8000
    isolated: bool = False
    disk_ids: tuple[str, ...] = ()
    disk_names: tuple[str, ...] = ()

    def machine(self) -> Machine:
        """The power part."""
        return msgspec.convert(self, Machine, from_attributes=True)

    def hosts_name(self) -> str:
        """The network it shares with others: an isolated one is the plan's own."""
        return f"{self.network}@{self.plan}" if self.isolated else self.network

    def facts(self, now: dt.datetime) -> Instance:
        """As the port hands it out."""
        return Instance(
            instance_id=self.id,
            name=self.name,
            plan=self.plan,
            vm=self.vm,
            job=self.job,
            key=self.effect_id,
            power=self.power,
            powered_on_at=self.powered_on_at,
            network=self.network,
            addresses=self.addresses,
            disks=self.disk_ids,
            heartbeat=self.machine().heartbeat(now),
        )


def lock_machine(folder: Path) -> AbstractContextManager[int]:
    """Exclude others who power or delete this machine."""
    (folder / ".lab").mkdir(exist_ok=True)
    return locked(folder / ".lab" / "power", wait_s_max=_BOOT_LOCK_S_MAX)


def switched_on(machine: Machine, spec: VmSpec) -> Machine:
    """The machine as it is to be recorded before its guest starts; unchanged where it is on."""
    if machine.power == "on" and machine.boots:
        return machine
    return msgspec.structs.replace(
        machine,
        power="on",
        powered_on_at=dt.datetime.now(dt.UTC),
        boots=machine.boots + 1,
        boots_in_s=spec.guest.boots_in_s,
        has_command=bool(spec.guest.command),
        pid=None,
        started=None,
    )


def start_guest(
    folder: Path,
    machine: Machine,
    spec: VmSpec,
    files: Sequence[str],
    *,
    hosts: Path,
    address: str,
) -> Machine:
    """The machine with its guest running; at most one per power-on, whoever asks how often.

    `files` are the names of its disk files, in order.
    """
    if not spec.guest.command or machine.pid is not None:
        return machine
    disks = os.pathsep.join(str(folder / file) for file in files)
    environment = {
        "SEAWALL_LAB_DISKS": disks,
        "SEAWALL_LAB_ADDRESS": f"{address}:{spec.guest.port}",
        "SEAWALL_LAB_HOSTS": str(hosts),
    }
    found = Guest(folder, machine.boots).start(spec, environment)
    return msgspec.structs.replace(machine, pid=found.pid, started=found.started)


def power_off(folder: Path, machine: Machine, *, grace_s: float = 0.0) -> Machine:
    """The machine with its guest ended for sure."""
    if machine.boots:
        Guest(folder, machine.boots).stop(grace_s=grace_s)
    return msgspec.structs.replace(machine, power="off", pid=None, started=None)


def save_instance(path: Path, record: InstanceRecord, machine: Machine) -> InstanceRecord:
    """Write the power part into `instance.yaml`; nothing where it is the same."""
    changed = msgspec.structs.replace(record, **msgspec.structs.asdict(machine))
    if changed != record:
        write_flat(path / "instance.yaml", changed)
    return changed


def instance_spec(path: Path, record: InstanceRecord) -> VmSpec:
    """The VM that an instance is, with the disks that it has."""
    spec = msgspec.json.decode((path / ".lab" / "vm.json").read_bytes(), type=VmSpec)
    # One that an older build made does not say what its disks are called.
    names = record.disk_names or tuple(Path(file).stem for file in record.disks)
    known = {disk.file: disk.name for disk in spec.disks}
    disks = tuple(
        DiskSpec(name=known.get(file, name), file=file)
        for name, file in zip(names, record.disks, strict=True)
    )
    return msgspec.structs.replace(spec, name=record.vm, disks=disks)


def boot_instance(site: SiteFolder, path: Path, record: InstanceRecord) -> InstanceRecord:
    """The instance, on, with its guest started; the caller holds its lock."""
    spec = instance_spec(path, record)
    on = switched_on(record.machine(), spec)
    record = save_instance(path, record, on)
    hosts = hosts_path(site, record.hosts_name())
    started = start_guest(path, on, spec, record.disks, hosts=hosts, address=record.addresses[0])
    return save_instance(path, record, started)


# -- source VMs -------------------------------------------------------------------------------


def read_state(folder: Path) -> Machine:
    """Power of a source VM; one that nobody ever switched counts as on."""
    return read_flat(folder / "state.yaml", Machine) or Machine(power="on")


def write_state(folder: Path, machine: Machine) -> None:
    """Replace a source VM's `state.yaml`."""
    write_flat(folder / "state.yaml", machine)


# -- addresses and host files -----------------------------------------------------------------


def address_for(folder: SiteFolder, name: str, taken: Collection[str]) -> str:
    """A loopback address of its own for a machine: by hash, the next free one on a clash."""
    digest = hashlib.sha256(f"{folder.root}\0{name}".encode()).digest()
    number = int.from_bytes(digest[:4], "big")
    while True:
        number += 1
        # 127.0.x.y is left to everything else on this machine.
        address = f"127.{1 + number // 64516 % 254}.{1 + number // 254 % 254}.{1 + number % 254}"
        if address not in taken:
            return address


def hosts_path(folder: SiteFolder, network: str) -> Path:
    """The host file of a network: `vm address:port` lines."""
    return folder.ensure(".lab", "networks") / f"{component(network)}.hosts"


def add_host(folder: SiteFolder, network: str, vm: str, address: str) -> None:
    """Put a machine into its network's host file, in place of an older entry.

    A new one is appended: rewriting the file for each of 2,000 machines would write 80 MB.
    """
    path = hosts_path(folder, network)
    drop = f"{vm} {address.rpartition(':')[0]}:"
    with locked(path.with_suffix(".lock")):
        known = path.read_text("utf-8") if path.exists() else ""
        if not f"\n{known}".count(f"\n{drop}"):
            _append(path, f"{vm} {address}\n")
            return
    _rewrite(folder, network, f"{vm} {address}", drop=drop)


def drop_host(folder: SiteFolder, network: str, vm: str, address: str) -> None:
    """Take a machine out of its network's host file."""
    _rewrite(folder, network, "", drop=f"{vm} {address}:")


def _append(path: Path, line: str) -> None:
    """One write is one whole line, whoever reads meanwhile."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def _rewrite(folder: SiteFolder, network: str, line: str, *, drop: str) -> None:
    path = hosts_path(folder, network)
    with locked(path.with_suffix(".lock")):
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        kept = [found for found in lines if not found.startswith(drop)]
        if line:
            kept.append(line)
        replace_file(path, "".join(f"{found}\n" for found in kept).encode())
