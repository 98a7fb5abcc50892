"""How a guest, or anything else, changes a disk of the lab: the write protocol.

    disk = LabDisk("/lab/east/vms/db/sda.raw")
    disk.write(4096, b"hello")

Every write takes the folder's lock, notices changes made behind the protocol's back, preserves
old blocks that open snapshots need, announces the range in the change journal, writes, and notes
that it is done. Any number of processes and threads may do so; one that is killed on the way
loses no tracking. One call (`LabWriter.write_many` for several disks) lies wholly before or
wholly after every snapshot. Blocking; nothing is synced.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from shared.errors import Refused
from shared.platforms.lab import sparse
from shared.platforms.lab.folder import write_all
from shared.platforms.lab.layers import join_ranges
from shared.platforms.lab.snapshots import TrackedFolder, TrackState, disk_missing

Write = tuple[str, int, bytes | bytearray | memoryview]

_STEP_BYTES: Final = 8 << 20


class LabWriter:
    """Writes to the disks in one VM's (or instance's) folder, by file name."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(os.path.abspath(folder))
        self._tracked = TrackedFolder(self.folder)

    def write(self, file: str, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write bytes; Refused (`out-of-range`) beyond the disk's end, which never moves."""
        self.write_many([(file, offset, data)])

    def write_many(self, writes: Sequence[Write]) -> None:
        """Write to several places and disks as one moment: no snapshot lies between them."""
        by_file: dict[str, list[tuple[int, memoryview]]] = {}
        for file, offset, data in writes:
            by_file.setdefault(file, []).append((offset, memoryview(data).cast("B")))
        with self._tracked.lock() as state:
            opened = {file: self._open(file) for file in by_file}
            try:
                for file, parts in by_file.items():
                    _check(opened[file], file, [(at, at + len(data)) for at, data in parts])
                for file, parts in by_file.items():
                    self._write_file(state, file, opened[file], parts)
            finally:
                for fd in opened.values():
                    os.close(fd)

    def discard(self, file: str, offset: int, length: int) -> None:
        """Make a range read as zeros and free its space."""
        with self._tracked.lock() as state:
            fd = self._open(file)
            try:
                _check(fd, file, [(offset, offset + length)])
                self._change(state, file, fd, [(offset, offset + length)], None)
            finally:
                os.close(fd)

    def read(self, file: str, offset: int, length: int) -> bytes:
        """Bytes of the disk as it is now."""
        fd = self._open(file)
        try:
            return os.pread(fd, length, offset)
        finally:
            os.close(fd)

    def _open(self, file: str) -> int:
        if "/" in file or file in ("", ".", ".."):
            raise Refused(f"{file!r} is no file name", code="bad-name")
        try:
            return os.open(self.folder / file, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise disk_missing(self.folder / file) from None

    def _write_file(
        self, state: TrackState, file: str, fd: int, parts: list[tuple[int, memoryview]]
    ) -> None:
        ranges = join_ranges([(at, at + len(data)) for at, data in parts])
        if ranges:
            self._change(state, file, fd, ranges, parts)

    def _change(
        self,
        state: TrackState,
        file: str,
        fd: int,
        ranges: list[tuple[int, int]],
        parts: list[tuple[int, memoryview]] | None,
    ) -> None:
        """Preserve, announce, write, done: in this order, see the module's text."""
        journal = self._tracked.journal(file, fd, state)
        try:
            journal.announce(state.epoch, ranges)
            self._tracked.preserve(state, file, fd, ranges)
            if parts is None:
                for start, end in ranges:
                    sparse.punch(fd, start, end - start)
            else:
                for at, data in parts:
                    for step in range(0, len(data), _STEP_BYTES):
                        write_all(fd, data[step : step + _STEP_BYTES], at + step)
            journal.done()
        finally:
            journal.close()


class LabDisk:
    """One disk by the path of its file, as a guest gets it in `SEAWALL_LAB_DISKS`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(path))
        self._writer = LabWriter(self.path.parent)

    @property
    def size(self) -> int:
        """The disk's size in bytes."""
        return os.stat(self.path).st_size

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """See `LabWriter.write`."""
        self._writer.write(self.path.name, offset, data)

    def discard(self, offset: int, length: int) -> None:
        """See `LabWriter.discard`."""
        self._writer.discard(self.path.name, offset, length)

    def read(self, offset: int, length: int) -> bytes:
        """See `LabWriter.read`."""
        return self._writer.read(self.path.name, offset, length)


def _check(fd: int, file: str, ranges: list[tuple[int, int]]) -> None:
    size = os.fstat(fd).st_size
    for start, end in ranges:
        if start < 0 or end < start or end > size:
            raise Refused(
                f"bytes {start} to {end} are outside disk {file} of {size} bytes",
                code="out-of-range",
            )
