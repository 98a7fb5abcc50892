"""The replicator as it runs: Postgres, its engine, two lab sites; messages as from outside."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas import registry
from schemas import replicator as said
from schemas.envelope import Meta, commands_topic, events_topic
from schemas.ids import PARTITIONS, partition_of
from schemas.scheduler import CheckpointEnded, IterationEnded, SiteInspected
from services.replicator.main import build
from shared.clock import SystemClock
from shared.databases import Databases
from shared.eventlog.port import NewRow, Step
from shared.process import Process
from shared.service import Service
from shared.settings import Settings
from tests.integration.replicator.lab import Lab
from tests.unit.replicator.world import RUN, header, start
from tests.waiting import eventually

TOPIC = commands_topic("replicator")


class Running:
    """A running replicator, a stand-in for those who send to it, and the lab it works on."""

    def __init__(self, process: Process, service: Service, lab: Lab) -> None:
        self.process = process
        self.service = service
        self.lab = lab

    async def send(self, source: str, *bodies: Any, key: str = "shop") -> None:
        store = await self.process.store(source)
        meta = Meta(occurred_at=SystemClock().now())
        rows = []
        for body in bodies:
            name, version, data = registry.encode(body)
            rows.append(
                NewRow(TOPIC, partition_of(key), f"plan:{key}", 0, name, version, data, meta)
            )
        await store.commit(Step(rows=rows))
        self.process.news("replicator").poke((TOPIC,))

    async def open_sites(self) -> None:
        """What `site add` makes the scheduler ask."""
        for site in ("east", "west"):
            ask = said.InspectSite(
                request=f"add-{site}", site=self.lab.ref(site), for_stream=f"site:{site}"
            )
            await self.send("scheduler", ask, key=site)
        await self.until(SiteInspected, 2)

    def iteration(self, vm: str, *, tick: str = "t1", **fields: Any) -> said.StartIteration:
        message: said.StartIteration = msgspec.structs.replace(
            start(vm, **fields),
            iteration=f"iteration:shop:{vm}:{tick}",
            protected=self.lab.ref("east"),
            recovery_site=self.lab.ref("west"),
        )
        return message

    async def rows(self, kind: type) -> list[Any]:
        """Everything of one type in the replicator's log."""
        name = registry.name_of(kind)
        found = []
        for topic in (events_topic("replicator"), TOPIC, commands_topic("scheduler")):
            rows = await self.service.store.read(
                topic, dict.fromkeys(range(PARTITIONS), 0), count_max=10_000
            )
            found += [
                registry.decode(row.type, row.schema_version, row.data)
                for row in rows
                if row.type == name
            ]
        return found

    async def until(self, kind: type, count: int, *, within_s: float = 30) -> list[Any]:
        async def there() -> bool:
            return len(await self.rows(kind)) >= count

        await eventually(there, f"{count} × {kind.__name__}", within_s=within_s)
        return await self.rows(kind)

    async def waiting(self) -> list[str]:
        queue = await self.process.queue("replicator")
        return [each.effect_id for each in await queue.waiting(count_max=1_000)]


@pytest.fixture
async def running(postgres_dsn: str, tmp_path: Path) -> AsyncIterator[Running]:
    os.chmod(tmp_path, 0o755)
    lab = Lab(tmp_path)
    settings = Settings(home=tmp_path, lease_s=2.0, heartbeat_s=0.5)
    async with Process(settings, Databases(postgres_dsn)) as process:
        service = await build(process)
        async with asyncio.TaskGroup() as group:
            news = group.create_task(process.hear())
            task = group.create_task(service.run())
            yield Running(process, service, lab)
            service.stop()
            await asyncio.wait([task], timeout=15)
            news.cancel()
    await lab.close()


