"""What a service's log goes out by, where the bus is a broker: the port, and the part that runs
it for a service without an engine of its own (the gateway).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from shared.clock import Clock
from shared.eventlog.port import EventStore
from shared.news import News
from shared.partitions import PartitionShare


class Outlet(Protocol):
    """Publishes the log of one service, as far as this copy holds its partitions."""

    async def run(self) -> None:
        """Publish until cancelled."""

    async def drain(self) -> None:
        """Publish what is left, for a moment: the service ends."""

    def problem(self) -> str:
        """What keeps this copy from being ready, or ""."""


MakeOutlet = Callable[[EventStore, Callable[[], frozenset[int]]], Outlet]


class LonelyOutlet:
    """An outlet with a share of partitions of its own."""

    def __init__(
        self,
        store: EventStore,
        make: MakeOutlet,
        *,
        copy_id: str,
        lease_s: float,
        clock: Clock,
        news: News,
    ) -> None:
        self.share = PartitionShare(
            store, copy_id=copy_id, lease_s=lease_s, clock=clock, news=news,
            changed=lambda: None,
        )  # fmt: skip
        self._outlet = make(store, self.share.owned)
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Ask for an ordered end."""
        self._stop.set()

    async def run(self) -> None:
        """Publish until `stop`, then what is left, then give the partitions back."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.share.run()), group.create_task(self._outlet.run())]
            await self._stop.wait()
            for task in tasks:
                task.cancel()
        await self._outlet.drain()
        await self.share.leave()

    async def problem(self) -> str:
        """What keeps this copy from being ready, or ""."""
        return self._outlet.problem()
