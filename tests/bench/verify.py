"""`verify`: how fast `seawall log verify` checks logs of a million rows, in rows per second.

Half of the rows are iterations, two events to a stream; half are protected VMs, a hundred events
to a stream. They lie in the table as they were committed, partitions mixed. A verification that
misses one row taken away afterwards does not count.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from typing import Any, Final

import asyncpg

from schemas import registry, replicator, scheduler
from schemas.envelope import Meta, events_topic
from schemas.ids import PARTITIONS
from shared.codec import encode_meta
from shared.databases import Databases
from shared.embedded import EmbeddedPostgres
from shared.migrations import migrate
from shared.process import LOGGED_SERVICES
from shared.verify.installation import Consumer, verify
from shared.verify.report import Checked
from tests.bench.harness import Goal, Measurement, folder, repeat, say

NAME = "verify"
UNIT = "events/s"
GOAL = Goal(least=100_000)

ROWS: Final = 1_000_000
_START: Final = dt.datetime(2026, 11, 22, 20, 0, tzinfo=dt.UTC)
_TIMEOUT_S: Final = 120.0

_FILL: Final = """
insert into {schema}.log (topic, partition, seq, stream, version, type, schema_version, data, meta)
select $1, n % $2, n / $2 + 1,
       format('%s:plan-%s:vm-%s', $3::text, n % $2, n / $2 / $4), (n / $2) % $4 + 1,
       $5, 1, $6::text::json, $7::text::json
from generate_series(0, $8 - 1) as n
"""
_HEADS: Final = """
insert into {schema}.heads select topic, partition, max(seq) from {schema}.log group by 1, 2
"""
_STREAMS: Final = """
insert into {schema}.streams select stream, max(version) from {schema}.log group by 1
"""


async def run() -> Measurement:
    """Write the logs, verify them five times, then once with a row missing."""
    async with folder() as home:
        server = EmbeddedPostgres(home)
        try:
            return await _measure(await asyncio.to_thread(server.start))
        finally:
            await asyncio.to_thread(server.stop)


async def _measure(dsn: str) -> Measurement:
    await _write_logs(dsn)
    say(f"  {ROWS} rows in the logs")
    found: list[list[Checked]] = []

    async def once() -> float:
        began = time.perf_counter()
        found.append(await _verify(dsn))
        return sum(each.rows for each in found[-1]) / (time.perf_counter() - began)

    values = await repeat(once)
    began = time.perf_counter()
    await _verify(dsn, decode=True)
    decoded_per_s = ROWS / (time.perf_counter() - began)
    whole = all(
        sum(each.rows for each in checked) == ROWS and not any(each.flaw_count for each in checked)
        for checked in found
    )
    flaws = await _flaws_with_a_row_missing(dsn)
    say(f"  whole: {whole}; with a row missing: {flaws}")
    return Measurement(
        values=values,
        parts={"rows": ROWS, "decoded_events_per_s": round(decoded_per_s), "flaws": flaws},
        sound=whole and flaws == ["seq-gap", "stream-gap"],
    )


async def _verify(dsn: str, *, decode: bool = False) -> list[Checked]:
    consumers = [Consumer(name, name) for name in LOGGED_SERVICES]
    return await verify(Databases(dsn), LOGGED_SERVICES, consumers=consumers, decode=decode)


async def _flaws_with_a_row_missing(dsn: str) -> list[str]:
    await _execute(dsn, "delete from scheduler.log where partition = 40 and seq = 5050")
    return [flaw.code for each in await _verify(dsn) for flaw in each.flaws]


async def _write_logs(dsn: str) -> None:
    for service in LOGGED_SERVICES:
        await migrate(dsn, service)
    finished = replicator.IterationFinished(
        plan="plan-1", vm="vm-1", state="completed", checkpoint_at=_START, bytes_read=1 << 30,
        disks=(replicator.DiskResult(disk="sda", state="completed", size=40 << 30),),
    )  # fmt: skip
    dispatched = scheduler.IterationDispatched(
        iteration="iteration:plan-1:vm-1:00000001", tick_at=_START, due_at=_START
    )
    await _fill(dsn, "replicator", "iteration", 2, finished)
    await _fill(dsn, "scheduler", "protected-vm", 100, dispatched)
    await _execute(dsn, "vacuum analyze")


async def _fill(dsn: str, service: str, family: str, versions: int, event: Any) -> None:
    name, _, data = registry.encode(event)
    meta = encode_meta(Meta(occurred_at=_START, correlation_id="tick-1"))
    arguments = (
        events_topic(service), PARTITIONS, family, versions,
        name, data.decode(), meta.decode(), ROWS // 2,
    )  # fmt: skip
    await _execute(dsn, _FILL.format(schema=service), *arguments)
    await _execute(dsn, _HEADS.format(schema=service))
    await _execute(dsn, _STREAMS.format(schema=service))


async def _execute(dsn: str, sql: str, *arguments: Any) -> None:
    connection = await asyncpg.connect(dsn, timeout=_TIMEOUT_S)
    try:
        await connection.execute(sql, *arguments, timeout=_TIMEOUT_S)
    finally:
        await connection.close(timeout=_TIMEOUT_S)
