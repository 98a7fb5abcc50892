"""The store in PostgreSQL keeps the store's contract, and hands the queue its share in order."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncpg
import msgspec
import pytest

from schemas.registry import published
from shared.decider import Effect, Need, WorkClass
from shared.errors import InvariantBroken, Permanent, Transient
from shared.eventlog.port import EventStore, Fenced, NewEffect, Settled, Step
from shared.eventlog.postgres import PostgresStore
from shared.migrations import STORE_FILES, find_migrations, migrate_schema
from shared.postgres import open_pool
from tests.contract.eventlog.rows import META, append, event, versions
from tests.contract.eventlog.suite import A, Harness, StoreContract
from tests.waiting import eventually

TABLES = (
    "heads", "streams", "log", "snapshots", "cursors", "timers", "reservations", "parked",
    "blobs", "copies", "partition_leases",
)  # fmt: skip


@asynccontextmanager
async def open_store(dsn: str) -> AsyncIterator[PostgresStore]:
    pool = await open_pool(dsn, "test", size_max=8)
    try:
        yield await PostgresStore.open(pool, service="test")
    finally:
        await pool.close()


class PostgresHarness(Harness):
    def __init__(self, store: PostgresStore, dsn: str) -> None:
        self.store: EventStore = store
        self._dsn = dsn

    async def pass_time(self, seconds: float) -> None:
        await self._ask(f"select clock_timestamp() from pg_sleep({seconds})")

    async def now(self) -> dt.datetime:
        return await self._ask("select clock_timestamp()")

    async def _ask(self, query: str) -> dt.datetime:
        connection = await asyncpg.connect(self._dsn, timeout=5)
        try:
            answer = await connection.fetchval(query, timeout=10)
        finally:
            await connection.close(timeout=5)
        assert isinstance(answer, dt.datetime)
        return answer


@pytest.fixture(scope="module")
def dsn(module_postgres_dsn: str) -> Iterator[str]:
    asyncio.run(migrate_schema(module_postgres_dsn, "test", folder=STORE_FILES))
    yield module_postgres_dsn


@pytest.fixture
async def harness(dsn: str) -> AsyncIterator[Harness]:
    connection = await asyncpg.connect(dsn, timeout=5)
    await connection.execute(
        "truncate " + ", ".join(f"test.{table}" for table in TABLES), timeout=10
    )
    await connection.close(timeout=5)
    async with open_store(dsn) as store:
        yield PostgresHarness(store, dsn)


@pytest.fixture
def store(harness: Harness) -> EventStore:
    return harness.store


class TestPostgresStore(StoreContract):
    pass


@published("test.copy-disk", version=1)
class CopyDisk(msgspec.Struct, frozen=True, kw_only=True):
    disk: str


# What shared/effects/sql must define, here writing down what it is given.
RECORDING_QUEUE = """
create schema test_work;
create table test_work.calls (call json);
create function test_work.apply_work(
    p_service text,
    e_id text[], e_stream text[], e_partition int[], e_kind text[], e_type text[],
    e_schema_version int[], e_data json[], e_meta json[], e_class int[], e_priority int[],
    e_plan text[], e_due timestamptz[], e_not_before timestamptz[], e_interval_s float8[],
    e_needs text[], e_stream_version int[],
    s_id text[], s_lease bigint[], s_requeue_at timestamptz[], s_attempt int[],
    c_id text[], r_budget text[], r_stream text[]
) returns void language plpgsql as $$
begin
    if 99 = any (s_lease) then
        raise exception using errcode = 'SW002', message = 'claim',
            detail = json_build_array(s_id[1])::text;
    end if;
    insert into test_work.calls select json_build_object(
        'service', p_service,
        'effect', json_build_array(e_id, e_stream, e_partition, e_kind, e_type, e_schema_version,
            e_data, e_meta, e_class, e_priority, e_plan, e_due, e_not_before, e_interval_s,
            e_needs, e_stream_version),
        'settled', json_build_array(s_id, s_lease, s_requeue_at, s_attempt),
        'cancelled', c_id,
        'seats', json_build_array(r_budget, r_stream));
