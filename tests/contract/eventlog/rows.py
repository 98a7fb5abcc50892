"""Builders of rows, timers and readings, so that a test names only what it is about."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from schemas.envelope import Meta
from schemas.ids import key_of, partition_of
from shared.eventlog.port import (
    CursorMove,
    DueTimer,
    EventStore,
    NewRow,
    NewTimer,
    Parked,
    Snapshot,
    Step,
)

TOPIC = "seawall.test.events"
OTHER = "seawall.other.commands"
LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
META = Meta(
    occurred_at=dt.datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=dt.UTC),
    actor="ops@example",
    correlation_id="command-1",
    causation_id="test.1.topic.3.4",
    traceparent="00-ab-cd-01",
)


def event(stream: str, version: int, data: bytes = b'{"n":1}') -> NewRow:
    partition = partition_of(key_of(stream))
    return NewRow(TOPIC, partition, stream, version, "test.counted", 2, data, META)


def events(stream: str, versions: Iterable[int]) -> list[NewRow]:
    return [event(stream, version) for version in versions]


def message(key: str, sender: str = "counter:a", data: bytes = b'{"m":1}') -> NewRow:
    return NewRow(OTHER, partition_of(key), sender, 0, "test.asked", 1, data, META)


def cursor(before: int, after: int, *, partition: int = 5, epoch: int = 1) -> CursorMove:
    return CursorMove("scheduler", epoch, OTHER, partition, before, after)


def timer(
    stream: str, name: str = "wake", due: dt.datetime = LONG_AGO, data: bytes = b'{"t":1}'
) -> NewTimer:
    return NewTimer(stream, name, partition_of(key_of(stream)), due, "test.woke", 3, data, META)


def snapshot(stream: str, version: int, schema: int = 1) -> Snapshot:
    return Snapshot(stream, version, schema, b'{"total":%d}' % version)


def parked(seq: int, reason: str = "unknown type") -> Parked:
    return Parked("scheduler", OTHER, 5, seq, "plan-a", reason, LONG_AGO)


async def due(store: EventStore, *, count_max: int = 100) -> list[DueTimer]:
    return list(await store.due_timers(range(64), count_max=count_max))


async def versions(store: EventStore, stream: str) -> list[int]:
    loaded = (await store.load({stream: -1}))[stream]
    return [row.version for row in loaded.events]


async def seqs(store: EventStore, topic: str, partition: int) -> list[int]:
    return [row.seq for row in await store.read(topic, {partition: 0}, count_max=1000)]


async def append(store: EventStore, *rows: NewRow) -> None:
    await store.commit(Step(rows=rows))
