"""`/v1/leftovers`: what sites were last found to hold of ours that no job will remove.

A query calls no site: `POST /v1/sites/NAME/check {list_owned: true}` has it listed, here the list
meets the jobs as the read models know them now.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from schemas.leftovers import FACT, Listed, OwnedObject, left_over
from services.gateway.context import Gateway, answer, gateway_of, stand_at
from services.gateway.queries import Page

SITES_MAX: Final = 1000
LISTED_BY: Final = "replicator"
_objects = msgspec.json.Decoder(list[OwnedObject]).decode


async def leftovers(request: web.Request) -> web.Response:
    """GET /v1/leftovers: objects with our tag that no job will remove, as last listed."""
    await stand_at(request)
    gateway = gateway_of(request)
    sites, _ = await gateway.queries.listing("sites", Page(filters={}, limit=SITES_MAX))
    held = {site["name"]: await _held(gateway, site) for site in sites}
    items = await _left_over(gateway, held)
    as_of = await gateway.queries.as_of()
    told = [_site(site, held[site["name"]]) for site in sites]
    return answer({"items": items, "next": None, "as_of": as_of, "sites": told})


async def _held(
    gateway: Gateway, site: Mapping[str, Any]
) -> tuple[Listed, list[OwnedObject]] | None:
    """What a site was listed to hold; None where it never was, or the list is gone."""
    if FACT not in site["facts"]:
        return None
    listed = msgspec.convert(site["facts"][FACT], Listed)
    content = await gateway.owners.blob(LISTED_BY, listed.sha256)
    return None if content is None else (listed, _objects(content))


async def _left_over(
    gateway: Gateway, held: Mapping[str, tuple[Listed, list[OwnedObject]] | None]
) -> list[dict[str, Any]]:
    every = [(site, owned) for site, found in held.items() if found for owned in found[1]]
    names = sorted({owned.job for _, owned in every} - {""})
    # Whether work is under way is asked first: it ends before its job does, never after.
    working = await gateway.owners.working(names) if names else frozenset()
    jobs = await gateway.queries.jobs_of(names) if names else {}
    plans = sorted({owned.plan for _, owned in every} - {""})
    replicating = await gateway.queries.replicating(plans) if plans else frozenset()
    now = dt.datetime.now(dt.UTC)
    found = (
        left_over(
            site,
            owned,
            job=jobs.get(owned.job),
            working=owned.job in working,
            replicating=(owned.plan, owned.vm) in replicating,
            now=now,
        )
        for site, owned in every
    )
    return [msgspec.to_builtins(each) for each in found if each is not None]


def _site(
    site: Mapping[str, Any], held: tuple[Listed, list[OwnedObject]] | None
) -> dict[str, Any]:
    listed = None if held is None else held[0]
    return {
        "name": site["name"],
        "state": site["state"],
        "listed_at": None if listed is None else listed.at,
        "objects": None if listed is None else listed.total,
        "compared": None if listed is None else listed.kept,
    }


ROUTES = [web.get("/v1/leftovers", leftovers)]
