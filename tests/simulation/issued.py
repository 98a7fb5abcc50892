"""Judges budgets by the sites' own journals: every call was paid for, and none came too early.

What the work queue granted is replayed by `verdict.rates_kept`; here each call that recoveries
made is held against those grants, and its arrival against the site's bucket.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Any, Final

from shared.clock import EPOCH
from shared.platforms.lab.settings import Quota
from shared.platforms.lab.vocabulary import CALLS
from shared.testing.sites import WatchedSite
from tests.simulation.plane import Plane
from tests.simulation.verdict import EPSILON

PAID: Final = (
    "rebuild_disk",
    "create_instance",
    "power_on",
    "power_off",
    "delete_instance",
    "delete_disk",
    "power_on_node",
    "power_off_node",
    "shut_down_source",
    "power_off_source",
    "power_on_source",
)
"""Calls of which a claim pays for one."""

ON_THE_WAY_S: Final = 1.0
"""How much later than its grant a call may arrive: wires, and the way to the site."""


def judged(world: Plane, *, calm: bool) -> list[str]:
    """Calls beyond what was granted, or beyond what the site said it takes."""
    broken: list[str] = []
    for name, site in world.sites.items():
        broken += _paid(world, name, site)
        if calm:
            for quota, limit in site.settings.quotas.items():
                if limit.per_second is not None:
                    broken += _in_time(site, quota, limit)
    return broken


def _paid(world: Plane, name: str, site: WatchedSite) -> list[str]:
    grants: Counter[tuple[str, str]] = Counter()
    for grant in world.grants:
        if not grant.cancelled:
            grants.update((grant.effect_id, budget) for budget in grant.needs)
    issued: Counter[tuple[str, str]] = Counter()
    for line in site.journal:
        if line["call"] in PAID and line["key"]:
            (quota,) = CALLS[line["call"]]
            issued[line["key"], f"{name}/{quota}"] += 1
    return [
        f"budget: {key} called {count} times, {budget} granted {grants[key, budget]}"
        for (key, budget), count in issued.items()
        if count > grants[key, budget]
    ]


def _in_time(site: WatchedSite, quota: str, limit: Quota) -> list[str]:
    assert limit.burst is not None and limit.per_second is not None, "it is a bucket"
    room = limit.burst + limit.per_second * ON_THE_WAY_S
    tokens, last = room, 0.0
    for at in sorted(_arrived(site, line) for line in site.journal if _spends(line, quota)):
        tokens = min(room, tokens + (at - last) * limit.per_second) - 1
        last = at
        if tokens < -EPSILON:
            return [f"budget: {quota} of {site.name} was asked for too much at {at:.3f}"]
    return []


def _spends(line: dict[str, Any], quota: str) -> bool:
    return line["call"] in PAID and bool(line["key"]) and quota in CALLS[line["call"]]


def _arrived(site: WatchedSite, line: dict[str, Any]) -> float:
    """When a call came; what was done is written down when it was done."""
    at = (dt.datetime.fromisoformat(line["at"]) - EPOCH).total_seconds()
    done = line["outcome"] in ("ok", "known", "error")
    return at - (site.settings.latency_s.get(line["call"], 0.0) if done else 0.0)
