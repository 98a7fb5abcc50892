"""Brings a service's inbox to its stepper: cursors, order, gaps, repeats, parked keys.

Only rows of partitions that this copy holds are read. A row of a type no handler wants moves
the cursor and nothing else; one of a type this build does not know is parked, never skipped.
A source whose log was restored (another epoch, or a head below the cursor) is not read any more
until a person has seen to it. What went wrong here is told by `problems`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

import structlog

from schemas import registry
from schemas.envelope import Recorded, received_of
from schemas.ids import PARTITIONS, key_of
from shared.bus.port import Bus
from shared.clock import Clock
from shared.errors import Transient
from shared.eventlog.port import EventStore, Fenced, Parked
from shared.fold import BEHIND, Input, ServiceDefinition
from shared.news import News, wait_news
from shared.parked import TakingUp, Unreadable, body_of, unknown_type
from shared.stepper import BATCH_MAX, Stepper, park
from shared.telemetry import ids

log = structlog.get_logger()

Where = tuple[str, str, int]
"""(source, topic, partition)."""

LOOK_S = 10.0
"""How often the sources are asked whether their logs are still the ones the cursors are of."""

GAP_REST_S = 0.5
"""How long a partition with a gap is left alone before it is read again from its cursor."""

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
        self._positions: dict[Where, int] = {}
        self._epochs: dict[Where, int] = {}
        self._look_at = 0.0
        self._parked_at = 0.0
        self._taking_up = TakingUp(definition, store, bus=bus, stepper=stepper, clock=clock)
        self._gaps: dict[Where, float] = {}
        self._held: frozenset[int] = frozenset()
        self._stale = True
        self._ahead: asyncio.Task[Sequence[Recorded]] | None = None
        self._stopped: dict[str, str] = {}
        self.reachable = True

    @property
    def positions(self) -> dict[Where, int]:
        """Where this copy stands, per (source, topic, partition)."""
        return self._positions

    def problems(self) -> list[str]:
        """What a person must know about: each is a reason not to be ready."""
        found = [self._stopped[source] for source in sorted(self._stopped)]
        if unknown := self._stepper.unknown_types:
            found.append(f"parked: this build does not know {sorted(unknown)}")
        if self._gaps:
            source, topic, partition = where = min(self._gaps)
            after = self._positions.get(where, 0)
            found.append(f"a row is missing after {after} of {topic}/{partition} from {source}")
        return found

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
                    log.warning("bus.away", error=str(away))
                self.reachable = False
                # What answers again may be another database than the one that went away.
                self._look_at = 0.0
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
        if self._clock.monotonic() >= self._look_at:
            await self._look()
        if not self._positions:
            return False
        if self._stepper.parked_keys and self._clock.monotonic() >= self._parked_at:
            self._parked_at = self._clock.monotonic() + self._poll_s
            if await self._taking_up.round(self._positions):
                # What is parked now is read from the store, which knows best.
                self._stale = True
                self._parked_at = 0.0
                return True
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
            return await self._bus.fetch(self._readable(), count_max=BATCH_MAX)
        ahead, self._ahead = self._ahead, None
        return await ahead

    def _readable(self) -> dict[Where, int]:
        """The positions to read from, but for those at rest: what lies past a gap must not fill
        every batch."""
        now = self._clock.monotonic()
        return {w: seq for w, seq in self._positions.items() if self._gaps.get(w, now) <= now}

    def _read_ahead(self, inputs: Sequence[Input]) -> None:
        """Fetch what follows these inputs while they are committed: full batches come in a row,
        and the next should wait for the stepper, not the stepper for it. They are looked at
        (order, repeats, parked keys) only when these are through."""
        after = {**self._readable(), **_reached(inputs)}
        self._ahead = asyncio.create_task(self._bus.fetch(after, count_max=BATCH_MAX))

    async def _drop_ahead(self) -> None:
        if self._ahead is not None:
            self._ahead.cancel()
            await asyncio.gather(self._ahead, return_exceptions=True)
            self._ahead = None

    async def _read_cursors(self, owned: frozenset[int]) -> None:
        cursors = await self._store.cursors()
        parked = await self._store.parked()
        # In the order of seq per topic: the first of a key is the last that is put in here.
        self._stepper.parked_keys = {
            (each.source, each.topic, each.key): each.seq for each in reversed(parked)
        }
        self._stepper.unknown_types = _unknown_types(parked)
        self._positions = {
            (source, topic, partition): cursors.get((source, topic, partition), (0, 0))[1]
            for source, topic in self._definition.subscriptions
            for partition in range(PARTITIONS)
            if partition in owned and source not in self._stopped
        }
        self._epochs = {where: epoch for where, (epoch, _) in cursors.items()}
        self._gaps.clear()
        self._look_at = 0.0
        self._held = owned
        self._stale = False

    async def _look(self) -> None:
        """Stop reading each source whose log is not the one that our cursors are of."""
        heads = await self._bus.heads(self._positions)
        for where, (epoch, seq) in heads.items():
            if where[0] in self._stopped:
                continue
            before = self._positions.get(where, 0)
            known = self._epochs.get(where, epoch) if before else epoch
            if epoch != known:
                self._stop_reading(where, f"is of epoch {epoch}, our cursor of {known}")
            elif seq < before:
                self._stop_reading(where, f"ends at {seq}, our cursor is at {before}")
        self._look_at = self._clock.monotonic() + LOOK_S

    def _stop_reading(self, where: Where, why: str) -> None:
        source, topic, partition = where
        self._stopped[source] = (
            f"stopped reading {source}: its log was restored ({topic}/{partition} {why});"
            f" restore {self._definition.name} to the same moment, then start it again"
        )
        log.error("bus.restored", reason=self._stopped[source])
        self._positions = {w: seq for w, seq in self._positions.items() if w[0] != source}

    def _inputs(self, rows: Sequence[Recorded]) -> list[Input]:
        """Rows that apply, in order; repeats are dropped, a gap stops its partition."""
        inputs = []
        reached = dict(self._positions)
        for row in rows:
            where = (row.source, row.topic, row.partition)
            if row.seq != reached.get(where, row.seq) + 1:
                if row.seq > reached.get(where, row.seq):
                    self._gaps[where] = self._clock.monotonic() + GAP_REST_S
                continue
            if row.epoch != self._epochs.setdefault(where, row.epoch):
                self._look_at = 0.0
                continue
            reached[where] = row.seq
            self._gaps.pop(where, None)
            inputs.append(self._input(row))
        return inputs

    def _input(self, row: Recorded) -> Input:
        position = (row.source, row.epoch, row.topic, row.partition, row.seq)
        if (row.source, row.topic, key_of(row.stream)) in self._stepper.parked_keys:
            return self._parked(row, position, BEHIND)
        try:
            body = body_of(row, self._wanted)
        except Unreadable as reason:
            return self._first_parked(row, position, str(reason))
        if body is None:
            return Input(position=position)
        received = received_of(row, body, at=self._clock.now())
        return Input(received=received, position=position)

    def _first_parked(
        self, row: Recorded, position: tuple[str, int, str, int, int], reason: str
    ) -> Input:
        self._stepper.parked_keys[row.source, row.topic, key_of(row.stream)] = row.seq
        log.error("bus.parked", stream=row.stream, reason=reason, **ids.of_meta(row.meta))
        each = self._parked(row, position, reason)
        self._stepper.unknown_types |= _unknown_types(filter(None, [each.parked]))
        return each

    def _parked(
        self, row: Recorded, position: tuple[str, int, str, int, int], reason: str
    ) -> Input:
        parked = park(position, row.stream, reason=reason, at=self._clock.now())
        return Input(position=position, parked=parked)

    async def lag(self) -> int:
        """Rows that wait for this copy; raises Transient when the bus cannot be asked."""
        async with asyncio.timeout(LAG_TIMEOUT_S):
            return await self._bus.lag(self._positions)


def _unknown_types(parked: Iterable[Parked]) -> set[str]:
    """Types (with versions) that messages were parked for and that this build cannot read."""
    return set(filter(None, map(unknown_type, parked)))


def _reached(inputs: Sequence[Input]) -> dict[Where, int]:
    """Where a consumer stands after inputs, for the partitions they are of."""
    reached = {}
    for each in inputs:
        if each.position is not None:
            source, _, topic, partition, seq = each.position
            reached[source, topic, partition] = seq
    return reached
