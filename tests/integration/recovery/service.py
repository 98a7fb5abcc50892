"""A running recovery service on a lab site, and a stand-in for those who send to it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from schemas import registry
from schemas.envelope import Meta, commands_topic
from schemas.ids import partition_of
from services.recovery.main import build
from shared.clock import SystemClock
from shared.effects.port import WorkQueue
from shared.eventlog.port import NewRow, Step
from shared.process import Process
from tests.integration.recovery.lab import Lab
from tests.unit.recovery.world import enrol, header, start

TOPIC = commands_topic("recovery")


class Running:
    """A running recovery service and a stand-in for those who send to it."""

    def __init__(self, process: Process, lab: Lab, queue: WorkQueue) -> None:
        self.process = process
        self.lab = lab
        self.queue = queue
        self.asked: list[str] = []

    async def begin(self, group: asyncio.TaskGroup) -> None:
        """Start the service."""
        self._group = group
        self.service = await build(self.process)
        self._task = group.create_task(self.service.run())

    async def end(self) -> None:
        """Stop it in order."""
        self.service.stop()
        await asyncio.wait([self._task], timeout=15)

    async def restart(self) -> None:
        """Stop it, and start another one on the same database."""
        await self.end()
        await self.begin(self._group)

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
