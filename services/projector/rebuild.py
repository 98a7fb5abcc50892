"""Folds all logs again into a second set of read models, and puts them in place of the first.

The live projector goes on meanwhile: a rebuild folds what it has folded, up to its cursors, and
keeps the positions it gave to events. The tables fill without their indexes, which are made before
the swap, and a document is written when it is let go (`write_back.py`). The exception to
topics-only (architecture.md §3): logs are read straight from each service's tables (`logs.py`).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final

import asyncpg
import msgspec
import structlog

from schemas import registry
from schemas.envelope import events_topic
from schemas.folds.events import EventRow
from schemas.folds.router import Router, Work
from services.projector.logs import STATEMENT_TIMEOUT_S, Log, LogRow, logs_of, recorded
from services.projector.postgres import (
    COPY_TIMEOUT_S,
    SCHEMA,
    SQL_FOLDER,
    insert_documents,
    load_documents,
    write_documents,
)
from services.projector.projection import Batch, Where, fold
from services.projector.settings import SOURCES, ProjectorSettings
from services.projector.write_back import Unwritten, WriteBack
from shared.databases import Databases
from shared.errors import Permanent, Refused, Transient
from shared.migrations import migrate_schema
from shared.postgres import load_statements, open_pool, translated

log = structlog.get_logger()

NEXT_SCHEMA: Final = "read_next"

BEHIND_AT_SWAP_MAX: Final = 1_000
"""Rows that may be folded while the live cursors are locked (architecture.md §3)."""

ROUNDS_MAX: Final = 1_000
"""Rounds of catching up before a rebuild gives up on a log that grows faster than it folds."""

DROP_ATTEMPTS_MAX: Final = 5
"""Tries to drop the replaced tables while long queries still read them."""

INDEX_TIMEOUT_S: Final = 3_600.0
"""Making the indexes of a year's events takes minutes, not hours; nobody waits for them."""

COLLECT_EVERY: Final = (200_000, 50, 50)
"""The garbage collector's thresholds during a rebuild: its batches are trees that go by
themselves, and looking at them again and again costs a quarter of the time."""

SWITCH_INTERVAL_S: Final = 0.001
"""How soon the folding thread lets the connections be served, which keeps the database busy."""

_LOCK: Final = 7_329_146_002  # any constant: one rebuild at a time per database

_SQL: Final = load_statements(SQL_FOLDER / "rebuild.sql")


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """What a rebuild did. `elapsed_s` is all of it, `swap_s` how long live commits waited."""

    rows: int
    elapsed_s: float
    swap_s: float


Told = Callable[[int, int], None]
"""Is told how many rows are folded, of how many there were to fold."""

Placed = tuple[int | None, EventRow]
"""An event with the position that the live tables gave it; None: they have lost it."""


async def rebuild(
    databases: Databases,
    *,
    settings: ProjectorSettings | None = None,
    told: Told = lambda rows, of: None,
) -> Rebuilt:
    """Rebuild the read models in the projector's database beside the live ones, and swap.

    Reads only up to the live cursors: what the live projector has not folded yet, it folds
    afterwards. Raises Refused `rebuild-running` while another one runs, Transient when a
    database goes away; either way the live read models stay as they were.
    """
    began = time.monotonic()
    settings = settings or ProjectorSettings()
    dsn = databases.of("projector")
    async with _alone(dsn):
        await migrate_schema(dsn, SCHEMA, folder=SQL_FOLDER)
        await _execute(dsn, "drop_next")
        await migrate_schema(dsn, NEXT_SCHEMA, folder=SQL_FOLDER)
        pool = await open_pool(dsn, NEXT_SCHEMA, size_max=2, command_timeout_s=STATEMENT_TIMEOUT_S)
        try:
            with translated("rebuild the read models"):
                async with (
                    pool.acquire() as reader,
                    pool.acquire() as writer,
                    logs_of(databases, reader) as logs,
                ):
                    rebuilding = _Rebuild(logs, reader, writer, settings=settings, told=told)
                    with _tuned_interpreter():
                        await rebuilding.catch_up()
                    swap_s = await rebuilding.swap()
        finally:
            await pool.close()
        await _drop_old(dsn)
    elapsed_s = time.monotonic() - began
    log.info("rebuild.done", rows=rebuilding.rows, elapsed_s=round(elapsed_s, 2))
    return Rebuilt(rows=rebuilding.rows, elapsed_s=elapsed_s, swap_s=swap_s)


