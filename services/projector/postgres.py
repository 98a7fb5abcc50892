"""The read models in PostgreSQL: documents, events and cursors of one batch in one transaction.

Owns the mapping of views onto the tables of `sql/`. Statements name no schema: the pool's search
path does (`read`, or `read_next` while it is being rebuilt).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from schemas.folds import VIEWS
from schemas.folds.base import View
from services.projector.projection import Batch, Where
from shared.eventlog.port import Fenced
from shared.postgres import COMMAND_TIMEOUT_S, FENCED, Pool, load_statements, translated

SCHEMA: Final = "read"
SQL_FOLDER: Final = Path(__file__).parent / "sql"

COPY_TIMEOUT_S: Final = 30.0
"""For one batch that is copied in."""

_SQL: Final = load_statements(SQL_FOLDER / "queries.sql")
_DECODERS: Final = tuple(msgspec.json.Decoder(view.document) for view in VIEWS)
_encode: Final = msgspec.json.Encoder().encode


def _upsert(view: View) -> str:
    names = ["id", *(column.name for column in view.columns), "doc"]
    types = ["text", *(column.sql_type for column in view.columns), "json"]
    arrays = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(types, start=1))
    changes = ", ".join(f"{name} = excluded.{name}" for name in [*names[1:], "projected_at"])
    listed = ", ".join(names)
    return (
        f"insert into {view.table} ({listed}, projected_at)"
        f" select {listed}, now() from unnest({arrays}) as new ({listed})"
        f" on conflict (id) do update set {changes}"
    )


_UPSERTS: Final = tuple(_upsert(view) for view in VIEWS)
_LOADS: Final = tuple(f"select id, doc from {v.table} where id = any ($1::text[])" for v in VIEWS)
_DELETES: Final = tuple(f"delete from {v.table} where id = any ($1::text[])" for v in VIEWS)


async def write_documents(connection: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Upsert and delete documents, one statement each per view; `rows[i]` are of `VIEWS[i]`."""
    for index, documents in enumerate(rows):
        if not documents:
            continue
        # Every copy writes rows in one order, so that two cannot wait for each other.
        kept = [(row, doc) for row, doc in sorted(documents.items()) if doc is not None]
        gone = [row for row, doc in documents.items() if doc is None]
        if kept:
            columns = VIEWS[index].columns
            arguments = [[row for row, _ in kept]]
            arguments += [[column.value(doc) for _, doc in kept] for column in columns]
            await connection.execute(
                _UPSERTS[index], *arguments, [_encode(document) for _, document in kept]
            )
        if gone:
            await connection.execute(_DELETES[index], sorted(gone))


async def insert_documents(
    connection: Any, rows: Sequence[Mapping[str, Any]], *, now: dt.datetime
) -> None:
    """Copy documents in, `rows[i]` into the table of `VIEWS[i]`; none of them may be there yet."""
    for view, documents in zip(VIEWS, rows, strict=True):
        if documents:
            values = [column.value for column in view.columns]
            await connection.copy_records_to_table(
                view.table,
                columns=["id", *(column.name for column in view.columns), "doc", "projected_at"],
                records=[
                    (row, *(value(document) for value in values), _encode(document), now)
                    for row, document in documents.items()
                ],
                timeout=COPY_TIMEOUT_S,
            )


async def move_cursors(connection: Any, batch: Batch, generation: int) -> None:
    """Move the batch's cursors from where it began. Raises asyncpg's error SW002 if they moved."""
    moves = batch.cursors
    await connection.execute(
        _SQL["move_cursors"],
        generation,
        [move.source for move in moves],
        [move.epoch for move in moves],
        [move.topic for move in moves],
        [move.partition for move in moves],
        [move.before for move in moves],
        [move.after for move in moves],
    )


def decode_documents(view: int, rows: Collection[Any]) -> dict[str, Any]:
    """Documents by id from rows of (id, doc)."""
    decode = _DECODERS[view].decode
    return {row: decode(doc) for row, doc in rows}


async def load_documents(connection: Any, view: int, ids: Collection[str]) -> dict[str, Any]:
    """The documents that exist among `ids`."""
    return decode_documents(view, await connection.fetch(_LOADS[view], list(ids)))


class PostgresReadModel:
    """The read models over a pool whose search path names their schema; it does not own it."""

    def __init__(self, pool: Pool, *, timeout_s: float = COMMAND_TIMEOUT_S) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._generation = 0

    async def cursors(self) -> Mapping[Where, tuple[int, int]]:
        with translated("read the cursors of the read models"):
            async with self._pool.lend(timeout_s=self._timeout_s) as connection:
                rows = await connection.fetch(_SQL["cursors"])
        self._generation = rows[0]["generation"] if rows else 0
        return {(row["source"], row["topic"], row["partition"]): (row["epoch"], row["seq"])
                for row in rows}  # fmt: skip

    async def load(self, view: int, ids: Collection[str]) -> Mapping[str, Any]:
        with translated(f"load {VIEWS[view].table}"):
            async with self._pool.lend(timeout_s=self._timeout_s) as connection:
                return await load_documents(connection, view, ids)

    async def commit(self, batch: Batch) -> None:
        with translated("commit to the read models"):
            try:
                async with (
                    self._pool.acquire(timeout=self._timeout_s) as connection,
                    connection.transaction(),
                ):
                    await move_cursors(connection, batch, self._generation)
                    await write_documents(connection, batch.documents)
                    if batch.events:
                        columns = zip(*batch.events, strict=True)
                        await connection.execute(_SQL["append_events"], *map(list, columns))
            except asyncpg.PostgresError as error:
                if error.sqlstate == FENCED:
                    raise Fenced("cursors", [str(error)]) from error
                raise

    async def tell_freshness(self, copy_id: str, lag_s: float) -> None:
        await self._execute("tell_freshness", copy_id, lag_s)

    async def prune(self, *, keep_days: int) -> None:
        await self._execute("prune_jobs", keep_days)
        await self._execute("prune_progress")

    async def _execute(self, name: str, *arguments: Any) -> None:
        with translated(f"run {name} on the read models"):
            async with self._pool.lend(timeout_s=self._timeout_s) as connection:
                await connection.execute(_SQL[name], *arguments)
