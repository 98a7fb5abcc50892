"""`Source` of the lab: snapshots of source VMs or instances, what changed since a mark, reads.

Owns the port and this process's open readers; what a snapshot is on disk is `snapshots`.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import secrets
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

from shared.errors import Permanent, Refused
from shared.platforms.lab import sources, sparse
from shared.platforms.lab.calls import Frame
from shared.platforms.lab.folder import short_hash
from shared.platforms.lab.settings import VmSpec
from shared.platforms.lab.snapshots import (
    OpenSnapshot,
    SnapshotReader,
    TrackedFolder,
    TrackState,
    disk_missing,
    snapshot_gone,
)
from shared.platforms.lab.tracking import REASONS, ChangeJournal
from shared.platforms.ports import (
    CHUNK_BYTES,
    Call,
    DiskFacts,
    Extent,
    Extents,
    Owned,
    Snapshot,
)

EXTENT_COUNT_MAX: Final = 65_536
_READER_COUNT_MAX: Final = 128


class LabSource:
    """Reads the VMs under `vms/` of a site folder, and the instances that were made there."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._readers: OrderedDict[tuple[str, str], SnapshotReader] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close this process's readers; the snapshots stay open."""
        for reader in self._readers.values():
            reader.retire()
        self._readers.clear()

    async def open_snapshot(
        self, call: Call, *, vm: str, quiesce: bool = False, instance: str = ""
    ) -> Snapshot:
        def work(pause: sparse.Checkpoint) -> Snapshot:
            path = sources.require(self._frame.folder, call, vm=vm, instance=instance)
            spec = sources.spec_of(self._frame.folder, path)
            return _open(TrackedFolder(path), spec, call, vm, instance)

        def hashes(snapshot: Snapshot) -> dict[str, Any]:
            extra: dict[str, Any] = {"snapshot": snapshot.snapshot_id}
            if self._frame.settings().journal == "hashes":
                extra["sha256"] = {d.name: self._sha256(snapshot, d) for d in snapshot.disks}
            return extra

        return await self._frame.mutate("open_snapshot", call, work, Snapshot, extra=hashes)

    async def extents(
        self, call: Call, *, snapshot: Snapshot, disk: str, since: str | None, start: int = 0
    ) -> Extents:
        def work() -> Extents:
            tracked = self._tracked(snapshot)
            facts = _disk(snapshot, disk)
            reader = self._reader(snapshot, disk)
            with reader.use():
                ranges, reason = _ranges(tracked, snapshot, facts, since)
                return _page(reader, ranges, start, reason)

        return await self._frame.read("extents", call, work)

    async def read(
        self, call: Call, *, snapshot: Snapshot, disk: str, offset: int, into: memoryview
    ) -> None:
        size = len(into)
        if size > CHUNK_BYTES:
            raise Refused(f"a chunk has at most {CHUNK_BYTES} bytes", code="out-of-range")

        def work() -> None:
            reader = self._reader(snapshot, disk)
            with reader.use():
                reader.read(into, offset)

        subject = f"{snapshot.snapshot_id}/{disk}"
        await self._frame.data("read_chunk", call, subject, size, work)

    async def close_snapshot(self, call: Call, *, snapshot_id: str) -> None:
        def work(pause: sparse.Checkpoint) -> None:
            self._forget(snapshot_id)
            for tracked in self._holders(call.vm, snapshot_id):
                with tracked.lock() as state:
                    tracked.close(state, snapshot_id)

        await self._frame.mutate("close_snapshot", call, work, type(None), scope=snapshot_id)

    async def list_snapshots(self) -> tuple[Owned, ...]:
        def work() -> tuple[Owned, ...]:
            return tuple(
                Owned(
                    kind="snapshot",
                    object_id=snapshot.snapshot_id,
                    plan=snapshot.plan,
                    vm=snapshot.vm,
                    job=snapshot.job,
                    key=snapshot.key,
                )
                for state in self._states()
                for snapshot in state.snapshots
            )

        return await self._frame.read("list_snapshots", None, work)

    # -- helpers ------------------------------------------------------------------------------

    def _tracked(self, snapshot: Snapshot) -> TrackedFolder:
        path = sources.folder_of(self._frame.folder, vm=snapshot.vm, instance=snapshot.instance)
        if not path.is_dir():
            sources.require(self._frame.folder, None, vm=snapshot.vm, instance=snapshot.instance)
        return TrackedFolder(path)

    def _states(self) -> list[TrackState]:
        found = (TrackedFolder(path).load() for path in sources.all_folders(self._frame.folder))
        return [state for state in found if state is not None]

    def _holders(self, vm: str, snapshot_id: str) -> list[TrackedFolder]:
        """The folders that hold the snapshot: the call's VM, else all are looked at."""
        if vm:
            path = sources.folder_of(self._frame.folder, vm=vm)
            if _holds(TrackedFolder(path), snapshot_id):
                return [TrackedFolder(path)]
        all_of_them = map(TrackedFolder, sources.all_folders(self._frame.folder))
        return [tracked for tracked in all_of_them if _holds(tracked, snapshot_id)]

    def _reader(self, snapshot: Snapshot, disk: str) -> SnapshotReader:
        key = (snapshot.snapshot_id, disk)
        with self._lock:
            reader = self._readers.get(key)
            if reader is not None:
                self._readers.move_to_end(key)
                return reader
            facts = _disk(snapshot, disk)
            tracked = self._tracked(snapshot)
            reader = SnapshotReader(tracked, snapshot.snapshot_id, facts.file, facts.size)
            self._readers[key] = reader
            if len(self._readers) > _READER_COUNT_MAX:
                self._readers.popitem(last=False)[1].retire()
            return reader

    def _forget(self, snapshot_id: str) -> None:
        with self._lock:
            keys = [key for key in self._readers if key[0] == snapshot_id]
            for key in keys:
                self._readers.pop(key).retire()
        for key in keys:
            self._frame.journal.settle("read_chunk", f"{key[0]}/{key[1]}")

    def _sha256(self, snapshot: Snapshot, disk: DiskFacts) -> str:
        """SHA-256 of a frozen disk, holes as zeros."""
        digest = hashlib.sha256()
        buffer = sparse.scratch()
        reader = self._reader(snapshot, disk.name)
        with reader.use():
            for offset in range(0, disk.size, len(buffer)):
                piece = buffer[: min(len(buffer), disk.size - offset)]
                reader.read(piece, offset)
                digest.update(piece)
        return digest.hexdigest()


