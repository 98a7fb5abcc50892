"""A service on a memory store whose spans are kept, and what is asked of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from schemas.envelope import Meta, Received, Recorded, events_topic
from schemas.ids import PARTITIONS
from shared.bus.memory import MemoryBus
from shared.clock import SystemClock
from shared.effects.memory import MemoryWork
from shared.effects.running import EffectHandler
from shared.eventlog.memory import MemoryStore
from shared.fold import Input
from shared.news import LocalNews
from shared.service import Service
from shared.telemetry.otel import OtelTracing
from shared.telemetry.traceparent import Place, written
from shared.testing.counter import DEFINITION, SERVICE, StartCounter
from tests.waiting import eventually


def trace(number: int) -> str:
    """The place of some caller, in a trace of its own."""
    return written(Place(number, 0xA, 1))


def place_of(span: ReadableSpan) -> str:
    """A span as a traceparent names it."""
    assert span.context is not None
    return written(Place(span.context.trace_id, span.context.span_id, span.context.trace_flags))


def parent_of(span: ReadableSpan) -> str:
    """The span above, as a traceparent names it; empty for a root."""
    parent = span.parent
    if parent is None:
        return ""
    return written(Place(parent.trace_id, parent.span_id, parent.trace_flags))


class Traced:
    """A running counter service and the spans it has ended."""

    def __init__(self, handlers: Mapping[str, EffectHandler]) -> None:
        self.clock = SystemClock()
        queue = MemoryWork(self.clock)
        self.store = MemoryStore(SERVICE, clock=self.clock, work=queue)
        self._exporter = InMemorySpanExporter()
        self.service = Service(
            DEFINITION, store=self.store, bus=MemoryBus({SERVICE: self.store}), clock=self.clock,
            news=LocalNews(), copy_id="copy-1", lease_s=15,
            tracing=OtelTracing(SERVICE, "copy-1", SimpleSpanProcessor(self._exporter)),
        )  # fmt: skip
        self.service.work(queue, handlers, heartbeat_s=5, chance=random.Random(1))
        self._seq = 0

    def start(self, counter: str, traceparent: str, *, correlation: str = "command-1") -> Input:
        """A command that starts a counter."""
        self._seq += 1
        now = self.clock.now()
        meta = Meta(occurred_at=now, correlation_id=correlation, traceparent=traceparent)
        body = StartCounter(command_id="command-1", counter=counter, steps=1)
        return Input(
            received=Received(body=body, meta=meta, at=now, cause="row-1", stream="command:a:1"),
            position=("gateway", 1, "seawall.counter.commands", 1, self._seq),
        )

    def spans(self, name: str = "") -> Sequence[ReadableSpan]:
        """The spans that ended, by name."""
        return [s for s in self._exporter.get_finished_spans() if name in ("", s.name)]

    def span(self, name: str) -> ReadableSpan:
        """The one span of a name."""
        (found,) = self.spans(name)
        return found

    async def until(self, name: str, *, count: int = 1) -> None:
        """Wait for spans to end."""

        async def ended() -> bool:
            return len(self.spans(name)) >= count

        await eventually(ended, f"{count} spans {name} have ended")

    async def rows(self, stream: str) -> Sequence[Recorded]:
        """The facts of a stream."""
        after = dict.fromkeys(range(PARTITIONS), 0)
        found = await self.store.read(events_topic(SERVICE), after, count_max=1000)
        return [row for row in found if row.stream == stream]


@asynccontextmanager
async def traced(**handlers: EffectHandler) -> AsyncIterator[Traced]:
    """A service that runs within the block."""
    found = Traced(handlers)
    running = asyncio.create_task(found.service.run())
    try:
        yield found
    finally:
        found.service.stop()
        await running
