"""Calls to an archive side by side: bounded, in order, and ended with whoever asked for them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from shared.archive.parallel import Parallel, in_order


class Place:
    """Counts what is under way. Calls of `stuck` never end by themselves."""

    def __init__(self, *, stuck: frozenset[str] = frozenset()) -> None:
        self.stuck = stuck
        self.began: list[str] = []
        self.ended: list[str] = []
        self.under_way_max = 0

    async def call(self, name: str) -> bytes | None:
        self.began.append(name)
        self.under_way_max = max(self.under_way_max, len(self.began) - len(self.ended))
        try:
            if name in self.stuck:
                await asyncio.Event().wait()
            # The later ones are the faster ones.
            for _ in range(40 - int(name.removeprefix("broken-"))):
                await asyncio.sleep(0)
            if name.startswith("broken"):
                raise OSError(name)
        finally:
            self.ended.append(name)
        return name.encode()

    async def put(self, name: str) -> None:
        await self.call(name)


NAMES = [str(number) for number in range(20)]


async def test_all_calls_are_done_when_it_is_left_and_never_more_at_once() -> None:
    place = Place()
    async with Parallel(3) as calls:
        for name in NAMES:
            await calls.start(name, place.put)
    assert sorted(place.ended) == sorted(NAMES)
    assert place.under_way_max == 3


async def test_what_is_under_way_is_not_begun_again() -> None:
    place = Place()
    async with Parallel(3) as calls:
        for name in ("1", "1", "2", "1"):
            await calls.start(name, place.put)
    assert sorted(place.began) == ["1", "2"]


async def test_a_failure_is_raised_and_ends_the_rest() -> None:
    place = Place(stuck=frozenset({"1"}))
    with pytest.raises(OSError, match="broken-3"):
        async with Parallel(2) as calls:
            for name in ("1", "broken-3", *NAMES):
                await calls.start(name, place.put)
            raise AssertionError("nobody was told")
    assert place.ended == ["broken-3", "1"]


async def test_a_failure_of_the_last_call_is_raised_too() -> None:
    place = Place(stuck=frozenset({"1"}))
    with pytest.raises(OSError, match="broken-3"):
        async with Parallel(2) as calls:
            await calls.start("1", place.put)
            await calls.start("broken-3", place.put)
    assert place.ended == ["broken-3", "1"]


async def test_leaving_by_an_exception_ends_what_is_under_way() -> None:
    place = Place(stuck=frozenset({"1"}))
    with pytest.raises(KeyError):
        async with Parallel(2) as calls:
            await calls.start("1", place.put)
            await asyncio.sleep(0)
            raise KeyError
    assert place.ended == ["1"]


async def test_contents_come_in_order_and_no_more_are_fetched_than_so_many() -> None:
    place = Place()
    held_max = 0
    async with aclosing(in_order(place.call, NAMES, 3)) as contents:
        got = []
        async for content in contents:
            got.append(content)
            held_max = max(held_max, len(place.began) - len(got))
    assert got == [name.encode() for name in NAMES]
    assert place.under_way_max == 3
    assert 1 < held_max <= 3


async def test_a_reader_that_goes_away_ends_what_is_under_way() -> None:
    place = Place(stuck=frozenset(NAMES[1:]))
    async with aclosing(in_order(place.call, NAMES, 3)) as contents:
        assert await anext(contents) == b"0"
        await asyncio.sleep(0)
    assert place.ended == ["0", "1", "2", "3"]


async def test_a_content_that_cannot_be_had_is_raised_in_its_place() -> None:
    place = Place(stuck=frozenset({"3"}))
    async with aclosing(in_order(place.call, ["1", "broken-2", "3"], 3)) as contents:
        assert await anext(contents) == b"1"
        with pytest.raises(OSError, match="broken-2"):
            await anext(contents)
    assert set(place.ended) == {"1", "broken-2", "3"}
