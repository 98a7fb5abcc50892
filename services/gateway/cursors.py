"""Cursors of listings: where the next page begins, as one text that callers send back as it came.

A cursor is the sort value and the id of the last row. What comes back may be anything: only
values that a row can have are read out of it, so that the database is never asked with others.
"""

from __future__ import annotations

import base64
import datetime as dt
from typing import Any, Final, Literal

import orjson

from schemas import units
from services.gateway.parameters import is_plain
from services.gateway.problems import Invalid

Sort = Literal["position", "moment", "name"]
"""What a listing is sorted by: positions of events, moments with their zone, or names."""

POSITION_MAX: Final = 2**63 - 1
"""What the database keeps a position in."""


def cursor(sort: Any, identity: str) -> str:
    """The cursor of the page after the row with this sort value and id."""
    value = sort.isoformat() if isinstance(sort, dt.datetime) else sort
    return base64.urlsafe_b64encode(orjson.dumps([value, identity])).decode()


def read_cursor(text: str, sort: Sort) -> tuple[Any, str]:
    """The sort value and id that `cursor` wrote. Raises Invalid for what it never writes."""
    try:
        pair = orjson.loads(base64.urlsafe_b64decode(text.encode()))
        if not isinstance(pair, list):
            raise ValueError("no pair")
        value, identity = pair
        return _READ[sort](value), _name(identity)
    except (ValueError, TypeError) as error:
        raise Invalid(
            f"cursor: found {text[:40]!r}", remedy="send `next` of the page before as it came"
        ) from error


def _position(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= POSITION_MAX:
        raise ValueError("no position")
    return value


def _moment(value: Any) -> dt.datetime:
    return units.parse_moment(value)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not is_plain(value):
        raise ValueError("no name")
    return value


_READ: Final = {"position": _position, "moment": _moment, "name": _name}
