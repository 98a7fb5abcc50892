"""A bare SQL spike of the log and the effects table, to hold the engine against.

Two workers, each on one connection: claim 64 effects with skip locked, then one transaction
locks the heads in order, inserts the events, deletes the effects and inserts the next ones.
No deciders, no budgets, no leases: what the database alone can do with this shape.
"""

from __future__ import annotations

import asyncio
import time

import asyncpg

BATCH = 64
PARTITIONS = 64

SCHEMA = """
drop schema if exists spike cascade;
create schema spike;
create table spike.heads (partition int primary key, seq bigint not null) with (fillfactor = 40);
insert into spike.heads select n, 0 from generate_series(0, 63) n;
create table spike.log (partition int, seq bigint, stream text, version int, data json,
    primary key (partition, seq));
create unique index on spike.log (stream, version);
create table spike.effects (id bigserial primary key, stream text, partition int, step int,
    data json, claimed bool not null default false);
create index on spike.effects (id) where not claimed;
"""

CLAIM = """
with picked as (
    select id from spike.effects where not claimed order by id limit $1 for update skip locked)
update spike.effects e set claimed = true from picked where e.id = picked.id
returning e.id, e.stream, e.partition, e.step
"""

STEP = """
with work as (
    select * from unnest($1::bigint[], $2::text[], $3::int[], $4::int[])
        as w (id, stream, partition, step)),
counts as (select partition, count(*) n from work group by partition),
locked as (select h.partition, h.seq from spike.heads h join counts using (partition)
           order by h.partition for update of h),
moved as (update spike.heads h set seq = h.seq + c.n from counts c, locked l
          where h.partition = c.partition and l.partition = h.partition
          returning h.partition, h.seq - c.n as base),
logged as (insert into spike.log
    select w.partition, m.base + row_number() over (partition by w.partition), w.stream,
           w.step, $6 from work w join moved m using (partition)),
gone as (delete from spike.effects e using work w where e.id = w.id)
insert into spike.effects (stream, partition, step, data)
    select stream, partition, step + 1, $6 from work where step < $5
"""

DATA = '{"number": 1, "payload": "' + "x" * 120 + '"}'


async def spike_steps_per_s(dsn: str, *, jobs: int, steps: int) -> float:
    """Steps per second of the spike, two workers, until no effect is left."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(SCHEMA)
        await connection.execute(
            "insert into spike.effects (stream, partition, step, data) "
            "select 's' || n, n % 64, 1, $2::json from generate_series(1, $1::int) n",
            jobs,
            DATA,
        )
        began = time.perf_counter()
        done = await asyncio.gather(_worker(dsn, steps), _worker(dsn, steps))
        took_s = time.perf_counter() - began
    finally:
        await connection.close()
    assert sum(done) == jobs * steps, "every step of the spike was done once"
    return jobs * steps / took_s


async def _worker(dsn: str, steps: int) -> int:
    connection = await asyncpg.connect(dsn)
    done = idle = 0
    try:
        while idle < 20:
            rows = await connection.fetch(CLAIM, BATCH)
            if not rows:
                idle += 1
                await asyncio.sleep(0.001)
                continue
            idle = 0
            ids, streams, partitions, numbers = zip(*rows, strict=True)
            await connection.execute(STEP, ids, streams, partitions, numbers, steps, DATA)
            done += len(rows)
    finally:
        await connection.close()
    return done
