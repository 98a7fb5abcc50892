"""Random access to the disks of one machine: the port, and its adapter for raw files.

A platform whose disks are block devices or remote volumes brings its own `Disk`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol

from shared.windows.errors import DiskFailed


class ReadableDisk(Protocol):
    """What reading needs. Failures are `DiskFailed`."""

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """The bytes of a range; fewer, down to none, where the disk ends."""
        ...


class Disk(ReadableDisk, Protocol):
    """What *prepare* needs of a disk. Nobody else may write to it meanwhile."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Replace bytes inside the disk; all of them, or `DiskFailed`."""
        ...

    def fsync(self) -> None:
        """Return once everything written survives a power cut."""
        ...


class FileDisk:
    """A raw disk file. Use it as a context manager; opening for reading needs no write access."""

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self._path = path
        self._fd = -1
        with _failures("open", path):
            self._fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
            # Not st_size: this works for block devices too.
            self._size = os.lseek(self._fd, 0, os.SEEK_END)

    @property
    def size(self) -> int:
        return self._size

    def read_at(self, offset: int, length: int) -> bytes:
        length = max(0, min(length, self._size - offset))
        pieces: list[bytes] = []
        with _failures("read", self._path):
            while length and (piece := os.pread(self._fd, length, offset)):
                pieces.append(piece)
                offset, length = offset + len(piece), length - len(piece)
        return b"".join(pieces)

    def write_at(self, offset: int, data: bytes) -> None:
        if offset < 0 or offset + len(data) > self._size:
            raise DiskFailed(f"write {self._path}: {offset} + {len(data)} is outside the disk")
        view = memoryview(data)
        with _failures("write", self._path):
            while view:
                count = os.pwrite(self._fd, view, offset)
                offset, view = offset + count, view[count:]

    def fsync(self) -> None:
        with _failures("flush", self._path):
            os.fsync(self._fd)

    def close(self) -> None:
        """Close the file; once is enough, more do nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> FileDisk:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@contextmanager
def _failures(verb: str, path: Path) -> Iterator[None]:
    """Turns the system's errors into ours, naming what was attempted."""
    try:
        yield
    except OSError as error:
        raise DiskFailed(
            f"cannot {verb} {path}: {error.strerror or error}",
            remedy="see that the disk is there and that Seawall may read and write it",
        ) from error
