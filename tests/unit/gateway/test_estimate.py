"""When queued work will start: budgets, what stands before it, and what is not known."""

from __future__ import annotations

import datetime as dt

from services.gateway.estimate import HOLD_S, estimated_starts
from shared.decider import Need, WorkClass
from shared.effects.port import Budget, BudgetState, Waiting

NOW = dt.datetime(2026, 11, 22, 20, 0, tzinfo=dt.UTC)


def work(*needs: str, worker: str = "", ready_in_s: float = 0.0) -> Waiting:
    return Waiting(
        effect_id="e",
        service="replicator",
        kind="transfer",
        plan="shop",
        work_class=WorkClass.REPLICATION,
        priority=3,
        due=NOW,
        ready_at=NOW + dt.timedelta(seconds=ready_in_s),
        needs=tuple(Need(budget=name, mode="rate") for name in needs),
        worker=worker,
        attempt=0,
        blocked_by=(),
    )


def rate(name: str, per_second: float, *, tokens: float) -> BudgetState:
    budget = Budget(name=name, mode="rate", burst=10, per_second=per_second)
    return BudgetState(budget=budget, in_use=0, tokens=tokens)


def slots(name: str, concurrent: int, *, in_use: int = 0) -> BudgetState:
    budget = Budget(name=name, mode="hold", concurrent=concurrent)
    return BudgetState(budget=budget, in_use=in_use, tokens=0)


def seconds(waiting: list[Waiting], *budgets: BudgetState) -> list[float | None]:
    """Estimated starts in seconds from now."""
    found = estimated_starts(waiting, budgets, now=NOW)
    return [None if at is None else round((at - NOW).total_seconds(), 3) for at in found]


def test_what_needs_nothing_starts_when_it_is_ready() -> None:
    assert seconds([work(), work(ready_in_s=7), work(ready_in_s=-7)]) == [0, 7, 0]


def test_a_bucket_lets_pass_what_it_has_and_then_one_at_a_time() -> None:
    four = [work("west/RunInstances")] * 4
    assert seconds(four, rate("west/RunInstances", 2, tokens=2)) == [0, 0, 0.5, 1]


def test_slots_are_taken_in_turn() -> None:
    four = [work("node:west")] * 4
    assert seconds(four, slots("node:west", 2, in_use=1)) == [0, 1, 1, 2]


def test_a_snapshot_that_is_written_holds_its_slot_for_long() -> None:
    hold_s = HOLD_S["snapshot-writes"]
    name = "west/snapshot-writes"
    assert seconds([work(name)] * 2, slots(name, 1, in_use=1)) == [hold_s, 2 * hold_s]


def test_work_waits_for_its_slowest_budget() -> None:
    both = work("node:west", "west/StartSnapshot")
    budgets = (slots("node:west", 9), rate("west/StartSnapshot", 0.1, tokens=0.5))
    assert seconds([both, work("node:west")], *budgets) == [5, 0]


def test_what_runs_has_started_and_its_slot_counts_once() -> None:
    queue = [work("node:west", worker="w"), work("node:west")]
    assert seconds(queue, slots("node:west", 2, in_use=1)) == [None, 0]


def test_nothing_is_foretold_where_a_budget_lets_nothing_pass() -> None:
    assert seconds([work("west/x"), work("west/y")], slots("west/x", 0)) == [None, 0]
    assert seconds([work("west/x")], rate("west/x", 0, tokens=0)) == [None]


def test_a_lowered_limit_and_an_open_one() -> None:
    assert seconds([work("a"), work("b")], slots("a", 1, in_use=3), slots("b", 10**9)) == [1, 0]
