"""Tries of effects are counted once they are committed, by kind and how they went."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from schemas.envelope import Meta
from schemas.recovery_work import PowerOn
from shared.clock import SystemClock
from shared.decider import EffectOutcome
from shared.effects.policy import Requeue, Verdict, given_back
from shared.effects.port import Claimed
from shared.effects.settling import Settling
from shared.eventlog.port import Pushback
from shared.fold import Input, Tried
from shared.telemetry.metrics import EngineMetrics

AT = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)


class Kept:
    """A stepper that only keeps what it is given."""

    def __init__(self) -> None:
        self.inputs: list[Input] = []

    async def submit(self, inputs: Sequence[Input]) -> None:
        self.inputs += inputs


def claimed() -> Any:
    """A claimed effect, as far as settling looks at it."""
    found = msgspec.defstruct("Claim", [(name, Any) for name in Claimed.__struct_fields__])
    known = {
        "effect_id": "recovery:shop:1/power/1", "kind": "power-on", "lease_no": 1, "attempt": 0,
        "stream": "recovery:shop:1", "stream_version": 1, "meta": Meta(occurred_at=AT),
        "payload": PowerOn,
    }  # fmt: skip
    return found(**{name: known.get(name) for name in Claimed.__struct_fields__})


def outcome(**fields: Any) -> EffectOutcome:
    """An end of the effect."""
    return EffectOutcome(
        effect_id="e", part="p", kind="power-on", at=AT, started_at=AT, attempts=1, **fields
    )


@pytest.mark.parametrize(
    ("end", "result"),
    [
        (outcome(ok=True), "ok"),
        (outcome(ok=False, code="gone"), "failed"),
        (outcome(ok=False, code="cancelled"), "cancelled"),
        (outcome(ok=False, unknown=True), "unknown"),
        (Requeue(at=AT, attempt=0, pushback=Pushback()), "throttled"),
        (Requeue(at=AT, attempt=1, code="timeout", failed=True), "retried"),
        (given_back(claimed(), at=AT), "given-back"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_how_a_try_went_travels_with_its_input(end: Verdict, result: str) -> None:
    kept: Any = Kept()
    await Settling(kept, clock=SystemClock()).settle([(claimed(), end)])
    assert [each.tried for each in kept.inputs] == [Tried("power-on", result)]


def test_a_commit_counts_its_inputs_and_tries() -> None:
    registry = CollectorRegistry()
    count = EngineMetrics(registry).counting("recovery")
    tries = [Tried("power-on", "ok"), Tried("power-on", "throttled"), None]
    count([Input(tried=tried) for tried in tries])

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"service": "recovery", **labels})

    assert value("seawall_steps_total") == 1
    assert value("seawall_inputs_total") == 3
    assert value("seawall_effects_total", kind="power-on", result="ok") == 1
    assert value("seawall_throttled_total", kind="power-on") == 1
    assert value("seawall_effects_total", kind="power-on", result="throttled") is None
