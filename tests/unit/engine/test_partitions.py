"""Copies of a service come to their share at once, whatever the length of the lease."""

from __future__ import annotations

import asyncio

from schemas.ids import PARTITIONS
from shared.clock import LoopClock
from shared.errors import Transient
from shared.eventlog.memory import MemoryStore
from shared.news import LocalNews
from shared.partitions import PartitionShare
from shared.testing.virtual import run_virtual
from tests.waiting import eventually

LEASE_S = 60.0
AT_ONCE_S = 0.5


class AwayStore(MemoryStore):
    """A store that cannot be reached, and counts how often it was tried."""

    tries = 0

    async def balance(self, *, copy_id: str, lease_s: float) -> frozenset[int]:
        self.tries += 1
        raise Transient("the database is away")


class Copies:
    """Copies over one store and its news."""

    def __init__(self) -> None:
        self._clock = LoopClock()
        self._store = MemoryStore("counter", clock=self._clock)
        self._news = LocalNews()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._shares: dict[str, PartitionShare] = {}

    def start(self, name: str) -> None:
        share = self._shares[name] = PartitionShare(
            self._store, copy_id=name, lease_s=LEASE_S, clock=self._clock, news=self._news,
            changed=lambda: None,
        )  # fmt: skip
        self._tasks[name] = asyncio.create_task(share.run())

    async def leave(self, name: str) -> None:
        self._tasks.pop(name).cancel()
        await self._shares.pop(name).leave()

    async def end_intake(self, name: str) -> None:
        self._tasks.pop(name).cancel()
        await self._shares[name].hand_over()

    async def until_held(self, *counts: int) -> None:
        async def held() -> bool:
            return sorted(len(share.owned()) for share in self._shares.values()) == sorted(counts)

        await eventually(held, f"the shares are {counts}", within_s=AT_ONCE_S)

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


async def _come_and_go() -> None:
    copies = Copies()
    copies.start("one")
    await copies.until_held(PARTITIONS)
    copies.start("two")
    await copies.until_held(32, 32)
    copies.start("three")
    await copies.until_held(22, 21, 21)
    await copies.leave("one")
    await copies.until_held(32, 32)
    await copies.close()


def test_what_a_copy_gives_up_is_taken_at_once() -> None:
    run_virtual(_come_and_go())


async def _end_intake(before: list[str], after: list[int]) -> None:
    copies = Copies()
    for name in before:
        copies.start(name)
    await copies.until_held(*[PARTITIONS // len(before)] * len(before))
    await copies.end_intake("one")
    await copies.until_held(*after)
    await copies.close()


def test_a_copy_that_takes_in_no_more_hands_its_share_to_the_others() -> None:
    run_virtual(_end_intake(["one", "two"], [0, PARTITIONS]))


def test_a_lone_copy_keeps_its_share_until_it_leaves() -> None:
    run_virtual(_end_intake(["one"], [PARTITIONS]))


async def _tries_in(seconds: float) -> int:
    clock, news = LoopClock(), LocalNews()
    store = AwayStore("counter", clock=clock)
    share = PartitionShare(
        store, copy_id="one", lease_s=LEASE_S, clock=clock, news=news, changed=lambda: None
    )
    task = asyncio.create_task(share.run())
    await asyncio.sleep(seconds)
    task.cancel()
    return store.tries


def test_a_store_that_is_away_is_tried_four_times_a_second() -> None:
    assert 30 <= run_virtual(_tries_in(10.0)) <= 41
