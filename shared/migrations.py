"""Brings a schema to the shape this build needs: numbered SQL files, forward only.

A file is `NNNN_pre_<what>.sql` (additive: run before the new build starts, the old one still
works) or `NNNN_post_<what>.sql` (run when no old process is left). Each runs once, in its own
transaction, in order, with `search_path` at its schema; the table `migrations` there says which
ran. An applied file must never change: that is found out and refused.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import asyncpg
import msgspec

from shared.errors import InvariantBroken
from shared.postgres import CONNECT_TIMEOUT_S, schema_name, translated, work_schema_of

STORE_FILES: Final = Path(__file__).parent / "eventlog" / "sql"
WORK_FILES: Final = Path(__file__).parent / "effects" / "sql"

PHASES: Final = ("pre", "post")
_FILE: Final = re.compile(r"^(\d{4})_(pre|post)_\w+\.sql$")
_LOCK: Final = 7_329_146_001  # any constant: one migration at a time per database
_TIMEOUT_S: Final = 60.0


class Migration(msgspec.Struct, frozen=True):
    """One numbered file."""

    number: int
    phase: str
    name: str
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def find_migrations(folder: Path) -> list[Migration]:
    """The numbered files of a folder in order; other files are not migrations."""
    found: list[Migration] = []
    for path in sorted(folder.glob("*.sql")):
        if match := _FILE.match(path.name):
            text = path.read_text(encoding="utf-8")
            found.append(Migration(int(match[1]), match[2], path.stem, text))
    numbers = [migration.number for migration in found]
    if len(set(numbers)) != len(numbers):
        raise InvariantBroken(f"two migrations in {folder} have one number")
    return found


async def migrate(dsn: str, service: str, *, work_schema: str = "") -> list[str]:
    """Bring the service's store and its work queue up to date; gives what was applied.

    Safe to call from any number of processes at once: they take turns, where anything is to do.
    """
    work = work_schema or work_schema_of(service)
    return await _migrate(dsn, ((service, STORE_FILES), (work, WORK_FILES)), phases=PHASES)


async def migrate_schema(
    dsn: str, schema: str, *, folder: Path, phases: tuple[str, ...] = PHASES
) -> list[str]:
    """Apply the files of `folder` that `schema` lacks; gives `schema/name` of each.

    Raises InvariantBroken when an applied file was changed since.
    """
    return await _migrate(dsn, ((schema, folder),), phases=phases)


async def _migrate(
    dsn: str, schemas: Iterable[tuple[str, Path]], *, phases: tuple[str, ...]
) -> list[str]:
    applied: list[str] = []
    connection: asyncpg.Connection | None = None
    try:
        for schema, folder in schemas:
            wanted = [each for each in find_migrations(folder) if each.phase in phases]
            with translated(f"migrate the schema {schema}"):
                connection = connection or await asyncpg.connect(
                    dsn, timeout=CONNECT_TIMEOUT_S, command_timeout=_TIMEOUT_S
                )
                applied += await _bring(connection, schema_name(schema), wanted)
    finally:
        if connection is not None:
            with translated("end the connection of the migrations"):
                await connection.close(timeout=CONNECT_TIMEOUT_S)
    return applied


async def _bring(
    connection: asyncpg.Connection, schema: str, wanted: list[Migration]
) -> list[str]:
    """Apply what is missing. A start that misses nothing, as most, waits for no other."""
    there = await connection.fetchval("select to_regclass($1)", f'"{schema}".migrations')
    if there is not None and not _missing(await _known(connection, schema), wanted, schema):
        return []
    await connection.execute("select pg_advisory_lock($1)", _LOCK)
    try:
        return await _apply(connection, schema, wanted)
    finally:
        await connection.execute("select pg_advisory_unlock($1)", _LOCK)


async def _known(connection: asyncpg.Connection, schema: str) -> dict[int, asyncpg.Record]:
    rows = await connection.fetch(f'select number, name, sha256 from "{schema}".migrations')
    return {row["number"]: row for row in rows}


def _missing(
    known: Mapping[int, asyncpg.Record], wanted: list[Migration], schema: str
) -> list[Migration]:
    """Those not applied yet. Raises InvariantBroken for an applied one that was changed."""
    for migration in wanted:
        row = known.get(migration.number)
        if row is not None and row["sha256"] != migration.sha256:
            raise InvariantBroken(f"{schema}: {row['name']} was changed after it was applied")
    return [migration for migration in wanted if migration.number not in known]


async def _apply(
    connection: asyncpg.Connection, schema: str, wanted: list[Migration]
) -> list[str]:
    await connection.execute(f'create schema if not exists "{schema}"')
    await connection.execute(f'set search_path = "{schema}"')
    await connection.execute(
        "create table if not exists migrations (number int primary key, name text not null,"
        " sha256 text not null, applied_at timestamptz not null default now())"
    )
    applied: list[str] = []
    for migration in _missing(await _known(connection, schema), wanted, schema):
        async with connection.transaction():
            await connection.execute(migration.text)
            await connection.execute(
                "insert into migrations (number, name, sha256) values ($1, $2, $3)",
                migration.number, migration.name, migration.sha256,
            )  # fmt: skip
        applied.append(f"{schema}/{migration.name}")
    return applied
