"""The bus on a real Apache Kafka, and consumers there, keep the bus's contract."""

from __future__ import annotations

import asyncio
import gc
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from schemas.envelope import Recorded
from schemas.ids import PARTITIONS
from shared.bus.kafka.fabric import KafkaFabric, KafkaOutlet
from shared.bus.kafka.hints import MemoryHints
from shared.bus.kafka.reader import KafkaBus
from shared.bus.kafka.settings import KafkaSettings
from shared.bus.kafka.topics import ensure_topics, wanted_topics
from shared.bus.port import Bus, Positions
from shared.clock import SystemClock
from shared.errors import Transient
from shared.eventlog.memory import MemoryStore
from shared.eventlog.port import EventStore, NewRow, Step
from shared.news import LocalNews
from tests.brokers import kafka_servers
from tests.contract.bus import consumers, suite, taken_up
from tests.contract.bus.copies import COMMANDS, Harness
from tests.waiting import eventually

SERVICES = ("gateway", "counter")
# aiokafka leaves a connection open that was being made when its task is cancelled.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

EVERYTHING = frozenset(range(PARTITIONS))
POLL_S = 0.02
STEADY_S = 1.0


class CaughtUp:
    """A bus of which every answer holds all that was appended before it was asked."""

    def __init__(self, bus: KafkaBus, harness: KafkaHarness) -> None:
        self._bus = bus
        self._harness = harness

    async def fetch(self, positions: Positions, *, count_max: int) -> Sequence[Recorded]:
        await self._catch_up(positions)
        return await self._bus.fetch(positions, count_max=count_max)

    async def heads(self, positions: Positions) -> Mapping[tuple[str, str, int], tuple[int, int]]:
        await self._harness.tell()
        await self._catch_up(positions)
        return await self._bus.heads(positions)

    async def lag(self, positions: Positions) -> int:
        await self._catch_up(positions)
        return await self._bus.lag(positions)

    async def _catch_up(self, positions: Positions) -> None:
        await self._harness.published()
        loop = asyncio.get_running_loop()
        left, since = -1, loop.time()

        async def arrived() -> bool:
            """All of it, or as much as is read ahead: a backlog that nobody takes stays away."""
            nonlocal left, since
            await self._bus.fetch(positions, count_max=0)
            try:
                unread = await self._bus.unread(positions)
            except Transient:
                unread = -1
            if unread != left:
                left, since = unread, loop.time()
            return unread == 0 or (unread > 0 and loop.time() - since > STEADY_S)

        await eventually(arrived, "all that was published has arrived", within_s=20)


class KafkaHarness(Harness):
    """Stores in memory, published on a real broker under a prefix of their own."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._clock = SystemClock()
        self._fabric = KafkaFabric(settings, name="test", services=["counter"], clock=self._clock)
        self._news = LocalNews(poll_s=POLL_S)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._outlets: dict[str, KafkaOutlet] = {}
        self._stores: dict[str, MemoryStore] = {}
        self._readers = 0

    async def start(self) -> None:
        self._tasks["control"] = asyncio.create_task(self._fabric.run())
        for service in SERVICES:
            await self._publish(MemoryStore(service, clock=self._clock))
        self.bus = CaughtUp(self._reader("bus"), self)

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    @property
    def gateway(self) -> EventStore:  # type: ignore[override]
        return self._stores["gateway"]

    @property
    def counter(self) -> EventStore:  # type: ignore[override]
        return self._stores["counter"]

    def reader(self) -> Bus:
        self._readers += 1
        return self._reader(f"counter-{self._readers}")

    def _reader(self, name: str) -> KafkaBus:
        bus = self._fabric.reader(name, hints=MemoryHints(), wake=lambda topics: None)
        self._tasks[name] = asyncio.create_task(bus.run())
        return bus

    async def _publish(self, store: MemoryStore) -> None:
        """Publish a store's log from now on, in place of an earlier one of that service."""
        name = f"outlet-{store.service}"
        if before := self._tasks.pop(name, None):
            before.cancel()
            await asyncio.gather(before, return_exceptions=True)
        self._stores[store.service] = store
        outlet = self._outlets[store.service] = self._fabric.outlet(
            store, lambda: EVERYTHING, news=self._news
        )
        self._tasks[name] = asyncio.create_task(outlet.run())

        async def told() -> bool:
            said = self._fabric.control.told.get(store.service)
            return said is not None and (said.epoch == store.epoch or said.restored)

        await eventually(told, f"{store.service} has told its epoch")

    async def published(self) -> None:
        """Wait until everything appended so far stands on the broker."""

        async def nothing_left() -> bool:
            return not any(
                [not each.problem() and await each.relay.lag() for each in self._outlets.values()]
            )

        await eventually(nothing_left, "everything is published", within_s=20)

    async def tell(self) -> None:
        """Let every source tell its heads, and wait until that is heard."""
        for name, outlet in self._outlets.items():
            await outlet.tell()
            heads = await self._stores[name].heads([COMMANDS])
            wanted = {f"{topic}/{partition}": seq for (topic, partition), seq in heads.items()}

            async def heard(name: str = name, wanted: dict[str, int] = wanted) -> bool:
                said = self._fabric.control.told[name]
                return {k: v for k, v in said.heads.items() if k.startswith(COMMANDS)} == wanted

            await eventually(heard, f"the heads of {name} are heard")

    async def restore_gateway(self, *, epoch: int, keep: int) -> None:
        await self.published()
        await self.tell()
        every = dict.fromkeys(range(PARTITIONS), 0)
        rows = await self.gateway.read(COMMANDS, every, count_max=100_000)
        kept: dict[int, list[Recorded]] = defaultdict(list)
        for row in rows:
            if row.seq <= keep:
                kept[row.partition].append(row)
        restored = MemoryStore("gateway", clock=self._clock, epoch=epoch)
        await restored.commit(Step(rows=[_new(row) for part in kept.values() for row in part]))
        await self._publish(restored)
        await self.tell()


def _new(row: Recorded) -> NewRow:
    return NewRow(
        row.topic, row.partition, row.stream, row.version,
        row.type, row.schema_version, row.data, row.meta,
    )  # fmt: skip


@pytest.fixture(scope="module")
def servers() -> Iterator[str]:
    with kafka_servers() as found:
        yield found


@pytest.fixture
async def settings(servers: str) -> AsyncIterator[KafkaSettings]:
    """Topics of this test's own, deleted afterwards."""
    found = KafkaSettings(servers=tuple(servers.split(",")), prefix=f"t{uuid4().hex[:8]}.")
    await ensure_topics(SERVICES, found)
    yield found
    admin = AIOKafkaAdminClient(bootstrap_servers=list(found.servers))
    await admin.start()
    await admin.delete_topics([topic.name for topic in wanted_topics(SERVICES, found)])
    await admin.close()


@pytest.fixture
async def harness(settings: KafkaSettings) -> AsyncIterator[Harness]:
    found = KafkaHarness(settings)
    try:
        await found.start()
        yield found
    finally:
        await found.close()
        gc.collect()


class TestKafkaBus(suite.BusContract):
    pass


class TestKafkaConsumers(consumers.ConsumerContract):
    pass


class TestKafkaParked(consumers.ParkedContract):
    pass


class TestKafkaTakenUp(taken_up.TakenUpContract):
    pass
