"""Goals of benchmarks: what holds, what does not, how they read."""

from __future__ import annotations

from tests.bench.harness import Goal


def test_a_goal_holds_between_its_bounds() -> None:
    goal = Goal(least=1, most=3)
    assert [goal.met(value, {}) for value in (0.9, 1, 3, 3.1)] == [False, True, True, False]


def test_every_named_part_has_to_hold_too() -> None:
    goal = Goal(most=150, parts={"p99_ms": Goal(most=300)})
    assert goal.met(100, {"p99_ms": 300})
    assert not goal.met(100, {"p99_ms": 301})
    assert not goal.met(151, {"p99_ms": 300})


def test_a_part_that_was_not_measured_does_not_hold() -> None:
    assert not Goal(parts={"p99_ms": Goal(most=300)}).met(1, {})


def test_any_of_several_bounds_can_be_enough() -> None:
    goal = Goal(least=7_500, parts={"spike_ratio": Goal(least=0.35)}, any_of=True)
    assert goal.met(5_000, {"spike_ratio": 0.4})
    assert goal.met(8_000, {"spike_ratio": 0.1})
    assert not goal.met(5_000, {"spike_ratio": 0.1})


def test_a_goal_reads_as_it_was_stated() -> None:
    assert str(Goal(least=0.7)) == ">= 0.7"
    assert str(Goal(most=150, parts={"p99_ms": Goal(most=300)})) == "<= 150, p99_ms <= 300"
    either = Goal(least=7_500, parts={"spike_ratio": Goal(least=0.35)}, any_of=True)
    assert str(either) == ">= 7500 or spike_ratio >= 0.35"
