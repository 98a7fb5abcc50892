"""`/livez`, `/readyz` and `/metrics` of a process.

Live means that the event loop turns; it never depends on Postgres or the bus. Ready means that
every check passes; a failing one is named with its reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

Check = Callable[[], Awaitable[str]]
"""Gives "" when all is well, else what is wrong."""

Note = Callable[[], Awaitable[str]]
"""Gives what is so here: no reason not to be ready, but worth a word to whoever looks."""


class Health:
    """The checks of one process, by name, and the routes that show them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._checks: dict[str, Check] = {}
        self._notes: dict[str, Note] = {}
        self._registry = registry

    def add(self, name: str, check: Check) -> None:
        """Let `/readyz` depend on a check."""
        self._checks[name] = check

    def tell(self, name: str, note: Note) -> None:
        """Let `/readyz` say what is so here, beside what it depends on."""
        self._notes[name] = note

    async def problems(self) -> Mapping[str, str]:
        """What stands in the way of being ready, by check."""
        # Side by side: each may wait for a database that hangs, and the answer must not.
        found = await asyncio.gather(*(check() for check in self._checks.values()))
        return {
            name: problem for name, problem in zip(self._checks, found, strict=True) if problem
        }

    def routes(self) -> list[web.RouteDef]:
        """The three routes, for any aiohttp application."""
        return [
            web.get("/livez", self._livez),
            web.get("/readyz", self._readyz),
            web.get("/metrics", self._metrics),
        ]

    async def _livez(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "live"})

    async def _readyz(self, request: web.Request) -> web.Response:
        problems = await self.problems()
        if problems:
            return web.json_response({"status": "not ready", "problems": problems}, status=503)
        notes = {name: await note() for name, note in self._notes.items()}
        return web.json_response({"status": "ready"} | ({"notes": notes} if notes else {}))

    async def _metrics(self, request: web.Request) -> web.Response:
        body = generate_latest(self._registry)
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4"})


async def serve_health(health: Health, *, host: str, port: int) -> tuple[web.AppRunner, int]:
    """Serve the health routes; gives the runner to clean up and the port that was bound."""
    application = web.Application()
    application.add_routes(health.routes())
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    return runner, runner.addresses[0][1]