async def test_iterations_of_many_vms_run_through_the_engine(running: Running) -> None:
    vms = [f"vm{number}" for number in range(8)]
    for vm in vms:
        running.lab.add_vm(vm, disks=("sda", "sdb"), size=1 << 20)
    await running.open_sites()
    await running.send("scheduler", *(running.iteration(vm) for vm in vms))
    ended = await running.until(IterationEnded, len(vms))
    assert {news.state for news in ended} == {"completed"}, ended
    for vm in vms:
        for disk in ("sda", "sdb"):
            assert await running.lab.copied(disk, vm) == running.lab.original(disk, vm)
    assert await running.lab.leftovers() == []
    assert await running.waiting() == []


async def test_a_run_with_plan_scripts_opens_its_gate_and_ends(running: Running) -> None:
    for vm in ("db", "app"):
        running.lab.add_vm(vm, size=1 << 20)
    await running.open_sites()
    hook = running.lab.add_script("exit 0\n")
    stored = running.lab.world.event(said.ScriptStored)
    fields = {name: getattr(stored, name) for name in stored.__struct_fields__}
    await running.send("gateway", said.StoreScript(**fields))
    begin = said.StartRun(
        run=RUN,
        plan="shop",
        tick_at=SystemClock().now(),
        vms=("db", "app"),
        iterations=(),
        pre_script=hook,
        post_script=hook,
    )
    members = [running.iteration(vm, run=RUN, gated=True) for vm in ("db", "app")]
    await running.send("scheduler", begin, *members)
    (finished,) = await running.until(said.RunFinished, 1)
    assert finished.state == "completed", finished
    assert len(await running.rows(said.RunScriptStarted)) == 2


async def test_a_cancel_reaches_a_transfer_that_runs(running: Running) -> None:
    running.lab.add_vm("db", size=64 << 20)
    (running.lab.home / "west" / "site.yaml").write_text("latency: {write_chunk: 200ms}\n")
    await running.open_sites()
    await running.send("scheduler", running.iteration("db"))
    stream = "iteration:shop:db:t1"

    async def transferring() -> bool:
        return f"{stream}/transfer/1-last" in await running.waiting()

    await eventually(transferring, "the transfer is under way")
    await running.send("gateway", said.CancelJob(command_id="c1", job=stream))
    (ended,) = await running.until(IterationEnded, 1)
    assert ended.state == "cancelled"
    assert await running.lab.leftovers() == []


async def test_a_checkpoint_is_made_and_deleted_through_the_engine(running: Running) -> None:
    running.lab.add_vm("db", size=1 << 20)
    await running.open_sites()
    await running.send("scheduler", running.iteration("db"))
    await running.until(IterationEnded, 1)
    job = "checkpoint:shop:c1"
    plan = msgspec.structs.replace(
        header(), protected=running.lab.ref("east"), recovery_site=running.lab.ref("west")
    )
    make = said.MakeCheckpoint(
        checkpoint=job,
        plan="shop",
        plan_version=1,
        header=plan,
        vms=("db",),
        requested_at=SystemClock().now(),
    )
    await running.send("scheduler", make)
    await running.until(CheckpointEnded, 1)
    await running.send("scheduler", said.DeleteCheckpoint(checkpoint=job, plan="shop"))
    ended = await running.until(CheckpointEnded, 2)
    assert [news.state for news in ended] == ["available", "deleted"]
    target = running.lab.open(running.lab.ref("west")).target
    assert await target.list_checkpoints(plan="shop") == ()


async def test_a_missing_site_is_answered_within_seconds(running: Running) -> None:
    ask = said.InspectSite(
        request="add", site=running.lab.ref("nowhere"), for_stream="site:nowhere"
    )
    await running.send("scheduler", ask, key="nowhere")
    (answer,) = await running.until(SiteInspected, 1, within_s=5)
    assert answer.problem is not None
    assert answer.problem.code == "site-gone"


async def test_quotas_that_a_site_does_not_set_let_everything_pass(running: Running) -> None:
    await running.open_sites()
    queue = await running.process.queue("replicator")
    budgets = {state.budget.name: state.budget for state in await queue.budgets()}
    assert budgets["node:west"].concurrent == 40
    assert budgets["west/RunInstances"].per_second >= 1e6
