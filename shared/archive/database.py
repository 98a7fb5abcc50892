"""How exports and imports talk to the database: a connection of their own, statements by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg

from shared.postgres import (
    CONNECT_TIMEOUT_S,
    load_statements,
    prepare_connection,
    schema_name,
    work_schema_of,
)

SQL: Final = load_statements(Path(__file__).parent / "archive.sql")

READ_TIMEOUT_S: Final = 30.0
WRITE_TIMEOUT_S: Final = 3_600.0
"""An import copies in one transaction; its last statement reads the whole log once."""


def sql_of(name: str, service: str) -> str:
    """A statement for a service's schemas."""
    work = schema_name(work_schema_of(service))
    return SQL[name].replace("{schema}", schema_name(service)).replace("{work}", work)


@asynccontextmanager
async def connected(dsn: str, *, read_only: bool) -> AsyncIterator[Any]:
    """A connection whose JSON travels unparsed."""
    timeout_s = READ_TIMEOUT_S if read_only else WRITE_TIMEOUT_S
    connection = await asyncpg.connect(
        dsn,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=timeout_s,
        server_settings={
            "jit": "off",
            "timezone": "UTC",
            "statement_timeout": str(int(timeout_s * 1000)),
            "default_transaction_read_only": "on" if read_only else "off",
            "application_name": "seawall-log-archive",
        },
    )
    try:
        await prepare_connection(connection)
        yield connection
    finally:
        connection.terminate()
