"""The consumer brings everything once and in order, also what it read ahead of a commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from schemas import registry
from schemas.common import CommandSettled
from schemas.envelope import Meta, Received, commands_topic, events_topic
from schemas.ids import PARTITIONS, partition_of
from shared.bus.memory import MemoryBus
from shared.clock import SystemClock
from shared.consumer import Consumer
from shared.decider import on
from shared.effects.memory import MemoryWork
from shared.eventlog.memory import MemoryStore
from shared.eventlog.port import NewRow, Step
from shared.fold import ServiceDefinition
from shared.news import LocalNews
from shared.stepper import BATCH_MAX, Stepper
from shared.testing.counter import DEFINITION, Begin, StartCounter
from tests.waiting import eventually

COMMANDS = commands_topic("counter")
COUNT = 2 * BATCH_MAX + 200


class World:
    """A gateway's log full of commands, and a counter service that reads it."""

    def __init__(self, definition: ServiceDefinition = DEFINITION) -> None:
        clock = SystemClock()
        self.gateway = MemoryStore("gateway", clock=clock)
        self.counter = MemoryStore("counter", clock=clock, work=MemoryWork(clock))
        bus = MemoryBus({"gateway": self.gateway, "counter": self.counter})
        self.stepper = Stepper(
            definition, self.counter, clock=clock, committed=lambda topics: None
        )
        self.held = frozenset(range(PARTITIONS))
        self.consumer = Consumer(
            definition,
            self.counter,
            bus=bus,
            stepper=self.stepper,
            clock=clock,
            news=LocalNews(),
            owned=lambda: self.held,
        )
        self._clock = clock

    async def ask(self, *commands: tuple[str, object]) -> None:
        """Commands of key `a`, each with its stream."""
        rows = []
        for stream, body in commands:
            name, version, data = registry.encode(body)  # type: ignore[arg-type]
            meta = Meta(occurred_at=self._clock.now())
            rows.append(NewRow(COMMANDS, partition_of("a"), stream, 0, name, version, data, meta))
        await self.gateway.commit(Step(rows=rows))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(self.stepper.run()),
            asyncio.create_task(self.consumer.run()),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def reached(self) -> int:
        """Where the cursor of the commands stands."""
        cursors = await self.counter.cursors()
        return cursors.get(("gateway", COMMANDS, partition_of("a")), (0, 0))[1]

    async def answers(self) -> list[str]:
        """The ids of the commands that were answered, in order."""
        after = dict.fromkeys(range(PARTITIONS), 0)
        rows = await self.counter.read(events_topic("counter"), after, count_max=100_000)
        bodies = [registry.decode(row.type, row.schema_version, row.data) for row in rows]
        return [body.command_id for body in bodies if isinstance(body, CommandSettled)]

    async def until(self, seq: int) -> None:
        """Wait until so many commands are through."""

        async def through() -> bool:
            return await self.reached() == seq

        await eventually(through, f"{seq} messages are through")


def start(number: int) -> tuple[str, object]:
    """A command that starts a counter."""
    body = StartCounter(command_id=f"c{number}", counter=f"counter:a:{number}", steps=1)
    return f"command:a:{number}", body


async def test_full_batches_are_read_ahead_and_decided_once_in_order() -> None:
    world = World()
    await world.ask(*(start(number) for number in range(COUNT)))
    async with world.running():
        await world.until(COUNT)
    assert await world.answers() == [f"c{number}" for number in range(COUNT)]


async def test_what_comes_while_a_batch_is_read_ahead_is_not_missed() -> None:
    world = World()
    await world.ask(*(start(number) for number in range(BATCH_MAX)))
    async with world.running():
        await world.until(BATCH_MAX)
        await world.ask(start(BATCH_MAX))
        await world.until(BATCH_MAX + 1)
    assert len(await world.answers()) == BATCH_MAX + 1


async def test_messages_read_ahead_wait_behind_one_of_their_key_that_was_parked() -> None:
    def explode(state: object, received: Received) -> object:
        raise KeyError("no such thing")

    handlers = (
        *(handler for handler in DEFINITION.handlers if handler.message is not Begin),
        on(Begin, route=lambda r: "counter:a:1", decide=explode),  # type: ignore[arg-type]
    )
    world = World(
        ServiceDefinition(
            name="counter",
            families=DEFINITION.families,
            handlers=handlers,
            subscriptions=DEFINITION.subscriptions,
        )
    )
    bad = "command:bad:1"
    behind = StartCounter(command_id="behind", counter="counter:bad:9", steps=1)
    ahead = [start(number) for number in range(BATCH_MAX - 1)]
    await world.ask((bad, Begin()), *ahead, (bad, behind), start(BATCH_MAX))
    async with world.running():
        await world.until(BATCH_MAX + 2)
    assert "behind" not in await world.answers()
    assert [parked.seq for parked in await world.counter.parked()] == [1, BATCH_MAX + 1]


async def test_a_share_that_left_and_came_back_while_reading_ahead_goes_on_where_it_stood() -> (
    None
):
    world = World()
    await world.ask(*(start(number) for number in range(COUNT)))

    async def begun() -> bool:
        return await world.reached() > 0

    async with world.running():
        await eventually(begun, "the first batch is through")
        share, world.held = world.held, frozenset()
        world.consumer.wake()
        await eventually(_resting(world), "nothing is read without a share")
        world.held = share
        world.consumer.wake()
        await world.until(COUNT)
    assert await world.answers() == [f"c{number}" for number in range(COUNT)]


def _resting(world: World) -> Callable[[], Awaitable[bool]]:
    async def resting() -> bool:
        return not world.consumer.positions

    return resting
