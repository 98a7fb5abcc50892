"""The bus in memory, and consumers on the stores in memory, keep the bus's contract."""

from __future__ import annotations

from collections import defaultdict

import pytest

from schemas.envelope import Recorded
from schemas.ids import PARTITIONS
from shared.bus.memory import MemoryBus
from shared.clock import SystemClock
from shared.eventlog.memory import MemoryStore
from shared.eventlog.port import EventStore, NewRow, Step
from tests.contract.bus import consumers, suite, taken_up
from tests.contract.bus.copies import COMMANDS, Harness


class MemoryHarness(Harness):
    def __init__(self) -> None:
        self._stores: dict[str, EventStore] = {
            name: MemoryStore(name, clock=SystemClock()) for name in ("gateway", "counter")
        }
        self.bus = MemoryBus(self._stores)
        self.gateway = self._stores["gateway"]
        self.counter = self._stores["counter"]

    async def restore_gateway(self, *, epoch: int, keep: int) -> None:
        every = dict.fromkeys(range(PARTITIONS), 0)
        rows = await self.gateway.read(COMMANDS, every, count_max=100_000)
        kept: dict[int, list[Recorded]] = defaultdict(list)
        for row in rows:
            if row.seq <= keep:
                kept[row.partition].append(row)
        self.gateway = MemoryStore("gateway", clock=SystemClock(), epoch=epoch)
        await self.gateway.commit(Step(rows=[_new(row) for part in kept.values() for row in part]))
        self._stores["gateway"] = self.gateway


def _new(row: Recorded) -> NewRow:
    return NewRow(
        row.topic, row.partition, row.stream, row.version,
        row.type, row.schema_version, row.data, row.meta,
    )  # fmt: skip


@pytest.fixture
def harness() -> Harness:
    return MemoryHarness()


class TestMemoryBus(suite.BusContract):
    pass


class TestMemoryConsumers(consumers.ConsumerContract):
    pass


class TestMemoryParked(consumers.ParkedContract):
    pass


class TestMemoryTakenUp(taken_up.TakenUpContract):
    pass
