"""The window follows what the target shows, within its bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.replicator.transfer.window import Window


def window(*, start: int = 32) -> Window:
    return Window(start=start, least=16, most=64)


def write(window: Window, latency_s: float, *, times: int) -> None:
    for _ in range(times):
        window.answered(latency_s)


def test_steady_latency_opens_the_window_to_its_bound() -> None:
    opened = window()
    write(opened, 0.030, times=1_000)
    assert opened.chunks == 64


def test_latency_far_above_its_floor_closes_the_window_to_its_bound() -> None:
    closed = window()
    write(closed, 0.010, times=8)
    write(closed, 0.080, times=400)
    assert closed.chunks == 16


def test_latency_moderately_above_its_floor_leaves_the_window_alone() -> None:
    kept = window()
    write(kept, 0.010, times=1)
    write(kept, 0.020, times=400)
    assert kept.chunks == 32


def test_a_refusal_halves_the_window_at_once() -> None:
    halved = window(start=64)
    halved.refused()
    assert halved.chunks == 32


def test_refusals_of_calls_that_were_in_flight_together_count_once() -> None:
    halved = window(start=64)
    for _ in range(10):
        halved.refused()
    assert halved.chunks == 32


def test_a_target_that_has_become_slower_for_good_gets_its_window_back() -> None:
    followed = window()
    write(followed, 0.001, times=100)
    write(followed, 0.010, times=300)
    assert followed.chunks == 16
    write(followed, 0.010, times=3_000)
    assert followed.chunks == 64


def test_bounds_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="not in order"):
        Window(start=8, least=16, most=64)


@given(st.lists(st.one_of(st.none(), st.floats(0, 10)), max_size=300))
def test_the_window_never_leaves_its_bounds(answers: list[float | None]) -> None:
    bounded = window()
    for latency_s in answers:
        if latency_s is None:
            bounded.refused()
        else:
            bounded.answered(latency_s)
        assert 16 <= bounded.chunks <= 64
