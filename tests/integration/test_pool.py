"""The pool: a connection lent for one statement, and those who wait for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import asyncpg
import pytest

from shared.errors import Transient
from shared.postgres import Pool, open_pool, translated
from tests.failures import failure_mode


@pytest.fixture
async def pool(postgres_dsn: str) -> AsyncIterator[Pool]:
    pool = await open_pool(postgres_dsn, "test", size_max=1)
    yield pool
    async with asyncio.timeout(5):
        await pool.close()


LOST_TRIES_MAX = 5


async def _pid(pool: Pool) -> int:
    async with pool.lend(timeout_s=5) as connection:
        return int(await connection.fetchval("select pg_backend_pid()"))


async def test_a_lent_connection_is_lent_again(pool: Pool) -> None:
    assert await _pid(pool) == await _pid(pool)


async def test_acquire_gets_the_connection_that_was_lent_before(pool: Pool) -> None:
    lent = await _pid(pool)
    async with pool.acquire(timeout=5) as connection:
        assert await connection.fetchval("select pg_backend_pid()") == lent


async def test_who_waits_in_acquire_is_served_when_a_loan_ends(pool: Pool) -> None:
    async with pool.lend(timeout_s=5) as connection:
        waiting = asyncio.create_task(pool.fetchval("select 1"))
        await connection.execute("select 1")
        assert not waiting.done()
    assert await asyncio.wait_for(waiting, 5) == 1


async def test_many_of_both_kinds_share_one_connection(pool: Pool) -> None:
    async def fetch() -> int:
        return int(await pool.fetchval("select pg_backend_pid()"))

    async with asyncio.timeout(20):
        work = [each for _ in range(30) for each in (fetch(), _pid(pool))]
        assert len(set(await asyncio.gather(*work))) == 1


@failure_mode(
    "Postgres",
    "slow",
    sees=(
        "Steps end in time with `database-unavailable` and are done again; "
        "`seawall_lag_messages` rises."
    ),
    does="Look for long queries and a full disk. Nothing needs repeating by hand.",
)
async def test_a_loan_that_finds_none_ends_in_time(pool: Pool) -> None:
    async with pool.lend(timeout_s=5):
        with pytest.raises(Transient), translated("take a second connection"):
            async with pool.lend(timeout_s=0.05):
                pass


async def test_a_connection_that_died_is_replaced(pool: Pool, postgres_dsn: str) -> None:
    first = await _pid(pool)
    other = await asyncpg.connect(postgres_dsn, timeout=5)
    await other.execute("select pg_terminate_backend($1)", first, timeout=5)
    await other.close(timeout=5)
    for _ in range(LOST_TRIES_MAX):  # its end may still be on the way to us, or be met in use
        with suppress(Transient), translated("ask for the backend"):
            assert await _pid(pool) != first
            return
    pytest.fail("the pool hands out nothing but the dead connection")


async def test_a_cancelled_statement_leaves_a_sound_pool(pool: Pool) -> None:
    async def sleep() -> None:
        async with pool.lend(timeout_s=5) as connection:
            await connection.execute("select pg_sleep(30)")

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(sleep(), 0.1)
    async with asyncio.timeout(5):
        assert await _pid(pool)
