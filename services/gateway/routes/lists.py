"""The listings of `/v1`, all of one shape: filters, cursor, and how fresh the answer is."""

from __future__ import annotations

import datetime as dt

from aiohttp import web

from schemas import units
from services.gateway.context import answer, gateway_of, stand_at
from services.gateway.problems import Invalid
from services.gateway.queries import LISTINGS, Page
from shared.effects.port import Budget

LIMIT_DEFAULT = 100
LIMIT_MAX = 1000
RESERVED = frozenset({"limit", "cursor", "since", "until"})


async def listing(request: web.Request) -> web.Response:
    """GET /v1/{sites,nodes,plans,vms,checkpoints,jobs,alerts,events}."""
    await stand_at(request)
    view = request.path.rsplit("/", 1)[1]
    queries = gateway_of(request).queries
    items, following = await queries.listing(view, _page(request, view))
    return answer({"items": items, "next": following, "as_of": await queries.as_of()})


def _page(request: web.Request, view: str) -> Page:
    allowed = LISTINGS[view]
    unknown = sorted(set(request.query) - set(allowed) - RESERVED)
    if unknown:
        raise Invalid(
            f"unknown filter {unknown[0]!r}",
            remedy=f"allowed: {', '.join(sorted({*allowed, *RESERVED}))}",
        )
    return Page(
        filters={name: request.query[name] for name in allowed if name in request.query},
        limit=limit_of(request),
        cursor=request.query.get("cursor", ""),
        since=_moment(request, "since"),
        until=_moment(request, "until"),
    )


def limit_of(request: web.Request) -> int:
    """How many items a page is to hold."""
    value = request.query.get("limit", str(LIMIT_DEFAULT))
    if not value.isascii() or not value.isdigit() or not 1 <= int(value[:9]) <= LIMIT_MAX:
        raise Invalid(f"limit: found {value!r}", remedy=f"limit is 1 to {LIMIT_MAX}")
    return int(value)


def _moment(request: web.Request, name: str) -> dt.datetime | None:
    value = request.query.get(name)
    if value is None:
        return None
    try:
        return units.parse_moment(value)
    except units.UnitError as error:
        raise Invalid(f"{name}: found {value!r}", remedy=f"allowed: {error.allowed}") from error


OPEN_FROM = 1e9
"""A limit from here on is no limit: the site does not restrict that call."""


def _is_open(budget: Budget) -> bool:
    return max(budget.concurrent, budget.per_second) >= OPEN_FROM


async def queue(request: web.Request) -> web.Response:
    """GET /v1/queue: ready and running work in order, and the budgets as they stand."""
    gateway = gateway_of(request)
    waiting = await gateway.queue.waiting(count_max=limit_of(request))
    budgets = await gateway.queue.budgets()
    items = [
        {
            "effect_id": each.effect_id,
            "service": each.service,
            "kind": each.kind,
            "plan": each.plan,
            "class": each.work_class.name.lower(),
            "priority": each.priority,
            "position": place,
            "due_at": each.due,
            "ready_at": each.ready_at,
            "worker": each.worker,
            "attempt": each.attempt,
            "blocked_by": list(each.blocked_by),
            "needs": [f"{need.mode} {need.budget}" for need in each.needs],
        }
        for place, each in enumerate(waiting, 1)
    ]
    limits = [
        {
            "name": each.budget.name,
            "mode": each.budget.mode,
            "concurrent": each.budget.concurrent,
            "burst": each.budget.burst,
            "per_second": each.budget.per_second,
            "in_use": each.in_use,
            "tokens": round(each.tokens, 3),
        }
        for each in budgets
        if not _is_open(each.budget)
    ]
    as_of = await gateway.queries.as_of()
    return answer({"items": items, "next": None, "as_of": as_of, "budgets": limits})


ROUTES = [
    *(web.get(f"/v1/{view}", listing) for view in LISTINGS),
    web.get("/v1/queue", queue),
]
