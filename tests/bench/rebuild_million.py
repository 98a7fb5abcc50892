"""`rebuild-million`: a million events folded again by `seawall log rebuild`, and its memory.

The history of `rebuild`, 500 ticks of 500 VMs. The command runs as an operator runs it, in a
process of its own, whose peak memory is the kernel's figure. The read models are empty and their
cursors stand at the ends of the logs: a rebuild folds up to them, and tells every event anew.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

import asyncpg
import msgspec

from services.projector.main import SCHEMA
from services.projector.postgres import SQL_FOLDER
from services.projector.settings import SOURCES
from shared.embedded import EmbeddedPostgres
from shared.migrations import migrate_schema
from tests.bench.harness import Goal, Measurement, folder, say
from tests.bench.rebuild import write_logs

NAME = "rebuild-million"
UNIT = "events/s"
GOAL = Goal(least=20_000, parts={"memory_mib": Goal(most=300)})
LIMIT_S = 1.0
"""Minutes long: not repeated."""

TICKS: Final = 500
_TIMEOUT_S: Final = 60.0

_AT_THE_END: Final = """
update {schema}.cursors c set epoch = e.epoch, seq = h.seq
from {source}.heads h, {source}.epoch e
where c.source = '{source}' and c.topic = h.topic and c.partition = h.partition
"""


async def run() -> Measurement:
    """Write the logs, rebuild once."""
    async with folder() as home:
        server = EmbeddedPostgres(home / "pg")
        try:
            return await _measure(await asyncio.to_thread(server.start), home)
        finally:
            await asyncio.to_thread(server.stop)


async def _measure(dsn: str, home: Path) -> Measurement:
    events = await write_logs(dsn, ticks=TICKS)
    say(f"  {events} events in the logs")
    await migrate_schema(dsn, SCHEMA, folder=SQL_FOLDER)
    connection = await asyncpg.connect(dsn, timeout=_TIMEOUT_S)
    try:
        for source in SOURCES:
            statement = _AT_THE_END.format(schema=SCHEMA, source=source)
            await connection.execute(statement, timeout=_TIMEOUT_S)
        environment = {**os.environ, "SEAWALL_DATABASE_URL": dsn, "SEAWALL_HOME": str(home)}
        said, memory_mib = await asyncio.to_thread(_rebuild, environment)
        shown = await connection.fetchval("select count(*) from read.events", timeout=_TIMEOUT_S)
    finally:
        await connection.close(timeout=_TIMEOUT_S)
    done = msgspec.json.decode(said)
    return Measurement(
        values=(done["rows"] / done["elapsed_s"],),
        parts={**done, "memory_mib": round(memory_mib, 1)},
        sound=done["rows"] == shown == events,
    )


def _rebuild(environment: dict[str, str]) -> tuple[str, float]:
    """What the command said, and its peak memory."""
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "services.cli", "log", "rebuild", "-o", "json"]
    actions = [(os.POSIX_SPAWN_DUP2, writer, 1), (os.POSIX_SPAWN_CLOSE, reader)]
    pid = os.posix_spawn(sys.executable, command, environment, file_actions=actions)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as output:
        said = output.read()
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise AssertionError(f"log rebuild ended with {os.waitstatus_to_exitcode(status)}: {said}")
    return said, usage.ru_maxrss / 1024
