"""One operating-system process of Seawall: what its services share, signals, ordered end.

Owns settings, news, health, metrics and pools. Which services run is the caller's choice:
`python -m services.<name>` runs one, `seawall up` all of them.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol, runtime_checkable

import structlog
import uvloop
from prometheus_client import CollectorRegistry

from shared.bus.kafka.fabric import KafkaFabric
from shared.bus.kafka.hints import PostgresHints
from shared.bus.kafka.settings import KafkaSettings
from shared.bus.kafka.topics import ensure_topics
from shared.bus.outlet import MakeOutlet
from shared.bus.port import Bus
from shared.bus.postgres import PostgresBus
from shared.clock import SystemClock
from shared.databases import VARIABLE, Databases, variable_of
from shared.effects.postgres import PostgresWork
from shared.errors import Permanent, Refused, SeawallError, Transient
from shared.eventlog.postgres import PostgresStore
from shared.fold import ServiceDefinition
from shared.migrations import migrate
from shared.news import PostgresNews
from shared.postgres import POOL_SIZE_MAX, Pool, open_pool
from shared.progress import ReadModelProgress, Tell
from shared.service import Service
from shared.settings import Settings, read_settings
from shared.telemetry.health import Health, serve_health
from shared.telemetry.logs import configure_logs
from shared.telemetry.metrics import EngineMetrics, keep_lag
from shared.telemetry.tracing import NoTraces, Traces

log = structlog.get_logger()

LOGGED_SERVICES = ("gateway", "scheduler", "replicator", "recovery", "notifier")
"""Services that have a log; their schemas exist before any service reads another's."""

QUICK_RETURN_KINDS = ("run-script", "transfer")
"""Kinds whose slots return at once after a worker's death (architecture.md §3)."""

STOP_S_MAX = 10.0
KAFKA_WAIT_S = 30.0
KAFKA_RETRY_S = 0.5
GC_THRESHOLD = 50_000


class Part(Protocol):
    """Something a process runs until it is asked to stop."""

    name: str

    def stop(self) -> None: ...

    async def run(self) -> None: ...


@runtime_checkable
class Serving(Protocol):
    """A part that serves HTTP, the process's health included, on a port of its own."""

    port: int


