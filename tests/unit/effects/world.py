"""A worker over the queue in memory, in virtual time, with a settling that can be disturbed."""

from __future__ import annotations

import asyncio
import functools
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import async_solipsism
import msgspec

from shared.clock import LoopClock
from shared.decider import EffectOutcome
from shared.effects.memory import MemoryWork
from shared.effects.policy import STEP, Requeue, RetryPolicy, Verdict
from shared.effects.port import Claimed, ClaimResult, Lease
from shared.effects.running import EffectRun, Progress
from shared.effects.worker import Worker, WorkerSettings
from shared.errors import Transient
from shared.eventlog.memory import MemoryStore
from shared.eventlog.port import NewEffect, Settled, Step
from tests.waiting import eventually

Act = Callable[[EffectRun], Coroutine[Any, Any, msgspec.Struct | None]]
UNTIL_S = 60.0


def virtual(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test in a loop that jumps to its next timer."""

    @functools.wraps(test)
    def run(*args: Any) -> None:
        async def story() -> None:
            await test(*args)

        with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
            runner.run(story())

    del run.__wrapped__
    return run


class Handler:
    """Does what it is told, and notes whom it met."""

    def __init__(self, act: Act, *, policy: RetryPolicy = STEP, resumable: bool = False) -> None:
        self.policy = policy
        self.resumable = resumable
        self.runs: list[EffectRun] = []
        self._act = act

    async def run(self, effect: EffectRun) -> msgspec.Struct | None:
        self.runs.append(effect)
        return await self._act(effect)


async def at_once(effect: EffectRun) -> msgspec.Struct | None:
    return None


def lasting(seconds: float) -> Act:
    async def act(effect: EffectRun) -> msgspec.Struct | None:
        await asyncio.sleep(seconds)
        return None

    return act


class Queue(MemoryWork):
    """The queue of the world. While it is `down` calls fail, while it `hangs` they time out."""

    def __init__(self, clock: LoopClock) -> None:
        super().__init__(clock, platform_timeout_s=60)
        self.down = False
        self.hangs = False
        self.lose_answers = 0
        self.claims: list[int] = []
        self.leased: list[Lease] = []

    async def _reach(self) -> None:
        if self.hangs:
            await asyncio.sleep(10)
        if self.down or self.hangs:
            raise Transient("the database is down")

    async def lease_worker(self, worker: str, *, service: str, lease_s: float) -> Lease:
        await self._reach()
        self.leased.append(await super().lease_worker(worker, service=service, lease_s=lease_s))
        return self.leased[-1]

    async def heartbeat(self, lease: Lease) -> Sequence[str]:
        await self._reach()
        return await super().heartbeat(lease)

    async def end_lease(self, lease: Lease) -> None:
        await self._reach()
        await super().end_lease(lease)

    async def unanswered(self, lease: Lease, known: Collection[str]) -> Sequence[Claimed]:
        await self._reach()
        return await super().unanswered(lease, known)

    async def claim(self, lease: Lease, *, kinds: Sequence[str], count_max: int) -> ClaimResult:
        await self._reach()
        result = await super().claim(lease, kinds=kinds, count_max=count_max)
        self.claims.append(len(result.effects))
        if result.effects and self.lose_answers:
            self.lose_answers -= 1
            raise Transient("the connection was lost")
        return result


class World:
    """One queue, its store, and workers whose settling is recorded."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.queue = Queue(self.clock)
        self.store = MemoryStore("replicator", clock=self.clock, work=self.queue)
        self.settled: list[tuple[Claimed, Verdict]] = []
        self.batches: list[int] = []
        self.reports: list[tuple[str, msgspec.Struct]] = []
        self.progress: list[tuple[str, Progress]] = []
        self.news = asyncio.Event()
        self.settle_s = 0.0
        self.down = False

    def fail(self) -> None:
        self.queue.down = self.down = True

    def restore(self) -> None:
        self.queue.down = self.queue.hangs = self.down = False

    async def enqueue(self, *effects: NewEffect) -> None:
        await self.store.commit(Step(effects=effects))

    async def settle(self, batch: Sequence[tuple[Claimed, Verdict]]) -> None:
        """What a service does, without a decider."""
        await asyncio.sleep(self.settle_s)
        if self.down:
            raise Transient("the database is down")
        await self.store.commit(Step(settled=[_settled(*each) for each in batch]))
        self.settled += batch
        self.batches.append(len(batch))

    async def report(self, claimed: Claimed, fact: msgspec.Struct) -> None:
        kept = Settled(claimed.effect_id, claimed.lease_no, keep=True)
        await self.store.commit(Step(settled=[kept]))
        self.reports.append((claimed.effect_id, fact))

    def worker(self, name: str = "w1", **handlers: Handler) -> Worker:
        return Worker(
            self.queue,
            WorkerSettings(name=name, service="replicator"),
            clock=self.clock,
            handlers=handlers,
            settle=self.settle,
            news=self.news,
            chance=random.Random(1),
            report=self.report,
            progress=lambda claimed, progress: self.progress.append((claimed.effect_id, progress)),
        )

    @asynccontextmanager
    async def working(self, name: str = "w1", **handlers: Handler) -> Any:
        """A worker that runs within the block and is shut down in order after it."""
        worker = self.worker(name, **handlers)
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run())
            yield worker
            worker.stop()

    @property
    def outcomes(self) -> dict[str, EffectOutcome]:
        """The outcome of each effect, by stream."""
        return {
            claimed.stream: ended
            for claimed, ended in self.settled
            if isinstance(ended, EffectOutcome)
        }

    @property
    def requeues(self) -> list[Requeue]:
        return [ended for _, ended in self.settled if isinstance(ended, Requeue)]

    async def until_settled(self, *streams: str) -> None:
        await self.until(lambda: self.outcomes.keys() >= set(streams), f"outcomes of {streams}")

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        async def holds() -> bool:
            return condition()

        await eventually(holds, what, within_s=UNTIL_S * 3)


def _settled(claimed: Claimed, ended: Verdict) -> Settled:
    if isinstance(ended, Requeue):
        return Settled(claimed.effect_id, claimed.lease_no, ended.at, ended.attempt)
    return Settled(claimed.effect_id, claimed.lease_no)
