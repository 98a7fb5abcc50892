"""`python -m tests.acceptance.service NAME`: one service that may kill itself at a chosen point.

SEAWALL_KILL_AFTER names the point: `commit:K` just after the K-th commit to a service's log,
`call:K` after the K-th mutating platform call has returned and before its outcome is committed.
K counts over all processes that share the file SEAWALL_KILL_COUNT, to which each adds a byte; the
one whose byte is the K-th dies. The services know nothing of it: what they call is wrapped here,
before they are built.
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

COUNTED = {
    "commit": ((PostgresStore, "commit"),),
    "call": ((Frame, "mutate"), (Frame, "ensure")),
}


class Countdown:
    """Kills this process with SIGKILL when the K-th of all that count together is its own."""

    def __init__(self, file: str, count: int) -> None:
        self._fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        self._count = count

    def tick(self) -> None:
        """It happened once more. An appended byte's position is its number: nobody waits."""
        os.write(self._fd, b".")
        if os.lseek(self._fd, 0, os.SEEK_CUR) == self._count:
            os.kill(os.getpid(), signal.SIGKILL)


def _wrapped(
    method: Callable[..., Awaitable[Any]], countdown: Countdown
) -> Callable[..., Awaitable[Any]]:
    async def counted(*arguments: Any, **options: Any) -> Any:
        result = await method(*arguments, **options)
        countdown.tick()
        return result

    return counted


def arm(point: str, file: str) -> None:
    """Wrap what the point counts."""
    kind, _, count = point.partition(":")
    countdown = Countdown(file, int(count))
    for owner, name in COUNTED[kind]:
        setattr(owner, name, _wrapped(getattr(owner, name), countdown))


def main() -> None:
    """Run the service named on the command line."""
    point = os.environ.pop("SEAWALL_KILL_AFTER", "")
    file = os.environ.pop("SEAWALL_KILL_COUNT", "")
    if point:
        arm(point, file)
    service = sys.argv[1]
    launch(service, importlib.import_module(f"services.{service}.main").build)


if __name__ == "__main__":
    main()
