"""The copies of one VM at a target: the current one, held ones, checkpoints, their layers.

Layout: `replicas/<plan>/<vm>/` holds `current.json` (the self-describing manifest; replacing it
is the atomic switch), `held-<id>.json`, the layer files, `leases.json`, and one folder per
generation under `staged/`; `checkpoints/<plan>/<vm>/<id>/` holds `manifest.json` and hard links
to the layers of its moment. Owns that layout, the lease rule and the removal of garbage.
All functions block, and those that change something run under the VM's lock.
"""

from __future__ import annotations

import datetime as dt
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import msgspec

from schemas.units import UnitError, parse_moment
from shared.errors import Permanent, Refused
from shared.platforms.lab import layers as chains
from shared.platforms.lab.folder import (
    SiteFolder,
    component,
    locked,
    remove_tree,
    replace_file,
    short_hash,
    sync_folder,
)
from shared.platforms.lab.layers import DELTA_COUNT_MAX, Layer, View
from shared.platforms.ports import Call, CopyFacts, DiskFacts

_CURRENT: Final = "current.json"
_LAYER_PREFIX: Final = "layer-"


class CopyDisk(msgspec.Struct, frozen=True, kw_only=True):
    """One disk of a copy: its layers, oldest first, are files beside the manifest."""

    name: str
    file: str
    size: int
    layers: tuple[Layer, ...]


class CopyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`current.json`, `held-….json` and a checkpoint's `manifest.json`."""

    version: int = 1
    copy_id: str
    plan: str
    vm: str
    job: str
    key: str
    taken_at: dt.datetime
    mark: str
    disks: tuple[CopyDisk, ...]
    manifest: dict[str, Any]

    def facts(self) -> CopyFacts:
        """As the port hands it out."""
        return CopyFacts(
            copy_id=self.copy_id,
            plan=self.plan,
            vm=self.vm,
            taken_at=self.taken_at,
            mark=self.mark,
            disks=tuple(DiskFacts(name=d.name, size=d.size, file=d.file) for d in self.disks),
            manifest=self.manifest,
        )

    def disk(self, name: str) -> CopyDisk:
        """The disk by name; Permanent where the copy has none of it."""
        for disk in self.disks:
            if disk.name == name:
                return disk
        raise Permanent(
            f"copy {self.copy_id} of {self.vm} has no disk {name}",
            code="no-such-disk",
            remedy="replicate the VM again",
        )


class StagedRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`staged/<id>/generation.json`: whose it is, and the chain whose content it starts as."""

    generation_id: str
    plan: str
    vm: str
    disk: str
    size: int
    lease: int
    job: str
    key: str
    base_copy: str = ""
    base_mark: str = ""
    base: tuple[Layer, ...] = ()


class CopyFolder:
    """`replicas/<plan>/<vm>` of a site."""

    def __init__(self, folder: SiteFolder, plan: str, vm: str) -> None:
        if not plan or not vm:
            raise Refused("a copy is named by plan and VM", code="bad-name")
        self.site = folder
        self.plan = plan
        self.vm = vm
        self.parts = ("replicas", component(plan), component(vm))
        self.path = folder.root.joinpath(*self.parts)

    def lock(self) -> AbstractContextManager[int]:
        """The VM's lock: opens, switches, holds and garbage removal exclude each other."""
        self.site.ensure(*self.parts)
        return locked(self.path / "lock")

    def current(self) -> CopyRecord | None:
        """The current copy, or None before the first finalize."""
        return read_record(self.path / _CURRENT)

    def find(self, copy_id: str) -> tuple[Path, CopyRecord]:
        """A copy by id (current, held, checkpoint) and the folder of its layers; Permanent
        where it is gone."""
        candidates = (
            (self.path, self.path / f"held-{component(copy_id)}.json"),
            (checkpoint_path(self.site, self.plan, self.vm, copy_id), None),
            (self.path, self.path / _CURRENT),
        )
        for where, file in candidates:
            record = read_record(file or where / "manifest.json")
            if record is not None and record.copy_id == copy_id:
                return where, record
        raise Permanent(
            f"there is no copy {copy_id} of VM {self.vm} in plan {self.plan}",
            code="no-such-copy",
            remedy="choose the latest copy or an existing checkpoint",
        )

    def open_view(self, copy_id: str, disk: str) -> tuple[View, CopyDisk]:
        """An open disk of a copy. What is open stays readable whatever is deleted meanwhile."""
        for _ in range(8):
            where, record = self.find(copy_id)
            chosen = record.disk(disk)
            try:
                return View(where, chosen.layers, chosen.size), chosen
            except FileNotFoundError:
                # Merged between reading the manifest and opening: read the manifest again.
                continue
        raise Permanent(
            f"files of copy {copy_id} of VM {self.vm} are missing under {self.path}",
            code="copy-damaged",
            remedy="reset the VM, so that it is copied in full again, or use a checkpoint",
        )

    # -- leases -------------------------------------------------------------------------------

    def check_lease(self, disk: str, lease: int, *, raise_to: int) -> None:
        """Refuse a lease below the highest seen for the disk; remember `raise_to`."""
        path = self.path / "leases.json"
        try:
            seen = msgspec.json.decode(path.read_bytes(), type=dict[str, int])
        except FileNotFoundError:
            seen = {}
        highest = seen.get(disk, 0)
        if lease < highest:
            raise Refused(
                f"disk {disk} of {self.vm} was taken over: lease {lease} is below {highest}",
                code="stale-lease",
            )
        if raise_to > highest:
            seen[disk] = raise_to
            replace_file(path, msgspec.json.encode(seen), durable=True)

    # -- staged generations -------------------------------------------------------------------

    def staged_path(self, generation_id: str) -> Path:
        """The folder of a staged generation."""
        return self.path / "staged" / component(generation_id)

    def staged(self, generation_id: str) -> StagedRecord | None:
        """What a staged generation is; None where it is gone."""
        try:
            raw = (self.staged_path(generation_id) / "generation.json").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return msgspec.json.decode(raw, type=StagedRecord)

    def drop_staged(self, generation_id: str) -> None:
        """Remove a staged generation: gone by one rename, then its files."""
        path = self.staged_path(generation_id)
        gone = path.with_name(f".{path.name}.gone")
        try:
            os.rename(path, gone)
        except FileNotFoundError:
            return
        remove_tree(gone)

    def all_staged(self) -> list[StagedRecord]:
        """Every staged generation of the VM."""
        found = (self.staged(name) for name in _names(self.path / "staged"))
        return [record for record in found if record is not None]

    # -- the switch ---------------------------------------------------------------------------

    def switch(self, record: CopyRecord) -> None:
        """Make `record` the current copy: durable when it returns, all or nothing."""
        sync_folder(self.path)
        replace_file(self.path / _CURRENT, _encode(record), durable=True)

    def link_layer(self, staged: StagedRecord, kind: chains.LayerKind) -> Layer:
        """Give a synced staged file its name as a layer; repeating it is harmless."""
        data = self.staged_path(staged.generation_id) / "data"
        name = f"{_LAYER_PREFIX}{component(staged.generation_id)}"
        try:
            os.link(data, self.path / name)
        except FileExistsError:
            pass
        stored = os.stat(data).st_blocks * 512
        return Layer(file=name, kind=kind, size=staged.size, stored=stored)

    def compact(self, record: CopyRecord) -> CopyRecord:
        """Shorten chains that grew too long: the smallest neighbours into one, or everything
        into a new full image once the deltas are half its size. New files, old ones untouched.
        """
        disks = tuple(self._compact_disk(disk) for disk in record.disks)
        if disks != record.disks:
            record = msgspec.structs.replace(record, disks=disks)
            self.switch(record)
        return record

    def _compact_disk(self, disk: CopyDisk) -> CopyDisk:
        chain = list(disk.layers)
        deltas = [layer for layer in chain if layer.kind == "delta"]
        if len(deltas) <= DELTA_COUNT_MAX:
            return disk
        pairs = [
            (chain[i].stored + chain[i + 1].stored, i)
            for i in range(len(chain) - 1)
            if chain[i].kind == chain[i + 1].kind == "delta" and chain[i].size == chain[i + 1].size
        ]
        full = sum(layer.stored for layer in chain if layer.kind == "full")
        name = f"{_LAYER_PREFIX}m-{short_hash(*(layer.file for layer in chain))}"
        # A kill in the middle of an earlier try leaves its unfinished file.
        remove_tree(self.path / name)
        if not pairs or sum(layer.stored for layer in deltas) * 2 >= full:
            merged = chains.flatten_chain(self.path, chain, disk.size, into=name)
            return msgspec.structs.replace(disk, layers=(merged,))
        _, at = min(pairs)
        merged = chains.merge_deltas(self.path, chain[at], chain[at + 1], into=name)
        chain[at : at + 2] = [merged]
        return msgspec.structs.replace(disk, layers=tuple(chain))

    def sweep(self) -> None:
        """Remove layers that no current copy, hold or staged generation needs, and what a kill
        left of a generation that was being made (under the lock nobody is making one)."""
        staging = self.path / "staged"
        for name in os.listdir(staging) if staging.exists() else ():
            if name.startswith("."):
                remove_tree(staging / name)
        needed: set[str] = set()
        for file in _names(self.path):
            if file == _CURRENT or file.startswith("held-"):
                record = read_record(self.path / file)
                for disk in record.disks if record is not None else ():
                    needed.update(layer.file for layer in disk.layers)
        for staged in self.all_staged():
            needed.update(layer.file for layer in staged.base)
        for file in _names(self.path):
            if file.startswith(_LAYER_PREFIX) and file not in needed:
                remove_tree(self.path / file)

    # -- holds --------------------------------------------------------------------------------

    def hold(self, call: Call) -> CopyRecord:
        """Keep the current copy readable under an id of the call's own."""
        held_id = f"h-{short_hash('hold', call.key)}"
        path = self.path / f"held-{held_id}.json"
        found = read_record(path)
        if found is not None:
            return found
        current = self.current()
        if current is None:
            raise Permanent(
                f"VM {self.vm} of plan {self.plan} has no copy yet",
                code="no-copy",
                remedy="let its first replication finish",
            )
        held = msgspec.structs.replace(current, copy_id=held_id, job=call.job, key=call.key)
        replace_file(path, _encode(held), durable=True)
        return held

    def release(self, copy_id: str) -> None:
        """Let a held copy go; one that is not held is fine."""
        remove_tree(self.path / f"held-{component(copy_id)}.json")
        self.sweep()

    def held(self) -> list[CopyRecord]:
        """Every held copy of the VM."""
        names = [name for name in _names(self.path) if name.startswith("held-")]
        found = (read_record(self.path / name) for name in names)
        return [record for record in found if record is not None]

    # -- checkpoints --------------------------------------------------------------------------

    def create_checkpoint(
        self, call: Call, checkpoint_id: str, manifest: dict[str, Any]
    ) -> CopyRecord:
        """An immutable copy of the current one: hard links to its layers and a manifest.

        Links are enough because a layer is never written again; they cost no space.
        """
        path = checkpoint_path(self.site, self.plan, self.vm, checkpoint_id)
        found = read_record(path / "manifest.json")
        if found is not None:
            return found
        current = self.current()
        if current is None:
            raise Permanent(
                f"VM {self.vm} of plan {self.plan} has no copy to make a checkpoint of",
                code="no-copy",
                remedy="let its first replication finish",
            )
        record = msgspec.structs.replace(
            current,
            copy_id=checkpoint_id,
            job=call.job,
            key=call.key,
            manifest={**current.manifest, **manifest},
        )
        self.site.ensure("checkpoints", component(self.plan), component(self.vm))
        building = path.with_name(f".{path.name}.new")
        remove_tree(building)
        os.mkdir(building)
        for disk in record.disks:
            for layer in disk.layers:
                os.link(self.path / layer.file, building / layer.file)
        replace_file(building / "manifest.json", _encode(record), durable=True)
        os.rename(building, path)
        sync_folder(path.parent)
        return record


