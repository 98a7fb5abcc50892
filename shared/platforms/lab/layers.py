"""What a copy of a disk consists of: a full image and deltas over it, each written once.

Owns reading such a chain, putting it together into a plain file, and merging deltas into a new
one. A layer is never changed after it was finalized, so that links to it (checkpoints, held
copies) and readers need no locks. Does not own which chain is current (`copies`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from shared.platforms.lab import sparse
from shared.platforms.lab.blocks import ABSENT, BLOCK, DATA, ZERO, BlockFile
from shared.platforms.lab.folder import write_all

LayerKind = Literal["full", "delta"]

# Left to itself the kernel keeps dirty pages until the sync at the end, which then waits for the
# disk alone: 1 GiB, half of it data, took 1.03 s so and 0.67 s with the disk kept busy meanwhile.
_WRITEBACK_BYTES: Final = 32 << 20
# A longer chain costs a lookup per layer and read; merging costs a copy of the merged bytes.
DELTA_COUNT_MAX: Final = 8


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a chain. `size` is the disk's, `stored` the bytes that the file takes."""

    file: str
    kind: LayerKind
    size: int
    stored: int


class View:
    """An open chain, oldest layer first, read as one disk. An empty chain reads as zeros."""

    def __init__(self, folder: Path, layers: Sequence[Layer], size: int) -> None:
        self.size = size
        self.layers = tuple(layers)
        self._files: list[BlockFile] = []
        try:
            for layer in layers:
                self._files.append(BlockFile.open(folder / layer.file, layer.size))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        for file in self._files:
            file.close()
        self._files.clear()

    def read(self, into: memoryview, offset: int) -> None:
        """Fill `into`; beyond what any layer holds it reads as zeros."""
        self._read(len(self.layers) - 1, into, offset)

    def _read(self, index: int, into: memoryview, offset: int) -> None:
        if index < 0:
            sparse.fill_zero(into)
            return
        file = self._files[index]
        inside = max(0, min(len(into), file.size - offset))
        if inside < len(into):
            # A layer of a smaller disk cuts off what lies under it.
            sparse.fill_zero(into[inside:])
        if self.layers[index].kind == "full":
            done = sparse.read_full(file.fd, into[:inside], offset)
            sparse.fill_zero(into[done:inside])
            return
        for start, end, state in file.runs(offset, offset + inside):
            part = into[start - offset : end - offset]
            if state == DATA:
                file.read(part, start)
            elif state == ZERO:
                sparse.fill_zero(part)
            else:
                self._read(index - 1, part, start)

    def flatten(self, target: int, *, pause: sparse.Checkpoint | None = None) -> None:
        """Write the disk's content into an empty file, sparse, with the disk's size.

        Oldest layer first, so that newer blocks land over older ones.
        """
        for layer, file in zip(self.layers, self._files, strict=True):
            limit = min(layer.size, self.size)
            os.ftruncate(target, limit)
            if layer.kind == "full":
                for start, end in sparse.data_ranges(file.fd, 0, limit):
                    sparse.copy_range(file.fd, target, start, end, pause=pause)
            else:
                _apply(file, target, limit, pause)
        os.ftruncate(target, self.size)

    def data_ranges(self) -> list[tuple[int, int]]:
        """Byte ranges that may hold something other than zeros, sorted, joined."""
        found: list[tuple[int, int]] = []
        for layer, file in zip(self.layers, self._files, strict=True):
            limit = min(layer.size, self.size)
            if layer.kind == "full":
                found.extend(sparse.data_ranges(file.fd, 0, limit))
            else:
                found.extend((a, min(b, limit)) for a, b, s in file.present_runs() if s == DATA)
        return join_ranges(found)


