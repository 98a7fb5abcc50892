"""Brings a schema to the shape this build needs: numbered SQL files, forward only.

A file is `NNNN_pre_<what>.sql` (additive: run before the new build starts, the old one still
works) or `NNNN_post_<what>.sql` (run when no old process is left). Each runs once, in its own
transaction, in order, with `search_path` at its schema; the table `migrations` there says which
ran. An applied file must never change: that is found out and refused.
"""

from __future__ import annotations

import hashlib
import re
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

    Safe to call from any number of processes at once: they take turns.
    """
    work = work_schema or work_schema_of(service)
    applied = await migrate_schema(dsn, service, folder=STORE_FILES)
    return applied + await migrate_schema(dsn, work, folder=WORK_FILES)


async def migrate_schema(
    dsn: str, schema: str, *, folder: Path, phases: tuple[str, ...] = PHASES
) -> list[str]:
    """Apply the files of `folder` that `schema` lacks; gives `schema/name` of each.

    Raises InvariantBroken when an applied file was changed since.
    """
    wanted = [migration for migration in find_migrations(folder) if migration.phase in phases]
    with translated(f"migrate the schema {schema}"):
        connection = await asyncpg.connect(
            dsn, timeout=CONNECT_TIMEOUT_S, command_timeout=_TIMEOUT_S
        )
        try:
            await connection.execute("select pg_advisory_lock($1)", _LOCK)
            return await _apply(connection, schema_name(schema), wanted)
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT_S)  # which gives the lock back


async def _apply(
    connection: asyncpg.Connection, schema: str, wanted: list[Migration]
) -> list[str]:
    await connection.execute(f'create schema if not exists "{schema}"')
    await connection.execute(f'set search_path = "{schema}"')
    await connection.execute(
        "create table if not exists migrations (number int primary key, name text not null,"
        " sha256 text not null, applied_at timestamptz not null default now())"
    )
    rows = await connection.fetch("select number, name, sha256 from migrations")
    known = {row["number"]: row for row in rows}
    applied: list[str] = []
    for migration in wanted:
        if (row := known.get(migration.number)) is not None:
            if row["sha256"] != migration.sha256:
                raise InvariantBroken(f"{schema}: {row['name']} was changed after it was applied")
            continue
        async with connection.transaction():
            await connection.execute(migration.text)
            await connection.execute(
                "insert into migrations (number, name, sha256) values ($1, $2, $3)",
                migration.number, migration.name, migration.sha256,
            )  # fmt: skip
        applied.append(f"{schema}/{migration.name}")
    return applied
