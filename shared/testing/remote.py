"""Ports as a process sees them over a wire: calls take time, fail, or their answers are lost.

Owns the wire. What is behind it is a memory twin that decides in one instant, as a database's
transaction does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from schemas.envelope import Recorded
from shared.bus.port import Bus, Positions
from shared.effects.port import (
    Budget,
    BudgetState,
    Claimed,
    ClaimResult,
    Lease,
    Waiting,
    WorkQueue,
)
from shared.errors import Transient
from shared.eventlog.port import Asked, DueTimer, EventStore, Loaded, Parked, Step
from shared.news import LocalNews

T = TypeVar("T")


class Weather(msgspec.Struct, kw_only=True):
    """How the world treats its wires; may change at any time.

    `fault_share` of calls fail, half of them after they were done. `away`: none gets through.
    """

    latency_s_max: float = 0.004
    fault_share: float = 0.0
    away: bool = False
    news_lost_share: float = 0.0


class Wire:
    """One process's way to the database."""

    def __init__(
        self, weather: Weather, chance: random.Random, *, served: Callable[[str], None]
    ) -> None:
        """`served` is told the verb of every call that was done, before its answer leaves."""
        self._weather = weather
        self._chance = chance
        self._served = served

    async def call(self, verb: str, work: Callable[[], Awaitable[T]]) -> T:
        """The answer to `work`, later. Raises Transient as the weather is."""
        await self._travel()
        if self._weather.away or self._chance.random() * 2 < self._weather.fault_share:
            raise Transient(f"{verb}: the database is away", code="away")
        answer = await work()
        self._served(verb)
        await self._travel()
        if self._chance.random() * 2 < self._weather.fault_share:
            raise Transient(f"{verb}: the answer was lost", code="answer-lost")
        return answer

    async def _travel(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, self._weather.latency_s_max))


class RemoteStore:
    """A store at the other end of a wire."""

    def __init__(self, store: EventStore, wire: Wire) -> None:
        self._store = store
        self._wire = wire

    @property
    def service(self) -> str:
        return self._store.service

    @property
    def epoch(self) -> int:
        return self._store.epoch

    async def commit(self, step: Step) -> Mapping[tuple[str, int], int]:
        return await self._wire.call("commit", lambda: self._store.commit(step))

    async def load(self, streams: Mapping[str, int]) -> Mapping[str, Loaded]:
        return await self._wire.call("load", lambda: self._store.load(streams))

    async def heads(self, topics: Iterable[str]) -> Mapping[tuple[str, int], int]:
        return await self._wire.call("heads", lambda: self._store.heads(topics))

    async def read(
        self, topic: str, after: Mapping[int, int], *, count_max: int
    ) -> Sequence[Recorded]:
        return await self._wire.call(
            "read", lambda: self._store.read(topic, after, count_max=count_max)
        )

    async def cursors(self) -> Mapping[tuple[str, str, int], tuple[int, int]]:
        return await self._wire.call("cursors", self._store.cursors)

    async def due_timers(self, partitions: Sequence[int], *, count_max: int) -> Sequence[DueTimer]:
        return await self._wire.call(
            "due_timers", lambda: self._store.due_timers(partitions, count_max=count_max)
        )

    async def next_timer_in_s(self, partitions: Sequence[int]) -> float | None:
        return await self._wire.call("next_timer", lambda: self._store.next_timer_in_s(partitions))

    async def parked(self) -> Sequence[Parked]:
        return await self._wire.call("parked", self._store.parked)

    async def ask_parked(self, parked: Sequence[Parked], *, asked: Asked) -> int:
        return await self._wire.call(
            "ask_parked", lambda: self._store.ask_parked(parked, asked=asked)
        )

    async def put_blob(self, content: bytes) -> str:
        return await self._wire.call("put_blob", lambda: self._store.put_blob(content))

    async def get_blob(self, sha256: str) -> bytes | None:
        return await self._wire.call("get_blob", lambda: self._store.get_blob(sha256))

    async def published(self) -> Mapping[tuple[str, int], int]:
        return await self._wire.call("published", self._store.published)

    async def mark_published(self, moves: Mapping[tuple[str, int], tuple[int, int]]) -> None:
        await self._wire.call("mark_published", lambda: self._store.mark_published(moves))

    async def publish_again(self, topic: str, partition: int, seq: int) -> None:
        await self._wire.call(
            "publish_again", lambda: self._store.publish_again(topic, partition, seq)
        )

    async def balance(self, *, copy_id: str, lease_s: float) -> frozenset[int]:
        return await self._wire.call(
            "balance", lambda: self._store.balance(copy_id=copy_id, lease_s=lease_s)
        )

    async def leave(self, *, copy_id: str) -> None:
        await self._wire.call("leave", lambda: self._store.leave(copy_id=copy_id))


