"""Ended spans on their way out: a bounded queue and one thread; what does not fit is counted.

The SDK's own batch processor drops silently. Work never waits for anything here, and a collector
that is away costs memory up to the bound and nothing else.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

import structlog
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

log = structlog.get_logger()

QUEUE_SPANS_MAX: Final = 8192
"""A span is about 3 KiB until it is sent."""

BATCH_SPANS_MAX: Final = 512
EXPORT_EVERY_S: Final = 1.0
CLOSE_S_MAX: Final = 1.5
"""A process ends within 10 s, whether a collector answers or not."""

Count = Callable[[str, int], None]
"""Told how many spans were `exported`, `failed` (the collector would not have them) or `dropped`
(there was no room)."""


class SpanQueue(SpanProcessor):
    """Takes ended spans of all services of a process and exports them in batches."""

    def __init__(
        self, exporter: SpanExporter, count: Count, *, spans_max: int = QUEUE_SPANS_MAX
    ) -> None:
        self._exporter = exporter
        self._count = count
        self._spans_max = spans_max
        self._spans: deque[ReadableSpan] = deque()
        self._full = threading.Event()
        self._closing = False
        self._over = False
        self._answers = True
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing yet: a span is told when it has ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span, if there is room. Spans end on one thread, so the bound is exact."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if len(self._spans) >= self._spans_max:
            self._count("dropped", 1)
            return
        self._spans.append(span)
        if len(self._spans) >= BATCH_SPANS_MAX:
            self._full.set()

    def shutdown(self) -> None:
        """Export what waits, for CLOSE_S_MAX at most; what is left is dropped."""
        self._closing = True
        self._full.set()
        self._thread.join(CLOSE_S_MAX)
        self._over = True
        self._exporter.shutdown()
        if self._spans:
            self._count("dropped", len(self._spans))

    def _run(self) -> None:
        while not self._closing:
            self._full.wait(EXPORT_EVERY_S)
            self._full.clear()
            while self._spans and not self._over:
                self._export()

    def _export(self) -> None:
        count = min(len(self._spans), BATCH_SPANS_MAX)
        batch = [self._spans.popleft() for _ in range(count)]
        done = self._exporter.export(batch) is SpanExportResult.SUCCESS
        self._count("exported" if done else "failed", count)
        if done != self._answers:
            self._answers = done
            tell = log.info if done else log.warning
            tell("traces.exported-again" if done else "traces.not-exported", spans=count)