class Process:
    """The shared things of one process. Use as an async context; `run` its parts inside.

    `services` are those that have logs: all of an installation. `runs` are those of this process,
    all where nothing is said: only their databases are migrated. Raises Permanent for databases
    that may not be apart.
    """

    def __init__(
        self,
        settings: Settings,
        databases: Databases,
        *,
        services: Sequence[str] = LOGGED_SERVICES,
        runs: Sequence[str] = (),
    ) -> None:
        databases.check(bus=settings.bus)
        self.settings = settings
        self.databases = databases
        self._services = tuple(services)
        self._runs = tuple(runs) or (*self._services, "projector")
        self.clock = SystemClock()
        self.registry = CollectorRegistry()
        self.health = Health(self.registry)
        self.metrics = EngineMetrics(self.registry)
        self.traces = _open_traces(settings, self.metrics)
        self.fabric: KafkaFabric | None = None
        self._news: dict[str, PostgresNews] = {}
        self._pools: dict[str, Pool] = {}
        self._readers: list[Pool] = []

    async def __aenter__(self) -> Process:
        here = self.databases.urls(self._runs)
        for service in self._services:
            if self.databases.knows(service) and self.databases.of(service) in here:
                await migrate(self.databases.of(service), service)
        if self.settings.kafka is not None:
            self.fabric = await self._open_fabric(self.settings.kafka)
        return self

    async def _open_fabric(self, kafka: KafkaSettings) -> KafkaFabric:
        """Kafka with its topics in place; waits a moment for brokers that are starting too."""
        deadline = time.monotonic() + KAFKA_WAIT_S
        made: Sequence[str] | None = None
        while made is None:
            try:
                made = await ensure_topics(self._services, kafka)
            except Transient as away:
                if time.monotonic() > deadline:
                    raise Permanent(away.message, remedy=away.remedy, code=away.code) from away
                await asyncio.sleep(KAFKA_RETRY_S)
        if made:
            log.info("kafka.topics-made", topics=made)
        name = f"{os.getpid()}-{secrets.token_hex(2)}"
        return KafkaFabric(kafka, name=name, services=self._services, clock=self.clock)

    async def __aexit__(self, *failure: object) -> None:
        await self.traces.close()
        for pool in (*self._pools.values(), *self._readers):
            try:
                async with asyncio.timeout(2.0):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    async def pool(self, service: str, *, schema: str = "") -> Pool:
        """The pool whose unqualified names mean the service's schemas, or that schema of its."""
        name = schema or service
        if name not in self._pools:
            self._pools[name] = await open_pool(self.databases.of(service), name)
        return self._pools[name]

    async def reader(self, service: str, *, size_max: int = POOL_SIZE_MAX) -> Pool:
        """A pool that only reads in another service's database; it connects when it is used."""
        url = self.databases.of(service)
        pool = await open_pool(url, service, size_min=0, size_max=size_max, read_only=True)
        self._readers.append(pool)
        return pool

    async def log_readers(self) -> Mapping[str, Pool]:
        """A pool that only reads, one per database, for each service whose log is known."""
        known = [each for each in self._services if self.databases.knows(each)]
        pools: dict[str, Pool] = {}
        for service in known:
            url = self.databases.of(service)
            if url not in pools:
                pools[url] = await self.reader(service, size_max=2)
        return {service: pools[self.databases.of(service)] for service in known}

    def news(self, service: str) -> PostgresNews:
        """The news of the service's database, before the process runs."""
        url = self.databases.of(service)
        if url not in self._news:
            self._news[url] = PostgresNews(url)
        return self._news[url]

    async def hear(self) -> None:
        """Carry the news of every database, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for news in self._news.values():
                group.create_task(news.run())

    async def store(self, service: str) -> PostgresStore:
        """The service's store."""
        return await PostgresStore.open(await self.pool(service), service=service)

    async def queue(self, service: str) -> PostgresWork:
        """The work queue that the service's effects lie in."""
        return PostgresWork(
            await self.pool(service),
            platform_timeout_s=self.settings.call_timeout_s,
            quick_return_kinds=QUICK_RETURN_KINDS,
        )

    async def service(
        self, definition: ServiceDefinition, *, sources: Sequence[str] = ()
    ) -> Service:
        """A service on this process's bus and store, shown in its health and metrics."""
        pool = await self.pool(definition.name)
        bus, reading = await self.bus(definition.name, pool, sources=sources)
        copy_id = f"{definition.name}-{os.getpid()}-{secrets.token_hex(4)}"
        built = Service(
            definition,
            store=await self.store(definition.name),
            bus=bus,
            clock=self.clock,
            news=self.news(definition.name),
            copy_id=copy_id,
            lease_s=self.settings.lease_s,
            tracing=self.traces.of(definition.name, copy_id),
        )
        if reading is not None:
            built.beside(reading)
        if (outlet := self.outlet(definition.name)) is not None:
            built.publish_by(outlet)
        built.register(self.health, self.metrics)
        built.beside(self.lag_of(built.name, built.consumer.lag))
        return built

    def lag_of(
        self, service: str, lag: Callable[[], Awaitable[int]]
    ) -> Callable[[], Coroutine[Any, Any, None]]:
        """What keeps the metric of a consumer's waiting messages fresh, to run beside it."""
        return partial(keep_lag, self.metrics.lag.labels(service=service).set, lag)

    async def bus(
        self, consumer: str, pool: Pool, *, sources: Sequence[str] = ()
    ) -> tuple[Bus, Callable[[], Coroutine[Any, Any, None]] | None]:
        """The bus of a consumer, and what must run beside it, if anything."""
        if self.fabric is None:
            return PostgresBus(pool, sources=sources or self._services), None
        hints = PostgresHints(await self.pool(consumer))
        reader = self.fabric.reader(consumer, hints=hints, wake=self.news(consumer).tell_here)
        return reader, reader.run

    def outlet(self, service: str) -> MakeOutlet | None:
        """How a service's log is published, where the bus does not read the log itself."""
        if self.fabric is None:
            return None
        return partial(self.fabric.outlet, news=self.news(service))

    async def progress(self, service: str) -> Tell:
        """Where a service tells how far its jobs are; lossy."""
        if self.fabric is None:
            return ReadModelProgress(await self.pool(service)).tell
        return self.fabric.progress(service).tell

    async def run(self, parts: Sequence[Part], *, ready: asyncio.Event | None = None) -> None:
        """Run the parts until SIGTERM or SIGINT, or until one of them fails."""
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        beneath = [asyncio.create_task(self.hear())]
        if self.fabric is not None:
            beneath.append(asyncio.create_task(self.fabric.run()))
        running = [asyncio.create_task(part.run(), name=part.name) for part in parts]
        waiter = asyncio.create_task(stopped.wait())
        if ready is not None:
            ready.set()
        await asyncio.wait([waiter, *running], return_when=asyncio.FIRST_COMPLETED)
        for part in parts:
            part.stop()
        _, late = await asyncio.wait(running, timeout=STOP_S_MAX - 1.0)
        await asyncio.gather(*(news.flush() for news in self._news.values()))
        for task in (*late, *beneath, waiter):
            task.cancel()
        await asyncio.gather(*late, *beneath, waiter, return_exceptions=True)
        for task in running:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error


