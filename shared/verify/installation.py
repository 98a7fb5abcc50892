"""Checks all logs of an installation, and that no consumer's cursor is past what it consumes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import msgspec

from shared.databases import Databases, one_each
from shared.errors import Refused
from shared.postgres import CONNECT_TIMEOUT_S, prepare_connection, schema_name, translated
from shared.verify.log import RESTORE, SQL, LogCheck
from shared.verify.report import Checked, Flaw, Told

STATEMENT_TIMEOUT_S: Final = 30.0

# Pages are read in order and streams by their index, whatever the planner thinks of a table
# whose statistics were never gathered. Nothing here may write.
_SETTINGS: Final = {
    "default_transaction_read_only": "on",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
    "statement_timeout": str(int(STATEMENT_TIMEOUT_S * 1000)),
    "application_name": "seawall-log-verify",
}


Connections = Mapping[str, Any]
"""By service; those of one database share one."""


class Consumer(msgspec.Struct, frozen=True):
    """Who reads logs: its name, and the schema of its database that its cursors lie in."""

    name: str
    schema: str


async def verify(
    databases: Databases,
    services: Sequence[str],
    *,
    consumers: Sequence[Consumer],
    decode: bool = False,
    told: Told = lambda service, rows: None,
) -> list[Checked]:
    """Check the logs of `services` that there are, and the cursors of `consumers`.

    Types are those that this process has imported. Raises Refused `no-log` where no database
    holds a log, Transient when one goes away.
    """
    with translated("verify the logs"):
        names = dict.fromkeys((*services, *(each.name for each in consumers)))
        async with one_each(databases, names, _reader) as of:
            there = [name for name in services if await _exists(of[name], f"{name}.log")]
            if not there:
                raise Refused(
                    "there is no log of Seawall",
                    remedy="check SEAWALL_DATABASE_URL and SEAWALL_HOME, or start `seawall up`",
                    code="no-log",
                )
            # Before the heads, which only grow: a cursor read later could be past them.
            cursors = {
                consumer: await _rows(of[consumer.name], "cursors", consumer.schema)
                for consumer in consumers
                if await _exists(of[consumer.name], f"{consumer.schema}.cursors")
            }
            checked = {
                name: await LogCheck(of[name], name, decode=decode, told=told).run()
                for name in there
            }
            await _check_cursors(of, cursors, checked)
    return list(checked.values())


@asynccontextmanager
async def _reader(dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(
        dsn,
        timeout=CONNECT_TIMEOUT_S,
        command_timeout=STATEMENT_TIMEOUT_S,
        server_settings=_SETTINGS,
    )
    try:
        await prepare_connection(connection)
        yield connection
    finally:
        connection.terminate()


async def _exists(connection: Any, table: str) -> bool:
    return bool(await connection.fetchval(SQL["exists"], table))


async def _rows(connection: Any, name: str, schema: str) -> Sequence[asyncpg.Record]:
    sql = SQL[name].replace("{schema}", schema_name(schema))
    rows: Sequence[asyncpg.Record] = await connection.fetch(sql)
    return rows


async def _check_cursors(
    of: Connections,
    cursors: dict[Consumer, Sequence[asyncpg.Record]],
    checked: dict[str, Checked],
) -> None:
    """Every cursor stands at a row of the log that it is of, as that log is now."""
    ends: dict[str, tuple[int, dict[tuple[str, int], int]]] = {}
    for name in checked:
        heads = {(row[0], row[1]): row[2] for row in await _rows(of[name], "ends", name)}
        ends[name] = ((await _rows(of[name], "epoch", name))[0][0], heads)
    for consumer, rows in cursors.items():
        # The projector has no log of its own: its cursors are told with the logs they are of.
        for source, topic, partition, epoch, seq in rows:
            report = checked.get(consumer.name) or checked.get(source)
            if report is None:
                continue
            report.cursors += 1
            current, heads = ends.get(source, (epoch, {}))
            head = heads.get((topic, partition), 0)
            where = f"{consumer.name} on {source} {topic}/{partition}"
            if seq > head:
                report.add(_past_head(where, seq, head))
            elif epoch != current:
                report.add(_other_epoch(where, epoch, current))


def _past_head(where: str, seq: int, head: int) -> Flaw:
    return Flaw(
        code="cursor-past-head",
        where=where,
        message=f"the cursor is at {seq}, the log ends at {head}: rows it consumed are gone",
        remedy=RESTORE,
    )


def _other_epoch(where: str, epoch: int, current: int) -> Flaw:
    return Flaw(
        code="cursor-of-another-epoch",
        where=where,
        message=f"the cursor is of epoch {epoch}, the log of {current}: it was restored alone",
        remedy="restore all services to one moment: import all of them from one export",
    )
