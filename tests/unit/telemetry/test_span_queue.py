"""Export never hurts work: a bound, a count of what did not get through, an end in time."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from structlog.testing import capture_logs

from shared.settings import read_settings
from shared.telemetry.otel import OtelTracing
from shared.telemetry.span_queue import BATCH_SPANS_MAX, CLOSE_S_MAX, SpanQueue
from shared.telemetry.tracing import OFF
from tests.waiting import wait_until


class Collector(SpanExporter):
    """Takes spans once it may, or will not have them."""

    def __init__(self, *, refuses: bool = False, hangs: bool = False) -> None:
        self.refuses = refuses
        self.got: list[str] = []
        self._may = threading.Event()
        if not hangs:
            self._may.set()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._may.wait(30)
        if self.refuses:
            return SpanExportResult.FAILURE
        self.got += [span.name for span in spans]
        return SpanExportResult.SUCCESS

    def answer(self) -> None:
        """Do not hang any longer."""
        self._may.set()

    def shutdown(self) -> None:
        self._may.set()


class Bench:
    """A queue before a collector, and what was counted."""

    def __init__(self, collector: Collector, *, spans_max: int = 10_000) -> None:
        self.counted: Counter[str] = Counter()
        self.queue = SpanQueue(collector, self._count, spans_max=spans_max)
        self._tracing = OtelTracing("counter", "copy-1", self.queue)

    def _count(self, result: str, count: int) -> None:
        self.counted[result] += count

    def end(self, count: int) -> None:
        """End spans."""
        for number in range(count):
            span = self._tracing.begin(str(number), kind="client", parent="", attributes={})
            span.end({})


def until(condition: Callable[[], bool]) -> None:
    wait_until(condition, "the queue has done its part")


def test_spans_are_exported_in_order_and_what_waits_is_sent_at_the_end() -> None:
    collector = Collector()
    bench = Bench(collector)
    bench.end(BATCH_SPANS_MAX + 5)
    bench.queue.shutdown()
    assert collector.got == [str(number) for number in range(BATCH_SPANS_MAX + 5)]
    assert bench.counted == {"exported": BATCH_SPANS_MAX + 5}


def test_what_does_not_fit_is_dropped_and_counted_and_nobody_waits() -> None:
    collector = Collector(hangs=True)
    bench = Bench(collector, spans_max=BATCH_SPANS_MAX)
    began = time.monotonic()
    bench.end(BATCH_SPANS_MAX * 4)
    assert time.monotonic() - began < CLOSE_S_MAX
    assert bench.counted["dropped"] >= BATCH_SPANS_MAX * 2
    collector.answer()
    until(lambda: bench.counted.total() == BATCH_SPANS_MAX * 4)
    bench.queue.shutdown()


def test_a_collector_that_will_not_have_them_is_told_of_once_and_counted() -> None:
    collector = Collector(refuses=True)
    with capture_logs() as lines:
        bench = Bench(collector)
        bench.end(BATCH_SPANS_MAX)
        until(lambda: bench.counted["failed"] == BATCH_SPANS_MAX)
        bench.end(BATCH_SPANS_MAX)
        until(lambda: bench.counted["failed"] == 2 * BATCH_SPANS_MAX)
        collector.refuses = False
        bench.end(BATCH_SPANS_MAX)
        until(lambda: bench.counted["exported"] == BATCH_SPANS_MAX)
        bench.queue.shutdown()
    told = [line["event"] for line in lines]
    assert told == ["traces.not-exported", "traces.exported-again"]


def test_a_process_ends_though_its_collector_hangs() -> None:
    bench = Bench(Collector(hangs=True, refuses=True))
    bench.end(BATCH_SPANS_MAX + 7)
    began = time.monotonic()
    bench.queue.shutdown()
    assert time.monotonic() - began < CLOSE_S_MAX + 1
    until(lambda: bench.counted.total() == BATCH_SPANS_MAX + 7)


@pytest.mark.parametrize(
    ("environ", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/x"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_traces_are_on_where_a_collector_is_named(environ: dict[str, str], on: bool) -> None:
    assert read_settings(environ).traces is on


def test_a_process_without_traces_does_not_even_import_them() -> None:

    program = "import sys, shared.process; sys.exit('opentelemetry' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def test_where_nobody_traces_a_place_stays_what_it_was() -> None:
    assert OFF.begin("x", kind="client", parent="p", attributes={}).traceparent == "p"
