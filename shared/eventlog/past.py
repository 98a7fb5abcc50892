"""Reads streams of any service's log as far as they had come at a moment.

Read-only, in one transaction of each database, page by page; touches no snapshots, cursors or read
models. Owns where a stream's past ends. What the events mean is the caller's business.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import asyncpg

from schemas.envelope import Recorded
from shared.codec import decode_row
from shared.databases import variable_of
from shared.errors import Refused, Transient
from shared.postgres import Pool, load_statements, schema_name, translated

PAGE_ROWS: Final = 1_000
"""Small enough that folding a page does not keep a loop from its other work."""

TAKE_TIMEOUT_S: Final = 5.0

_SQL: Final = load_statements(Path(__file__).parent / "sql" / "past.sql")
_LAST_VERSION: Final = 2**31 - 1
_PAST_ALL: Final = "\U0010ffff"
_PAST_ITSELF: Final = "\x01"


class TooMuchHistory(Refused):
    """More events than may be read for one answer."""

    code = "too-much-history"


class Stretch(NamedTuple):
    """Streams of a service's log whose ids lie from `first` to below `beyond`, by byte."""

    source: str
    first: str
    beyond: str


def stream_of(source: str, stream: str) -> Stretch:
    """One stream."""
    return Stretch(source, stream, stream + _PAST_ITSELF)


def streams_under(source: str, prefix: str) -> Stretch:
    """All streams whose ids begin so."""
    return Stretch(source, prefix, prefix + _PAST_ALL)


class Cut:
    """What of each stream happened up to a moment: its events before the first later one.

    Whatever follows that event is later too, although a clock may say otherwise: what was decided
    after it was decided knowing it. For one reading of each stream. `began_at` is when the
    earliest event that was read happened, whether before the moment or after it.
    """

    def __init__(self, until: dt.datetime | None) -> None:
        self._until = until
        self._over: set[str] = set()
        self.began_at: dt.datetime | None = None

    def before(self, rows: Iterable[Recorded]) -> list[Recorded]:
        """The rows that had happened by then, of rows in their streams' order."""
        kept = []
        for row in rows:
            at = row.meta.occurred_at
            if self.began_at is None or at < self.began_at:
                self.began_at = at
            if self._until is not None and at > self._until:
                self._over.add(row.stream)
            if row.stream not in self._over:
                kept.append(row)
        return kept

    def is_over(self, stream: str) -> bool:
        """Whether all that the stream says further on is later."""
        return stream in self._over


class Folding(Protocol):
    """What events are folded into. Events of the types `passed_over` are not even read."""

    @property
    def passed_over(self) -> Collection[str]: ...
    def take(self, rows: Iterable[Recorded]) -> None: ...


Logs = Mapping[str, Pool]
"""A pool of the database that each service's log lies in; the same pool where it is the same."""


class PastReader:
    """Reads stretches, together at most `rows_max` rows; a database in one transaction."""

    def __init__(self, logs: Logs, stack: AsyncExitStack, *, rows_max: int) -> None:
        self._logs = logs
        self._stack = stack
        self._open: dict[Pool, Any] = {}
        self._rows_max = rows_max
        self.rows = 0

    async def fold(self, stretch: Stretch, folding: Folding, cut: Cut) -> None:
        """Fold the events of a stretch, stream by stream. Raises TooMuchHistory.

        The order between streams is that of their ids: right for whatever is folded from one
        stream, which every document is.
        """
        sql = _SQL["stretch"].replace("{source}", schema_name(stretch.source))
        without = list(folding.passed_over)
        connection = await self._connection(stretch.source)
        stream, version = "", 0
        while True:
            rows = await connection.fetch(
                sql, stretch.first, stretch.beyond, stream, version, without, PAGE_ROWS
            )
            self._count(len(rows))
            folding.take(cut.before(_recorded(stretch.source, row) for row in rows))
            if len(rows) < PAGE_ROWS:
                return
            stream, version = rows[-1]["stream"], rows[-1]["version"]
            if cut.is_over(stream):
                version = _LAST_VERSION

    def _count(self, rows: int) -> None:
        self.rows += rows
        if self.rows > self._rows_max:
            raise TooMuchHistory(
                f"more than {self._rows_max:,} events would have to be folded",
                remedy="ask for an earlier moment, for a job, or list the events themselves",
            )

    async def which_exist(self, source: str, streams: Sequence[str]) -> set[str]:
        """Those of some streams that have events."""
        sql = _SQL["which_exist"].replace("{source}", schema_name(source))
        connection = await self._connection(source)
        return {row["stream"] for row in await connection.fetch(sql, list(streams))}

    async def _connection(self, source: str) -> Any:
        pool = self._logs.get(source)
        if pool is None:
            raise Transient(
                f"the database of the {source} is not known here",
                remedy=f"set {variable_of(source)}",
                code="database-unavailable",
            )
        if pool not in self._open:
            connection = await self._stack.enter_async_context(
                pool.acquire(timeout=TAKE_TIMEOUT_S)
            )
            await self._stack.enter_async_context(
                connection.transaction(isolation="repeatable_read", readonly=True)
            )
            self._open[pool] = connection
        return self._open[pool]


@asynccontextmanager
async def reading_past(logs: Logs, *, rows_max: int) -> AsyncIterator[PastReader]:
    """A reader of one moment of each database. Raises Transient where one is away."""
    with translated("read the logs"):
        async with AsyncExitStack() as stack:
            yield PastReader(logs, stack, rows_max=rows_max)


def _recorded(source: str, row: asyncpg.Record) -> Recorded:
    epoch, topic, *stored = row
    return decode_row(source, epoch, topic, stored)