@asynccontextmanager
async def _alone(dsn: str) -> AsyncIterator[None]:
    """Hold the rebuild's lock, at the longest for as long as a connection of its own lives."""
    with translated("lock the rebuild"):
        connection = await asyncpg.connect(dsn, timeout=STATEMENT_TIMEOUT_S)
    try:
        with translated("lock the rebuild"):
            locked = await connection.fetchval(
                "select pg_try_advisory_lock($1)", _LOCK, timeout=STATEMENT_TIMEOUT_S
            )
        if not locked:
            raise Refused(
                "the read models are being rebuilt already",
                remedy="wait for that rebuild to end",
                code="rebuild-running",
            )
        yield
        # The server takes its time to notice that a connection is gone: who rebuilds once more
        # at once must not meet our own lock. One that is gone already holds none.
        with suppress(Transient), translated("unlock the rebuild"):
            await connection.execute(
                "select pg_advisory_unlock($1)", _LOCK, timeout=STATEMENT_TIMEOUT_S
            )
    finally:
        connection.terminate()


@contextmanager
def _tuned_interpreter() -> Iterator[None]:
    thresholds, interval_s = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(*COLLECT_EVERY)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(interval_s)


async def _execute(dsn: str, name: str) -> None:
    with translated(f"run {name}"):
        connection = await asyncpg.connect(dsn, timeout=STATEMENT_TIMEOUT_S)
        try:
            await connection.execute(_SQL[name], timeout=STATEMENT_TIMEOUT_S)
        finally:
            connection.terminate()


async def _drop_old(dsn: str) -> None:
    """Drop the replaced tables. If they are being read for long, the next rebuild drops them."""
    for _ in range(DROP_ATTEMPTS_MAX):
        try:
            await _execute(dsn, "drop_old")
            return
        except Transient as busy:
            log.info("rebuild.old-tables-in-use", error=busy.message)


