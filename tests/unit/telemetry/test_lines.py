"""Whatever a step or an effect logs says which one it was, and what it belongs to."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import structlog
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from schemas.envelope import Meta, Received
from shared.bus.memory import MemoryBus
from shared.clock import SystemClock
from shared.effects.memory import MemoryWork
from shared.effects.policy import STEP, RetryPolicy
from shared.effects.running import EffectRun
from shared.errors import Permanent
from shared.eventlog.memory import MemoryStore
from shared.fold import Input
from shared.news import LocalNews
from shared.service import Service
from shared.telemetry.health import Health
from shared.telemetry.logs import CONTEXT
from shared.telemetry.metrics import EngineMetrics
from shared.testing.counter import DEFINITION, SERVICE, StartCounter
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("every_line")

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
STREAM = "counter:a:1"
STORY = {"correlation_id": "command-1", "trace_id": TRACE}
COPY = {"service": SERVICE, "copy": "copy-1"}

log = structlog.get_logger()


class Failing:
    """A handler that says something and fails for good."""

    policy: RetryPolicy = STEP
    resumable = False

    async def run(self, effect: EffectRun) -> msgspec.Struct | None:
        log.info("handler.speaks")
        raise Permanent("it broke", code="broken")


def started(body: Any, *, seq: int = 1) -> Input:
    """A command on its way, in a trace."""
    now = SystemClock().now()
    meta = Meta(occurred_at=now, correlation_id="command-1", traceparent=TRACEPARENT)
    return Input(
        received=Received(body=body, meta=meta, at=now, stream="command:a:1"),
        position=("gateway", 1, "seawall.counter.commands", 1, seq),
    )


async def lines_of(inputs: Sequence[Input], *, until: str) -> dict[str, dict[str, Any]]:
    """What a service logs meanwhile, the first line of each event."""
    clock, news = SystemClock(), LocalNews()
    queue = MemoryWork(clock)
    store = MemoryStore(SERVICE, clock=clock, work=queue)
    service = Service(
        DEFINITION, store=store, bus=MemoryBus({SERVICE: store}), clock=clock, news=news,
        copy_id="copy-1", lease_s=15,
    )  # fmt: skip
    service.work(queue, {"count": Failing()}, heartbeat_s=5, chance=random.Random(1))
    registry = CollectorRegistry()
    service.register(Health(registry), EngineMetrics(registry))
    with capture_logs(processors=CONTEXT) as lines:
        running = asyncio.create_task(service.run())
        await service.stepper.submit(inputs)

        async def told() -> bool:
            return any(line["event"] == until for line in lines)

        await eventually(told, f"{until} is logged")
        service.stop()
        await running
    return {line["event"]: line for line in reversed(lines)}


def says(line: dict[str, Any], **wanted: object) -> bool:
    return wanted.items() <= line.items()


async def test_a_step_says_whose_it_is_and_what_it_decided() -> None:
    command = StartCounter(command_id="command-1", counter=STREAM, steps=1)
    lines = await lines_of([started(command)], until="step.decided")
    what = {"type": "StartCounter", "stream": "command:a:1", "log_level": "debug"}
    assert says(lines["step.decided"], **what, **STORY, **COPY)


async def test_what_a_handler_logs_carries_its_effect() -> None:
    command = StartCounter(command_id="command-1", counter=STREAM, steps=1)
    lines = await lines_of([started(command)], until="effect.ended")
    effect = {"effect_id": f"{STREAM}/count/1", "kind": "count", "stream": STREAM, "attempt": 0}
    assert says(lines["handler.speaks"], **effect, **STORY, **COPY)
    ended = {"result": "failed", "code": "broken", "error": "it broke", "log_level": "warning"}
    assert says(lines["effect.ended"], **ended, **effect, **STORY, **COPY)


async def test_a_message_that_is_set_aside_says_which_of_a_batch_it_was() -> None:
    command = StartCounter(command_id="command-1", counter="counter:b:1", steps=1)
    inputs = [
        started(command),
        started(StartCounter(command_id="x", counter="no", steps=1), seq=2),
    ]
    lines = await lines_of(inputs, until="step.set-aside")
    assert says(lines["step.set-aside"], type="StartCounter", **STORY, **COPY)
