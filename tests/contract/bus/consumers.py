"""What a consumer makes of a bus: everything once and in order, whoever of its copies works."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from schemas import registry
from schemas.envelope import Received
from schemas.ids import PARTITIONS, partition_of
from shared.decider import on
from shared.eventlog.port import EventStore, NewRow
from shared.fold import ServiceDefinition
from shared.stepper import BATCH_MAX
from shared.testing.counter import DEFINITION, SERVICE, Begin, CounterStarted, Tally
from tests.contract.bus.copies import (
    COMMANDS,
    EVERY,
    KEYS,
    Copies,
    Deluded,
    Flawed,
    Harness,
    answers,
    dead_letters,
    expected,
    reached,
    row,
    send,
    start,
    starts,
    twin_of,
    until_through,
)
from tests.waiting import eventually

A, B = KEYS[0], KEYS[40]
FEW = KEYS[::8]


def _explode(state: object, received: Received) -> object:
    raise KeyError("no such thing")


BREAKING = ServiceDefinition(
    name=SERVICE,
    families=DEFINITION.families,
    handlers=(
        *(handler for handler in DEFINITION.handlers if handler.message is not Begin),
        on(Begin, route=lambda r: "counter:x:1", decide=_explode),  # type: ignore[arg-type]
    ),
    subscriptions=DEFINITION.subscriptions,
)

BAD = {
    "no such thing": row(A, *registry.encode(Begin())),
    "counter.from-tomorrow": row(A, "counter.from-tomorrow", 1, b"{}"),
    "version 99": row(A, "counter.start", 99, b"{}"),
    "cannot be read": row(A, "counter.start", 1, b'{"counter": 7}'),
}
"""Messages that can never be decided, by what their reason says."""

UNKNOWN = ("counter.from-tomorrow", "version 99")


class OrderContract:
    async def test_messages_of_all_partitions_are_decided_once_in_order(
        self, harness: Harness
    ) -> None:
        await send(harness.gateway, starts(KEYS, range(4)))
        async with Copies(harness) as copies:
            copies.start("one")
            await until_through(harness)
            await send(harness.gateway, starts(KEYS, range(4, 6)))
            await until_through(harness)
        assert await answers(harness) == expected(KEYS, range(6))

    async def test_repeats_are_dropped(self, harness: Harness) -> None:
        bus = Flawed(harness.bus, repeats=3)
        async with Copies(harness, bus=bus) as copies:
            copies.start("one")
            for number in range(5):
                await send(harness.gateway, starts(FEW, [number]))
                await until_through(harness)
        assert await answers(harness) == expected(FEW, range(5))
        assert max(bus.brought.values()) > 1

    async def test_a_gap_stops_its_partition_and_no_other_until_it_is_filled(
        self, harness: Harness
    ) -> None:
        bus = Flawed(harness.bus)
        bus.missing = {(partition_of(A), 2)}
        async with Copies(harness, bus=bus) as copies:
            copies.start("one")
            await send(harness.gateway, starts([A, B], range(4)))
            await until_through(harness, B)
            problem = await copies.until_problem("one", "missing after 1")
            assert f"{COMMANDS}/{partition_of(A)} from gateway" in problem
            assert await reached(harness, A) == 1
            bus.missing.clear()
            await until_through(harness)
            assert await copies.problem("one") == ""
        assert await answers(harness) == expected([A, B], range(4))

    async def test_a_backlog_behind_a_gap_leaves_room_for_other_partitions(
        self, harness: Harness
    ) -> None:
        bus = Flawed(harness.bus)
        bus.missing = {(partition_of(A), 1)}
        await send(harness.gateway, starts([A], range(2 * BATCH_MAX)))
        await send(harness.gateway, starts([B], range(4)))
        async with Copies(harness, bus=bus) as copies:
            copies.start("one")
            await until_through(harness, B)
        assert await answers(harness) == expected([B], range(4))

    async def test_one_that_lags_catches_up(self, harness: Harness) -> None:
        await send(harness.gateway, starts(FEW, range(3 * BATCH_MAX // len(FEW))))
        async with Copies(harness) as copies:
            one = copies.start("one")
            await copies.until_held({"one": PARTITIONS})
            await until_through(harness)

            async def nothing_waits() -> bool:
                return await one.consumer.lag() == 0

            await eventually(nothing_waits, "nothing waits")
        assert await harness.bus.lag(EVERY) == 3 * BATCH_MAX // len(FEW) * len(FEW)
        assert await answers(harness) == expected(FEW, range(3 * BATCH_MAX // len(FEW)))

    async def test_a_type_nobody_handles_moves_the_cursor_and_nothing_else(
        self, harness: Harness
    ) -> None:
        unwanted = row(A, *registry.encode(CounterStarted(steps=1)))
        await send(harness.gateway, [start(A, 0), unwanted, start(A, 1)])
        async with Copies(harness) as copies:
            copies.start("one")
            await until_through(harness)
            assert await copies.problem("one") == ""
        assert await reached(harness, A) == 3
        assert await answers(harness) == expected([A], range(2))
        assert list(await harness.counter.parked()) == []


class CopiesContract:
    async def test_two_copies_decide_every_message_once(self, harness: Harness) -> None:
        async with Copies(harness) as copies:
            copies.start("one")
            copies.start("two")
            for number in range(10):
                await send(harness.gateway, starts(KEYS, [number]))
            await copies.until_held({"one": PARTITIONS // 2, "two": PARTITIONS // 2})
            await send(harness.gateway, starts(KEYS, range(10, 12)))
            await until_through(harness)
        assert await answers(harness) == expected(KEYS, range(12))

    async def test_a_copy_that_leaves_hands_its_partitions_over(self, harness: Harness) -> None:
        async with Copies(harness, lease_s=60) as copies:
            copies.start("one")
            await copies.until_held({"one": PARTITIONS})
            await send(harness.gateway, starts(KEYS, range(3)))
            await copies.stop("one")
            copies.start("two")
            await send(harness.gateway, starts(KEYS, range(3, 5)))
            await until_through(harness)
        assert await answers(harness) == expected(KEYS, range(5))

    async def test_a_newcomer_takes_its_share_while_messages_flow(self, harness: Harness) -> None:
        async with Copies(harness) as copies:
            copies.start("one")
            await copies.until_held({"one": PARTITIONS})
            copies.start("two")
            sent = 0
            async with asyncio.timeout(20):
                while len(copies.services["two"].share.owned()) < PARTITIONS // 2:
                    await send(harness.gateway, starts(FEW, [sent]))
                    sent += 1
                    await asyncio.sleep(0)
            await send(harness.gateway, starts(FEW, [sent]))
            await until_through(harness)
        assert await answers(harness) == expected(FEW, range(sent + 1))

    async def test_a_dead_copys_partitions_go_on_once_its_lease_is_over(
        self, harness: Harness
    ) -> None:
        async with Copies(harness) as copies:
            copies.start("one")
            await copies.until_held({"one": PARTITIONS})
            copies.start("two")
            await copies.until_held({"two": PARTITIONS // 2})
            await send(harness.gateway, starts(KEYS, range(3)))
            await copies.kill("one")
            await until_through(harness)
            await copies.until_held({"two": PARTITIONS})
        assert await answers(harness) == expected(KEYS, range(3))

    async def test_copies_that_all_believe_to_hold_everything_decide_every_message_once(
        self, harness: Harness
    ) -> None:
        store = cast(EventStore, Deluded(harness.counter))
        async with Copies(harness, store=store) as copies:
            copies.start("one")
            copies.start("two")
            for number in range(20):
                await send(harness.gateway, starts(FEW, [number]))
                await asyncio.sleep(0)
            await until_through(harness)
        assert await answers(harness) == expected(FEW, range(20))


@pytest.mark.parametrize("reason", BAD)
class ParkedContract:
    async def test_what_can_never_be_decided_parks_its_key_and_others_flow(
        self, harness: Harness, reason: str
    ) -> None:
        twin = twin_of(A)
        rows: list[NewRow] = [start(A, 0), BAD[reason], start(A, 1), start(twin, 0), start(B, 0)]
        await send(harness.gateway, rows)
        async with Copies(harness, definition=BREAKING) as copies:
            copies.start("one")
            await until_through(harness)
            await send(harness.gateway, [start(A, 2), start(twin, 1)])
            await until_through(harness)
        found = await answers(harness)
        assert found == {**expected([twin], range(2)), **expected([A, B], [0])}
        first, *behind = await harness.counter.parked()
        assert (first.key, first.seq) == (A, 2)
        assert await dead_letters(harness) == [(A, 2, first.reason)]
        assert reason in first.reason
        assert [(each.key, each.seq) for each in behind] == [(A, 3), (A, 5)]

    async def test_a_parked_key_waits_on_in_the_next_copy(
        self, harness: Harness, reason: str
    ) -> None:
        await send(harness.gateway, [BAD[reason]])
        async with Copies(harness, definition=BREAKING) as copies:
            copies.start("one")
            await until_through(harness)
            await copies.stop("one")
            copies.start("two")
            await send(harness.gateway, [start(A, 0), start(twin_of(A), 0)])
            await until_through(harness)
            ready = await copies.problem("two")
        assert await answers(harness) == expected([twin_of(A)], [0])
        assert [each.seq for each in await harness.counter.parked()] == [1, 2]
        assert ("does not know" in ready) == (reason in UNKNOWN)


class RestoredContract:
    @pytest.mark.parametrize(
        ("epoch", "keep", "why"),
        [
            (2, 3, "is of epoch 2, our cursor of 1"),
            (1, 1, "ends at 1, our cursor is at 3"),
            (2, 0, "is of epoch 2, our cursor of 1"),
        ],
    )
    async def test_a_copy_that_starts_on_a_restored_log_stops_and_says_so(
        self, harness: Harness, epoch: int, keep: int, why: str
    ) -> None:
        await send(harness.gateway, starts([A], range(3)))
        async with Copies(harness) as copies:
            copies.start("one")
            await until_through(harness)
            await copies.stop("one")
            await harness.restore_gateway(epoch=epoch, keep=keep)
            await send(harness.gateway, starts([A], range(10, 16)))
            if keep == 1:
                # The head stays below the cursor: nothing new would ever be read.
                await harness.restore_gateway(epoch=epoch, keep=keep)
            copies.start("two")
            problem = await copies.until_problem("two", "stopped reading gateway")
        assert why in problem
        assert "restore counter to the same moment" in problem
        assert await answers(harness) == expected([A], range(3))
        assert await reached(harness, A) == 3

    async def test_a_copy_at_work_stops_at_the_first_row_of_another_epoch(
        self, harness: Harness
    ) -> None:
        await send(harness.gateway, starts([A], range(3)))
        async with Copies(harness) as copies:
            copies.start("one")
            await until_through(harness)
            await harness.restore_gateway(epoch=2, keep=3)
            await send(harness.gateway, starts([A], range(3, 5)))
            problem = await copies.until_problem("one", "stopped reading gateway")
        assert "is of epoch 2, our cursor of 1" in problem
        assert await reached(harness, A) == 3

    async def test_the_other_sources_of_a_copy_are_read_on(self, harness: Harness) -> None:
        await send(harness.gateway, starts([A], range(3)))
        tally = row(A, *registry.encode(Tally(counter=f"counter:{A}:0")))

        async def tallied() -> bool:
            cursors = await harness.counter.cursors()
            return (SERVICE, COMMANDS, partition_of(A)) in cursors

        async with Copies(harness) as copies:
            copies.start("one")
            await until_through(harness)
            await harness.restore_gateway(epoch=2, keep=3)
            await send(harness.gateway, [start(A, 3)])
            await copies.until_problem("one", "stopped reading gateway")
            await send(harness.counter, [tally])
            await eventually(tallied, "a message of its own is decided")
        assert await answers(harness) == expected([A], range(3))

    async def test_a_new_epoch_is_no_matter_to_one_that_read_nothing_yet(
        self, harness: Harness
    ) -> None:
        await harness.restore_gateway(epoch=4, keep=0)
        await send(harness.gateway, starts([A], range(3)))
        async with Copies(harness) as copies:
            copies.start("one")
            await until_through(harness)
            assert await copies.problem("one") == ""
        assert await answers(harness) == expected([A], range(3))


class ConsumerContract(OrderContract, CopiesContract, RestoredContract):
    """All of it but the parked keys, which are tried with each kind of bad message."""
