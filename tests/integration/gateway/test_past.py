"""Time travel to a moment gives what queries answered at that moment, to the last field."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from schemas import replicator, scheduler
from schemas.plans import VmDefinition
from services.gateway.owners import Owners
from services.gateway.past import Past
from services.gateway.problems import Invalid, NotFound
from services.gateway.queries import Queries
from shared.errors import Refused
from shared.eventlog.past import TooMuchHistory
from shared.postgres import open_pool
from shared.process import LOGGED_SERVICES
from tests.integration.projector.logs import (
    EAST,
    POLICY,
    START,
    WEST,
    Logs,
    a_history,
    header,
    open_logs,
    running,
)

SECOND = dt.timedelta(seconds=1)


class Travels:
    """Logs whose documents are noted, as queries give them, whenever something was said."""

    def __init__(self, logs: Logs, queries: Queries, past: Past, clock: FixedClock) -> None:
        self.logs = logs
        self.queries = queries
        self.past = past
        self.clock = clock
        self.noted: dict[dt.datetime, dict[str, Any]] = {}

    async def say(self, source: str, *said: tuple[str, Any]) -> None:
        """Say it, wait until it is projected, and note every plan and job as they are then."""
        await Logs.say(self.logs, source, *said)
        await self.logs.all_projected()
        (found,) = await self.logs.rows("select max(occurred_at) as at from events")
        self.clock.at = found["at"]
        plans = [row["id"] for row in await self.logs.rows("select id from plans")]
        jobs = [row["id"] for row in await self.logs.rows("select id from job_list")]
        self.noted[found["at"]] = {
            **{name: await self.queries.resource("plans", name) for name in plans},
            **{job: await self.queries.job(job) for job in jobs},
        }

    async def then(self, name: str, at: dt.datetime) -> dict[str, Any] | None:
        """A plan or job by time travel, None where there was none."""
        try:
            return await (self.past.job if ":" in name else self.past.plan)(name, at)
        except NotFound:
            return None


class FixedClock:
    """Stands where it is put."""

    at = START

    def now(self) -> dt.datetime:
        return self.at

    def monotonic(self) -> float:
        return 0.0


@asynccontextmanager
async def travelling(dsn: str, *, rows_max: int = 10_000) -> AsyncIterator[Travels]:
    async with open_logs(dsn) as logs:
        pool = await open_pool(dsn, "gateway")
        clock = FixedClock()
        past = Past(dict.fromkeys(LOGGED_SERVICES, pool), clock=clock, rows_max=rows_max)
        try:
            yield Travels(logs, Queries(pool, owners=Owners({}), clock=clock), past, clock)
        finally:
            await pool.close()


def a_member(plan: str, vm: str, run: str) -> replicator.IterationStarted:
    return replicator.IterationStarted(
        plan=plan, plan_version=1, vm=vm, tick_at=START, due_at=START, protected=EAST,
        recovery_site=WEST, definition=VmDefinition(name=vm), replication=POLICY,
        priority=3, run=run, steps=("snapshot", "transfer", "finalize"),
    )  # fmt: skip


async def a_run(travels: Travels, plan: str, vms: tuple[str, ...]) -> None:
    """A run of several VMs with disks, told by the scheduler before it begins."""
    run = f"replication-run:{plan}:t.9"
    tick = scheduler.GroupTickDispatched(run=run, tick_at=START, vms=vms)
    await travels.say("scheduler", (f"plan:{plan}", tick))
    started = replicator.RunStarted(plan=plan, tick_at=START, vms=vms, iterations=())
    await travels.say("replicator", (run, started))
    for vm in vms:
        stream = f"iteration:{plan}:{vm}:t.9"
        await travels.say("replicator", (stream, a_member(plan, vm, run)))
        disk = replicator.DiskResult(disk="s.d.a", state="completed", size=4096, bytes_sent=99)
        snapshot = replicator.SnapshotFacts(
            snapshot_id="s", vm=vm, taken_at=START, mark="m",
            disks=(replicator.SnapshotDisk(name="s.d.a", size=4096),),
        )  # fmt: skip
        moved = replicator.DiskTransferred(result=disk, last=True, snapshot=snapshot)
        await travels.say("replicator", (stream, moved))
        ended = replicator.IterationFinished(
            plan=plan, vm=vm, state="completed", checkpoint_at=START, run=run, disks=(disk,)
        )
        recorded = replicator.RunMemberRecorded(vm=vm, state="completed")
        await travels.say("replicator", (stream, ended), (run, recorded))
    finished = replicator.RunFinished(plan=plan, state="completed")
    await travels.say("replicator", (run, finished))


async def a_checkpoint(travels: Travels, plan: str, vms: tuple[str, ...]) -> None:
    """A checkpoint made and deleted."""
    checkpoint, stream = f"checkpoint:{plan}:c1", f"plan:{plan}"
    asked = scheduler.CheckpointRequested(checkpoint=checkpoint, vms=vms, requested_at=START)
    await travels.say("scheduler", (stream, asked))
    started = replicator.CheckpointStarted(
        plan=plan, plan_version=1, header=header(plan), vms=vms, requested_at=START
    )
    await travels.say("replicator", (checkpoint, started))
    for vm in vms:
        copied = replicator.VmCheckpointed(vm=vm, taken_at=START, copy_id="c1")
        await travels.say("replicator", (checkpoint, copied))
    ended = replicator.CheckpointFinished(plan=plan, state="completed", vms=vms)
    await travels.say("replicator", (checkpoint, ended))
    deleting = replicator.CheckpointDeletionStarted(plan=plan)
    await travels.say("replicator", (checkpoint, deleting))
    await travels.say("replicator", (checkpoint, replicator.CheckpointDeleted(plan=plan)))


async def test_every_moment_is_what_queries_answered_then(postgres_dsn: str) -> None:
    async with travelling(postgres_dsn) as travels:
        travels.logs.say = travels.say  # type: ignore[method-assign]
        async with running(travels.logs.projector()):
            await a_history(travels.logs, "shop", vms=("db", "web.internal"))
            await a_history(travels.logs, "shop-2", vms=("db",))
            await a_run(travels, "shop", ("db", "web.internal"))
            await a_checkpoint(travels, "shop", ("db",))
            released = scheduler.VmReleased(plan="shop", vm="db")
            await travels.say("scheduler", ("protected-vm:shop:db", released))
            await travels.say("scheduler", ("plan:shop", scheduler.PlanDeleted(plan="shop")))
        names = {name for noted in travels.noted.values() for name in noted}
        assert {"shop", "shop-2", "recovery:shop:r1", "replication-run:shop:t.9",
                "iteration:shop:web.internal:t.9.s.d.a", "checkpoint:shop:c1.delete",
                "vm-recovery:shop:r1:db"} <= names  # fmt: skip
        for at, noted in travels.noted.items():
            for name in names:
                assert await travels.then(name, at) == noted.get(name), (name, at)
        assert len(travels.noted) > 30


async def test_what_was_not_there_is_told_with_the_reason(postgres_dsn: str) -> None:
    async with travelling(postgres_dsn) as travels:
        await a_history(travels.logs, "shop")
        deleted = ("plan:shop", scheduler.PlanDeleted(plan="shop"))
        await travels.logs.say("scheduler", deleted)
        now = travels.clock.at = START + 1000 * SECOND
        for ask in (travels.past.plan("shop", START), travels.past.job("recovery:shop:r1", START)):
            with pytest.raises(NotFound, match="it begins at 2026-11-22T20:00"):
                await ask
        with pytest.raises(NotFound, match="not there any more at"):
            await travels.past.plan("shop", now)
        with pytest.raises(NotFound, match="no plan is named 'bank', now or at"):
            await travels.past.plan("bank", now)
        for job in ("recovery:shop:r2", "recovery:shop", "alert:shop:x:y", "shop", "recovery::x",
                    "iteration:shop:db:t0.nothing"):  # fmt: skip
            with pytest.raises(NotFound):
                await travels.past.job(job, now)
        with pytest.raises(Invalid, match="is in the future"):
            await travels.past.plan("shop", now + SECOND)


async def test_more_history_than_may_be_folded_is_refused(postgres_dsn: str) -> None:
    async with travelling(postgres_dsn, rows_max=5) as travels:
        await a_history(travels.logs, "shop", vms=[f"vm-{n}" for n in range(6)])
        travels.clock.at = START + 1000 * SECOND
        with pytest.raises(TooMuchHistory, match="more than 5 events"):
            await travels.past.plan("shop", travels.clock.at)


async def test_one_vm_of_a_plan_with_too_long_a_past_is_shown_by_name(postgres_dsn: str) -> None:
    async with travelling(postgres_dsn, rows_max=20) as travels:
        await a_history(travels.logs, "shop", vms=("db", "web"))
        missed = scheduler.TicksMissed(count=1, first_at=START, last_at=START)
        await travels.logs.say("scheduler", *[("protected-vm:shop:db", missed)] * 50)
        now = travels.clock.at = START + 1000 * SECOND
        with pytest.raises(TooMuchHistory) as refused:
            await travels.past.plan("shop", now)
        assert "more than 20 events" in refused.value.message
        assert "seawall plan show shop --at TIME --vm NAME" in refused.value.remedy
        (web,) = (await travels.past.plan("shop", now, vm="web"))["vms"]
        assert web["name"] == "web"
        with pytest.raises(TooMuchHistory):
            await travels.past.plan("shop", now, vm="db")
        with pytest.raises(NotFound, match="'nobody'"):
            await travels.past.plan("shop", now, vm="nobody")


async def test_streams_longer_than_a_page_are_read_to_their_cut(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with travelling(postgres_dsn) as travels:
        await a_history(travels.logs, "shop", vms=("db", "web"))
        travels.clock.at = START + 1000 * SECOND
        moments = [START + n * SECOND for n in range(0, 60, 7)]
        whole = [await travels.then("shop", at) for at in moments]
        monkeypatch.setattr("shared.eventlog.past.PAGE_ROWS", 1)
        assert [await travels.then("shop", at) for at in moments] == whole
        assert any(whole)


async def test_an_event_of_a_newer_build_is_refused_not_left_out(postgres_dsn: str) -> None:
    async with travelling(postgres_dsn) as travels:
        await a_history(travels.logs, "shop")
        await travels.logs.say_unknown("scheduler", "plan:shop")
        travels.clock.at = START + 1000 * SECOND
        with pytest.raises(Refused) as refused:
            await travels.past.plan("shop", travels.clock.at)
        assert refused.value.code == "newer-log"


async def test_what_came_after_the_moment_is_hardly_read(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.eventlog.past.PAGE_ROWS", 2)
    async with travelling(postgres_dsn, rows_max=20) as travels:
        await a_history(travels.logs, "shop", vms=("db", "web"))
        missed = scheduler.TicksMissed(count=1, first_at=START, last_at=START)
        await travels.logs.say("scheduler", *[("protected-vm:shop:db", missed)] * 50)
        travels.clock.at = START + 1000 * SECOND
        assert (await travels.past.plan("shop", START + 20 * SECOND))["vms"]
        with pytest.raises(TooMuchHistory):
            await travels.past.plan("shop", travels.clock.at)
