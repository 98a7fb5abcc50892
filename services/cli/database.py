"""The installation's databases, for commands that work on them directly and not through the API.

They are those of SEAWALL_DATABASE_URL and SEAWALL_DATABASE_URL_<SERVICE>. A service that has none
there is in the embedded one of SEAWALL_HOME: as it runs under `seawall up`, or else started for
the command and stopped after it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from shared.databases import Databases
from shared.embedded import DataFolderInUse, EmbeddedPostgres, running_dsn
from shared.errors import SeawallError
from shared.settings import Settings

STARTING_S_MAX: Final = 15.0
"""How long a server that another process is starting or stopping may take."""

_POLL_S: Final = 0.1


class NoDatabase(SeawallError):
    """The home folder holds no database yet."""

    code = "no-database"


@asynccontextmanager
async def reached(settings: Settings, *, create: bool = False) -> AsyncIterator[Databases]:
    """The services' databases, whose URLs stay valid inside the context.

    Raises NoDatabase where there is none, unless it is to be created.
    """
    if settings.databases.complete:
        yield settings.databases
        return
    folder = settings.home / "postgres"
    if not create and not (folder / "cluster" / "PG_VERSION").exists():
        raise NoDatabase(
            f"there is no database in {settings.home}",
            remedy="set SEAWALL_HOME or SEAWALL_DATABASE_URL, or start `seawall up` once",
        )
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    dsn, server = await _running_or_started(EmbeddedPostgres(folder), settings)
    try:
        yield settings.databases.with_default(dsn)
    finally:
        if server is not None:
            await asyncio.to_thread(server.stop)


async def _running_or_started(
    server: EmbeddedPostgres, settings: Settings
) -> tuple[str, EmbeddedPostgres | None]:
    """The URL of the server, and the server where we are its owner."""
    deadline = time.monotonic() + STARTING_S_MAX
    while True:
        if dsn := running_dsn(settings.home / "postgres"):
            return dsn, None
        try:
            return await asyncio.to_thread(server.start), server
        except DataFolderInUse:
            # Its owner is starting or stopping it just now.
            if time.monotonic() >= deadline:
                raise
            await asyncio.sleep(_POLL_S)