def join_ranges(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted ranges without overlaps; neighbours become one."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            if end > joined[-1][1]:
                joined[-1] = (joined[-1][0], end)
        elif start < end:
            joined.append((start, end))
    return joined


def _apply(file: BlockFile, target: int, limit: int, pause: sparse.Checkpoint | None) -> None:
    for start, end, state in file.present_runs():
        end = min(end, limit)
        if state == DATA:
            sparse.copy_range(file.fd, target, start, end, pause=pause)
        else:
            sparse.punch(target, start, end - start)


def merge_deltas(folder: Path, older: Layer, newer: Layer, *, into: str) -> Layer:
    """A new durable delta with the content of two neighbours of one size. Neither is touched."""
    assert older.kind == newer.kind == "delta" and older.size == newer.size
    merged = BlockFile.create(folder / into, newer.size)
    try:
        for layer in (older, newer):
            file = BlockFile.open(folder / layer.file, layer.size)
            try:
                _overlay(file, merged)
            finally:
                file.close()
        os.fsync(merged.fd)
    finally:
        merged.close()
    return Layer(file=into, kind="delta", size=newer.size, stored=sparse.allocated(folder / into))


def _overlay(file: BlockFile, merged: BlockFile) -> None:
    for start, end, state in file.present_runs():
        blocks = -(-(end - start) // BLOCK)
        if state == DATA:
            sparse.copy_range(file.fd, merged.fd, start, start + blocks * BLOCK)
        else:
            sparse.punch(merged.fd, start, blocks * BLOCK)
        merged.mark(start // BLOCK, blocks, state)


def flatten_chain(folder: Path, layers: Sequence[Layer], size: int, *, into: str) -> Layer:
    """A new durable full image with the content of a chain."""
    view = View(folder, layers, size)
    fd = os.open(folder / into, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        view.flatten(fd)
        os.fsync(fd)
    finally:
        os.close(fd)
        view.close()
    return Layer(file=into, kind="full", size=size, stored=sparse.allocated(folder / into))


class StagedDisk:
    """An open staged generation: a plain image, or a delta over the chain it started from.

    Safe for threads that write ranges which do not overlap. `base` is closed with it.
    """

    def __init__(self, path: Path, size: int, base: View | None, *, create: bool = False) -> None:
        self.size = size
        self.base = base
        # Two threads that fill the rest of the same block from the base would undo each other.
        self._edges = threading.Lock()
        self._unsent = 0
        if create and base is None:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            os.ftruncate(fd, size)
            self.file = BlockFile(fd, size)
        elif create:
            self.file = BlockFile.create(path, size)
        else:
            self.file = BlockFile.open(path, size, writable=True)

    @property
    def kind(self) -> LayerKind:
        return "full" if self.base is None else "delta"

    def close(self) -> None:
        self.file.close()
        if self.base is not None:
            self.base.close()

    def read(self, into: memoryview, offset: int) -> None:
        """Fill `into` with the generation's content."""
        if self.base is None:
            done = sparse.read_full(self.file.fd, into, offset)
            sparse.fill_zero(into[done:])
            return
        for start, end, state in self.file.runs(offset, offset + len(into)):
            part = into[start - offset : end - offset]
            if state == DATA:
                self.file.read(part, start)
            elif state == ZERO:
                sparse.fill_zero(part)
            else:
                self.base.read(part, start)

    def write(self, data: memoryview, offset: int) -> None:
        """Write a range of any alignment; whole blocks are the fast case."""
        end = offset + len(data)
        if self.base is None:
            write_all(self.file.fd, data, offset)
        elif offset % BLOCK or (end % BLOCK and end < self.size):
            with self._edges:
                self._fill_edges(offset, end)
                self._write_blocks(data, offset)
        else:
            self._write_blocks(data, offset)
        # Threads may miss a count of each other; it only moves the moment of a hint.
        self._unsent += len(data)
        if self._unsent >= _WRITEBACK_BYTES:
            self._unsent = 0
            sparse.start_writeback(self.file.fd, 0, 0)

    def _write_blocks(self, data: memoryview, offset: int) -> None:
        write_all(self.file.fd, data, offset)
        first = offset // BLOCK
        self.file.mark(first, -(-(offset + len(data)) // BLOCK) - first, DATA)

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros without taking space."""
        if self.base is None:
            for start, end in sparse.data_ranges(self.file.fd, offset, offset + length):
                sparse.punch(self.file.fd, start, end - start)
            return
        end = offset + length
        low = -(-offset // BLOCK) * BLOCK
        high = end if end >= self.size else end // BLOCK * BLOCK
        if low >= high:
            self._zero_bytes(offset, end)
            return
        self._zero_bytes(offset, low)
        self._zero_bytes(high, end)
        for start, stop, state in self.file.runs(low, high):
            if state != ZERO:
                if state == DATA:
                    sparse.punch(self.file.fd, start, stop - start)
                self.file.mark(start // BLOCK, -(-(stop - start) // BLOCK), ZERO)

    def _zero_bytes(self, start: int, end: int) -> None:
        if start < end:
            self.write(memoryview(bytes(end - start)), start)

    def _fill_edges(self, start: int, end: int) -> None:
        assert self.base is not None
        edges = set()
        if start % BLOCK:
            edges.add(start // BLOCK)
        if end % BLOCK and end < self.size:
            edges.add(end // BLOCK)
        for block in edges:
            if self.file.states(block, 1)[0] == DATA:
                continue
            held = memoryview(bytearray(min(BLOCK, self.size - block * BLOCK)))
            self.read(held, block * BLOCK)
            self.file.put(held, block * BLOCK)

    def absent(self, start: int, end: int) -> bool:
        """Whether nothing was written in the range since the generation was opened."""
        if self.base is None:
            return not any(True for _ in sparse.data_ranges(self.file.fd, start, end))
        return all(state == ABSENT for _, _, state in self.file.runs(start, end))
