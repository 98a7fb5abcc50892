"""`/v1/nodes`: what carries work out at the sites, and prep nodes taken out of work and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from aiohttp import web

from schemas.folds.prep_nodes import row_of
from schemas.prep import DrainNode
from schemas.views import Node, PrepNode
from services.gateway.commands import Asked, new_command_id
from services.gateway.context import Gateway, answer, ask, gateway_of, stand_at
from services.gateway.parameters import LISTINGS
from services.gateway.problems import Invalid, NotFound
from services.gateway.queries import Page
from services.gateway.routes.lists import limit_of, offset_of
from shared.effects.port import BudgetState

OWNER: Final = "recovery"
SITES_MAX: Final = 10_000
_STATES: Final[Mapping[str, Any]] = {"ok": "online", "unreachable": "offline"}


async def nodes(request: web.Request) -> web.Response:
    """GET /v1/nodes: per site the replicator as its replication node, then its prep nodes."""
    await stand_at(request)
    gateway = gateway_of(request)
    begin, limit = offset_of(request), limit_of(request)
    wanted = {name: request.query[name] for name in LISTINGS["nodes"] if name in request.query}
    found = [
        node
        for node in await _all(gateway)
        if all(getattr(node, name) == value for name, value in wanted.items())
    ]
    end = begin + limit
    items = [msgspec.to_builtins(node) for node in found[begin:end]]
    following = str(end) if len(found) > end else None
    as_of = await gateway.queries.as_of()
    return answer({"items": items, "next": following, "as_of": as_of})


async def drain(request: web.Request) -> web.Response:
    """POST /v1/nodes/NAME/drain: no new work for a prep node."""
    return await _drain(request, drained=True)


async def undrain(request: web.Request) -> web.Response:
    """POST /v1/nodes/NAME/undrain: work again for a prep node."""
    return await _drain(request, drained=False)


async def _drain(request: web.Request, *, drained: bool) -> web.Response:
    name = request.match_info["node"]
    every = await _all(gateway_of(request))
    found = next((node for node in every if node.name == name), None)
    if found is None:
        raise NotFound(f"no node is named {name!r}", remedy="see GET /v1/nodes")
    if found.kind != "prep":
        raise Invalid(
            f"{name} is the replicator itself, which cannot be drained in this version",
            remedy="stop its plans, or run fewer copies of the replicator",
        )
    command = DrainNode(
        command_id=new_command_id(),
        site=found.site,
        node=found.name.removeprefix(f"{found.site}-"),
        drained=drained,
    )
    return await ask(request, Asked(to=OWNER, key=found.site, body=command))


async def _all(gateway: Gateway) -> Sequence[Node]:
    """Every node, by site: sites are few."""
    found: list[Node] = []
    budgets = {each.budget.name: each for each in await gateway.owners.budgets()}
    pools = await gateway.queries.prep_nodes()
    page = Page(filters={}, limit=SITES_MAX)
    for site in (await gateway.queries.listing("sites", page))[0]:
        found.append(_replication(site, budgets))
        found += _prep(site, pools)
    return found


def _replication(site: Mapping[str, Any], budgets: Mapping[str, BudgetState]) -> Node:
    name = site["name"]
    found = budgets.get(f"node:{name}")
    return Node(
        name=f"{name}-replication",
        site=name,
        state=_state_of(site) if found is not None else "unknown",
        capacity=found.budget.concurrent if found is not None else 0,
        in_use=found.in_use if found is not None else 0,
    )


def _prep(site: Mapping[str, Any], pools: Mapping[str, PrepNode]) -> list[Node]:
    """The nodes that the site listed when it was checked, and those that its pool knows of."""
    name = site["name"]
    listed = {each["name"]: each for each in site["facts"].get("prep_nodes", ())}
    used = [each.node for each in pools.values() if each.site == name and each.seats]
    made = []
    for node in dict.fromkeys((*listed, *used)):
        known = pools.get(row_of(name, node)) or _unused(name, listed[node])
        made.append(
            Node(
                name=f"{name}-{node}",
                site=name,
                kind="prep",
                state=_power_of(site, known),
                capacity=known.seats or listed.get(node, {}).get("seats", 0),
                in_use=known.in_use,
                drained=known.drained,
                error=known.error,
            )
        )
    return made


def _unused(site: str, listed: Mapping[str, Any]) -> PrepNode:
    return PrepNode(site=site, node=listed["name"], seats=listed["seats"], power=listed["power"])


def _state_of(site: Mapping[str, Any]) -> Any:
    return _STATES.get(site["state"], "unknown")


def _power_of(site: Mapping[str, Any], node: PrepNode) -> Any:
    """Off is off whether its site answers or not; one that is on is reached through its site."""
    return _state_of(site) if node.power == "on" else node.power


ROUTES = [
    web.get("/v1/nodes", nodes),
    web.post("/v1/nodes/{node}/drain", drain),
    web.post("/v1/nodes/{node}/undrain", undrain),
]
