"""Calls start no faster than the site's rates, and not at all while the site asks for a pause."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.replicator.transfer.pace import RateBucket, SitePace
from shared.platforms.ports import BudgetFacts
from tests.unit.replicator.transfer.world import in_virtual_time


class SiteLimits:
    """Ten writes at once, then 100 a second; reads are free."""

    def budgets(self) -> tuple[BudgetFacts, ...]:
        return (
            BudgetFacts(name="PutBlock", burst=10, per_second=100),
            BudgetFacts(name="snapshot-writes", concurrent=5),
        )

    def needs(self, call_name: str) -> tuple[str, ...]:
        return ("PutBlock", "snapshot-writes") if call_name == "write_chunk" else ()

    def latency_s(self, call_name: str) -> float | None:
        return None


async def starts(pace: SitePace, *, calls: int) -> list[float]:
    """Start times of calls asked for at once."""
    loop = asyncio.get_running_loop()

    async def one() -> float:
        await pace.spend("write_chunk")
        return loop.time()

    return sorted(await asyncio.gather(*(one() for _ in range(calls))))


def assert_within_bucket(times: Sequence[float], *, burst: float, per_second: float) -> None:
    for first, begun in enumerate(times):
        for last in range(first, len(times)):
            allowed = burst + (times[last] - begun) * per_second
            assert last - first + 1 <= allowed + 1e-6


def test_calls_spend_the_burst_and_then_the_rate() -> None:
    async def story() -> None:
        began = asyncio.get_running_loop().time()
        times = await starts(SitePace(SiteLimits()), calls=60)
        assert [at for at in times if at == began] == [began] * 10
        assert times[-1] - began == pytest.approx(0.5)
        assert_within_bucket(times, burst=10, per_second=100)

    in_virtual_time(story)


def test_a_call_without_a_rate_starts_at_once() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        pace = SitePace(SiteLimits())
        for _ in range(1_000):
            await pace.spend("read_chunk")
        assert loop.time() == began

    in_virtual_time(story)


def test_a_throttled_site_is_left_alone_as_long_as_it_asks_and_gets_no_burst() -> None:
    async def story() -> None:
        pace = SitePace(SiteLimits())
        began = asyncio.get_running_loop().time()
        pace.hold("write_chunk", 3.0)
        times = await starts(pace, calls=30)
        assert times[0] - began >= 3.0
        assert_within_bucket(times, burst=1, per_second=100)

    in_virtual_time(story)


def test_calls_that_wait_for_their_turn_wait_for_the_throttled_site_too() -> None:
    async def story() -> None:
        pace = SitePace(SiteLimits())
        began = asyncio.get_running_loop().time()
        asking = asyncio.create_task(starts(pace, calls=30))
        await asyncio.sleep(0.05)
        pace.hold("write_chunk", 2.0)
        times = await asking
        assert [at for at in times if began + 0.05 < at < began + 2.05] == []
        late = [at for at in times if at >= began + 2.05]
        assert len(late) >= 10
        assert_within_bucket(late, burst=1, per_second=100)

    in_virtual_time(story)


def test_a_hold_without_a_rate_pauses_the_call() -> None:
    async def story() -> None:
        pace = SitePace(SiteLimits())
        loop = asyncio.get_running_loop()
        began = loop.time()
        pace.hold("read_chunk", 1.5)
        await pace.spend("read_chunk")
        assert loop.time() - began >= 1.5

    in_virtual_time(story)


@given(
    st.floats(1, 50),
    st.floats(0.5, 500),
    st.lists(st.floats(0, 1), min_size=1, max_size=60),
)
def test_a_bucket_never_gives_more_than_burst_and_rate(
    burst: float, per_second: float, pauses: list[float]
) -> None:
    bucket = RateBucket(burst=burst, per_second=per_second)
    now_s, times = 1_000.0, list[float]()
    for pause_s in pauses:
        now_s += pause_s
        times.append(now_s + bucket.reserve(now_s))
    assert_within_bucket(sorted(times), burst=burst, per_second=per_second)
