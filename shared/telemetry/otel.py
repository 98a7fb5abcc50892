"""Traces by the official OpenTelemetry SDK, sent by OTLP over HTTP. Imported only when on.

Where to, with which headers, time-outs and certificates, and what is sampled, say the standard
variables (`OTEL_EXPORTER_OTLP_…`, `OTEL_TRACES_SAMPLER`), which the SDK reads itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as SdkSpan

from shared.telemetry import tracing
from shared.telemetry.span_queue import Count, SpanQueue
from shared.telemetry.traceparent import Place, parse, written

_KINDS: Final[Mapping[tracing.Kind, SpanKind]] = {
    "server": SpanKind.SERVER,
    "consumer": SpanKind.CONSUMER,
    "client": SpanKind.CLIENT,
}


class OtelSpan:
    """A span of the SDK behind our port."""

    def __init__(self, span: SdkSpan) -> None:
        self._span = span
        self.context = span.get_span_context()
        self.traceparent = written(
            Place(self.context.trace_id, self.context.span_id, self.context.trace_flags)
        )

    def link(self, other: tracing.Span) -> None:
        if isinstance(other, OtelSpan):
            self._span.add_link(other.context)

    def end(self, attributes: tracing.Attributes, *, error: str = "") -> None:
        self._span.set_attributes(attributes)
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()


class OtelTracing:
    """The tracing of one copy of a service; the service is the SDK's resource."""

    on = True

    def __init__(self, service: str, copy: str, processor: SpanProcessor) -> None:
        resource = Resource.create(
            {
                "service.namespace": "seawall",
                "service.name": service,
                "service.instance.id": copy,
            }
        )
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(processor)
        self._tracer = provider.get_tracer("seawall")

    def begin(
        self, name: str, *, kind: tracing.Kind, parent: str, attributes: tracing.Attributes
    ) -> tracing.Span:
        # Never the context of the running task: what comes next follows from what is stored.
        return OtelSpan(
            self._tracer.start_span(
                name, context=_context(parent), kind=_KINDS[kind], attributes=attributes
            )
        )


def _context(parent: str) -> Context:
    place = parse(parent)
    if place is None:
        return Context()
    remote = SpanContext(
        place.trace_id, place.span_id, is_remote=True, trace_flags=TraceFlags(place.flags)
    )
    return set_span_in_context(NonRecordingSpan(remote), Context())


class OtelTraces:
    """The traces of a process: one queue and one exporter for all its services."""

    def __init__(self, count: Count) -> None:
        # Failures to export are told by our own lines, once, and by the metric.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._queue = SpanQueue(OTLPSpanExporter(), count)

    def of(self, service: str, copy: str) -> tracing.Tracing:
        return OtelTracing(service, copy, self._queue)

    async def close(self) -> None:
        await asyncio.to_thread(self._queue.shutdown)