def _open(tracked: TrackedFolder, spec: VmSpec, call: Call, vm: str, instance: str) -> Snapshot:
    snapshot_id = f"s-{short_hash(call.key, vm)}" if call.key else f"s-{secrets.token_hex(6)}"
    with tracked.lock() as state:
        for found in state.snapshots:
            if found.snapshot_id == snapshot_id:
                return _as_snapshot(found, state, instance)
        disks: dict[str, int] = {}
        try:
            for disk in spec.disks:
                disks[disk.file] = _open_disk(tracked.folder / disk.file)
            opened = OpenSnapshot(
                snapshot_id=snapshot_id,
                epoch=state.epoch,
                taken_at=dt.datetime.now(dt.UTC),
                plan=call.plan,
                job=call.job,
                key=call.key,
                vm=vm,
                sizes={file: os.fstat(fd).st_size for file, fd in disks.items()},
                names={disk.name: disk.file for disk in spec.disks},
            )
            tracked.open(opened, state, disks)
        finally:
            for fd in disks.values():
                os.close(fd)
        return _as_snapshot(opened, state, instance)


def _open_disk(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise disk_missing(path) from None


def _as_snapshot(found: OpenSnapshot, state: TrackState, instance: str) -> Snapshot:
    return Snapshot(
        snapshot_id=found.snapshot_id,
        vm=found.vm,
        taken_at=found.taken_at,
        mark=f"{state.tracking_id}:{found.epoch}",
        disks=tuple(
            DiskFacts(name=name, size=found.sizes[file], file=file)
            for name, file in found.names.items()
        ),
        instance=instance,
    )


def _disk(snapshot: Snapshot, name: str) -> DiskFacts:
    for disk in snapshot.disks:
        if disk.name == name:
            return disk
    raise Permanent(
        f"snapshot {snapshot.snapshot_id} of {snapshot.vm} has no disk {name}",
        code="no-such-disk",
        remedy="read the VM's inventory again",
    )


def _holds(tracked: TrackedFolder, snapshot_id: str) -> bool:
    state = tracked.load()
    return state is not None and any(s.snapshot_id == snapshot_id for s in state.snapshots)


def _ranges(
    tracked: TrackedFolder, snapshot: Snapshot, disk: DiskFacts, since: str | None
) -> tuple[list[tuple[int, int]], str]:
    """The ranges to look at, and why they are the whole disk although a mark was given."""
    whole = [(0, disk.size)]
    with tracked.lock() as state:
        opened = [s for s in state.snapshots if s.snapshot_id == snapshot.snapshot_id]
        if not opened:
            raise snapshot_gone(snapshot.snapshot_id)
        if since is None:
            return whole, ""
        tracking_id, _, number = since.partition(":")
        if tracking_id != state.tracking_id or not number.isdecimal():
            return whole, "the mark is from before the VM's change journal began"
        mark_epoch = int(number)
        fd = _open_disk(tracked.folder / disk.file)
        try:
            journal = ChangeJournal(tracked.own / f"{disk.file}.changes", fd, state.epoch)
            try:
                if journal.unknown_epoch > mark_epoch:
                    return whole, REASONS[journal.reason]
                changed = journal.changed(mark_epoch, opened[0].epoch)
            finally:
                journal.close()
        finally:
            os.close(fd)
    return [(a, min(b, disk.size)) for a, b in changed if a < disk.size], ""


def _page(
    reader: SnapshotReader, ranges: list[tuple[int, int]], start: int, reason: str
) -> Extents:
    """The extents of the ranges from `start` on, split into data and holes, one page."""
    found: list[Extent] = []
    for low, high in ranges:
        low = max(low, start)
        if low >= high:
            continue
        at = low
        for data, end in reader.data_ranges(low, high):
            if at < data:
                found.append(Extent(at, data - at, True))
            found.append(Extent(data, end - data))
            at = end
        if at < high:
            found.append(Extent(at, high - at, True))
        if len(found) > EXTENT_COUNT_MAX:
            break
    more = len(found) > EXTENT_COUNT_MAX
    page = tuple(found[:EXTENT_COUNT_MAX])
    last = page[-1] if page else None
    return Extents(
        extents=page,
        complete=not reason,
        reason=reason,
        next_offset=last.offset + last.length if more and last is not None else None,
    )
