"""`/v1/sites`: register, check and forget sites."""

from __future__ import annotations

from aiohttp import web

from schemas.ids import stream_id
from schemas.lost_sites import PowerOffOriginals
from schemas.scheduler import AddSite, CheckSite, ReleaseSite, RemoveSite
from services.gateway.commands import Asked, new_command_id
from services.gateway.context import (
    answer,
    ask,
    body_of,
    flag,
    gateway_of,
    names,
    stand_at,
    text,
    texts,
)
from services.gateway.ids import new_id
from services.gateway.names import checked_name, name_in_path
from services.gateway.problems import NotFound

OWNER = "scheduler"
WATCHER = "recovery"
"""Looks at quarantined sites, and powers off what runs there."""


async def add(request: web.Request) -> web.Response:
    """POST /v1/sites {name, platform, settings, credentials}."""
    document = await body_of(request, "name", "platform", "settings", "credentials")
    name = checked_name(text(document, "name"), "name")
    command = AddSite(
        command_id=new_command_id(),
        site=name,
        platform=text(document, "platform", "lab"),
        settings=texts(document, "settings"),
        credentials=text(document, "credentials", ""),
    )
    return await ask(request, Asked(to=OWNER, key=name, body=command), resource=f"sites/{name}")


async def check(request: web.Request) -> web.Response:
    """POST /v1/sites/NAME/check {list_owned}: call the platform."""
    name = name_in_path(request, "site")
    document = await body_of(request, "list_owned")
    command = CheckSite(
        command_id=new_command_id(), site=name, list_owned=flag(document, "list_owned")
    )
    return await ask(request, Asked(to=OWNER, key=name, body=command), resource=f"sites/{name}")


async def release(request: web.Request) -> web.Response:
    """POST /v1/sites/NAME/release {confirm, originals_running}: end its quarantine; confirm is
    the site's name, originals_running the second word where some were seen to run."""
    name = name_in_path(request, "site")
    document = await body_of(request, "confirm", "originals_running")
    command = ReleaseSite(
        command_id=new_command_id(),
        site=name,
        confirm=text(document, "confirm", ""),
        originals_running=flag(document, "originals_running"),
    )
    return await ask(request, Asked(to=OWNER, key=name, body=command), resource=f"sites/{name}")


async def power_off(request: web.Request) -> web.Response:
    """POST /v1/sites/NAME/power-off {confirm, vms}: power off originals that run at a quarantined
    site; confirm is its name. A job."""
    name = name_in_path(request, "site")
    document = await body_of(request, "confirm", "vms")
    job = stream_id("site-power-off", name, new_id())
    command = PowerOffOriginals(
        command_id=new_command_id(),
        job=job,
        site=name,
        confirm=text(document, "confirm", ""),
        vms=names(document, "vms"),
    )
    return await ask(request, Asked(to=WATCHER, key=name, body=command, job=job))


async def remove(request: web.Request) -> web.Response:
    """DELETE /v1/sites/NAME."""
    name = name_in_path(request, "site")
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
    web.post("/v1/sites/{name}/release", release),
    web.post("/v1/sites/{name}/power-off", power_off),
]
