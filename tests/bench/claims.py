"""Effects claimed and settled per second, past a crowd that is blocked.

10,000 ready no-op effects with two budgets each; beside them 60,000 whose budgets are full. 200
budgets (100 with room, half of these slots, half buckets; 100 without), 400 distinct sets: 100
open, 150 with one full budget, 150 with two. One process claims up to 64 at a time and settles
through the store's commit, up to 500 at a time, both at once. The value is effects per second
from the first claim to the last commit; `claim_p99_ms` is over all claims that granted.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import time
from collections.abc import Iterator
from typing import Final

import msgspec
import uvloop

from schemas.envelope import Meta
from schemas.ids import partition_of
from schemas.registry import published
from shared.decider import Effect, Need
from shared.effects.port import Budget, Claimed, Lease
from shared.effects.postgres import PostgresWork
from shared.embedded import EmbeddedPostgres
from shared.eventlog.port import NewEffect, Settled, Step
from shared.eventlog.postgres import PostgresStore
from shared.migrations import migrate
from shared.postgres import open_pool
from tests.bench.harness import Goal, Measurement, folder, say

NAME = "claims"
UNIT = "effects/s"
GOAL = Goal(least=8_000, parts={"claim_p99_ms": Goal(most=20), "claims": Goal(least=1_000)})

SERVICE: Final = "replicator"
READY: Final = 10_000
BLOCKED: Final = 60_000
OPEN_SETS: Final = 100
ROUNDS: Final = 8
CLAIM_COUNT_MAX: Final = 64
SETTLE_COUNT_MAX: Final = 500
IN_FLIGHT_MAX: Final = 1_024
_SEED: Final = 7
_NOW: Final = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
_META: Final = Meta(occurred_at=_NOW, actor="bench")


@published("bench.noop")
class Noop(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing to do."""

    number: int


async def run() -> Measurement:
    async with folder() as home:
        server = EmbeddedPostgres(home / "postgres")
        dsn = await asyncio.to_thread(server.start)
        try:
            # A loop of its own, the one services run on.
            return await asyncio.to_thread(uvloop.run, measured(dsn))
        finally:
            await asyncio.to_thread(server.stop)


async def measured(dsn: str) -> Measurement:
    await migrate(dsn, SERVICE)
    pool = await open_pool(dsn, SERVICE)
    try:
        store = await PostgresStore.open(pool, service=SERVICE)
        bench = Claims(PostgresWork(pool), store)
        await bench.prepare()
        rates = []
        for index in range(ROUNDS):
            rates.append(await bench.round(index))
            say(f"  {index + 1}/{ROUNDS}: {rates[-1]:.0f}")
        in_use = sum(state.in_use for state in await bench.work.budgets())
    finally:
        await pool.close()
    claims = sorted(bench.claims_s)
    return Measurement(
        values=tuple(rates),
        parts={
            "claims": len(claims),
            "claim_p50_ms": round(claims[len(claims) // 2] * 1e3, 2),
            "claim_p99_ms": round(claims[int(len(claims) * 0.99)] * 1e3, 2),
            "claim_max_ms": round(claims[-1] * 1e3, 2),
            "per_claim": round(ROUNDS * READY / len(claims), 1),
        },
        sound=bench.settled == ROUNDS * READY and in_use == 0,
    )


def budgets() -> Iterator[Budget]:
    """100 with room, 100 without."""
    for n in range(50):
        yield Budget(name=f"slots/{n}", mode="hold", concurrent=256)
        yield Budget(name=f"bucket/{n}", mode="rate", burst=1e6, per_second=1e4)
    for n in range(100):
        yield Budget(name=f"full/{n}", mode="hold", concurrent=0)


def needs_of(index: int) -> tuple[Need, Need]:
    """One of 400 distinct sets of two budgets, the first 100 open."""
    if index < OPEN_SETS:
        half = index % 50, (index + index // 50) % 50
        return _slots(half[0]), Need(budget=f"bucket/{half[1]}", mode="rate")
    if index < 250:
        return _slots(index % 50), _full((index + index // 100) % 100)
    return _full(index % 100), _full((index + 1 + index // 100) % 100)


def _slots(n: int) -> Need:
    return Need(budget=f"slots/{n}", mode="hold")


def _full(n: int) -> Need:
    return Need(budget=f"full/{n}", mode="hold")


class Claims:
    """One queue, filled and emptied again and again."""

    def __init__(self, work: PostgresWork, store: PostgresStore) -> None:
        self.work = work
        self.store = store
        self.claims_s: list[float] = []
        self.settled = 0
        self._chance = random.Random(_SEED)
        self._lease = Lease(worker="", number=0, lease_s=0)
        self._claimed: list[Claimed] = []
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    async def prepare(self) -> None:
        sets = [needs_of(index) for index in range(400)]
        assert len(set(sets)) == 400
        await self.work.define(list(budgets()))
        await self._enqueue("blocked", BLOCKED, sets[OPEN_SETS:], first_plan=OPEN_SETS)
        self._lease = await self.work.lease_worker("bench", service=SERVICE, lease_s=600)

    async def _enqueue(
        self, name: str, count: int, sets: list[tuple[Need, Need]], *, first_plan: int
    ) -> None:
        effects = [
            self._effect(f"{name}:{n}", sets[n % len(sets)], (first_plan + n % len(sets)) % 20)
            for n in range(count)
        ]
        self._chance.shuffle(effects)
        for start in range(0, count, SETTLE_COUNT_MAX):
            await self.store.commit(Step(effects=effects[start : start + SETTLE_COUNT_MAX]))

    def _effect(self, stream: str, needs: tuple[Need, Need], plan: int) -> NewEffect:
        due = _NOW + dt.timedelta(seconds=self._chance.randrange(3_600))
        effect = Effect(
            part="step/noop", kind="noop", payload=Noop(number=plan), due=due,
            plan=f"plan-{plan}", needs=needs,
        )  # fmt: skip
        return NewEffect(stream, partition_of(effect.plan), effect, _META)

    async def round(self, index: int) -> float:
        """Fill, then claim and settle everything; gives effects per second."""
        sets = [needs_of(n) for n in range(OPEN_SETS)]
        await self._enqueue(f"ready-{index}", READY, sets, first_plan=0)
        target = self.settled + READY
        began = time.perf_counter()
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            group.create_task(self._claim(READY))
            group.create_task(self._settle(target))
        return READY / (time.perf_counter() - began)

    async def _claim(self, count: int) -> None:
        while count > 0:
            began = time.perf_counter()
            result = await self.work.claim(self._lease, kinds=["noop"], count_max=CLAIM_COUNT_MAX)
            if result.effects:
                self.claims_s.append(time.perf_counter() - began)
            count -= len(result.effects)
            self._claimed += result.effects
            self._news.set()
            while len(self._claimed) >= IN_FLIGHT_MAX or (not result.effects and self._claimed):
                self._room.clear()
                await self._room.wait()

    async def _settle(self, target: int) -> None:
        while self.settled < target:
            await self._news.wait()
            self._news.clear()
            while self._claimed:
                batch = self._claimed[:SETTLE_COUNT_MAX]
                del self._claimed[:SETTLE_COUNT_MAX]
                await self.store.commit(
                    Step(settled=[Settled(each.effect_id, each.lease_no) for each in batch])
                )
                self.settled += len(batch)
                self._room.set()
