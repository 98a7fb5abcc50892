"""The work queue in memory keeps the queue's contract."""

from __future__ import annotations

import datetime as dt

import pytest

from shared.effects.memory import MemoryWork
from shared.eventlog.memory import MemoryStore
from shared.eventlog.port import EventStore
from tests.contract.effects.suite import WorkContract
from tests.contract.effects.work import LEASE_S, PLATFORM_TIMEOUT_S, START, actor, effect


class Hands:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> dt.datetime:
        return START + dt.timedelta(days=30, seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


class MemoryHarness:
    def __init__(self) -> None:
        self.clock = Hands()
        self.queue = MemoryWork(
            self.clock, platform_timeout_s=PLATFORM_TIMEOUT_S, quick_return_kinds=["script"]
        )

    def store(self, service: str) -> EventStore:
        return MemoryStore(service, clock=self.clock, work=self.queue)

    async def pass_time(self, seconds: float) -> None:
        self.clock.seconds += seconds

    async def now(self) -> dt.datetime:
        return self.clock.now()


@pytest.fixture
def harness() -> MemoryHarness:
    return MemoryHarness()


class TestMemoryWork(WorkContract):
    pass


async def test_no_lease_ends_within_its_own_length_of_a_restart(harness: MemoryHarness) -> None:
    one = await actor(harness, lease_s=LEASE_S)
    await one.enqueue([effect("a")])
    claimed = await one.claim()
    await harness.pass_time(10 * LEASE_S)
    harness.queue.restart()
    await harness.pass_time(LEASE_S / 2)
    await harness.queue.heartbeat(one.lease)
    await one.settle(claimed)
