"""Durable steps per second: 1,000 jobs × 8 no-op steps, two processes, submitted at once.

A step = its effect claimed, its handler awaited in a worker, its outcome committed before the
next step's effect exists. Beside it, in the same run, a bare SQL spike of the same shape.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
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
from shared.testing.counter import SERVICE, StartCounter
from tests.bench.harness import Goal, Measurement, folder, repeat, say
from tests.bench.spike import spike_steps_per_s

NAME = "steps"
UNIT = "steps/s"
GOAL = Goal(least=7_500, parts={"spike_ratio": Goal(least=0.35)}, any_of=True)

JOBS = 1_000
STEPS = 8
PROCESSES = 2
TIMEOUT_S = 60.0


async def run() -> Measurement:
    """Start a server and two copies of the service, then measure five times."""
    async with folder() as home, AsyncExitStack() as stack:
        server = EmbeddedPostgres(home / "pg")
        dsn = await asyncio.to_thread(server.start)
        stack.callback(server.stop)
        await migrate(dsn, SERVICE)
        processes = [await _start(dsn, home) for _ in range(PROCESSES)]
        pool = await open_pool(dsn, SERVICE)
        stack.push_async_callback(pool.close)
        store = await PostgresStore.open(pool, service=SERVICE)
        try:
            await _once(store, pool, jobs=100)
            values = await repeat(lambda: _once(store, pool, jobs=JOBS))
        finally:
            await _end(processes)
        spikes = [await spike_steps_per_s(dsn, jobs=JOBS, steps=STEPS) for _ in range(3)]
    spike = sorted(spikes)[1]
    value = sorted(values)[len(values) // 2]
    return Measurement(
        values=values, parts={"spike_steps_per_s": spike, "spike_ratio": value / spike}
    )


async def _start(dsn: str, home: Path) -> asyncio.subprocess.Process:
    env = {**os.environ, "SEAWALL_DATABASE_URL": dsn, "SEAWALL_HOME": str(home)}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shared.testing.counter_process", env=env
    )


async def _end(processes: Sequence[asyncio.subprocess.Process]) -> None:
    for process in processes:
        process.terminate()
    async with asyncio.timeout(15.0):
        await asyncio.gather(*(process.wait() for process in processes))


_runs = 0


async def _once(store: PostgresStore, pool: asyncpg.Pool, *, jobs: int) -> float:
    """Submit all jobs in one commit; steps per second until the last is complete."""
    global _runs
    _runs += 1
    rows = [_row(f"r{_runs}n{number}", number) for number in range(jobs)]
    events = await _events(store) + jobs * (STEPS + 1)
    began = time.perf_counter()
    await store.commit(Step(rows=rows))
    deadline = began + TIMEOUT_S
    # Counting jobs costs the measured database as much as some steps do: not before they can be.
    while await _events(store) < events or await _done(pool) < jobs:
        if time.perf_counter() > deadline:
            raise TimeoutError(f"{await _done(pool)} of {jobs} jobs after {TIMEOUT_S} s")
        await asyncio.sleep(0.01)
    took_s = time.perf_counter() - began
    say(f"    {jobs} jobs in {took_s:.2f} s")
    return jobs * STEPS / took_s


def _row(name: str, number: int) -> NewRow:
    key = f"k{number % 200}"
    body = StartCounter(command_id=name, counter=f"counter:{key}:{name}", steps=STEPS)
    kind, version, data = registry.encode(body)
    meta = Meta(occurred_at=SystemClock().now())
    topic = commands_topic(SERVICE)
    return NewRow(topic, partition_of(key), f"command:{key}:{name}", 0, kind, version, data, meta)


async def _events(store: PostgresStore) -> int:
    """Events in the service's log; a job has at least one for its start and one for each step."""
    return sum((await store.heads([events_topic(SERVICE)])).values())


async def _done(pool: asyncpg.Pool) -> int:
    """Jobs of this run whose last step is committed."""
    async with pool.acquire() as connection:
        count: int = await connection.fetchval(
            "SELECT count(*) FROM streams WHERE version = $1 AND stream LIKE $2",
            STEPS + 1,
            f"counter:%:r{_runs}n%",
        )
    return count
