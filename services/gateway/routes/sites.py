"""`/v1/sites`: register, check and forget sites."""

from __future__ import annotations

from aiohttp import web

from schemas.scheduler import AddSite, CheckSite, RemoveSite
from services.gateway.commands import Asked, new_command_id
from services.gateway.context import answer, ask, body_of, gateway_of, stand_at, text
from services.gateway.names import checked_name
from services.gateway.problems import Invalid, NotFound

OWNER = "scheduler"


async def add(request: web.Request) -> web.Response:
    """POST /v1/sites {name, platform, settings, credentials}."""
    document = await body_of(request, "name", "platform", "settings", "credentials")
    name = checked_name(text(document, "name"), "name")
    settings = document.get("settings", {})
    if not isinstance(settings, dict) or not all(isinstance(v, str) for v in settings.values()):
        raise Invalid("settings: not an object of texts", remedy='send {"path": "/srv/east"}')
    command = AddSite(
        command_id=new_command_id(),
        site=name,
        platform=text(document, "platform", "lab"),
        settings=settings,
        credentials=text(document, "credentials", ""),
    )
    return await ask(request, Asked(to=OWNER, key=name, body=command), resource=f"sites/{name}")


async def check(request: web.Request) -> web.Response:
    """POST /v1/sites/NAME/check: call the platform."""
    name = request.match_info["name"]
    command = CheckSite(command_id=new_command_id(), site=name)
    return await ask(request, Asked(to=OWNER, key=name, body=command), resource=f"sites/{name}")


async def remove(request: web.Request) -> web.Response:
    """DELETE /v1/sites/NAME."""
    name = request.match_info["name"]
    command = RemoveSite(command_id=new_command_id(), site=name)
    return await ask(request, Asked(to=OWNER, key=name, body=command))


async def show(request: web.Request) -> web.Response:
    """GET /v1/sites/NAME."""
    await stand_at(request)
    name = request.match_info["name"]
    found = await gateway_of(request).queries.resource("sites", name)
    if found is None:
        raise NotFound(f"no site is named {name!r}", remedy="see GET /v1/sites")
    return answer(found)


ROUTES = [
    web.post("/v1/sites", add),
    web.get("/v1/sites/{name}", show),
    web.delete("/v1/sites/{name}", remove),
    web.post("/v1/sites/{name}/check", check),
]
