"""The bus that reads the logs in Postgres, and consumers there, keep the bus's contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from shared.bus.postgres import PostgresBus
from shared.eventlog.postgres import PostgresStore
from shared.migrations import STORE_FILES, migrate_schema
from shared.postgres import open_pool
from tests.contract.bus import consumers, suite, taken_up
from tests.contract.bus.copies import Harness

SERVICES = ("gateway", "counter")
TABLES = (
    "heads", "streams", "log", "snapshots", "cursors", "timers", "reservations", "parked",
    "copies", "partition_leases",
)  # fmt: skip


class PostgresHarness(Harness):
    def __init__(
        self, bus: PostgresBus, dsn: str, *, gateway: PostgresStore, counter: PostgresStore
    ) -> None:
        self.bus = bus
        self.gateway = gateway
        self.counter = counter
        self._dsn = dsn

    async def restore_gateway(self, *, epoch: int, keep: int) -> None:
        await _execute(
            self._dsn,
            f"update gateway.epoch set epoch = {epoch};"
            f" delete from gateway.log where seq > {keep};"
            f" update gateway.heads set seq = least(seq, {keep})",
        )


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=5)
    try:
        await connection.execute(statement, timeout=10)
    finally:
        await connection.close(timeout=5)


@pytest.fixture(scope="module")
def dsn(module_postgres_dsn: str) -> Iterator[str]:
    for service in SERVICES:
        asyncio.run(migrate_schema(module_postgres_dsn, service, folder=STORE_FILES))
    yield module_postgres_dsn


@pytest.fixture
async def harness(dsn: str) -> AsyncIterator[Harness]:
    tables = ", ".join(f"{service}.{table}" for service in SERVICES for table in TABLES)
    await _execute(dsn, f"truncate {tables}; update gateway.epoch set epoch = 1")
    pools = [await open_pool(dsn, service, size_max=8) for service in SERVICES]
    try:
        gateway = await PostgresStore.open(pools[0], service="gateway")
        counter = await PostgresStore.open(pools[1], service="counter")
        bus = PostgresBus(pools[1], sources=SERVICES)
        yield PostgresHarness(bus, dsn, gateway=gateway, counter=counter)
    finally:
        for pool in pools:
            await pool.close()


class TestPostgresBus(suite.BusContract):
    pass


class TestPostgresConsumers(consumers.ConsumerContract):
    pass


class TestPostgresParked(consumers.ParkedContract):
    pass


class TestPostgresTakenUp(taken_up.TakenUpContract):
    pass
