"""A parked message is decided by one copy, and only when it is its turn."""

from __future__ import annotations

import datetime as dt

import msgspec

from schemas.ids import partition_of
from shared.eventlog.port import Parked, Step
from shared.fold import UNKNOWN, Input
from shared.parked import chains, unknown_type
from tests.unit.engine.test_stepper import COMMANDS, Bench, bench

__all__ = ["bench"]

AT = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)


def parked(seq: int, key: str = "a", *, topic: str = COMMANDS, reason: str = "broken") -> Parked:
    return Parked("gateway", topic, partition_of(key), seq, key, reason, AT)


def taking(bench: Bench, number: int, message: Parked) -> Input:
    return msgspec.structs.replace(bench.start(number), position=None, unparked=message)


async def test_a_message_is_taken_up_and_parked_no_more(bench: Bench) -> None:
    await bench.store.commit(Step(parked=[parked(1), parked(2)]))
    assert await bench.stepper.take_up(taking(bench, 1, parked(1)))
    assert [each.seq for each in await bench.store.parked()] == [2]
    assert [each.command_id for each in await bench.answers()] == ["c1"]


async def test_one_that_another_copy_took_is_not_decided_and_holds_the_next_back(
    bench: Bench,
) -> None:
    await bench.store.commit(Step(parked=[parked(1), parked(2)]))
    await bench.store.commit(Step(unparked=[parked(1)]))
    assert not await bench.stepper.take_up(taking(bench, 1, parked(1)))
    assert await bench.answers() == []
    assert [each.seq for each in await bench.store.parked()] == [2]


async def test_other_inputs_of_the_batch_are_decided_when_one_is_lost(bench: Bench) -> None:
    others = [bench.start(2), bench.start(3)]
    await bench.stepper.submit([others[0], taking(bench, 1, parked(1)), others[1]])
    assert [each.command_id for each in await bench.answers()] == ["c2", "c3"]


def test_chains_are_the_messages_of_a_key_from_one_topic_in_order() -> None:
    found = chains([parked(9), parked(3, "b"), parked(4), parked(5, topic="other")])
    assert sorted([each.seq for each in chain] for chain in found) == [[3], [4, 9], [5]]


def test_a_type_is_unknown_until_this_build_knows_it() -> None:
    assert unknown_type(parked(1, reason=f"{UNKNOWN}counter.start version 1")) == ""
    assert unknown_type(parked(1, reason=f"{UNKNOWN}counter.start version 9")) == (
        "counter.start version 9"
    )
    assert unknown_type(parked(1, reason="broken")) == ""
