"""Tracked disks of one folder (a VM's, or an instance's): write lock, epochs, open snapshots.

`.lab/state.json` is the truth: the current epoch and the snapshots that are open. While one is
open, whoever writes preserves the old blocks in it first; a reader reads the disk and then, where
the snapshot's map says so, the preserved block. A block is preserved and marked before it is
overwritten, so a reader that saw no mark after reading has read the old bytes, without a lock.
"""

from __future__ import annotations

import datetime as dt
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from shared.errors import Permanent, Refused
from shared.platforms.lab import sparse
from shared.platforms.lab.blocks import ABSENT, BLOCK, DATA, ZERO, BlockFile
from shared.platforms.lab.folder import locked, remove_tree, replace_file
from shared.platforms.lab.layers import join_ranges
from shared.platforms.lab.tracking import RESTARTED, ChangeJournal

SNAPSHOT_COUNT_MAX: Final = 28


class OpenSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """An open snapshot: the epoch it ended, and the disks (file → size) it froze."""

    snapshot_id: str
    epoch: int
    taken_at: dt.datetime
    plan: str
    job: str
    key: str
    vm: str
    sizes: dict[str, int]
    names: dict[str, str]


class TrackState(msgspec.Struct, frozen=True, kw_only=True):
    """`.lab/state.json`."""

    tracking_id: str
    epoch: int
    boot_id: str
    snapshots: tuple[OpenSnapshot, ...] = ()