class RemoteQueue:
    """A work queue at the other end of a wire."""

    def __init__(self, queue: WorkQueue, wire: Wire) -> None:
        self._queue = queue
        self._wire = wire

    async def lease_worker(self, worker: str, *, service: str, lease_s: float) -> Lease:
        return await self._wire.call(
            "lease_worker",
            lambda: self._queue.lease_worker(worker, service=service, lease_s=lease_s),
        )

    async def heartbeat(self, lease: Lease) -> Sequence[str]:
        return await self._wire.call("heartbeat", lambda: self._queue.heartbeat(lease))

    async def end_lease(self, lease: Lease) -> None:
        await self._wire.call("end_lease", lambda: self._queue.end_lease(lease))

    async def claim(self, lease: Lease, *, kinds: Sequence[str], count_max: int) -> ClaimResult:
        return await self._wire.call(
            "claim", lambda: self._queue.claim(lease, kinds=kinds, count_max=count_max)
        )

    async def unanswered(self, lease: Lease, known: Collection[str]) -> Sequence[Claimed]:
        return await self._wire.call("unanswered", lambda: self._queue.unanswered(lease, known))

    async def renew_claims(self, lease: Lease, effect_ids: Sequence[str]) -> None:
        await self._wire.call("renew_claims", lambda: self._queue.renew_claims(lease, effect_ids))

    async def define(self, budgets: Sequence[Budget]) -> None:
        await self._wire.call("define", lambda: self._queue.define(budgets))

    async def budgets(self) -> Sequence[BudgetState]:
        return await self._wire.call("budgets", self._queue.budgets)

    async def waiting(self, *, count_max: int) -> Sequence[Waiting]:
        return await self._wire.call("waiting", lambda: self._queue.waiting(count_max=count_max))


class RemoteBus:
    """A bus at the other end of a wire. Now and then it brings again what was read before."""

    def __init__(
        self, bus: Bus, wire: Wire, *, chance: random.Random, repeat_share: float
    ) -> None:
        self._bus = bus
        self._wire = wire
        self._chance = chance
        self._repeat_share = repeat_share

    async def fetch(self, positions: Positions, *, count_max: int) -> Sequence[Recorded]:
        asked = positions
        if self._chance.random() < self._repeat_share:
            back = self._chance.randint(1, 3)
            asked = {where: max(seq - back, 0) for where, seq in positions.items()}
        return await self._wire.call("fetch", lambda: self._bus.fetch(asked, count_max=count_max))

    async def heads(self, positions: Positions) -> Mapping[tuple[str, str, int], tuple[int, int]]:
        return await self._wire.call("heads", lambda: self._bus.heads(positions))

    async def lag(self, positions: Positions) -> int:
        return await self._wire.call("lag", lambda: self._bus.lag(positions))


class Town:
    """Carries news between processes, coalesced and late; some of it never arrives."""

    def __init__(self, weather: Weather, chance: random.Random, *, delay_s: float = 0.01) -> None:
        self._weather = weather
        self._chance = chance
        self._delay_s = delay_s
        self._members: list[TownNews] = []

    def join(self, *, poll_s: float) -> TownNews:
        """The news of one process."""
        news = TownNews(self, poll_s=poll_s)
        self._members.append(news)
        return news

    def leave(self, news: TownNews) -> None:
        """Its process is no more."""
        self._members.remove(news)

    def spread(self, sender: TownNews, topics: Collection[str]) -> None:
        """Wake the others."""
        for member in self._members:
            if member is sender or self._chance.random() < self._weather.news_lost_share:
                continue
            member.hear(topics)

    def publish_later(self, flush: Callable[[], None]) -> None:
        """Call `flush` when news goes out next; it goes out whatever becomes of its sender."""
        asyncio.get_running_loop().call_later(self._delay_s, flush)


class TownNews(LocalNews):
    """News of one process: its own at once, that of others when the town brings it."""

    def __init__(self, town: Town, *, poll_s: float) -> None:
        super().__init__(poll_s=poll_s)
        self._town = town
        self._pending: set[str] = set()

    def poke(self, topics: Collection[str]) -> None:
        super().poke(topics)
        if topics and not self._pending:
            self._town.publish_later(self._flush)
        self._pending.update(topics)

    def hear(self, topics: Collection[str]) -> None:
        """News from elsewhere."""
        super().poke(topics)

    def _flush(self) -> None:
        topics, self._pending = self._pending, set()
        self._town.spread(self, topics)
