"""How long people took: waits that overlap count once, one that is open counts up to now."""

from __future__ import annotations

import datetime as dt

from hypothesis import given
from hypothesis import strategies as st

from services.recovery.domain.waits import Waits
from shared.testing.spec import T0


def at(seconds: float) -> dt.datetime:
    return T0 + dt.timedelta(seconds=seconds)


def test_waits_that_overlap_count_once() -> None:
    waits = Waits().begun(at(0)).begun(at(10)).over(at(20)).over(at(30))
    assert (waits.open, waits.total_s) == (0, 30.0)


def test_waits_with_work_between_them_add_up() -> None:
    waits = Waits().begun(at(0)).over(at(5)).begun(at(100)).over(at(107))
    assert waits.total_s == 12.0


def test_an_open_wait_counts_up_to_the_moment_of_asking() -> None:
    waits = Waits().begun(at(0)).over(at(5)).begun(at(100))
    assert (waits.until(at(103)), waits.until(None)) == (8.0, 5.0)


def test_several_are_over_at_once() -> None:
    waits = Waits().begun(at(0)).begun(at(1)).over(at(9), count=2)
    assert waits == Waits(total_s=9.0)
    assert waits.over(at(20), count=0) == waits


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), max_size=8))
def test_the_sum_is_that_of_the_moments_at_which_anybody_was_waited_for(
    spans: list[tuple[int, int]],
) -> None:
    moments = [(start, +1) for start, _ in spans]
    moments += [(start + length, -1) for start, length in spans]
    waits = Waits()
    for moment, change in sorted(moments, key=lambda each: (each[0], -each[1])):
        waits = waits.begun(at(moment)) if change > 0 else waits.over(at(moment))
    seconds = {s for start, length in spans for s in range(start, start + length)}
    assert (waits.open, waits.total_s) == (0, float(len(seconds)))
