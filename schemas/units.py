"""Quantities as people write them: durations (`90s`, `4h`), sizes (`4GiB`), moments with a zone.

Owns the two-way translation between text and exact numbers (whole microseconds, whole bytes, UTC
datetimes). Does not know where a value stands in a document, nor which range a field allows.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from fractions import Fraction
from typing import Final
from zoneinfo import ZoneInfo

US_PER_S: Final = 1_000_000

DURATION_ALLOWED: Final = "a duration such as 300ms, 90s, 15m, 4h or 7d"
SIZE_ALLOWED: Final = "a size such as 500MB or 4GiB"
MOMENT_ALLOWED: Final = "a time with its zone such as 2026-11-22T20:00:00Z (years 1970 to 2999)"
TIME_OF_DAY_ALLOWED: Final = "a time of day such as 08:30"
TIME_ZONE_ALLOWED: Final = "a time zone name such as UTC or Asia/Kolkata"

_DURATION_UNITS_US: Final = {
    "ms": 1_000,
    "s": US_PER_S,
    "m": 60 * US_PER_S,
    "h": 3_600 * US_PER_S,
    "d": 86_400 * US_PER_S,
}
_SIZE_UNITS: Final = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
# Bounded digits keep the arithmetic small whatever a document holds.
_QUANTITY: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([A-Za-z]{1,3})")
_MOMENT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})"
)
_TIME_OF_DAY: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
_TIME_ZONE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}")


class UnitError(ValueError):
    """Text that is not the quantity expected; `found` and `allowed` are for people."""

    def __init__(self, found: str, allowed: str) -> None:
        super().__init__(f'found "{found}"; allowed: {allowed}')
        self.found = found
        self.allowed = allowed


def parse_duration_us(text: str) -> int:
    """Whole microseconds of `15m`, `1.5s`, `300ms`, `0`; raises `UnitError`.

    A number without a unit is refused, but for 0: nobody can tell seconds from minutes.
    """
    if text == "0":
        return 0
    return _quantity(text, _DURATION_UNITS_US, DURATION_ALLOWED)


def parse_duration_s(text: str) -> float:
    """Seconds of a duration, at microsecond precision; raises `UnitError`."""
    return parse_duration_us(text) / US_PER_S


def seconds_to_us(seconds: float) -> int:
    """Whole microseconds of seconds; exact for every value `parse_duration_s` returns."""
    return round(seconds * US_PER_S)


def format_duration(seconds: float) -> str:
    """The shortest exact way to write a duration: 5400 → `90m`, 1.5 → `1.5s`, 0.3 → `300ms`."""
    us = seconds_to_us(seconds)
    if us < 0:
        return "-" + format_duration(-seconds)
    for unit in ("d", "h", "m", "s"):
        if us and us % _DURATION_UNITS_US[unit] == 0:
            return f"{us // _DURATION_UNITS_US[unit]}{unit}"
    if us == 0:
        return "0s"
    unit = "s" if us >= US_PER_S else "ms"
    whole, part = divmod(us, _DURATION_UNITS_US[unit])
    digits = len(str(_DURATION_UNITS_US[unit])) - 1
    return f"{whole}.{part:0{digits}d}".rstrip("0").rstrip(".") + unit


def parse_size(text: str) -> int:
    """Whole bytes of `500MB` (decimal) or `4GiB` (binary); raises `UnitError`."""
    return _quantity(text, _SIZE_UNITS, SIZE_ALLOWED)


def format_size(size: int) -> str:
    """Bytes exactly where a unit divides them (`4GiB`, `500MB`), else to one decimal."""
    for unit in ("TiB", "GiB", "MiB", "KiB", "TB", "GB", "MB"):
        if size and size % _SIZE_UNITS[unit] == 0:
            return f"{size // _SIZE_UNITS[unit]}{unit}"
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size >= _SIZE_UNITS[unit]:
            return f"{size / _SIZE_UNITS[unit]:.1f}{unit}"
    return f"{size}B"


def parse_moment(text: str) -> datetime:
    """A UTC datetime from ISO 8601 text that names its zone; raises `UnitError`."""
    if not _MOMENT.fullmatch(text):
        raise UnitError(text, MOMENT_ALLOWED)
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UnitError(text, MOMENT_ALLOWED) from error
    if not 1970 <= moment.year <= 2999:
        raise UnitError(text, MOMENT_ALLOWED)
    return moment


def format_moment(moment: datetime) -> str:
    """ISO 8601 in UTC with `Z`; `moment` must be aware."""
    assert moment.tzinfo is not None
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parse_time_of_day(text: str) -> int:
    """Minutes after local midnight of `08:30`; raises `UnitError`."""
    match = _TIME_OF_DAY.fullmatch(text)
    if match is None:
        raise UnitError(text, TIME_OF_DAY_ALLOWED)
    return int(match[1]) * 60 + int(match[2])


def time_zone(name: str) -> ZoneInfo:
    """The zone of an IANA name; raises `UnitError`. The zone tables count as data, not as I/O."""
    if not _TIME_ZONE.fullmatch(name):
        raise UnitError(name, TIME_ZONE_ALLOWED)
    try:
        return ZoneInfo(name)
    # OSError: a folder of zones (`Asia`) is found but cannot be read as one.
    except (KeyError, ValueError, OSError) as error:
        raise UnitError(name, TIME_ZONE_ALLOWED) from error


def _quantity(text: str, units: dict[str, int], allowed: str) -> int:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in units:
        raise UnitError(text, allowed)
    exact = Fraction(match[1]) * units[match[2]]
    if exact.denominator != 1:
        raise UnitError(text, allowed)
    return int(exact)


def some_of(names: Sequence[str], count_max: int) -> str:
    """Names in a line for people, the first `count_max`, and how many more there are."""
    more = f" and {len(names) - count_max} more" if len(names) > count_max else ""
    return ", ".join(names[:count_max]) + more
