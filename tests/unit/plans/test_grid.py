"""The tick grid, overrun, missed ticks."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from schemas.plans import DailyBlackout, OnceBlackout, ReplicationPolicy
from services.scheduler.domain.grid import (
    Advance,
    Grid,
    VmClock,
    advance,
    due_count,
    ended,
    from_us,
    grid_for,
    last_tick,
    next_tick,
    spread_offset_us,
    to_us,
)

START = datetime(2026, 11, 22, 20, tzinfo=UTC)
QUARTER = grid_for(ReplicationPolicy(interval_s=900.0, start_at=START))

MOMENTS = st.integers(min_value=0, max_value=2 * 10**16).map(from_us)
GRIDS = st.builds(
    Grid,
    start_us=st.integers(min_value=0, max_value=10**16),
    interval_us=st.integers(min_value=1, max_value=30 * 86_400 * 10**6),
)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def clock(minutes: float, *, running: bool = False, queued: float | None = None) -> VmClock:
    tick = None if queued is None else at(queued)
    return VmClock(cursor=at(minutes), running=running, queued=tick)


@given(MOMENTS)
def test_moments_and_microseconds_convert_exactly(moment: datetime) -> None:
    assert from_us(to_us(moment)) == moment


@given(GRIDS, MOMENTS)
def test_the_next_tick_is_on_the_grid_and_the_first_after(grid: Grid, moment: datetime) -> None:
    tick = to_us(next_tick(grid, moment))
    assert (tick - grid.start_us) % grid.interval_us == 0
    assert tick >= grid.start_us
    assert tick > to_us(moment)
    assert tick == grid.start_us or tick - grid.interval_us <= to_us(moment)


@given(GRIDS, MOMENTS)
def test_the_last_tick_is_the_one_before_the_next(grid: Grid, moment: datetime) -> None:
    last = last_tick(grid, moment)
    if last is None:
        assert next_tick(grid, moment) == from_us(grid.start_us)
    else:
        assert last <= moment
        assert next_tick(grid, last) == next_tick(grid, moment)


@given(GRIDS, MOMENTS, st.integers(min_value=0, max_value=60))
def test_due_ticks_are_counted_as_walking_them_would(
    grid: Grid, after: datetime, steps: int
) -> None:
    tick = after
    for _ in range(steps):
        tick = next_tick(grid, tick)
    assert due_count(grid, after=after, until=tick) == steps


def test_a_million_ticks_later_the_grid_has_not_drifted() -> None:
    third = grid_for(ReplicationPolicy(interval_s=66.6, start_at=START))
    tick = next_tick(third, START + timedelta(seconds=66.6) * 1_000_000)
    assert tick - START == timedelta(microseconds=66_600_000) * 1_000_001


def test_the_first_tick_is_the_start_itself() -> None:
    assert next_tick(QUARTER, at(-100_000)) == START


@given(st.text(), st.floats(min_value=0.001, max_value=86_400))
def test_spread_keeps_a_vm_in_its_place_within_the_bound(vm: str, spread_s: float) -> None:
    offset = spread_offset_us(vm, spread_s)
    assert 0 <= offset < max(1, round(spread_s * 10**6))
    assert offset == spread_offset_us(vm, spread_s)


def test_spread_staggers_vms_and_survives_a_rebuild() -> None:
    policy = ReplicationPolicy(interval_s=900.0, start_at=START, spread_s=450.0)
    offsets = {spread_offset_us(f"vm{number}", 450.0) for number in range(100)}
    assert len(offsets) == 100
    # The literal pins the hash: another one would move every VM at an upgrade.
    assert spread_offset_us("db", 450.0) == 436_656_388
    assert next_tick(grid_for(policy, vm="db"), START) == from_us(to_us(START) + 436_656_388)
    assert grid_for(policy) == QUARTER


def test_before_a_tick_nothing_happens() -> None:
    step = advance(QUARTER, clock(1), now=at(14.9))
    assert step == Advance(clock=clock(14.9), wake_at=at(15))


def test_a_tick_starts_at_its_time() -> None:
    step = advance(QUARTER, clock(1), now=at(15))
    assert step.start == at(15)
    assert not step.catch_up
    assert step.missed_count == 0
    assert step.clock.running
    assert step.wake_at == at(30)


def test_a_vm_added_on_a_tick_starts_at_the_next_one() -> None:
    assert advance(QUARTER, clock(15), now=at(15)).start is None


def test_after_a_long_stop_one_run_catches_up_and_the_rest_are_missed() -> None:
    step = advance(QUARTER, clock(1), now=at(100))
    assert step.start == at(90)
    assert step.catch_up
    assert step.missed_count == 5
    assert step.wake_at == at(105)


def test_an_overrun_queues_one_tick_and_misses_the_others() -> None:
    first = advance(QUARTER, clock(0, running=True), now=at(15))
    assert first.start is None
    assert first.exceeded
    assert first.clock.queued == at(15)
    assert first.missed_count == 0
    second = advance(QUARTER, first.clock, now=at(46))
    assert second.clock.queued == at(15)
    assert second.missed_count == 2
    after = advance(QUARTER, ended(second.clock), now=at(50))
    assert after.start == at(15)
    assert not after.catch_up
    assert after.missed_count == 0
    assert after.wake_at == at(60)


def test_a_tick_due_when_a_queued_one_starts_has_no_run_of_its_own() -> None:
    step = advance(QUARTER, clock(16, queued=15), now=at(31))
    assert step.start == at(15)
    assert step.missed_count == 1
    assert step.clock.queued is None


def test_a_blackout_holds_back_and_one_run_follows_it_without_a_miss() -> None:
    window = (OnceBlackout(starts_at=at(10), ends_at=at(70)),)
    inside = advance(QUARTER, clock(1), now=at(61), blackouts=window)
    assert inside.start is None
    assert inside.wake_at == at(70)
    after = advance(QUARTER, inside.clock, now=at(70), blackouts=window)
    assert after.start == at(60)
    assert not after.catch_up
    assert after.missed_count == 0
    assert after.wake_at == at(75)


def test_a_blackout_excuses_only_the_ticks_inside_it() -> None:
    window = (OnceBlackout(starts_at=at(40), ends_at=at(70)),)
    step = advance(QUARTER, clock(1), now=at(70), blackouts=window)
    assert step.start == at(60)
    assert step.missed_count == 2


def test_a_blackout_without_a_tick_starts_nothing_at_its_end() -> None:
    window = (OnceBlackout(starts_at=at(1), ends_at=at(10)),)
    inside = advance(QUARTER, clock(0), now=at(5), blackouts=window)
    assert inside.wake_at == at(15)
    assert advance(QUARTER, inside.clock, now=at(10), blackouts=window).start is None


WAITS = st.lists(st.tuples(st.integers(min_value=0, max_value=5_000), st.booleans()), max_size=40)


@given(WAITS)
def test_every_tick_is_run_queued_or_missed_exactly_once(
    waits: list[tuple[int, bool]],
) -> None:
    state, now, started, missed = clock(-1), at(-1), list[datetime](), 0
    for seconds, ends in waits:
        now += timedelta(seconds=seconds)
        if ends:
            state = ended(state)
        step = advance(QUARTER, state, now=now)
        again = advance(QUARTER, step.clock, now=now)
        assert (again.start, again.missed_count, again.clock) == (None, 0, step.clock)
        state = step.clock
        missed += step.missed_count
        started += [] if step.start is None else [step.start]
        assert step.wake_at > now
    waiting = 0 if state.queued is None else 1
    assert len(started) == len(set(started))
    assert started == sorted(started)
    assert due_count(QUARTER, after=at(-1), until=now) == len(started) + missed + waiting


DAILY = st.builds(
    DailyBlackout,
    from_minute=st.integers(min_value=0, max_value=719),
    to_minute=st.integers(min_value=720, max_value=1_439),
    days=st.sets(st.integers(min_value=0, max_value=6), min_size=1).map(
        lambda days: tuple(sorted(days))
    ),
    time_zone=st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata"]),
)


@given(DAILY, st.integers(min_value=0, max_value=10_000))
def test_waking_when_told_never_skips_the_run_after_a_blackout(
    window: DailyBlackout, minutes: int
) -> None:
    state, now = VmClock(cursor=at(minutes)), at(minutes)
    for _ in range(200):
        step = advance(QUARTER, state, now=now, blackouts=(window,))
        if step.start is not None:
            assert step.missed_count == 0
            assert not step.catch_up
            return
        assert step.wake_at > now
        state, now = step.clock, step.wake_at
    raise AssertionError("never started")
