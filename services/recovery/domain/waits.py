"""How long a job waited for people: paused, or asked and not answered.

Pure arithmetic. Waits that overlap count once: an hour in which two questions were open is an
hour. What opens and closes a wait is the states' that keep one.
"""

from __future__ import annotations

import datetime as dt

import msgspec


class Waits(msgspec.Struct, frozen=True, kw_only=True):
    """`open` waits since `since`, and `total_s` of those that are over."""

    open: int = 0
    since: dt.datetime | None = None
    total_s: float = 0.0

    def begun(self, at: dt.datetime) -> Waits:
        """One more wait began."""
        since = at if self.since is None else self.since
        return msgspec.structs.replace(self, open=self.open + 1, since=since)

    def over(self, at: dt.datetime | None, *, count: int = 1) -> Waits:
        """So many waits are over; without a moment the rest of them is not counted."""
        left = self.open - count
        assert left >= 0, "a wait that is over has begun"
        if not count or left:
            return msgspec.structs.replace(self, open=left)
        return Waits(total_s=self.until(at))

    def until(self, at: dt.datetime | None) -> float:
        """Seconds waited in all up to a moment."""
        if self.since is None or at is None:
            return self.total_s
        return self.total_s + max((at - self.since).total_seconds(), 0.0)
