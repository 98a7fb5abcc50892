"""Quantities as people write them, there and back."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import units


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("90s", 90_000_000),
        ("15m", 900_000_000),
        ("4h", 14_400_000_000),
        ("7d", 604_800_000_000),
        ("1.5s", 1_500_000),
        ("300ms", 300_000),
        ("0", 0),
        ("0.1s", 100_000),
    ],
)
def test_durations_read_exactly(text: str, us: int) -> None:
    assert units.parse_duration_us(text) == us


@pytest.mark.parametrize(
    "text", ["", "15", "15 min", "m", "-5m", "1e3s", "15m ", "15m\n", "٣s", "1.0000001s", "1h30m"]
)
def test_other_durations_are_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(units.UnitError) as caught:
        units.parse_duration_us(text)
    assert caught.value.found == text
    assert "15m" in caught.value.allowed


@given(st.integers(min_value=0, max_value=30 * 86_400 * units.US_PER_S))
def test_a_written_duration_reads_back_to_the_microsecond(us: int) -> None:
    text = units.format_duration(us / units.US_PER_S)
    assert units.parse_duration_us(text) == us
    assert units.seconds_to_us(units.parse_duration_s(text)) == us


@pytest.mark.parametrize(
    ("text", "size"),
    [("500MB", 500_000_000), ("4GiB", 4 << 30), ("1.5KiB", 1536), ("7B", 7), ("2TB", 2 * 10**12)],
)
def test_sizes_know_decimal_from_binary(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", ["4", "4G", "4gib", "0.3B", "GiB"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(units.UnitError):
        units.parse_size(text)


@given(st.integers(min_value=0, max_value=4096), st.sampled_from(["KiB", "MiB", "GiB", "MB"]))
def test_a_written_size_of_whole_units_reads_back(count: int, unit: str) -> None:
    size = units.parse_size(f"{count}{unit}")
    assert units.parse_size(units.format_size(size)) == size


def test_moments_come_out_in_utc() -> None:
    moment = units.parse_moment("2026-11-23T01:30:00+05:30")
    assert moment == datetime(2026, 11, 22, 20, tzinfo=UTC)
    assert moment.tzinfo is UTC
    assert units.format_moment(moment) == "2026-11-22T20:00:00Z"


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-22T20:00:00",
        "2026-11-22",
        "2026-13-22T20:00:00Z",
        "20:00",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "tomorrow",
    ],
)
def test_moments_without_a_zone_or_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(units.UnitError):
        units.parse_moment(text)


@pytest.mark.parametrize(
    "name", ["Asia/Nowhere", "../../etc/passwd", "Asia", "", "/etc/localtime"]
)
def test_time_zones_that_do_not_exist_are_refused(name: str) -> None:
    with pytest.raises(units.UnitError):
        units.time_zone(name)


def test_times_of_day_read_as_minutes() -> None:
    assert units.parse_time_of_day("08:30") == 510
    for text in ("24:00", "8:30", "08:60"):
        with pytest.raises(units.UnitError):
            units.parse_time_of_day(text)
