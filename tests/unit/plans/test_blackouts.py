"""Blackout windows, clocks that change included."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from schemas.plans import Blackout, DailyBlackout, OnceBlackout
from services.scheduler.domain.blackouts import blackout_end, in_blackout


def utc(day: int, hour: int, minute: int = 0, *, month: int = 11) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


NIGHT = DailyBlackout(from_minute=22 * 60, to_minute=6 * 60, days=(4,))  # Friday evening
OFFICE = DailyBlackout(from_minute=9 * 60, to_minute=17 * 60, time_zone="Asia/Kolkata")


def test_a_window_includes_its_start_and_not_its_end() -> None:
    window = (OFFICE,)
    assert not in_blackout(window, utc(23, 3, 29))
    assert in_blackout(window, utc(23, 3, 30))
    assert in_blackout(window, utc(23, 11, 29))
    assert not in_blackout(window, utc(23, 11, 30))


def test_a_window_past_midnight_belongs_to_the_day_it_starts() -> None:
    assert in_blackout((NIGHT,), utc(27, 23))
    assert in_blackout((NIGHT,), utc(28, 5, 59))
    assert not in_blackout((NIGHT,), utc(28, 23))
    assert not in_blackout((NIGHT,), utc(27, 5))


def test_windows_that_follow_each_other_end_together() -> None:
    windows: tuple[Blackout, ...] = (
        NIGHT,
        OnceBlackout(starts_at=utc(28, 6), ends_at=utc(28, 9)),
        DailyBlackout(from_minute=8 * 60, to_minute=10 * 60),
    )
    assert blackout_end(windows, utc(27, 22)) == utc(28, 10)
    assert blackout_end(windows, utc(28, 10)) == utc(28, 10)


def test_a_plan_that_never_comes_out_gets_an_answer_all_the_same() -> None:
    always = (
        DailyBlackout(from_minute=0, to_minute=720),
        DailyBlackout(from_minute=720, to_minute=0),
    )
    assert blackout_end(always, utc(1, 0)) > utc(1, 0) + timedelta(days=365)


def test_the_window_keeps_local_time_when_clocks_change() -> None:
    berlin = (DailyBlackout(from_minute=60, to_minute=4 * 60, time_zone="Europe/Berlin"),)
    # 29 March 2026: 02:00 becomes 03:00, so 01:00 to 04:00 is two hours long.
    assert blackout_end(berlin, utc(29, 0, month=3)) == utc(29, 2, month=3)
    # 25 October 2026: 03:00 becomes 02:00 again, so it is four hours long.
    assert in_blackout(berlin, utc(24, 23, month=10))
    assert blackout_end(berlin, utc(24, 23, month=10)) == utc(25, 3, month=10)


MINUTES = st.integers(min_value=0, max_value=1_439)


@given(
    MINUTES,
    MINUTES,
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    st.integers(min_value=0, max_value=527_040),
)
def test_the_end_is_outside_and_everything_before_it_inside(
    start: int, end: int, zone: str, minute: int
) -> None:
    if start == end:
        return
    windows = (DailyBlackout(from_minute=start, to_minute=end, days=(0, 2, 4), time_zone=zone),)
    moment = utc(1, 0, month=1) + timedelta(minutes=minute)
    over = blackout_end(windows, moment)
    assert not in_blackout(windows, over)
    assert (over == moment) is (not in_blackout(windows, moment))
    if over > moment:
        assert in_blackout(windows, over - timedelta(microseconds=1))
