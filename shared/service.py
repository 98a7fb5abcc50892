"""A service's running parts: consume → decide → append, timers, effects, ordered shutdown.

Services differ only in what they register (`ServiceDefinition`, effect handlers). Any number of
copies may run; a copy works on its share of the logical partitions and claims effects of all.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import structlog
from structlog.contextvars import bind_contextvars

from schemas.envelope import Meta, Received
from shared.bus.outlet import MakeOutlet, Outlet
from shared.bus.port import Bus
from shared.clock import Clock
from shared.consumer import Consumer
from shared.effects.port import Claimed, WorkQueue
from shared.effects.running import EffectHandler, Progress
from shared.effects.settling import Settling
from shared.effects.worker import Worker, WorkerSettings
from shared.errors import Transient
from shared.eventlog.port import EventStore
from shared.fold import Input, ServiceDefinition, StateCache
from shared.news import WORK_TOPIC, News, timers_topic
from shared.partitions import PartitionShare
from shared.stepper import Stepper
from shared.telemetry.health import Health
from shared.telemetry.lines import EffectLines, tell_decided
from shared.telemetry.metrics import EngineMetrics
from shared.telemetry.tracing import OFF, Tracing
from shared.timers.loop import TimerLoop

log = structlog.get_logger()

LAG_READY_MAX = 10_000
"""Rows behind which a copy says it is not ready."""


class Service:
    """One copy of one service in this process. `run` ends after `stop` was asked."""

    def __init__(
        self,
        definition: ServiceDefinition,
        *,
        store: EventStore,
        bus: Bus,
        clock: Clock,
        news: News,
        copy_id: str,
        lease_s: float,
        tracing: Tracing = OFF,
    ) -> None:
        self.name = definition.name
        self.store = store
        self._news = news
        self._tracing = tracing
        self.stepper = Stepper(
            definition, store, clock=clock, committed=news.poke, tracing=tracing
        )
        self.share = PartitionShare(
            store,
            copy_id=copy_id,
            lease_s=lease_s,
            clock=clock,
            news=news,
            changed=self._share_changed,
        )
        self.consumer = Consumer(
            definition,
            store,
            bus=bus,
            stepper=self.stepper,
            clock=clock,
            news=news,
            owned=self.share.owned,
        )
        self._timers = TimerLoop(
            store, stepper=self.stepper, clock=clock, news=news, owned=self.share.owned
        )
        self._clock = clock
        self._copy_id = copy_id
        self._lease_s = lease_s
        self.worker: Worker | None = None
        self._beside: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._definition = definition
        self._outlet: Outlet | None = None
        self._stop = asyncio.Event()

    def publish_by(self, make: MakeOutlet) -> None:
        """Publish this service's log, as far as this copy holds its partitions."""
        self._outlet = make(self.store, self.share.owned)

    def work(
        self,
        queue: WorkQueue,
        handlers: Mapping[str, EffectHandler],
        *,
        heartbeat_s: float,
        chance: random.Random | None = None,
        progress: Callable[[Claimed, Progress], None] | None = None,
    ) -> None:
        """Let this copy run effects of the kinds in `handlers`, under a lease of its own."""
        settling = Settling(self.stepper, clock=self._clock)
        self.worker = Worker(
            queue,
            WorkerSettings(
                name=self._copy_id,
                service=self.name,
                lease_s=self._lease_s,
                heartbeat_s=heartbeat_s,
                poll_s=self._news.poll_s,
            ),
            clock=self._clock,
            handlers=handlers,
            settle=settling.settle,
            news=self._news.subscribe((WORK_TOPIC,)),
            chance=chance or random.Random(),
            report=settling.report,
            progress=progress,
            observer=EffectLines(),
            tracing=self._tracing,
        )

    async def tell(self, body: msgspec.Struct) -> None:
        """Have something that this copy saw decided, a published struct; durable on return."""
        now = self._clock.now()
        received = Received(body=body, meta=Meta(occurred_at=now), at=now)
        await self.stepper.submit([Input(received=received)])

    def beside(self, task: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a task of the service's own as long as it takes in work."""
        self._beside.append(task)

    async def read_states(self, streams: Sequence[str]) -> Mapping[str, Any]:
        """Folded states as committed now; initial ones where nothing is known.

        Waits for a store that is away: who asks is an effect, and that must not cost an attempt.
        """
        cache = StateCache(self._definition)
        wanted = dict.fromkeys(streams, 0)
        while wanted:
            load = partial(self.store.load, wanted)
            wanted = cache.absorb(await self.stepper.patiently(load))
        found = {stream: cache.get(stream) for stream in streams}
        return {stream: cached.state for stream, cached in found.items() if cached is not None}

    def _share_changed(self) -> None:
        self.consumer.wake()
        self._news.poke((timers_topic(self.name),))

    def stop(self) -> None:
        """Ask for an ordered end."""
        self._stop.set()

    async def run(self) -> None:
        """Run until `stop`; then stop intake, finish what is in hand, leave, return.

        Other copies get the partitions before effects in hand are waited for: those may take
        seconds, in which nobody would decide anything of these partitions.
        """
        # Tasks begin with a copy of this context: what they log says whose they are.
        bind_contextvars(service=self.name, copy=self._copy_id)
        async with asyncio.TaskGroup() as group:
            engine = group.create_task(self.stepper.run())
            intake = [
                group.create_task(self.share.run()),
                group.create_task(self.consumer.run()),
                group.create_task(self._timers.run()),
                *(group.create_task(task()) for task in self._beside),
            ]
            worker = group.create_task(self.worker.run()) if self.worker else None
            outlet = [group.create_task(self._outlet.run())] if self._outlet else []
            await self._stop.wait()
            await _cancelled(intake)
            if self.worker is not None and worker is not None:
                self.worker.stop()
                await self.share.hand_over()
                await asyncio.wait([worker])
            await _cancelled([engine, *outlet])
            if self._outlet is not None:
                await self._outlet.drain()
            await self.share.leave()
        log.info("service.stopped")

    def register(self, health: Health, metrics: EngineMetrics) -> None:
        """Let the process's health and metrics show this service."""
        health.add(self.name, self._problem)
        labels = {"service": self.name}
        metrics.parked.labels(**labels).set_function(lambda: len(self.stepper.parked_keys))
        metrics.partitions.labels(**labels).set_function(lambda: len(self.share.owned()))
        count = metrics.counting(self.name)

        def committed(inputs: Sequence[Input]) -> None:
            count(inputs)
            tell_decided(inputs)

        self.stepper.count = committed

    async def _problem(self) -> str:
        """What keeps this copy from being ready, or ""."""
        if not self.stepper.reachable:
            return "the database does not answer"
        problems = self.consumer.problems()
        if self._outlet is not None and (problem := self._outlet.problem()):
            problems.append(problem)
        if problems:
            return "; ".join(problems)
        try:
            lag = await self.consumer.lag()
        except (Transient, TimeoutError) as away:
            return f"the log cannot be read: {away}"
        return f"{lag} messages behind" if lag > LAG_READY_MAX else ""


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