def _open_traces(settings: Settings, metrics: EngineMetrics) -> Traces:
    if not settings.traces:
        return NoTraces()
    # Not at the top: it takes 0.2 s and 24 MB that a process without traces does not owe.
    from shared.telemetry.otel import OtelTraces

    return OtelTraces(metrics.count_spans)


@asynccontextmanager
async def health_served(process: Process, parts: Sequence[Part]) -> AsyncIterator[str]:
    """Where `/livez`, `/readyz` and `/metrics` of the process are, served until the context ends.

    On SEAWALL_HEALTH_PORT; without it by the gateway, whose port has them too, else on a port
    that is free. Raises Refused for a port that is in use.
    """
    host, port = process.settings.host, process.settings.health_port
    own = next((part.port for part in parts if isinstance(part, Serving)), None)
    if port is None and own is not None:
        yield f"http://{host}:{own}"
        return
    try:
        runner, bound = await serve_health(process.health, host=host, port=port or 0)
    except OSError as error:
        raise Refused(
            f"port {port} on {host} is in use or not ours to use: {error.strerror}",
            remedy="stop what listens there, or set SEAWALL_HEALTH_PORT (0 takes any free port)",
            code="port-in-use",
        ) from error
    try:
        yield f"http://{host}:{bound}"
    finally:
        await runner.cleanup()


async def serve(process: Process, parts: Sequence[Part]) -> None:
    """Run parts with their health served beside them; where it is, is printed."""
    async with health_served(process, parts) as health:
        names = ",".join(part.name for part in parts)
        sys.stdout.write(f"seawall {names} health {health}\n")
        sys.stdout.flush()
        await process.run(parts)


def start(settings: Settings, main: Coroutine[Any, Any, None]) -> None:
    """Run `main` on the fast loop with logs set up."""
    configure_logs(settings.log_level)
    # Folded states live long and hold no cycles: looking at all of them every few hundred new
    # objects cost a third of the time of a fold.
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    uvloop.run(main)


def launch(service: str, build: Callable[[Process], Awaitable[Part]]) -> None:
    """`python -m services.<name>`: run one service against the database of the environment."""

    async def main(settings: Settings) -> None:
        async with Process(settings, settings.databases, runs=[service]) as process:
            await serve(process, [await build(process)])

    try:
        settings = read_settings()
        if not settings.databases.knows(service):
            raise Permanent(
                f"neither {VARIABLE} nor {variable_of(service)} is set",
                remedy="set one to the database of the service, or use `seawall up`",
            )
        start(settings, main(settings))
    except SeawallError as error:
        sys.stderr.write(f"seawall: {error.message}\n  {error.remedy}\n")
        sys.exit(3 if isinstance(error, Refused) else 1)
