"""Copies of a service share streams: what one decides from a stale state is decided again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import cast

import msgspec
import pytest

from schemas import registry
from schemas.common import Fact
from schemas.envelope import Meta, Received, commands_topic
from schemas.ids import PARTITIONS, partition_of
from schemas.registry import published
from shared.clock import SystemClock
from shared.decider import NOTHING, Decision, Family, on
from shared.errors import Transient
from shared.eventlog.memory import MemoryStore
from shared.eventlog.port import Conflict, DueTimer, EventStore, NewTimer, Step
from shared.fold import Input, ServiceDefinition
from shared.stepper import ALONE_ATTEMPTS_MAX, Stepper

LAMP = "lamp:a:1"
COMMANDS = commands_topic("lamps")


@published("test.switch")
class Switch(Fact, frozen=True, kw_only=True):
    """Message: the lamp shall be on, or off."""

    on: bool


@published("test.switched")
class Switched(Fact, frozen=True, kw_only=True):
    """The lamp was switched."""

    on: bool


@published("test.broken")
class Broken(Fact, frozen=True, kw_only=True):
    """A message whose decider always fails."""


class Lamp(msgspec.Struct):
    """Whether it is lit."""

    lit: bool = False


def _switch(lamp: Lamp, received: Received) -> Decision:
    return (
        NOTHING
        if lamp.lit == received.body.on
        else Decision(events=(Switched(on=received.body.on),))
    )


def _fail(lamp: Lamp, received: Received) -> Decision:
    raise KeyError("no such thing")


LAMPS = ServiceDefinition(
    name="lamps",
    families=(
        Family(
            name="lamp",
            state=Lamp,
            initial=Lamp,
            evolve=lambda lamp, event: Lamp(event.on),
            is_terminal=lambda lamp: False,
        ),
    ),
    handlers=(
        on(Switch, route=lambda r: LAMP, decide=_switch),
        on(Broken, route=lambda r: LAMP, decide=_fail),
    ),
    subscriptions=(),
)


class Contested:
    """A store whose next commits lose to other copies."""

    def __init__(self, store: EventStore, *, losses: int) -> None:
        self._store = store
        self.losses = losses

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def commit(self, step: Step) -> Mapping[tuple[str, int], int]:
        if self.losses:
            self.losses -= 1
            raise Conflict([LAMP])
        return await self._store.commit(step)


@asynccontextmanager
async def copy_on(store: object, definition: ServiceDefinition = LAMPS) -> AsyncIterator[Stepper]:
    """A running stepper of its own cache."""
    stepper = Stepper(
        definition, cast(EventStore, store), clock=SystemClock(), committed=lambda topics: None
    )
    running = asyncio.create_task(stepper.run())
    yield stepper
    assert not running.done(), "the stepper goes on"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def new_store(service: str = "lamps") -> MemoryStore:
    return MemoryStore(service, clock=SystemClock())


def switch(lit: bool, seq: int = 0) -> Input:
    """The message, and with a seq the cursor it moves."""
    now = SystemClock().now()
    received = Received(body=Switch(on=lit), meta=Meta(occurred_at=now), at=now, stream="x:a")
    if not seq:
        return Input(received=received)
    return Input(received=received, position=("gateway", 1, COMMANDS, partition_of("a"), seq))


async def history(store: MemoryStore) -> list[bool]:
    """What the lamp was switched to, in order."""
    loaded = await store.load({LAMP: -1})
    bodies = [registry.decode(e.type, e.schema_version, e.data) for e in loaded[LAMP].events]
    return [body.on for body in bodies]


async def test_to_do_nothing_is_decided_again_when_another_copy_moved_the_stream_on() -> None:
    store = new_store()
    async with copy_on(store) as one, copy_on(store) as two:
        await one.submit([switch(True)])
        await two.submit([switch(False)])
        await one.submit([switch(True)])
        assert await history(store) == [True, False, True]


async def test_a_stale_reading_in_a_batch_is_decided_again_with_the_rest_of_it() -> None:
    store = new_store()
    async with copy_on(store) as one, copy_on(store) as two:
        await one.submit([switch(True, 1)])
        await two.submit([switch(False)])
        await one.submit([switch(True, 2), switch(True, 3), switch(False, 4)])
        assert await history(store) == [True, False, True, False]
        assert (await store.cursors())["gateway", COMMANDS, partition_of("a")] == (1, 4)


async def test_to_do_nothing_from_a_fresh_state_is_no_conflict() -> None:
    store = Contested(new_store(), losses=0)
    async with copy_on(store) as one:
        await one.submit([switch(False, 1)])
        cursors = await cast(EventStore, store).cursors()
        assert list(cursors.values()) == [(1, 1)]


async def test_one_that_loses_to_other_copies_again_and_again_is_decided_all_the_same() -> None:
    store = new_store()
    async with copy_on(Contested(store, losses=ALONE_ATTEMPTS_MAX // 2)) as one:
        await one.submit([switch(True, 1)])
    assert await history(store) == [True]
    assert list(await store.parked()) == []


async def test_a_fact_is_reported_when_it_is_committed_and_not_before() -> None:
    store = new_store()
    contested = Contested(store, losses=ALONE_ATTEMPTS_MAX // 2)
    async with copy_on(contested) as one:
        await one.submit_alone(switch(True))
        assert await history(store) == [True]
        contested.losses = ALONE_ATTEMPTS_MAX
        with pytest.raises(Transient):
            await one.submit_alone(switch(False))
    assert await history(store) == [True]


async def test_a_timer_of_another_copy_whose_decider_fails_is_left_to_that_copy() -> None:
    store = new_store()
    now = SystemClock().now()
    meta = Meta(occurred_at=now)
    name, version, data = registry.encode(Broken())
    partition = partition_of("a")
    await store.commit(
        Step(timers=[NewTimer(LAMP, "t", partition, now, name, version, data, meta)])
    )
    (due,) = await _due(store)
    await store.commit(Step(fired=[due]))
    received = Received(body=Broken(), meta=meta, at=now, stream=LAMP)
    async with copy_on(store) as one:
        await one.submit([Input(received=received, fired=due)])
        await one.submit([switch(True)])
    assert await history(store) == [True]


async def _due(store: MemoryStore) -> Sequence[DueTimer]:
    return await store.due_timers(range(PARTITIONS), count_max=10)


async def test_a_later_message_of_a_key_waits_behind_one_set_aside_in_its_own_batch() -> None:
    store = new_store()
    now = SystemClock().now()
    broken = Received(body=Broken(), meta=Meta(occurred_at=now), at=now, stream="x:a")
    position = ("gateway", 1, COMMANDS, partition_of("a"), 2)
    async with copy_on(store) as one:
        batch = [switch(True, 1), Input(received=broken, position=position), switch(False, 3)]
        await one.submit(batch)
    assert await history(store) == [True]
    assert [each.seq for each in await store.parked()] == [2, 3]
