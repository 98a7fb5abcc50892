"""The work queue in PostgreSQL keeps the queue's contract, also when several claim at once."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from shared.effects import claiming
from shared.effects.postgres import PostgresWork
from shared.effects.select import Selection
from shared.eventlog.port import EventStore, Fenced, Settled, Step
from shared.eventlog.postgres import PostgresStore
from shared.migrations import migrate
from shared.postgres import Pool, open_pool
from tests.contract.effects.suite import WorkContract
from tests.contract.effects.work import (
    LEASE_S,
    PLATFORM_TIMEOUT_S,
    Actor,
    actor,
    bucket,
    effect,
    hold,
    in_use,
    rate,
    seat,
    seats,
    slots,
)

SERVICES = ("replicator", "recovery")
TABLES = (
    "workers", "budgets", "lanes", "lane_budgets", "effects", "seats", "slot_returns", "turns",
    "answers",
)  # fmt: skip


class PostgresHarness:
    """One process's pools, or several queues over the same tables."""

    def __init__(self, pools: dict[str, Pool], stores: dict[str, EventStore]) -> None:
        self.pools = pools
        self._stores = stores
        self.queue = self.another_queue()

    def another_queue(self) -> PostgresWork:
        return PostgresWork(
            self.pools["replicator"],
            platform_timeout_s=PLATFORM_TIMEOUT_S,
            quick_return_kinds=["script"],
        )

    def store(self, service: str) -> EventStore:
        return self._stores[service]

    async def pass_time(self, seconds: float) -> None:
        await self._ask(f"select clock_timestamp() from pg_sleep({seconds})")

    async def now(self) -> dt.datetime:
        return await self._ask("select clock_timestamp()")

    async def _ask(self, query: str) -> dt.datetime:
        answer = await self.pools["replicator"].fetchval(query)
        assert isinstance(answer, dt.datetime)
        return answer


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[PostgresHarness]:
    pools = {service: await open_pool(dsn, service, size_max=6) for service in SERVICES}
    try:
        stores: dict[str, EventStore] = {
            service: await PostgresStore.open(pool, service=service)
            for service, pool in pools.items()
        }
        yield PostgresHarness(pools, stores)
    finally:
        for pool in pools.values():
            await pool.close()


@pytest.fixture(scope="module")
def dsn(module_postgres_dsn: str) -> Iterator[str]:
    async def make() -> None:
        for service in SERVICES:
            await migrate(module_postgres_dsn, service)

    asyncio.run(make())
    yield module_postgres_dsn


@pytest.fixture
async def harness(dsn: str) -> AsyncIterator[PostgresHarness]:
    connection = await asyncpg.connect(dsn, timeout=5)
    await connection.execute("truncate " + ", ".join(f"work.{table}" for table in TABLES))
    await connection.close(timeout=5)
    async with opened(dsn) as harness:
        yield harness


class TestPostgresWork(WorkContract):
    pass


async def test_workers_that_hammer_one_queue_never_pass_a_budget(
    harness: PostgresHarness,
) -> None:
    await harness.queue.define(
        [slots("x", 5), slots("y", 3), seats("z", 4), bucket("r", 400, 100)]
    )
    needs = [
        hold("x"),
        hold("y"),
        hold("x", "y"),
        (*hold("y"), *seat("z")),
        (*hold("x"), *rate("r")),
    ]
    workers = [await _hammer(harness, n) for n in range(4)]
    for n in range(400):
        await workers[n % 4].enqueue([effect(f"s{n}", due_s=n % 7, needs=needs[n % 5])])
    seen: list[str] = []
    over: list[str] = []
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        watch = group.create_task(_watch(harness, over))
        hammering = [group.create_task(_work(each, seen)) for each in workers]
        await asyncio.wait(hammering)
        watch.cancel()
    assert over == []
    assert len(seen) == len(set(seen)) == 400
    for name in ("x", "y", "z"):
        assert await in_use(harness.queue, name) == 0


async def _hammer(harness: PostgresHarness, n: int) -> Actor:
    one = await actor(harness, SERVICES[n % 2], worker=f"w{n}")
    one.queue = harness.another_queue()
    return one


async def _work(one: Actor, seen: list[str]) -> None:
    """Claim and settle until the service's work is gone."""
    while any(w.service == one.store.service for w in await one.queue.waiting(count_max=500)):
        claimed = await one.claim(7)
        await asyncio.sleep(0)
        await one.settle(claimed, releases=["z"])
        seen += [each.effect_id for each in claimed]


