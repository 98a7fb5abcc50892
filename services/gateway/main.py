"""Builds the gateway: the HTTP server on its port, the token, the endpoint file."""

from __future__ import annotations

import asyncio
import os
import secrets
import select
import socket
import time

from aiohttp import web

from services.gateway import openapi
from services.gateway.auth import TokenAuth, ensure_token
from services.gateway.commands import CommandBus
from services.gateway.context import GATEWAY, Gateway
from services.gateway.following import Following
from services.gateway.forecasts import Forecasts
from services.gateway.names import ids_in_paths
from services.gateway.owners import OWNERS, Owners
from services.gateway.past import Past
from services.gateway.problems import as_problems
from services.gateway.pulse import Pulse
from services.gateway.queries import Queries
from services.gateway.routes import (
    clean_points,
    jobs,
    kept,
    leftovers,
    lists,
    nodes,
    plans,
    sites,
    stream,
    work,
)
from shared.bus.outlet import LonelyOutlet
from shared.errors import Refused
from shared.process import Process
from shared.settings import Settings

BODY_BYTES_MAX = 8 * 1024 * 1024
HEADER_BYTES_MAX = 16 * 1024
SHUTDOWN_S_MAX = 3.0
QUEUE_S_MAX = 0.5
ACCEPT_TURNS = 4
"""Turns of the event loop that it takes at most from a connection's acceptance to its server."""


class GatewayPart:
    """The HTTP server as a part of its process."""

    name = "gateway"

    def __init__(
        self,
        application: web.Application,
        pulse: Pulse,
        listening: socket.socket,
        *,
        outlet: LonelyOutlet | None = None,
    ) -> None:
        self._application = application
        self._pulse = pulse
        self._socket = listening
        self._outlet = outlet
        self.port: int = listening.getsockname()[1]
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Ask for an ordered end: no new connections, requests in hand get SHUTDOWN_S_MAX.

        Those that wait for a decision are answered at once that it is accepted: it is.
        """
        self._stop.set()

    async def run(self) -> None:
        """Serve until `stop`."""
        pulse = asyncio.create_task(self._pulse.run())
        publishing = asyncio.create_task(self._outlet.run()) if self._outlet else None
        runner = web.AppRunner(
            self._application,
            access_log=None,
            handler_cancellation=True,
            max_line_size=HEADER_BYTES_MAX,
            max_field_size=HEADER_BYTES_MAX,
            shutdown_timeout=SHUTDOWN_S_MAX,
        )
        await runner.setup()
        await web.SockSite(runner, self._socket).start()
        try:
            await self._stop.wait()
        finally:
            self._pulse.close()
            await _taken_on(self._socket)
            await runner.cleanup()
            pulse.cancel()
            if self._outlet is not None and publishing is not None:
                self._outlet.stop()
                await publishing


async def _taken_on(listening: socket.socket) -> None:
    """Wait until no connection stands in the kernel's queue: closing would cut off those clients,
    who have sent their requests already, where the next ones are refused and go elsewhere."""
    give_up_at, quiet = time.monotonic() + QUEUE_S_MAX, 0
    while quiet < ACCEPT_TURNS and time.monotonic() < give_up_at:
        quiet = 0 if select.select([listening], [], [], 0)[0] else quiet + 1
        await asyncio.sleep(0)


def _listen(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise Refused(
            f"port {port} on {host} is in use or not ours to use: {error.strerror}",
            remedy="stop what listens there, or set SEAWALL_PORT (0 takes any free port)",
            code="port-in-use",
        ) from error
    return listening


def check_port(settings: Settings) -> None:
    """Raise Refused where the gateway's port is in use, before anything is begun for it."""
    _listen(settings.host, settings.port).close()


def application_for(
    process: Process, gateway: Gateway, token: str, *, copy: str
) -> web.Application:
    """The aiohttp application with all routes, behind the token."""
    following = Following(process.traces.of("gateway", copy), copy=copy)
    application = web.Application(
        middlewares=[
            following.middleware,
            as_problems,
            TokenAuth(token).middleware,
            ids_in_paths,
        ],
        client_max_size=BODY_BYTES_MAX,
    )
    application[GATEWAY] = gateway
    application.add_routes(process.health.routes())
    modules = (
        openapi, stream, sites, plans, clean_points, jobs, kept, leftovers, lists, nodes, work
    )  # fmt: skip
    for module in modules:
        application.add_routes(module.ROUTES)
    return application


async def build(process: Process) -> GatewayPart:
    """The gateway of this process; its port is bound when this returns."""
    settings = process.settings
    listening = _listen(settings.host, settings.port)
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    token = ensure_token(settings.home)
    # What was projected is told in the projector's database, what was accepted in our own.
    pulse, news = Pulse(process.news("projector")), process.news("gateway")
    known = filter(process.databases.knows, OWNERS)
    owners = Owners({each: await process.reader(each, size_max=2) for each in known})
    queries = Queries(await process.reader("projector"), owners=owners, clock=process.clock)
    store = await process.store("gateway")
    commands = CommandBus(store, clock=process.clock, news=news)
    process.health.add("gateway", queries.problem)
    process.health.add("gateway-log", commands.problem)
    gateway = Gateway(
        settings=settings,
        commands=commands,
        queries=queries,
        past=Past(await process.log_readers(), clock=process.clock),
        forecasts=Forecasts(queries, owners),
        owners=owners,
        pulse=pulse,
    )
    copy_id = f"gateway-{os.getpid()}-{secrets.token_hex(4)}"
    outlet = None
    if (make := process.outlet("gateway")) is not None:
        outlet = LonelyOutlet(
            store, make, copy_id=copy_id, lease_s=settings.lease_s, clock=process.clock,
            news=news,
        )  # fmt: skip
        process.health.add("gateway-outlet", outlet.problem)
    application = application_for(process, gateway, token, copy=copy_id)
    part = GatewayPart(application, pulse, listening, outlet=outlet)
    endpoint = settings.home / "endpoint"
    temporary = endpoint.with_suffix(f".{os.getpid()}")
    temporary.write_text(f"http://{settings.host}:{part.port}\n", encoding="ascii")
    temporary.replace(endpoint)
    return part
