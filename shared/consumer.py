"""Brings a service's inbox to its stepper: cursors, order, gaps, repeats, parked keys.

Only rows of partitions that this copy holds are read. A row of a type no handler wants moves
the cursor and nothing else; one of a type this build does not know is parked, never skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from schemas import registry
from schemas.envelope import Received, Recorded
from schemas.ids import PARTITIONS, key_of
from shared.bus.port import Bus
from shared.clock import Clock
from shared.errors import Transient
from shared.eventlog.port import EventStore, Fenced
from shared.fold import Input, ServiceDefinition
from shared.news import News, wait_news
from shared.stepper import BATCH_MAX, Stepper, park

log = structlog.get_logger()

LAG_TIMEOUT_S = 1.5
"""`/readyz` tells of a database that hangs within 2 s."""


class Consumer:
    """One task: reads what is past the cursors, decides it, moves on."""

    def __init__(
        self,
        definition: ServiceDefinition,
        store: EventStore,
        *,
        bus: Bus,
        stepper: Stepper,
        clock: Clock,
        news: News,
        owned: Callable[[], frozenset[int]],
    ) -> None:
        self._definition = definition
        self._store = store
        self._bus = bus
        self._stepper = stepper
        self._clock = clock
        self._owned = owned
        self._poll_s = news.poll_s
        self._news = news.subscribe({topic for _, topic in definition.subscriptions})
        self._wanted = {registry.name_of(handler.message) for handler in definition.handlers}
        self._positions: dict[tuple[str, str, int], int] = {}
        self._held: frozenset[int] = frozenset()
        self._stale = True
        self._ahead: asyncio.Task[Sequence[Recorded]] | None = None
        self.unknown_types: set[str] = set()
        self.reachable = True

    @property
    def positions(self) -> dict[tuple[str, str, int], int]:
        """Where this copy stands, per (source, topic, partition)."""
        return self._positions

    def wake(self) -> None:
        """Look again now: the share of partitions changed."""
        self._news.set()

    async def run(self) -> None:
        """Consume until cancelled."""
        try:
            await self._rounds()
        finally:
            await self._drop_ahead()

    async def _rounds(self) -> None:
        while True:
            try:
                more = await self._round()
                self.reachable = True
            except Transient as away:
                if self.reachable:
                    log.warning("bus.away", service=self._definition.name, error=str(away))
                self.reachable = False
                more = False
            except Fenced:
                self._stale = True
                more = True
            if not more:
                await wait_news(self._news, timeout_s=self._poll_s)

    async def _round(self) -> bool:
        owned = self._owned()
        if self._stale or owned != self._held:
            await self._drop_ahead()
            await self._read_cursors(owned)
        if not self._positions:
            return False
        rows = await self._next_rows()
        inputs = self._inputs(rows)
        if not inputs:
            return False
        if len(rows) == BATCH_MAX:
            self._read_ahead(inputs)
        await self._stepper.submit(inputs)
        self._positions.update(_reached(inputs))
        return True

    async def _next_rows(self) -> Sequence[Recorded]:
        if self._ahead is None:
            return await self._bus.fetch(self._positions, count_max=BATCH_MAX)
        ahead, self._ahead = self._ahead, None
        return await ahead

    def _read_ahead(self, inputs: Sequence[Input]) -> None:
        """Fetch what follows these inputs while they are committed: full batches come in a row,
        and the next should wait for the stepper, not the stepper for it. They are looked at
        (order, repeats, parked keys) only when these are through."""
        after = {**self._positions, **_reached(inputs)}
        self._ahead = asyncio.create_task(self._bus.fetch(after, count_max=BATCH_MAX))

    async def _drop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.cancel()
            await asyncio.gather(self._ahead, return_exceptions=True)
            self._ahead = None

    async def _read_cursors(self, owned: frozenset[int]) -> None:
        cursors = await self._store.cursors()
        self._stepper.parked_keys = {
            (parked.source, parked.topic, parked.key) for parked in await self._store.parked()
        }
        self._positions = {
            (source, topic, partition): cursors.get((source, topic, partition), (0, 0))[1]
            for source, topic in self._definition.subscriptions
            for partition in range(PARTITIONS)
            if partition in owned
        }
        self._held = owned
        self._stale = False

    def _inputs(self, rows: Sequence[Recorded]) -> list[Input]:
        """Rows that apply, in order; repeats are dropped, a gap stops its partition."""
        inputs = []
        reached = dict(self._positions)
        for row in rows:
            where = (row.source, row.topic, row.partition)
            if row.seq != reached.get(where, row.seq) + 1:
                continue
            reached[where] = row.seq
            inputs.append(self._input(row))
        return inputs

    def _input(self, row: Recorded) -> Input:
        position = (row.source, row.epoch, row.topic, row.partition, row.seq)
        if (row.source, row.topic, key_of(row.stream)) in self._stepper.parked_keys:
            return self._parked(row, position, "waits behind an earlier message of its key")
        try:
            if row.type not in self._wanted:
                registry.struct_of(row.type)
                return Input(position=position)
            body = registry.decode(row.type, row.schema_version, row.data)
        except registry.UnknownType as unknown:
            self.unknown_types.add(row.type)
            self._stepper.parked_keys.add((row.source, row.topic, key_of(row.stream)))
            return self._parked(row, position, str(unknown))
        received = Received(
            body=body,
            meta=row.meta,
            at=self._clock.now(),
            cause=row.event_id,
            stream=row.stream,
        )
        return Input(received=received, position=position)

    def _parked(
        self, row: Recorded, position: tuple[str, int, str, int, int], reason: str
    ) -> Input:
        parked = park(position, row.stream, reason=reason, at=self._clock.now())
        return Input(position=position, parked=parked)

    async def lag(self) -> int:
        """Rows that wait for this copy; raises Transient when the bus cannot be asked."""
        async with asyncio.timeout(LAG_TIMEOUT_S):
            return await self._bus.lag(self._positions)


def _reached(inputs: Sequence[Input]) -> dict[tuple[str, str, int], int]:
    """Where a consumer stands after inputs, for the partitions they are of."""
    reached = {}
    for each in inputs:
        if each.position is not None:
            source, _, topic, partition, seq = each.position
            reached[source, topic, partition] = seq
    return reached
