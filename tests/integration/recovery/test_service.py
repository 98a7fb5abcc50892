"""The recovery service as it runs: Postgres, its engine, a lab site; messages as from outside."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas import recovery as said
from schemas import registry
from schemas.envelope import Meta, commands_topic
from schemas.ids import partition_of
from services.recovery.domain.vm_state import vm_stream
from services.recovery.domain.work import QUOTAS
from services.recovery.main import build
from shared.clock import SystemClock
from shared.databases import Databases
from shared.effects.port import Budget
from shared.eventlog.port import NewRow, Step
from shared.process import Process
from shared.service import Service
from shared.settings import Settings
from tests.integration.recovery.lab import Lab
from tests.unit.recovery.world import JOB, enrol, header, start, vm

TOPIC = commands_topic("recovery")
CLEANUP = "cleanup:shop:k1"


class Running:
    """A running recovery service and a stand-in for those who send to it."""

    def __init__(self, process: Process, service: Service, lab: Lab) -> None:
        self.process = process
        self.service = service
        self.lab = lab

    async def send(self, source: str, *bodies: Any) -> None:
        store = await self.process.store(source)
        meta = Meta(occurred_at=SystemClock().now())
        rows = []
        for body in bodies:
            name, version, data = registry.encode(body)
            partition = partition_of("shop")
            rows.append(NewRow(TOPIC, partition, "plan:shop", 0, name, version, data, meta))
        await store.commit(Step(rows=rows))
        self.process.news("recovery").poke((TOPIC,))

    async def recover(self, *vms: Any, **options: Any) -> None:
        policy = msgspec.structs.replace(
            options.pop("header", header()), recovery_site=self.lab.site
        )
        begin = msgspec.structs.replace(
            start(*vms, header=policy, **options), requested_at=SystemClock().now()
        )
        await self.send("scheduler", *(enrol(each, header=policy) for each in vms), begin)

    async def state(self, stream: str) -> Any:
        return (await self.service.read_states((stream,)))[stream]

    async def until(self, stream: str, reached: Any, *, within_s: float = 30) -> Any:
        async with asyncio.timeout(within_s):
            while not reached(state := await self.state(stream)):  # noqa: ASYNC110 - other tasks
                await asyncio.sleep(0.02)
            return state


def _open(name: str) -> Budget:
    """A quota with room for everything."""
    return Budget(name=name, mode="rate", burst=1e6, per_second=1e6)


@pytest.fixture
async def running(postgres_dsn: str, tmp_path: Path) -> AsyncIterator[Running]:
    os.chmod(tmp_path, 0o755)
    lab = Lab(tmp_path)
    settings = Settings(home=tmp_path, lease_s=2.0, heartbeat_s=0.5)
    async with Process(settings, Databases(postgres_dsn)) as process:
        service = await build(process)
        queue = await process.queue("recovery")
        await queue.define([_open(f"west/{quota}") for quota in sorted(set(QUOTAS.values()))])
        async with asyncio.TaskGroup() as group:
            news = group.create_task(process.hear())
            task = group.create_task(service.run())
            yield Running(process, service, lab)
            service.stop()
            await asyncio.wait([task], timeout=15)
            news.cancel()
    await lab.platform.close()


async def test_a_test_recovery_and_its_cleanup_run_through_the_engine(running: Running) -> None:
    lab = running.lab
    for name in ("db", "app", "web"):
        await lab.add_copy(name)
    content = lab.add_script('echo \'{"outputs": {"ok": true}}\'\n')
    stored = lab.world.event(said.RecoveryScriptStored)
    await running.send(
        "scheduler",
        said.StoreRecoveryScript(
            **{name: getattr(stored, name) for name in stored.__struct_fields__}
        ),
    )
    vms = (vm("db", 1, post_script=content), vm("app", 2, boot_delay_s=0.2), vm("web", 3))
    await running.recover(*vms, header=header(pre_script=content, post_script=content))
    ended = await running.until(JOB, lambda state: state.finished)
    assert ended.finished.state == "completed", ended.finished
    db = await running.state(vm_stream(JOB, "db"))
    assert db.outputs == {"post-script": {"ok": True}}
    calls = [line for line in lab.journal() if line["call"] == "power_on"]
    assert [line["vm"] for line in calls] == ["db", "app", "web"]
    await running.send("gateway", said.StartCleanup(command_id="c1", job=CLEANUP, recovery=JOB))
    await running.until(JOB, lambda state: state.cleaned)
    assert not [o for o in await lab.platform.compute.list_owned() if o.job == JOB]


async def test_a_cancelled_recovery_ends_cancelled(running: Running) -> None:
    await running.lab.add_copy("db", boots_s=60)
    await running.recover(vm("db"))
    child = vm_stream(JOB, "db")
    await running.until(child, lambda state: state.powered_on_at)
    await running.send("gateway", said.CancelRecoveryJob(command_id="c1", job=JOB))
    ended = await running.until(JOB, lambda state: state.finished)
    assert (ended.finished.state, ended.finished.awaits_cleanup) == ("cancelled", True)
    await running.send("gateway", said.StartCleanup(command_id="c2", job=CLEANUP, recovery=JOB))
    await running.until(JOB, lambda state: state.cleaned)
