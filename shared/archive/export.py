"""Copies logs and what belongs to them into an archive; a later export adds what is new since.

What a service needs besides its log is read for all services in one repeatable-read transaction
(`moments.py`), with the heads of their logs: cursors, timers and effects then belong to the same
moment as the rows below those heads, which never change and are copied afterwards, in short reads.
Until the manifest is written, last, the export before this one stands.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec

from shared.archive import files
from shared.archive.database import SQL, connected, sql_of
from shared.archive.errors import AnotherLog
from shared.archive.files import File, Header, Manifest, Segment, ServiceFiles, State
from shared.archive.moments import Connections, Moment, common_moment
from shared.archive.parallel import Contents, Parallel, in_order
from shared.archive.port import Archive
from shared.clock import Clock
from shared.databases import Databases, one_each
from shared.errors import Refused, Transient
from shared.postgres import translated

Told = Callable[[int], None]
"""Is told how many rows were copied so far."""


class Exported(msgspec.Struct, kw_only=True):
    """What an export added. `rows_kept` are all rows that the archive holds now."""

    rows: int = 0
    segments: int = 0
    blobs: int = 0
    rows_kept: int = 0
    elapsed_s: float = 0.0


async def export(
    databases: Databases,
    services: Sequence[str],
    archive: Archive,
    *,
    clock: Clock,
    told: Told = lambda rows: None,
) -> Exported:
    """Bring the archive up to this moment; the services may go on meanwhile.

    Raises AnotherLog where the archive holds the export of other logs, AnotherExport where one
    ended meanwhile, Transient when a database or the archive goes away or no common moment was
    found: the archive then still is what it was.
    """
    began = time.monotonic()
    found = await archive.get(files.MANIFEST)
    with translated("export the logs"):
        reading = partial(connected, read_only=True)
        async with one_each(databases, services, reading) as of:
            exporting = _Export(of, archive, found, told)
            await exporting.run([s for s in services if await _has_log(of[s], s)], clock)
    exporting.done.elapsed_s = time.monotonic() - began
    return exporting.done


async def _has_log(connection: Any, service: str) -> bool:
    return bool(await connection.fetchval(SQL["exists"], f"{service}.log"))


class _Growth(msgspec.Struct):
    """A partition with rows that the archive lacks: from `after` to `head`.

    `segments` are the manifest's own; `short` the last of them, which are replaced.
    """

    topic: str
    partition: int
    segments: list[Segment]
    after: int
    head: int
    short: Sequence[Segment]


class _Export:
    """One export over a connection per database; `of` gives that of a service.

    `found` is the manifest as it lies in the archive.
    """

    def __init__(self, of: Connections, archive: Archive, found: bytes | None, told: Told) -> None:
        self._of = of
        self._archive = archive
        self._found = found
        self._manifest = Manifest() if found is None else files.read_manifest(found)
        self._told = told
        self._replaced: list[str] = []
        self.done = Exported()

    async def run(self, services: Sequence[str], clock: Clock) -> None:
        """Everything, the manifest last; then what it names no more is deleted."""
        if not services:
            raise Refused(
                "there is no log of Seawall",
                remedy="check SEAWALL_DATABASE_URL and SEAWALL_HOME, or start `seawall up`",
                code="no-log",
            )
        taken_at = clock.now()
        moments = await common_moment(self._of, services)
        async with Parallel() as puts:
            for service, moment in moments.items():
                await self._add_service(service, moment, taken_at, puts)
        self._manifest.taken_at = taken_at
        content = files.pack_manifest(self._manifest)
        await self._archive.swap(files.MANIFEST, content, instead_of=self._found)
        async with Parallel() as deletions:
            for name in self._replaced:
                await deletions.start(name, self._archive.delete)

    async def _add_service(
        self, service: str, moment: Moment, taken_at: dt.datetime, puts: Parallel
    ) -> None:
        kept = self._manifest.services.get(service)
        topics = kept.topics if kept else {}
        if kept is not None:
            await self._check_same(service, kept, moment)
        growing = list(_growing(topics, moment))
        short = [segment.name for each in growing for segment in each.short]
        async with aclosing(in_order(self._archive.get, short)) as contents:
            for growth in growing:
                await self._add_rows(service, growth, moment.epoch, contents, puts)
        self.done.rows_kept += sum(moment.heads.values())
        await self._add_blobs(service, moment.state.blobs, puts)
        state = await self._put_state(service, moment.state, kept, taken_at, puts)
        self._manifest.services[service] = ServiceFiles(
            epoch=moment.epoch, state=state, topics=topics
        )

    async def _check_same(self, service: str, kept: ServiceFiles, moment: Moment) -> None:
        """The archive must end where this very log once ended."""
        if kept.epoch != moment.epoch:
            why = f"it is of epoch {kept.epoch}, the log of {moment.epoch}"
            raise _another(service, why)
        for topic, partitions in kept.topics.items():
            for partition, segments in partitions.items():
                end = segments[-1]
                head = moment.heads.get((topic, int(partition)), 0)
                if head < end.last:
                    where = f"{topic}/{partition}"
                    raise _another(service, f"it has {end.last} rows of {where}, the log {head}")
                rows = await self._rows(service, topic, int(partition), end.last - 1, end.last)
                if [files.sha256_of(line) for line in rows] != [end.end_sha256]:
                    raise _another(service, f"row {end.last} of {topic}/{partition} is another")

    async def _rows(
        self, service: str, topic: str, partition: int, after: int, upto: int
    ) -> list[bytes]:
        sql = sql_of("rows", service)
        rows = await self._of[service].fetch(sql, topic, partition, after, upto, files.ROWS_MAX)
        return [files.line_of(_row(row)) for row in rows]

    async def _add_rows(
        self, service: str, growth: _Growth, epoch: int, contents: Contents, puts: Parallel
    ) -> None:
        """Add segments up to the head; `contents` goes on with those of the short ones."""
        lines = await self._taken_back(growth, contents)
        topic, partition, segments = growth.topic, growth.partition, growth.segments
        after = growth.after
        while after < growth.head:
            new = await self._rows(service, topic, partition, after, growth.head)
            if len(new) < min(files.ROWS_MAX, growth.head - after):
                raise Refused(
                    f"rows of {service} {topic}/{partition} are missing after {after}",
                    remedy="`seawall log verify` says which: this log is not whole",
                    code="log-not-whole",
                )
            self.done.rows += len(new)
            after += len(new)
            lines += new
            header = Header(
                format=files.FORMAT,
                service=service,
                topic=topic,
                partition=partition,
                epoch=epoch,
                first=after - len(lines) + 1,
                last=after,
                previous=segments[-1].sha256 if segments else "",
            )
            segment, content = await asyncio.to_thread(files.pack_segment, header, lines)
            await puts.start(segment.name, self._archive.put, content)
            segments.append(segment)
            self.done.segments += 1
            self._told(self.done.rows)
            lines = []

    async def _taken_back(self, growth: _Growth, contents: Contents) -> list[bytes]:
        """The rows of the short segments, which the partition has no more."""
        lines: list[bytes] = []
        for segment in growth.short:
            _, rows = files.lines_of(segment, await anext(contents))
            lines += rows
            self._replaced.append(segment.name)
        del growth.segments[len(growth.segments) - len(growth.short) :]
        return lines

    async def _add_blobs(self, service: str, blobs: Sequence[str], puts: Parallel) -> None:
        by_name = {files.blob_name(sha256): sha256 for sha256 in blobs}
        for name in await self._archive.missing(list(by_name)):
            content = await self._of[service].fetchval(sql_of("blob", service), by_name[name])
            if content is None:
                raise Transient(f"the blob {by_name[name]} of {service} went away meanwhile")
            packed = await asyncio.to_thread(files.compress, content)
            await puts.start(name, self._archive.put, packed)
            self.done.blobs += 1

    async def _put_state(
        self,
        service: str,
        state: State,
        kept: ServiceFiles | None,
        taken_at: dt.datetime,
        puts: Parallel,
    ) -> File:
        content = await asyncio.to_thread(files.pack, state)
        sha256 = files.sha256_of(content)
        if kept is not None and kept.state.sha256 == sha256:
            return kept.state
        file = File(files.state_name(service, taken_at, sha256), sha256)
        await puts.start(file.name, self._archive.put, content)
        if kept is not None:
            self._replaced.append(kept.state.name)
        return file


def _growing(topics: dict[str, dict[str, list[Segment]]], moment: Moment) -> Iterator[_Growth]:
    """The partitions whose head is past the archive's rows; new ones are added to `topics`."""
    for (topic, partition), head in moment.heads.items():
        segments = topics.get(topic, {}).get(str(partition), [])
        after = segments[-1].last if segments else 0
        if head > after:
            topics.setdefault(topic, {})[str(partition)] = segments
            short = files.short_tail(segments, head - after)
            yield _Growth(topic, partition, segments, after, head, short)


def _another(service: str, why: str) -> AnotherLog:
    return AnotherLog(
        f"the place holds the export of another log of the {service}: {why}",
        remedy="export to another place, and keep this one until that is done",
    )


def _row(row: Sequence[Any]) -> files.Row:
    seq, stream, version, name, schema_version, data, meta, day = row
    raw = msgspec.Raw
    return files.Row(seq, stream, version, name, schema_version, raw(data), raw(meta), day)
