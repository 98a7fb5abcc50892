"""Rules for single document values, to be used with `schemas.documents`.

Each function returns a rule: a callable that takes the raw value and gives the typed one, or
raises `Mismatch` saying what is allowed. Rules never coerce: "3" is not 3 and 1 is not true.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final, TypeVar

from schemas import units
from schemas.documents import Mismatch, Rule, did_you_mean

Word = TypeVar("Word", bound=str)

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
NAME_ALLOWED: Final = (
    "a name of 1 to 63 letters, digits, dots, hyphens and underscores, a letter or digit first"
)
_TEXT_CHARS_MAX: Final = 1_000


def text(*, allowed: str = "text", chars_max: int = _TEXT_CHARS_MAX) -> Rule[str]:
    """Text that is not empty, without control characters, of at most `chars_max` characters."""

    def rule(value: object) -> str:
        if not isinstance(value, str) or not value.strip():
            raise Mismatch(allowed)
        if len(value) > chars_max:
            raise Mismatch(f"{allowed} of at most {chars_max} characters")
        if any(ord(char) < 32 or ord(char) == 127 for char in value) or not _encodes(value):
            raise Mismatch(f"{allowed} without control characters")
        return value

    return rule


def is_name(value: str) -> bool:
    """Whether a site, plan or VM may have the name."""
    return _NAME.fullmatch(value) is not None


def name(*, allowed: str = NAME_ALLOWED) -> Rule[str]:
    """A name as sites, plans, VMs and disks have."""

    def rule(value: object) -> str:
        if isinstance(value, str) and is_name(value):
            return value
        quotes = "put it in quotes" if isinstance(value, int | float) else ""
        raise Mismatch(allowed, message=quotes)

    return rule


def one_of(options: Sequence[Word]) -> Rule[Word]:
    """One of a few words."""
    allowed = ", ".join(options)

    def rule(value: object) -> Word:
        for option in options:
            if option == value:
                return option
        help_text = did_you_mean(value, options) if isinstance(value, str) else ""
        raise Mismatch(allowed, message=help_text)

    return rule


def flag() -> Rule[bool]:
    """true or false."""

    def rule(value: object) -> bool:
        if isinstance(value, bool):
            return value
        raise Mismatch("true or false")

    return rule


def whole(*, minimum: int, maximum: int) -> Rule[int]:
    """A whole number within bounds, both included."""
    allowed = f"a whole number from {minimum} to {maximum}"

    def rule(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Mismatch(allowed)
        if not minimum <= value <= maximum:
            raise Mismatch(allowed)
        return value

    return rule


def number(*, minimum: float, maximum: float) -> Rule[float]:
    """A number within bounds, both included."""
    allowed = f"a number from {minimum:g} to {maximum:g}"

    def rule(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Mismatch(allowed)
        if not minimum <= value <= maximum:  # also false for NaN
            raise Mismatch(allowed)
        return float(value)

    return rule


def duration(*, min_s: float = 0.0, max_s: float) -> Rule[float]:
    """A duration in seconds within bounds, both included; written with its unit."""
    bounds = f"from {units.format_duration(min_s)} to {units.format_duration(max_s)}"
    allowed = f"{units.DURATION_ALLOWED}, {bounds}"

    def rule(value: object) -> float:
        if type(value) is int and value == 0:  # nothing needs no unit
            value = "0"
        if not isinstance(value, str):
            raise Mismatch(allowed)
        try:
            seconds = units.parse_duration_s(value)
        except units.UnitError as error:
            raise Mismatch(allowed) from error
        if not min_s <= seconds <= max_s:
            raise Mismatch(allowed)
        return seconds

    return rule


def size(*, minimum: int = 0, maximum: int = 2**60) -> Rule[int]:
    """A size in bytes within bounds, both included; written with its unit."""
    bounds = f"from {units.format_size(minimum)} to {units.format_size(maximum)}"
    allowed = f"{units.SIZE_ALLOWED}, {bounds}"

    def rule(value: object) -> int:
        if not isinstance(value, str):
            raise Mismatch(allowed)
        try:
            size_bytes = units.parse_size(value)
        except units.UnitError as error:
            raise Mismatch(allowed) from error
        if not minimum <= size_bytes <= maximum:
            raise Mismatch(allowed)
        return size_bytes

    return rule


def moment() -> Rule[datetime]:
    """A moment with its zone, given back in UTC."""

    def rule(value: object) -> datetime:
        if not isinstance(value, str):
            raise Mismatch(units.MOMENT_ALLOWED)
        try:
            return units.parse_moment(value)
        except units.UnitError as error:
            raise Mismatch(units.MOMENT_ALLOWED) from error

    return rule


def time_of_day() -> Rule[int]:
    """A local time of day, given back as minutes after midnight."""

    def rule(value: object) -> int:
        if not isinstance(value, str):
            raise Mismatch(units.TIME_OF_DAY_ALLOWED)
        try:
            return units.parse_time_of_day(value)
        except units.UnitError as error:
            raise Mismatch(units.TIME_OF_DAY_ALLOWED) from error

    return rule


def zone() -> Rule[str]:
    """The name of a time zone that exists."""

    def rule(value: object) -> str:
        if not isinstance(value, str):
            raise Mismatch(units.TIME_ZONE_ALLOWED)
        try:
            units.time_zone(value)
        except units.UnitError as error:
            raise Mismatch(units.TIME_ZONE_ALLOWED) from error
        return value

    return rule


def _encodes(value: str) -> bool:
    """Whether the text is valid Unicode: JSON can smuggle in half a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
