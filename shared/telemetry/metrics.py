"""The metrics of the engine, listed in one place and labelled by service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from shared.errors import Transient
from shared.fold import Input

LAG_EVERY_S = 5.0


async def keep_lag(tell: Callable[[float], None], lag: Callable[[], Awaitable[int]]) -> None:
    """Tell how many messages wait, until cancelled; while nobody can say, it stays as it was."""
    while True:
        try:
            tell(await lag())
        except (Transient, TimeoutError):
            pass
        await asyncio.sleep(LAG_EVERY_S)


class EngineMetrics:
    """Counters and gauges that every service of a process feeds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("service",)
        self.steps = Counter(
            "seawall_steps_total", "Transactions committed", labels, registry=registry
        )
        self.inputs = Counter(
            "seawall_inputs_total", "Messages, timers and outcomes decided", labels,
            registry=registry,
        )  # fmt: skip
        self.parked = Gauge(
            "seawall_parked_keys", "Keys whose messages are set aside", labels, registry=registry
        )
        self.partitions = Gauge(
            "seawall_partitions", "Logical partitions held by this copy", labels,
            registry=registry,
        )  # fmt: skip
        self.lag = Gauge(
            "seawall_lag_messages", "Messages past the cursors of this copy's partitions", labels,
            registry=registry,
        )  # fmt: skip
        self.effects = Counter(
            "seawall_effects_total", "Tries of effects that ended, by kind and result",
            ("service", "kind", "result"), registry=registry,
        )  # fmt: skip
        self.throttled = Counter(
            "seawall_throttled_total", "Calls a platform asked to repeat later",
            ("service", "kind"), registry=registry,
        )  # fmt: skip
        self.budget_limit = Gauge(
            "seawall_budget_limit", "The limit in force, calls per second or units at once",
            ("budget",), registry=registry,
        )  # fmt: skip
        self.budget_cap = Gauge(
            "seawall_budget_cap", "The limit that was defined, in the same unit", ("budget",),
            registry=registry,
        )  # fmt: skip
        self.budget_in_use = Gauge(
            "seawall_budget_in_use", "Units that are held", ("budget",), registry=registry
        )
        self.budget_throttled = Gauge(
            "seawall_budget_throttled", "Refusals of all time, as the queue counts them",
            ("budget",), registry=registry,
        )  # fmt: skip
        self.spans = Counter(
            "seawall_spans_total", "Spans of traces, by whether they reached the collector",
            ("result",), registry=registry,
        )  # fmt: skip

    def budget(self, name: str, *, limit: float, cap: float, in_use: int) -> None:
        """How a budget stands."""
        self.budget_limit.labels(name).set(limit)
        self.budget_cap.labels(name).set(cap)
        self.budget_in_use.labels(name).set(in_use)

    def budget_refused(self, name: str, count: int) -> None:
        """How often a platform has refused a budget's calls."""
        self.budget_throttled.labels(name).set(count)

    def count_spans(self, result: str, count: int) -> None:
        """What became of spans: exported, failed or dropped. From any thread."""
        self.spans.labels(result).inc(count)

    def counting(self, service: str) -> Callable[[Sequence[Input]], None]:
        """What a service's stepper calls after each commit, with the inputs decided in it."""
        steps, inputs = self.steps.labels(service), self.inputs.labels(service)

        def count(decided: Sequence[Input]) -> None:
            steps.inc()
            inputs.inc(len(decided))
            for tried in (each.tried for each in decided if each.tried is not None):
                if tried.result == "throttled":
                    self.throttled.labels(service, tried.kind).inc()
                else:
                    self.effects.labels(service, tried.kind, tried.result).inc()

        return count
