"""What `seawall lab write/start/stop/status` do to a site by hand. Blocking, plain arguments.

Owns nothing of its own: writes go through the write protocol, power through `machines`. A path
names a site folder (all its VMs), a VM's folder, or an instance's.
"""

from __future__ import annotations

import datetime as dt
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from shared.errors import Permanent, Refused
from shared.platforms.lab import machines, power
from shared.platforms.lab.folder import SiteFolder
from shared.platforms.lab.machines import InstanceRecord
from shared.platforms.lab.records import read_flat
from shared.platforms.lab.settings import VmSpec
from shared.platforms.lab.snapshots import TrackedFolder
from shared.platforms.lab.writer import LabDisk

STOP_GRACE_S: Final = 5.0
_PIECE_BYTES: Final = 1 << 20


class MachineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `seawall lab status`. `kind` is vm or instance."""

    kind: str
    name: str
    folder: str
    power: str
    heartbeat: bool
    address: str
    pid: int | None
    powered_on_at: dt.datetime | None
    open_snapshots: int


def write(disk: str | os.PathLike[str], offset: int, data: bytes) -> None:
    """Write bytes to a disk file by the write protocol; see `LabWriter.write` for errors."""
    LabDisk(disk).write(offset, data)


def write_random(
    disk: str | os.PathLike[str], *, seed: int, count: int, size: int
) -> Iterator[tuple[int, int]]:
    """Write `count` ranges of `size` random bytes at random multiples of 4 KiB; yields each
    (offset, length) when it is written. The same seed and disk size give the same writes."""
    target = LabDisk(disk)
    chance = random.Random(seed)
    room = target.size - size
    if size <= 0 or room < 0:
        raise Refused(
            f"{size} bytes do not fit on {disk} of {target.size} bytes", code="out-of-range"
        )
    for _ in range(count):
        offset = chance.randrange(0, room + 1) // 4096 * 4096
        for at in range(0, size, _PIECE_BYTES):
            target.write(offset + at, chance.randbytes(min(_PIECE_BYTES, size - at)))
        yield offset, size


def start(path: str | os.PathLike[str]) -> tuple[MachineStatus, ...]:
    """Power on what the path names; what runs already is left alone."""
    return tuple(_switch(folder, on=True, grace_s=0) for folder in _targets(path))


def stop(
    path: str | os.PathLike[str], *, grace_s: float = STOP_GRACE_S
) -> tuple[MachineStatus, ...]:
    """Shut down what the path names: SIGTERM, after `grace_s` SIGKILL."""
    return tuple(_switch(folder, on=False, grace_s=grace_s) for folder in _targets(path))


def status(path: str | os.PathLike[str]) -> tuple[MachineStatus, ...]:
    """VMs and instances of a site, or the one machine that the path names."""
    folders = _targets(path)
    site = Path(os.path.abspath(path))
    if not _is_machine(site):
        folders = [*folders, *_folders(site / "instances", "instance.yaml")]
    return tuple(_status(folder) for folder in folders)


def _targets(path: str | os.PathLike[str]) -> list[Path]:
    root = Path(os.path.abspath(path))
    SiteFolder(root).require()
    if _is_machine(root):
        return [root]
    found = _folders(root / "vms", "vm.yaml")
    if not found and not (root / "site.yaml").exists() and not (root / "instances").exists():
        raise Permanent(
            f"{root} is no lab site and no machine of one: there is no vms folder, no vm.yaml",
            code="not-a-site",
            remedy="name a site folder, or one of its vms/<vm> or instances/<id> folders",
        )
    return found


def _is_machine(path: Path) -> bool:
    return (path / "vm.yaml").exists() or (path / "instance.yaml").exists()


def _folders(root: Path, file: str) -> list[Path]:
    if not root.is_dir():
        return []
    return [path for path in sorted(root.iterdir()) if (path / file).exists()]


def _switch(folder: Path, *, on: bool, grace_s: float) -> MachineStatus:
    with machines.lock_machine(folder):
        if (folder / "instance.yaml").exists():
            _switch_instance(folder, on=on, grace_s=grace_s)
        elif on:
            power.switch_on(folder)
        else:
            power.switch_off(folder, machines.read_state(folder), grace_s=grace_s)
    return _status(folder)


def _switch_instance(folder: Path, *, on: bool, grace_s: float) -> None:
    record = read_flat(folder / "instance.yaml", InstanceRecord)
    assert record is not None
    machine = record.machine()
    if not on:
        machines.save_instance(
            folder, record, machines.power_off(folder, machine, grace_s=grace_s)
        )
        return
    spec = msgspec.json.decode((folder / ".lab" / "vm.json").read_bytes(), type=VmSpec)
    machine = machines.switched_on(power.revived(folder, machine), spec)
    record = machines.save_instance(folder, record, machine)
    hosts = machines.hosts_path(_site_of(folder), record.hosts_name())
    address = record.addresses[0]
    started = machines.start_guest(
        folder, machine, spec, record.disks, hosts=hosts, address=address
    )
    machines.save_instance(folder, record, started)


def _status(folder: Path) -> MachineStatus:
    now = dt.datetime.now(dt.UTC)
    record = read_flat(folder / "instance.yaml", InstanceRecord)
    machine = record.machine() if record is not None else machines.read_state(folder)
    tracked = TrackedFolder(folder).load()
    return MachineStatus(
        kind="vm" if record is None else "instance",
        name=folder.name if record is None else record.name,
        folder=str(folder),
        power=machine.power,
        heartbeat=machine.heartbeat(now),
        address=power.address_of(folder) if record is None else record.addresses[0],
        pid=machine.pid,
        powered_on_at=machine.powered_on_at,
        open_snapshots=len(tracked.snapshots) if tracked is not None else 0,
    )


def _site_of(folder: Path) -> SiteFolder:
    return SiteFolder(folder.parent.parent)
