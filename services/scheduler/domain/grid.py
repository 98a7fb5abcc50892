"""When replication is due: the tick grid, the overrun rule, the missed-tick rule.

Pure arithmetic over whole microseconds, so that tick number one million is as exact as the first.
Decides what one VM (or one synchronized group) should do at a moment; does not know holds, budgets
or who runs it.
"""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from schemas.plans import Blackout, ReplicationPolicy
from schemas.units import seconds_to_us
from services.scheduler.domain.blackouts import blackout_end, in_blackout

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)
# Ticks inside a blackout are no misses. Looking at each is bounded: after a stop longer than this
# many ticks the older ones all count as missed.
_EXAMINED_COUNT_MAX: Final = 1_000


class Grid(msgspec.Struct, frozen=True, kw_only=True):
    """Ticks at exactly `start_us + n * interval_us`, n = 0, 1, …, in microseconds since 1970."""

    start_us: int
    interval_us: int


class VmClock(msgspec.Struct, frozen=True, kw_only=True):
    """What scheduling remembers of one VM or group.

    `cursor`: every tick up to here is accounted for; at first the moment of being switched on.
    `queued`: the one tick that fell due while an iteration ran.
    """

    cursor: datetime
    running: bool = False
    queued: datetime | None = None


class Advance(msgspec.Struct, frozen=True, kw_only=True):
    """What to do at `now`, and what to remember.

    `start`: the tick whose iteration starts now, if any; `clock` already counts it as running.
    `catch_up`: that tick was not started at its own time; report it. `missed_count`: ticks that
    will never have a run of their own. `exceeded`: an iteration outlasts its interval.
    `wake_at`: look again then, or when the running iteration ends.
    """

    clock: VmClock
    wake_at: datetime
    start: datetime | None = None
    catch_up: bool = False
    missed_count: int = 0
    exceeded: bool = False


def grid_for(policy: ReplicationPolicy, *, vm: str = "") -> Grid:
    """The grid of a plan, or with `vm` that VM's own one, staggered where the plan spreads."""
    offset_us = spread_offset_us(vm, policy.spread_s) if vm else 0
    return Grid(
        start_us=to_us(policy.start_at) + offset_us, interval_us=seconds_to_us(policy.interval_s)
    )


def spread_offset_us(vm: str, spread_s: float) -> int:
    """A VM's place in [0, spread): a stable hash of its name, the same in every process."""
    spread_us = seconds_to_us(spread_s)
    if spread_us <= 0:
        return 0
    digest = hashlib.sha256(vm.encode()).digest()
    return int.from_bytes(digest[:8], "big") % spread_us


def next_tick(grid: Grid, after: datetime) -> datetime:
    """The first tick strictly after a moment."""
    elapsed = to_us(after) - grid.start_us
    number = 0 if elapsed < 0 else elapsed // grid.interval_us + 1
    return from_us(grid.start_us + number * grid.interval_us)


def last_tick(grid: Grid, at: datetime) -> datetime | None:
    """The last tick at or before a moment; None before the first."""
    elapsed = to_us(at) - grid.start_us
    if elapsed < 0:
        return None
    return from_us(grid.start_us + elapsed // grid.interval_us * grid.interval_us)


def due_count(grid: Grid, *, after: datetime, until: datetime) -> int:
    """How many ticks lie in (after, until]."""
    if until <= after:
        return 0
    return _passed(grid, until) - _passed(grid, after)


def advance(
    grid: Grid,
    clock: VmClock,
    *,
    now: datetime,
    blackouts: tuple[Blackout, ...] = (),
    late_s: float = 60.0,
) -> Advance:
    """Account for every tick up to `now`: at most one starts, at most one is queued.

    A tick started more than `late_s` after its time counts as caught up. Calling it again at the
    same moment with the clock it gave changes nothing.
    """
    count = due_count(grid, after=clock.cursor, until=now)
    cursor = max(clock.cursor, now)
    if clock.running:
        return _while_running(grid, clock, count=count, cursor=cursor, now=now)
    if in_blackout(blackouts, now):
        # The cursor stays: what falls due inside runs once when the window ends.
        pending = clock.queued is not None or count > 0
        end = blackout_end(blackouts, now)
        wake_at = end if pending else max(end, next_tick(grid, now))
        return Advance(clock=clock, wake_at=wake_at)
    wake_at = next_tick(grid, cursor)
    tick = clock.queued if clock.queued is not None else last_tick(grid, now)
    if tick is None or (clock.queued is None and count == 0):
        idle = VmClock(cursor=cursor, running=False, queued=None)
        return Advance(clock=idle, wake_at=wake_at)
    own = 0 if clock.queued is not None else 1
    missed = _missed(grid, clock.cursor, now=now, due=count, last_runs=own, blackouts=blackouts)
    # A queued tick is late by the overrun rule and one in a blackout by the operator's wish; both
    # are said elsewhere and are no missed schedule.
    excused = clock.queued is not None or in_blackout(blackouts, tick)
    late = not excused and now - tick > timedelta(seconds=late_s)
    return Advance(
        clock=VmClock(cursor=cursor, running=True, queued=None),
        wake_at=wake_at,
        start=tick,
        catch_up=late,
        missed_count=missed,
    )


def ended(clock: VmClock) -> VmClock:
    """The clock after its iteration ended; `advance` then starts what was queued."""
    return msgspec.structs.replace(clock, running=False)


def to_us(moment: datetime) -> int:
    """Whole microseconds since 1970; `moment` must be aware."""
    return (moment - EPOCH) // _US


def from_us(us: int) -> datetime:
    """The UTC moment of whole microseconds since 1970."""
    return EPOCH + us * _US


def _while_running(
    grid: Grid, clock: VmClock, *, count: int, cursor: datetime, now: datetime
) -> Advance:
    queued = clock.queued
    missed = count
    if queued is None and count > 0:
        queued = next_tick(grid, clock.cursor)
        missed = count - 1
    return Advance(
        clock=VmClock(cursor=cursor, running=True, queued=queued),
        wake_at=next_tick(grid, cursor),
        missed_count=missed,
        exceeded=queued is not None,
    )


def _missed(
    grid: Grid,
    cursor: datetime,
    *,
    now: datetime,
    due: int,
    last_runs: int,
    blackouts: tuple[Blackout, ...],
) -> int:
    """Ticks in (cursor, now] without a run, those that a blackout held back left out."""
    missed = due - last_runs
    last = last_tick(grid, now)
    if missed <= 0 or last is None or not blackouts:
        return max(missed, 0)
    last_us = to_us(last)
    examined = range(last_runs, min(due, _EXAMINED_COUNT_MAX))
    held_back = sum(
        in_blackout(blackouts, from_us(last_us - number * grid.interval_us)) for number in examined
    )
    return missed - held_back


def _passed(grid: Grid, at: datetime) -> int:
    """How many ticks lie at or before a moment."""
    elapsed = to_us(at) - grid.start_us
    return 0 if elapsed < 0 else elapsed // grid.interval_us + 1
