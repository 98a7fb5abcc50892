"""The listings of `/v1`, all of one shape: filters, cursor, and how fresh the answer is."""

from __future__ import annotations

from aiohttp import web

from services.gateway.context import answer, gateway_of, moment_of, stand_at
from services.gateway.parameters import LISTINGS
from services.gateway.problems import Invalid
from services.gateway.queries import Page

LIMIT_DEFAULT = 100
LIMIT_MAX = 1000
ORDERS = ("newest", "oldest")


async def listing(request: web.Request) -> web.Response:
    """GET /v1/{sites,plans,vms,checkpoints,jobs,alerts,events}."""
    await stand_at(request)
    view = request.path.rsplit("/", 1)[1]
    queries = gateway_of(request).queries
    items, following = await queries.listing(view, _page(request, view))
    return answer({"items": items, "next": following, "as_of": await queries.as_of()})


def _page(request: web.Request, view: str) -> Page:
    order = request.query.get("order", ORDERS[0])
    if order not in ORDERS:
        raise Invalid(f"order: found {order!r}", remedy=f"order is {' or '.join(ORDERS)}")
    query = request.query
    return Page(
        filters={name: query[name] for name in LISTINGS[view] if name in query},
        limit=limit_of(request),
        cursor=request.query.get("cursor", ""),
        since=moment_of(request, "since"),
        until=moment_of(request, "until"),
        oldest_first=order == "oldest",
    )


def limit_of(request: web.Request) -> int:
    """How many items a page is to hold."""
    value = request.query.get("limit", str(LIMIT_DEFAULT))
    is_number = value.isascii() and value.isdigit() and len(value) <= len(str(LIMIT_MAX))
    if not is_number or not 1 <= int(value) <= LIMIT_MAX:
        raise Invalid(f"limit: found {value[:40]!r}", remedy=f"limit is 1 to {LIMIT_MAX}")
    return int(value)


def offset_of(request: web.Request) -> int:
    """Where a page begins in a list that is counted from its head."""
    value = request.query.get("cursor", "0")
    if not value.isascii() or not value.isdigit() or len(value) > 9:
        raise Invalid(
            f"cursor: found {value[:40]!r}", remedy="send `next` of the page before as it came"
        )
    return int(value)


ROUTES = [web.get(f"/v1/{view}", listing) for view in LISTINGS if view != "nodes"]
