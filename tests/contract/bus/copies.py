"""A gateway's log full of commands, and copies of the counter service that read it over a bus.

Counters are started with a delay of an hour: that they were decided shows in the log, and no
work queue is needed.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry

from schemas import registry
from schemas.common import CommandSettled
from schemas.envelope import DEAD_LETTER_TOPIC, Meta, Recorded, commands_topic, events_topic
from schemas.ids import PARTITIONS, key_of, partition_of
from shared.bus.port import Bus, Positions
from shared.clock import SystemClock
from shared.eventlog.port import EventStore, NewRow, Step
from shared.fold import ServiceDefinition
from shared.news import LocalNews
from shared.service import Service
from shared.telemetry.health import Health
from shared.telemetry.metrics import EngineMetrics
from shared.testing.counter import DEFINITION, SERVICE, StartCounter
from tests.waiting import eventually

COMMANDS = commands_topic(SERVICE)
EVERY = {("gateway", COMMANDS, partition): 0 for partition in range(PARTITIONS)}
POLL_S = 0.02
THROUGH_S = 20.0


class Harness(ABC):
    """A bus under test over the logs of a gateway and of the counter service."""

    bus: Bus
    gateway: EventStore
    counter: EventStore

    def reader(self) -> Bus:
        """The bus of one copy of the counter service: it may remember what it read."""
        return self.bus

    @abstractmethod
    async def restore_gateway(self, *, epoch: int, keep: int) -> None:
        """Put the gateway's log back to the first `keep` rows of each partition."""


def _keys() -> tuple[str, ...]:
    """A key for each partition, by partition."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < PARTITIONS:
        found.setdefault(partition_of(f"k{number}"), f"k{number}")
        number += 1
    return tuple(found[partition] for partition in range(PARTITIONS))


KEYS = _keys()


def twin_of(key: str) -> str:
    """Another key of the same partition."""
    return next(
        twin
        for twin in (f"twin{n}" for n in range(10_000))
        if partition_of(twin) == partition_of(key)
    )


def row(key: str, name: str, version: int, data: bytes, *, number: int = 0) -> NewRow:
    """A message of a key to the counter service, as stored."""
    meta = Meta(occurred_at=SystemClock().now())
    sender = f"command:{key}:{number}"
    return NewRow(COMMANDS, partition_of(key), sender, 0, name, version, data, meta)


def start(key: str, number: int) -> NewRow:
    """The command `key/number`, which starts a counter of that key."""
    body = StartCounter(
        command_id=f"{key}/{number}", counter=f"counter:{key}:{number}", steps=1, delay_s=3600
    )
    return row(key, *registry.encode(body), number=number)


def starts(keys: Sequence[str], numbers: Sequence[int]) -> list[NewRow]:
    """Commands of each key, the numbers in order."""
    return [start(key, number) for number in numbers for key in keys]


class Copies:
    """Copies of the counter service in this process; use as a context."""

    def __init__(
        self,
        harness: Harness,
        *,
        bus: Bus | None = None,
        store: EventStore | None = None,
        definition: ServiceDefinition = DEFINITION,
        lease_s: float = 0.6,
    ) -> None:
        self._harness = harness
        self._bus = bus
        self._store = store or harness.counter
        self._definition = definition
        self._lease_s = lease_s
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._health: dict[str, Health] = {}
        self.services: dict[str, Service] = {}

    async def __aenter__(self) -> Copies:
        return self

    async def __aexit__(self, *failure: object) -> None:
        for name in tuple(self._tasks):
            await self.kill(name)

    def start(self, name: str) -> Service:
        """One more copy."""
        service = self.services[name] = Service(
            self._definition,
            store=self._store,
            bus=self._bus or self._harness.reader(),
            clock=SystemClock(),
            news=LocalNews(poll_s=POLL_S),
            copy_id=name,
            lease_s=self._lease_s,
        )
        metrics = CollectorRegistry()
        self._health[name] = Health(metrics)
        service.register(self._health[name], EngineMetrics(metrics))
        self._tasks[name] = asyncio.create_task(service.run())
        return service

    async def stop(self, name: str) -> None:
        """End a copy as SIGTERM does: it gives its partitions back."""
        self.services[name].stop()
        await asyncio.wait_for(self._tasks.pop(name), THROUGH_S)

    async def kill(self, name: str) -> None:
        """End a copy as SIGKILL does: its partitions stay leased."""
        task = self._tasks.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def problem(self, name: str) -> str:
        """What `/readyz` says of a copy, "" when it is ready."""
        return (await self._health[name].problems()).get(SERVICE, "")

    async def until_problem(self, name: str, text: str) -> str:
        """Wait until `/readyz` says something with a text in it; gives all it says."""

        async def said() -> bool:
            return text in await self.problem(name)

        await eventually(said, f"{name} is not ready: {text}", within_s=THROUGH_S)
        return await self.problem(name)

    async def until_held(self, shares: Mapping[str, int]) -> None:
        """Wait until each copy holds so many partitions."""

        async def held() -> bool:
            return all(len(self.services[n].share.owned()) == k for n, k in shares.items())

        await eventually(held, f"the shares are {shares}", within_s=THROUGH_S)


async def send(store: EventStore, rows: Sequence[NewRow]) -> None:
    """Append messages to a log in one step."""
    await store.commit(Step(rows=rows))


async def reached(harness: Harness, key: str) -> int:
    """Where the cursor of the partition of a key stands."""
    cursors = await harness.counter.cursors()
    return cursors.get(("gateway", COMMANDS, partition_of(key)), (0, 0))[1]


async def until_through(harness: Harness, *keys: str) -> None:
    """Wait until all messages of the keys' partitions, or of all, have moved their cursors."""
    wanted = {partition_of(key) for key in keys or KEYS}
    heads = await harness.gateway.heads([COMMANDS])
    ends = {partition: seq for (_, partition), seq in heads.items() if partition in wanted}

    async def through() -> bool:
        cursors = await harness.counter.cursors()
        return all(
            cursors.get(("gateway", COMMANDS, partition), (0, 0))[1] == end
            for partition, end in ends.items()
        )

    await eventually(through, "every message is through", within_s=THROUGH_S)


