"""Who hears of a site that refuses calls for long, and of the end of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import pytest

from schemas.envelope import Meta, Received
from schemas.replicator import NoteThrottling, ThrottledForLong, ThrottlingEased
from services.replicator.budgets import OPEN_RATE, missing_shares, share_of
from services.replicator.domain import throttling
from services.replicator.throttled import LONG_S, ThrottleWatch, notes
from shared.effects.adapt import CALM_S
from shared.effects.port import Budget, BudgetState

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
WRITES = Budget(name="west/snapshot-writes", mode="hold", concurrent=100)


def state(*, began_s: float, last_s: float, name: str = "west/Run") -> BudgetState:
    """A budget that has been refused from `began_s` to `last_s` ago."""
    return BudgetState(
        budget=Budget(name=name, mode="rate", burst=9, per_second=20), in_use=0, tokens=1,
        lowered_to=8.0, throttled=7, at=NOW,
        throttled_since=NOW - dt.timedelta(seconds=began_s),
        throttled_at=NOW - dt.timedelta(seconds=last_s),
    )  # fmt: skip


def received(note: NoteThrottling) -> Received:
    return Received(body=note, meta=Meta(occurred_at=NOW), at=NOW)


@pytest.mark.parametrize(
    ("began_s", "last_s", "said"),
    [
        (LONG_S + 1, 10, [True]),
        (LONG_S - 1, 10, []),
        (LONG_S + 1, CALM_S - 1, [True]),
        (9 * LONG_S, CALM_S + 1, [False]),
    ],
)
def test_a_trouble_is_told_when_it_has_lasted_and_when_it_has_been_calm(
    began_s: float, last_s: float, said: list[bool]
) -> None:
    assert [note.holds for note in notes([state(began_s=began_s, last_s=last_s)])] == said


def test_a_note_says_what_is_in_force_and_what_was_defined() -> None:
    (note,) = notes([state(began_s=LONG_S, last_s=1)])
    assert (note.site, note.quota, note.limit, note.cap) == ("west", "Run", 8.0, 20)


def test_a_budget_of_our_own_and_one_that_was_never_refused_say_nothing() -> None:
    own = state(began_s=LONG_S, last_s=1, name="node:west")
    assert notes([own, BudgetState(budget=WRITES, in_use=0, tokens=0, at=NOW)]) == []


def test_only_news_is_a_fact() -> None:
    (begun,) = notes([state(began_s=LONG_S, last_s=1)])
    (over,) = notes([state(began_s=LONG_S, last_s=CALM_S)])
    held = throttling.Throttling()
    facts = []
    for note in (over, begun, begun, over, over):
        for event in throttling.note(held, received(note)).events:
            held = throttling.evolve(held, event)
            facts.append(type(event))
    assert facts == [ThrottledForLong, ThrottlingEased]


def test_a_class_share_has_a_stream_of_its_own() -> None:
    whole, share = (
        throttling.throttling_stream(
            NoteThrottling(
                site="west", quota=quota, holds=True, mode="hold", limit=1, cap=2, throttled=1
            )
        )
        for quota in ("snapshot-writes", "snapshot-writes:replication")
    )
    assert whole != share


class Gauges:
    def __init__(self) -> None:
        self.limits: dict[str, float] = {}
        self.refused: dict[str, int] = {}

    def budget(self, name: str, *, limit: float, cap: float, in_use: int) -> None:
        self.limits[name] = limit

    def budget_refused(self, name: str, count: int) -> None:
        self.refused[name] = count


async def test_a_copy_tells_once_and_shows_what_is_limited() -> None:
    told: list[NoteThrottling] = []
    gauges = Gauges()
    open_one = Budget(name="west/Any", mode="rate", burst=OPEN_RATE, per_second=OPEN_RATE)

    async def budgets() -> Sequence[BudgetState]:
        open_state = BudgetState(budget=open_one, in_use=0, tokens=0, at=NOW)
        return [state(began_s=LONG_S, last_s=1), open_state]

    async def tell(note: NoteThrottling) -> None:
        told.append(note)

    watch = ThrottleWatch(budgets, gauges=gauges, tell=tell)
    await watch.look()
    await watch.look()
    assert len(told) == 1
    assert gauges.limits == {"west/Run": 8.0}
    assert gauges.refused == {"west/Run": 7}


@pytest.mark.parametrize(("allowed", "share"), [(100, 80), (1, 1), (2, 2), (5, 4)])
def test_replication_gets_four_fifths_of_the_writes_and_one_at_least(
    allowed: int, share: int
) -> None:
    writes = Budget(name="west/snapshot-writes", mode="hold", concurrent=allowed)
    assert share_of(writes).concurrent == share


def test_a_share_that_an_earlier_build_left_out_is_made() -> None:
    def standing(budget: Budget) -> BudgetState:
        return BudgetState(budget=budget, in_use=0, tokens=0)

    named_only = Budget(name="west/snapshot-writes:replication", mode="hold")
    assert missing_shares([standing(WRITES), standing(named_only)]) == [share_of(WRITES)]
    assert missing_shares([standing(WRITES), standing(share_of(WRITES))]) == []
