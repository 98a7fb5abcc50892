"""The relay publishes in order from its marks, whatever fails on the way."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

import pytest

from schemas import registry
from schemas.envelope import Meta, Recorded, commands_topic
from schemas.ids import PARTITIONS, partition_of
from shared.bus.relay import BATCH_MAX, Relay
from shared.clock import LoopClock, SystemClock
from shared.errors import Transient
from shared.eventlog.memory import MemoryStore
from shared.eventlog.port import Fenced, NewRow, Step
from shared.news import LocalNews
from shared.testing.counter import SERVICE, Begin
from shared.testing.virtual import run_virtual

TOPIC = commands_topic(SERVICE)
EVERYTHING = frozenset(range(PARTITIONS))
KEYS = [f"k{n}" for n in range(200)]


class Broker:
    """A publisher that fails when told to, having stored some of what it was given."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.fail = 0.0
        self.stored: dict[int, list[int]] = defaultdict(list)

    async def publish(self, rows: Sequence[Recorded]) -> None:
        fails = self._chance.random() < self.fail
        for row in rows[: self._chance.randint(0, len(rows)) if fails else len(rows)]:
            self.stored[row.partition].append(row.seq)
        if fails:
            raise Transient("the broker went away", code="kafka-unreachable")

    def once(self) -> dict[int, list[int]]:
        """What a reader with a cursor applies; asserts that it never meets a gap."""
        applied: dict[int, list[int]] = {}
        for partition, seqs in self.stored.items():
            reached = 0
            for seq in seqs:
                assert seq <= reached + 1, f"{partition} jumps from {reached} to {seq}"
                reached = max(reached, seq)
            applied[partition] = list(range(1, reached + 1))
        return applied


class World:
    def __init__(self, seed: int = 1, owned: frozenset[int] = EVERYTHING) -> None:
        self.store = MemoryStore("gateway", clock=SystemClock())
        self.broker = Broker(random.Random(seed))
        self.owned = owned
        self.relay = self.another()

    def another(self) -> Relay:
        return Relay(
            self.store, self.broker, topics=[TOPIC], clock=LoopClock(), news=LocalNews(),
            owned=lambda: self.owned,
        )  # fmt: skip

    async def append(self, count: int) -> None:
        meta = Meta(occurred_at=SystemClock().now())
        name, version, data = registry.encode(Begin())
        rows = [
            NewRow(TOPIC, partition_of(key), f"command:{key}:{n}", 0, name, version, data, meta)
            for n in range(count)
            for key in (KEYS[n % len(KEYS)],)
        ]
        await self.store.commit(Step(rows=rows))

    async def all_published(self) -> None:
        heads = await self.store.heads([TOPIC])
        assert self.broker.once() == {p: list(range(1, seq + 1)) for (_, p), seq in heads.items()}


async def _until_done(relay: Relay) -> None:
    for _ in range(1000):
        try:
            if not await relay.round():
                return
        except (Transient, Fenced):
            relay.stand_again()
    raise AssertionError("the relay never came to an end")


async def _publish_all() -> None:
    world = World()
    await world.append(3 * BATCH_MAX)
    await _until_done(world.relay)
    await world.all_published()
    assert world.relay.published == 3 * BATCH_MAX
    assert await world.store.published() == await world.store.heads([TOPIC])
    assert await world.relay.lag() == 0


def test_everything_is_published_once_and_marked() -> None:
    run_virtual(_publish_all())


async def _fail(seed: int) -> None:
    world = World(seed)
    world.broker.fail = 0.5
    for _ in range(10):
        await world.append(300)
        await _until_done(world.relay)
    await world.all_published()


@pytest.mark.parametrize("seed", range(20))
def test_failed_sends_lose_nothing_and_leave_no_gap(seed: int) -> None:
    run_virtual(_fail(seed))


async def _two_copies(seed: int) -> None:
    """Both believe to hold every partition, as one that was stopped and woken does."""
    world = World(seed)
    world.broker.fail = 0.2
    chance = random.Random(seed)
    relays = [world.relay, world.another()]
    for _ in range(40):
        await world.append(50)
        relay = chance.choice(relays)
        try:
            await relay.round()
            if chance.random() < 0.5:
                await relay.mark()
        except (Transient, Fenced):
            relay.stand_again()
    for relay in relays:
        await _until_done(relay)
    await world.all_published()


@pytest.mark.parametrize("seed", range(20))
def test_two_copies_at_once_leave_no_gap(seed: int) -> None:
    run_virtual(_two_copies(seed))


async def _share() -> None:
    world = World(owned=frozenset({partition_of("k1")}))
    await world.append(400)
    await _until_done(world.relay)
    assert set(world.broker.stored) == {partition_of("k1")}


def test_only_the_partitions_held_are_published() -> None:
    run_virtual(_share())


async def _again() -> None:
    world = World()
    await world.append(400)
    await _until_done(world.relay)
    where = partition_of("k1")
    last = (await world.store.heads([TOPIC]))[TOPIC, where]
    world.broker.stored.clear()
    await world.relay.again(TOPIC, where, last - 1)
    await _until_done(world.relay)
    assert world.broker.stored == {where: [last - 1, last]}


def test_rows_that_a_reader_misses_are_published_again() -> None:
    run_virtual(_again())
