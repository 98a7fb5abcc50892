"""One way to run a command that works on the database itself, not through the API."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NoReturn

import uvloop

from services.cli.database import reached
from services.cli.run import guarded
from shared.databases import Databases
from shared.settings import read_settings
from shared.telemetry.logs import configure_logs


def on_database(work: Callable[[Databases], Awaitable[int]]) -> NoReturn:
    """Run `work` with the databases that there are and exit with its code."""

    async def main() -> int:
        async with reached(read_settings()) as databases:
            return await work(databases)

    directly(main)


def directly(main: Callable[[], Coroutine[Any, Any, int]]) -> NoReturn:
    """Run `main` and exit with its code."""
    configure_logs("warning")
    sys.exit(guarded(lambda: uvloop.run(main())))
