"""`seawall up`: the whole control plane in one process, with its own Postgres if none is given.

Owns the home folder's lock and the embedded server's life. Services are built by their own
`main.py`; nothing here knows what they do.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from services.gateway.main import check_port
from shared.databases import Databases
from shared.embedded import EmbeddedPostgres
from shared.errors import Refused, SeawallError
from shared.process import Part, Process, Serving, health_served, start
from shared.settings import Settings, read_settings

log = structlog.get_logger()

ALL_SERVICES = ("gateway", "scheduler", "replicator", "recovery", "notifier", "projector")
"""In the order they are built."""

SUPERVISE_S = 0.5
READY_S_MAX = 10.0
READY_POLL_S = 0.02


def up(services: Sequence[str] = ()) -> int:
    """Run until SIGTERM or Ctrl-C; gives the process's exit code.

    2 for a service there is not, 3 where the home or the port is in use, 1 for anything else that
    stops it from starting.
    """
    try:
        settings = read_settings()
        names = _chosen(services)
        with _home_lock(settings.home):
            if "gateway" in names:
                # A database that is made and started only to be stopped again takes seconds.
                check_port(settings)
            return _run(settings, names)
    except SeawallError as error:
        sys.stderr.write(f"seawall: {error.message}\n")
        if error.remedy:
            sys.stderr.write(f"  {error.remedy}\n")
        if error.code == "unknown-service":
            return 2
        return 3 if isinstance(error, Refused) else 1


def _chosen(services: Sequence[str]) -> Sequence[str]:
    unknown = sorted(set(services) - set(ALL_SERVICES))
    if unknown:
        raise Refused(
            f"no service is named {', '.join(unknown)}",
            remedy=f"choose from {', '.join(ALL_SERVICES)}",
            code="unknown-service",
        )
    return [name for name in ALL_SERVICES if not services or name in services]


@contextmanager
def _home_lock(home: Path) -> Iterator[None]:
    """One control plane per home; the kernel frees the lock however the process ends."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (home / "seawall.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(
                f"another seawall runs on {home}",
                remedy="stop it first, or set SEAWALL_HOME to another folder",
                code="home-in-use",
            ) from None
        yield


def _run(settings: Settings, names: Sequence[str]) -> int:
    began = time.monotonic()
    databases = settings.databases
    server = None if databases.complete else EmbeddedPostgres(settings.home / "postgres")
    if server is not None:
        databases = databases.with_default(server.start())
    try:
        start(settings, _serve(settings, names, databases, server, began))
    finally:
        if server is not None:
            server.stop()
    return 0


async def _serve(
    settings: Settings,
    names: Sequence[str],
    databases: Databases,
    server: EmbeddedPostgres | None,
    began: float,
) -> None:
    async with Process(settings, databases, runs=names) as process:
        parts: list[Part] = []
        for name in names:
            parts.append(await importlib.import_module(f"services.{name}.main").build(process))
        supervisor = asyncio.create_task(_supervise(server)) if server else None
        try:
            async with health_served(process, parts) as health:
                running = asyncio.create_task(process.run(parts))
                await _until_ready(process, running)
                _announce(settings, parts, server, health, time.monotonic() - began)
                await running
        finally:
            if supervisor is not None:
                supervisor.cancel()


async def _until_ready(process: Process, running: asyncio.Task[None]) -> None:
    """Wait until every check passes, at most READY_S_MAX: then the announcement comes anyway."""
    deadline = time.monotonic() + READY_S_MAX
    while not running.done() and time.monotonic() < deadline:
        if not await process.health.problems():
            return
        await asyncio.sleep(READY_POLL_S)


def _announce(
    settings: Settings,
    parts: Sequence[Part],
    server: EmbeddedPostgres | None,
    health: str,
    took_s: float,
) -> None:
    """Where the API answers or, without a gateway, what runs; where health is, if elsewhere."""
    port = next((part.port for part in parts if isinstance(part, Serving)), None)
    api = f"http://{settings.host}:{port}"
    where = api if port is not None else ",".join(part.name for part in parts)
    apart = "" if health == api else f"health {health}  "
    database = "embedded" if server else "external"
    sys.stdout.write(
        f"seawall ready  {where}  {apart}home {settings.home}  "
        f"postgres {database}  bus {settings.bus}  {took_s:.1f} s\n"
    )
    sys.stdout.flush()


async def _supervise(server: EmbeddedPostgres) -> None:
    """Start the embedded server again if it dies: the services wait for it meanwhile."""
    while True:
        await asyncio.sleep(SUPERVISE_S)
        if not server.alive:
            log.error("postgres.died", action="starting it again")
            try:
                await asyncio.to_thread(server.start)
            except SeawallError as error:
                log.error("postgres.start-failed", error=error.message, remedy=error.remedy)
