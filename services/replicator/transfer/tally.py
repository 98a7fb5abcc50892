"""Counts what a transfer did and tells about it, not too often.

Owns the counters and the progress callback's rhythm; knows nothing of platforms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from services.replicator.transfer.records import Progress

# Weight of the newest interval in the reported rate: smooth enough to read, settled in a second.
_SMOOTHING: Final = 0.4


class Tally:
    """Counters of one transfer. Times are monotonic seconds."""

    def __init__(
        self,
        *,
        disk: str,
        bytes_total: int,
        report: Callable[[Progress], None],
        interval_s: float,
        now_s: float,
    ) -> None:
        self.bytes_total = bytes_total
        self.bytes_read = 0
        self.bytes_written = 0
        self.bytes_zero = 0
        self.bytes_same = 0
        self.bytes_adopted = 0
        self.verified_from_s: float | None = None
        self._disk = disk
        self._report = report
        self._interval_s = interval_s
        self._rate = 0.0
        self._told_at_s = now_s
        self._told_bytes = 0

    @property
    def bytes_done(self) -> int:
        """Bytes looked at, in this transfer or the one that it resumes."""
        return self.bytes_read + self.bytes_adopted

    def verified(self, now_s: float) -> None:
        """A block of the target is known to be right; the first one is remembered."""
        if self.verified_from_s is None:
            self.verified_from_s = now_s

    def tell(self, now_s: float, *, last: bool = False) -> None:
        """Report progress if an interval has passed, or if this is the last time."""
        elapsed_s = now_s - self._told_at_s
        if elapsed_s < self._interval_s and not last:
            return
        if elapsed_s > 0:
            rate = (self.bytes_done - self._told_bytes) / elapsed_s
            self._rate = rate if self._rate == 0 else self._rate + (rate - self._rate) * _SMOOTHING
        self._told_at_s, self._told_bytes = now_s, self.bytes_done
        self._report(
            Progress(
                disk=self._disk,
                bytes_done=self.bytes_done,
                bytes_total=self.bytes_total,
                bytes_written=self.bytes_written,
                rate_bytes_per_s=self._rate,
            )
        )
