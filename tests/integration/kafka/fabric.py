"""Two logs published on a real broker, and a reader that applies what it is brought, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType

from schemas import registry
from schemas.envelope import Meta, commands_topic
from schemas.ids import PARTITIONS, partition_of
from shared.bus.kafka.fabric import KafkaFabric
from shared.bus.kafka.hints import MemoryHints
from shared.bus.kafka.reader import KafkaBus
from shared.bus.kafka.settings import KafkaSettings
from shared.clock import SystemClock
from shared.eventlog.memory import MemoryStore
from shared.eventlog.port import NewRow, Step
from shared.news import LocalNews
from shared.testing.counter import SERVICE, Begin
from tests.waiting import eventually

TOPIC = commands_topic(SERVICE)
EVERYTHING = frozenset(range(PARTITIONS))
KEYS = [f"k{n}" for n in range(100)]
Where = tuple[str, str, int]


class Reader:
    """A reader with cursors of its own; a gap it meets is an assertion that fails, unless told."""

    def __init__(self, bus: KafkaBus, *, gaps_allowed: bool = False) -> None:
        self._bus = bus
        self._gaps_allowed = gaps_allowed
        self.cursors: dict[Where, int] = {("gateway", TOPIC, p): 0 for p in range(PARTITIONS)}

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            for row in await self._bus.fetch(self.cursors, count_max=500):
                where = (row.source, row.topic, row.partition)
                if row.seq <= self.cursors[where]:
                    continue
                if row.seq > self.cursors[where] + 1:
                    assert self._gaps_allowed, f"{where}: {row.seq} after {self.cursors[where]}"
                    continue
                self.cursors[where] = row.seq
            await asyncio.sleep(0.01)

    @property
    def count(self) -> int:
        return sum(self.cursors.values())


class Fabric:
    """A gateway's log, its outlet, and readers; use as a context."""

    def __init__(self, settings: KafkaSettings) -> None:
        clock = SystemClock()
        self._kafka = KafkaFabric(settings, name="test", services=[SERVICE], clock=clock)
        self.store = MemoryStore("gateway", clock=clock)
        self.outlet = self._kafka.outlet(
            self.store, lambda: EVERYTHING, news=LocalNews(poll_s=0.02)
        )
        self._hints: dict[str, MemoryHints] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Fabric:
        self._tasks += [asyncio.create_task(self._kafka.run())]
        self._tasks += [asyncio.create_task(self.outlet.run())]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        if kind is None:
            for each in ended:
                if isinstance(each, AssertionError):
                    raise each

    def read(self, name: str, *, gaps_allowed: bool = False) -> Reader:
        """A reader that begins at once."""
        hints = self._hints.setdefault(name, MemoryHints())
        bus = self._kafka.reader(name, hints=hints, wake=lambda topics: None)
        reader = Reader(bus, gaps_allowed=gaps_allowed)
        self._tasks += [asyncio.create_task(bus.run()), asyncio.create_task(reader.run())]
        return reader

    async def append(self, count: int) -> None:
        """So many messages to the counter service, over many partitions."""
        meta = Meta(occurred_at=SystemClock().now())
        name, version, data = registry.encode(Begin())
        rows = [
            NewRow(TOPIC, partition_of(key), f"command:{key}:{n}", 0, name, version, data, meta)
            for n in range(count)
            for key in (KEYS[n % len(KEYS)],)
        ]
        await self.store.commit(Step(rows=rows))

    async def until_read(self, readers: Sequence[Reader], count: int, *, within_s: float) -> None:
        """Wait until every reader has applied so many."""

        async def read() -> bool:
            return all(reader.count == count for reader in readers)

        await eventually(read, f"{count} messages are read", within_s=within_s)
