"""`Inventory` of the lab: VMs under `vms/`, instances as sources, the facts a check reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from shared.errors import Permanent
from shared.platforms.lab.calls import Frame
from shared.platforms.lab.folder import component
from shared.platforms.lab.machines import InstanceRecord, instance_spec, read_state
from shared.platforms.lab.records import read_flat
from shared.platforms.lab.settings import VmSpec, read_vm
from shared.platforms.lab.snapshots import disk_missing
from shared.platforms.lab.space import Space
from shared.platforms.ports import DiskFacts, SiteFacts, VmFacts


class LabInventory:
    """Lists the source VMs of a site folder."""

    def __init__(self, frame: Frame, instance_count: Callable[[], int]) -> None:
        self._frame = frame
        self._space = Space(frame.folder)
        self._instance_count = instance_count

    async def check(self) -> SiteFacts:
        """Space, networks (of `site.yaml` and of the VMs; none means any is accepted)."""

        def work() -> SiteFacts:
            settings = self._frame.settings()
            networks = set(settings.networks)
            if networks:
                networks.update(n for path in self._folders(None) for n in read_vm(path).networks)
            return SiteFacts(
                capacity_free=self._space.free(settings.capacity),
                networks=tuple(sorted(networks)),
                instances=self._instance_count(),
            )

        return await self._frame.read("check", None, work)

    async def list_vms(self, names: Sequence[str] | None = None) -> tuple[VmFacts, ...]:
        """All VMs, or those named that exist. Permanent for a bad `vm.yaml` or missing disk."""
        return await self._frame.read(
            "list_vms", None, lambda: tuple(_facts(path) for path in self._folders(names))
        )

    async def list_made(self, instance_ids: Sequence[str]) -> tuple[VmFacts, ...]:
        """Instances that exist. Permanent for a bad `instance.yaml` or a missing disk."""

        def work() -> tuple[VmFacts, ...]:
            root = self._frame.folder.root / "instances"
            paths = (root / component(each) for each in instance_ids)
            found = ((path, read_flat(path / "instance.yaml", InstanceRecord)) for path in paths)
            return tuple(_made_facts(path, record) for path, record in found if record is not None)

        return await self._frame.read("list_made", None, work)

    def _folders(self, names: Sequence[str] | None) -> list[Path]:
        root = self._frame.folder.root / "vms"
        if names is None:
            try:
                names = sorted(os.listdir(root))
            except FileNotFoundError:
                return []
        folders = (root / component(name) for name in names)
        return [path for path in folders if (path / "vm.yaml").exists()]


def _facts(folder: Path) -> VmFacts:
    spec = read_vm(folder)
    return _as_source(folder, spec, power=read_state(folder).power)


def _made_facts(folder: Path, record: InstanceRecord) -> VmFacts:
    spec = instance_spec(folder, record)
    return _as_source(folder, spec, power=record.power, instance=record.id)


def _as_source(folder: Path, spec: VmSpec, *, power: str, instance: str = "") -> VmFacts:
    return VmFacts(
        name=spec.name,
        os=spec.os,
        cpus=spec.cpus,
        memory=spec.memory,
        disks=tuple(disk_facts(folder, spec)),
        networks=spec.networks,
        power=power,
        configuration=spec.configuration(),
        instance=instance,
    )


def disk_facts(folder: Path, spec: VmSpec) -> list[DiskFacts]:
    """The disks of a VM with their sizes; Permanent where a file is missing or no disk."""
    found = []
    for disk in spec.disks:
        path = folder / disk.file
        if not path.exists():
            raise disk_missing(path)
        if not path.is_file():
            raise Permanent(
                f"{path} is not a file", code="disk-missing", remedy="name a disk file in vm.yaml"
            )
        found.append(DiskFacts(name=disk.name, size=path.stat().st_size, file=disk.file))
    return found