async def _watch(harness: PostgresHarness, over: list[str]) -> None:
    """Compare the budgets with their limits, and with what the claims say is running."""
    query = """
        select b.name from work.budgets b
        where b.mode <> 'rate' and (b.in_use > b.concurrent or b.in_use <> (
            select count(*) from (
                select 1 from work.lane_budgets lb join work.effects e using (lane_id)
                where lb.budget_id = b.budget_id and e.state = 'c' and b.mode = 'hold'
                union all select 1 from work.seats s where s.budget_id = b.budget_id) as held))"""
    while True:
        over += [row["name"] for row in await harness.pools["recovery"].fetch(query)]
        await asyncio.sleep(0.005)


async def test_a_claim_passes_over_an_effect_that_a_step_has_locked(
    harness: PostgresHarness,
) -> None:
    one = await actor(harness)
    await one.enqueue([effect("a"), effect("b")])
    async with harness.pools["recovery"].acquire() as other, other.transaction():
        await other.execute("select from work.effects where effect_id = 'a/step/x' for update")
        assert await one.claim_ids() == ["b"]
    assert await one.claim_ids() == ["a"]


async def test_an_effect_cancelled_while_it_is_claimed_spends_no_budget(
    harness: PostgresHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await actor(harness)
    await harness.queue.define([slots("west", 9)])
    await one.enqueue([effect("a", needs=hold("west")), effect("b", needs=hold("west"))])
    read = claiming.Claim._select

    async def read_then_cancel(self: claiming.Claim, *args: Any) -> Selection:
        chosen = await read(self, *args)
        await harness.pools["recovery"].execute("select work_cancel('{a/step/x}')")
        return chosen

    monkeypatch.setattr(claiming.Claim, "_select", read_then_cancel)
    claimed = {each.stream: each.cancelled for each in await one.claim_all()}
    assert claimed == {"a": True, "b": False}
    assert await in_use(harness.queue, "west") == 1


async def test_idle_lanes_are_put_aside_and_come_back(harness: PostgresHarness) -> None:
    one = await actor(harness)
    await one.enqueue([effect("a"), effect("late", plan="other")])
    claimed = {each.stream: each for each in await one.claim()}
    pool = harness.pools["replicator"]
    for _ in range(2):
        await pool.fetchval("select work_idle_lanes(0)")
    assert await pool.fetchval("select count(*) from lanes where active") == 0
    await one.requeue(claimed["a"], await harness.now(), attempt=0)
    await one.enqueue([effect("b", plan="other")])
    assert sorted(await one.claim_ids()) == ["a", "b"]


async def test_a_lane_is_not_put_aside_under_a_step_that_has_not_committed(
    harness: PostgresHarness,
) -> None:
    """It was seen empty long ago and is in use: what a step puts into it now is claimed."""
    one = await actor(harness)
    await one.enqueue([effect("a")])
    (claimed,) = await one.claim()
    pool = harness.pools["replicator"]
    await pool.fetchval("select work_idle_lanes(60)")
    await pool.execute("update lanes set empty_since = empty_since - interval '61 seconds'")
    async with harness.pools["recovery"].acquire() as other, other.transaction():
        await other.execute(
            "select work_settle($1, $2, $3, $4)",
            [claimed.effect_id], [claimed.lease_no], [await harness.now()], [0],
        )  # fmt: skip
        resting = asyncio.create_task(pool.fetchval("select work_idle_lanes(60)"))
        await asyncio.wait([resting], timeout=0.2)
    await resting
    assert await one.claim_ids() == ["a"]


async def test_a_step_settles_against_a_worker_that_is_being_reaped_once(
    harness: PostgresHarness,
) -> None:
    dying, one = await actor(harness, worker="dying", lease_s=LEASE_S), await actor(harness)
    await one.enqueue(effect(f"s{n}") for n in range(20))
    claimed = await dying.claim()
    settled = [Settled(each.effect_id, each.lease_no) for each in claimed]
    pool = harness.pools["recovery"]
    async with pool.acquire() as other, other.transaction():
        # The step settles in time but commits after the lease is over.
        await other.execute(
            "select work_settle($1, $2, $3, $4)",
            [each.effect_id for each in settled[:5]], [each.lease_no for each in settled[:5]],
            [None] * 5, [0] * 5,
        )  # fmt: skip
        await harness.pass_time(LEASE_S + 0.1)
        again = await one.claim()
        assert len(again) == 15
    assert await one.claim() == []
    with pytest.raises(Fenced):
        await one.store.commit(Step(settled=settled[5:]))
