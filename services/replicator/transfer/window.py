"""How many chunks of one disk may be in flight: grows and shrinks with what the target shows.

Pure: latencies and refusals come in, a number of chunks comes out. Does not hold chunks or wait.
"""

from __future__ import annotations

from typing import Final

# Latency that stays near its floor means that more in flight would not queue; three times the
# floor means that two thirds of the time is spent in a queue which a smaller window would empty.
_CALM_RATIO: Final = 1.5
_QUEUED_RATIO: Final = 3.0
_SMOOTHING: Final = 1 / 8
# The floor is the lowest latency of this and the previous epoch, so that it follows a target
# that has become slower for good.
_EPOCH_WRITES: Final = 512


class Window:
    """Additive increase, multiplicative decrease, judged once per window's worth of writes.

    `least ≤ chunks ≤ most` always holds.
    """

    def __init__(self, *, start: int, least: int, most: int) -> None:
        if not 1 <= least <= start <= most:
            raise ValueError(f"window bounds are not in order: {least} ≤ {start} ≤ {most}")
        self._chunks = start
        self._least = least
        self.most = most
        self._latency_s = 0.0
        self._floor_s = float("inf")
        self._earlier_floor_s = float("inf")
        self._epoch_writes = 0
        self._judged_writes = 0

    @property
    def chunks(self) -> int:
        """How many chunks may be in flight now."""
        return self._chunks

    def wrote(self, latency_s: float) -> None:
        """One chunk was written in `latency_s`."""
        self._learn(latency_s)
        self._judged_writes += 1
        if self._judged_writes < self._chunks:
            return
        self._judged_writes = 0
        ratio = self._latency_s / max(min(self._floor_s, self._earlier_floor_s), 1e-9)
        if ratio > _QUEUED_RATIO:
            self._chunks = max(self._least, self._chunks * 7 // 8)
        elif ratio < _CALM_RATIO:
            self._chunks = min(self.most, self._chunks + max(1, self._chunks // 8))

    def refused(self) -> None:
        """A call was throttled or has to be repeated: halve, once per window's worth of writes."""
        if self._judged_writes >= 0:
            self._chunks = max(self._least, self._chunks // 2)
            self._judged_writes = -self._chunks

    def _learn(self, latency_s: float) -> None:
        if self._latency_s == 0.0:
            self._latency_s = latency_s
        self._latency_s += (latency_s - self._latency_s) * _SMOOTHING
        self._floor_s = min(self._floor_s, latency_s)
        self._epoch_writes += 1
        if self._epoch_writes >= _EPOCH_WRITES:
            self._earlier_floor_s, self._floor_s = self._floor_s, float("inf")
            self._epoch_writes = 0
