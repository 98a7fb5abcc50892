"""`python -m shared.testing.counter_process`: one copy of the counter service, for trials.

Reads the settings that every process reads. Ends at SIGTERM as services do. With COUNTER_IDLE
set it decides and works nothing off.
"""

from __future__ import annotations

import os

import msgspec

from shared.effects.policy import STEP
from shared.effects.running import EffectRun
from shared.migrations import migrate
from shared.process import Process, launch
from shared.service import Service
from shared.testing.counter import DEFINITION, SERVICE


class Count:
    """The handler of a step: it does nothing, in a worker."""

    policy = STEP
    resumable = True

    async def run(self, effect: EffectRun) -> msgspec.Struct | None:
        """Return the step's number."""
        result: msgspec.Struct = effect.payload
        return result


async def build(process: Process) -> Service:
    """The counter service of this process."""
    await migrate(process.databases.of(SERVICE), SERVICE)
    service = await process.service(DEFINITION, sources=("gateway", SERVICE))
    if "COUNTER_IDLE" not in os.environ:
        service.work(
            await process.queue(SERVICE),
            {"count": Count()},
            heartbeat_s=process.settings.heartbeat_s,
        )
    return service


if __name__ == "__main__":
    launch(SERVICE, build)
