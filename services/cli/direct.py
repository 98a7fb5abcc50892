"""One way to run a command that works on the database itself, not through the API."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn

import uvloop

from services.cli.database import reached
from services.cli.run import guarded
from shared.databases import Databases
from shared.settings import read_settings
from shared.telemetry.logs import configure_logs


def on_database(
    work: Callable[[Databases], Awaitable[int]],
    *,
    before: Callable[[], object] = lambda: None,
    create: bool = False,
) -> NoReturn:
    """Run `work` with the databases and exit with its code; `create` one if there is none.

    `before` may refuse: no database is reached or made then.
    """
    configure_logs("warning")

    async def main() -> int:
        before()
        async with reached(read_settings(), create=create) as databases:
            return await work(databases)

    sys.exit(guarded(lambda: uvloop.run(main())))
