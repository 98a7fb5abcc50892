"""Event committed → visible in the read models, at 500 events/s over a real broker: p99.

The gateway's log is written here and published by an outlet in this process; the projector is a
process of its own. Looking costs a query every few milliseconds, so a figure may be late by
`parts.look_ms_max` and is never early.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from contextlib import AsyncExitStack

import asyncpg

from schemas import registry
from schemas.envelope import Meta, events_topic
from schemas.gateway import CommandAccepted
from schemas.ids import PARTITIONS, partition_of
from shared.bus.kafka.fabric import KafkaFabric
from shared.bus.kafka.settings import KafkaSettings
from shared.bus.kafka.topics import ensure_topics
from shared.clock import SystemClock
from shared.embedded import EmbeddedPostgres
from shared.eventlog.port import NewRow, Step
from shared.eventlog.postgres import PostgresStore
from shared.migrations import migrate
from shared.news import LocalNews
from shared.postgres import open_pool
from shared.process import LOGGED_SERVICES
from shared.testing.kafka import KafkaCluster
from tests.bench.harness import Goal, Measurement, folder, repeat

NAME = "lag"
UNIT = "ms"
GOAL = Goal(most=150)

PER_SECOND = 500
BATCH = 5
SECONDS = 10
LOOK_EVERY_S = 0.004
TIMEOUT_S = 60.0
TOPIC = events_topic("gateway")
EVERYTHING = frozenset(range(PARTITIONS))


class Line:
    """From the log to the read models."""

    def __init__(self, store: PostgresStore, news: LocalNews, dsn: str) -> None:
        self._store = store
        self._news = news
        self._dsn = dsn
        self._runs = 0
        self.look_s_max = 0.0
        self.samples: list[float] = []

    async def once(self) -> float:
        """Write at the rate; the 99th percentile in ms."""
        self._runs += 1
        committed: dict[tuple[int, int], float] = {}
        seen: dict[tuple[int, int], float] = {}
        watching = asyncio.create_task(self._watch(seen))
        count = PER_SECOND * SECONDS
        began = time.perf_counter()
        for number in range(0, count, BATCH):
            due = began + number / PER_SECOND
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            rows = [self._row(number + each) for each in range(BATCH)]
            ends = await self._store.commit(Step(rows=rows))
            at = time.perf_counter()
            self._news.poke((TOPIC,))
            for (_, partition), last in ends.items():
                written = sum(row.partition == partition for row in rows)
                for seq in range(last - written + 1, last + 1):
                    committed[partition, seq] = at
        while not committed.keys() <= seen.keys():
            if time.perf_counter() - began > TIMEOUT_S:
                raise TimeoutError(f"{len(committed.keys() - seen.keys())} events are not visible")
            await asyncio.sleep(0.01)
        watching.cancel()
        waits = [1000 * max(seen[where] - at, 0) for where, at in committed.items()]
        self.samples += waits
        return statistics.quantiles(waits, n=100)[98]

    def _row(self, number: int) -> NewRow:
        key = f"k{number % 200}"
        name = f"r{self._runs}n{number}"
        body = CommandAccepted(
            command_id=name, to="scheduler", type="scheduler.run-plan", key=key, actor="admin"
        )
        kind, version, data = registry.encode(body)
        meta = Meta(occurred_at=SystemClock().now())
        return NewRow(
            TOPIC, partition_of(key), f"command:{key}:{name}", 1, kind, version, data, meta
        )

    async def _watch(self, seen: dict[tuple[int, int], float]) -> None:
        connection = await asyncpg.connect(self._dsn)
        last = await connection.fetchval("select coalesce(max(position), 0) from read.events")
        looked = time.perf_counter()
        try:
            while True:
                rows = await connection.fetch(
                    "select position, partition, seq from read.events where position > $1"
                    " order by position",
                    last,
                )
                now = time.perf_counter()
                self.look_s_max = max(self.look_s_max, now - looked)
                looked = now
                for row in rows:
                    seen[row["partition"], row["seq"]] = now
                    last = row["position"]
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            connection.terminate()


async def run() -> Measurement:
    """A broker, a projector, and five repetitions after a first that counts for nothing."""
    async with folder() as home, AsyncExitStack() as stack:
        server = EmbeddedPostgres(home / "pg")
        dsn = await asyncio.to_thread(server.start)
        stack.callback(server.stop)
        cluster = KafkaCluster(home / "kafka")
        await asyncio.to_thread(cluster.start)
        stack.callback(cluster.stop)
        for service in LOGGED_SERVICES:
            await migrate(dsn, service)
        kafka = KafkaSettings(servers=(cluster.servers,))
        await ensure_topics(LOGGED_SERVICES, kafka)
        pool = await open_pool(dsn, "gateway")
        stack.push_async_callback(pool.close)
        store = await PostgresStore.open(pool, service="gateway")
        news, clock = LocalNews(), SystemClock()
        fabric = KafkaFabric(kafka, name="bench", services=LOGGED_SERVICES, clock=clock)
        outlet = fabric.outlet(store, lambda: EVERYTHING, news=news)
        tasks = [asyncio.create_task(fabric.run()), asyncio.create_task(outlet.run())]
        environment = {
            **os.environ, "SEAWALL_DATABASE_URL": dsn, "SEAWALL_HOME": str(home),
            "SEAWALL_BUS": "kafka", "SEAWALL_KAFKA": cluster.servers,
            "SEAWALL_LOG_LEVEL": "warning",
        }  # fmt: skip
        projector = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.projector", env=environment
        )
        try:
            await _until_there(dsn)
            line = Line(store, news, dsn)
            await line.once()
            line.samples.clear()
            values = await repeat(line.once)
        finally:
            projector.terminate()
            await projector.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    parts = {
        "p50_ms": round(statistics.median(line.samples), 1),
        "max_ms": round(max(line.samples), 1),
        "events": len(line.samples),
        "look_ms_max": round(1000 * line.look_s_max, 1),
    }
    return Measurement(values=values, parts=parts)


async def _until_there(dsn: str) -> None:
    """Wait until the projector has made its tables."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            connection = await asyncpg.connect(dsn)
            try:
                if await connection.fetchval("select to_regclass('read.events') is not null"):
                    return
            finally:
                await connection.close()
            await asyncio.sleep(0.1)
