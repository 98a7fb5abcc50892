"""A site that takes less than Seawall was told, asked by two worker processes through one queue.

The site is a lab folder whose `site.yaml` allows 20 calls a second with a burst of 10; its
settings tell 50 a second with a burst of 100. Two processes run effects that list it, each with a
worker of its own over one PostgreSQL. The value is the share of refused answers after a warm-up of
60 s, by the site's own journal; `taken_per_s` what passed, of 20.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from schemas.envelope import Meta
from schemas.registry import published
from schemas.scheduler import SiteRef
from services.replicator.budgets import SiteBudgets
from shared.clock import SystemClock
from shared.decider import Effect, Need
from shared.effects.policy import STEP, Requeue, Verdict
from shared.effects.port import Claimed
from shared.effects.postgres import PostgresWork
from shared.effects.running import EffectRun
from shared.effects.worker import Worker, WorkerSettings
from shared.embedded import EmbeddedPostgres
from shared.eventlog.port import NewEffect, Settled, Step
from shared.eventlog.postgres import PostgresStore
from shared.migrations import migrate
from shared.platforms.ports import Platform
from shared.platforms.sites import Sites
from shared.postgres import open_pool
from tests.bench.harness import Goal, Measurement, folder, say

NAME = "throttled"
UNIT = "refused / answered"
GOAL = Goal(most=0.01, parts={"taken_per_s": Goal(least=17.0)})

SERVICE: Final = "replicator"
PER_SECOND: Final = 20.0
TOLD: Final = "100,50/s"
WARM_UP_S: Final = 60.0
MEASURED_S: Final = 60.0
WORKERS: Final = 2
EFFECTS: Final = int((WARM_UP_S + MEASURED_S + 20) * 50)
_SETTLED_AT_ONCE: Final = 500
_META: Final = Meta(occurred_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC), actor="bench")


@published("bench.look")
class Look(msgspec.Struct, frozen=True, kw_only=True):
    """Ask the site whether it is there."""


class Asks:
    """The handler: one call of the platform."""

    policy = STEP
    resumable = True

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    async def run(self, effect: EffectRun) -> None:
        await self._platform.inventory.check()


def address(site: Path) -> SiteRef:
    settings = {"path": str(site), "limit.DescribeInstances": TOLD}
    return SiteRef(site="west", platform="lab", settings=settings)


async def run() -> Measurement:
    async with folder() as home:
        server = EmbeddedPostgres(home / "postgres")
        dsn = await asyncio.to_thread(server.start)
        try:
            with tempfile.TemporaryDirectory(prefix="seawall-site-") as site:
                return await measured(dsn, Path(site))
        finally:
            await asyncio.to_thread(server.stop)


async def measured(dsn: str, site: Path) -> Measurement:
    quota = f"{{burst: 10, per_second: {PER_SECOND:g}}}"
    (site / "site.yaml").write_text(f"quotas: {{DescribeInstances: {quota}}}\n")
    await migrate(dsn, SERVICE)
    await _fill(dsn, site)
    workers = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.bench.throttled", dsn, str(site), f"w{number}"
        )
        for number in range(WORKERS)
    ]
    await asyncio.gather(*(worker.wait() for worker in workers))
    answers = sorted(_answers(site))
    return _judged(answers, sound=all(worker.returncode == 0 for worker in workers))


async def _fill(dsn: str, site: Path) -> None:
    pool = await open_pool(dsn, SERVICE)
    try:
        store = await PostgresStore.open(pool, service=SERVICE)
        await SiteBudgets(Sites(), PostgresWork(pool)).define(address(site))
        needs = (Need(budget="west/DescribeInstances", mode="rate"),)
        effects = [
            NewEffect(
                f"look:{n}", n % 64,
                Effect(part="step/look", kind="look", payload=Look(), due=_META.occurred_at,
                       plan=f"plan-{n % 3}", needs=needs),
                _META,
            )
            for n in range(EFFECTS)
        ]  # fmt: skip
        for start in range(0, EFFECTS, _SETTLED_AT_ONCE):
            await store.commit(Step(effects=effects[start : start + _SETTLED_AT_ONCE]))
    finally:
        await pool.close()


def _answers(site: Path) -> list[tuple[float, bool]]:
    """(moment, refused) of every call."""
    found = []
    for line in (site / "calls.jsonl").read_bytes().splitlines():
        call: dict[str, Any] = msgspec.json.decode(line)
        if call["call"] == "check":
            at = dt.datetime.fromisoformat(call["at"]).timestamp()
            found.append((at, call["outcome"] == "throttled"))
    return found


def _judged(answers: Sequence[tuple[float, bool]], *, sound: bool) -> Measurement:
    began = answers[0][0]
    warm = [refused for at, refused in answers if at - began < WARM_UP_S]
    kept = [r for at, r in answers if WARM_UP_S <= at - began < WARM_UP_S + MEASURED_S]
    taken = kept.count(False)
    say(f"  warm-up: {warm.count(True)} of {len(warm)} refused")
    say(f"  then: {kept.count(True)} of {len(kept)} refused")
    return Measurement(
        values=(kept.count(True) / max(len(kept), 1),),
        parts={
            "taken_per_s": round(taken / MEASURED_S, 2),
            "allowed_per_s": PER_SECOND,
            "refused": kept.count(True),
            "answered": len(kept),
            "refused_in_warm_up": warm.count(True),
        },
        sound=sound and bool(kept),
    )


# ── A worker process ─────────────────────────────────────────────────────────────────────────


async def work(dsn: str, site: Path, name: str) -> None:
    """Run effects until the time is over."""
    pool = await open_pool(dsn, SERVICE)
    sites = Sites()
    try:
        store = await PostgresStore.open(pool, service=SERVICE)

        async def settle(ended: Sequence[tuple[Claimed, Verdict]]) -> None:
            await store.commit(Step(settled=[_settled(*each) for each in ended]))

        worker = Worker(
            PostgresWork(pool),
            WorkerSettings(name=name, service=SERVICE),
            clock=SystemClock(),
            handlers={"look": Asks(sites.open(address(site)))},
            settle=settle,
            news=asyncio.Event(),
            chance=random.Random(name),
        )
        running = asyncio.create_task(worker.run())
        await asyncio.sleep(WARM_UP_S + MEASURED_S + 2)
        worker.stop()
        await running
    finally:
        await sites.close()
        await pool.close()


def _settled(claimed: Claimed, ended: Verdict) -> Settled:
    if isinstance(ended, Requeue):
        return Settled(
            claimed.effect_id, claimed.lease_no, ended.at, ended.attempt, pushback=ended.pushback
        )
    return Settled(claimed.effect_id, claimed.lease_no)


if __name__ == "__main__":
    uvloop.run(work(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