async def answers(harness: Harness) -> dict[str, list[str]]:
    """The answered commands by key, in order; one not done the first time is told as such."""
    found: dict[str, list[str]] = defaultdict(list)
    for recorded in await _events(harness):
        body = registry.decode(recorded.type, recorded.schema_version, recorded.data)
        if isinstance(body, CommandSettled):
            told = body.command_id if body.outcome == "done" else f"{body.command_id} {body.code}"
            found[key_of(recorded.stream)].append(told)
    return dict(found)


async def dead_letters(harness: Harness) -> list[tuple[str, int, str]]:
    """(key, seq, reason) of what the counter service told in the topic of dead letters."""
    every = dict.fromkeys(range(PARTITIONS), 0)
    rows = await harness.counter.read(DEAD_LETTER_TOPIC, every, count_max=1000)
    told = [registry.decode(row.type, row.schema_version, row.data) for row in rows]
    return [(each.key, each.seq, each.reason) for each in told]


async def _events(harness: Harness) -> Sequence[Recorded]:
    every = dict.fromkeys(range(PARTITIONS), 0)
    return await harness.counter.read(events_topic(SERVICE), every, count_max=100_000)


def expected(keys: Sequence[str], numbers: Sequence[int]) -> dict[str, list[str]]:
    """The answers when each command of `starts` was decided once, in order."""
    return {key: [f"{key}/{number}" for number in numbers] for key in keys}


class Flawed:
    """A bus that may repeat rows, and lack some for a while."""

    def __init__(self, bus: Bus, *, repeats: int = 0) -> None:
        self._bus = bus
        self._repeats = repeats
        self.missing: set[tuple[int, int]] = set()
        self.brought: Counter[str] = Counter()

    async def fetch(self, positions: Positions, *, count_max: int) -> Sequence[Recorded]:
        asked = {where: max(seq - self._repeats, 0) for where, seq in positions.items()}
        rows = await self._bus.fetch(asked, count_max=count_max)
        found = [each for each in rows if (each.partition, each.seq) not in self.missing]
        self.brought.update(each.event_id for each in found)
        return found

    async def heads(self, positions: Positions) -> Mapping[tuple[str, str, int], tuple[int, int]]:
        return await self._bus.heads(positions)

    async def lag(self, positions: Positions) -> int:
        return await self._bus.lag(positions)


class Deluded:
    """A store whose every copy believes that it holds all partitions, as a paused one would."""

    def __init__(self, store: EventStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def balance(self, *, copy_id: str, lease_s: float) -> frozenset[int]:
        return frozenset(range(PARTITIONS))

    async def leave(self, *, copy_id: str) -> None:
        """There is nothing to give back."""
