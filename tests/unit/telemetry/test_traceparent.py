"""A caller's traceparent counts only where it is one."""

from __future__ import annotations

import pytest

from shared.telemetry.traceparent import accepted, parse, trace_id_of, written

TRACE = "0af7651916cd43dd8448eb211c80319c"
GOOD = f"00-{TRACE}-b7ad6b7169203331-01"


def test_what_is_one_is_taken_as_it_stands() -> None:
    assert accepted(GOOD) == GOOD
    assert trace_id_of(GOOD) == TRACE
    place = parse(GOOD)
    assert place is not None and written(place) == GOOD


def test_a_later_version_is_read_as_the_one_we_know() -> None:
    assert accepted(f"01-{TRACE}-b7ad6b7169203331-03-more") == f"00-{TRACE}-b7ad6b7169203331-03"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        GOOD.upper(),
        f"ff-{TRACE}-b7ad6b7169203331-01",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{GOOD}-more",
        f"{GOOD}\nx",
        GOOD.replace("01", "٠١"),
    ],
)
def test_what_is_none_is_left_out(text: str) -> None:
    assert accepted(text) == ""
