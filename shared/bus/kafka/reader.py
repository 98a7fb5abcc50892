"""The reading side of the bus on Kafka: brings rows past positions, as every bus does.

Partitions are assigned by us, never by a group: who reads what follows from the leases that also
decide who commits. A pump keeps a bounded number of rows of each partition; rows stay until the
reader's positions have passed them, so asking again brings them again. Where to begin is a hint
that is kept now and then, never the truth; the cursors in the consumer's database are that. Where
rows are missing after the hint, the partition is read from its beginning, and if they are not
there either, their source is asked to publish them again.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.envelope import Recorded
from shared.bus.kafka.binding import Unreadable, to_row
from shared.bus.kafka.control import Again, Control, stop
from shared.bus.kafka.hints import Hints
from shared.bus.kafka.settings import KafkaSettings
from shared.bus.port import Positions
from shared.errors import Transient

log = structlog.get_logger()

Where = tuple[str, str, int]

BUFFERED_MAX: Final = 20_000
"""Rows kept of all partitions together, shared evenly; at least PER_PARTITION_MIN of each."""

PER_PARTITION_MIN: Final = 64
PUMP_COUNT_MAX: Final = 1_000
PUMP_WAIT_MS: Final = 100
HINT_EVERY_S: Final = 5.0
PASSED_MAX: Final = 64
"""Batches that a reader may go back: one that lost its partition reads its cursors again."""

UNWANTED_S: Final = 5.0
"""How long a partition that is not asked for stays assigned: one that rests comes back soon."""

ASK_EVERY_S: Final = 10.0
RECONNECT_S: Final = 1.0
_START_S: Final = 10.0
_FETCH_BYTES: Final = 8 * 1024 * 1024
_PARTITION_BYTES: Final = 1024 * 1024


class _Queue(msgspec.Struct):
    """Rows of one source in one partition. `floor`: the reader is past it; `last`: newest seen.

    `passed` are (seq, offset) pairs: what comes after the seq stands at the offset or later.
    """

    rows: deque[tuple[int, Recorded]]
    passed: deque[tuple[int, int]]
    epoch: int = 0
    last: int = 0
    floor: int = 0

    def offset_after(self, seq: int) -> int | None:
        """Where to read again from to find what comes after `seq`; None: from the beginning."""
        return next((offset for floor, offset in reversed(self.passed) if floor <= seq), None)


def _empty(floor: int = 0) -> _Queue:
    return _Queue(deque(), deque(maxlen=PASSED_MAX), floor=floor)


class _Gap(msgspec.Struct):
    """What comes after `after` is missing, though the partition was read from its beginning."""

    after: int
    asked_at: float = 0.0


class KafkaBus:
    """The bus of one consumer in one process; `run` is its pump.

    `wake` is called with topics that have something new.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        name: str,
        control: Control,
        hints: Hints,
        wake: Callable[[Collection[str]], None],
    ) -> None:
        self._settings = settings
        self._name = name
        self._hints = hints
        self._control = control
        self._wake = wake
        self._consumer: AIOKafkaConsumer | None = None
        self._queues: dict[Where, _Queue] = {}
        self._in: defaultdict[TopicPartition, set[Where]] = defaultdict(set)
        self._buffered: defaultdict[TopicPartition, int] = defaultdict(int)
        self._next: dict[TopicPartition, int] = {}
        self._safe: dict[TopicPartition, int] = {}
        self._assigned: frozenset[TopicPartition] = frozenset()
        self._asked: frozenset[Where] = frozenset()
        self._wanted: dict[TopicPartition, float] = {}
        self._rewinds: dict[TopicPartition, int | None] = {}
        self._gaps: dict[Where, _Gap] = {}
        self._hint_at = 0.0
        self._turn = 0
        self._taken = asyncio.Event()
        self._asking: set[asyncio.Task[None]] = set()

    # What a reader asks.

    async def fetch(self, positions: Positions, *, count_max: int) -> Sequence[Recorded]:
        """Rows past the positions that have arrived; see the port."""
        self._want(positions)
        rows: list[Recorded] = []
        for where in self._in_turn(positions):
            after = positions[where]
            queue = self._queue(where, floor=after)
            if after < queue.floor:
                self._rewind(where, after, to=queue.offset_after(after))
                continue
            self._drop(where, queue, after)
            if not queue.rows:
                continue
            if queue.rows[0][1].seq > after + 1:
                self._missing(where, after)
            else:
                self._gaps.pop(where, None)
            rows += (row for _, row in islice(queue.rows, count_max - len(rows)))
        return rows

    async def heads(self, positions: Positions) -> Mapping[Where, tuple[int, int]]:
        """(epoch, last seq) as the sources told and as read since; see the port.

        The word of a source is some seconds old. So a head is never below the reader's own
        position, unless the source says that its log was restored.
        """
        found: dict[Where, tuple[int, int]] = {}
        for where, position in positions.items():
            told = self._control.told.get(where[0])
            if told is None:
                continue
            head = told.heads.get(f"{where[1]}/{where[2]}", 0)
            queue = self._queues.get(where)
            if not told.restored:
                seen = queue.last if queue is not None and queue.epoch == told.epoch else 0
                head = max(head, seen, position)
            found[where] = (told.epoch, head)
        return found

    async def lag(self, positions: Positions) -> int:
        """Rows past the positions: those that have arrived, and what the broker has after them."""
        unread = await self.unread(positions)
        return unread + sum(
            max(queue.last - max(position, queue.floor), 0)
            for where, position in positions.items()
            if (queue := self._queues.get(where)) is not None
        )

    async def unread(self, positions: Positions) -> int:
        """Messages of the positions' partitions that have not arrived yet. Raises Transient."""
        consumer = self._consumer
        partitions = {self._partition(where) for where in positions}
        begun = self._next.keys() & self._assigned - self._rewinds.keys()
        if consumer is None or not partitions <= begun:
            raise Transient("reading from Kafka has not begun", code="kafka-unreachable")
        try:
            ends = await consumer.end_offsets(list(partitions)) if partitions else {}
        except (KafkaError, OSError) as error:
            raise Transient(
                f"Kafka cannot be asked: {type(error).__name__}", code="kafka-unreachable"
            ) from error
        return sum(max(end - self._next[p], 0) for p, end in ends.items())

    # The pump.

    async def run(self) -> None:
        """Read ahead until cancelled; reconnects."""
        while True:
            try:
                await self._session()
            except (KafkaError, OSError, Transient) as lost:
                log.debug("kafka.reader-lost", consumer=self._name, error=str(lost))
                await asyncio.sleep(RECONNECT_S)

    async def _session(self) -> None:
        consumer = AIOKafkaConsumer(
            **self._settings.client(self._name),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_bytes=_FETCH_BYTES,
            max_partition_fetch_bytes=_PARTITION_BYTES,
            fetch_max_wait_ms=PUMP_WAIT_MS,
        )
        try:
            async with asyncio.timeout(_START_S):
                await consumer.start()
            self._consumer, self._assigned = consumer, frozenset()
            while True:
                await self._assign(consumer)
                await self._pump(consumer)
                await self._hint(consumer)
        finally:
            self._consumer = None
            await stop(consumer)

    async def _pump(self, consumer: AIOKafkaConsumer) -> None:
        share = max(BUFFERED_MAX // max(len(self._assigned), 1), PER_PARTITION_MIN)
        room = [each for each in self._assigned if self._buffered[each] < share]
        if not room:
            await _within(self._taken, timeout_s=PUMP_WAIT_MS / 1000)
            return
        batches = await consumer.getmany(
            *room, timeout_ms=PUMP_WAIT_MS, max_records=PUMP_COUNT_MAX
        )
        for partition, messages in batches.items():
            for message in messages:
                self._arrived(partition, message)
        if batches:
            self._wake({p.topic.removeprefix(self._settings.prefix) for p in batches})

    def _arrived(self, partition: TopicPartition, message: Any) -> None:
        self._next[partition] = message.offset + 1
        try:
            topic = partition.topic.removeprefix(self._settings.prefix)
            row = to_row(topic, partition.partition, message.value, message.headers)
        except Unreadable as strange:
            log.error("kafka.unreadable", offset=message.offset, error=str(strange))
            return
        where = (row.source, row.topic, row.partition)
        queue = self._queue(where)
        if row.epoch > queue.epoch:
            self._buffered[partition] -= len(queue.rows)
            queue.rows.clear()
            queue.epoch, queue.last = row.epoch, 0
        if row.epoch == queue.epoch and self._fills_gap(where, row.seq):
            self._buffered[partition] -= len(queue.rows)
            queue.rows.clear()
            queue.last = row.seq - 1
        if row.epoch < queue.epoch or row.seq <= max(queue.last, queue.floor):
            return  # A repeat, or a row of a log that was restored since.
        queue.rows.append((message.offset, row))
        queue.last = row.seq
        self._buffered[partition] += 1

    def _fills_gap(self, where: Where, seq: int) -> bool:
        """Whether its source publishes again what was missing: the rows after it follow."""
        gap = self._gaps.get(where)
        return gap is not None and seq == gap.after + 1

    async def _assign(self, consumer: AIOKafkaConsumer) -> None:
        """Assign what is asked for, each partition where it was; carry out what must be reread."""
        now = time.monotonic()
        wanted = {p for p, asked_at in self._wanted.items() if now - asked_at < UNWANTED_S}
        if wanted - self._assigned or self._assigned - wanted:
            for gone in self._assigned - wanted:
                self._forget(gone)
            consumer.assign(sorted(wanted))
            self._assigned = frozenset(wanted)
            async with asyncio.timeout(_START_S):
                self._next |= await self._begin(consumer, wanted - self._next.keys())
            for partition in wanted:
                consumer.seek(partition, self._next[partition])
        rewinds, self._rewinds = self._rewinds, {}
        for partition, offset in rewinds.items():
            if partition in self._assigned:
                await self._seek(consumer, partition, offset)

    async def _begin(
        self, consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Where to begin: at the hint that this or another copy left, else at the beginning."""
        if not partitions:
            return {}
        hints = {self._tp(*place): n for place, n in (await self._hints.load()).items()}
        found = {p: hints[p] for p in partitions if p in hints}
        if rest := [p for p in partitions if p not in hints]:
            found |= await consumer.beginning_offsets(rest)
        return found

    async def _seek(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, offset: int | None
    ) -> None:
        for where in self._in[partition]:
            self._queues[where] = _empty(self._queues[where].floor)
        self._buffered[partition] = 0
        if offset is None:
            async with asyncio.timeout(_START_S):
                offset = (await consumer.beginning_offsets([partition]))[partition]
        consumer.seek(partition, offset)
        self._next[partition] = offset

    def _forget(self, partition: TopicPartition) -> None:
        """Another copy reads it now: where this one stood means nothing when it comes back."""
        for where in self._in.pop(partition, ()):
            self._queues.pop(where, None)
            self._gaps.pop(where, None)
        self._buffered.pop(partition, None)
        self._next.pop(partition, None)
        self._safe.pop(partition, None)

    async def _hint(self, consumer: AIOKafkaConsumer) -> None:
        """Keep where to begin after a restart: where the reader stood a while ago, because what
        it asks for now is not committed on its side yet."""
        now = time.monotonic()
        if now < self._hint_at:
            return
        self._hint_at = now + HINT_EVERY_S
        self._look_for_missing(consumer)
        settled = {p: offset for p, offset in self._safe.items() if p in self._assigned}
        self._safe = {p: self._first_needed(p) for p in self._assigned if p in self._next}
        if settled:
            prefix = self._settings.prefix
            await self._hints.save(
                {(p.topic.removeprefix(prefix), p.partition): n for p, n in settled.items()}
            )

    def _look_for_missing(self, consumer: AIOKafkaConsumer) -> None:
        """A source that told of more rows than arrived: they must be there, or be asked for."""
        for where in self._asked:
            told = self._control.told.get(where[0])
            queue = self._queues.get(where)
            partition = self._partition(where)
            if (
                told is not None
                and queue is not None
                and not queue.rows
                and queue.epoch in {0, told.epoch}
                and told.heads.get(f"{where[1]}/{where[2]}", 0) > queue.floor
                and partition in self._assigned
                and consumer.highwater(partition) == self._next.get(partition)
            ):
                self._missing(where, queue.floor)

    def _first_needed(self, partition: TopicPartition) -> int:
        heads = (q.rows[0][0] for where in self._in[partition] if (q := self._queues[where]).rows)
        return min(heads, default=self._next[partition])

    # Bookkeeping of the asking side.

    def _queue(self, where: Where, *, floor: int = 0) -> _Queue:
        queue = self._queues.get(where)
        if queue is None:
            queue = self._queues[where] = _empty(floor)
            self._in[self._partition(where)].add(where)
        return queue

    def _partition(self, where: Where) -> TopicPartition:
        return self._tp(where[1], where[2])

    def _tp(self, topic: str, partition: int) -> TopicPartition:
        return TopicPartition(self._settings.prefix + topic, partition)

    def _want(self, positions: Positions) -> None:
        now = time.monotonic()
        if positions.keys() != self._asked:
            self._asked = frozenset(positions)
        for where in self._asked:
            self._wanted[self._partition(where)] = now
        if len(self._wanted) > 2 * len(self._asked):
            self._wanted = {p: at for p, at in self._wanted.items() if now - at < UNWANTED_S}

    def _in_turn(self, positions: Positions) -> Iterable[Where]:
        """The positions, beginning with another each time: none waits for the others' backlog."""
        every = list(positions)
        if not every:
            return every
        self._turn = (self._turn + 1) % len(every)
        return every[self._turn :] + every[: self._turn]

    def _drop(self, where: Where, queue: _Queue, after: int) -> None:
        rows = queue.rows
        before, first = len(rows), rows[0][0] if rows else 0
        told = self._control.told.get(where[0])
        epoch = told.epoch if told is not None else 0
        while rows and (rows[0][1].seq <= after or rows[0][1].epoch < epoch):
            rows.popleft()
        if dropped := before - len(rows):
            queue.passed.append((queue.floor, first))
            self._buffered[self._partition(where)] -= dropped
            self._taken.set()
        queue.floor = after

    def _missing(self, where: Where, after: int) -> None:
        """Read the partition from its beginning; when that did not help, ask the source."""
        gap = self._gaps.get(where)
        if gap is None or gap.after != after:
            self._gaps[where] = _Gap(after)
            self._rewind(where, after, to=None)
            return
        now = time.monotonic()
        if now - gap.asked_at >= ASK_EVERY_S:
            gap.asked_at = now
            source, topic, partition = where
            log.warning("kafka.row-missing", where="/".join(map(str, where)), after=after)
            asking = Again(source=source, topic=topic, partition=partition, seq=after + 1)
            self._asking.add(task := asyncio.create_task(self._ask(asking)))
            task.add_done_callback(self._asking.discard)

    async def _ask(self, asking: Again) -> None:
        try:
            await self._control.tell(asking)
        except Transient as away:
            log.debug("kafka.not-asked", error=away.message)

    def _rewind(self, where: Where, after: int, *, to: int | None) -> None:
        """Read again from an offset, or from the beginning, which is furthest back."""
        partition = self._partition(where)
        before = self._rewinds.get(partition, to)
        self._rewinds[partition] = None if to is None or before is None else min(to, before)
        if (queue := self._queues.get(where)) is not None:
            self._buffered[partition] -= len(queue.rows)
            self._queues[where] = _empty(after)


async def _within(event: asyncio.Event, *, timeout_s: float) -> None:
    event.clear()
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
