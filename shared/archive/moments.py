"""All services at one moment, also where they have databases of their own.

In one database a repeatable-read transaction is that moment. Over several, each has one, all begun
together, and what was read is compared: services only influence each other by messages, and a
message is taken up by moving a cursor. So where no cursor is past the log that it is of, all that
a service knew of another is in the other's log, and the moments are as good as one. Where one is
past, which takes a message that travelled between the beginnings, all is read again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import msgspec

from shared.archive import files
from shared.archive.database import sql_of
from shared.archive.files import State
from shared.errors import Transient

TRIES_MAX: Final = 20
"""Messages need some milliseconds to the broker and back, transactions one to begin."""

_PAUSE_S: Final = 0.1

Head = tuple[str, int]
"""(topic, partition)."""

Connections = Mapping[str, Any]
"""By service; those of one database share one."""


class Moment(msgspec.Struct):
    """A service at the moment of an export."""

    epoch: int
    heads: dict[Head, int]
    state: State


async def common_moment(of: Connections, services: Sequence[str]) -> dict[str, Moment]:
    """The services' states that belong together. Raises Transient where none are found."""
    ahead = ""
    for _ in range(TRIES_MAX):
        moments = await _at_once(of, services)
        if _are_one(of, services) or not (ahead := first_ahead(moments)):
            return moments
        await asyncio.sleep(_PAUSE_S)
    raise Transient(
        f"the databases were never read at one moment: {ahead}",
        remedy="export at a quieter hour; where it stays so, `seawall log verify` says why",
    )


def first_ahead(moments: Mapping[str, Moment]) -> str:
    """A cursor that is past its log's end, in words, or "". Those of another epoch are no matter:
    their consumer stands still and says so."""
    for consumer, moment in moments.items():
        for source, topic, partition, epoch, seq in moment.state.cursors:
            read = moments.get(source)
            if read is None or read.epoch != epoch:
                continue
            if seq > (head := read.heads.get((topic, partition), 0)):
                where = f"{source} {topic}/{partition}"
                return f"the {consumer} had read {seq} rows of {where}, which had {head}"
    return ""


def _are_one(of: Connections, services: Sequence[str]) -> bool:
    return len({id(of[name]) for name in services}) == 1


async def _at_once(of: Connections, services: Sequence[str]) -> dict[str, Moment]:
    connections = list({id(of[name]): of[name] for name in services}.values())
    async with AsyncExitStack() as stack:
        for each in connections:
            begun = each.transaction(isolation="repeatable_read", readonly=True)
            await stack.enter_async_context(begun)
        # A snapshot is taken by the first statement, not by `begin`.
        await asyncio.gather(*(each.fetchval("select 1") for each in connections))
        return {name: await _moment(of[name], name) for name in services}


async def _moment(connection: Any, service: str) -> Moment:
    async def rows(name: str) -> list[Any]:
        found = await connection.fetch(sql_of(name, service))
        return [tuple(row) for row in found]

    state = State(
        cursors=await rows("cursors"),
        reservations=await rows("reservations"),
        parked=await rows("parked"),
        timers=[_timer(row) for row in await rows("timers")],
        effects=[_effect(row) for row in await rows("effects")],
        budgets=await rows("budgets"),
        seats=await rows("seats"),
        blobs=[sha256 for (sha256,) in await rows("blobs")],
        claim_no=(await rows("claim_no"))[0][0],
    )
    heads = {(topic, partition): seq for topic, partition, seq in await rows("heads")}
    return Moment((await rows("epoch"))[0][0], heads, state)


def _timer(row: Sequence[Any]) -> files.Timer:
    *first, data, meta = row
    values = [*first, msgspec.Raw(data), msgspec.Raw(meta)]
    return files.Timer(*values)


def _effect(row: Sequence[Any]) -> files.Effect:
    values = [*row[:7], msgspec.Raw(row[7]), msgspec.Raw(row[8]), *row[9:]]
    return files.Effect(*values)
