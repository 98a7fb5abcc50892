"""A number of chunks that grows and shrinks with what the target shows.

A transfer has two: its *window*, how far work may run ahead of the oldest unfinished chunk, and
its *crew*, how many chunks are worked on at once. A target that is near needs a crew of a few,
one that answers after 30 ms fills the window. Pure: latencies and refusals come in, a number of
chunks comes out. Does not hold chunks or wait.
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
_EPOCH_ANSWERS: Final = 512


class Window:
    """Additive increase, multiplicative decrease, judged once per window's worth of answers.

    `least ≤ chunks ≤ most` always holds.
    """

    def __init__(self, *, start: int, least: int, most: int) -> None:
        if not 1 <= least <= start <= most:
            raise ValueError(f"window bounds are not in order: {least} ≤ {start} ≤ {most}")
        self._chunks = start
        self._least = least
        self._most = most
        self._latency_s = 0.0
        self._floor_s = float("inf")
        self._earlier_floor_s = float("inf")
        self._epoch_answers = 0
        self._judged_answers = 0

    @property
    def chunks(self) -> int:
        """The number of chunks allowed now."""
        return self._chunks

    def answered(self, latency_s: float) -> None:
        """The target dealt with one chunk in `latency_s`."""
        self._learn(latency_s)
        self._judged_answers += 1
        if self._judged_answers < self._chunks:
            return
        self._judged_answers = 0
        ratio = self._latency_s / max(min(self._floor_s, self._earlier_floor_s), 1e-9)
        if ratio > _QUEUED_RATIO:
            self._chunks = max(self._least, self._chunks * 7 // 8)
        elif ratio < _CALM_RATIO:
            self._chunks = min(self._most, self._chunks + max(1, self._chunks // 4))

    def refused(self) -> None:
        """A call was throttled: halve, once per window's worth of answers."""
        if self._judged_answers >= 0:
            self._chunks = max(self._least, self._chunks // 2)
            self._judged_answers = -self._chunks

    def _learn(self, latency_s: float) -> None:
        if self._latency_s == 0.0:
            self._latency_s = latency_s
        self._latency_s += (latency_s - self._latency_s) * _SMOOTHING
        self._floor_s = min(self._floor_s, latency_s)
        self._epoch_answers += 1
        if self._epoch_answers >= _EPOCH_ANSWERS:
            self._earlier_floor_s, self._floor_s = self._floor_s, float("inf")
            self._epoch_answers = 0
