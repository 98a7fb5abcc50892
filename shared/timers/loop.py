"""Fires due timers of the partitions this copy holds, up to a batch per step.

One whose message a newer build wrote is put off, and told: that build fires it in its turn.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from schemas import registry
from schemas.envelope import Received
from shared.clock import Clock
from shared.errors import Transient
from shared.eventlog.port import DueTimer, EventStore
from shared.fold import Input
from shared.news import News, timers_topic, wait_news
from shared.stepper import BATCH_MAX, Stepper

log = structlog.get_logger()

WAIT_MAX_S = 1.0
"""Timers set by another copy are seen this late at worst, where news of them was lost."""


class TimerLoop:
    """One task: reads due timers, decides them in one step, sleeps until the next."""

    def __init__(
        self,
        store: EventStore,
        *,
        stepper: Stepper,
        clock: Clock,
        news: News,
        owned: Callable[[], frozenset[int]],
    ) -> None:
        self._store = store
        self._stepper = stepper
        self._clock = clock
        self._owned = owned
        self._wait_max_s = max(WAIT_MAX_S, news.poll_s)
        self._news = news.subscribe((timers_topic(store.service),))

    async def run(self) -> None:
        """Fire timers until cancelled."""
        while True:
            wait_s: float | None
            try:
                wait_s = await self._round()
            except Transient as away:
                log.debug("timers.away", error=str(away))
                wait_s = self._wait_max_s
            if wait_s is None or wait_s > 0:
                wait_s = min(wait_s or self._wait_max_s, self._wait_max_s)
                await wait_news(self._news, timeout_s=wait_s)

    async def _round(self) -> float | None:
        owned = sorted(self._owned())
        if not owned:
            return self._wait_max_s
        due = await self._store.due_timers(owned, count_max=BATCH_MAX)
        if not due:
            return await self._store.next_timer_in_s(owned)
        await self._stepper.submit([self._input(timer) for timer in due])
        return 0.0

    def _input(self, timer: DueTimer) -> Input:
        try:
            body = registry.decode(timer.type, timer.schema_version, timer.data)
        except registry.UnknownType as unknown:
            return Input(fired=timer, unknown=unknown)
        received = Received(
            body=body,
            meta=timer.meta,
            at=self._clock.now(),
            cause=f"timer.{timer.stream}.{timer.name}.{timer.token}",
            stream=timer.stream,
        )
        return Input(received=received, fired=timer)
