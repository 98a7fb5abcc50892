"""The store in memory keeps the store's contract."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

import pytest

from shared.errors import InvariantBroken
from shared.eventlog.memory import MemoryStore
from shared.eventlog.port import EventStore, Fenced, NewEffect, Settled, Step
from tests.contract.eventlog.rows import LONG_AGO, event, parked, snapshot, timer, versions
from tests.contract.eventlog.suite import A, Harness, StoreContract


class HandClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

    def now(self) -> dt.datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()


class MemoryHarness(Harness):
    def __init__(self) -> None:
        self.clock = HandClock()
        self.store: EventStore = MemoryStore("test", clock=self.clock)

    async def pass_time(self, seconds: float) -> None:
        self.clock.at += dt.timedelta(seconds=seconds)

    async def now(self) -> dt.datetime:
        return self.clock.at


@pytest.fixture
def harness() -> Harness:
    return MemoryHarness()


@pytest.fixture
def store(harness: Harness) -> EventStore:
    return harness.store


class TestMemoryStore(StoreContract):
    pass


class FencingWork:
    """A work queue in which no claim is ever ours."""

    def apply_work(
        self,
        service: str,
        *,
        effects: Sequence[NewEffect],
        stream_versions: Mapping[str, int],
        settled: Sequence[Settled],
        cancelled: Sequence[str],
        released_seats: Sequence[tuple[str, str]],
    ) -> None:
        raise Fenced("claim", [settlement.effect_id for settlement in settled])


async def test_a_fenced_claim_leaves_the_rest_of_the_step_undone() -> None:
    store = MemoryStore("test", clock=HandClock(), work=FencingWork())
    await store.commit(Step(timers=[timer(A)], parked=[parked(1)]))
    found = await store.due_timers(range(64), count_max=9)
    with pytest.raises(Fenced):
        await store.commit(
            Step(
                rows=[event(A, 1)],
                settled=[Settled(f"{A}/copy", 4)],
                fired=found,
                timers=[timer("counter:b")],
                snapshots=[snapshot(A, 1)],
                reserved=[("plan/shop", A)],
                unparked=[parked(1)],
            )
        )
    assert await versions(store, A) == []
    assert await store.due_timers(range(64), count_max=9) == found
    assert (await store.load({A: 0}))[A].snapshot is None
    assert await store.parked() == (parked(1),)
    await store.commit(Step(reserved=[("plan/shop", "counter:b")]))


async def test_work_without_a_queue_is_our_bug() -> None:
    store = MemoryStore("test", clock=HandClock())
    with pytest.raises(InvariantBroken):
        await store.commit(Step(settled=[Settled(f"{A}/copy", 4, LONG_AGO, 1)]))
