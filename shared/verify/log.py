"""Checks one service's log: dense seqs, whole streams, types this build reads.

Reads only, in statements that end within seconds, with memory that does not grow with the log. A
log that is appended to meanwhile is judged up to where its heads stood at the beginning: rows
below a head never change.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from schemas import registry
from shared.codec import decode_meta
from shared.postgres import load_statements, schema_name
from shared.verify.report import Checked, Flaw, Told

PAGES_EACH: Final = 8_192
"""Pages of 8 KiB per statement: 64 MiB are read within a second or two."""

STREAMS_EACH: Final = 5_000
SEQS_EACH: Final = 100_000
DECODED_EACH: Final = 2_000

_LAST_TEXT: Final = "\U0010ffff"
"""Sorts behind every stream, by byte."""

SQL: Final = load_statements(Path(__file__).parent / "verify.sql")

RESTORE: Final = (
    "stop the services and restore the logs of all of them, to one moment, from an export"
    " (`seawall log import`) or from a backup of the database"
)

Head = tuple[str, int]
"""(topic, partition)."""

Page = tuple[int, int]
"""A place in the table: page, and row in it."""


class _Counted(msgspec.Struct):
    rows: int = 0
    first: int = 0
    last: int = 0

    def add(self, rows: int, first: int, last: int) -> None:
        self.first = min(self.first or first, first)
        self.last = max(self.last, last)
        self.rows += rows


class LogCheck:
    """The check of one log over one connection. `run` fills and returns `checked`."""

    def __init__(self, connection: Any, service: str, *, decode: bool, told: Told) -> None:
        self._connection = connection
        self._schema = schema_name(service)
        self._decode = decode
        self._told = told
        self._heads: dict[Head, int] = {}
        self._types: set[tuple[str, int]] = set()
        self.checked = Checked(service=service)

    async def run(self) -> Checked:
        """Check everything but the cursors, which are of other logs."""
        began = time.monotonic()
        await self._check_ends()
        await self._check_rows()
        await self._check_streams()
        if self._decode:
            await self._check_content()
        self.checked.types = len(self._types)
        self.checked.elapsed_s = time.monotonic() - began
        return self.checked

    async def _fetch(self, name: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        sql = SQL[name].replace("{schema}", self._schema)
        rows: Sequence[asyncpg.Record] = await self._connection.fetch(sql, *arguments)
        return rows

    def _add(self, code: str, where: str, message: str, remedy: str = RESTORE) -> None:
        self.checked.add(Flaw(code=code, where=where, message=message, remedy=remedy))

    async def _check_ends(self) -> None:
        """Every partition's head must be its last row."""
        for topic, partition, head, last in await self._fetch("ends"):
            self._heads[topic, partition] = head
            if last > head:
                self._add(
                    "row-past-head",
                    f"{topic}/{partition}",
                    f"its head is {head or 'missing'}, its last row {last}: the next append fails",
                )

    async def _check_rows(self) -> None:
        """Count the rows as they lie in the table; look closely where the numbers do not fit."""
        counted: dict[Head, _Counted] = defaultdict(_Counted)
        unknown: set[tuple[str, int]] = set()
        topics, partitions = zip(*self._heads, strict=True) if self._heads else ((), ())
        heads = (topics, partitions, list(self._heads.values()))
        async for begin, end in self._page_ranges():
            for row in await self._fetch("rows_of_pages", begin, end, *heads):
                topic, partition, name, version, rows, first, last = row
                counted[topic, partition].add(rows, first, last)
                self.checked.rows += rows
                self._types.add((name, version))
                if not registry.knows(name, version) and (name, version) not in unknown:
                    unknown.add((name, version))
                    await self._tell_unknown(name, version, begin, end)
            self._told(self.checked.service, self.checked.rows)
        for head, last in self._heads.items():
            found = counted[head]
            if found.rows != last or found.last != last or found.first != min(1, last):
                await self._look_closely(head, last, found)

    async def _page_ranges(self) -> AsyncIterator[tuple[Page, Page]]:
        pages = (await self._fetch("pages"))[0][0]
        for begin in range(0, pages, PAGES_EACH):
            yield (begin, 0), (begin + PAGES_EACH, 0)

    async def _tell_unknown(self, name: str, version: int, begin: Page, end: Page) -> None:
        found = await self._fetch("row_of_type", begin, end, name, version)
        where = "/".join(map(str, found[0])) if found else self.checked.service
        self._add(
            "unknown-type",
            where,
            f"this build cannot read {name} version {version}",
            "verify and run with the build that wrote it, or a newer one",
        )

    async def _look_closely(self, head: Head, last: int, found: _Counted) -> None:
        """Name what is missing, by the log's key; without a gap, the table holds too many rows."""
        topic, partition = head
        gaps: list[tuple[int, int]] = []
        for after in range(0, last, SEQS_EACH):
            upto = min(after + SEQS_EACH, last)
            for first, end in await self._fetch("gaps", topic, partition, after, upto):
                if gaps and gaps[-1][1] == first - 1:
                    gaps[-1] = (gaps[-1][0], end)
                else:
                    gaps.append((first, end))
        for first, end in gaps:
            missing = f"seq {first} is" if first == end else f"seqs {first} to {end} are"
            self._add(
                "seq-gap", f"{topic}/{partition}", f"{missing} missing below its head {last}"
            )
        if found.rows > last:
            self._add(
                "too-many-rows",
                f"{topic}/{partition}",
                f"the table holds {found.rows} rows up to seq {last}: its index is broken",
                f"`reindex table {self._schema}.log`, then verify again",
            )

    async def _check_streams(self) -> None:
        """Versions 1 … n of every stream, and the stream standing at n."""
        after = ""
        while True:
            upto, count = (await self._fetch("streams_page", after, STREAMS_EACH))[0]
            is_last = count < STREAMS_EACH
            wrong = await self._fetch("wrong_streams", after, _LAST_TEXT if is_last else upto)
            for stream, version, first, last, rows in wrong:
                self._add(*_stream_flaw(stream, version, first, last, rows))
            self.checked.streams += count
            if is_last:
                return
            after = upto

    async def _check_content(self) -> None:
        """Decode every row as a service does when it reads it."""
        for (topic, partition), last in self._heads.items():
            after = 0
            while after < last:
                arguments = (topic, partition, after, last, DECODED_EACH)
                rows = await self._fetch("content", *arguments)
                for seq, message in _unreadable(rows):
                    self._add("unreadable", f"{topic}/{partition}/{seq}", message)
                if not rows:
                    break
                after = rows[-1][0]


def _stream_flaw(
    stream: str, version: int, first: int, last: int, rows: int
) -> tuple[str, str, str]:
    if rows and (first != 1 or rows != last):
        held = f"holds {rows} events between versions {first} and {last}"
        return "stream-gap", stream, f"{held}, where it should hold {max(last, version)}"
    said = f"stands at version {version}" if version else "is not in the table of streams"
    return "stream-differs", stream, f"{said}, its last event is {last or 'missing'}"


def _unreadable(rows: Sequence[asyncpg.Record]) -> Iterator[tuple[int, str]]:
    for seq, stream, name, version, data, meta in rows:
        try:
            registry.decode(name, version, data)
            decode_meta(meta)
        except registry.UnknownType:
            continue  # Told once for the type.
        except (msgspec.MsgspecError, KeyError, ValueError, TypeError) as wrong:
            yield seq, f"{name} version {version} of {stream} cannot be read: {wrong}"
