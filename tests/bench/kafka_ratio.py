"""The cost of a broker: durable steps per second on Kafka ÷ those on the postgres bus.

1,000 runners × 8 legs, each begun by a message to the other service (shared/testing/race.py), two
processes with a copy of both services. Both sides run in turn, in one run, on one server.
`cpu_us_per_step` says who spent the processor's time on a step: our processes, the database, the
broker. Where their sum times the rate is the machine, the ratio is one of costs, not of waiting.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg

from schemas import registry
from schemas.envelope import Meta, commands_topic, events_topic
from schemas.ids import partition_of
from shared.clock import SystemClock
from shared.embedded import EmbeddedPostgres
from shared.eventlog.port import NewRow, Step
from shared.eventlog.postgres import PostgresStore
from shared.migrations import migrate
from shared.postgres import open_pool
from shared.testing.kafka import KafkaCluster
from shared.testing.race import SERVICES, RunLeg
from tests.bench.harness import REPETITIONS, Goal, Measurement, folder, say
from tests.bench.processes import cpu_s

NAME = "kafka-ratio"
UNIT = "ratio"
GOAL = Goal(parts={"kafka_ratio": Goal(least=0.8)})

RUNNERS = 1_000
LEGS = 8
PROCESSES = 2
TIMEOUT_S = 60.0


class Side:
    """A bus with its two processes and its database."""

    def __init__(self, name: str, dsn: str, home: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.values: list[float] = []
        self.costs: list[dict[str, float]] = []
        self.pids: list[int] = []
        self._dsn = dsn
        self._home = home
        self._environment = environment
        self._runs = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Both processes, until the end."""
        for service in SERVICES:
            await migrate(self._dsn, service)
        self._pool = await open_pool(self._dsn, SERVICES[0])
        self._store = await PostgresStore.open(self._pool, service=SERVICES[0])
        environment = {
            **os.environ,
            "SEAWALL_DATABASE_URL": self._dsn,
            "SEAWALL_HOME": str(self._home),
            "SEAWALL_LOG_LEVEL": "warning",
            **self._environment,
        }
        processes = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "shared.testing.race", env=environment
            )
            for _ in range(PROCESSES)
        ]
        self.pids = [process.pid for process in processes]
        try:
            yield
        finally:
            for process in processes:
                process.terminate()
            await asyncio.gather(*(process.wait() for process in processes))
            await self._pool.close()

    async def once(self, runners: int) -> float:
        """Start the runners in one commit; legs per second until the last is run."""
        self._runs += 1
        wanted = await self._events() + runners * LEGS
        rows = [_row(f"r{self._runs}n{number}", number) for number in range(runners)]
        began = time.perf_counter()
        await self._store.commit(Step(rows=rows))
        while await self._events() < wanted:
            if time.perf_counter() - began > TIMEOUT_S:
                raise TimeoutError(
                    f"{self.name}: {wanted - await self._events()} legs are missing"
                )
            await asyncio.sleep(0.01)
        return runners * LEGS / (time.perf_counter() - began)

    async def _events(self) -> int:
        topics = [events_topic(service) for service in SERVICES]
        async with self._pool.acquire() as connection:
            count: int = await connection.fetchval(
                "select coalesce((select sum(seq) from ping.heads where topic = any($1)), 0)"
                " + coalesce((select sum(seq) from pong.heads where topic = any($1)), 0)",
                topics,
            )
        return int(count)


async def run() -> Measurement:
    """Both sides in turn, after a first round that counts for nothing."""
    async with folder() as home, AsyncExitStack() as stack:
        server = EmbeddedPostgres(home / "pg")
        dsn = await asyncio.to_thread(server.start)
        stack.callback(server.stop)
        cluster = KafkaCluster(home / "kafka")
        await asyncio.to_thread(cluster.start)
        stack.callback(cluster.stop)
        kafka = {"SEAWALL_BUS": "kafka", "SEAWALL_KAFKA": cluster.servers}
        sides = []
        for name, environment in (("postgres", {}), ("kafka", kafka)):
            database = await _database(dsn, name)
            sides.append(Side(name, database, home / name, environment))
        for side in sides:
            await stack.enter_async_context(side.running())
            await side.once(100)
        for number in range(REPETITIONS):
            for side in sides:
                before = _spent(side, server, cluster)
                side.values.append(await side.once(RUNNERS))
                after = _spent(side, server, cluster)
                steps = RUNNERS * LEGS
                side.costs.append({who: (after[who] - before[who]) / steps for who in after})
                say(f"  {number + 1}/{REPETITIONS} {side.name}: {side.values[-1]:.0f} steps/s")
    postgres, kafka_values = (side.values for side in sides)
    ratios = tuple(k / p for k, p in zip(kafka_values, postgres, strict=True))
    median = sorted(ratios)[len(ratios) // 2]
    return Measurement(
        values=ratios,
        parts={
            "kafka_ratio": median,
            "postgres": postgres,
            "kafka": kafka_values,
            "cpu_us_per_step": {side.name: _median_costs(side) for side in sides},
        },
    )


def _median_costs(side: Side) -> dict[str, int]:
    return {
        who: round(statistics.median(cost[who] for cost in side.costs) * 1e6)
        for who in side.costs[0]
    }


def _spent(side: Side, server: EmbeddedPostgres, cluster: KafkaCluster) -> dict[str, float]:
    """Seconds of processor time so far."""
    return {
        "ours": sum(map(cpu_s, side.pids)),
        "database": cpu_s(server.pid or 0),
        "broker": sum(map(cpu_s, cluster.pids)),
    }


async def _database(dsn: str, name: str) -> str:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f'create database "race_{name}"')
    finally:
        await connection.close()
    return dsn.replace("/postgres?", f"/race_{name}?")


def _row(name: str, number: int) -> NewRow:
    key = f"k{number % 200}"
    body = RunLeg(runner=f"runner:{key}:{name}", number=1, legs=LEGS)
    kind, version, data = registry.encode(body)
    meta = Meta(occurred_at=SystemClock().now())
    topic = commands_topic(SERVICES[0])
    return NewRow(topic, partition_of(key), f"command:{key}:{name}", 0, kind, version, data, meta)
