"""What the logs believe is at the sites: plans, copies, checkpoints, jobs, and unsettled work.

Read from the logs themselves, read-only: after a restore there are no read models yet. A routine
iteration says nothing between its start and its end; what it works with stands in the payloads of
its unsettled effects.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from schemas import recovery_work, registry, replicator_work
from schemas.folds.folded import Folded
from schemas.folds.jobs import SERVICES
from schemas.ids import family_of, parts_of
from schemas.views import Checkpoint, Job, Plan, Site, Vm
from shared.eventlog.past import Cut, Logs, PastReader, reading_past, stream_of, streams_under
from shared.postgres import Pool, load_statements, schema_name, translated, work_schema_of

_SQL: Final = load_statements(Path(__file__).parent / "reconcile.sql")
_NO_LIMIT: Final = 1 << 62
_PAGE_EFFECTS: Final = 500
_TAKE_TIMEOUT_S: Final = 5.0


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """Sites by name, plans by name, protected VMs and checkpoints by stream."""

    sites: dict[str, Site]
    plans: dict[str, Plan]
    vms: dict[str, Vm]
    checkpoints: dict[str, Checkpoint]


class Mention(msgspec.Struct, frozen=True, kw_only=True):
    """An object at a site that unsettled work of `stream` is to work with."""

    stream: str
    site: str
    kind: str
    object_id: str
    plan: str
    vm: str


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs by id, streams that exist among those asked for, and what is still to be done."""

    jobs: dict[str, Job]
    known: frozenset[str]
    working: frozenset[str]
    mentions: tuple[Mention, ...]


async def read_installation(logs: Logs) -> Installation:
    """What there is to compare. Takes as long as folding the plans' and VMs' streams."""
    decided, copied = Folded(("sites", "plans", "vms")), Folded(("checkpoints",))
    async with reading_past(logs, rows_max=_NO_LIMIT) as reader:
        for family in ("site", "plan", "protected-vm"):
            await reader.fold(streams_under("scheduler", f"{family}:"), decided, Cut(None))
        await reader.fold(streams_under("replicator", "checkpoint:"), copied, Cut(None))
    return Installation(**decided.tables, **copied.tables)


async def read_work(logs: Logs, jobs: Collection[str]) -> Work:
    """What the logs say of some jobs, and all work that is not settled."""
    folded = Folded(("jobs",))
    known: set[str] = set()
    async with reading_past(logs, rows_max=_NO_LIMIT) as reader:
        for service, named in _by_service(jobs).items():
            known |= await reader.which_exist(service, named)
        for job in sorted(known):
            await _fold_job(reader, job, folded)
    working: set[str] = set()
    mentions: list[Mention] = []
    async for stream, body in _unsettled(logs["replicator"]):
        working.add(stream)
        mentions += mentioned(stream, body)
    return Work(
        jobs=folded.tables["jobs"],
        known=frozenset(known),
        working=frozenset(working),
        mentions=tuple(mentions),
    )


def _by_service(jobs: Iterable[str]) -> dict[str, list[str]]:
    named: dict[str, list[str]] = {}
    for job in sorted(set(jobs)):
        if (service := SERVICES.get(family_of(job))) is not None:
            named.setdefault(service, []).append(job)
    return named


async def _fold_job(reader: PastReader, job: str, folded: Folded) -> None:
    """A job, and of a recovery its VMs' jobs, which know their instances."""
    service = SERVICES[family_of(job)]
    await reader.fold(stream_of(service, job), folded, Cut(None))
    if family_of(job) == "recovery":
        _, plan, key = parts_of(job)
        vms = streams_under(service, f"vm-recovery:{plan}:{key}:")
        await reader.fold(vms, folded, Cut(None))


async def _unsettled(pool: Pool) -> Any:
    """(stream, payload) of every effect that is not settled."""
    schema = schema_name(work_schema_of("replicator"))
    sql = _SQL["unsettled"].replace("{work}", schema)
    after = ""
    while True:
        with translated("read the unsettled work"):
            async with pool.lend(timeout_s=_TAKE_TIMEOUT_S) as connection:
                rows = await connection.fetch(sql, after, _PAGE_EFFECTS)
        for _, stream, name, version, data in rows:
            yield stream, registry.decode(name, version, data)
        if len(rows) < _PAGE_EFFECTS:
            return
        after = rows[-1]["effect_id"]


def mentioned(stream: str, body: Any) -> Iterator[Mention]:
    """What a payload needs to be there. What is to be made or removed may be there or not."""
    for site, kind, object_id in _needed(body):
        if object_id:
            yield Mention(
                stream=stream,
                site=site,
                kind=kind,
                object_id=object_id,
                plan=body.plan,
                vm=body.vm,
            )


def _needed(body: Any) -> Iterator[tuple[str, str, str]]:
    match body:
        case replicator_work.TransferDisk():
            if body.carried.snapshot is not None:
                yield body.source.site, "snapshot", body.carried.snapshot.snapshot_id
        case replicator_work.FinalizeCopy():
            for disk in body.carried.disks:
                if disk.generation is not None:
                    yield body.target.site, "generation", disk.generation.generation_id
        case recovery_work.RebuildDisk():
            yield body.site.site, "hold", body.copy_id
        case recovery_work.PowerOn():
            yield body.site.site, "instance", body.instance_id
