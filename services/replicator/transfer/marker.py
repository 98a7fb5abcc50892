"""Stores intermediate marks while a transfer goes on: flush, then tell the caller.

Owns when a mark is due and that only one is under way. Does not decide what a mark is good for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from services.replicator.transfer.brake import Brake, Stopping
from services.replicator.transfer.frontier import Frontier
from services.replicator.transfer.records import Mark
from shared.errors import SeawallError, Transient


class Marker:
    """A mark every `every_bytes` bytes done. A slow flush makes marks rarer, never more."""

    def __init__(
        self,
        *,
        snapshot_id: str,
        generation_id: str,
        flush: Callable[[], Awaitable[None]],
        store: Callable[[Mark], Awaitable[None]],
        every_bytes: int,
        store_timeout_s: float,
        brake: Brake,
    ) -> None:
        self._snapshot_id = snapshot_id
        self._generation_id = generation_id
        self._flush = flush
        self._store = store
        self._every_bytes = every_bytes
        self._store_timeout_s = store_timeout_s
        self._brake = brake
        self._under_way = False
        self._marked_bytes = 0
        self.stored = 0
        self.missed = 0

    def mark(self, *, offset: int, chain: bytes) -> Mark:
        """The mark of a position of this transfer."""
        return Mark(
            snapshot_id=self._snapshot_id,
            generation_id=self._generation_id,
            offset=offset,
            chain=chain.hex(),
        )

    def passed(self, group: asyncio.TaskGroup, frontier: Frontier, *, bytes_done: int) -> None:
        """Begin a mark in `group` if one is due and none is under way."""
        if self._under_way or bytes_done - self._marked_bytes < self._every_bytes:
            return
        self._under_way = True
        self._marked_bytes = bytes_done
        # Taken before the flush: what the flush covers is complete here, and more follows.
        mark = self.mark(offset=frontier.offset, chain=frontier.chain)
        group.create_task(self._keep(mark))

    async def _keep(self, mark: Mark) -> None:
        try:
            with self._brake.idling():
                await self._flush()
                await self._offer(mark)
        except Stopping:
            pass
        except SeawallError as error:
            self._brake.pull(error)
        finally:
            self._under_way = False

    async def _offer(self, mark: Mark) -> None:
        """A mark that cannot be stored now is missed, not a reason to stop moving bytes."""
        try:
            async with asyncio.timeout(self._store_timeout_s):
                await self._store(mark)
        except (TimeoutError, Transient):
            self.missed += 1
        else:
            self.stored += 1
