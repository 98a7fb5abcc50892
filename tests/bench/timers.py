"""10,000 durable timers due at one instant: seconds until the last is decided.

The counter service sets them; deciding one commits the effect it asks for. Nothing works the
effects off, so that only timers are measured.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import AsyncExitStack

import asyncpg

from schemas import registry
from schemas.envelope import Meta, commands_topic
from schemas.ids import partition_of
from shared.clock import SystemClock
from shared.embedded import EmbeddedPostgres
from shared.eventlog.port import NewRow, Step
from shared.eventlog.postgres import PostgresStore
from shared.migrations import migrate
from shared.postgres import open_pool
from shared.testing.counter import SERVICE, StartCounter
from tests.bench.harness import Goal, Measurement, folder, repeat

NAME = "timers"
UNIT = "s"
GOAL = Goal(most=1.0)

TIMERS = 10_000
BATCH = 1_000
AHEAD_S = 60.0
TIMEOUT_S = 60.0


async def run() -> Measurement:
    """One service process; five times 10,000 timers."""
    async with folder() as home, AsyncExitStack() as stack:
        server = EmbeddedPostgres(home / "pg")
        dsn = await asyncio.to_thread(server.start)
        stack.callback(server.stop)
        await migrate(dsn, SERVICE)
        env = {
            **os.environ,
            "SEAWALL_DATABASE_URL": dsn,
            "SEAWALL_HOME": str(home),
            "COUNTER_IDLE": "1",
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "shared.testing.counter_process", env=env
        )
        pool = await open_pool(dsn, SERVICE)
        stack.push_async_callback(pool.close)
        store = await PostgresStore.open(pool, service=SERVICE)
        try:
            numbers = iter(range(100))
            values = await repeat(lambda: _once(store, pool, next(numbers)))
        finally:
            process.terminate()
            await process.wait()
    return Measurement(values=values)


async def _once(store: PostgresStore, pool: asyncpg.Pool, number: int) -> float:
    began = time.time()
    for start in range(0, TIMERS, BATCH):
        delay_s = began + AHEAD_S - time.time()
        rows = [_row(number, n, delay_s) for n in range(start, start + BATCH)]
        await store.commit(Step(rows=rows))
    await _until(pool, at_least=TIMERS, timeout_s=TIMEOUT_S)
    due = await _last_due(pool)
    await asyncio.sleep(max(due - time.time(), 0))
    await _until(pool, at_least=None, timeout_s=TIMEOUT_S)
    return time.time() - due


def _row(number: int, index: int, delay_s: float) -> NewRow:
    key = f"k{index % 200}"
    name = f"r{number}n{index}"
    body = StartCounter(command_id=name, counter=f"counter:{key}:{name}", steps=1, delay_s=delay_s)
    kind, version, data = registry.encode(body)
    meta = Meta(occurred_at=SystemClock().now())
    topic = commands_topic(SERVICE)
    return NewRow(topic, partition_of(key), f"command:{key}:{name}", 0, kind, version, data, meta)


async def _count(pool: asyncpg.Pool) -> int:
    async with pool.acquire() as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM timers")
        return count


async def _last_due(pool: asyncpg.Pool) -> float:
    """Make all of them due at one instant, a moment from now; gives it."""
    async with pool.acquire() as connection:
        due: float = await connection.fetchval(
            "WITH moment AS (SELECT now() + interval '1 second' AS at), "
            "moved AS (UPDATE timers SET due = (SELECT at FROM moment) RETURNING due) "
            "SELECT extract(epoch FROM max(due))::float8 FROM moved"
        )
        return due


async def _until(pool: asyncpg.Pool, *, at_least: int | None, timeout_s: float) -> None:
    """Wait until so many timers are set, or none is left."""
    deadline = time.monotonic() + timeout_s
    while True:
        count = await _count(pool)
        if (at_least is None and count == 0) or (at_least is not None and count >= at_least):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{count} timers after {timeout_s} s")
        await asyncio.sleep(0.005)
