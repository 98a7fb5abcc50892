"""A replicator's log, published on a real broker by our own relay, to be read by strangers."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple

from aiokafka import AIOKafkaProducer

from schemas import registry
from schemas.envelope import Meta, events_topic
from schemas.ids import PARTITIONS, partition_of, stream_id
from schemas.replicator import IterationFinished
from shared.bus.kafka.fabric import KafkaFabric
from shared.bus.kafka.settings import KafkaSettings
from shared.clock import SystemClock
from shared.eventlog.memory import MemoryStore
from shared.eventlog.port import NewRow, Step
from shared.news import LocalNews
from tests.waiting import eventually

SERVICES = ("gateway", "scheduler", "replicator", "recovery", "notifier")
TOPIC = events_topic("replicator")
EVERYTHING = frozenset(range(PARTITIONS))

PUBLISHED_S = 60.0
"""Hundreds of partitions that were just made take a busy machine a while to serve."""


class Finished(NamedTuple):
    """An iteration that ended `at`; without `checkpoint_at` it failed."""

    plan: str
    vm: str
    at: dt.datetime
    checkpoint_at: dt.datetime | None = None
    bytes_sent: int = 0


class Replicator:
    """A log and its relay; use as a context."""

    def __init__(self, settings: KafkaSettings, services: Sequence[str] = SERVICES) -> None:
        clock = SystemClock()
        self._settings = settings
        self._store = MemoryStore("replicator", clock=clock)
        self._fabric = KafkaFabric(settings, name="test", services=services, clock=clock)
        self._outlet = self._fabric.outlet(
            self._store, lambda: EVERYTHING, news=LocalNews(poll_s=0.02)
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._appended = 0

    async def __aenter__(self) -> Replicator:
        self._tasks = [asyncio.create_task(part.run()) for part in (self._fabric, self._outlet)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def finish(self, iterations: Sequence[Finished]) -> list[str]:
        """Publish the ends of iterations; their streams, in order."""
        rows = [self._row(each, number) for number, each in enumerate(iterations, self._appended)]
        return await self._append(rows)

    async def invent(self, plan: str, type_name: str, version: int) -> list[str]:
        """Publish an event of a type or version that there is none of yet."""
        row = self._row(Finished(plan, "vm", SystemClock().now()), self._appended)
        return await self._append(
            [
                NewRow(
                    row.topic, row.partition, row.stream, 1, type_name, version, row.data, row.meta
                )
            ]
        )

    async def repeat(self) -> None:
        """Publish the whole log again, as a relay does that lost its mark, and return then."""
        before = self._outlet.relay.published
        for partition in range(PARTITIONS):
            await self._outlet.relay.again(TOPIC, partition, 1)
        await self._until(before + self._appended)

    async def intrude(self, plan: str) -> None:
        """Put a tombstone and a stranger's record into the plan's partition."""
        producer = AIOKafkaProducer(bootstrap_servers=list(self._settings.servers))
        await producer.start()
        for value in (None, b"not even JSON"):
            await producer.send_and_wait(
                self._settings.prefix + TOPIC,
                value,
                key=plan.encode(),
                partition=partition_of(plan),
            )
        await producer.stop()

    def _row(self, end: Finished, number: int) -> NewRow:
        name, version, data = registry.encode(
            IterationFinished(
                plan=end.plan, vm=end.vm, state="completed" if end.checkpoint_at else "failed",
                checkpoint_at=end.checkpoint_at, bytes_sent=end.bytes_sent,
            )
        )  # fmt: skip
        stream = stream_id("iteration", end.plan, end.vm, f"{number:05}")
        meta = Meta(occurred_at=end.at)
        return NewRow(TOPIC, partition_of(end.plan), stream, 1, name, version, data, meta)

    async def _append(self, rows: list[NewRow]) -> list[str]:
        before = self._outlet.relay.published
        await self._store.commit(Step(rows=rows))
        self._appended += len(rows)
        await self._until(before + len(rows))
        return [row.stream for row in rows]

    async def _until(self, count: int) -> None:
        """Wait until so many rows were published and the marks have followed."""

        async def published() -> bool:
            marks = await self._store.published()
            return self._outlet.relay.published >= count and sum(marks.values()) == self._appended

        await eventually(published, f"{count} rows are published", within_s=PUBLISHED_S)
