"""Which checkpoint is tried next: newest first, or by halves."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from schemas.clean_points import SearchOrder, Verdict
from services.recovery.domain.clean_point_order import newest_clean, next_checkpoint

FIVE = ("c5", "c4", "c3", "c2", "c1")


def tried(order: SearchOrder, truth: dict[str, Verdict], *, tries_max: int = 0) -> list[str]:
    """The checkpoints that are tried where each has the verdict of `truth`, in order."""
    verdicts: dict[str, Verdict] = {}
    while checkpoint := next_checkpoint(order, tuple(truth), verdicts, tries_max=tries_max):
        assert checkpoint not in verdicts, "tried twice"
        verdicts[checkpoint] = truth[checkpoint]
    return list(verdicts)


def truth(*verdicts: Verdict) -> dict[str, Verdict]:
    return dict(zip(FIVE, verdicts, strict=True))


def test_newest_first_stops_at_the_first_clean_one() -> None:
    found = truth("infected", "unknown", "clean", "clean", "clean")
    assert tried("newest-first", found) == ["c5", "c4", "c3"]


def test_newest_first_tries_all_where_none_is_clean() -> None:
    assert tried("newest-first", dict.fromkeys(FIVE, "infected")) == list(FIVE)


def test_bisection_halves_what_is_left() -> None:
    found = truth("infected", "infected", "infected", "clean", "clean")
    assert tried("bisect", found) == ["c3", "c1", "c2"]


def test_bisection_goes_on_to_the_newest_of_all() -> None:
    assert tried("bisect", dict.fromkeys(FIVE, "clean")) == ["c3", "c4", "c5"]


def test_what_did_not_come_up_says_nothing_about_its_neighbours() -> None:
    found = truth("infected", "clean", "failed", "clean", "clean")
    assert tried("bisect", found) == ["c3", "c2", "c4", "c5"]


def test_a_bound_ends_the_search() -> None:
    found = truth("infected", "infected", "infected", "clean", "clean")
    assert tried("newest-first", found, tries_max=2) == ["c5", "c4"]
    assert tried("bisect", found, tries_max=1) == ["c3"]


@given(st.integers(1, 60), st.data())
def test_bisection_finds_the_newest_clean_one_in_few_tries(
    count: int, data: st.DataObject
) -> None:
    names = [f"c{number}" for number in range(count)]
    first_clean = data.draw(st.integers(0, count))
    monotone: dict[str, Verdict] = {
        name: "clean" if number >= first_clean else "infected" for number, name in enumerate(names)
    }
    order = tried("bisect", monotone)
    verdicts = {name: monotone[name] for name in order}
    assert newest_clean(names, verdicts) == ("" if first_clean == count else names[first_clean])
    assert len(order) <= math.ceil(math.log2(count + 1))
