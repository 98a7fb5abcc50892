"""`rebuild`: how fast the read models are folded again from the logs, in events per second.

The history is the routine of a running installation: iterations of one-disk VMs, each two events
of the scheduler and two of the replicator. It is projected live first (told as a part), because a
rebuild keeps the positions of events; every rebuild must end with the rows of the live projector.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from schemas import registry, replicator, scheduler
from schemas.common import StepTiming
from schemas.envelope import Meta, events_topic
from schemas.folds import VIEWS
from schemas.ids import partition_of
from schemas.plans import ReplicationPolicy, VmDefinition
from schemas.scheduler import PlanHeader, SiteRef
from services.projector.postgres import SQL_FOLDER, PostgresReadModel
from services.projector.project import Projector
from services.projector.rebuild import Rebuilt, rebuild
from services.projector.settings import SOURCES
from shared.bus.postgres import PostgresBus
from shared.clock import SystemClock
from shared.codec import encode_meta
from shared.databases import Databases
from shared.embedded import EmbeddedPostgres
from shared.eventlog.postgres import PostgresStore
from shared.migrations import STORE_FILES, migrate, migrate_schema
from shared.news import LocalNews
from shared.postgres import open_pool
from tests.bench.harness import Goal, Measurement, folder, repeat, say
from tests.waiting import eventually

NAME = "rebuild"
UNIT = "events/s"
GOAL = Goal(least=20_000)

_PLANS: Final = 20
_VMS: Final = 25
_TICKS: Final = 60
_STEPS: Final = (
    "open-snapshot",
    "find-changes",
    "transfer",
    "verify",
    "finalize",
    "close-snapshot",
)
_COLUMNS: Final = [
    "topic",
    "partition",
    "seq",
    "stream",
    "version",
    "type",
    "schema_version",
    "data",
    "meta",
]
_START: Final = dt.datetime(2026, 11, 22, 20, 0, tzinfo=dt.UTC)
_TIMEOUT_S: Final = 60.0
_COPIED_AT_ONCE: Final = 40_000

Said = tuple[str, str, int, Any]
"""Source, stream, version, event."""


async def run() -> Measurement:
    """Write the logs, project them live, rebuild five times."""
    async with folder() as home:
        server = EmbeddedPostgres(home)
        try:
            return await _measure(await asyncio.to_thread(server.start))
        finally:
            await asyncio.to_thread(server.stop)


async def _measure(dsn: str) -> Measurement:
    events = await write_logs(dsn)
    say(f"  {events} events in the logs")
    live_per_s = events / await _project(dsn, events)
    say(f"  projected live at {live_per_s:.0f} events/s")
    wanted = await _digest(dsn)
    done: list[Rebuilt] = []

    async def once() -> float:
        done.append(await rebuild(Databases(dsn)))
        return done[-1].rows / done[-1].elapsed_s

    values = await repeat(once)
    same = await _digest(dsn) == wanted
    say(f"  rows as the live projector made them: {same}")
    return Measurement(
        values=values,
        parts={
            "events": events,
            "live_events_per_s": round(live_per_s),
            "swap_ms_max": round(1000 * max(each.swap_s for each in done), 1),
            "rows_same_as_live": same,
        },
        sound=same and all(each.rows == events for each in done),
    )


# ── The history ──────────────────────────────────────────────────────────────────────────────


def _history(ticks: int) -> Iterator[Said]:
    """Plans, their VMs, and then tick after tick an iteration of every VM."""
    east = SiteRef(site="east", platform="lab", settings={"path": "/srv/sites/east"})
    west = SiteRef(site="west", platform="lab", settings={"path": "/srv/sites/west"})
    policy = ReplicationPolicy(interval_s=900.0, start_at=_START)
    vms = [VmDefinition(name=f"vm-{number:03}") for number in range(_VMS)]
    for plan in _plan_names():
        header = PlanHeader(name=plan, protected=east, recovery_site=west, replication=policy)
        applied = scheduler.PlanApplied(
            plan=plan,
            plan_version=1,
            digest="0" * 64,
            header=header,
            vms=tuple(vm.name for vm in vms),
        )
        yield "scheduler", f"plan:{plan}", 1, applied
        for vm in vms:
            protected = scheduler.VmProtected(
                plan=plan,
                vm=vm.name,
                plan_version=1,
                definition=vm,
                protected=east,
                recovery_site=west,
                replication=policy,
                rpo_s=1800.0,
            )
            yield "scheduler", f"protected-vm:{plan}:{vm.name}", 1, protected
    for tick in range(ticks):
        for plan in _plan_names():
            for vm in vms:
                started = replicator.IterationStarted(
                    plan=plan,
                    plan_version=1,
                    vm=vm.name,
                    tick_at=_at(tick),
                    due_at=_at(tick),
                    protected=east,
                    recovery_site=west,
                    definition=vm,
                    replication=policy,
                    priority=3,
                    full=tick == 0,
                    steps=_STEPS,
                )
                yield from _iteration(started, tick)


def _plan_names() -> list[str]:
    return [f"plan-{number:02}" for number in range(_PLANS)]


def _at(tick: int) -> dt.datetime:
    return _START + dt.timedelta(minutes=15 * tick)


def _iteration(started: replicator.IterationStarted, tick: int) -> Iterator[Said]:
    vm = f"protected-vm:{started.plan}:{started.vm}"
    iteration = f"iteration:{started.plan}:{started.vm}:{tick:08}"
    began, ended = _at(tick), _at(tick) + dt.timedelta(seconds=42)
    dispatched = scheduler.IterationDispatched(
        iteration=iteration, tick_at=began, due_at=began, next_due_at=_at(tick + 1)
    )
    yield "scheduler", vm, 2 * tick + 2, dispatched
    yield "replicator", iteration, 1, started
    disk = replicator.DiskResult(
        disk="sda",
        state="completed",
        size=40 << 30,
        bytes_read=1 << 30,
        bytes_sent=600 << 20,
        started_at=began,
        ended_at=ended,
    )
    finished = replicator.IterationFinished(
        plan=started.plan,
        vm=started.vm,
        state="completed",
        checkpoint_at=began,
        full=started.full,
        disks=(disk,),
        steps=tuple(
            StepTiming(name=name, state="completed", started_at=began, ended_at=ended)
            for name in _STEPS
        ),
        bytes_read=1 << 30,
        bytes_sent=600 << 20,
        bytes_total=40 << 30,
    )
    yield "replicator", iteration, 2, finished
    recorded = scheduler.IterationRecorded(
        iteration=iteration, state="completed", checkpoint_at=began
    )
    yield "scheduler", vm, 2 * tick + 3, recorded


async def write_logs(dsn: str, *, ticks: int = _TICKS) -> int:
    """Copy the history straight into the logs: how it got there is not what is measured.

    Gives the number of events: 2,000 for each tick, and some hundred before the first.
    """
    for source in SOURCES:
        await migrate(dsn, source)
    seqs: dict[tuple[str, int], int] = {}
    history = _history(ticks)
    connection = await asyncpg.connect(dsn, timeout=_TIMEOUT_S)
    try:
        while said := list(itertools.islice(history, _COPIED_AT_ONCE)):
            records: dict[str, list[tuple[Any, ...]]] = {source: [] for source in SOURCES}
            for source, *rest in said:
                records[source].append(_row(source, *rest, seqs=seqs))
            for source, rows in records.items():
                await connection.copy_records_to_table(
                    "log", schema_name=source, columns=_COLUMNS, records=rows, timeout=_TIMEOUT_S
                )
        for (source, partition), seq in seqs.items():
            await connection.execute(
                f"insert into {source}.heads values ($1, $2, $3)",
                events_topic(source),
                partition,
                seq,
                timeout=_TIMEOUT_S,
            )
        await connection.execute("vacuum analyze", timeout=_TIMEOUT_S)
    finally:
        await connection.close(timeout=_TIMEOUT_S)
    return sum(seqs.values())


def _row(
    source: str, stream: str, version: int, event: Any, *, seqs: dict[tuple[str, int], int]
) -> tuple[Any, ...]:
    name, schema_version, data = registry.encode(event)
    partition = partition_of(stream.split(":")[1])
    seq = seqs[source, partition] = seqs.get((source, partition), 0) + 1
    meta = encode_meta(Meta(occurred_at=_START, correlation_id=f"tick-{seq}"))
    where = (events_topic(source), partition, seq, stream, version)
    return (*where, name, schema_version, data.decode(), meta.decode())


# ── The live projector ───────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def _live(dsn: str) -> AsyncIterator[Projector]:
    await migrate_schema(dsn, "projector", folder=STORE_FILES)
    await migrate_schema(dsn, "read", folder=SQL_FOLDER)
    leases, read = await open_pool(dsn, "projector"), await open_pool(dsn, "read")
    projector = Projector(
        PostgresReadModel(read),
        bus=PostgresBus(read, sources=SOURCES),
        leases=await PostgresStore.open(leases, service="projector"),
        clock=SystemClock(),
        news=LocalNews(),
        copy_id="bench",
        lease_s=15.0,
    )
    running = asyncio.create_task(projector.run())
    try:
        yield projector
    finally:
        projector.stop()
        await running
        await leases.close()
        await read.close()


async def _project(dsn: str, events: int) -> float:
    """Seconds until the live projector has folded everything."""
    began = time.perf_counter()
    async with _live(dsn) as projector:
        await eventually(
            lambda: _has_projected(projector, events), "all projected", within_s=_TIMEOUT_S
        )
    return time.perf_counter() - began


async def _has_projected(projector: Projector, events: int) -> bool:
    return projector.projected >= events


async def _digest(dsn: str) -> str:
    """A hash over every row of the read models in key order, all columns but `projected_at`."""
    digest = hashlib.sha256()
    connection = await asyncpg.connect(dsn, timeout=_TIMEOUT_S)
    try:
        queries = [f"select id, doc::text from read.{v.table} order by 1" for v in VIEWS]
        queries.append(
            "select source, partition, seq, position, doc::text from read.events order by 1, 2, 3"
        )
        for query in queries:
            for row in await connection.fetch(query, timeout=_TIMEOUT_S):
                digest.update("\0".join(map(str, row)).encode())
    finally:
        await connection.close(timeout=_TIMEOUT_S)
    return digest.hexdigest()
