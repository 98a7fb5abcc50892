"""The worker of a service process: claims effects, runs their handlers, has outcomes settled.

Owns the process's lease, the bound on what is in flight, and the order of shutdown. Does not
own outcomes' meaning (`policy.py`), a handler's supervision (`running.py`), or commits: `settle`
is the service's, and puts the owner's decision and the effect's removal into one transaction.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

import msgspec
import structlog

from shared.clock import Clock
from shared.effects.lease import LeaseKeeper, backoff_s
from shared.effects.policy import Verdict
from shared.effects.port import Claimed, WorkQueue
from shared.effects.running import (
    EffectHandler,
    Progress,
    Report,
    Running,
    Stop,
    run_effect,
    stopped,
)
from shared.errors import InvariantBroken, Transient
from shared.eventlog.port import Fenced
from shared.telemetry import ids
from shared.telemetry.tracing import OFF, Tracing, begin_effect, end_effect

log = structlog.get_logger()

CLAIM_COUNT_MAX: Final = 64
SETTLE_COUNT_MAX: Final = 500
SETTLES_MAX: Final = 2
IN_FLIGHT_MAX: Final = 256
POLL_S: Final = 0.25
DRAIN_S: Final = 8.0
FLUSH_S: Final = 5.0
_SMALL_CLAIM: Final = 32
_COALESCE_S: Final = 0.005

Settle = Callable[[Sequence[tuple[Claimed, Verdict]]], Awaitable[None]]


class Observer(Protocol):
    """What a worker tells whoever counts. Calls are cheap and must not raise."""

    def claimed(self, count: int, seconds: float) -> None: ...

    def ended(self, claimed: Claimed, verdict: Verdict, seconds: float) -> None: ...

    def settled(self, count: int, seconds: float) -> None: ...

    def in_flight(self, count: int) -> None: ...


class Silent:
    """An observer that does not care."""

    def claimed(self, count: int, seconds: float) -> None: ...

    def ended(self, claimed: Claimed, verdict: Verdict, seconds: float) -> None: ...

    def settled(self, count: int, seconds: float) -> None: ...

    def in_flight(self, count: int) -> None: ...


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`name` is unique to the process: a second lease of one name ends the first."""

    name: str
    service: str
    lease_s: float = 15.0
    heartbeat_s: float = 5.0
    in_flight_max: int = IN_FLIGHT_MAX
    drain_s: float = DRAIN_S
    poll_s: float = POLL_S