class TrackedFolder:
    """The tracking of the disks that lie in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.own = folder / ".lab"

    @contextmanager
    def lock(self) -> Iterator[TrackState]:
        """Hold the folder's write lock; gives the state, made where there is none.

        Two locks in turn: who waits holds the gate, so that a writer in a tight loop cannot
        starve a snapshot.
        """
        try:
            self._make()
            with locked(self.own / "gate"):
                held = locked(self.own / "lock")
                held.__enter__()
        except FileNotFoundError:
            raise Permanent(
                f"the folder {self.folder} is gone",
                code="no-such-vm",
                remedy="bring the folder back, or take the VM out of the plan",
            ) from None
        try:
            yield self.load() or self._begin()
        finally:
            held.__exit__(None, None, None)

    def _make(self) -> None:
        try:
            os.mkdir(self.own)
        except FileExistsError:
            pass

    def load(self) -> TrackState | None:
        """The state now; None where nothing was tracked yet."""
        try:
            raw = (self.own / "state.json").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return msgspec.json.decode(raw, type=TrackState)

    def save(self, state: TrackState) -> None:
        """Replace the state; under the lock."""
        replace_file(self.own / "state.json", msgspec.json.encode(state))

    def _begin(self) -> TrackState:
        state = TrackState(tracking_id=uuid.uuid4().hex[:12], epoch=1, boot_id=boot_id())
        self.save(state)
        return state

    def journal(self, file: str, disk_fd: int, state: TrackState) -> ChangeJournal:
        """The change journal of a disk, with changes behind its back noticed; under the lock."""
        journal = ChangeJournal(self.own / f"{file}.changes", disk_fd, state.epoch)
        if state.boot_id != boot_id():
            journal.forget(state.epoch, RESTARTED)
        else:
            journal.notice(state.epoch)
        return journal

    def snapshot_path(self, snapshot_id: str) -> Path:
        """Where a snapshot keeps its preserved blocks."""
        return self.own / "snapshots" / snapshot_id

    def preserve(
        self, state: TrackState, file: str, disk_fd: int, ranges: list[tuple[int, int]]
    ) -> None:
        """Keep what open snapshots still need of ranges about to be written; under the lock."""
        for snapshot in state.snapshots:
            size = snapshot.sizes.get(file)
            if size is None:
                continue
            path = self.snapshot_path(snapshot.snapshot_id) / f"{file}.old"
            try:
                old = BlockFile.open(path, size, writable=True)
            except FileNotFoundError:
                continue  # being closed at this moment: nobody reads it any more
            try:
                for start, end in ranges:
                    _preserve_range(old, disk_fd, start, min(end, size))
            finally:
                old.close()

    def open(self, snapshot: OpenSnapshot, state: TrackState, disks: dict[str, int]) -> None:
        """Begin a snapshot of the disks (file → descriptor); under the lock."""
        if len(state.snapshots) >= SNAPSHOT_COUNT_MAX:
            raise Refused(
                f"VM {snapshot.vm} has {len(state.snapshots)} open snapshots",
                code="too-many-snapshots",
                remedy="close those that nobody uses",
            )
        for file, disk_fd in disks.items():
            journal = self.journal(file, disk_fd, state)
            try:
                journal.compact()
            finally:
                journal.close()
        self._drop_leftovers(state)
        path = self.snapshot_path(snapshot.snapshot_id)
        os.makedirs(path)
        for file, size in snapshot.sizes.items():
            BlockFile.create(path / f"{file}.old", size).close()
        self.save(
            msgspec.structs.replace(
                state,
                epoch=state.epoch + 1,
                boot_id=boot_id(),
                snapshots=(*state.snapshots, snapshot),
            )
        )

    def close(self, state: TrackState, snapshot_id: str) -> None:
        """End a snapshot; under the lock. Its folder goes first: from then on its readers stop,
        before any writer stops preserving for them."""
        path = self.snapshot_path(snapshot_id)
        gone = path.with_name(f".{snapshot_id}")
        remove_tree(gone)
        try:
            os.rename(path, gone)
        except FileNotFoundError:
            pass
        left = tuple(s for s in state.snapshots if s.snapshot_id != snapshot_id)
        self.save(msgspec.structs.replace(state, snapshots=left))
        remove_tree(gone)

    def _drop_leftovers(self, state: TrackState) -> None:
        """Remove what a killed open or close left behind."""
        known = {snapshot.snapshot_id for snapshot in state.snapshots}
        root = self.own / "snapshots"
        for name in os.listdir(root) if root.exists() else ():
            if name not in known:
                remove_tree(root / name)


def boot_id() -> str:
    """Identifies this start of the machine."""
    global _boot_id
    if not _boot_id:
        try:
            _boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        except OSError:
            _boot_id = "unknown"
    return _boot_id


_boot_id = ""


def _preserve_range(old: BlockFile, disk_fd: int, start: int, end: int) -> None:
    if start >= end:
        return
    low = start // BLOCK * BLOCK
    high = min(-(-end // BLOCK) * BLOCK, old.size)
    for first, last, state in tuple(old.runs(low, high)):
        if state != ABSENT:
            continue
        for at in range(first, last, sparse.PIECE_BYTES):
            piece = sparse.scratch()[: min(sparse.PIECE_BYTES, last - at)]
            count = sparse.read_full(disk_fd, piece, at)
            sparse.fill_zero(piece[count:])
            if sparse.is_zero(piece):
                old.mark(at // BLOCK, -(-len(piece) // BLOCK), ZERO)
            else:
                old.put(piece, at)


class SnapshotReader:
    """One disk of an open snapshot, open for reading. Safe for threads; closed when the last
    user is done after `retire`."""

    def __init__(self, tracked: TrackedFolder, snapshot_id: str, file: str, size: int) -> None:
        self.size = size
        self.path = tracked.folder / file
        self._marker = tracked.snapshot_path(snapshot_id)
        self._id = snapshot_id
        self._lock = threading.Lock()
        self._users = 0
        self._retired = False
        try:
            self._old = BlockFile.open(self._marker / f"{file}.old", size)
        except FileNotFoundError:
            raise snapshot_gone(snapshot_id) from None
        try:
            self._disk = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._old.close()
            raise disk_missing(self.path) from None

    @contextmanager
    def use(self) -> Iterator[None]:
        """Keep the files open for one operation."""
        with self._lock:
            if self._retired and self._users == 0:
                raise snapshot_gone(self._id)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                self._close_if_unused()

    def retire(self) -> None:
        """No new users; the files close with the last one."""
        with self._lock:
            if not self._retired:
                self._retired = True
                self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._retired and self._users == 0:
            self._old.close()
            os.close(self._disk)

    def read(self, into: memoryview, offset: int) -> None:
        """Fill `into` with the frozen bytes; Permanent where disk or snapshot ended meanwhile."""
        count = sparse.read_full(self._disk, into, offset)
        if count < len(into):
            raise self._shrank()
        for start, end, state in self._old.runs(offset, offset + len(into)):
            part = into[start - offset : end - offset]
            if state == DATA:
                self._old.read(part, start)
            elif state == ZERO:
                sparse.fill_zero(part)
        # Last: a snapshot that was closed meanwhile may have let these very blocks be overwritten.
        if not os.path.exists(self._marker):
            raise snapshot_gone(self._id)

    def data_ranges(self, start: int, end: int) -> list[tuple[int, int]]:
        """Ranges that may hold data: the disk's now, and what was preserved of it since."""
        found = list(sparse.data_ranges(self._disk, start, end))
        found.extend((a, b) for a, b, s in self._old.present_runs(start, end) if s == DATA)
        # Afterwards: a file that was cut off must not pass as one that ends in a hole.
        if os.fstat(self._disk).st_size < self.size:
            raise self._shrank()
        return join_ranges([(max(a, start), min(b, end)) for a, b in found if b > start])

    def _shrank(self) -> Permanent:
        return Permanent(
            f"the disk file {self.path} has {os.fstat(self._disk).st_size} bytes; it had "
            f"{self.size} when the snapshot was taken",
            code="disk-shrank",
            remedy="restore the disk file to its size, or reset the VM to copy it anew",
        )


def snapshot_gone(snapshot_id: str) -> Permanent:
    """The error for a snapshot that is not open."""
    return Permanent(
        f"snapshot {snapshot_id} is closed",
        code="snapshot-gone",
        remedy="start the iteration again; it takes a snapshot of its own",
    )


def disk_missing(path: Path) -> Permanent:
    """The error for a disk file that is not there."""
    return Permanent(
        f"the disk file {path} is missing",
        code="disk-missing",
        remedy="restore the file, or take the disk out of vm.yaml and reset the VM",
    )
