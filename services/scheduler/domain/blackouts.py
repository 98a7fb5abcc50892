"""Blackout windows: is a moment inside one, and when does the plan come out again.

Owns calendar arithmetic of windows, daylight saving included. What a blackout means for a tick is
`grid`'s rule.
"""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from schemas.plans import Blackout, OnceBlackout
from schemas.units import time_zone

# More than a year of back-to-back daily windows; a plan that never comes out looks again then.
_CHAINED_COUNT_MAX: Final = 800


def in_blackout(windows: Iterable[Blackout], at: datetime) -> bool:
    """Whether a moment lies in a window; starts are inside, ends are not."""
    return any(_end_if_inside(window, at) is not None for window in windows)


def blackout_end(windows: Iterable[Blackout], at: datetime) -> datetime:
    """The first moment from `at` on (UTC) that lies in no window; `at` itself where outside.

    Windows that follow each other without a gap count as one. Where they never leave a gap the
    moment given back is more than a year on and still inside.
    """
    listed = tuple(windows)
    moment = at.astimezone(UTC)
    for _ in range(_CHAINED_COUNT_MAX):
        ends = [end for window in listed if (end := _end_if_inside(window, moment)) is not None]
        if not ends:
            break
        moment = max(ends)
    return moment


def _end_if_inside(window: Blackout, at: datetime) -> datetime | None:
    if isinstance(window, OnceBlackout):
        inside = window.starts_at <= at < window.ends_at
        return window.ends_at.astimezone(UTC) if inside else None
    zone = time_zone(window.time_zone)
    today = at.astimezone(zone).date()
    # A window that wraps past midnight may have begun yesterday.
    for day in (today, today - timedelta(days=1)):
        if day.weekday() not in window.days:
            continue
        wraps = window.to_minute < window.from_minute
        starts = _moment(day, window.from_minute, window.time_zone)
        last_day = day + timedelta(days=1) if wraps else day
        ends = _moment(last_day, window.to_minute, window.time_zone)
        if starts <= at < ends:
            return ends
    return None


def _moment(day: date, minute: int, zone_name: str) -> datetime:
    """A local time of day in UTC. One that daylight saving skips falls after the gap."""
    local = datetime.combine(day, time(minute // 60, minute % 60), tzinfo=time_zone(zone_name))
    return local.astimezone(UTC)
