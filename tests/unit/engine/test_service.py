"""A service answers its effects' questions, and has decided what its copies see."""

from __future__ import annotations

import asyncio
import random

from schemas import registry
from schemas.envelope import events_topic
from schemas.replicator import NoteThrottling, ThrottledForLong
from services.replicator.handlers import DEFINITION as REPLICATOR
from shared.bus.memory import MemoryBus
from shared.clock import LoopClock
from shared.effects.memory import MemoryWork
from shared.eventlog.memory import MemoryStore
from shared.news import LocalNews
from shared.service import Service
from shared.testing.counter import DEFINITION, SERVICE
from shared.testing.remote import RemoteStore, Weather, Wire
from shared.testing.virtual import run_virtual


async def _states_during_an_outage() -> int:
    clock = LoopClock()
    store = MemoryStore(SERVICE, clock=clock, work=MemoryWork(clock))
    weather = Weather(fault_share=1.0)
    failures = 0

    def served(verb: str) -> None:
        nonlocal failures
        failures += 1
        if failures == 3:
            weather.fault_share = 0.0

    service = Service(
        DEFINITION,
        store=RemoteStore(store, Wire(weather, random.Random(1), served=served)),
        bus=MemoryBus({SERVICE: store}),
        clock=clock,
        news=LocalNews(),
        copy_id="one",
        lease_s=15,
    )
    states = await service.read_states(("counter:a:1",))
    assert states["counter:a:1"].steps == 0
    return failures


def test_states_are_read_again_until_the_store_answers() -> None:
    assert run_virtual(_states_during_an_outage()) >= 3


async def _told_by_two_copies() -> list[str]:
    clock = LoopClock()
    store = MemoryStore("replicator", clock=clock, work=MemoryWork(clock))
    copies = [
        Service(
            REPLICATOR,
            store=store,
            bus=MemoryBus({"replicator": store}),
            clock=clock,
            news=LocalNews(),
            copy_id=name,
            lease_s=15,
        )
        for name in ("one", "two")
    ]
    note = NoteThrottling(
        site="west", quota="Run", holds=True, mode="rate", limit=1, cap=20, throttled=7
    )
    running = [asyncio.create_task(copy.run()) for copy in copies]
    for copy in copies:
        await copy.tell(note)
    for copy in copies:
        copy.stop()
    await asyncio.gather(*running)
    heads = await store.heads([events_topic("replicator")])
    rows = [
        row
        for topic, partition in heads
        for row in await store.read(topic, {partition: 0}, count_max=9)
    ]
    return [row.type for row in rows]


def test_what_two_copies_see_is_one_fact() -> None:
    assert run_virtual(_told_by_two_copies()) == [registry.name_of(ThrottledForLong)]
