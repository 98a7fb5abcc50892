"""Staged generations: opening, taking over, and turning them into the current copy.

Owns what happens to staged files and when they may be written; the rules of the copy folder
itself are `copies`. Everything here blocks.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import xxhash

from shared.errors import Refused, Transient
from shared.platforms.lab import copies, sparse
from shared.platforms.lab.blocks import ABSENT, DATA
from shared.platforms.lab.copies import CopyDisk, CopyFolder, CopyRecord, StagedRecord
from shared.platforms.lab.folder import lock_fd, replace_file, short_hash
from shared.platforms.lab.layers import StagedDisk, View
from shared.platforms.ports import Call, Generation

_SETTLE_S_MAX: Final = 10.0


class StagedHandle:
    """An open staged disk and who uses it at this moment.

    While any operation runs the file carries a shared lock, which finalize, in whatever process,
    must get exclusively: a layer is never written after it was finalized.
    """

    def __init__(self, home: CopyFolder, record: StagedRecord) -> None:
        self.home = home
        self.record = record
        path = home.staged_path(record.generation_id)
        base = None
        if record.base_copy:
            base = View(home.path, record.base, record.size)
        try:
            self.disk = StagedDisk(path / "data", record.size, base)
        except OSError:
            if base is not None:
                base.close()
            raise
        self._marker = path / "generation.json"
        self._users = 0
        self._closed = False
        self._change = threading.Condition()

    @contextmanager
    def use(self) -> Iterator[StagedDisk]:
        """The disk for one operation; Refused (`generation-gone`) once it is no longer staged."""
        with self._change:
            if self._closed:
                raise generation_gone(self.record.generation_id)
            if self._users == 0:
                self._enter()
            self._users += 1
        try:
            yield self.disk
        finally:
            with self._change:
                self._users -= 1
                if self._users == 0:
                    fcntl.flock(self.disk.file.fd, fcntl.LOCK_UN)
                    self._change.notify_all()

    def _enter(self) -> None:
        try:
            fcntl.flock(self.disk.file.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise generation_gone(self.record.generation_id) from None
        if not os.path.exists(self._marker):
            fcntl.flock(self.disk.file.fd, fcntl.LOCK_UN)
            self.home.site.require()
            raise generation_gone(self.record.generation_id)

    def close(self) -> None:
        """Refuse new operations, wait for those in hand, close the files."""
        with self._change:
            if self._closed:
                return
            self._closed = True
            if not self._change.wait_for(lambda: self._users == 0, _SETTLE_S_MAX):
                self._closed = False
                raise Transient(
                    f"generation {self.record.generation_id} is still being written",
                    code="busy",
                )
        self.disk.close()


def generation_gone(generation_id: str) -> Refused:
    """The error for a generation that was finalized, discarded or taken over."""
    return Refused(f"generation {generation_id} is no longer staged", code="generation-gone")


def open_staged(
    home: CopyFolder, call: Call, *, disk: str, size: int
) -> tuple[Generation, bool, str]:
    """Find the call's generation of the disk or make one; call it under the VM's lock."""
    for found in home.all_staged():
        if (found.key, found.disk, found.lease) == (call.key, disk, call.lease) and call.key:
            if found.size == size:
                return as_generation(found), True, found.generation_id
            home.drop_staged(found.generation_id)
    home.check_lease(disk, call.lease, raise_to=call.lease)
    current = home.current()
    base = None
    if current is not None:
        same = [d for d in current.disks if d.name == disk and d.size == size]
        base = same[0] if same else None
    # The lease number is part of the name; the random part keeps a name from coming back after
    # a discard, so that no file is ever used for a later generation.
    name = f"g{call.lease}-{short_hash(call.key, disk)}-{secrets.token_hex(3)}"
    record = StagedRecord(
        generation_id=name,
        plan=home.plan,
        vm=home.vm,
        disk=disk,
        size=size,
        lease=call.lease,
        job=call.job,
        key=call.key,
        base_copy=current.copy_id if current is not None and base is not None else "",
        base_mark=current.mark if current is not None and base is not None else "",
        base=base.layers if base is not None else (),
    )
    _build(home, record)
    return as_generation(record), False, name


def _build(home: CopyFolder, record: StagedRecord) -> None:
    path = home.staged_path(record.generation_id)
    building = path.with_name(f".{path.name}")
    home.site.ensure(*home.parts, "staged", building.name)
    view = View(home.path, record.base, record.size) if record.base_copy else None
    StagedDisk(building / "data", record.size, view, create=True).close()
    replace_file(building / "generation.json", msgspec.json.encode(record))
    os.rename(building, path)


def as_generation(record: StagedRecord) -> Generation:
    """As the port hands it out."""
    return Generation(
        generation_id=record.generation_id,
        plan=record.plan,
        vm=record.vm,
        disk=record.disk,
        size=record.size,
        lease=record.lease,
        base_mark=record.base_mark,
        blank=not record.base_copy,
    )


def adopt(
    mine: StagedHandle, earlier_id: str, below: int, pause: sparse.Checkpoint
) -> tuple[bool, int]:
    """Take over what an earlier generation holds below an offset. Whether, and bytes copied.

    Both must start from the same copy: what neither holds is then the same content by itself.
    """
    home, record = mine.home, mine.record
    earlier = home.staged(earlier_id)
    wanted = (record.disk, record.size, record.base_copy)
    if earlier is None or (earlier.disk, earlier.size, earlier.base_copy) != wanted:
        return False, 0
    try:
        theirs = StagedHandle(home, earlier)
    except FileNotFoundError:
        return False, 0
    try:
        with mine.use() as target:
            copied = _adopt_ranges(theirs.disk, target, min(below, record.size), pause)
    finally:
        theirs.close()
    return copied >= 0, max(copied, 0)


def _adopt_ranges(
    source: StagedDisk, target: StagedDisk, below: int, pause: sparse.Checkpoint
) -> int:
    """Bytes copied, or -1 where what was read back differs from what was read."""
    copied = 0
    for start, end, state in _content(source, below):
        if state == DATA:
            for at in range(start, end, sparse.PIECE_BYTES):
                pause()
                if not _copy_checked(source, target, at, min(end, at + sparse.PIECE_BYTES)):
                    return -1
            copied += end - start
        elif state == ABSENT and target.base is not None:
            if not target.absent(start, end):
                return -1
        else:
            target.zero(start, end - start)
    return copied


def _content(source: StagedDisk, below: int) -> Iterator[tuple[int, int, int]]:
    """(start, end, state) ranges covering a disk from 0 to `below`."""
    if source.base is not None:
        yield from source.file.runs(0, below)
        return
    at = 0
    for start, end in sparse.data_ranges(source.file.fd, 0, below):
        if at < start:
            yield at, start, ABSENT
        yield start, end, DATA
        at = end
    if at < below:
        yield at, below, ABSENT


def _copy_checked(source: StagedDisk, target: StagedDisk, start: int, end: int) -> bool:
    buffer = sparse.scratch()[: end - start]
    source.read(buffer, start)
    wanted = xxhash.xxh3_128_digest(buffer)
    target.write(buffer, start)
    target.read(buffer, start)
    landed: bool = xxhash.xxh3_128_digest(buffer) == wanted
    return landed


def finalize(
    home: CopyFolder,
    call: Call,
    generations: Sequence[Generation],
    manifest: dict[str, Any],
) -> CopyRecord:
    """Switch the VM to the generations; call it under the VM's lock. See `Target.finalize`."""
    current = home.current()
    copy_id = f"c-{short_hash(call.key, *(g.generation_id for g in generations))}"
    if current is not None and current.copy_id == copy_id:
        # Switched by an earlier try that died before it cleared up.
        found = (home.staged(generation.generation_id) for generation in generations)
        _clear(home, [record for record in found if record is not None])
        return current
    staged = [_checked(home, call, generation, current) for generation in generations]
    locks: list[int] = []
    try:
        for sealed in staged:
            locks.append(_seal(home, sealed))
        record = CopyRecord(
            copy_id=copy_id,
            plan=home.plan,
            vm=home.vm,
            job=call.job,
            key=call.key,
            taken_at=copies.moment_of(manifest),
            mark=str(manifest.get("mark", "")),
            disks=_disks(home, staged, manifest, current),
            manifest=manifest,
        )
        for generation in generations:
            home.check_lease(generation.disk, generation.lease, raise_to=generation.lease)
        home.switch(record)
        _clear(home, staged)
    finally:
        for fd in locks:
            os.close(fd)
    return record


