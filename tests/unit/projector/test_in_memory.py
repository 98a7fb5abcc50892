"""The projector's own loop on the memory twins, in virtual time."""

from __future__ import annotations

import asyncio

from schemas import registry, scheduler
from schemas.envelope import Meta, events_topic
from schemas.ids import key_of, partition_of
from services.projector.model import MemoryReadModel
from services.projector.project import Projector
from services.projector.settings import SOURCES
from shared.bus.memory import MemoryBus
from shared.clock import LoopClock
from shared.eventlog.memory import MemoryStore
from shared.eventlog.port import NewRow, Step
from shared.news import LocalNews
from shared.testing.virtual import run_virtual
from tests.unit.projector.history import T0, protected
from tests.waiting import eventually

VM = "protected-vm:shop:db"
TOPIC = events_topic("scheduler")


class World:
    """Memory logs of all services, and copies of the projector over them."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.news = LocalNews()
        self.stores = {source: MemoryStore(source, clock=self.clock) for source in SOURCES}
        self.leases = MemoryStore("projector", clock=self.clock)
        self.model = MemoryReadModel()

    def projector(self, copy_id: str) -> Projector:
        return Projector(
            self.model,
            bus=MemoryBus(self.stores),
            leases=self.leases,
            clock=self.clock,
            news=self.news,
            copy_id=copy_id,
            lease_s=15.0,
        )

    async def say(self, stream: str, version: int, event: object) -> None:
        name, schema_version, data = registry.encode(event)  # type: ignore[arg-type]
        partition = partition_of(key_of(stream))
        meta = Meta(occurred_at=T0)
        row = NewRow(TOPIC, partition, stream, version, name, schema_version, data, meta)
        await self.stores["scheduler"].commit(Step(rows=[row]))
        self.news.poke((TOPIC,))

    async def shows(self, vm: str, *, replicating: bool) -> bool:
        found = self.model.tables["vms"].get(vm)
        return found is not None and found.replicating == replicating


def test_what_is_said_is_projected_by_the_same_loop_in_memory() -> None:
    run_virtual(_projected_in_memory())


async def _projected_in_memory() -> None:
    world = World()
    projector = world.projector("one")
    running = asyncio.create_task(projector.run())
    await world.say(VM, 1, protected())
    await world.say(VM, 2, scheduler.VmStarted(next_due_at=T0))
    await eventually(lambda: world.shows(VM, replicating=True), "the VM is on")
    projector.stop()
    await running
    assert [row.seq for row in world.model.events] == [1, 2]


def test_the_other_copy_takes_over_what_a_dead_one_held() -> None:
    run_virtual(_taken_over())


async def _taken_over() -> None:
    world = World()
    dead = asyncio.create_task(world.projector("dead").run())
    await world.say(VM, 1, protected())
    await eventually(lambda: world.shows(VM, replicating=False), "the VM is there")
    dead.cancel()
    await asyncio.gather(dead, return_exceptions=True)
    alive = world.projector("alive")
    running = asyncio.create_task(alive.run())
    await world.say(VM, 2, scheduler.VmStarted(next_due_at=T0))
    await eventually(lambda: world.shows(VM, replicating=True), "taken over", within_s=60.0)
    alive.stop()
    await running
