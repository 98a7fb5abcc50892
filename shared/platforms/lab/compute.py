"""`Compute` of the lab: disks rebuilt from copies, instances made, powered, listed, deleted.

Ids are hashes of the call's key: a repeat finds what an earlier try made. Deleting an instance
deletes its disks; only what carries our tag, and the plan's own, is ever touched.
"""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from shared.errors import Permanent, Refused
from shared.platforms.lab import copies, machines, sparse, written
from shared.platforms.lab.calls import Frame
from shared.platforms.lab.copies import CopyFolder
from shared.platforms.lab.folder import component, locked, remove_tree, replace_file, short_hash
from shared.platforms.lab.machines import InstanceRecord
from shared.platforms.lab.records import read_flat, write_flat
from shared.platforms.lab.settings import VmSpec
from shared.platforms.lab.space import Space
from shared.platforms.ports import Call, DiskRef, Instance, InstanceSpec, Owned


class DiskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`disks/<id>/disk.json`: a rebuilt disk that no instance has yet."""

    disk_id: str
    name: str
    file: str
    size: int
    plan: str
    vm: str
    job: str
    key: str

    def facts(self) -> DiskRef:
        """As the port hands it out."""
        return DiskRef(disk_id=self.disk_id, name=self.name, file=self.file, size=self.size)


_Tagged = DiskRecord | InstanceRecord | copies.CopyRecord | copies.StagedRecord


class LabCompute:
    """Disks and instances of a site folder."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._root = frame.folder.root
        self._space = Space(frame.folder)
        self._cache: dict[str, tuple[tuple[int, int, int], InstanceRecord]] = {}
        self._addresses: dict[tuple[str, int], tuple[str, ...]] = {}
        self._lock = threading.Lock()

    async def rebuild_disk(self, call: Call, *, copy_id: str, disk: str) -> DiskRef:
        disk_id = f"d-{short_hash('disk', call.key)}"
        home = CopyFolder(self._frame.folder, call.plan, call.vm)

        def work(pause: sparse.Checkpoint) -> DiskRef:
            path = self._root / "disks" / disk_id
            found = _read_disk(path)
            if found is not None:
                return found.facts()
            return self._rebuild(home, call, copy_id, disk, path, pause)

        def size(made: DiskRef) -> int:
            return sparse.allocated(self._root / "disks" / disk_id / made.file)

        return await self._frame.mutate("rebuild_disk", call, work, DiskRef, size=size)

    def _rebuild(
        self,
        home: CopyFolder,
        call: Call,
        copy_id: str,
        disk: str,
        path: Path,
        pause: sparse.Checkpoint,
    ) -> DiskRef:
        view, chosen = home.open_view(copy_id, disk)
        building = path.with_name(f".{path.name}")
        try:
            wanted = sum(layer.stored for layer in view.layers)
            self._space.take(wanted, self._frame.settings().capacity)
            remove_tree(building)
            self._frame.folder.ensure("disks", building.name)
            fd = os.open(building / chosen.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                view.flatten(fd, pause=pause)
            finally:
                os.close(fd)
            record = DiskRecord(
                disk_id=path.name,
                name=chosen.name,
                file=chosen.file,
                size=chosen.size,
                plan=call.plan,
                vm=call.vm,
                job=call.job,
                key=call.key,
            )
            replace_file(building / "disk.json", msgspec.json.encode(record))
            os.rename(building, path)
        except BaseException:
            remove_tree(building)
            raise
        finally:
            view.close()
        return record.facts()

    async def create_instance(self, call: Call, *, spec: InstanceSpec) -> Instance:
        def work(pause: sparse.Checkpoint) -> Instance:
            return self._create(call, spec).facts(_now())

        return await self._frame.mutate("create_instance", call, work, Instance)

    def _create(self, call: Call, spec: InstanceSpec) -> InstanceRecord:
        instance_id = f"i-{short_hash('instance', call.key)}"
        path = self._root / "instances" / instance_id
        record = read_flat(path / "instance.yaml", InstanceRecord)
        if record is None:
            vm = VmSpec.from_configuration(spec.configuration, name=call.vm or spec.name)
            folder = self._frame.folder
            folder.ensure("instances")
            with locked(self._root / "instances" / ".lock"):
                record = self._build(call, spec, vm, path)
        # The disks are linked into the instance; their own folders go last, so that a repeat
        # after a kill finds either everything it needs or the finished instance.
        for disk in spec.disks:
            remove_tree(self._root / "disks" / component(disk.disk_id))
        address = f"{record.addresses[0]}:{record.port}"
        machines.add_host(self._frame.folder, record.hosts_name(), record.vm, address)
        return record

    def _build(self, call: Call, spec: InstanceSpec, vm: VmSpec, path: Path) -> InstanceRecord:
        record = InstanceRecord(
            id=path.name,
            name=spec.name,
            plan=call.plan,
            vm=call.vm or spec.name,
            job=call.job,
            effect_id=call.key,
            network=spec.network,
            addresses=(machines.address_for(self._frame.folder, path.name, self._taken()),),
            disks=tuple(disk.file for disk in spec.disks),
            boots_in_s=vm.guest.boots_in_s,
            has_command=bool(vm.guest.command),
            port=vm.guest.port,
            isolated=spec.isolated,
            disk_ids=tuple(disk.disk_id for disk in spec.disks),
        )
        building = path.with_name(f".{path.name}")
        remove_tree(building)
        os.makedirs(building / ".lab")
        for name, text in vm.files.items():
            (building / component(name)).write_text(text, "utf-8")
        for disk in spec.disks:
            source = self._root / "disks" / component(disk.disk_id) / disk.file
            try:
                os.link(source, building / disk.file)
            except FileNotFoundError:
                self._frame.folder.require()
                remove_tree(building)
                raise Permanent(
                    f"disk {disk.disk_id} of instance {spec.name} does not exist",
                    code="no-such-disk",
                    remedy="rebuild the disk again",
                ) from None
        replace_file(building / ".lab" / "vm.json", msgspec.json.encode(vm))
        write_flat(building / "instance.yaml", record)
        os.rename(building, path)
        return record

    async def power_on(self, call: Call, *, instance_id: str) -> Instance:
        def work(pause: sparse.Checkpoint) -> Instance:
            path = self._root / "instances" / component(instance_id)
            self._owned(call, path)
            with machines.lock_machine(path):
                record = self._owned(call, path)
                vm = msgspec.json.decode((path / ".lab" / "vm.json").read_bytes(), type=VmSpec)
                on = machines.switched_on(record.machine(), vm)
                record = machines.save_instance(path, record, on)
                hosts = machines.hosts_path(self._frame.folder, record.hosts_name())
                started = machines.start_guest(
                    path, on, vm, record.disks, hosts=hosts, address=record.addresses[0]
                )
                return machines.save_instance(path, record, started).facts(_now())

        return await self._frame.mutate("power_on", call, work, Instance, scope=instance_id)

    async def power_off(self, call: Call, *, instance_id: str) -> None:
        def work(pause: sparse.Checkpoint) -> None:
            path = self._root / "instances" / component(instance_id)
            if not path.is_dir():
                self._frame.folder.require()
                return
            self._owned(call, path)
            with machines.lock_machine(path):
                record = self._owned(call, path)
                machines.save_instance(path, record, machines.power_off(path, record.machine()))

        await self._frame.mutate("power_off", call, work, type(None), scope=instance_id)

    async def delete_instance(self, call: Call, *, instance_id: str) -> None:
        def work(pause: sparse.Checkpoint) -> None:
            path = self._root / "instances" / component(instance_id)
            gone = path.with_name(f".gone-{path.name}")
            if path.is_dir():
                self._owned(call, path)
                with machines.lock_machine(path):
                    record = self._owned(call, path)
                    machines.power_off(path, record.machine())
                    remove_tree(gone)
                    os.rename(path, gone)
                machines.drop_host(
                    self._frame.folder, record.hosts_name(), record.vm, record.addresses[0]
                )
            remove_tree(gone)

        await self._frame.mutate("delete_instance", call, work, type(None), scope=instance_id)

    async def delete_disk(self, call: Call, *, disk_id: str) -> None:
        def work(pause: sparse.Checkpoint) -> None:
            path = self._root / "disks" / component(disk_id)
            found = _read_disk(path)
            if found is not None and call.plan and found.plan != call.plan:
                raise _not_ours(disk_id, found.plan)
            remove_tree(path)

        await self._frame.mutate("delete_disk", call, work, type(None), scope=disk_id)

    async def list_instances(self) -> tuple[Instance, ...]:
        def work() -> tuple[Instance, ...]:
            now = _now()
            return tuple(record.facts(now) for record in self._records())

        return await self._frame.read("list_instances", None, work)

    async def list_written(self, instance_ids: Sequence[str]) -> dict[str, int | None]:
        def work() -> dict[str, int | None]:
            self._frame.folder.require()
            root = self._root / "instances"
            found = ((i, read_flat(root / component(i) / "instance.yaml", InstanceRecord))
                     for i in instance_ids)  # fmt: skip
            return {i: written.since_power_on(root / i, r) for i, r in found if r is not None}

        return await self._frame.read("list_written", None, work)

    async def list_owned(self) -> tuple[Owned, ...]:
        return await self._frame.read("list_owned", None, self._all_owned)

    async def find(self, key: str) -> Owned | None:
        def work() -> Owned | None:
            for owned in (*self._all_owned(), *_staged(self._frame)):
                if owned.key == key:
                    return owned
            return self._attached_disk(key)

        return await self._frame.read("find", Call(key=""), work)

    # -- helpers ------------------------------------------------------------------------------

    def instance_count(self) -> int:
        """How many instances there are."""
        return len(self._records())

    def _attached_disk(self, key: str) -> Owned | None:
        """The disk that a rebuild with this key made, now part of an instance."""
        disk_id = f"d-{short_hash('disk', key)}"
        for record in self._records():
            if disk_id in record.disk_ids:
                made = _as_owned("disk", disk_id, record)
                return msgspec.structs.replace(made, key=key)
        return None

    def _records(self) -> list[InstanceRecord]:
        """Every instance; a file that did not change since is not read again."""
        root = self._root / "instances"
        try:
            names = sorted(name for name in os.listdir(root) if not name.startswith("."))
        except FileNotFoundError:
            self._frame.folder.require()
            return []
        with self._lock:
            found = {name: known for name in names if (known := self._record(root, name))}
            self._cache = found
            return [record for _, record in found.values()]

    def _taken(self) -> set[str]:
        """Addresses of all instances. They never change while an instance exists: only folders
        that were not seen before are looked into, or 2,000 creations would read 2 million files.
        """
        found: dict[tuple[str, int], tuple[str, ...]] = {}
        with self._lock, os.scandir(self._root / "instances") as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                which = (entry.name, entry.inode())
                known = self._addresses.get(which)
                if known is None:
                    record = read_flat(Path(entry.path) / "instance.yaml", InstanceRecord)
                    if record is None:
                        continue
                    known = record.addresses
                found[which] = known
            self._addresses = found
        return {address for addresses in found.values() for address in addresses}

    def _record(self, root: Path, name: str) -> tuple[tuple[int, int, int], InstanceRecord] | None:
        path = root / name / "instance.yaml"
        try:
            stat = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        known = self._cache.get(name)
        if known is not None and known[0] == stamp:
            return known
        record = read_flat(path, InstanceRecord)
        return None if record is None else (stamp, record)

    def _owned(self, call: Call, path: Path) -> InstanceRecord:
        """The instance, if it is ours and of the call's plan."""
        record = read_flat(path / "instance.yaml", InstanceRecord)
        if record is None:
            self._frame.folder.require()
            if path.is_dir():
                raise _not_ours(path.name, "nobody known")
            raise Permanent(
                f"there is no instance {path.name}",
                code="no-such-instance",
                remedy="run the recovery again; somebody deleted its instance",
            )
        if call.plan and record.plan != call.plan:
            raise _not_ours(path.name, record.plan)
        return record

    def _all_owned(self) -> tuple[Owned, ...]:
        owned = [_as_owned("instance", record.id, record) for record in self._records()]
        root = self._root / "disks"
        names = sorted(os.listdir(root)) if root.exists() else []
        disks = (_read_disk(root / name) for name in names if not name.startswith("."))
        owned.extend(_as_owned("disk", disk.disk_id, disk) for disk in disks if disk is not None)
        for home in copies.every_copy_folder(self._frame.folder):
            owned.extend(_as_owned("hold", held.copy_id, held) for held in home.held())
        return tuple(owned)


def _as_owned(kind: str, object_id: str, made: _Tagged) -> Owned:
    key = made.effect_id if isinstance(made, InstanceRecord) else made.key
    return Owned(kind=kind, object_id=object_id, plan=made.plan, vm=made.vm, job=made.job, key=key)


def _staged(frame: Frame) -> list[Owned]:
    return [
        _as_owned("generation", record.generation_id, record)
        for home in copies.every_copy_folder(frame.folder)
        for record in home.all_staged()
    ]


def _read_disk(path: Path) -> DiskRecord | None:
    try:
        raw = (path / "disk.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return msgspec.json.decode(raw, type=DiskRecord)


def _not_ours(object_id: str, owner: str) -> Refused:
    return Refused(
        f"{object_id} was not made for this plan (it belongs to {owner or 'nobody known'})",
        code="not-ours",
    )


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
