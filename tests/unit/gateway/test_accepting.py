"""What is accepted can be read by its owner: nothing else gets into the gateway's log."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.common import Command
from schemas.envelope import commands_topic, events_topic
from schemas.ids import PARTITIONS
from schemas.recovery_steering import SkipStep
from schemas.scheduler import PrioritisePlan, Recover, StartPlan
from services.gateway.commands import Asked, CommandBus
from services.gateway.problems import Invalid
from shared.clock import SystemClock
from shared.effects.memory import MemoryWork
from shared.eventlog.memory import MemoryStore
from shared.news import LocalNews


class Door:
    """A command bus on a store in memory."""

    def __init__(self) -> None:
        clock = SystemClock()
        self.store = MemoryStore("gateway", clock=clock, work=MemoryWork(clock))
        self.bus = CommandBus(self.store, clock=clock, news=LocalNews())

    async def rows(self, topic: str) -> int:
        """How many rows a topic has."""
        places = dict.fromkeys(range(PARTITIONS), 0)
        return len(await self.store.read(topic, places, count_max=100))


def command(kind: type[Command], **fields: Any) -> Command:
    """A command with whatever a route may have let through."""
    return kind(command_id="c1", **fields)


WRONG = [
    (command(PrioritisePlan, plan="shop", priority=True), "priority"),
    (command(PrioritisePlan, plan="shop", priority=1.5), "priority"),
    (command(StartPlan, plan="shop", vms=("db", 7)), "vms[1]"),
    (command(Recover, plan="shop", job="recovery:shop:r1", mode="destroy"), "mode"),
    (command(Recover, plan="shop", job="recovery:shop:r1", mode="test", last_sync=1), "last_sync"),
    (command(SkipStep, job="recovery:shop:r1", step=None), "step"),
]


@pytest.mark.parametrize(("body", "field"), WRONG, ids=[field for _, field in WRONG])
async def test_a_command_that_its_type_cannot_hold_is_refused_with_the_field(
    body: Command, field: str
) -> None:
    door = Door()
    with pytest.raises(Invalid) as refused:
        await door.bus.accept(Asked(to="scheduler", key="shop", body=body))
    assert refused.value.message.startswith(f"{field}: ") and refused.value.remedy
    assert refused.value.details == {"field": field}
    assert await door.rows(commands_topic("scheduler")) == 0
    assert await door.rows(events_topic("gateway")) == 0


async def test_one_that_it_can_hold_is_accepted() -> None:
    door = Door()
    body = command(PrioritisePlan, plan="shop", priority=1)
    await door.bus.accept(Asked(to="scheduler", key="shop", body=body))
    assert await door.rows(commands_topic("scheduler")) == 1
