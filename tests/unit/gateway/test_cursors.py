"""Cursors come back as they went out, or are refused: the database sees no other values."""

from __future__ import annotations

import base64
import datetime as dt
from typing import Any

import pytest

from services.gateway.cursors import POSITION_MAX, Sort, cursor, read_cursor
from services.gateway.problems import Invalid

AT = dt.datetime(2026, 11, 22, 20, 0, 0, 250_000, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("sort", "value"),
    [
        ("position", 0),
        ("position", POSITION_MAX),
        ("moment", AT),
        ("moment", AT.replace(microsecond=0)),
        ("name", "shop"),
    ],
)
def test_a_cursor_comes_back_as_it_went_out(sort: Sort, value: Any) -> None:
    assert read_cursor(cursor(value, "recovery:shop:r1"), sort) == (value, "recovery:shop:r1")


def packed(text: bytes) -> str:
    """Any bytes in the form of a cursor."""
    return base64.urlsafe_b64encode(text).decode()


@pytest.mark.parametrize("sort", ["position", "moment", "name"])
@pytest.mark.parametrize(
    "text",
    [
        "x", "====", "ü", "\ud800", packed(b"\xff"), packed(b"["), packed(b"{}"), packed(b"1"),
        packed(b"[1]"), packed(b'[1,"x",2]'), packed(b'{"a":1,"b":2}'), packed(b'"ab"'),
        packed(b'[1e30,"x"]'), packed(b'[1e400,"x"]'), packed(b'[1.5,"x"]'), packed(b'[-1,"x"]'),
        packed(b'[9223372036854775808,"x"]'), packed(b'[true,"x"]'), packed(b'[null,"x"]'),
        packed(b'[[],"x"]'), packed(b'["a\\u0000","x"]'), packed(b'["\\ud800","x"]'),
    ],
)  # fmt: skip
def test_what_was_never_a_cursor_is_refused(sort: Sort, text: str) -> None:
    with pytest.raises(Invalid) as refused:
        read_cursor(text, sort)
    assert refused.value.message.startswith("cursor: ") and refused.value.remedy


@pytest.mark.parametrize(
    ("sort", "text"),
    [
        ("position", b'["1","x"]'),
        ("position", b"[1,2]"),
        ("position", b'[1,"\\u0000"]'),
        ("moment", b'["0001-01-01T00:00:00+14:00","x"]'),
        ("moment", b'["9999-12-31T23:59:59-14:00","x"]'),
        ("moment", b'["2026-11-22T20:00:00","x"]'),
        ("name", b'["shop","a\\u0000"]'),
        ("name", b'[7,"shop"]'),
    ],
)
def test_a_value_that_no_row_can_have_is_refused(sort: Sort, text: bytes) -> None:
    with pytest.raises(Invalid):
        read_cursor(packed(text), sort)
