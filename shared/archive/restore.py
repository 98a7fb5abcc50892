"""Puts an export into empty databases, all of it or nothing, so that services go on from there.

Every log's epoch rises by one, and the cursors that consumers have on it go with it, because all
were imported together (architecture: a consumer that sees another epoch stops). Claims begin above
every number that a target can remember (decision 0007). Snapshots and read models come back by
themselves; what was asked of a platform and not answered before the export is asked again under
its old id.

Each database has one transaction, and none commits before all rows are in all of them. Should one
fail to commit after another has, a second try finds the others' in use: drop them first.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import Any

import msgspec

from shared.archive import files
from shared.archive.database import SQL, connected, sql_of
from shared.archive.errors import NotEmpty
from shared.archive.files import Effect, Segment, ServiceFiles, State, Timer
from shared.archive.moments import Connections
from shared.archive.parallel import Contents, in_order
from shared.archive.port import Archive
from shared.databases import Databases, one_each
from shared.errors import Refused
from shared.migrations import migrate
from shared.postgres import schema_name, translated, work_schema_of

Told = Callable[[str, int], None]
"""Is told a service and how many rows were imported so far."""

_LOG_COLUMNS = (
    "topic", "partition", "seq", "stream", "version", "type", "schema_version", "data", "meta",
    "recorded_on",
)  # fmt: skip
_TIMER_COLUMNS = (
    "stream", "name", "partition", "due", "type", "schema_version", "data", "meta",
)  # fmt: skip


class Restored(msgspec.Struct, kw_only=True):
    """What an import made. `epochs` are the new epochs of the logs."""

    rows: int = 0
    taken_at: dt.datetime | None = None
    epochs: dict[str, int] = {}
    elapsed_s: float = 0.0


async def restore(
    databases: Databases,
    services: Sequence[str],
    archive: Archive,
    *,
    told: Told = lambda service, rows: None,
) -> Restored:
    """Import the logs of `services` from an archive into databases without any.

    Raises NotEmpty, NotAnExport, Broken naming the file; nothing is imported then.
    """
    began = time.monotonic()
    manifest = files.read_manifest(await archive.get(files.MANIFEST))
    if unknown := sorted(manifest.services.keys() - set(services)):
        raise Refused(
            f"the export holds logs of services this build does not have: {', '.join(unknown)}",
            remedy="import it with the build that wrote it, or a newer one",
            code="unknown-service",
        )
    restored = Restored(taken_at=manifest.taken_at)
    with translated("import the logs"):
        async with one_each(databases, services, partial(connected, read_only=False)) as of:
            there = "{}.copies".format
            found = [s for s in services if await of[s].fetchval(SQL["exists"], there(s))]
            # A database in use is not even migrated.
            await _check_unused(of, found)
            for service in services:
                await migrate(databases.of(service), service)
            async with _transactions(of):
                await _check_unused(of, services)
                importing = _Import(of, archive, manifest.services, restored, told)
                await importing.run()
            for service in manifest.services:
                await of[service].execute(sql_of("analyze", service))
    restored.elapsed_s = time.monotonic() - began
    return restored


@asynccontextmanager
async def _transactions(of: Connections) -> AsyncIterator[None]:
    """One per database. None commits before the work in all of them is done."""
    async with AsyncExitStack() as stack:
        for connection in {id(each): each for each in of.values()}.values():
            await stack.enter_async_context(connection.transaction())
        yield


async def _check_unused(of: Connections, services: Sequence[str]) -> None:
    for service in services:
        await of[service].execute(sql_of("lock", service))
        used, alive = await of[service].fetchrow(sql_of("used", service))
        if alive:
            raise NotEmpty(
                f"a copy of the {service} runs on this database",
                remedy="stop every service, and import into an empty database",
            )
        if used:
            raise NotEmpty(
                f"the {service} has written to this database already",
                remedy="import into empty databases: set SEAWALL_DATABASE_URL or SEAWALL_HOME",
            )


class _Import:
    """One import, in the transaction of each service's database."""

    def __init__(
        self,
        of: Connections,
        archive: Archive,
        services: dict[str, ServiceFiles],
        restored: Restored,
        told: Told,
    ) -> None:
        self._of = of
        self._archive = archive
        self._services = services
        self._restored = restored
        self._told = told

    async def run(self) -> None:
        """Logs first: a broken chain shows before anything else is done."""
        for service, kept in self._services.items():
            await self._put_log(service, kept)
        for service, kept in self._services.items():
            epoch = await self._of[service].fetchval(sql_of("put_epoch", service), kept.epoch)
            self._restored.epochs[service] = epoch
        for service, kept in self._services.items():
            await self._put_state(service, await self._state(kept))

    async def _run(self, name: str, service: str, *arguments: Any) -> None:
        await self._of[service].execute(sql_of(name, service), *arguments)

    async def _put_log(self, service: str, kept: ServiceFiles) -> None:
        names = [segment.name for segment in kept.segments()]
        async with aclosing(in_order(self._archive.get, names)) as contents:
            for topic, partitions in kept.topics.items():
                for partition, segments in partitions.items():
                    where = (service, topic, int(partition))
                    await self._put_segments(where, segments, contents)
        await self._run("put_streams", service)

    async def _put_segments(
        self, where: tuple[str, str, int], segments: Sequence[Segment], contents: Contents
    ) -> None:
        service, topic, partition = where
        previous: Segment | None = None
        for segment in segments:
            content = await anext(contents)
            rows = await asyncio.to_thread(
                files.rows_of, segment, content, where=where, previous=previous
            )
            records = [_log_record(topic, partition, row) for row in rows]
            await self._copy(service, "log", _LOG_COLUMNS, records)
            self._restored.rows += len(rows)
            self._told(service, self._restored.rows)
            previous = segment
        if previous is not None:
            await self._run("put_head", service, topic, partition, previous.last)

    async def _copy(
        self, service: str, table: str, columns: Sequence[str], records: Sequence[Any]
    ) -> None:
        await self._of[service].copy_records_to_table(
            table, schema_name=schema_name(service), columns=columns, records=records
        )

    async def _state(self, kept: ServiceFiles) -> State:
        return files.state_of(kept.state, await self._archive.get(kept.state.name))

    async def _put_state(self, service: str, state: State) -> None:
        cursors = [self._cursor(*cursor) for cursor in state.cursors]
        names = ("source", "topic", "partition", "epoch", "seq")
        await self._copy(service, "cursors", names, cursors)
        await self._copy(service, "reservations", ("name", "stream"), state.reservations)
        await self._copy(
            service, "timers", _TIMER_COLUMNS, [_timer_record(t) for t in state.timers]
        )
        await self._of[service].executemany(sql_of("put_parked", service), state.parked)
        await self._put_blobs(service, state.blobs)
        await self._put_work(service, state)

    def _cursor(
        self, source: str, topic: str, partition: int, epoch: int, seq: int
    ) -> tuple[str, str, int, int, int]:
        """The cursor under its log's new epoch. One that was of another epoch already, or is of
        a log that was not imported, stays what it was: its consumer stops and says so."""
        kept = self._services.get(source)
        if kept is not None and kept.epoch == epoch:
            epoch = self._restored.epochs[source]
        return source, topic, partition, epoch, seq

    async def _put_blobs(self, service: str, blobs: Sequence[str]) -> None:
        names = map(files.blob_name, blobs)
        async with aclosing(in_order(self._archive.get, names)) as contents:
            for sha256 in blobs:
                blob = files.blob_of(sha256, await anext(contents))
                await self._run("put_blob", service, sha256, blob)

    async def _put_work(self, service: str, state: State) -> None:
        """Effects as they were, ready to be claimed under numbers above all before."""
        await self._of[service].execute(
            f"set local search_path = {schema_name(work_schema_of(service))}"
        )
        if state.budgets:
            await self._run("put_budgets", service, *_columns(state.budgets))
        if state.effects:
            await self._run("put_effects", service, *_effect_columns(state.effects))
            attempts = [(e.effect_id, e.attempt) for e in state.effects if e.attempt]
            if attempts:
                await self._run("put_attempts", service, *_columns(attempts))
            if cancelled := [e.effect_id for e in state.effects if e.cancelled]:
                await self._run("cancel_effects", service, cancelled)
        if state.seats:
            await self._run("put_seats", service, *_columns(state.seats))
            await self._run("count_seats", service)
        await self._run("raise_claim_no", service, state.claim_no)


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _log_record(topic: str, partition: int, row: files.Row) -> tuple[Any, ...]:
    return (
        topic, partition, row.seq, row.stream, row.version, row.type, row.schema_version,
        bytes(row.data), bytes(row.meta), dt.date.fromisoformat(row.recorded_on),
    )  # fmt: skip


def _timer_record(timer: Timer) -> tuple[Any, ...]:
    *first, data, meta = msgspec.structs.astuple(timer)
    return (*first, bytes(data), bytes(meta))


def _effect_columns(effects: Sequence[Effect]) -> list[list[Any]]:
    """In the order of work_enqueue: `put_effects` names what each is."""
    return _columns(
        [
            (e.effect_id, e.stream, e.partition, e.kind, e.type, e.schema_version,
             bytes(e.data), bytes(e.meta), e.work_class, e.priority, e.plan, e.due, e.ready_at,
             e.interval_s, e.needs, e.stream_version)
            for e in effects
        ]
    )  # fmt: skip
