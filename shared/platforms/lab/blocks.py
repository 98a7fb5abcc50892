"""A sparse file of blocks with a map of which are present: deltas and preserved blocks.

Layout: `size` bytes at their own offsets, then, from the next multiple of 4 KiB, one byte per
4 KiB block: 0 absent, 1 data, 2 zero. Owns that layout. What lies under absent blocks is the
user's affair.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shared.platforms.lab import sparse
from shared.platforms.lab.folder import write_all

BLOCK: Final = 4096
ABSENT: Final = 0
DATA: Final = 1
ZERO: Final = 2
_MAP_PIECE: Final = 1 << 18  # blocks looked at per read: 1 GiB of disk
_RUNS: Final = re.compile(rb"\x00+|\x01+|\x02+", re.DOTALL)


def block_count(size: int) -> int:
    """Blocks of a disk; the last one may be partial."""
    return -(-size // BLOCK)


class BlockFile:
    """An open block file. Safe for threads on different blocks; the caller closes it."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self.blocks = block_count(size)
        self._map_at = self.blocks * BLOCK

    @classmethod
    def create(cls, path: Path, size: int) -> BlockFile:
        """A new file with every block absent; an existing one is an error."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        blocks = block_count(size)
        os.ftruncate(fd, blocks * BLOCK + blocks)
        return cls(fd, size)

    @classmethod
    def open(cls, path: Path, size: int, *, writable: bool = False) -> BlockFile:
        """An existing file of a disk of `size` bytes."""
        flags = os.O_RDWR if writable else os.O_RDONLY
        return cls(os.open(path, flags | os.O_CLOEXEC), size)

    def close(self) -> None:
        os.close(self.fd)

    def states(self, first: int, count: int) -> bytes:
        """The state of each block of a range, one byte each."""
        found = os.pread(self.fd, count, self._map_at + first)
        return found if len(found) == count else found + bytes(count - len(found))

    def mark(self, first: int, count: int, state: int) -> None:
        """Set the state of a range of blocks."""
        while count > 0:
            step = min(count, _MAP_PIECE)
            write_all(self.fd, memoryview(bytes([state]) * step), self._map_at + first)
            first += step
            count -= step

    def runs(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(start, end, state) byte ranges that cover a byte range, equal neighbours joined
        within each GiB."""
        first, last = start // BLOCK, block_count(end)
        while first < last:
            count = min(_MAP_PIECE, last - first)
            for run in _RUNS.finditer(self.states(first, count)):
                low = max(start, (first + run.start()) * BLOCK)
                high = min(end, (first + run.end()) * BLOCK)
                yield low, high, run.group()[0]
            first += count

    def present_runs(
        self, start: int = 0, end: int | None = None
    ) -> Iterator[tuple[int, int, int]]:
        """As `runs`, absent ranges left out; holes of the map are skipped unread."""
        end = self.size if end is None else min(end, self.size)
        first, last = self._map_at + start // BLOCK, self._map_at + block_count(end)
        for low, high in sparse.data_ranges(self.fd, first, last):
            begin = max(start, (low - self._map_at) * BLOCK)
            for run in self.runs(begin, min(end, (high - self._map_at) * BLOCK)):
                if run[2] != ABSENT:
                    yield run

    def read(self, into: memoryview, offset: int) -> None:
        """Fill `into` with the file's own bytes at `offset`, whatever the map says."""
        sparse.read_full(self.fd, into, offset)

    def put(self, data: memoryview, offset: int) -> None:
        """Write whole blocks (the disk's last one may be partial) and mark them present.

        The bytes come before the mark: who sees the mark sees the bytes.
        """
        write_all(self.fd, data, offset)
        self.mark(offset // BLOCK, block_count(len(data)), DATA)
