"""The judges see what they are for: with a promise broken on purpose a world is found broken."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest

from schemas.envelope import Meta, Recorded
from schemas.prep import LeaveSeat
from services.recovery import polling
from services.recovery.domain import (
    prep_seats,
    recovery,
    recovery_fold,
    recovery_state,
    rollback,
    windows_steps,
)
from services.replicator import platform_work
from shared.effects import stock
from shared.eventlog.memory import MemoryStore
from tests.simulation import counter, drills, main
from tests.simulation.contract import contract_kept
from tests.simulation.quiet import quiet
from tests.simulation.verdict import Verdict

SEEDS_MAX: Final = 8
replace = msgspec.structs.replace


def found(run: Callable[[int], Verdict], what: str, *, first: int = 1) -> bool:
    """Whether a world is found broken in that way; `first` is a seed where it was, lately."""
    with quiet():
        return any(
            any(broken.startswith(what) for broken in run(seed).broken)
            for seed in range(first, first + SEEDS_MAX)
        )


def test_an_overspent_bucket_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    take = stock.Stock.take

    def free_of_charge(self: Any, units: int, now: float) -> None:
        if self.budget.mode != "rate":
            take(self, units, now)

    monkeypatch.setattr(stock.Stock, "take", free_of_charge)
    assert found(counter.run, "budget: r/drops")


def test_a_stream_without_versions_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryStore, "_check_cursors", lambda *_: None)
    monkeypatch.setattr(MemoryStore, "_check_streams", lambda *_: None)
    assert found(counter.run, "")


def test_a_snapshot_left_open_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forgotten(*_: Any) -> None: ...

    monkeypatch.setattr(platform_work, "_close", forgotten)
    assert found(main.run, "left: snapshot")


def test_a_boot_delay_that_is_not_kept_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    powered_on = recovery_fold._powered_on

    def in_a_hurry(state: Any, event: Any) -> Any:
        order = state.roster[event.vm].boot_order
        return recovery_fold.with_order(powered_on(state, event), order, not_before=None)

    monkeypatch.setattr(recovery_fold, "_powered_on", in_a_hurry)
    assert found(drills.run, "boot delay", first=10)


def test_a_boot_order_that_waits_for_nobody_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def settled(state: Any, event: Any) -> Any:
        after = started(state, event)
        orders = {n: replace(order, unsettled=0) for n, order in after.by_order.items()}
        return replace(after, by_order=orders)

    started = recovery_fold._started
    monkeypatch.setattr(recovery_fold, "_started", settled)
    assert found(drills.run, "boot order", first=5)


def test_a_guest_that_is_believed_too_early_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    async def believed(*_: Any) -> bool:
        return True

    monkeypatch.setattr(polling, "is_ready", believed)
    assert found(drills.run, "told: vm-recovery")


def test_a_roll_back_that_does_not_wait_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(state: Any) -> str:
        return {"remove": "power-on"}.get(phase(state), phase(state))

    phase = rollback._phase
    monkeypatch.setattr(rollback, "_phase", at_once)
    assert found(drills.run, "twice: ", first=11)


def test_a_kinder_outcome_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(state: Any) -> str:
        told = outcome_of(state)
        return "completed" if told == "partially-completed" else told

    outcome_of = recovery_state.outcome_of
    monkeypatch.setattr(recovery, "outcome_of", kind)
    assert found(drills.run, "outcome")


def test_a_node_that_stays_on_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(before: Any, after: Any) -> tuple[Any, ...]:
        return tuple(s for s in seats(before, after) if not isinstance(s.message, LeaveSeat))

    seats = prep_seats.seats
    monkeypatch.setattr(prep_seats, "seats", kept)
    assert found(drills.run, "left: prep node")


def test_a_windows_that_is_not_prepared_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_to_do(told: Any, copy: Any, work: Any) -> bool:
        return False

    monkeypatch.setattr(windows_steps, "to_prepare", nothing_to_do)
    assert found(drills.run, "windows: ")


@pytest.mark.parametrize(
    ("topic", "data", "told"),
    [
        ("seawall.recovery.commands", b"{}", "contract: scheduler.site-removed on seawall.recov"),
        ("seawall.scheduler.events", b"{}", "contract: scheduler.site-removed $: 'site' is a req"),
        ("seawall.scheduler.events", b'{"site": 7}', "contract: scheduler.site-removed $.site: 7"),
        ("seawall.scheduler.events", b'{"site": "east"}', ""),
    ],
)
def test_a_row_unlike_the_published_contract_is_seen(topic: str, data: bytes, told: str) -> None:
    row = Recorded(
        source="scheduler", epoch=1, topic=topic, partition=0, seq=1, stream="site:east",
        version=1, type="scheduler.site-removed", schema_version=1, data=data,
        meta=Meta(occurred_at=dt.datetime(2026, 11, 22, tzinfo=dt.UTC)),
    )  # fmt: skip
    broken = contract_kept({("scheduler", topic): [row]})
    assert [line.startswith(told) for line in broken] == ([True] if told else [])
