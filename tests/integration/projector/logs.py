"""Logs to project: stores of all services in one database, and a small history written to them."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec

from schemas import recovery, registry, replicator, scheduler
from schemas.common import CommandSettled, StepTiming
from schemas.envelope import Meta, events_topic
from schemas.gateway import CommandAccepted
from schemas.ids import PARTITIONS, key_of, partition_of
from schemas.notifier import AlertOpened, AlertRepeated
from schemas.plans import ReplicationPolicy, VmDefinition
from schemas.scheduler import PlanHeader, PlanUnchanged, SiteRef
from services.projector.postgres import SQL_FOLDER, PostgresReadModel
from services.projector.project import Projector
from services.projector.settings import SOURCES, ProjectorSettings
from shared.bus.postgres import PostgresBus
from shared.clock import SystemClock
from shared.databases import TOGETHER, Databases
from shared.eventlog.port import NewRow, Step
from shared.eventlog.postgres import PostgresStore
from shared.migrations import STORE_FILES, migrate, migrate_schema
from shared.news import LocalNews
from shared.postgres import Pool, open_pool
from tests.waiting import eventually

START = dt.datetime(2026, 11, 22, 20, 0, tzinfo=dt.UTC)
EAST = SiteRef(site="east", platform="lab", settings={"path": "/sites/east"})
WEST = SiteRef(site="west", platform="lab", settings={"path": "/sites/west"})
POLICY = ReplicationPolicy(interval_s=900.0)


class Logs:
    """The stores of all services that have a log, by name."""

    def __init__(
        self, dsn: str, pools: Mapping[str, Pool], stores: Mapping[str, PostgresStore]
    ) -> None:
        self.dsn = dsn
        self._pools = pools
        self._stores = stores
        self._versions: dict[str, int] = {}
        self._count = 0
        self.news = LocalNews()

    async def say(self, source: str, *said: tuple[str, Any]) -> None:
        """Append (stream, event) pairs to a service's log in one commit, in order."""
        await self._stores[source].commit(Step(rows=[self._row(source, *each) for each in said]))
        self.news.poke((events_topic(source),))

    def _row(self, source: str, stream: str, body: Any) -> NewRow:
        name, schema_version, data = registry.encode(body)
        version = 0
        if not isinstance(body, CommandSettled):
            version = self._versions[stream] = self._versions.get(stream, 0) + 1
        self._count += 1
        meta = Meta(
            occurred_at=START + dt.timedelta(seconds=self._count),
            actor="ops",
            correlation_id=f"command-{self._count % 7}",
        )
        partition = partition_of(key_of(stream))
        topic = events_topic(source)
        return NewRow(topic, partition, stream, version, name, schema_version, data, meta)

    async def say_unknown(self, source: str, stream: str) -> None:
        """Append an event of a type that this build does not know."""
        row = self._row(source, stream, PlanUnchanged(command_id="c"))
        row = msgspec.structs.replace(row, type="scheduler.of-a-newer-build")
        await self._stores[source].commit(Step(rows=[row]))
        self.news.poke((events_topic(source),))

    def from_the_start(self) -> dict[tuple[str, str, int], int]:
        """Positions before the first row of every log."""
        return {
            (source, events_topic(source), partition): 0
            for source in SOURCES
            for partition in range(PARTITIONS)
        }

    def store(self, source: str) -> PostgresStore:
        """The store of a service."""
        return self._stores[source]

    def projector(self, copy_id: str = "one", **settings: int) -> Projector:
        """A copy of the projector over these logs."""
        pool = self._pools["read"]
        return Projector(
            PostgresReadModel(pool),
            bus=PostgresBus(pool, sources=SOURCES),
            leases=self._stores["projector"],
            clock=SystemClock(),
            news=self.news,
            copy_id=copy_id,
            lease_s=2.0,
            settings=msgspec.convert(settings, ProjectorSettings),
        )

    async def project(self) -> None:
        """Project everything that was said, with a copy that then ends."""
        async with running(self.projector()):
            await self.all_projected()

    async def all_projected(self) -> None:
        """Wait until the read models have every row of every log."""
        await eventually(self._nothing_waits, "everything projected", within_s=30.0)

    async def _nothing_waits(self) -> bool:
        cursors = {
            (source, topic, partition): seq
            for source, topic, partition, seq in await self.rows(
                "select source, topic, partition, seq from cursors"
            )
        }
        for source, store in self._stores.items():
            for (topic, partition), seq in (await store.heads([events_topic(source)])).items():
                if cursors[source, topic, partition] != seq:
                    return False
        return True

    async def rows(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """What a query finds in the read models."""
        async with self._pools["read"].lend(timeout_s=5.0) as connection:
            return list(await connection.fetch(sql, *arguments))

    async def document(self, table: str, row: str) -> dict[str, Any]:
        """One document."""
        found = await self.rows(f"select doc from {table} where id = $1", row)
        return dict(msgspec.json.decode(found[0]["doc"]))


def apart(dsn: str) -> Databases:
    """One database under several URLs, so that it is taken for one of each service's own."""
    sign = "&" if "?" in dsn else "?"
    names = {name: name for name in (*SOURCES, "projector")} | dict.fromkeys(TOGETHER, "platforms")
    own = {name: f"{dsn}{sign}application_name={word}" for name, word in names.items()}
    return Databases(own=own)


@asynccontextmanager
async def running(*projectors: Projector) -> AsyncIterator[None]:
    """The projectors at work."""
    tasks = [asyncio.create_task(projector.run()) for projector in projectors]
    try:
        yield
    finally:
        for projector in projectors:
            projector.stop()
        async with asyncio.timeout(10.0):
            await asyncio.gather(*tasks)


@asynccontextmanager
async def open_logs(dsn: str) -> AsyncIterator[Logs]:
    """Fresh logs and empty read models in a database."""
    pools: dict[str, Pool] = {}
    stores: dict[str, PostgresStore] = {}
    for source in SOURCES:
        await migrate(dsn, source)
    await migrate_schema(dsn, "projector", folder=STORE_FILES)
    await migrate_schema(dsn, "read", folder=SQL_FOLDER)
    for name in (*SOURCES, "projector"):
        pools[name] = await open_pool(dsn, name)
        stores[name] = await PostgresStore.open(pools[name], service=name)
    pools["read"] = await open_pool(dsn, "read")
    try:
        yield Logs(dsn, pools, stores)
    finally:
        for pool in pools.values():
            await pool.close()


# ── A history ────────────────────────────────────────────────────────────────────────────────


def header(plan: str) -> PlanHeader:
    """A plan between the two sites."""
    return PlanHeader(name=plan, protected=EAST, recovery_site=WEST, replication=POLICY)


async def a_history(logs: Logs, plan: str, vms: Iterable[str] = ("db", "web")) -> None:
    """Everything a small plan lives through: applied, replicated, recovered, cleaned, alerted."""
    names = tuple(vms)
    await _apply(logs, plan, names)
    for number, vm in enumerate(names):
        await _replicate(logs, plan, vm, tick=f"t{number}")
    await _recover(logs, plan, names)
    alert = f"alert:{plan}:job-failed:{plan}"
    opened = AlertOpened(
        condition="job-failed", subject=plan, severity="major", plan=plan, title="a job failed"
    )
    await logs.say("notifier", (alert, opened), (alert, AlertRepeated(text="again")))


async def _apply(logs: Logs, plan: str, vms: tuple[str, ...]) -> None:
    command = f"command-{plan}"
    accepted = CommandAccepted(
        command_id=command, to="scheduler", type="scheduler.apply-plan", key=plan, actor="ops"
    )
    await logs.say("gateway", (f"command:{plan}:{command}", accepted))
    site = scheduler.SiteAdded(site=f"east-{plan}", platform="lab", settings={})
    applied = scheduler.PlanApplied(
        plan=plan, plan_version=1, digest="d", header=header(plan), vms=vms
    )
    said: list[tuple[str, Any]] = [
        (f"site:east-{plan}", site),
        (f"plan:{plan}", applied),
        (f"plan:{plan}", CommandSettled(command_id=command, outcome="done")),
    ]
    for vm in vms:
        stream = f"protected-vm:{plan}:{vm}"
        said.append((stream, _protected(plan, vm)))
        said.append((stream, scheduler.VmStarted(next_due_at=START)))
    await logs.say("scheduler", *said)


def _protected(plan: str, vm: str) -> scheduler.VmProtected:
    return scheduler.VmProtected(
        plan=plan,
        vm=vm,
        plan_version=1,
        definition=VmDefinition(name=vm),
        protected=EAST,
        recovery_site=WEST,
        replication=POLICY,
    )


async def _replicate(logs: Logs, plan: str, vm: str, *, tick: str) -> None:
    iteration = f"iteration:{plan}:{vm}:{tick}"
    stream = f"protected-vm:{plan}:{vm}"
    dispatched = scheduler.IterationDispatched(iteration=iteration, tick_at=START, due_at=START)
    await logs.say("scheduler", (stream, dispatched))
    started = replicator.IterationStarted(
        plan=plan,
        plan_version=1,
        vm=vm,
        tick_at=START,
        due_at=START,
        protected=EAST,
        recovery_site=WEST,
        definition=VmDefinition(name=vm),
        replication=POLICY,
        priority=3,
        steps=("open-snapshot", "transfer", "finalize", "close-snapshot"),
    )
    disk = replicator.DiskResult(disk="sda", state="completed", size=4096, bytes_sent=1024)
    finished = replicator.IterationFinished(
        plan=plan,
        vm=vm,
        state="completed",
        checkpoint_at=START,
        disks=(disk,),
        steps=tuple(StepTiming(name=name, state="completed") for name in started.steps),
        bytes_sent=1024,
        bytes_total=4096,
    )
    await logs.say("replicator", (iteration, started), (iteration, finished))
    recorded = scheduler.IterationRecorded(
        iteration=iteration, state="completed", checkpoint_at=START
    )
    await logs.say("scheduler", (stream, recorded))


async def _recover(logs: Logs, plan: str, vms: tuple[str, ...]) -> None:
    job = f"recovery:{plan}:r1"
    requested = scheduler.RecoveryRequested(job=job, mode="test", checkpoint="latest", vms=vms)
    await logs.say("scheduler", (f"plan:{plan}", requested))
    said: list[tuple[str, Any]] = []
    for vm in vms:
        enrolled = recovery.VmEnrolled(
            job=job,
            plan=plan,
            mode="test",
            definition=VmDefinition(name=vm),
            header=header(plan),
            checkpoint="latest",
            steps=("rebuild-disks", "create-instance", "power-on", "wait-ready"),
        )
        said.append((f"vm-recovery:{plan}:r1:{vm}", enrolled))
    started = recovery.RecoveryStarted(
        job=job,
        plan=plan,
        plan_version=1,
        mode="test",
        header=header(plan),
        members=tuple(recovery.Member(vm=vm, boot_order=1, boot_delay_s=0.0) for vm in vms),
        checkpoint="latest",
        requested_at=START,
        steps=("preflight", "boot-order-1"),
    )
    await logs.say("recovery", *said, (job, started))
    for vm in vms:
        await _bring_up(logs, plan, vm)
    ended = recovery.RecoveryFinished(
        plan=plan, mode="test", state="completed", rto_s=12.5, ready=len(vms)
    )
    await logs.say("recovery", (job, ended))
    recorded = scheduler.RecoveryRecorded(job=job, mode="test", state="completed", rto_s=12.5)
    await logs.say("scheduler", (f"plan:{plan}", recorded))


async def _bring_up(logs: Logs, plan: str, vm: str) -> None:
    stream = f"vm-recovery:{plan}:r1:{vm}"
    instance = f"i-{plan}-{vm}"
    power_on = StepTiming(name="power-on", state="completed", started_at=START, ended_at=START)
    on = recovery.VmPoweredOn(instance_id=instance, at=START, timing=power_on)
    ended = recovery.VmFinished(
        plan=plan,
        vm=vm,
        job=f"recovery:{plan}:r1",
        outcome="ready",
        state="completed",
        instance_id=instance,
        rto_s=12.5,
    )
    await logs.say(
        "recovery",
        (stream, recovery.VmLaunched(boot=True, requested_at=START)),
        (stream, on),
        (f"recovery:{plan}:r1", recovery.MemberPoweredOn(vm=vm, at=START)),
        (stream, recovery.VmReady(at=START, addresses=("127.0.0.1:8000",))),
        (f"recovery:{plan}:r1", recovery.MemberReady(vm=vm, at=START)),
        (stream, ended),
    )
