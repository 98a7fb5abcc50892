"""Reads of the read models, in the projector's database: nothing here touches a log.

Rows are documents of `schemas.views`; what joins several families or the time of day is
`schemas.joins`, applied here.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import asyncpg
import msgspec
import orjson

from schemas.joins import checkpoint_now, job_now, plan_now, vm_now
from schemas.views import (
    ENDED,
    Checkpoint,
    CheckpointMark,
    Job,
    Plan,
    PrepNode,
    Progress,
    Vm,
)
from services.gateway.cursors import Sort, cursor, read_cursor
from services.gateway.owners import Owners
from services.gateway.parameters import LISTINGS
from services.gateway.problems import Invalid
from shared.clock import Clock
from shared.errors import SeawallError, Transient
from shared.postgres import Pool, translated

READY_TIMEOUT_S: Final = 1.5
"""`/readyz` tells of a database that hangs within 2 s."""

_TABLES: Final[Mapping[str, tuple[str, str]]] = {
    "sites": ("read.sites", "id"),
    "plans": ("read.plans", "id"),
    "vms": ("read.vms", "id"),
    "checkpoints": ("read.checkpoints", "created_at"),
    "jobs": ("read.job_list", "created_at"),
    "alerts": ("read.alerts", "last_at"),
    "events": ("read.events", "position"),
}
RECOVERIES: Final = ("test-recovery", "failover", "migration")
USABLE: Final = ("completed", "partially-completed")
RECOVERED_MAX: Final = 4_000
"""Jobs that durations are learnt from: of 2,000 VMs the last recovery or two."""

_FEW: Final = frozenset({"sites", "plans"})
"""Few rows: their filters are fields of the document. Others' are columns of their tables."""

_TIMES: Final[Mapping[str, str]] = {
    "checkpoints": "created_at",
    "jobs": "created_at",
    "alerts": "last_at",
    "events": "occurred_at",
}

_PLACE: Final = re.compile(r"([a-z]{1,20})/([0-9]{1,2})/([0-9]{1,17})")
"""Where a fact stands: `source/partition/seq`, as `Seawall-Position` tells it."""

