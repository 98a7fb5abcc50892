"""A control plane of six processes and its Postgres, whose parts can be killed and restarted."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Self

import asyncpg

from shared.databases import variable_of
from shared.embedded import EmbeddedPostgres
from tests.waiting import wait_until

SERVICES = ("gateway", "scheduler", "replicator", "recovery", "notifier", "projector")
LEASE_S = 2.0
HEARTBEAT_S = 0.5
READY_S_MAX = 30.0
SQL_S_MAX = 30.0


class Plane:
    """Six services on one embedded Postgres; use as a context.

    `server` is a running one to make a database of its own in, for those who start many planes
    one after another: making a cluster takes as long as starting the services. `apart` gives
    services databases of their own in it: by database, whose it is.
    """

    def __init__(
        self,
        root: Path,
        *,
        environment: Mapping[str, str] | None = None,
        server: EmbeddedPostgres | None = None,
        apart: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.home = root / "home"
        self.postgres = server or EmbeddedPostgres(root / "postgres")
        self._database = root.name if server is not None else ""
        self._apart = dict(apart or {})
        self.log = root / "services.log"
        self.port = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {
            **os.environ,
            "SEAWALL_KILL_COUNT": str(root / "kill-count"),
            "SEAWALL_HOME": str(self.home),
            "SEAWALL_PORT": str(self.port),
            "SEAWALL_LEASE": str(LEASE_S),
            "SEAWALL_HEARTBEAT": str(HEARTBEAT_S),
            "SEAWALL_CALL_TIMEOUT": "1",
            "SEAWALL_LOG_LEVEL": "warning",
            # Where a test run forbids it, every start would compile every module again.
            "PYTHONDONTWRITEBYTECODE": "",
            **(environment or {}),
        }

    @property
    def url(self) -> str:
        """Where the gateway answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def token(self) -> str:
        """The admin token."""
        return (self.home / "token").read_text().strip()

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True)
        url = self.postgres.start()
        if self._database:
            asyncio.run(_execute(url, f'create database "{self._database}"'))
            url = self.postgres.dsn(self._database)
        if not self._apart:
            self._environment["SEAWALL_DATABASE_URL"] = url
        for database, services in self._apart.items():
            asyncio.run(_execute(url, f'create database "{database}"'))
            for name in services:
                self._environment[variable_of(name)] = self.postgres.dsn(database)
        return self

    @property
    def environment(self) -> Mapping[str, str]:
        """What its services are started with, as a command line of its operator would be."""
        return self._environment

    def start(self, name: str, *, kill_after: str = "", label: str = "") -> None:
        """Start one service; `kill_after` arms it (tests/acceptance/service.py).

        A further copy of a service that runs needs a `label` of its own.
        """
        environment = {**self._environment, "SEAWALL_KILL_AFTER": kill_after}
        with self.log.open("ab") as log:
            self.processes[label or name] = subprocess.Popen(
                [sys.executable, "-m", "tests.acceptance.service", name],
                env=environment,
                stdout=log,
                stderr=log,
            )

    def start_all(self, *, kill_after: str = "") -> None:
        """Start every service that does not run; `kill_after` arms them together."""
        for name in SERVICES:
            if name not in self.running():
                self.start(name, kill_after=kill_after)

    def running(self) -> set[str]:
        """The services that run."""
        return {name for name, process in self.processes.items() if process.poll() is None}

    def killed(self) -> set[str]:
        """The services that died by SIGKILL and were not started again."""
        code = -signal.SIGKILL
        return {name for name, process in self.processes.items() if process.poll() == code}

    def kill(self, names: Collection[str]) -> None:
        """SIGKILL services and reap them."""
        for name in names:
            self.processes[name].kill()
        for name in names:
            self.processes[name].wait()

    def signal(self, label: str, number: signal.Signals) -> None:
        """Send a running service a signal."""
        self.processes[label].send_signal(number)

    def ready(self) -> bool:
        """Whether the gateway says so."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def wait_ready(self) -> None:
        """Return once the gateway is ready; raises TimeoutError with the log's end."""
        try:
            wait_until(self.ready, "the gateway is ready", within_s=READY_S_MAX)
        except AssertionError as late:
            raise TimeoutError(f"{late}: {self.log_tail()}") from late

    def log_tail(self, count: int = 4000) -> str:
        """The end of what the services logged."""
        return self.log.read_text(errors="replace")[-count:] if self.log.exists() else ""

    def __exit__(self, *failure: object) -> None:
        for name in self.running():
            self.processes[name].send_signal(signal.SIGTERM)
            self.processes[name].send_signal(signal.SIGCONT)
        for process in self.processes.values():
            try:
                process.wait(timeout=12)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._database:
            drop = f'drop database "{self._database}" with (force)'
            asyncio.run(_execute(self.postgres.start(), drop))
        else:
            self.postgres.stop()


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=SQL_S_MAX, command_timeout=SQL_S_MAX)
    try:
        await connection.execute(statement)
    finally:
        await connection.close(timeout=SQL_S_MAX)


def free_port() -> int:
    """A port of loopback that nobody listens on at this moment."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
