"""The time of day and the passage of time, as a port: real, or virtual for simulation.

Owns the two ways a process may ask for the time. Deciders never ask: time arrives in their
messages. Expiry of leases and timers is judged by the store's clock, not by this one.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from typing import Final, Protocol

EPOCH: Final = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
"""Where virtual time begins: fixed, so that one seed always gives the same history."""


class Clock(Protocol):
    """`now` is aware and may jump; `monotonic` counts seconds and never goes back."""

    def now(self) -> dt.datetime: ...

    def monotonic(self) -> float: ...


class SystemClock:
    """The machine's clock, in UTC."""

    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class LoopClock:
    """Virtual time: `epoch` plus the running event loop's own time.

    With a loop that jumps to its next timer, a day passes in milliseconds and every reading
    repeats exactly. Must be asked from inside a running loop.
    """

    def __init__(self, epoch: dt.datetime = EPOCH) -> None:
        self._epoch = epoch

    def now(self) -> dt.datetime:
        return self._epoch + dt.timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()
