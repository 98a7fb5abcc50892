"""`python -m tests.acceptance.service NAME`: one service that may kill itself at a chosen point.

SEAWALL_KILL_AFTER names the point: `commit:K` just after the K-th commit of this process,
`call:K` after its K-th mutating platform call has returned and before its outcome is committed.
The services know nothing of it: what they call is wrapped here, before they are built.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from shared.eventlog.postgres import PostgresStore
from shared.platforms.lab.calls import Frame
from shared.process import launch

WRAPPED = {"commit": (PostgresStore, "commit"), "call": (Frame, "mutate")}


class Countdown:
    """Kills this process with SIGKILL once something has happened K times."""

    def __init__(self, count: int) -> None:
        self._left = count

    def tick(self) -> None:
        """It happened again."""
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _wrapped(
    method: Callable[..., Awaitable[Any]], countdown: Countdown
) -> Callable[..., Awaitable[Any]]:
    async def counted(*arguments: Any, **options: Any) -> Any:
        result = await method(*arguments, **options)
        countdown.tick()
        return result

    return counted


def arm(point: str) -> None:
    """Wrap what the point counts."""
    kind, _, count = point.partition(":")
    owner, name = WRAPPED[kind]
    setattr(owner, name, _wrapped(getattr(owner, name), Countdown(int(count))))


def main() -> None:
    """Run the service named on the command line."""
    if point := os.environ.pop("SEAWALL_KILL_AFTER", ""):
        arm(point)
    launch(importlib.import_module(f"services.{sys.argv[1]}.main").build)


if __name__ == "__main__":
    main()
