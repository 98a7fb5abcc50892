"""A process that does one iteration and tells its steps, to be stopped or killed on the way.

`python -m tests.integration.replicator.stoppable HOME LEASE` prints one JSON line per step:
`staged` (with the generation), `mark` (each), `finalized`, or `failed` (with the error's code).
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec

from services.replicator.transfer import Mark
from shared.errors import SeawallError
from tests.integration.replicator import iteration
from tests.integration.replicator.iteration import SMALL_MARKS


def say(step: str, value: Any = None) -> None:
    sys.stdout.write(msgspec.json.encode({"step": step, "value": value}).decode() + "\n")
    sys.stdout.flush()


async def main(home: Path, lease: int) -> None:
    async def store(mark: Mark) -> None:
        say("mark", mark)

    async with iteration.open_sites(home) as sites:
        taken = await iteration.snapshot(sites, "it-1")
        try:
            staged = await iteration.generation(sites, "it-1", taken, lease=lease)
            say("staged", staged)
            since = await iteration.current_mark(sites)
            await iteration.transfer(
                sites, "it-1", taken, staged, since=since, store=store, settings=SMALL_MARKS
            )
            await iteration.finalize(sites, "it-1", taken, staged)
            say("finalized")
        except SeawallError as error:
            say("failed", error.code)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
