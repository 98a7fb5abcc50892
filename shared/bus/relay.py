"""Publishes a service's log on a broker, in the order of seq, at least once.

Each copy of a service relays the partitions it holds. The mark of a partition follows what the
broker has acknowledged, by compare-and-set and a little late: what was published past it is
published again by the next holder, and dropped by the readers' cursors. After a failed send
nothing more is sent until everything starts again from the marks, so n + 1 never stands in the
topic without n before it. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import structlog

from schemas.envelope import Recorded
from shared.clock import Clock
from shared.errors import Transient
from shared.eventlog.port import EventStore, Fenced
from shared.news import News, wait_news

log = structlog.get_logger()

Head = tuple[str, int]
"""(topic, partition)."""

BATCH_MAX = 1_000
MARK_EVERY_S = 0.1
"""How late a mark may be: a commit for each batch would cost as much as publishing it."""

ROUND_EVERY_S = 0.01
"""Rounds of a busy log: each costs a look at all heads and a request per broker, so several
commits share one. The first row after a rest does not wait."""

BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0)


class Publisher(Protocol):
    """The way out to a broker."""

    async def publish(self, rows: Sequence[Recorded]) -> None:
        """Return when all rows are stored by the broker, in order per (topic, partition).

        Raises Transient: any of them may be stored then, and none of them need be.
        """


class Relay:
    """One task of one copy. `published` counts rows, for metrics."""

    def __init__(
        self,
        store: EventStore,
        publisher: Publisher,
        *,
        topics: Collection[str],
        clock: Clock,
        news: News,
        owned: Callable[[], frozenset[int]],
    ) -> None:
        self._store = store
        self._publisher = publisher
        self._topics = tuple(sorted(topics))
        self._clock = clock
        self._owned = owned
        self._poll_s = news.poll_s
        self._news = news.subscribe(self._topics)
        self._held: frozenset[int] = frozenset()
        self._marked: dict[Head, int] = {}
        self._sent: dict[Head, int] = {}
        self._mark_at = 0.0
        self._stale = True
        self._turn = 0
        self.reachable = True
        self.published = 0

    async def run(self) -> None:
        """Publish until cancelled."""
        failures = 0
        while True:
            began = self._clock.monotonic()
            try:
                more = await self.round()
                failures = 0
                self.reachable = True
            except Fenced:
                self.stand_again()
                more = True
            except Transient as away:
                log_as = log.warning if self.reachable else log.debug
                log_as("relay.away", service=self._store.service, error=away.message)
                self.stand_again()
                self.reachable = more = False
                await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                failures += 1
            if not more:
                await wait_news(self._news, timeout_s=self._poll_s)
            elif (early_s := began + ROUND_EVERY_S - self._clock.monotonic()) > 0:
                await asyncio.sleep(early_s)

    def stand_again(self) -> None:
        """Begin the next round from the marks: a send failed, or another copy moved one."""
        self._stale = True

    async def round(self) -> bool:
        """Publish one batch; gives whether there may be more. Raises Transient, Fenced."""
        owned = self._owned()
        if self._stale or owned != self._held:
            await self._stand(owned)
        rows = await self._read()
        if rows:
            await self._publisher.publish(rows)
            self._sent |= {(row.topic, row.partition): row.seq for row in rows}
            self.published += len(rows)
        if not rows or self._clock.monotonic() >= self._mark_at:
            await self.mark()
        return bool(rows)

    async def mark(self) -> None:
        """Make durable how far has been published. Raises Fenced, Transient."""
        moves = {
            head: (self._marked.get(head, 0), seq)
            for head, seq in self._sent.items()
            if seq > self._marked.get(head, 0)
        }
        if moves:
            await self._store.mark_published(moves)
            self._marked |= {head: after for head, (_, after) in moves.items()}
        self._mark_at = self._clock.monotonic() + MARK_EVERY_S

    async def again(self, topic: str, partition: int, seq: int) -> None:
        """A reader misses a row that was published: publish from there again."""
        await self._store.publish_again(topic, partition, seq)
        self.stand_again()
        self._news.set()

    async def lag(self) -> int:
        """Rows of this copy's partitions that are not published yet."""
        heads = await self._store.heads(self._topics)
        held = self._owned()
        return sum(
            max(seq - self._sent.get((topic, partition), 0), 0)
            for (topic, partition), seq in heads.items()
            if partition in held
        )

    async def _stand(self, owned: frozenset[int]) -> None:
        """Begin anew from the marks, with the partitions that this copy holds now."""
        marks = await self._store.published()
        self._marked = {head: seq for head, seq in marks.items() if head[1] in owned}
        self._sent = dict(self._marked)
        self._held, self._stale = owned, False

    async def _read(self) -> list[Recorded]:
        """What is not published yet, partition after partition, beginning with another each time:
        one with a backlog must not hold up the others."""
        heads = await self._store.heads(self._topics)
        behind = sorted(
            head
            for head, seq in heads.items()
            if head[1] in self._held and seq > self._sent.get(head, 0)
        )
        if not behind:
            return []
        self._turn = (self._turn + 1) % len(behind)
        rows: list[Recorded] = []
        for topic, after in self._by_topic(behind[self._turn :] + behind[: self._turn]).items():
            if len(rows) < BATCH_MAX:
                rows += await self._store.read(topic, after, count_max=BATCH_MAX - len(rows))
        return rows

    def _by_topic(self, heads: Sequence[Head]) -> Mapping[str, Mapping[int, int]]:
        found: dict[str, dict[int, int]] = {}
        for topic, partition in heads:
            found.setdefault(topic, {})[partition] = self._sent.get((topic, partition), 0)
        return found
