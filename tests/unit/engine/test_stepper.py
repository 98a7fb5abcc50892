"""The stepper decides whatever arrives, commits it together, and sets aside what spoils it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from schemas import registry
from schemas.common import CommandSettled
from schemas.envelope import Meta, Received, commands_topic, events_topic
from schemas.ids import PARTITIONS, partition_of
from shared.clock import SystemClock
from shared.decider import NOTHING, Decision, on
from shared.effects.memory import MemoryWork
from shared.errors import Refused
from shared.eventlog.memory import MemoryStore
from shared.fold import EVENT_BYTES_MAX, Input, ServiceDefinition
from shared.stepper import Stepper
from shared.testing.counter import DEFINITION, Begin, CounterStarted, StartCounter
from tests.failures import failure_mode

COMMANDS = commands_topic("counter")


class Bench:
    """A stepper on a memory store, and a counter of the rows it was given."""

    def __init__(self, definition: ServiceDefinition = DEFINITION) -> None:
        self.clock = SystemClock()
        self.store = MemoryStore("counter", clock=self.clock, work=MemoryWork(self.clock))
        self.stepper = Stepper(
            definition, self.store, clock=self.clock, committed=lambda topics: None
        )
        self.seqs: dict[int, int] = {}

    def command(self, body: object, key: str, stream: str = "command:a:1") -> Input:
        partition = partition_of(key)
        self.seqs[partition] = self.seqs.get(partition, 0) + 1
        now = self.clock.now()
        return Input(
            received=Received(body=body, meta=Meta(occurred_at=now), at=now, stream=stream),
            position=("gateway", 1, COMMANDS, partition, self.seqs[partition]),
        )

    def start(self, number: int, key: str = "a") -> Input:
        body = StartCounter(command_id=f"c{number}", counter=f"counter:{key}:{number}", steps=2)
        return self.command(body, key)

    async def answers(self) -> list[CommandSettled]:
        topic = events_topic("counter")
        rows = await self.store.read(topic, dict.fromkeys(range(PARTITIONS), 0), count_max=10_000)
        bodies = [registry.decode(row.type, row.schema_version, row.data) for row in rows]
        return [body for body in bodies if isinstance(body, CommandSettled)]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    running = asyncio.create_task(bench.stepper.run())
    yield bench
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_commands_of_one_batch_are_each_answered_once(bench: Bench) -> None:
    await bench.stepper.submit([bench.start(n, key=f"k{n % 7}") for n in range(200)])
    answers = await bench.answers()
    assert sorted(a.command_id for a in answers) == sorted(f"c{n}" for n in range(200))
    assert {a.outcome for a in answers} == {"done"}


async def test_a_refused_command_is_answered_with_its_code_beside_granted_ones(
    bench: Bench,
) -> None:
    again = StartCounter(command_id="again", counter="counter:a:1", steps=9)
    await bench.stepper.submit([bench.start(1), bench.command(again, "a"), bench.start(2)])
    answers = {a.command_id: a.code for a in await bench.answers()}
    assert answers == {"c1": "", "again": "exists", "c2": ""}


@failure_mode(
    "Log and read models",
    "cut off",
    sees=(
        "A message that cannot be decided is set aside with its key's later ones "
        "(`seawall log parked`, `seawall_parked_keys`); all others go on."
    ),
    does="After an update `seawall log retry`, or `seawall log skip` with a reason.",
)
async def test_a_message_that_always_fails_is_parked_and_the_others_go_on() -> None:
    def explode(state: object, received: Received) -> object:
        raise KeyError("no such thing")

    bench = Bench(
        ServiceDefinition(
            name="counter",
            families=DEFINITION.families,
            handlers=(
                *(h for h in DEFINITION.handlers if h.message is not Begin),
                on(Begin, route=lambda r: "counter:a:1", decide=explode),  # type: ignore[arg-type]
            ),
            subscriptions=DEFINITION.subscriptions,
        )
    )
    running = asyncio.create_task(bench.stepper.run())
    await bench.stepper.submit(
        [bench.start(1), bench.command(Begin(), "a", stream="command:bad:1"), bench.start(2)]
    )
    running.cancel()
    assert [a.command_id for a in await bench.answers()] == ["c1", "c2"]
    (parked,) = await bench.store.parked()
    assert parked.key == "bad"
    assert "no such thing" in parked.reason
    cursors = await bench.store.cursors()
    assert cursors["gateway", COMMANDS, partition_of("a")] == (1, 3)


async def test_a_stream_moved_by_another_copy_is_loaded_again(bench: Bench) -> None:
    other = Bench()
    other.store = bench.store
    other.stepper = Stepper(
        DEFINITION, bench.store, clock=bench.clock, committed=lambda topics: None
    )
    running = asyncio.create_task(other.stepper.run())
    await bench.stepper.submit([bench.start(1)])
    bench.stepper.cache.get("counter:a:1").version = 0  # type: ignore[union-attr]
    bench.stepper.cache.get("counter:a:1").state = DEFINITION.families[0].initial()  # type: ignore[union-attr]
    again = bench.command(StartCounter(command_id="stale", counter="counter:a:1", steps=2), "a")
    await bench.stepper.submit([again])
    running.cancel()
    assert {a.command_id: a.code for a in await bench.answers()}["stale"] == "exists"


def test_a_started_counter_is_a_published_fact() -> None:
    name, version, data = registry.encode(CounterStarted(steps=1))
    assert registry.decode(name, version, data) == CounterStarted(steps=1)
    assert NOTHING.events == ()


def leading_to(needs: tuple[str, ...]) -> ServiceDefinition:
    """A counter whose every command and timer leads to an event with these needs."""

    def decide(state: object, received: Received) -> Decision:
        return Decision(events=(CounterStarted(steps=1, needs=needs),))

    return ServiceDefinition(
        name="counter",
        families=DEFINITION.families,
        handlers=tuple(
            on(kind, route=lambda r: "counter:a:1", decide=decide)
            for kind in (StartCounter, Begin)
        ),
        subscriptions=DEFINITION.subscriptions,
    )


async def test_a_command_that_leads_to_too_large_an_event_is_refused_and_a_message_parked() -> (
    None
):
    bench = Bench(leading_to(("n" * EVENT_BYTES_MAX,)))
    running = asyncio.create_task(bench.stepper.run())
    await bench.stepper.submit([bench.start(1), bench.start(2, key="b")])
    await bench.stepper.submit([bench.command(Begin(), "c", stream="command:c:1")])
    running.cancel()
    answers = await bench.answers()
    assert [(a.command_id, a.code) for a in answers] == [("c1", "too-large"), ("c2", "too-large")]
    assert "counter.started" in answers[0].message and answers[0].remedy
    assert [parked.key for parked in await bench.store.parked()] == ["c"]


@pytest.mark.parametrize("letter", ["x", "\\", "\x00", "😀"])
async def test_a_refusal_fits_an_event_however_long_its_words_are(letter: str) -> None:
    def refuse(state: object, received: Received) -> Decision:
        words = letter * EVENT_BYTES_MAX
        raise Refused(f"no {words}", code="no", remedy=f"not {words}")

    bench = Bench(
        ServiceDefinition(
            name="counter",
            families=DEFINITION.families,
            handlers=(on(StartCounter, route=lambda r: "counter:a:1", decide=refuse),),
            subscriptions=DEFINITION.subscriptions,
        )
    )
    running = asyncio.create_task(bench.stepper.run())
    await bench.stepper.submit([bench.start(1)])
    running.cancel()
    (answer,) = await bench.answers()
    assert answer.code == "no" and answer.message.startswith("no ") and answer.remedy
    assert not await bench.store.parked()