end $$;
"""


async def _recorded_calls(dsn: str) -> list[dict[str, object]]:
    connection = await asyncpg.connect(dsn, timeout=5)
    rows = await connection.fetch("select call from test_work.calls", timeout=10)
    await connection.close(timeout=5)
    return [json.loads(row["call"]) for row in rows]


@pytest.fixture
async def queue_dsn(postgres_dsn: str) -> str:
    await migrate_schema(postgres_dsn, "test", folder=STORE_FILES)
    connection = await asyncpg.connect(postgres_dsn, timeout=5)
    await connection.execute(RECORDING_QUEUE, timeout=10)
    await connection.close(timeout=5)
    return postgres_dsn


async def test_the_work_queue_gets_its_share_of_the_step(queue_dsn: str) -> None:
    due = dt.datetime(2026, 3, 4, 5, 6, 7, tzinfo=dt.UTC)
    effect = Effect(
        part="copy/d0", kind="copy", payload=CopyDisk(disk="d0"), due=due,
        work_class=WorkClass.CHECKPOINT, priority=4, plan="shop", interval_s=900,
        needs=(Need(budget="west/put", mode="rate"), Need(budget="west/copy", mode="hold")),
    )  # fmt: skip
    async with open_store(queue_dsn) as store:
        await store.commit(
            Step(
                rows=[event(A, 1), event(A, 2)],
                effects=[NewEffect(A, 7, effect, META)],
                settled=[Settled("counter:x/old", 12), Settled("counter:y/old", 13, due, 2)],
                cancelled_effects=["counter:z/old"],
                released_seats=[("west/snapshots", A)],
            )
        )
        await append(store, event(A, 3))
    (call,) = await _recorded_calls(queue_dsn)
    stamp = "2026-03-04T05:06:07+00:00"
    assert call == {
        "service": "test",
        "effect": [
            [f"{A}/copy/d0"], [A], [7], ["copy"], ["test.copy-disk"], [1],
            [{"disk": "d0"}], [json.loads(msgspec.json.encode(META))],
            [1], [4], ["shop"], [stamp], [None], [900],
            ["hold west/copy\nrate west/put"], [2],
        ],
        "settled": [["counter:x/old", "counter:y/old"], [12, 13], [None, stamp], [0, 2]],
        "cancelled": ["counter:z/old"],
        "seats": [["west/snapshots"], [A]],
    }  # fmt: skip


async def test_a_fenced_claim_undoes_the_step(queue_dsn: str) -> None:
    async with open_store(queue_dsn) as store:
        with pytest.raises(Fenced) as fenced:
            await store.commit(Step(rows=[event(A, 1)], settled=[Settled("counter:x/old", 99)]))
        assert (fenced.value.what, fenced.value.names) == ("claim", ("counter:x/old",))
        assert await versions(store, A) == []


async def test_a_store_that_was_not_migrated_needs_a_person(postgres_dsn: str) -> None:
    with pytest.raises(Permanent) as permanent:
        async with open_store(postgres_dsn):
            pass
    assert permanent.value.remedy


async def test_an_unreachable_database_is_transient() -> None:
    with pytest.raises(Transient) as transient:
        await open_pool("postgresql://nobody@127.0.0.1:1/none", "test")
    assert transient.value.code == "database-unreachable"


async def test_a_connection_lost_during_a_commit_is_transient_and_replaced(dsn: str) -> None:
    blocker = await asyncpg.connect(dsn, timeout=5)

    async def ended() -> bool:
        return bool(
            await blocker.fetchval(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                " where application_name = 'seawall-test' and wait_event_type = 'Lock'", timeout=5,
            )
        )  # fmt: skip

    async with open_store(dsn) as store:
        async with blocker.transaction():
            await blocker.execute("lock table test.heads", timeout=5)
            commit = asyncio.create_task(append(store, event("counter:lost", 1)))
            await eventually(ended, "the commit waits and is ended")
            with pytest.raises(Transient):
                await commit
        await append(store, event("counter:lost", 1))
        assert await versions(store, "counter:lost") == [1]
    await blocker.close(timeout=5)


async def test_a_call_ends_when_its_time_is_over(dsn: str) -> None:
    pool = await open_pool(dsn, "test", command_timeout_s=0.3)
    blocker = await asyncpg.connect(dsn, timeout=5)
    try:
        store = await PostgresStore.open(pool, service="test")
        async with blocker.transaction():
            await blocker.execute("lock table test.heads", timeout=5)
            with pytest.raises(Transient):
                await append(store, event("counter:slow", 1))
        await append(store, event("counter:slow", 1))
    finally:
        await blocker.close(timeout=5)
        await pool.close()


async def test_migrations_run_once_however_many_start(postgres_dsn: str) -> None:
    runs = await asyncio.gather(
        *(migrate_schema(postgres_dsn, "test", folder=STORE_FILES) for _ in range(4))
    )
    names = [f"test/{migration.name}" for migration in find_migrations(STORE_FILES)]
    assert sorted(runs, key=len)[-1] == names
    assert sum(map(len, runs)) == len(names)


async def test_a_migration_that_changed_is_refused(
    postgres_dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("sql")
    (folder / "0001_pre_a.sql").write_text("create table a (n int)")
    (folder / "0002_post_b.sql").write_text("create table b (n int)")
    assert await migrate_schema(postgres_dsn, "s", folder=folder, phases=("pre",)) == [
        "s/0001_pre_a"
    ]
    assert await migrate_schema(postgres_dsn, "s", folder=folder) == ["s/0002_post_b"]
    (folder / "0001_pre_a.sql").write_text("create table a (n bigint)")
    with pytest.raises(InvariantBroken):
        await migrate_schema(postgres_dsn, "s", folder=folder)


async def test_a_migration_that_fails_leaves_nothing(
    postgres_dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("sql")
    (folder / "0001_pre_a.sql").write_text("create table a (n int); select nonsense")
    with pytest.raises(Permanent):
        await migrate_schema(postgres_dsn, "s", folder=folder)
    (folder / "0001_pre_a.sql").write_text("create table a (n int)")
    assert await migrate_schema(postgres_dsn, "s", folder=folder) == ["s/0001_pre_a"]