class _Rebuild:
    """One rebuild: reads ahead on one connection while it folds and writes on the other."""

    def __init__(
        self,
        logs: Mapping[str, Log],
        reader: Any,
        writer: Any,
        *,
        settings: ProjectorSettings,
        told: Told,
    ) -> None:
        self._logs = logs
        self._reader = reader
        self._writer = writer
        self._settings = settings
        self._told = told
        self._router = Router()
        self._documents = WriteBack(settings.rebuild_documents_max)
        self._writing: asyncio.Task[None] | None = None
        self._reached: dict[Where, int] = {}
        self._epochs: dict[Where, int] = {}
        self.rows = 0

    async def catch_up(self) -> None:
        """Fold rounds of what the live projector has folded until few rows are left."""
        indexes = await self._without_indexes()
        for _ in range(ROUNDS_MAX):
            live = await self._live()
            if self._behind(live) <= BEHIND_AT_SWAP_MAX:
                break
            for source in SOURCES:
                await self._fold_source(source, live)
        else:
            raise Transient(
                f"the logs grew faster than they were folded, {ROUNDS_MAX} times over",
                remedy="rebuild at a quieter hour",
            )
        await self._write_alone(self._documents.let_go(keep=0), [])
        for definition in indexes:
            await self._writer.execute(definition, timeout=INDEX_TIMEOUT_S)
        await self._writer.execute(_SQL["prune"], self._settings.keep_days)

    async def _without_indexes(self) -> list[str]:
        """Drop what only readers need; gives the statements that make it again."""
        rows = await self._writer.fetch(_SQL["indexes"])
        for row in rows:
            await self._writer.execute(row["gone"])
        return [row["made"] for row in rows]

    async def _live(self) -> dict[Where, int]:
        rows = await self._reader.fetch(_SQL["live_cursors"])
        return {(row["source"], row["topic"], row["partition"]): row["seq"] for row in rows}

    def _behind(self, live: Mapping[Where, int]) -> int:
        return sum(seq - self._reached.get(where, 0) for where, seq in live.items())

    async def _fold_source(self, source: str, live: Mapping[Where, int]) -> None:
        """Fold one source up to the live cursors.

        While a batch is folded, the one before it is written and the one after it is read.
        """
        reading = asyncio.create_task(self._read(source, live, dict(self._reached)))
        try:
            while rows := await reading:
                reached = self._reached | _ends(source, rows)
                reading = asyncio.create_task(self._read(source, live, reached))
                unwritten, events = await self._fold(source, rows)
                await self._written()
                self._writing = asyncio.create_task(self._write_alone(unwritten, events))
                self._told(self.rows, sum(live.values()))
            await self._written()
        finally:
            await _ended(reading, self._writing)

    async def _read(
        self, source: str, live: Mapping[Where, int], reached: Mapping[Where, int]
    ) -> Sequence[LogRow]:
        """The next rows of a source, partition by partition, with their positions."""
        count_max = self._settings.rebuild_batch_max
        return await self._logs[source].after(reached, live, count_max=count_max)

    async def _written(self) -> None:
        """Wait for the batch that is being written; nothing may follow one that failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def _write_alone(self, unwritten: Unwritten, events: Sequence[Placed]) -> None:
        async with self._writer.transaction():
            await self._write(unwritten, events)

    async def _fold(
        self, source: str, rows: Sequence[LogRow]
    ) -> tuple[Unwritten, Sequence[Placed]]:
        """Fold rows; gives the documents that were let go for it, and the events.

        The work is done in a thread: on the loop it would leave both connections idle, and the
        database with them.
        """
        try:
            works, missing = await asyncio.to_thread(self._prepared, source, rows)
        except registry.UnknownType as unknown:
            raise Permanent(
                f"the log of {source} cannot be folded: {unknown}",
                remedy="rebuild with the build that wrote it",
            ) from unknown
        for view, ids in enumerate(missing):
            if ids:
                await self._written()
                found = await load_documents(self._writer, view, ids)
                self._documents.loaded(view, ids, found)
        batch, unwritten = await asyncio.to_thread(self._folded, works)
        for move in batch.cursors:
            where = (move.source, move.topic, move.partition)
            self._reached[where], self._epochs[where] = move.after, move.epoch
        self.rows += len(rows)
        positions = [row.position for row in rows if row.record["version"] > 0]
        return unwritten, list(zip(positions, batch.events, strict=True))

    def _prepared(
        self, source: str, rows: Sequence[LogRow]
    ) -> tuple[Sequence[Work], Sequence[set[str]]]:
        topic = events_topic(source)
        works = [self._router.work(recorded(source, topic, row)) for row in rows]
        return works, self._documents.missing(works)

    def _folded(self, works: Sequence[Work]) -> tuple[Batch, Unwritten]:
        batch = fold(works, self._documents)
        self._documents.committed(batch)
        return batch, self._documents.let_go()

    async def _write(self, unwritten: Unwritten, events: Sequence[Placed]) -> None:
        now = await self._writer.fetchval("select now()")
        await insert_documents(self._writer, unwritten.new, now=now)
        await write_documents(self._writer, unwritten.stored)
        if events:
            await self._write_events(events, now)

    async def _write_events(self, events: Sequence[Placed], now: dt.datetime) -> None:
        lost = sum(position is None for position, _ in events)
        fresh = iter(range(0))
        if lost:
            # Events that the live tables have lost are told again, at the end.
            last = await self._writer.fetchval(_SQL["take_positions"], lost)
            fresh = iter(range(last - lost + 1, last + 1))
        await self._writer.copy_records_to_table(
            "events",
            records=[
                (next(fresh) if position is None else position, *event, now)
                for position, event in events
            ],
            timeout=COPY_TIMEOUT_S,
        )

    async def _move(self) -> None:
        """Set the new cursors to what was folded."""
        reached = sorted(self._reached.items())
        await self._writer.execute(
            _SQL["move_cursors"],
            [source for (source, _, _), _ in reached],
            [self._epochs[where] for where, _ in reached],
            [topic for (_, topic, _), _ in reached],
            [partition for (_, _, partition), _ in reached],
            [seq for _, seq in reached],
        )

    async def swap(self) -> float:
        """Lock the live cursors, fold what is left, put the new tables in place; seconds locked.

        Live copies that wait for a cursor find it gone, and stand on the new tables.
        """
        began = time.monotonic()
        async with self._writer.transaction():
            rows = await self._writer.fetch(_SQL["lock_live_cursors"])
            live = {(row["source"], row["topic"], row["partition"]): row["seq"] for row in rows}
            for source in SOURCES:
                left = await self._logs[source].after(
                    self._reached, live, count_max=2 * BEHIND_AT_SWAP_MAX
                )
                if left:
                    await self._write(*await self._fold(source, left))
            if self._behind(live):
                raise Transient("the live projector ran ahead of the swap; rebuild again")
            await self._write(self._documents.let_go(keep=0), [])
            await self._move()
            await self._writer.execute(_SQL["prune"], self._settings.keep_days)
            await self._writer.execute(_SQL["take_over"])
            await self._writer.execute(_SQL["swap"])
        return time.monotonic() - began


async def _ended(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel what still runs and wait for its end."""
    given = [task for task in tasks if task is not None]
    for task in given:
        task.cancel()
    await asyncio.gather(*given, return_exceptions=True)


def _ends(source: str, rows: Sequence[LogRow]) -> dict[Where, int]:
    topic = events_topic(source)
    return {(source, topic, row.record["partition"]): row.record["seq"] for row in rows}