def checkpoint_path(folder: SiteFolder, plan: str, vm: str, checkpoint_id: str) -> Path:
    """The folder of a VM's checkpoint."""
    names = (component(plan), component(vm), component(checkpoint_id))
    return folder.root.joinpath("checkpoints", *names)


def delete_checkpoint(folder: SiteFolder, plan: str, vm: str, checkpoint_id: str) -> None:
    """Delete a checkpoint: it is gone by one rename, then its files go. Absent is fine."""
    path = checkpoint_path(folder, plan, vm, checkpoint_id)
    trash = path.with_name(f".{path.name}.gone")
    remove_tree(trash)
    try:
        os.rename(path, trash)
    except FileNotFoundError:
        return
    remove_tree(trash)


def list_checkpoints(folder: SiteFolder, plan: str) -> list[CopyRecord]:
    """All checkpoints of a plan, oldest first."""
    root = folder.root / "checkpoints" / component(plan)
    records = [
        read_record(root / vm / name / "manifest.json")
        for vm in _names(root)
        for name in _names(root / vm)
    ]
    return sorted(
        (record for record in records if record is not None),
        key=lambda record: (record.taken_at, record.vm, record.copy_id),
    )


def every_copy_folder(folder: SiteFolder) -> list[CopyFolder]:
    """The copy folder of every plan and VM at the site."""
    plans = _names(folder.root / "replicas")
    return [home for plan in plans for home in copy_folders(folder, _decode_name(plan))]


def copy_folders(folder: SiteFolder, plan: str) -> list[CopyFolder]:
    """The copy folder of every VM of a plan, by VM."""
    names = _names(folder.root / "replicas" / component(plan))
    return [CopyFolder(folder, plan, vm) for vm in sorted(_decode_name(name) for name in names)]


def read_record(path: Path) -> CopyRecord | None:
    """A manifest; None where there is none, Permanent where it cannot be read."""
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return msgspec.json.decode(raw, type=CopyRecord)
    except msgspec.DecodeError as error:
        raise Permanent(
            f"the manifest {path} cannot be read: {error}",
            code="copy-damaged",
            remedy="restore the file, or reset the VM so that it is copied in full again",
        ) from error


def moment_of(manifest: dict[str, Any]) -> dt.datetime:
    """`taken_at` of a manifest, or now where it says nothing."""
    try:
        return parse_moment(str(manifest.get("taken_at")))
    except UnitError:
        return dt.datetime.now(dt.UTC)


def plain_json(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest as it reads back from a file, so that no caller meets another form of it."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(manifest))
    return plain


def _encode(record: CopyRecord) -> bytes:
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def _names(path: Path) -> list[str]:
    """Names in a folder but for hidden ones, sorted; none where it does not exist."""
    try:
        return sorted(name for name in os.listdir(path) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _decode_name(name: str) -> str:
    """Back from `component`."""
    raw = bytearray()
    at = 0
    while at < len(name):
        if name[at] == "%":
            raw.append(int(name[at + 1 : at + 3], 16))
            at += 3
        else:
            raw.extend(name[at].encode())
            at += 1
    return raw.decode()
