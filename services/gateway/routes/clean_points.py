"""`/v1/plans/NAME/find-clean-point`: look for the newest checkpoint that a script finds clean."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from schemas.clean_points import CANDIDATES_MAX, SEARCH_ORDERS, FindCleanPoint
from schemas.definitions import parse_verdict
from schemas.documents import DefinitionErrors
from schemas.ids import stream_id
from services.gateway.commands import Asked, new_command_id
from services.gateway.context import ask, body_of, flag, names, text
from services.gateway.ids import new_id
from services.gateway.names import name_in_path
from services.gateway.problems import Invalid
from services.gateway.routes.plans import OWNER, invalid_document, script_parts

FIELDS = ("verdict", "order", "vms", "limit", "keep", "skip_scripts")


async def find_clean_point(request: web.Request) -> web.Response:
    """POST /v1/plans/NAME/find-clean-point {verdict, …}: test checkpoints until one is clean."""
    plan = name_in_path(request, "plan")
    document = await body_of(request, *FIELDS)
    order = text(document, "order", "newest-first")
    if order not in SEARCH_ORDERS:
        raise Invalid(f"order: found {order!r}", remedy=f"one of {', '.join(SEARCH_ORDERS)}")
    try:
        verdict = parse_verdict(document.get("verdict"))
    except DefinitionErrors as errors:
        raise invalid_document("verdict script", errors) from errors
    job = stream_id("find-clean-point", plan, new_id())
    command = FindCleanPoint(
        command_id=new_command_id(),
        plan=plan,
        job=job,
        verdict=verdict.script,
        order=order,
        vms=names(document, "vms"),
        tries_max=_limit(document),
        keep=flag(document, "keep"),
        skip_scripts=names(document, "skip_scripts"),
    )
    content = {verdict.script.sha256: verdict.content}
    extras = tuple(part for part in script_parts(plan, content) if part[0] == "recovery")
    return await ask(request, Asked(to=OWNER, key=plan, body=command, job=job, extras=extras))


def _limit(document: dict[str, Any]) -> int:
    limit = document.get("limit")
    if limit is None:
        return 0
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= CANDIDATES_MAX:
        raise Invalid(
            f"limit: found {limit!r}", remedy=f"limit is a whole number from 1 to {CANDIDATES_MAX}"
        )
    return limit


ROUTES = [web.post("/v1/plans/{name}/find-clean-point", find_clean_point)]
