"""`/v1/queue`: work that waits and runs, and the budgets it spends."""

from __future__ import annotations

import datetime as dt
from typing import Any

from aiohttp import web

from services.gateway.context import answer, gateway_of
from services.gateway.estimate import ASSUMES, estimated_starts, is_open
from services.gateway.routes.lists import limit_of, offset_of
from shared.effects.port import BudgetState, Waiting

QUEUE_MAX = 200_000
"""How far a queue is listed; whoever has more waits for other things than a listing."""


async def queue(request: web.Request) -> web.Response:
    """GET /v1/queue: ready and running work in order, estimated starts, and the budgets; `plan`
    shows one plan's alone, at its places among all."""
    gateway = gateway_of(request)
    begin, limit = offset_of(request), limit_of(request)
    plan = request.query.get("plan")
    # What stands before a plan's work decides when it starts: all of it is looked at.
    count_max = QUEUE_MAX if plan else min(begin + limit + 1, QUEUE_MAX)
    waiting = await gateway.owners.waiting(count_max=count_max)
    budgets = await gateway.owners.budgets()
    starts = estimated_starts(waiting, budgets, now=dt.datetime.now(dt.UTC))
    end = begin + limit
    shown = [
        (place, each) for place, each in enumerate(waiting, 1) if plan is None or each.plan == plan
    ]
    items = [_entry(place, each, starts[place - 1]) for place, each in shown[begin:end]]
    following = str(end) if len(shown) > end else None
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


ROUTES = [web.get("/v1/queue", queue)]
