"""Durable commands of one sequential client, as a share of what the disk allows.

Each command is decided, its event folded, encoded and committed, and awaited before the next.
Beside it, in turns within the same run, a raw loop of one prepared autocommit INSERT of the same
bytes. `parts.batching_ratio` is the same through the engine's batching path, with a batch of one.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import asyncpg
import msgspec

from schemas.envelope import Meta, Received, events_topic
from schemas.ids import partition_of, stream_id
from schemas.registry import encode, published
from shared.decider import Decision, Family, on
from shared.embedded import EmbeddedPostgres
from shared.eventlog.port import Loaded, NewRow, Snapshot, Step
from shared.eventlog.postgres import PostgresStore
from shared.fold import SNAPSHOT_EVERY, Folder, Input, ServiceDefinition, StateCache
from shared.migrations import STORE_FILES, migrate_schema
from shared.postgres import open_pool
from tests.bench.harness import Goal, Measurement, folder, repeat

NAME = "commands"
UNIT = "ratio"
GOAL = Goal(least=0.6)

SERVICE = "bench"
Work = Callable[[], Awaitable[None]]

TURNS = 20
COMMANDS_PER_TURN = 50
WARM_UP = 300
STREAM = stream_id("account", "shop")
OTHER_STREAM = stream_id("account", "shop", "batching")
TOPIC = events_topic(SERVICE)
PARTITION = partition_of("shop")
NOTE = "a routine fact of ordinary length, as an iteration reports its end"


def _meta(at: dt.datetime) -> Meta:
    return Meta(occurred_at=at, actor="ops@example", correlation_id="command-0123456789ab")


META = _meta(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))


@published("bench.deposit")
class Deposit(msgspec.Struct, frozen=True, kw_only=True):
    """Adds an amount."""

    amount: int
    note: str


@published("bench.deposited")
class Deposited(msgspec.Struct, frozen=True, kw_only=True):
    """An amount was added."""

    amount: int
    balance: int
    note: str


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """The folded state."""

    balance: int = 0


def decide(account: Account, received: Received) -> Decision:
    """Accept the deposit."""
    deposit: Deposit = received.body
    balance = account.balance + deposit.amount
    return Decision(events=(Deposited(amount=deposit.amount, balance=balance, note=deposit.note),))


def evolve(account: Account, event: Deposited) -> Account:
    """The balance after the event."""
    return Account(balance=event.balance)


DEFINITION = ServiceDefinition(
    name=SERVICE,
    families=(
        Family(
            name="account",
            state=Account,
            initial=Account,
            evolve=evolve,
            is_terminal=lambda account: False,
        ),
    ),
    handlers=(on(Deposit, route=lambda received: OTHER_STREAM, decide=decide),),
    subscriptions=(),
)

RAW_TABLE = """
create table raw (
    topic text, partition int, seq bigint, stream text, version int, type text,
    schema_version int, data json, meta json, primary key (topic, partition, seq))
"""
RAW_INSERT = "insert into raw values ($1, $2, $3, $4, $5, $6, $7, $8, $9)"


async def run() -> Measurement:
    """Five repetitions of 1,000 commands and 1,000 inserts, in turns of 50."""
    async with folder() as home, AsyncExitStack() as stack:
        server = EmbeddedPostgres(home)
        dsn = await asyncio.to_thread(server.start)
        stack.callback(server.stop)
        await migrate_schema(dsn, SERVICE, folder=STORE_FILES)
        pool = await open_pool(dsn, SERVICE)
        stack.push_async_callback(pool.close)
        connection = await stack.enter_async_context(pool.acquire(timeout=5))
        await connection.execute(RAW_TABLE)
        store = await PostgresStore.open(pool, service=SERVICE)
        contenders = (_deciding(store), _batching(store), await _raw(connection))
        rates: list[list[float]] = []

        async def once() -> float:
            rates.append(await _measure(contenders))
            return rates[-1][0] / rates[-1][2]

        for work in contenders:
            await _turn(work, WARM_UP)
        values = await repeat(once)
    return Measurement(
        values=values,
        parts={
            "commands_per_s": round(statistics.median(rate[0] for rate in rates)),
            "raw_per_s": round(statistics.median(rate[2] for rate in rates)),
            "batching_ratio": round(statistics.median(rate[1] / rate[2] for rate in rates), 4),
        },
    )


async def _measure(contenders: Sequence[Work]) -> list[float]:
    """How often per second each was done, taking turns so that all meet the same machine."""
    spent_s = [0.0] * len(contenders)
    for _ in range(TURNS):
        for index, work in enumerate(contenders):
            spent_s[index] += await _turn(work, COMMANDS_PER_TURN)
    return [TURNS * COMMANDS_PER_TURN / spent for spent in spent_s]


async def _turn(work: Work, times: int) -> float:
    began_s = time.perf_counter()
    for _ in range(times):
        await work()
    return time.perf_counter() - began_s


def _deciding(store: PostgresStore) -> Work:
    """Decide one command and wait until its event is durable, with the usual snapshots."""
    account, version = Account(), 0

    async def command() -> None:
        nonlocal account, version
        received = Received(body=Deposit(amount=1, note=NOTE), meta=META, at=_now())
        (event,) = decide(account, received).events
        account, version = evolve(account, event), version + 1
        name, schema_version, data = encode(event)
        row = NewRow(
            TOPIC, PARTITION, STREAM, version, name, schema_version, data, _meta(received.at)
        )
        await store.commit(Step(rows=(row,), snapshots=_snapshots(account, version)))

    return command


def _snapshots(account: Account, version: int) -> tuple[Snapshot, ...]:
    if version % SNAPSHOT_EVERY:
        return ()
    return (Snapshot(STREAM, version, 1, msgspec.json.encode(account)),)


def _batching(store: PostgresStore) -> Work:
    """The same through the path that folds whatever has come together into one step."""
    cache = StateCache(DEFINITION)
    handlers = {handler.message: handler for handler in DEFINITION.handlers}
    cache.absorb({OTHER_STREAM: Loaded(None, ())})

    async def command() -> None:
        received = Received(body=Deposit(amount=1, note=NOTE), meta=META, at=_now())
        step = Folder(DEFINITION, cache, handlers).fold([Input(received=received)])
        await store.commit(step)

    return command


async def _raw(connection: asyncpg.pool.PoolConnectionProxy) -> Work:
    """One row of the same bytes per call, encoded beforehand."""
    insert = await connection.prepare(RAW_INSERT)
    name, schema_version, data = encode(Deposited(amount=1, balance=1_000, note=NOTE))
    meta = msgspec.json.encode(META)
    seq = 0

    async def row() -> None:
        nonlocal seq
        seq += 1
        await insert.fetch(TOPIC, PARTITION, seq, STREAM, seq, name, schema_version, data, meta)

    return row


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
