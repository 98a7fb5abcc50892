"""The services' logs as a rebuild reads them: straight from their tables, wherever those are.

Read-only, in transactions of one statement. Each row comes with the position that the live read
models gave to its event: from the same statement where the log is in the projector's database,
else from a second one there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, NamedTuple

import asyncpg

from schemas.envelope import Recorded, events_topic
from services.projector.postgres import SQL_FOLDER
from services.projector.projection import Where
from services.projector.settings import SOURCES
from shared.codec import decode_row
from shared.databases import Databases
from shared.postgres import load_statements, open_pool, schema_name

STATEMENT_TIMEOUT_S: Final = 30.0

_STORED_COLUMNS: Final = 9
"""Epoch, and partition to meta; a position may follow."""

_SQL: Final = load_statements(SQL_FOLDER / "rebuild.sql")


class LogRow(NamedTuple):
    """A row as it is stored, undecoded. `position` None: the live tables have lost its event."""

    record: asyncpg.Record
    position: int | None


class Log:
    """The events of one source. `connection` is to its log, `live` to the read models."""

    def __init__(self, source: str, connection: Any, live: Any) -> None:
        self._source = source
        self._topic = events_topic(source)
        self._connection = connection
        self._live = live

    async def after(
        self, reached: Mapping[Where, int], upto: Mapping[Where, int], *, count_max: int
    ) -> Sequence[LogRow]:
        """The next rows past `reached` and not past `upto`, partition by partition."""
        wanted = [
            (partition, after, last)
            for (source, topic, partition), last in sorted(upto.items())
            if source == self._source and topic == self._topic
            and (after := reached.get((source, topic, partition), 0)) < last
        ]  # fmt: skip
        if not wanted:
            return []
        columns = list(zip(*wanted, strict=True))
        if self._connection is self._live:
            rows = await self._rows("log_rows", self._source, self._topic, *columns, count_max)
            return [LogRow(row, row["position"]) for row in rows]
        rows = await self._rows("log_rows_elsewhere", self._topic, *columns, count_max)
        places = [row["partition"] for row in rows], [row["seq"] for row in rows]
        positions = await self._live.fetch(_SQL["positions"], self._source, *places)
        return [LogRow(row, at["position"]) for row, at in zip(rows, positions, strict=True)]

    async def _rows(self, name: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        sql = _SQL[name].replace("{source}", schema_name(self._source))
        rows: Sequence[asyncpg.Record] = await self._connection.fetch(sql, *arguments)
        return rows


@asynccontextmanager
async def logs_of(databases: Databases, live: Any) -> AsyncIterator[Mapping[str, Log]]:
    """The logs of all sources, over `live` where they share its database."""
    here = databases.of("projector")
    async with AsyncExitStack() as stack:
        opened = {here: live}
        for url in databases.urls(SOURCES):
            if url not in opened:
                pool = await open_pool(
                    url, "projector", size_max=1, command_timeout_s=STATEMENT_TIMEOUT_S,
                    read_only=True,
                )  # fmt: skip
                stack.push_async_callback(pool.close)
                opened[url] = await stack.enter_async_context(pool.acquire())
        yield {source: Log(source, opened[databases.of(source)], live) for source in SOURCES}


def recorded(source: str, topic: str, row: LogRow) -> Recorded:
    """The row, its metadata decoded."""
    epoch, *stored = row.record[:_STORED_COLUMNS]
    return decode_row(source, epoch, topic, stored)
