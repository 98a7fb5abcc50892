"""The store in PostgreSQL: one schema per service, one round trip per verb.

Owns the mapping of the port onto the SQL in `sql/`. A commit is one statement that calls one
function, so it is atomic by itself. Nothing is retried here. After a Transient the outcome of a
commit is unknown: the caller reads again, and the expected versions, cursors and tokens of the
repeated step decide whether it had happened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import asyncpg

from schemas.envelope import Recorded
from schemas.ids import PARTITIONS
from shared.codec import decode_meta, decode_row, encode_meta
from shared.errors import SeawallError
from shared.eventlog.columns import (
    COMMIT_ARGUMENT_COUNT,
    PUSHBACK_ARGUMENT_COUNT,
    commit_arguments,
    pushback_arguments,
)
from shared.eventlog.port import (
    Asked,
    Conflict,
    DueTimer,
    Fenced,
    Loaded,
    NameTaken,
    NewRow,
    Parked,
    Snapshot,
    Step,
)
from shared.eventlog.steps import check_blob, check_partition, count_rows, is_single_row
from shared.postgres import (
    COMMAND_TIMEOUT_S,
    CONFLICT,
    FENCED,
    NAME_TAKEN,
    Pool,
    load_statements,
    translated,
)

_SQL: Final = load_statements(Path(__file__).parent / "sql" / "queries.sql")
_PARAMETERS: Final = ", ".join(f"${n}" for n in range(1, COMMIT_ARGUMENT_COUNT + 1))
_MESSAGE: Final = ("source", "topic", "partition", "seq")
_COMMIT: Final = f"select commit_step({_PARAMETERS})"
_COMMIT_PUSHED_BACK: Final = (
    f"select commit_step({_PARAMETERS}), work_pushed_back("
    + ", ".join(f"${COMMIT_ARGUMENT_COUNT + n}" for n in range(1, PUSHBACK_ARGUMENT_COUNT + 1))
    + ")"
)
"""Where platforms have refused calls: told in the statement that puts the effects back."""


class PostgresStore:
    """The store of `service` over a pool from `shared.postgres.open_pool`, which it does not own.

    Each call takes a connection for one statement. Every call ends within `timeout_s` for the
    connection plus the pool's command time-out, with a Transient if need be.
    """

    def __init__(
        self, pool: Pool, *, service: str, epoch: int, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> None:
        self._pool = pool
        self._service = service
        self._epoch = epoch
        self._timeout_s = timeout_s

    @classmethod
    async def open(cls, pool: Pool, *, service: str, timeout_s: float = COMMAND_TIMEOUT_S) -> Self:
        """The store at its present epoch. Raises Permanent where the schema was not migrated."""
        with translated(f"open the store of {service}"):
            async with pool.lend(timeout_s=timeout_s) as connection:
                epoch = await connection.fetchval(_SQL["epoch"])
        return cls(pool, service=service, epoch=epoch, timeout_s=timeout_s)

    @property
    def service(self) -> str:
        return self._service

    @property
    def epoch(self) -> int:
        return self._epoch

    async def commit(self, step: Step) -> Mapping[tuple[str, int], int]:
        """Commit all of `step` or nothing, durably, in one round trip.

        Raises Conflict, Fenced, NameTaken with nothing done; Transient with the outcome unknown.
        """
        with translated("commit a step"), _own_errors():
            if is_single_row(step):
                return await self._append_one(step.rows[0])
            return await self._commit_all(step)

    async def _append_one(self, row: NewRow) -> Mapping[tuple[str, int], int]:
        check_partition(row.topic, row.partition)
        async with self._pool.lend(timeout_s=self._timeout_s) as connection:
            seq = await connection.fetchval(
                _SQL["append_one"],
                row.topic, row.partition, row.stream, row.version,
                row.type, row.schema_version, row.data, encode_meta(row.meta),
            )  # fmt: skip
        return {(row.topic, row.partition): seq}

    async def _commit_all(self, step: Step) -> Mapping[tuple[str, int], int]:
        appends = count_rows(step.rows)
        arguments = commit_arguments(self._service, step, appends)
        pushed_back = pushback_arguments(step)
        statement = _COMMIT_PUSHED_BACK if pushed_back else _COMMIT
        async with self._pool.lend(timeout_s=self._timeout_s) as connection:
            ends = await connection.fetchval(statement, *arguments, *pushed_back)
        return dict(zip(appends.heads, ends, strict=True))

    async def _fetch(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        with translated(f"run {name} on the store of {self._service}"), _own_errors():
            async with self._pool.lend(timeout_s=self._timeout_s) as connection:
                return await connection.fetch(_SQL[name], *arguments)

    async def load(self, streams: Mapping[str, int]) -> Mapping[str, Loaded]:
        """Load many streams in one query: for each, what came after the version given.

        Version 0 uses the snapshot where there is one; a version below 0 asks for every event
        and no snapshot, as a snapshot of another schema makes necessary.
        """
        rows = await self._fetch("load", list(streams), list(streams.values()))
        snapshots: dict[str, Snapshot] = {}
        events: dict[str, list[Recorded]] = {stream: [] for stream in streams}
        for schema, topic, *row in rows:
            if schema is None:
                events[row[2]].append(self._recorded(topic, row))
            else:
                _, _, stream, version, _, _, state, _ = row
                snapshots[stream] = Snapshot(stream, version, schema, state)
        return {stream: Loaded(snapshots.get(stream), tuple(events[stream])) for stream in streams}

    def _recorded(self, topic: str, row: Iterable[Any]) -> Recorded:
        return decode_row(self._service, self._epoch, topic, row)

    async def heads(self, topics: Iterable[str]) -> Mapping[tuple[str, int], int]:
        """The last seq per (topic, partition); one never written to is absent."""
        rows = await self._fetch("heads", list(topics))
        return {(topic, partition): seq for topic, partition, seq in rows}

    async def read(
        self, topic: str, after: Mapping[int, int], *, count_max: int
    ) -> Sequence[Recorded]:
        """At most `count_max` rows past `after`, in seq order per partition.

        Partitions come in the order of `after`, each as far as the count lasts: callers who
        read on turn the order, so that none waits for the others' backlog.
        """
        rows = await self._fetch("read", topic, list(after), list(after.values()), count_max)
        return tuple(self._recorded(topic, row) for row in rows)

    async def cursors(self) -> Mapping[tuple[str, str, int], tuple[int, int]]:
        rows = await self._fetch("cursors")
        return {(source, topic, partition): (epoch, seq)
                for source, topic, partition, epoch, seq in rows}  # fmt: skip

    async def due_timers(self, partitions: Sequence[int], *, count_max: int) -> Sequence[DueTimer]:
        """The earliest timers due by the database's clock, ordered by due."""
        rows = await self._fetch("due_timers", list(partitions), count_max)
        return tuple(
            DueTimer(stream, name, partition, due, kind, schema, data, decode_meta(meta), token)
            for stream, name, partition, due, kind, schema, data, meta, token in rows
        )

    async def next_timer_in_s(self, partitions: Sequence[int]) -> float | None:
        """Seconds until the next timer by the database's clock, 0 if one is due."""
        rows = await self._fetch("next_timer", list(partitions))
        return max(0.0, rows[0][0]) if rows else None

    async def parked(self) -> Sequence[Parked]:
        return tuple(Parked(*row) for row in await self._fetch("parked"))

    async def ask_parked(self, parked: Sequence[Parked], *, asked: Asked) -> int:
        columns = [[getattr(p, name) for p in parked] for name in _MESSAGE]
        return len(await self._fetch("ask_parked", asked, *columns))

    async def put_blob(self, content: bytes) -> str:
        """Keep `content` (at most BLOB_BYTES_MAX) under its SHA-256. Refuses a larger one."""
        check_blob(content)
        sha256 = hashlib.sha256(content).hexdigest()
        await self._fetch("put_blob", sha256, content)
        return sha256

    async def get_blob(self, sha256: str) -> bytes | None:
        rows = await self._fetch("get_blob", sha256)
        return rows[0][0] if rows else None

    async def published(self) -> Mapping[tuple[str, int], int]:
        rows = await self._fetch("published", self._epoch)
        return {(topic, partition): seq for topic, partition, seq in rows}

    async def mark_published(self, moves: Mapping[tuple[str, int], tuple[int, int]]) -> None:
        heads = sorted(moves)
        await self._fetch(
            "mark_published", self._epoch,
            [topic for topic, _ in heads], [partition for _, partition in heads],
            [moves[head][0] for head in heads], [moves[head][1] for head in heads],
        )  # fmt: skip

    async def publish_again(self, topic: str, partition: int, seq: int) -> None:
        await self._fetch("publish_again", self._epoch, topic, partition, seq)

    async def balance(self, *, copy_id: str, lease_s: float) -> frozenset[int]:
        rows = await self._fetch("balance", copy_id, lease_s, PARTITIONS)
        return frozenset(rows[0][0])

    async def leave(self, *, copy_id: str) -> None:
        await self._fetch("leave", copy_id)


@contextmanager
def _own_errors() -> Iterator[None]:
    try:
        yield
    except asyncpg.PostgresError as error:
        if (own := _own_error(error)) is not None:
            raise own from error
        raise


def _own_error(error: asyncpg.PostgresError) -> SeawallError | None:
    """The error that our SQL raised on purpose, by its SQLSTATE."""
    if error.sqlstate not in {CONFLICT, FENCED, NAME_TAKEN}:
        return None
    names = [str(name) for name in json.loads(error.detail or "[]")]
    if error.sqlstate == CONFLICT:
        return Conflict(names)
    if error.sqlstate == FENCED:
        return Fenced(str(error.message), names)
    return NameTaken(*names)
