"""This copy's share of the logical partitions, kept by a lease in the service's store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from shared.clock import Clock
from shared.errors import Transient
from shared.eventlog.port import EventStore

log = structlog.get_logger()

RENEW_SHARE = 3
"""Renewals per lease: two may fail before the share is lost."""


class PartitionShare:
    """The partitions this copy may work on right now; empty once its lease ran out unrenewed."""

    def __init__(
        self,
        store: EventStore,
        *,
        copy_id: str,
        lease_s: float,
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._copy_id = copy_id
        self._lease_s = lease_s
        self._clock = clock
        self._changed = changed
        self._held: frozenset[int] = frozenset()
        self._until = 0.0

    def owned(self) -> frozenset[int]:
        """The partitions held, by this process's monotonic clock."""
        return self._held if self._clock.monotonic() < self._until else frozenset()

    async def run(self) -> None:
        """Keep the share until cancelled; more often while it still grows or shrinks."""
        while True:
            settled = await self._renew()
            wait_s = self._lease_s / RENEW_SHARE
            await asyncio.sleep(wait_s if settled else min(wait_s, 0.25))

    async def _renew(self) -> bool:
        began = self._clock.monotonic()
        try:
            held = await self._store.balance(copy_id=self._copy_id, lease_s=self._lease_s)
        except Transient as away:
            log.debug("partitions.away", error=str(away))
            return False
        self._until = began + self._lease_s
        settled = held == self._held
        if not settled:
            self._held = held
            self._changed()
        return settled

    async def leave(self) -> None:
        """Give the share back at once, so that other copies need not wait for the lease."""
        self._held = frozenset()
        try:
            await self._store.leave(copy_id=self._copy_id)
        except Transient as away:
            log.info("partitions.leave-failed", error=str(away))
