"""Durable commands of one sequential client, as a share of what the disk allows.

Each command goes through the engine's own path: folded by its decider, committed as one event,
awaited before the next. Beside it, in turns within the same run, a raw loop of one prepared
autocommit INSERT of the same bytes.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import asyncpg
import msgspec

from schemas.envelope import Meta, Received, events_topic
from schemas.ids import partition_of, stream_id
from schemas.registry import encode, published
from shared.decider import Decision, Family, on
from shared.embedded import EmbeddedPostgres
from shared.eventlog.port import Loaded
from shared.eventlog.postgres import PostgresStore
from shared.fold import Folder, Input, ServiceDefinition, StateCache
from shared.migrations import STORE_FILES, migrate_schema
from shared.postgres import Pool, open_pool
from tests.bench.harness import Goal, Measurement, folder, repeat

NAME = "commands"
UNIT = "ratio"
GOAL = Goal(least=0.6)

SERVICE = "bench"
TURNS = 20
COMMANDS_PER_TURN = 50
WARM_UP = 300
STREAM = stream_id("account", "shop")
TOPIC = events_topic(SERVICE)
PARTITION = partition_of("shop")
NOTE = "a routine fact of ordinary length, as an iteration reports its end"


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
    handlers=(on(Deposit, route=lambda received: STREAM, decide=decide),),
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
        command, insert = await _client(pool), await _raw(connection)
        rates: list[tuple[float, float]] = []

        async def once() -> float:
            rates.append(await _measure(command, insert))
            return rates[-1][0] / rates[-1][1]

        await _turn(command, WARM_UP)
        await _turn(insert, WARM_UP)
        values = await repeat(once)
    return Measurement(
        values=values,
        parts={
            "commands_per_s": round(statistics.median(rate[0] for rate in rates)),
            "raw_per_s": round(statistics.median(rate[1] for rate in rates)),
        },
    )


async def _measure(
    command: Callable[[], Awaitable[None]], insert: Callable[[], Awaitable[None]]
) -> tuple[float, float]:
    """Commands and inserts per second, taking turns so that both meet the same machine."""
    spent_s = [0.0, 0.0]
    for _ in range(TURNS):
        spent_s[0] += await _turn(command, COMMANDS_PER_TURN)
        spent_s[1] += await _turn(insert, COMMANDS_PER_TURN)
    count = TURNS * COMMANDS_PER_TURN
    return count / spent_s[0], count / spent_s[1]


async def _turn(work: Callable[[], Awaitable[None]], times: int) -> float:
    began_s = time.perf_counter()
    for _ in range(times):
        await work()
    return time.perf_counter() - began_s


async def _client(pool: Pool) -> Callable[[], Awaitable[None]]:
    """A client that sends one command and waits until its event is durable."""
    store = await PostgresStore.open(pool, service=SERVICE)
    cache = StateCache(DEFINITION)
    handlers = {handler.message: handler for handler in DEFINITION.handlers}
    cache.absorb({STREAM: Loaded(None, ())})

    async def command() -> None:
        received = Received(body=Deposit(amount=1, note=NOTE), meta=_meta(), at=_now())
        step = Folder(DEFINITION, cache, handlers).fold([Input(received=received)])
        await store.commit(step)

    return command


async def _raw(connection: asyncpg.pool.PoolConnectionProxy) -> Callable[[], Awaitable[None]]:
    """One row of the same bytes per call, encoded beforehand."""
    insert = await connection.prepare(RAW_INSERT)
    name, schema_version, data = encode(Deposited(amount=1, balance=1_000, note=NOTE))
    meta = msgspec.json.encode(_meta())
    seq = 0

    async def row() -> None:
        nonlocal seq
        seq += 1
        await insert.fetch(TOPIC, PARTITION, seq, STREAM, seq, name, schema_version, data, meta)

    return row


def _meta() -> Meta:
    return Meta(occurred_at=_now(), actor="ops@example", correlation_id="command-0123456789ab")


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
