"""Runs the steps of one disk in parallel lanes, as many as its crew has.

Owns the lanes, their buffers (one chunk each: the transfer's whole memory) and their orderly
end. Does not know what a step does: that is the `work` it is given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

from services.replicator.transfer.brake import Brake, Stopping
from services.replicator.transfer.frontier import Frontier
from services.replicator.transfer.plan import Step
from services.replicator.transfer.window import Window
from shared.errors import SeawallError

Work = Callable[[Step, bytearray], Awaitable[bytes | None]]
Passed = Callable[[asyncio.TaskGroup], None]


class Lanes:
    """Each lane takes a step, works on it with its own buffer, and takes the next.

    There are at most `crew.chunks` lanes, and no step begins while `window.chunks` steps from
    the oldest unfinished one on have begun. Since a lane does one thing at a time, the slowest
    of reading and writing sets the pace. `work` returns the digest of what the target then holds
    (None for a hole); `passed` is called after each step and may add tasks.
    """

    def __init__(
        self,
        *,
        window: Window,
        crew: Window,
        frontier: Frontier,
        brake: Brake,
        buffer_bytes: int,
        work: Work,
        passed: Passed,
    ) -> None:
        self._window = window
        self._crew = crew
        self._frontier = frontier
        self._brake = brake
        self._buffer_bytes = buffer_bytes
        self._work = work
        self._passed = passed
        self._in_flight = 0

    async def run(self, steps: Iterator[Step], *, stop_wait_s: float) -> None:
        """Work through `steps`. Raises the first failure after every lane has ended.

        When cancelled, waits at most `stop_wait_s` for the calls in hand, then cancels them.
        """
        work = asyncio.create_task(self._all_lanes(steps))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            self._brake.pull()
            await asyncio.wait({work}, timeout=stop_wait_s)
            raise
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait({work}, timeout=stop_wait_s)
        if self._brake.failure is not None:
            raise self._brake.failure

    async def _all_lanes(self, steps: Iterator[Step]) -> None:
        async with asyncio.TaskGroup() as group:
            self._widen(group, steps)

    def _widen(self, group: asyncio.TaskGroup, steps: Iterator[Step]) -> None:
        """Add a lane if there is room. Each lane that finds work adds the next."""
        if self._has_room(self._in_flight + 1):
            self._in_flight += 1
            group.create_task(self._lane(group, steps))

    def _has_room(self, lanes: int) -> bool:
        return (
            not self._brake.pulled
            and lanes <= self._crew.chunks
            and self._frontier.outstanding < self._window.chunks
        )

    async def _lane(self, group: asyncio.TaskGroup, steps: Iterator[Step]) -> None:
        # The lane that works on the slowest step always lives on, so that lanes which end here
        # for want of room are added again when that step is done.
        buffer: bytearray | None = None
        try:
            while self._has_room(self._in_flight) and (step := next(steps, None)) is not None:
                ticket = self._frontier.issue(step)
                self._widen(group, steps)
                if buffer is None:
                    buffer = bytearray(self._buffer_bytes)
                self._frontier.complete(ticket, await self._work(step, buffer))
                self._passed(group)
        except Stopping:
            pass
        except SeawallError as error:
            self._brake.pull(error)
        finally:
            self._in_flight -= 1
