"""Forecasts of recoveries: reads what they are made of, has them computed aside, remembers them.

What a forecast means is `prediction`'s. One that cannot be made is left out, never the document
that it would be part of.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import orjson

from schemas.views import ENDED, Job, Plan
from services.gateway import prediction, remaining
from services.gateway.owners import Owners
from services.gateway.prediction import DECLARED, Durations
from services.gateway.queries import RECOVERIES, Queries
from services.gateway.timings import Timings, timings_of
from shared.effects.worker import IN_FLIGHT_MAX
from shared.errors import Transient
from shared.forecast.limits import Limit

REMEMBERED_MAX: Final = 256
FORECAST_VMS_MAX: Final = 20_000
"""A plan of more VMs is not simulated for a reader: it would take a second of its processor."""

FOLLOWED_VMS_MAX: Final = 5_000
SIMULATED_EVERY_S: Final = 2.0
"""A recovery that people watch is asked for four times a second, and simulated less often."""

SIMULATED_EVERY_PER_VM_S: Final = 0.002
"""One of 2,000 VMs costs a tenth of a second: it is simulated every 6 s, 2 % of a processor."""


class Forecasts:
    """The gateway's forecasts. Past durations are read again when another recovery has ended."""

    def __init__(self, queries: Queries, owners: Owners) -> None:
        self._queries = queries
        self._owners = owners
        self._timings: OrderedDict[tuple[str, str], Timings] = OrderedDict()
        self._answers: OrderedDict[tuple[Any, ...], float | None] = OrderedDict()
        self._running: OrderedDict[str, tuple[float, float | None]] = OrderedDict()

    async def with_forecast(self, document: dict[str, Any]) -> dict[str, Any]:
        """A plan's document with `rto.forecast_s`: a test of all its VMs, budgets full."""
        if not 0 < len(document["vms"]) <= FORECAST_VMS_MAX:
            return document
        try:
            newest = await self._queries.newest_recovery(document["name"])
            limits = await self._limits(document["recovery_site"])
            # Ahead of a disaster nobody knows what its first minute finds in the buckets.
            limits = tuple(msgspec.structs.replace(limit, tokens=None) for limit in limits)
            key = (document["name"], document["version"], newest, limits)
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
            limits = await self._limits(plan.recovery_site, seats=facts.get("prep_seats"))
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

    async def of_running(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job of a recovery that runs, with how long it still takes (`eta_s`) and will have
        taken from the command on (`forecast_s`), waits for people aside."""
        if job["kind"] not in RECOVERIES or job["vm"] or job["state"] in ENDED or job["dry_run"]:
            return job
        if not 0 < len(job["children"]) <= FOLLOWED_VMS_MAX:
            return job
        loop = asyncio.get_running_loop()
        at, ready_at = self._running.get(job["id"], (-math.inf, None))
        every_s = SIMULATED_EVERY_S + SIMULATED_EVERY_PER_VM_S * len(job["children"])
        if loop.time() - at > every_s:
            try:
                found_s = await self._left_s(job)
            except Transient:
                return job
            ready_at = None if found_s is None else loop.time() + found_s
            _remember(self._running, job["id"], (loop.time(), ready_at))
        if ready_at is None:
            return job
        left_s = max(ready_at - loop.time(), 0.0)
        begun = dt.datetime.fromisoformat(job["created_at"])
        so_far_s = (dt.datetime.now(dt.UTC) - begun).total_seconds()
        return {**job, "eta_s": round(left_s, 1), "forecast_s": round(so_far_s + left_s, 1)}

    async def _left_s(self, job: dict[str, Any]) -> float | None:
        found = await self._queries.resource("plans", job["plan"])
        if found is None:
            return None
        plan = msgspec.convert(found, Plan)
        parts = tuple((await self._queries.jobs_of(job["children"])).values())
        simulated = remaining.plan_of_running(
            plan.definition, msgspec.convert(job, Job), parts,
            Durations(await self._past(plan), {}),
            delays={vm.name: vm.boot_delay_s for vm in plan.vms},
            now=dt.datetime.now(dt.UTC),
        )  # fmt: skip
        if simulated is None:
            return None
        limits = await self._limits(plan.recovery_site)
        return await asyncio.to_thread(prediction.seconds_to_ready, simulated, limits)

    async def _limits(self, site: str, *, seats: int | None = None) -> tuple[Limit, ...]:
        budgets = await self._owners.budgets()
        counted = await self._seats(site) if seats is None else seats
        return prediction.limits_of(site, budgets, workers=IN_FLIGHT_MAX, seats=counted)

    async def _seats(self, site: str) -> int | None:
        """Seats of a site's prep nodes that take work, as its last check listed them."""
        found = await self._queries.resource("sites", site)
        listed = (found or {}).get("facts", {}).get("prep_nodes", ())
        if not listed:
            return None
        drained = {n.node for n in (await self._queries.prep_nodes()).values()
                   if n.site == site and n.drained}  # fmt: skip
        return sum(int(node["seats"]) for node in listed if node["name"] not in drained)

    async def _past(self, plan: Plan) -> Timings:
        # A dry run finds out which VMs are Windows.
        key = (plan.name, await self._queries.newest_recovery(plan.name))
        if key not in self._timings:
            jobs: Sequence[Job] = await self._queries.recovered(plan.name)
            _remember(self._timings, key, await asyncio.to_thread(timings_of, jobs))
        return self._timings[key]

    async def _calls(self, facts: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        kept = facts.get("calls_sha256", "")
        blob = await self._owners.blob("recovery", kept) if kept else None
        calls: Sequence[Mapping[str, Any]] = facts["calls"] if blob is None else orjson.loads(blob)
        return calls


def _declared(facts: Mapping[str, Any]) -> dict[str, float]:
    told = facts.get("latencies", {})
    return {step: told[call] for call, step in DECLARED.items() if call in told}


def _remember(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    kept[key] = value
    while len(kept) > REMEMBERED_MAX:
        kept.popitem(last=False)
