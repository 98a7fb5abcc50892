"""This copy's share of the logical partitions, kept by a lease in the service's store.

A copy that comes, goes, or gives partitions up tells the others, so that what it gave up is taken
at once: without the word it would belong to nobody until the others renew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import structlog

from schemas.ids import PARTITIONS
from shared.clock import Clock
from shared.errors import Transient
from shared.eventlog.port import EventStore
from shared.news import News, shares_topic, wait_news

log = structlog.get_logger()

RENEW_SHARE = 3
"""Renewals per lease: two may fail before the share is lost."""

UNSETTLED_S = 0.25
"""The wait for the next renewal while shares move, or the store cannot be reached."""


class PartitionShare:
    """The partitions this copy may work on right now; empty once its lease ran out unrenewed."""

    def __init__(
        self,
        store: EventStore,
        *,
        copy_id: str,
        lease_s: float,
        clock: Clock,
        news: News,
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._news = news
        self._topic = shares_topic(store.service)
        self._others = news.subscribe((self._topic,))
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
        """Keep the share until cancelled; at once when another copy's share changes."""
        told = False
        while True:
            renewed = await self._renew()
            # Our own word wakes us too: where the store is away it would have us ask without end.
            if renewed == "changed" or (renewed == "same" and not told):
                self._news.poke((self._topic,))
                told = True
            wait_s = self._lease_s / RENEW_SHARE
            if renewed != "same":
                wait_s = min(wait_s, UNSETTLED_S)
            await wait_news(self._others, timeout_s=wait_s)

    async def _renew(self) -> Literal["same", "changed", "away"]:
        began = self._clock.monotonic()
        try:
            held = await self._store.balance(copy_id=self._copy_id, lease_s=self._lease_s)
        except Transient as away:
            log.debug("partitions.away", error=str(away))
            return "away"
        self._until = began + self._lease_s
        if held == self._held:
            return "same"
        self._held = held
        self._changed()
        return "changed"

    async def hand_over(self) -> None:
        """Leave, if other copies are there to take the share; `run` must have ended.

        For a copy that takes in no more but has work in hand for some seconds yet. A lone copy
        keeps its share: nobody waits for it, and what it decides yet is published at once.
        """
        if len(self._held) < PARTITIONS:
            await self.leave()

    async def leave(self) -> None:
        """Give the share back at once, so that other copies need not wait for the lease."""
        self._held = frozenset()
        try:
            await self._store.leave(copy_id=self._copy_id)
        except Transient as away:
            log.info("partitions.leave-failed", error=str(away))
        self._news.poke((self._topic,))
