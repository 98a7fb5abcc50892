"""Takes parked messages up again, where a person asked for it or nothing is in their way any more.

Owns which parked message may be decided when: of a key only the first, then those behind it, in
order, until one fails again. A message is taken up in a step like any other, which also removes it
from the parked ones: two copies cannot both take it. The consumer calls this between its reads.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec
import structlog
from msgspec.structs import replace

from schemas import registry
from schemas.common import Command, MessageSkipped
from schemas.envelope import Meta, Recorded, events_topic, received_of
from schemas.ids import partition_of
from shared.bus.port import Bus
from shared.clock import Clock
from shared.errors import Refused
from shared.eventlog.port import EventStore, NewRow, Parked
from shared.fold import BEHIND, UNKNOWN, Input, ServiceDefinition, refusal
from shared.stepper import BATCH_MAX, Stepper

log = structlog.get_logger()

Where = tuple[str, str, int]
"""(source, topic, partition)."""

TAKEN_EACH: Final = 100
"""Messages of a key taken up before the others of its service get their turn."""

ARRIVES_S_MAX: Final = 5.0
ARRIVES_POLL_S: Final = 0.05
"""How long a parked row may take to come again before it counts as gone."""

ACTOR: Final = "cli"
"""Whoever may reach the database may ask; that is all the log can say of them."""


class Unreadable(Exception):
    """This build cannot read a row; the text is the reason it is parked with."""


def body_of(row: Recorded, wanted: Collection[str]) -> Any:
    """The decoded body of a row, None for a type that is known and not wanted.

    Raises Unreadable.
    """
    try:
        if row.type not in wanted:
            registry.struct_of(row.type)
            return None
        return registry.decode(row.type, row.schema_version, row.data)
    except registry.UnknownType as unknown:
        if registry.knows(row.type, row.schema_version):
            raise Unreadable(str(unknown)) from unknown
        raise Unreadable(f"{UNKNOWN}{row.type} version {row.schema_version}") from unknown
    except msgspec.MsgspecError as wrong:
        raise Unreadable(f"{row.type} cannot be read: {wrong}") from wrong


def unknown_type(parked: Parked) -> str:
    """The type and version a message was parked for, "" if this build knows them by now."""
    if not parked.reason.startswith(UNKNOWN):
        return ""
    told = parked.reason.removeprefix(UNKNOWN)
    name, _, version = told.partition(" version ")
    return "" if registry.knows(name, int(version)) else told


def chains(parked: Sequence[Parked]) -> list[list[Parked]]:
    """The parked messages of each (source, topic, key), in seq order."""
    found: dict[tuple[str, str, str], list[Parked]] = defaultdict(list)
    for each in sorted(parked, key=lambda p: p.seq):
        found[each.source, each.topic, each.key].append(each)
    return list(found.values())


class TakingUp:
    """Looks at what is parked, and takes up what may be."""

    def __init__(
        self,
        definition: ServiceDefinition,
        store: EventStore,
        *,
        bus: Bus,
        stepper: Stepper,
        clock: Clock,
    ) -> None:
        self._service = definition.name
        self._store = store
        self._bus = bus
        self._stepper = stepper
        self._clock = clock
        self._wanted = {registry.name_of(handler.message) for handler in definition.handlers}

    async def round(self, readable: Collection[Where]) -> bool:
        """Take up what may be in these partitions; True: what is parked is not what it was."""
        waiting = chains(await self._store.parked())
        firsts = {(c[0].source, c[0].topic, c[0].key): c[0].seq for c in waiting}
        changed = firsts != self._stepper.parked_keys
        for chain in waiting:
            first = chain[0]
            where = (first.source, first.topic, first.partition)
            if where in readable and _may_go(first):
                await self._take_up(where, chain)
                changed = True
        return changed

    async def _take_up(self, where: Where, chain: Sequence[Parked]) -> None:
        """Decide the messages of a key until one fails, or others should have their turn."""
        rows: dict[int, Recorded] = {}
        for parked in chain[:TAKEN_EACH]:
            if parked.seq not in rows:
                rows = await self._rows_after(where, parked.seq - 1)
            each = self._input(parked, rows.get(parked.seq))
            done = await self._stepper.take_up(each)
            log.info(
                "parked.taken-up" if done else "parked.stays",
                service=self._service, key=parked.key, seq=parked.seq, asked=parked.asked,
            )  # fmt: skip
            if not done:
                return

    async def _rows_after(self, where: Where, after: int) -> dict[int, Recorded]:
        """What comes after a row that was passed long ago, once the next one is there.

        A log answers at once. A broker's reader must go back first, while nobody asks it for what
        comes later: that is why the consumer waits meanwhile.
        """
        until = self._clock.monotonic() + ARRIVES_S_MAX
        while True:
            found = await self._bus.fetch({where: after}, count_max=BATCH_MAX)
            rows = {row.seq: row for row in found}
            if after + 1 in rows or self._clock.monotonic() >= until:
                return rows
            await asyncio.sleep(ARRIVES_POLL_S)

    def _input(self, parked: Parked, row: Recorded | None) -> Input:
        if parked.asked == "skip":
            return self._skipped(parked, row)
        if row is None:
            gone = f"row {parked.seq} of {parked.source} does not come any more"
            return Input(unparked=parked, parked=replace(parked, reason=gone))
        try:
            body = body_of(row, self._wanted)
        except Unreadable as reason:
            return Input(unparked=parked, parked=replace(parked, reason=str(reason)))
        if body is None:
            return Input(unparked=parked)
        received = received_of(row, body, at=self._clock.now())
        return Input(received=received, unparked=parked)

    def _skipped(self, parked: Parked, row: Recorded | None) -> Input:
        """Drop a message, and say so in the log; whoever waits for its answer is refused."""
        stream = ":".join(
            ("skipped", parked.key, parked.source, parked.topic,
             str(parked.partition), str(parked.seq))
        )  # fmt: skip
        told = MessageSkipped(
            source=parked.source,
            topic=parked.topic,
            partition=parked.partition,
            seq=parked.seq,
            reason=parked.reason,
            parked_at=parked.at,
            type=row.type if row else "",
            schema_version=row.schema_version if row else 0,
        )
        rows = [self._row(stream, 1, told, parked, row)]
        if command := self._command(row):
            refused = Refused(
                f"the command was dropped by hand: {parked.reason}",
                code="skipped",
                remedy="see why it could not be decided before asking again",
            )
            answer = refusal(command.command_id, refused)
            rows.append(self._row(stream, 0, answer, parked, row))
        return Input(unparked=parked, rows=tuple(rows))

    def _row(
        self, stream: str, version: int, body: msgspec.Struct, parked: Parked, row: Recorded | None
    ) -> NewRow:
        name, schema_version, data = registry.encode(body)
        meta = Meta(
            occurred_at=self._clock.now(),
            actor=ACTOR,
            correlation_id=row.meta.correlation_id if row else "",
            causation_id=row.event_id if row else "",
        )
        partition = partition_of(parked.key)
        topic = events_topic(self._service)
        return NewRow(topic, partition, stream, version, name, schema_version, data, meta)

    def _command(self, row: Recorded | None) -> Command | None:
        if row is None:
            return None
        try:
            body = body_of(row, self._wanted)
        except Unreadable:
            return None
        return body if isinstance(body, Command) else None


def _may_go(first: Parked) -> bool:
    """Whether the first message of a key is to be taken up now.

    One that only waits behind another has nothing before it any more; one of a type that was not
    known to the build that parked it may be known to this one.
    """
    if first.asked or first.reason == BEHIND:
        return True
    return first.reason.startswith(UNKNOWN) and not unknown_type(first)
