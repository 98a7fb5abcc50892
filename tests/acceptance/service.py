"""`python -m tests.acceptance.service NAME`: one service that may kill itself at a chosen point.

SEAWALL_KILL_AIM is a file that may hold a point (`Aim.write`): `commit:K` just after the K-th
commit to a service's log, `call:K` after the K-th mutating platform call has returned and before
its outcome is committed. K counts from when the point was written, over all processes that are
told of the same file: each adds a byte to a file beside it, and the one whose byte is the K-th
dies. Without the file nothing is counted. The services know nothing of it: what they call is
wrapped here, before they are built.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from shared.eventlog.postgres import PostgresStore
from shared.platforms.lab.calls import Frame
from shared.process import launch

COUNTED = {
    "commit": ((PostgresStore, "commit"),),
    "call": ((Frame, "mutate"), (Frame, "ensure")),
}


class Aim:
    """The point at which one of the processes that share `file` kills itself."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def write(self, point: str, *, number: int) -> None:
        """Aim at `commit:K` or `call:K`, in place of what was aimed at before.

        `number` is another one for each point: each is counted in a file of its own.
        """
        fresh = self.file.with_name(f"{self.file.name}.new")
        fresh.write_text(f"{point}:{number}")
        fresh.replace(self.file)

    def clear(self) -> None:
        """Aim at nothing."""
        self.file.unlink(missing_ok=True)

    def tick(self, kind: str) -> None:
        """A commit or a call happened. SIGKILL to this process if it is the one aimed at."""
        try:
            aimed, count, number = self.file.read_text().split(":")
        except FileNotFoundError:
            return
        if aimed != kind:
            return
        counts = f"{self.file}.{number}"
        fd = os.open(counts, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        try:
            # An appended byte's position is its number: nobody waits for anybody.
            os.write(fd, b".")
            if os.lseek(fd, 0, os.SEEK_CUR) == int(count):
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os.close(fd)


def _wrapped(
    method: Callable[..., Awaitable[Any]], aim: Aim, kind: str
) -> Callable[..., Awaitable[Any]]:
    async def counted(*arguments: Any, **options: Any) -> Any:
        result = await method(*arguments, **options)
        aim.tick(kind)
        return result

    return counted


def arm(aim: Aim) -> None:
    """Wrap what may be counted."""
    for kind, places in COUNTED.items():
        for owner, name in places:
            setattr(owner, name, _wrapped(getattr(owner, name), aim, kind))


def main() -> None:
    """Run the service named on the command line."""
    if file := os.environ.pop("SEAWALL_KILL_AIM", ""):
        arm(Aim(Path(file)))
    service = sys.argv[1]
    launch(service, importlib.import_module(f"services.{service}.main").build)


if __name__ == "__main__":
    main()