class Worker:
    """Runs effects of the kinds in `handlers` until `stop()`, then drains and gives back.

    `settle` decides and commits; it raises Fenced for claims that are not ours any more (they
    are dropped, the rest is settled again) and Transient when nothing is known to be done.
    `news` is set when work may have become ready; without news the queue is asked every `poll_s`.
    """

    def __init__(
        self,
        queue: WorkQueue,
        settings: WorkerSettings,
        *,
        clock: Clock,
        handlers: Mapping[str, EffectHandler],
        settle: Settle,
        news: asyncio.Event,
        chance: random.Random,
        report: Report | None = None,
        progress: Callable[[Claimed, Progress], None] | None = None,
        observer: Observer | None = None,
        tracing: Tracing = OFF,
    ) -> None:
        self._queue = queue
        self._settings = settings
        self._clock = clock
        self._handlers = dict(handlers)
        self._kinds = tuple(sorted(handlers))
        self._settle = settle
        self._news = news
        self._chance = chance
        self._observer = observer or Silent()
        self._tracing = tracing
        self._keeper = LeaseKeeper(
            queue, settings, clock=clock, abort=self._abort, cancelled=self._cancel
        )
        self._sinks = _Sinks(queue, self._keeper, report, progress)
        self._running: dict[str, Running] = {}
        self._ended: deque[tuple[Claimed, Verdict]] = deque()
        self._in_hand: set[str] = set()
        self._early: dict[str, Claimed] = {}
        self._settles: set[asyncio.Task[None]] = set()
        self._outcomes = asyncio.Event()
        self._stopping = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Effects claimed and not yet settled."""
        return len(self._in_hand)

    @property
    def leased(self) -> bool:
        """Whether the lease stands, as far as this process knows."""
        return self._keeper.stands

    def stop(self) -> None:
        """Begin the ordered shutdown; `run` returns when it is done."""
        self._stopping.set()
        self._news.set()

    def nudge(self) -> None:
        """Ask the queue soon for running effects that were cancelled."""
        self._keeper.nudge()

    async def run(self) -> None:
        """Work until `stop()`. Raises InvariantBroken if a handler or the settling does."""
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(self._keeper.run(), name="worker-lease")
            settling = group.create_task(self._settle_ended(group), name="worker-settle")
            intake = group.create_task(self._take_in(group), name="worker-intake")
            await self._stopping.wait()
            await self._drain(intake)
            for task in (intake, settling, keeping, *self._settles):
                task.cancel()
        await self._keeper.leave()

    # Intake.

    async def _take_in(self, group: asyncio.TaskGroup) -> None:
        unsure = False
        failures = 0
        while not self._stopping.is_set():
            await self._keeper.wait_standing(self._settings.poll_s)
            room = await self._room()
            self._news.clear()
            if not self._keeper.stands or room <= 0:
                await self._pause(self._settings.poll_s)
                continue
            try:
                wait_s = await self._claim(group, min(room, CLAIM_COUNT_MAX), unsure=unsure)
                unsure, failures = False, 0
            except Fenced:
                self._keeper.nudge()
                wait_s = self._settings.poll_s
            except Transient as error:
                # The claim may have been granted all the same: its effects are asked for first.
                unsure, failures = True, failures + 1
                wait_s = backoff_s(failures)
                log.warning("worker.claim-failed", error=error.message, failures=failures)
            if wait_s > 0:
                await self._pause(wait_s)

    async def _room(self) -> int:
        """How many more effects may be in flight. A small claim costs as much as a large one:
        where there is little room, a moment may bring more."""
        if self._settings.in_flight_max - self.in_flight < _SMALL_CLAIM and self._settles:
            await asyncio.sleep(_COALESCE_S)
        return self._settings.in_flight_max - self.in_flight

    async def _claim(self, group: asyncio.TaskGroup, count_max: int, *, unsure: bool) -> float:
        """Claim once and start what was granted; gives how long to wait for the next."""
        lease = self._keeper.lease
        began = self._clock.monotonic()
        if unsure:
            known = sorted(self._in_hand)
            self._start(group, await self._queue.unanswered(lease, known))
        result = await self._queue.claim(lease, kinds=self._kinds, count_max=count_max)
        self._observer.claimed(len(result.effects), self._clock.monotonic() - began)
        self._start(group, result.effects)
        if result.more:
            return 0
        poll_s = self._settings.poll_s
        return poll_s if result.next_in_s is None else min(result.next_in_s, poll_s)

    def _start(self, group: asyncio.TaskGroup, effects: Iterable[Claimed]) -> None:
        for claimed in effects:
            if claimed.lease_no != self._keeper.lease.number:
                continue  # Claimed under a lease that is over: it has been given back.
            if claimed.effect_id in self._in_hand:
                # Put back by a step whose commit we have not heard of yet.
                self._early[claimed.effect_id] = claimed
                continue
            self._in_hand.add(claimed.effect_id)
            running = Running(claimed, self._handlers[claimed.kind])
            self._running[claimed.effect_id] = running
            running.task = group.create_task(self._supervise(running))
            running.task.add_done_callback(partial(self._left, running))
        self._observer.in_flight(self.in_flight)

    async def _pause(self, wait_s: float) -> None:
        """Wait for news since it was last looked at, a settled effect, or the time given."""
        if self._stopping.is_set():
            return
        try:
            async with asyncio.timeout(wait_s):
                await self._news.wait()
        except TimeoutError:
            return

    # Running.

    async def _supervise(self, running: Running) -> None:
        # The task is the effect's own, and so is its context.
        ids.bind(running.claimed)
        running.claimed, span = begin_effect(self._tracing, running.claimed)
        began = self._clock.monotonic()
        ended = await run_effect(running, self._sinks, clock=self._clock, chance=self._chance)
        end_effect(span, ended)
        self._observer.ended(running.claimed, ended, self._clock.monotonic() - began)
        self._end(running, ended)

    def _left(self, running: Running, task: asyncio.Task[None]) -> None:
        """A task that was stopped before its first step has had no chance to judge itself."""
        if task.cancelled() and running.stop_reason is not None:
            at = self._clock.now()
            self._end(running, stopped(running, started_at=at, at=at))

    def _end(self, running: Running, ended: Verdict) -> None:
        self._running.pop(running.claimed.effect_id)
        self._ended.append((running.claimed, ended))
        self._outcomes.set()

    def _cancel(self, effect_ids: Sequence[str]) -> None:
        for effect_id in effect_ids:
            if running := self._running.get(effect_id):
                running.stop(Stop.CANCELLED)

    async def _abort(self) -> bool:
        """Stop all handlers; True if all have ended in time, so that nothing of theirs runs."""
        running = list(self._running.values())
        for each in running:
            each.stop(Stop.LEASE)
        return await _ended_within(running, self._settings.drain_s)

    # Settling.

    async def _settle_ended(self, group: asyncio.TaskGroup) -> None:
        while True:
            await self._outcomes.wait()
            self._outcomes.clear()
            while self._ended and len(self._settles) < SETTLES_MAX:
                count = min(len(self._ended), SETTLE_COUNT_MAX)
                batch = [self._ended.popleft() for _ in range(count)]
                task = group.create_task(self._settle_batch(group, batch))
                self._settles.add(task)
                task.add_done_callback(self._settled)

    async def _settle_batch(
        self, group: asyncio.TaskGroup, batch: list[tuple[Claimed, Verdict]]
    ) -> None:
        began = self._clock.monotonic()
        ids = [claimed.effect_id for claimed, _ in batch]
        failures = 0
        while batch := [each for each in batch if self._may_count(each[0])]:
            try:
                await self._settle(batch)
                break
            except Fenced as lost:
                batch = _without(batch, lost)
            except Transient as error:
                failures += 1
                log.warning("worker.settle-failed", error=error.message, failures=failures)
                await asyncio.sleep(backoff_s(failures))
        self._in_hand.difference_update(ids)
        self._start(group, [self._early.pop(id_) for id_ in ids if id_ in self._early])
        self._observer.settled(len(batch), self._clock.monotonic() - began)

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._settles.discard(task)
        self._outcomes.set()
        self._news.set()

    def _may_count(self, claimed: Claimed) -> bool:
        return claimed.lease_no == self._keeper.lease.number

    # Shutdown.

    async def _drain(self, intake: asyncio.Task[None]) -> None:
        """Intake has stopped; resumable work is given back, calls in hand get a few seconds."""
        await asyncio.wait([intake], timeout=self._settings.drain_s)
        running = list(self._running.values())
        for each in running:
            if each.handler.resumable:
                each.stop(Stop.DRAIN)
        if not await _ended_within(running, self._settings.drain_s):
            for each in running:
                each.stop(Stop.DRAIN)
            await _ended_within(running, FLUSH_S)
        deadline = self._clock.monotonic() + FLUSH_S
        while self._in_hand and self._clock.monotonic() < deadline:
            self._outcomes.set()
            await asyncio.sleep(_COALESCE_S)


class _Sinks:
    """Where the signals of running effects go."""

    def __init__(
        self,
        queue: WorkQueue,
        keeper: LeaseKeeper,
        report: Report | None,
        progress: Callable[[Claimed, Progress], None] | None,
    ) -> None:
        self._queue = queue
        self._keeper = keeper
        self._report = report
        self._progress = progress

    def progress(self, claimed: Claimed, progress: Progress) -> None:
        if self._progress is not None:
            self._progress(claimed, progress)

    async def report(self, claimed: Claimed, fact: msgspec.Struct) -> None:
        if self._report is None:
            raise InvariantBroken(f"{claimed.kind} reports a fact and nobody decides over it")
        await self._report(claimed, fact)

    async def renew(self, claimed: Claimed) -> None:
        lease = self._keeper.lease
        if claimed.lease_no != lease.number or not self._keeper.stands:
            raise Fenced("claim", [claimed.effect_id])
        await self._queue.renew_claims(lease, [claimed.effect_id])


async def _ended_within(running: Sequence[Running], within_s: float) -> bool:
    tasks = [each.task for each in running if each.task is not None]
    if tasks:
        _, pending = await asyncio.wait(tasks, timeout=within_s)
        return not pending
    return True


def _without(batch: list[tuple[Claimed, Verdict]], lost: Fenced) -> list[tuple[Claimed, Verdict]]:
    """What is left of a batch when some of its claims are not ours any more."""
    left = [each for each in batch if each[0].effect_id not in lost.names]
    if len(left) == len(batch):
        raise InvariantBroken(f"settling was fenced for none of its effects: {lost}")
    log.warning("worker.claims-lost", count=len(batch) - len(left))
    return left
