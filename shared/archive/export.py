"""Copies logs and what belongs to them into an archive; a later export adds what is new since.

What a service needs besides its log is read for all services in one repeatable-read transaction
(`moments.py`), with the heads of their logs: cursors, timers and effects then belong to the same
moment as the rows below those heads, which never change and are copied afterwards, in short reads.
Until the manifest is written, last, the export before this one stands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from shared.archive import files
from shared.archive.database import SQL, connected, sql_of
from shared.archive.errors import AnotherLog
from shared.archive.files import File, Header, Manifest, Segment, ServiceFiles, State
from shared.archive.moments import Connections, Moment, common_moment
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

    Raises AnotherLog where the archive holds the export of other logs, Transient when a
    database goes away or no common moment was found: the archive then still is what it was.
    """
    began = time.monotonic()
    found = await asyncio.to_thread(archive.get, files.MANIFEST)
    manifest = Manifest() if found is None else files.read_manifest(found)
    with translated("export the logs"):
        reading = partial(connected, read_only=True)
        async with one_each(databases, services, reading) as of:
            exporting = _Export(of, archive, manifest, told)
            await exporting.run([s for s in services if await _has_log(of[s], s)], clock)
    exporting.done.elapsed_s = time.monotonic() - began
    return exporting.done


async def _has_log(connection: Any, service: str) -> bool:
    return bool(await connection.fetchval(SQL["exists"], f"{service}.log"))


class _Export:
    """One export over a connection per database; `of` gives that of a service."""

    def __init__(self, of: Connections, archive: Archive, manifest: Manifest, told: Told) -> None:
        self._of = of
        self._archive = archive
        self._manifest = manifest
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
        for service, moment in (await common_moment(self._of, services)).items():
            kept = self._manifest.services.get(service)
            topics = kept.topics if kept else {}
            if kept is not None:
                await self._check_same(service, kept, moment)
            for (topic, partition), head in moment.heads.items():
                segments = topics.setdefault(topic, {}).setdefault(str(partition), [])
                await self._add_rows(service, topic, partition, segments, moment.epoch, head)
            await self._add_blobs(service, moment.state.blobs)
            state = await self._put_state(service, moment.state, kept)
            self._manifest.services[service] = ServiceFiles(
                epoch=moment.epoch, state=state, topics=topics
            )
        self._manifest.taken_at = taken_at
        await self._put(files.MANIFEST, files.pack_manifest(self._manifest))
        for name in self._replaced:
            await asyncio.to_thread(self._archive.delete, name)

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
        self,
        service: str,
        topic: str,
        partition: int,
        segments: list[Segment],
        epoch: int,
        head: int,
    ) -> None:
        """Add segments up to the head."""
        after = segments[-1].last if segments else 0
        while after < head:
            lines = await self._rows(service, topic, partition, after, head)
            if len(lines) < min(files.ROWS_MAX, head - after):
                raise Refused(
                    f"rows of {service} {topic}/{partition} are missing after {after}",
                    remedy="`seawall log verify` says which: this log is not whole",
                    code="log-not-whole",
                )
            self.done.rows += len(lines)
            after += len(lines)
            lines = await self._with_short_ones_before(segments, lines)
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
            await self._put(segment.name, content)
            segments.append(segment)
            self.done.segments += 1
            self._told(self.done.rows)
        self.done.rows_kept += after

    async def _with_short_ones_before(
        self, segments: list[Segment], lines: list[bytes]
    ) -> list[bytes]:
        """The rows of the last segments that are no longer than these, then these.

        An export every few seconds would leave millions of tiny files. So that each row is written
        again only a few times, a segment is replaced only by one at least twice as long.
        """
        while segments:
            last = segments[-1]
            if last.rows > len(lines) or last.rows + len(lines) > files.ROWS_MAX:
                break
            content = await asyncio.to_thread(self._archive.get, last.name)
            _, before = files.lines_of(last, content)
            lines = before + lines
            self._replaced.append(last.name)
            segments.pop()
        return lines

    async def _add_blobs(self, service: str, blobs: Sequence[str]) -> None:
        for sha256 in await asyncio.to_thread(self._missing, blobs):
            name = files.blob_name(sha256)
            content = await self._of[service].fetchval(sql_of("blob", service), sha256)
            if content is None:
                raise Transient(f"the blob {sha256} of {service} went away meanwhile")
            await self._put(name, await asyncio.to_thread(files.compress, content))
            self.done.blobs += 1

    def _missing(self, blobs: Sequence[str]) -> list[str]:
        return [each for each in blobs if not self._archive.has(files.blob_name(each))]

    async def _put_state(self, service: str, state: State, kept: ServiceFiles | None) -> File:
        content = await asyncio.to_thread(files.pack, state)
        sha256 = files.sha256_of(content)
        file = File(f"{service}/state-{sha256[:16]}.json.gz", sha256)
        await self._put(file.name, content)
        if kept is not None and kept.state != file:
            self._replaced.append(kept.state.name)
        return file

    async def _put(self, name: str, content: bytes) -> None:
        await asyncio.to_thread(self._archive.put, name, content)


def _another(service: str, why: str) -> AnotherLog:
    return AnotherLog(
        f"the folder holds the export of another log of the {service}: {why}",
        remedy="export to another folder, and keep this one until that is done",
    )


def _row(row: Sequence[Any]) -> files.Row:
    seq, stream, version, name, schema_version, data, meta, day = row
    raw = msgspec.Raw
    return files.Row(seq, stream, version, name, schema_version, raw(data), raw(meta), day)
