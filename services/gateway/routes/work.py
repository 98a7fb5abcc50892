"""`/v1/queue` and `/v1/nodes`: work that waits and runs, budgets, and what carries it out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from schemas.views import Node
from services.gateway.context import answer, gateway_of, stand_at
from services.gateway.estimate import ASSUMES, estimated_starts, is_open
from services.gateway.queries import Page
from services.gateway.routes.lists import limit_of, offset_of
from shared.effects.port import BudgetState, Waiting

QUEUE_MAX = 200_000
"""How far a queue is listed; whoever has more waits for other things than a listing."""

NODE_STATES = {"ok": "online", "unreachable": "offline"}


async def queue(request: web.Request) -> web.Response:
    """GET /v1/queue: ready and running work in order, estimated starts, and the budgets."""
    gateway = gateway_of(request)
    begin, limit = offset_of(request), limit_of(request)
    waiting = await gateway.owners.waiting(count_max=min(begin + limit + 1, QUEUE_MAX))
    budgets = await gateway.owners.budgets()
    starts = estimated_starts(waiting, budgets, now=dt.datetime.now(dt.UTC))
    end = begin + limit
    items = [
        _entry(place, each, starts[place - 1])
        for place, each in enumerate(waiting[begin:end], begin + 1)
    ]
    following = str(end) if len(waiting) > end else None
    limits = [
        _limit(each) for each in budgets if not is_open(each.budget) or each.lowered_to is not None
    ]
    as_of = await gateway.queries.as_of()
    page = {"items": items, "next": following, "as_of": as_of, "at": dt.datetime.now(dt.UTC)}
    return answer({**page, "budgets": limits, "estimates_assume": ASSUMES})


def _entry(place: int, each: Waiting, starts_at: dt.datetime | None) -> dict[str, Any]:
    return {
        "effect_id": each.effect_id,
        "service": each.service,
        "kind": each.kind,
        "plan": each.plan,
        "class": each.work_class.name.lower(),
        "priority": each.priority,
        "position": place,
        "due_at": each.due,
        "ready_at": each.ready_at,
        "estimated_start": starts_at,
        "worker": each.worker,
        "attempt": each.attempt,
        "blocked_by": list(each.blocked_by),
        "needs": [f"{need.mode} {need.budget}" for need in each.needs],
    }


def _limit(each: BudgetState) -> dict[str, Any]:
    return {
        "name": each.budget.name,
        "mode": each.budget.mode,
        "concurrent": each.budget.concurrent,
        "burst": each.budget.burst,
        "per_second": each.budget.per_second,
        "in_use": each.in_use,
        "tokens": round(each.tokens, 3),
        "cap": None if is_open(each.budget) else each.cap,
        "limit": round(each.limit, 3),
        "lowered": each.lowered_to is not None,
        "throttled": each.throttled,
        "throttled_at": each.throttled_at,
        "throttled_since": each.throttled_since,
        "paused_until": each.paused_until,
    }


async def nodes(request: web.Request) -> web.Response:
    """GET /v1/nodes: the replicator stands as the one replication node of every site."""
    await stand_at(request)
    gateway = gateway_of(request)
    page = Page(filters={}, limit=limit_of(request), cursor=request.query.get("cursor", ""))
    sites, following = await gateway.queries.listing("sites", page)
    budgets = {each.budget.name: each for each in await gateway.owners.budgets()}
    items = [msgspec.to_builtins(_node(site, budgets)) for site in sites]
    as_of = await gateway.queries.as_of()
    return answer({"items": items, "next": following, "as_of": as_of})


def _node(site: Mapping[str, Any], budgets: Mapping[str, BudgetState]) -> Node:
    name = site["name"]
    found = budgets.get(f"node:{name}")
    state: Any = NODE_STATES.get(site["state"], "unknown")
    return Node(
        name=f"{name}-replication",
        site=name,
        state=state if found is not None else "unknown",
        capacity=found.budget.concurrent if found is not None else 0,
        in_use=found.in_use if found is not None else 0,
    )


ROUTES = [web.get("/v1/queue", queue), web.get("/v1/nodes", nodes)]
