"""`GET /v1/events/stream`: every event as it is projected, by server-sent events.

Resumes after `Last-Event-ID` (a position). A slow reader is never buffered for: the next page is
read only when the last was written. The stream ends, in order, when the gateway does.
"""

from __future__ import annotations

import asyncio

import orjson
from aiohttp import web

from services.gateway.context import gateway_of
from services.gateway.parameters import LISTINGS
from services.gateway.problems import Invalid
from services.gateway.pulse import wait
from services.gateway.queries import Page

PAGE = 200
HEARTBEAT_S = 15.0
WRITE_TIMEOUT_S = 30.0
FILTERS = LISTINGS["events"]


async def stream(request: web.Request) -> web.StreamResponse:
    """GET /v1/events/stream?plan=&job=&type=, from now on or after Last-Event-ID."""
    gateway = gateway_of(request)
    queries = gateway.queries
    after = _last_id(request)
    if after is None:
        after = await queries.last_position()
    filters = {name: request.query[name] for name in FILTERS if name in request.query}
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
    )
    await response.prepare(request)
    # Where it begins: a reader who is cut off before the first event resumes from here.
    await _write(response, b": at %d\n\n" % after)
    loop = asyncio.get_running_loop()
    quiet_s = 0.0
    while not gateway.pulse.closed:
        beat = gateway.pulse.now()
        page = Page(filters=filters, limit=PAGE, cursor=str(after))
        events = await queries.events_after(page)
        for position, document in events:
            after = position
            kind = str(document["type"]).encode()
            data = orjson.dumps(document)
            await _write(response, b"id: %d\nevent: %s\ndata: %s\n\n" % (position, kind, data))
        if events:
            quiet_s = 0.0
            continue
        began = loop.time()
        await wait(beat, timeout_s=1.0)
        quiet_s += loop.time() - began
        if quiet_s >= HEARTBEAT_S:
            quiet_s = 0.0
            await _write(response, b": alive\n\n")
    return response


def _last_id(request: web.Request) -> int | None:
    value = request.headers.get("Last-Event-ID", request.query.get("after"))
    if value is None:
        return None
    if not value.isascii() or not value.isdigit():
        raise Invalid(
            f"Last-Event-ID: found {value!r}", remedy="send the id of the last event you had"
        )
    return int(value[:18])


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await response.write(data)


ROUTES = [web.get("/v1/events/stream", stream)]
