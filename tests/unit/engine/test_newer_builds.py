"""What a newer build wrote is neither decided over nor lost by a build that cannot read it."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator

import pytest

from schemas.envelope import Meta, Received, commands_topic, events_topic
from schemas.ids import partition_of
from shared.clock import SystemClock
from shared.effects.memory import MemoryWork
from shared.eventlog.memory import MemoryStore
from shared.eventlog.port import NewRow, NewTimer, Snapshot, Step
from shared.fold import UNKNOWN, Input
from shared.news import LocalNews
from shared.stepper import Stepper
from shared.testing.counter import DEFINITION, StartCounter
from shared.timers.loop import TimerLoop
from tests.waiting import eventually

STREAM = "counter:a:1"
PARTITION = partition_of("a")


class Bench:
    """A stepper, and a timer loop that holds the partition of key `a`, on a memory store."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.store = MemoryStore("counter", clock=self.clock, work=MemoryWork(self.clock))
        self.stepper = Stepper(
            DEFINITION, self.store, clock=self.clock, committed=lambda topics: None
        )
        self.timers = TimerLoop(
            self.store, stepper=self.stepper, clock=self.clock, news=LocalNews(),
            owned=lambda: frozenset({PARTITION}),
        )  # fmt: skip

    @property
    def meta(self) -> Meta:
        return Meta(occurred_at=self.clock.now())


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    tasks = [asyncio.create_task(bench.stepper.run()), asyncio.create_task(bench.timers.run())]
    yield bench
    for task in tasks:
        assert not task.done()
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_message_to_a_stream_with_a_newer_fact_waits_for_a_newer_build(
    bench: Bench,
) -> None:
    fact = NewRow(
        events_topic("counter"), PARTITION, STREAM, 1, "counter.started", 9, b"{}", bench.meta
    )
    await bench.store.commit(Step(rows=[fact]))
    command = StartCounter(command_id="c1", counter=STREAM, steps=2)
    now = bench.clock.now()
    each = Input(
        received=Received(body=command, meta=bench.meta, at=now, stream="command:a:1"),
        position=("gateway", 1, commands_topic("counter"), PARTITION, 1),
    )
    await bench.stepper.submit([each])
    (parked,) = await bench.store.parked()
    assert parked.reason == f"{UNKNOWN}counter.started version 9"
    assert bench.stepper.unknown_types == {"counter.started version 9"}


async def test_a_timer_with_a_newer_message_is_put_off(bench: Bench) -> None:
    due = bench.clock.now() - dt.timedelta(seconds=1)
    timer = NewTimer(STREAM, "begin", PARTITION, due, "counter.begin", 9, b"{}", bench.meta)
    await bench.store.commit(Step(timers=[timer]))

    async def told() -> bool:
        return bench.stepper.unknown_types == {"counter.begin version 9"}

    await eventually(told, "the newer version is told")

    async def put_off() -> bool:
        return not await bench.store.due_timers([PARTITION], count_max=9)

    await eventually(put_off, "the timer is not due any more")
    left_s = await bench.store.next_timer_in_s([PARTITION])
    assert left_s is not None and left_s > 1


async def test_a_snapshot_that_cannot_be_read_is_folded_anew(bench: Bench) -> None:
    started = NewRow(
        events_topic("counter"), PARTITION, STREAM, 1, "counter.started", 1, b'{"steps":7}',
        bench.meta,
    )  # fmt: skip
    await bench.store.commit(Step(rows=[started], snapshots=[
        Snapshot(STREAM, 1, DEFINITION.families[0].schema, b'{"steps":"of another shape"}')
    ]))  # fmt: skip
    now = bench.clock.now()
    again = StartCounter(command_id="c1", counter=STREAM, steps=2)
    received = Received(body=again, meta=bench.meta, at=now, stream="command:a:1")
    await bench.stepper.submit([Input(received=received)])
    cached = bench.stepper.cache.get(STREAM)
    assert cached is not None and cached.state.steps == 7
