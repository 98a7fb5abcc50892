"""A disk in memory, for reading in the test's own process."""

from __future__ import annotations


class MemoryDisk:
    """Bytes as a disk."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.read_bytes = 0

    @property
    def size(self) -> int:
        return len(self._data)

    def read_at(self, offset: int, length: int) -> bytes:
        assert offset >= 0 and length >= 0
        piece = self._data[offset : offset + length]
        self.read_bytes += len(piece)
        return piece
