"""A service answers its effects' questions though the store is away for a moment."""

from __future__ import annotations

import random

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
