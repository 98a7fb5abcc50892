"""What changed on a tracked disk, and when: the change journal beside the disk file.

`.lab/<file>.changes` is a header of 4 KiB (the disk's size and modification time after the last
tracked write, the write in progress) and 24-byte records (epoch, offset, length), appended before
the bytes they announce are written. The epoch rises with every snapshot, so "changed since a
mark" is the records of later epochs. A disk whose size or time is not what the header says was
changed behind its back; from then to the next snapshot nothing is claimed to be known.
Not synced: after a restart of the machine the whole disk is compared once.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Final

from shared.platforms.lab.folder import write_all
from shared.platforms.lab.layers import join_ranges

_MAGIC: Final = b"labchg01"
_HEADER: Final = struct.Struct("<8sQQQQBBxxxxxxQ")
_RECORD: Final = struct.Struct("<QQQ")
_RECORDS_AT: Final = 4096
_COMPACT_BYTES: Final = 4 << 20
_COARSE_BYTES: Final = 1 << 20
# How long after its announcement a write may have touched the disk before its writer died. The
# kernel stamps files from a clock that may lie a tick behind.
_INTENT_NS_MAX: Final = 2_000_000_000
_INTENT_NS_BEFORE: Final = 1_000_000_000

REASONS: Final = {
    0: "",
    1: "the disk file was changed behind the back of the lab's write protocol",
    2: "the disk was resized",
    3: "the machine was restarted since, and the change journal is not synced",
    4: "the change journal of the disk was missing",
}
OUTSIDE, RESIZED, RESTARTED, NEW = 1, 2, 3, 4


class ChangeJournal:
    """The open change journal of one disk. All methods run under the VM's write lock."""

    def __init__(self, path: Path, disk_fd: int, epoch: int) -> None:
        self._disk = disk_fd
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        raw = os.pread(self._fd, _HEADER.size, 0)
        if len(raw) == _HEADER.size and raw[:8] == _MAGIC:
            fields = _HEADER.unpack(raw)
            self.size, self.mtime_ns, self.unknown_epoch = fields[1:4]
            self.intent_ns, pending, self.reason = fields[4:7]
            self.pending = bool(pending)
            self.records_end = max(fields[7], _RECORDS_AT)
            return
        self.size, self.mtime_ns = _facts(disk_fd)
        self.unknown_epoch, self.reason = epoch, NEW
        self.intent_ns, self.pending, self.records_end = 0, False, _RECORDS_AT
        os.ftruncate(self._fd, _RECORDS_AT)
        self._save()

    def close(self) -> None:
        os.close(self._fd)

    def notice(self, epoch: int) -> None:
        """Compare the disk with what was last tracked; note a change nobody announced."""
        size, mtime_ns = _facts(self._disk)
        if size != self.size:
            self.forget(epoch, RESIZED)
        elif mtime_ns != self.mtime_ns and not self._explained(mtime_ns):
            self.forget(epoch, OUTSIDE)
        elif self.pending or mtime_ns != self.mtime_ns:
            # The writer died on the way: its range was announced, so nothing is unknown.
            self.done()

    def forget(self, epoch: int, reason: int) -> None:
        """What happened in this epoch (and before) is unknown."""
        self.unknown_epoch, self.reason = epoch, reason
        self.done()

    def announce(self, epoch: int, ranges: list[tuple[int, int]]) -> None:
        """Record the byte ranges (start, end) that are about to be written."""
        new = b"".join(_RECORD.pack(epoch, start, end - start) for start, end in ranges)
        last = os.pread(self._fd, _RECORD.size, self.records_end - _RECORD.size)
        if not (len(ranges) == 1 and self.records_end > _RECORDS_AT and last == new):
            write_all(self._fd, memoryview(new), self.records_end)
            self.records_end += len(new)
        self.intent_ns, self.pending = time.time_ns(), True
        self._save()

    def done(self) -> None:
        """Note that the disk is now as tracked. Its time is set to the nanosecond: a change
        behind its back cannot hit the same value, as it could within a tick of the kernel."""
        now_ns = time.time_ns()
        os.utime(self._disk, ns=(now_ns, now_ns))
        self.size, self.mtime_ns = os.fstat(self._disk).st_size, now_ns
        self.pending = False
        self._save()

    def changed(self, since_epoch: int, until_epoch: int) -> list[tuple[int, int]]:
        """Byte ranges announced after one epoch and up to another, sorted, joined."""
        return join_ranges(
            [
                (offset, offset + length)
                for epoch, offset, length in self._records()
                if since_epoch < epoch <= until_epoch
            ]
        )

    def compact(self) -> None:
        """Bound the journal: join ranges per epoch, then round them out to whole MiB.

        Rounding may name unchanged bytes, never hide changed ones.
        """
        if self.records_end - _RECORDS_AT <= _COMPACT_BYTES:
            return
        by_epoch: dict[int, list[tuple[int, int]]] = {}
        for epoch, offset, length in self._records():
            by_epoch.setdefault(epoch, []).append((offset, offset + length))
        joined = {epoch: join_ranges(ranges) for epoch, ranges in by_epoch.items()}
        if sum(map(len, joined.values())) * _RECORD.size > _COMPACT_BYTES // 2:
            newest = max(joined)
            everything = [r for ranges in joined.values() for r in ranges]
            joined = {newest: join_ranges([_rounded(r) for r in everything])}
        kept = b"".join(
            _RECORD.pack(epoch, start, end - start)
            for epoch, ranges in sorted(joined.items())
            for start, end in ranges
        )
        # The old records stay valid behind the old end until the header names the new one: a
        # second area is not needed, since every new record covers what it overwrites only after
        # the header counts from the start again.
        copy_at = self.records_end
        write_all(self._fd, memoryview(kept), copy_at)
        self.records_end = copy_at + len(kept)
        self._save()
        write_all(self._fd, memoryview(kept), _RECORDS_AT)
        self.records_end = _RECORDS_AT + len(kept)
        self._save()
        os.ftruncate(self._fd, self.records_end)

    def _records(self) -> list[tuple[int, int, int]]:
        raw = bytearray(self.records_end - _RECORDS_AT)
        count = os.preadv(self._fd, [raw], _RECORDS_AT)
        usable = count - count % _RECORD.size
        return list(_RECORD.iter_unpack(memoryview(raw)[:usable]))

    def _explained(self, mtime_ns: int) -> bool:
        if not self.pending:
            return False
        return bool(-_INTENT_NS_BEFORE <= mtime_ns - self.intent_ns <= _INTENT_NS_MAX)

    def _save(self) -> None:
        header = _HEADER.pack(
            _MAGIC,
            self.size,
            self.mtime_ns,
            self.unknown_epoch,
            self.intent_ns,
            self.pending,
            self.reason,
            self.records_end,
        )
        os.pwrite(self._fd, header, 0)


def _facts(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_size, found.st_mtime_ns


def _rounded(found: tuple[int, int]) -> tuple[int, int]:
    low = found[0] // _COARSE_BYTES * _COARSE_BYTES
    return low, -(-found[1] // _COARSE_BYTES) * _COARSE_BYTES
