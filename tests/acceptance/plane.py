"""A control plane of six processes and its Postgres, whose parts can be killed and restarted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import asyncpg

from shared.databases import variable_of
from shared.embedded import EmbeddedPostgres
from tests.acceptance.crew import QUICK, SERVICES, Crew, answers, free_port, wait_answers
from tests.acceptance.service import Aim

READY_S_MAX = 30.0
SQL_S_MAX = 30.0


class Plane(Crew):
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
        super().__init__(root)
        self.postgres = server or EmbeddedPostgres(root / "postgres")
        self._database = root.name if server is not None else ""
        self._apart = dict(apart or {})
        self.port = free_port()
        self._aim = Aim(root / "kill-aim")
        self._aimed = 0
        self._environment = {
            **os.environ,
            **QUICK,
            "SEAWALL_KILL_AIM": str(self._aim.file),
            "SEAWALL_HOME": str(self.home),
            "SEAWALL_PORT": str(self.port),
            **(environment or {}),
        }

    @property
    def url(self) -> str:
        """Where the gateway answers."""
        return f"http://127.0.0.1:{self.port}"

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

    def start(self, name: str, *, label: str = "") -> None:
        """Start one service (tests/acceptance/service.py).

        A further copy of a service that runs needs a `label` of its own.
        """
        command = ("tests.acceptance.service", name)
        self.launch(label or name, *command, environment=self._environment)

    def start_all(self) -> list[str]:
        """Start every service that does not run; gives them."""
        running = self.running()
        started = [name for name in SERVICES if name not in running]
        for name in started:
            self.start(name)
        return started

    def aim(self, point: str) -> None:
        """From now on count: whoever makes the k-th commit or call of `point` dies of it."""
        self._aimed += 1
        self._aim.write(point, number=self._aimed)

    def aim_at_nothing(self) -> None:
        """Count no more."""
        self._aim.clear()

    def ready(self) -> bool:
        """Whether the gateway says so."""
        return answers(f"{self.url}/readyz")

    def wait_ready(self) -> None:
        """Return once the gateway is ready; raises TimeoutError with the log's end."""
        try:
            wait_answers(f"{self.url}/readyz", within_s=READY_S_MAX)
        except AssertionError as late:
            raise TimeoutError(f"{late}: {self.log_tail()}") from late

    def __exit__(self, *failure: object) -> None:
        self.end_all()
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
