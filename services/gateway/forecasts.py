"""Forecasts of recoveries: reads what they are made of, has them computed aside, remembers them.

What a forecast means is `prediction`'s. One that cannot be made is left out, never the document
that it would be part of.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import orjson

from schemas.views import Job, Plan
from services.gateway import prediction
from services.gateway.owners import Owners
from services.gateway.prediction import CALLS, Durations, Timings
from services.gateway.queries import Queries
from shared.effects.worker import IN_FLIGHT_MAX
from shared.errors import Transient
from shared.forecast.limits import Limit

REMEMBERED_MAX: Final = 256
FORECAST_VMS_MAX: Final = 20_000
"""A plan of more VMs is not simulated for a reader: it would take a second of its processor."""


class Forecasts:
    """The gateway's forecasts. Past durations are read again when another recovery has ended."""

    def __init__(self, queries: Queries, owners: Owners) -> None:
        self._queries = queries
        self._owners = owners
        self._timings: OrderedDict[tuple[str, str], Timings] = OrderedDict()
        self._answers: OrderedDict[tuple[Any, ...], float | None] = OrderedDict()

    async def with_forecast(self, document: dict[str, Any]) -> dict[str, Any]:
        """A plan's document with `rto.forecast_s`: a test of all its VMs, budgets full."""
        if not 0 < len(document["vms"]) <= FORECAST_VMS_MAX:
            return document
        last = (document["last_recovery"] or {}).get("job", "")
        try:
            limits = await self._limits(document["recovery_site"])
            # Ahead of a disaster nobody knows what its first minute finds in the buckets.
            limits = tuple(msgspec.structs.replace(limit, tokens=None) for limit in limits)
            key = (document["name"], document["version"], last, limits)
            if key not in self._answers:
                plan = msgspec.convert(document, Plan)
                _remember(self._answers, key, await self._seconds_to_ready(plan, limits))
        except Transient:
            return document
        return {**document, "rto": {**document["rto"], "forecast_s": self._answers[key]}}

    async def _seconds_to_ready(self, plan: Plan, limits: Sequence[Limit]) -> float | None:
        durations = Durations(await self._past(plan), {})
        simulated = prediction.plan_of_vms(plan.definition, plan.vms, durations)
        return await asyncio.to_thread(prediction.seconds_to_ready, simulated, limits)

    async def of_dry_run(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job of a dry run with a `forecast` among its facts, made for this moment."""
        facts = job["facts"]
        if not job["dry_run"] or "calls" not in facts or facts["vms"] > FORECAST_VMS_MAX:
            return job
        try:
            found = await self._queries.resource("plans", job["plan"])
            if found is None:
                return job
            plan = msgspec.convert(found, Plan)
            limits = await self._limits(plan.recovery_site)
            durations = Durations(await self._past(plan), _declared(facts))
            calls = await self._calls(facts)
            simulated = prediction.plan_of_calls(
                plan.definition, calls, durations,
                build_ahead=facts.get("build_ahead", True), early=facts.get("early", True),
            )  # fmt: skip
            forecast = await asyncio.to_thread(prediction.predicted, simulated, limits, durations)
        except Transient:
            return job
        return {**job, "facts": {**facts, "forecast": forecast}}

    async def _limits(self, site: str) -> tuple[Limit, ...]:
        return prediction.limits_of(site, await self._owners.budgets(), workers=IN_FLIGHT_MAX)

    async def _past(self, plan: Plan) -> Timings:
        key = (plan.name, _last(plan))
        if key not in self._timings:
            jobs: Sequence[Job] = await self._queries.recovered(plan.name)
            _remember(self._timings, key, await asyncio.to_thread(prediction.timings_of, jobs))
        return self._timings[key]

    async def _calls(self, facts: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        kept = facts.get("calls_sha256", "")
        blob = await self._owners.blob("recovery", kept) if kept else None
        calls: Sequence[Mapping[str, Any]] = facts["calls"] if blob is None else orjson.loads(blob)
        return calls


def _declared(facts: Mapping[str, Any]) -> dict[str, float]:
    told = facts.get("latencies", {})
    return {step: told[call] for call, step in CALLS.items() if call in told}


def _last(plan: Plan) -> str:
    return plan.last_recovery.job if plan.last_recovery is not None else ""


def _remember(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    kept[key] = value
    while len(kept) > REMEMBERED_MAX:
        kept.popitem(last=False)