Row = asyncpg.Record


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What a listing is asked for. `cursor` is what the last page gave as `next`.

    `oldest_first` is for events; what else has a moment comes newest first.
    """

    filters: Mapping[str, str]
    limit: int
    cursor: str = ""
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    oldest_first: bool = False


def _decoder(kind: type[Any]) -> Callable[[bytes], Any]:
    return msgspec.json.Decoder(kind).decode


_plan, _vm, _job = _decoder(Plan), _decoder(Vm), _decoder(Job)
_checkpoint, _mark = _decoder(Checkpoint), _decoder(CheckpointMark)
_prep_node = _decoder(PrepNode)


class Queries:
    """The gateway's reads, on a pool whose statements go by index."""

    def __init__(self, pool: Pool, *, owners: Owners, clock: Clock) -> None:
        self._pool = pool
        self._owners = owners
        self._clock = clock

    async def _fetch(self, sql: str, *arguments: Any) -> Sequence[Row]:
        with translated("read the read models"):
            async with self._pool.acquire(timeout=5.0) as connection:
                try:
                    return await connection.fetch(sql, *arguments)
                except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as absent:
                    # A new installation's first second: the projector makes them as it starts.
                    raise Transient(
                        f"the read models are not there: {absent}",
                        remedy="start the projector, which makes them",
                        code="database-unavailable",
                    ) from absent

    async def as_of(self) -> dict[str, Any]:
        """How fresh the read models are: last position, seconds behind."""
        (row,) = await self._fetch("SELECT position, lag_s FROM read.as_of")
        return {"position": row["position"], "lag_s": round(row["lag_s"], 3)}

    async def problem(self) -> str:
        """What keeps queries from being answered, or "": the gateway's readiness."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await self.as_of()
        except (SeawallError, TimeoutError) as away:
            return f"the read models cannot be read: {away or 'no answer'}"
        return ""

    async def last_position(self) -> int:
        """The position of the newest event."""
        (row,) = await self._fetch("SELECT position FROM read.event_head")
        return int(row["position"])

    async def has_reached(self, token: str) -> bool:
        """Whether the fact at `source/partition/seq` is in the read models."""
        place = _PLACE.fullmatch(token)
        if place is None:
            raise Invalid(
                f"Seawall-Position: found {token[:60]!r}",
                remedy="send the header as you received it",
            )
        source, partition, seq = place.groups()
        rows = await self._fetch(
            "SELECT seq FROM read.cursors WHERE source = $1 AND topic = $2 AND partition = $3",
            source,
            f"seawall.{source}.events",
            int(partition),
        )
        return bool(rows) and int(rows[0]["seq"]) >= int(seq)

    async def command_state(self, command_id: str) -> dict[str, Any] | None:
        """A command as people see it: accepted, parked, done or refused; None where unknown.

        `parked`: its owner set it aside, or one of the same plan or site before it.
        """
        found = await self.command(command_id)
        if found is None:
            return None
        if found["state"] == "settled":
            accepted = await self._fetch(
                "SELECT doc FROM read.command_accepts WHERE id = $1", command_id
            )
            told = orjson.loads(accepted[0]["doc"]) if accepted else {}
            return {**told, **found, "state": found["outcome"]}
        reason = await self._owners.parked(found["to"], found["key"])
        return {**found, "state": "parked", "reason": reason} if reason else found

    async def command(self, command_id: str) -> dict[str, Any] | None:
        """A command's answer, or that it is accepted; None while not even that is known."""
        rows = await self._fetch(
            "SELECT a.doc AS accepted, s.doc AS settled FROM (SELECT $1 AS id) w "
            "LEFT JOIN read.command_accepts a ON a.id = w.id "
            "LEFT JOIN read.command_settlements s ON s.id = w.id",
            command_id,
        )
        settled = rows[0]["settled"]
        if settled is not None:
            answer: dict[str, Any] = orjson.loads(settled)
            position = f"{answer['source']}/{answer['partition']}/{answer['seq']}"
            return {**answer, "state": "settled", "position": position}
        if rows[0]["accepted"] is None:
            return None
        return {**orjson.loads(rows[0]["accepted"]), "state": "accepted"}

    async def resource(self, kind: str, name: str) -> dict[str, Any] | None:
        """One document by its name or id, joined as of now."""
        if kind == "jobs":
            return await self.job(name)
        table, _ = _TABLES[kind]
        rows = await self._fetch(f"SELECT id, doc FROM {table} WHERE id = $1", name)
        documents = await self._documents(kind, rows)
        return documents[0] if documents else None

    async def job(self, job: str) -> dict[str, Any] | None:
        """A job with its children and progress."""
        rows = await self._fetch("SELECT id, doc FROM read.job_list WHERE id = $1", job)
        found = await self._jobs(rows)
        return found[0] if found else None

    async def jobs_of(self, ids: Sequence[str]) -> dict[str, Job]:
        """The jobs of these ids that are known, as they stand in the read models."""
        rows = await self._fetch("SELECT id, doc FROM read.job_list WHERE id = ANY($1)", list(ids))
        return {row["id"]: _job(row["doc"]) for row in rows}

    async def replicating(self, plans: Sequence[str]) -> frozenset[tuple[str, str]]:
        """(plan, VM) of those whose replication is on."""
        rows = await self._fetch("SELECT doc FROM read.vms WHERE plan = ANY($1)", list(plans))
        found = (_vm(row["doc"]) for row in rows)
        return frozenset((vm.plan, vm.name) for vm in found if vm.replicating)

    async def recovered(self, plan: str) -> list[Job]:
        """The plan's newest recoveries that ended, and those of its VMs, as they are stored."""
        rows = await self._fetch(
            "SELECT doc FROM read.jobs WHERE plan = $1 AND kind = ANY($2) AND disk IS NULL"
            " AND state = ANY($3) ORDER BY created_at DESC, id DESC LIMIT $4",
            plan,
            list(RECOVERIES),
            list(USABLE),
            RECOVERED_MAX,
        )
        return [_job(row["doc"]) for row in rows]

    async def newest_recovery(self, plan: str) -> str:
        """The newest recovery of a plan that ended well, dry runs included; empty for none."""
        rows = await self._fetch(
            "SELECT id FROM read.jobs WHERE plan = $1 AND kind = ANY($2) AND vm IS NULL"
            " AND state = ANY($3) ORDER BY created_at DESC, id DESC LIMIT 1",
            plan,
            list(RECOVERIES),
            list(USABLE),
        )
        return str(rows[0]["id"]) if rows else ""

    async def _jobs(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Jobs with their children and progress: two queries, however many jobs there are."""
        jobs = [_job(row["doc"]) for row in rows]
        if not jobs:
            return []
        children: dict[str, list[Job]] = {job.id: [] for job in jobs}
        for row in await self._fetch(
            "SELECT parent_id, doc FROM read.job_list WHERE parent_id = ANY($1)", list(children)
        ):
            children[row["parent_id"]].append(_job(row["doc"]))
        moving = [job.id for job in jobs if job.state not in ENDED]
        moving += [child.id for name in moving for child in children[name]]
        progress = await self._progress(moving) if moving else {}
        now = self._clock.now()
        return [
            _plain(job_now(job, children=children[job.id], progress=progress, now=now))
            for job in jobs
        ]

    async def _progress(self, jobs: Sequence[str]) -> dict[str, Progress]:
        rows = await self._fetch("SELECT * FROM read.progress WHERE job = ANY($1)", list(jobs))
        return {row["job"]: Progress(**row) for row in map(dict, rows)}

    async def listing(self, view: str, page: Page) -> tuple[list[dict[str, Any]], str | None]:
        """One page of documents and the cursor of the next, None at the end."""
        rows = await self._page(view, page)
        following = None
        if len(rows) > page.limit:
            rows = rows[: page.limit]
            following = cursor(rows[-1]["sort"], rows[-1]["id"])
        return await self._documents(view, rows), following

    async def prep_nodes(self) -> dict[str, PrepNode]:
        """What the pools of all sites know of their prep nodes, by row."""
        rows = await self._fetch("SELECT id, doc FROM read.prep_nodes ORDER BY site, id")
        return {row["id"]: _prep_node(row["doc"]) for row in rows}

    async def events_after(self, page: Page) -> list[tuple[int, dict[str, Any]]]:
        """CloudEvents past a position, in order, for the stream."""
        where, arguments = _conditions("events", page.filters)
        arguments.append(int(page.cursor))
        rows = await self._fetch(
            f"SELECT position, doc FROM read.events WHERE {where} AND position > "
            f"${len(arguments)} ORDER BY position LIMIT {page.limit}",
            *arguments,
        )
        return [(row["position"], orjson.loads(row["doc"])) for row in rows]

    async def _page(self, view: str, page: Page) -> Sequence[Row]:
        table, sort = _TABLES[view]
        identity = "position::text" if view == "events" else "id"
        where, arguments = _conditions(view, page.filters)
        for moment, sign in ((page.since, ">="), (page.until, "<")):
            if moment is not None and view in _TIMES:
                arguments.append(moment)
                where += f" AND {_TIMES[view]} {sign} ${len(arguments)}"
        newest = view in _TIMES and not page.oldest_first
        if page.cursor:
            after_sort, after_id = read_cursor(page.cursor, _sort_of(view))
            arguments += [after_sort, after_id]
            sign = "<" if newest else ">"
            where += f" AND ({sort}, {identity}) {sign} (${len(arguments) - 1}, ${len(arguments)})"
        order = "DESC" if newest else "ASC"
        return await self._fetch(
            f"SELECT {identity} AS id, {sort} AS sort, doc FROM {table} WHERE {where} "
            f"ORDER BY {sort} {order}, {identity} {order} LIMIT {page.limit + 1}",
            *arguments,
        )

    async def _documents(self, view: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
        now = self._clock.now()
        if view == "vms":
            return [_plain(vm_now(_vm(row["doc"]), now=now)) for row in rows]
        if view == "plans":
            return await self._plans([_plan(row["doc"]) for row in rows], now)
        if view == "jobs":
            return await self._jobs(rows)
        if view == "checkpoints":
            ids = [row["id"] for row in rows]
            found = await self._fetch(
                "SELECT id, doc FROM read.checkpoint_marks WHERE id = ANY($1)", ids
            )
            marks = {row["id"]: _mark(row["doc"]) for row in found}
            return [
                _plain(checkpoint_now(_checkpoint(row["doc"]), marks.get(row["id"])))
                for row in rows
            ]
        return [orjson.loads(row["doc"]) for row in rows]

    async def _plans(self, plans: Sequence[Plan], now: dt.datetime) -> list[dict[str, Any]]:
        rows = await self._fetch(
            "SELECT plan, doc FROM read.vms WHERE plan = ANY($1)", [plan.name for plan in plans]
        )
        members: dict[str, list[Vm]] = {plan.name: [] for plan in plans}
        for row in rows:
            members[row["plan"]].append(_vm(row["doc"]))
        return [_plain(plan_now(plan, members[plan.name], now=now)) for plan in plans]


def _conditions(view: str, filters: Mapping[str, str]) -> tuple[str, list[Any]]:
    """SQL conditions over the columns a listing may be filtered by, with their arguments."""
    arguments: list[Any] = []
    parts = ["true"]
    for name in LISTINGS[view]:
        if name in filters:
            arguments.append(filters[name])
            column = f"doc->>'{name}'" if view in _FEW else name
            parts.append(f"{column} = ${len(arguments)}")
    return " AND ".join(parts), arguments


def _sort_of(view: str) -> Sort:
    if view == "events":
        return "position"
    return "moment" if view in _TIMES else "name"


def _plain(document: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(document)
    return plain
