"""What becomes of parked messages: asked for, they are decided in order, once, or dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast
from uuid import uuid4

import msgspec

from schemas import registry
from schemas.common import MessageSkipped
from schemas.envelope import Received, events_topic
from schemas.ids import PARTITIONS
from schemas.registry import published
from shared.decider import NOTHING, Decision, on
from shared.eventlog.port import Asked, EventStore, Parked, Step
from shared.fold import BEHIND, ServiceDefinition
from shared.parked import TAKEN_EACH
from shared.testing.counter import DEFINITION, SERVICE, Begin, StartCounter
from tests.contract.bus.copies import (
    KEYS,
    THROUGH_S,
    Copies,
    Deluded,
    Harness,
    answers,
    expected,
    row,
    send,
    start,
    starts,
    twin_of,
    until_through,
)
from tests.waiting import eventually

A, B = KEYS[0], KEYS[40]

Decide = Callable[[object, Received], Decision]


def deciding(message: type, decide: Decide) -> ServiceDefinition:
    """The counter service with another decision about one kind of message."""
    return ServiceDefinition(
        name=SERVICE,
        families=DEFINITION.families,
        handlers=(
            *(handler for handler in DEFINITION.handlers if handler.message is not message),
            on(message, route=lambda r: "counter:x:1", decide=decide),
        ),
        subscriptions=DEFINITION.subscriptions,
    )


def failing(reason: str) -> Decide:
    def decide(state: object, received: Received) -> Decision:
        raise KeyError(reason)

    return decide


BROKEN = deciding(Begin, failing("no such thing"))
MENDED = deciding(Begin, lambda state, received: NOTHING)


async def park(harness: Harness, copies: Copies, *numbers: int) -> None:
    """Park the key A with a message that cannot be decided, commands of the numbers behind it."""
    await send(harness.gateway, [row(A, *registry.encode(Begin())), *starts([A], numbers)])
    await until_through(harness)
    assert len(await harness.counter.parked()) == 1 + len(numbers)


async def ask(harness: Harness, asked: Asked) -> None:
    """Ask for the first parked message."""
    first = (await harness.counter.parked())[0]
    assert await harness.counter.ask_parked([first], asked=asked) == 1


async def until_parked(harness: Harness, *seqs: int) -> list[Parked]:
    """Wait until exactly these messages are parked, and nothing will be done with them."""

    async def is_so() -> bool:
        found = await harness.counter.parked()
        at_rest = not any(p.asked for p in found) and (not found or found[0].reason != BEHIND)
        return at_rest and [each.seq for each in found] == list(seqs)

    await eventually(is_so, f"parked: {seqs}", within_s=THROUGH_S)
    return list(await harness.counter.parked())


async def skipped(harness: Harness) -> list[MessageSkipped]:
    """What the log of the counter service says was dropped."""
    every = dict.fromkeys(range(PARTITIONS), 0)
    rows = await harness.counter.read(events_topic(SERVICE), every, count_max=100_000)
    bodies = [registry.decode(r.type, r.schema_version, r.data) for r in rows]
    return [body for body in bodies if isinstance(body, MessageSkipped)]


class TakenUpContract:
    async def test_a_retry_decides_the_message_and_those_behind_it_in_order(
        self, harness: Harness
    ) -> None:
        async with Copies(harness, definition=BROKEN) as copies:
            copies.start("one")
            await park(harness, copies, 0, 1, 2)
            await copies.stop("one")
        async with Copies(harness, definition=MENDED) as copies:
            copies.start("two")
            await copies.until_held({"two": PARTITIONS})
            assert await answers(harness) == {}
            await ask(harness, "retry")
            await until_parked(harness)
            await send(harness.gateway, [start(A, 3)])
            await until_through(harness)
        assert await answers(harness) == expected([A], range(4))

    async def test_one_that_fails_again_stays_with_its_new_reason_and_those_behind_it_too(
        self, harness: Harness
    ) -> None:
        async with Copies(harness, definition=BROKEN) as copies:
            copies.start("one")
            await park(harness, copies, 0, 1)
            await copies.stop("one")
        (before, *_) = await harness.counter.parked()
        await ask(harness, "retry")
        still = deciding(Begin, failing("another reason"))
        async with Copies(harness, definition=still) as copies:
            copies.start("two")
            first, *_ = await until_parked(harness, 1, 2, 3)
            await send(harness.gateway, [start(A, 2), start(twin_of(A), 0)])
            await until_through(harness)
            assert len(await harness.counter.parked()) == 4
        assert "another reason" in first.reason
        assert first.at == before.at
        assert await answers(harness) == expected([twin_of(A)], [0])

    async def test_it_stops_at_the_next_one_that_fails(self, harness: Harness) -> None:
        async with Copies(harness, definition=BROKEN) as copies:
            copies.start("one")
            await park(harness, copies, 0, 1)
            await copies.stop("one")
        both = ServiceDefinition(
            name=SERVICE,
            families=DEFINITION.families,
            handlers=(
                *(h for h in MENDED.handlers if h.message is not StartCounter),
                on(StartCounter, route=lambda r: r.body.counter, decide=failing("not this one")),
            ),
            subscriptions=DEFINITION.subscriptions,
        )
        await ask(harness, "retry")
        async with Copies(harness, definition=both) as copies:
            copies.start("two")
            first, behind = await until_parked(harness, 2, 3)
        assert "not this one" in first.reason
        assert "waits behind" in behind.reason

    async def test_a_skip_drops_the_first_says_so_and_lets_the_others_go_on(
        self, harness: Harness
    ) -> None:
        async with Copies(harness, definition=BROKEN) as copies:
            copies.start("one")
            await park(harness, copies, 0, 1)
            await ask(harness, "skip")
            await until_parked(harness)
            await send(harness.gateway, [start(A, 2)])
            await until_through(harness)
        assert await answers(harness) == expected([A], range(3))
        (told,) = await skipped(harness)
        assert (told.source, told.seq, told.type) == ("gateway", 1, "counter.begin")
        assert "no such thing" in told.reason

    async def test_a_skipped_command_is_answered_with_a_refusal(self, harness: Harness) -> None:
        async with Copies(harness, definition=deciding(StartCounter, failing("broken"))) as copies:
            copies.start("one")
            await send(harness.gateway, starts([A], range(2)))
            await until_through(harness)
            await ask(harness, "skip")
            (second,) = await until_parked(harness, 2)
        assert "broken" in second.reason
        assert await answers(harness) == {A: [f"{A}/0 skipped"]}

    async def test_what_waits_behind_nothing_goes_on_by_itself(self, harness: Harness) -> None:
        async with Copies(harness, definition=BROKEN) as copies:
            copies.start("one")
            await park(harness, copies, 0, 1)
            first = (await harness.counter.parked())[0]
            await harness.counter.commit(Step(unparked=[first]))
            await until_parked(harness)
        assert await answers(harness) == expected([A], range(2))

    async def test_more_messages_than_are_taken_up_at_once_are_all_decided(
        self, harness: Harness
    ) -> None:
        numbers = range(2 * TAKEN_EACH + 5)
        async with Copies(harness, definition=BROKEN) as copies:
            copies.start("one")
            await park(harness, copies, *numbers)
            await ask(harness, "skip")
            await until_parked(harness)
        assert await answers(harness) == expected([A], numbers)

    async def test_a_build_that_knows_the_type_takes_its_message_up_unasked(
        self, harness: Harness
    ) -> None:
        name = f"counter.next-{uuid4().hex}"
        async with Copies(harness) as copies:
            copies.start("one")
            await send(harness.gateway, [row(A, name, 1, b"{}"), start(A, 0)])
            await until_through(harness)
            await copies.until_problem("one", "does not know")
            published(name)(msgspec.defstruct("Next", []))
            await until_parked(harness)

            async def ready() -> bool:
                return await copies.problem("one") == ""

            await eventually(ready, "the copy is ready again")
        assert await answers(harness) == expected([A], [0])

    async def test_what_is_asked_of_a_restored_log_waits_until_that_is_seen_to(
        self, harness: Harness
    ) -> None:
        async with Copies(harness, definition=BROKEN) as copies:
            copies.start("one")
            await park(harness, copies)
            await copies.stop("one")
            await harness.restore_gateway(epoch=1, keep=0)
            await ask(harness, "retry")
            copies.start("two")
            await copies.until_problem("two", "stopped reading gateway")
        assert [each.asked for each in await harness.counter.parked()] == ["retry"]

    async def test_two_copies_decide_what_was_parked_once(self, harness: Harness) -> None:
        async with Copies(harness, definition=BROKEN) as copies:
            copies.start("one")
            await send(harness.gateway, [row(key, *registry.encode(Begin())) for key in (A, B)])
            await send(harness.gateway, starts([A, B], range(30)))
            await until_through(harness)
            await copies.stop("one")
        store = cast(EventStore, Deluded(harness.counter))
        async with Copies(harness, store=store, definition=MENDED) as copies:
            copies.start("two")
            copies.start("three")
            firsts = [each for each in await harness.counter.parked() if each.seq == 1]
            assert await harness.counter.ask_parked(firsts, asked="retry") == 2
            await until_parked(harness)
            for number in range(30, 35):
                await send(harness.gateway, starts([A, B], [number]))
                await asyncio.sleep(0)
            await until_through(harness)
            await until_parked(harness)
        assert await answers(harness) == expected([A, B], range(35))
