"""An effect that fails again and again is told to its owner while it goes on."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator

import msgspec
import pytest

from schemas import registry
from schemas.envelope import Received
from shared.decider import Decision, Family
from shared.effects.memory import MemoryWork
from shared.effects.policy import Requeue
from shared.effects.port import Claimed
from shared.effects.settling import Settling
from shared.testing.counter import COUNTER, DEFINITION, TALLY, CounterState, StepFailed
from tests.unit.engine.test_stepper import Bench

STREAM = "counter:a:1"


def _tell(state: CounterState, received: Received) -> Decision:
    body = received.body
    return Decision(events=(StepFailed(code=f"{body.part} {body.attempts} {body.code}"),))


class Shop:
    """A counter whose first step is claimed, and what settles it."""

    def __init__(self, counter: Family) -> None:
        definition = msgspec.structs.replace(DEFINITION, families=(counter, TALLY))
        self.bench = Bench(definition)
        self.settling = Settling(self.bench.stepper, clock=self.bench.clock)

    async def claim(self) -> tuple[Claimed, ...]:
        work = self.bench.store._work
        assert isinstance(work, MemoryWork)
        lease = await work.lease_worker("w", service="counter", lease_s=60)
        return (await work.claim(lease, kinds=["count"], count_max=10)).effects

    async def fail(self, claimed: Claimed, *, alert: bool, wait_s: float = 0.0) -> None:
        again = Requeue(
            at=self.bench.clock.now() + dt.timedelta(seconds=wait_s),
            attempt=3, failed=True, alert=alert, code="away", error="it is away",
        )  # fmt: skip
        await self.settling.settle([(claimed, again)])

    async def failed(self) -> list[str]:
        loaded = await self.bench.store.load({STREAM: 0})
        bodies = [
            registry.decode(row.type, row.schema_version, row.data)
            for row in loaded[STREAM].events
        ]
        return [body.code for body in bodies if isinstance(body, StepFailed)]


@pytest.fixture
async def shop(request: pytest.FixtureRequest) -> AsyncIterator[Shop]:
    shop = Shop(request.param)
    running = asyncio.create_task(shop.bench.stepper.run())
    await shop.bench.stepper.submit([shop.bench.start(1)])
    yield shop
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


TELLING = msgspec.structs.replace(COUNTER, trouble=_tell)


@pytest.mark.parametrize("shop", [TELLING], indirect=True)
async def test_the_owner_decides_in_the_step_that_puts_the_effect_back(shop: Shop) -> None:
    (claimed,) = await shop.claim()
    await shop.fail(claimed, alert=True)
    assert await shop.failed() == ["count/1 3 away"]
    (again,) = await shop.claim()
    assert (again.effect_id, again.attempt) == (claimed.effect_id, 3)


@pytest.mark.parametrize("shop", [TELLING], indirect=True)
async def test_of_failures_that_may_pass_in_silence_it_hears_nothing(shop: Shop) -> None:
    (claimed,) = await shop.claim()
    await shop.fail(claimed, alert=False)
    assert await shop.failed() == []


@pytest.mark.parametrize("shop", [TELLING], indirect=True)
async def test_a_claim_that_was_lost_tells_nothing(shop: Shop) -> None:
    (claimed,) = await shop.claim()
    await shop.claim()
    await shop.fail(claimed, alert=True)
    assert await shop.failed() == []


@pytest.mark.parametrize("shop", [COUNTER], indirect=True)
async def test_an_owner_that_has_nothing_to_say_has_its_effect_put_back(shop: Shop) -> None:
    (claimed,) = await shop.claim()
    await shop.fail(claimed, alert=True)
    (again,) = await shop.claim()
    assert again.attempt == 3