def tidy(home: CopyFolder) -> None:
    """Shorten chains and remove garbage after a switch. The copy is good without it, so a full
    disk leaves the chain as it is until a later switch."""
    current = home.current()
    if current is None:
        return
    try:
        home.compact(current)
    except OSError:
        home.site.require()
    home.sweep()


def _checked(
    home: CopyFolder, call: Call, generation: Generation, current: CopyRecord | None
) -> StagedRecord:
    lowest = min(call.lease, generation.lease) if call.lease else generation.lease
    home.check_lease(generation.disk, lowest, raise_to=generation.lease)
    record = home.staged(generation.generation_id)
    if record is None:
        raise generation_gone(generation.generation_id)
    if record.base_copy and (current is None or current.copy_id != record.base_copy):
        raise Refused(
            f"generation {record.generation_id} starts from copy {record.base_copy}, which is "
            "not the current one any more",
            code="stale-base",
        )
    return record


def _seal(home: CopyFolder, record: StagedRecord) -> int:
    """Keep writers out of a staged file and make it durable; returns the locked descriptor."""
    fd = os.open(home.staged_path(record.generation_id) / "data", os.O_RDWR | os.O_CLOEXEC)
    try:
        lock_fd(fd, what=f"generation {record.generation_id}")
        os.fsync(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _disks(
    home: CopyFolder,
    staged: Sequence[StagedRecord],
    manifest: dict[str, Any],
    current: CopyRecord | None,
) -> tuple[CopyDisk, ...]:
    """The copy's disks: those staged now, and those of the copy before that still belong."""
    files = _disk_files(manifest)
    disks = {disk.name: disk for disk in current.disks} if current is not None else {}
    if files:
        disks = {name: disk for name, disk in disks.items() if name in files}
    for record in staged:
        layer = home.link_layer(record, "delta" if record.base_copy else "full")
        disks[record.disk] = CopyDisk(
            name=record.disk,
            file=files.get(record.disk, f"{record.disk}.raw"),
            size=record.size,
            layers=(*record.base, layer),
        )
    order = list(files)
    return tuple(
        sorted(
            disks.values(), key=lambda d: order.index(d.name) if d.name in order else len(order)
        )
    )


def _disk_files(manifest: dict[str, Any]) -> dict[str, str]:
    configuration = manifest.get("configuration")
    listed = configuration.get("disks") if isinstance(configuration, dict) else None
    files: dict[str, str] = {}
    for disk in listed if isinstance(listed, list | tuple) else ():
        if isinstance(disk, dict) and disk.get("name") and disk.get("file"):
            files[str(disk["name"])] = str(disk["file"])
    return files


def _clear(home: CopyFolder, staged: Sequence[StagedRecord]) -> None:
    """Remove what was finalized, and what lower leases left staged for the same disks."""
    leases = {record.disk: record.lease for record in staged}
    for record in home.all_staged():
        done = any(record.generation_id == other.generation_id for other in staged)
        if done or record.lease < leases.get(record.disk, 0):
            home.drop_staged(record.generation_id)
