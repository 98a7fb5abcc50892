"""Folds a batch of inputs through the deciders into one `Step`: the engine's pure middle.

An input is whatever makes a service decide: a message from a topic, a timer that fired, the
outcome of an effect. Nothing here waits, reads a clock or touches a store; states come in
through a cache, and everything that is to become durable goes out as data.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from schemas import registry
from schemas.common import Command, CommandSettled, MessageParked
from schemas.envelope import DEAD_LETTER_TOPIC, Meta, Received, commands_topic, events_topic
from schemas.ids import family_of, key_of, partition_of
from shared.decider import Decision, EffectOutcome, EffectTrouble, Family, Handler, Story
from shared.errors import InvariantBroken, Refused
from shared.eventlog.port import (
    CursorMove,
    DueTimer,
    Loaded,
    NewEffect,
    NewRow,
    NewTimer,
    Parked,
    Settled,
    Snapshot,
    Step,
)

SNAPSHOT_EVERY = 50
"""Events after which a stream's folded state is written again (architecture.md §3)."""

BEHIND = "waits behind an earlier message of its key"
"""Why a message is parked that was never tried: an earlier one of its key could not be decided."""

UNKNOWN = "unknown type: "
"""Begins the reason of a message parked because its build could not read it, or a fact in the
history of a stream that it concerns. A build that can takes it up."""

EVENT_BYTES_MAX = 64 * 1024
"""A fact is small: content belongs in blobs, rosters in streams of their own."""

REFUSAL_CHARS_MAX = 4_000
"""Of a refusal's message and of its remedy: both fit an event, whatever their letters take there.
They quote what was asked, which may be as long as a message."""


class TooLarge(InvariantBroken):
    """A fact or message does not fit. Where a command leads to it, the command is refused."""

    code = "too-large"


class Tried(NamedTuple):
    """How one try of an effect went, for whoever counts."""

    kind: str
    result: str


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to decide about, and what consuming it moves.

    `received` None only moves (a row of a type nobody handles, an effect put back).
    `position` is the row's (source, epoch, topic, partition, seq). `at_least` is the lowest
    version of the effect's stream that a fresh state can have, `tried` how it went. `unparked` is
    a message that waited; its cursor moved when it was set aside. `rows` say what was done with
    it, beside what is decided. `unknown`: this build cannot read it, so that it is set aside.
    """

    received: Received | None = None
    position: tuple[str, int, str, int, int] | None = None
    fired: DueTimer | None = None
    settled: Settled | None = None
    parked: Parked | None = None
    unparked: Parked | None = None
    rows: tuple[NewRow, ...] = ()
    at_least: int = 0
    tried: Tried | None = None
    unknown: registry.UnknownType | None = None


class Cached(msgspec.Struct):
    """A folded stream. The state may be changed in place by `evolve`; a failed step evicts it."""

    state: Any
    version: int
    snapshot_version: int


class NeedStreams(Exception):
    """Some states are not in the cache yet; load them and fold again."""

    def __init__(self, streams: Iterable[str]) -> None:
        super().__init__("streams not loaded")
        self.streams = frozenset(streams)


class ServiceDefinition(msgspec.Struct, frozen=True, kw_only=True):
    """What distinguishes one service from another: its families, handlers and subscriptions.

    `subscriptions` are (source service, topic) pairs.
    """

    name: str
    families: tuple[Family, ...]
    handlers: tuple[Handler, ...]
    subscriptions: tuple[tuple[str, str], ...]


class StateCache:
    """Folded states by stream, least recently used ones dropped past `count_max`."""

    def __init__(self, definition: ServiceDefinition, *, count_max: int = 50_000) -> None:
        self._families = {family.name: family for family in definition.families}
        self._decoders = {
            family.name: msgspec.json.Decoder(family.state) for family in definition.families
        }
        self._count_max = count_max
        self._streams: OrderedDict[str, Cached] = OrderedDict()

    def family(self, stream: str) -> Family:
        """The family of a stream; a stream of no family of ours is a bug."""
        try:
            return self._families[family_of(stream)]
        except KeyError:
            raise InvariantBroken(f"stream {stream!r} belongs to no family here") from None

    def get(self, stream: str) -> Cached | None:
        """The cached stream, marked as used."""
        cached = self._streams.get(stream)
        if cached is not None:
            self._streams.move_to_end(stream)
        return cached

    def known_versions(self, streams: Iterable[str]) -> dict[str, int]:
        """What `EventStore.load` is to be asked with: the version already folded, or 0."""
        return {s: c.version if (c := self._streams.get(s)) else 0 for s in streams}

    def absorb(self, loaded: Mapping[str, Loaded]) -> dict[str, int]:
        """Fold what was loaded into the cache; gives what must be loaded without its snapshot."""
        again = {}
        for stream, found in loaded.items():
            family = self.family(stream)
            cached = self._streams.get(stream) or self._begin(family, found)
            if cached is None:
                again[stream] = -1
                continue
            for row in found.events:
                if row.version != cached.version + 1:
                    raise InvariantBroken(f"{stream} jumps to version {row.version}")
                event = registry.decode(row.type, row.schema_version, row.data)
                cached.state = family.evolve(cached.state, event)
                cached.version = row.version
            self._streams[stream] = cached
            self._streams.move_to_end(stream)
        return again

    def _begin(self, family: Family, found: Loaded) -> Cached | None:
        """The state to fold on from; None where the snapshot is of another build's shape."""
        snapshot = found.snapshot
        if snapshot is None:
            return Cached(family.initial(), 0, 0)
        if snapshot.schema != family.schema:
            return None
        try:
            state = self._decoders[family.name].decode(snapshot.state)
        except msgspec.ValidationError:
            return None
        return Cached(state, snapshot.version, snapshot.version)

    def evict(self, streams: Iterable[str]) -> None:
        """Forget streams whose cached state may be wrong or will not be needed."""
        for stream in streams:
            self._streams.pop(stream, None)

    def trim(self) -> None:
        """Drop the least recently used streams past the bound."""
        while len(self._streams) > self._count_max:
            self._streams.popitem(last=False)


class Folder:
    """Folds inputs into one step. One instance serves one batch and is then thrown away."""

    def __init__(
        self, definition: ServiceDefinition, cache: StateCache, handlers: Mapping[type, Handler]
    ) -> None:
        self._definition = definition
        self._cache = cache
        self._handlers = handlers
        self._events_topic = events_topic(definition.name)
        self.reset()

    def reset(self) -> None:
        """Begin again with nothing folded."""
        self.touched: set[str] = set()
        self.topics: set[str] = set()
        self._read: dict[str, int] = {}
        self._rows: list[NewRow] = []
        self._cursors: dict[tuple[str, int, str, int], tuple[int, int]] = {}
        self._fired: list[DueTimer] = []
        self._timers: dict[tuple[str, str], NewTimer | None] = {}
        self._effects: list[NewEffect] = []
        self._settled: list[Settled] = []
        self._parked: list[Parked] = []
        self._unparked: list[Parked] = []
        self._cancelled_effects: list[str] = []
        self._released_seats: list[tuple[str, str]] = []
        self._reserved: list[tuple[str, str]] = []
        self._released: list[tuple[str, str]] = []

    def streams_of(self, inputs: Sequence[Input]) -> set[str]:
        """The streams the inputs are routed to that the cache lacks or holds too old."""
        missing = set()
        for each in inputs:
            if each.received is None:
                continue
            for stream in self._route(each.received):
                cached = self._cache.get(stream)
                if cached is None or cached.version < each.at_least:
                    missing.add(stream)
        return missing

    def fold(self, inputs: Sequence[Input]) -> Step:
        """Decide all inputs in order and return what to commit.

        Raises NeedStreams, or whatever a decider raises: the caller evicts `touched` and
        narrows the batch down.
        """
        for each in inputs:
            if each.unknown is not None:
                raise each.unknown
            self._consume(each)
            if each.received is not None:
                self._decide(each.received)
        return self._step()

    def refuse(self, each: Input, answer: CommandSettled) -> Step:
        """Consume one input whose command cannot be granted, and answer it."""
        self._consume(each)
        if each.received is not None:
            self._answer(self._route(each.received)[0], each.received, answer)
        return self._step()

    def skip(self, each: Input) -> Step:
        """Consume one input without deciding it."""
        self._consume(each)
        return self._step()

    def _step(self) -> Step:
        return Step(
            rows=self._rows,
            cursors=[CursorMove(*where, *move) for where, move in self._cursors.items()],
            fired=self._fired,
            timers=[timer for timer in self._timers.values() if timer is not None],
            cancelled_timers=[name for name, timer in self._timers.items() if timer is None],
            effects=self._effects,
            settled=self._settled,
            cancelled_effects=self._cancelled_effects,
            released_seats=self._released_seats,
            reserved=self._reserved,
            released=self._released,
            snapshots=self._snapshots(),
            parked=self._parked,
            unparked=self._unparked,
            read=[each for each in self._read.items() if self._is_where_it_was(*each)],
        )

    def _consume(self, each: Input) -> None:
        if each.position is not None:
            source, epoch, topic, partition, seq = each.position
            key = (source, epoch, topic, partition)
            before, last = self._cursors.get(key, (seq - 1, seq - 1))
            if seq != last + 1:
                raise InvariantBroken(f"{key} jumps from {last} to {seq}")
            self._cursors[key] = (before, seq)
        if each.fired is not None:
            self._fired.append(each.fired)
        if each.settled is not None:
            self._settled.append(each.settled)
        if each.parked is not None:
            self._parked.append(each.parked)
            if each.parked.reason != BEHIND:
                self._tell_parked(each.parked)
        if each.unparked is not None:
            self._unparked.append(each.unparked)
        self._rows += each.rows
        self.topics.update(row.topic for row in each.rows)

    def _tell_parked(self, parked: Parked) -> None:
        told = MessageParked(
            source=parked.source,
            topic=parked.topic,
            partition=parked.partition,
            seq=parked.seq,
            key=parked.key,
            reason=parked.reason,
        )
        stream = f"parked:{parked.key}:{self._definition.name}"
        meta = Meta(occurred_at=parked.at)
        self._append(DEAD_LETTER_TOPIC, stream, 0, told, meta, parked.key)

    def _route(self, received: Received) -> tuple[str, ...]:
        if isinstance(received.body, EffectOutcome | EffectTrouble):
            return (received.stream,)
        return self._handlers[type(received.body)].route(received)

    def _states(self, streams: Iterable[str]) -> dict[str, Any]:
        found = {stream: self._cache.get(stream) for stream in streams}
        missing = [stream for stream, cached in found.items() if cached is None]
        if missing:
            raise NeedStreams(missing)
        for stream, cached in found.items():
            if cached is not None:
                self._read.setdefault(stream, cached.version)
        return {stream: cached.state for stream, cached in found.items() if cached}

    def _decide(self, received: Received) -> None:
        streams = self._route(received)
        states = self._states(streams)
        if isinstance(received.body, EffectOutcome):
            outcome = self._cache.family(received.stream).outcome
            if outcome is None:
                raise InvariantBroken(f"{received.stream} has effects but decides no outcome")
            self._take(received.stream, outcome(states[received.stream], received), received)
            return
        if isinstance(received.body, EffectTrouble):
            trouble = self._cache.family(received.stream).trouble
            if trouble is not None:
                self._take(received.stream, trouble(states[received.stream], received), received)
            return
        handler = self._handlers[type(received.body)]
        if handler.expand is not None:
            states |= self._states(handler.expand(states, received))
        if handler.follow is not None:
            while more := [s for s in handler.follow(states, received) if s not in states]:
                states |= self._states(more)
        command = received.body if isinstance(received.body, Command) else None
        try:
            decisions = handler.decide(states, received)
        except Refused as refused:
            if command is None:
                raise
            self._answer(streams[0], received, refusal(command.command_id, refused))
            return
        for stream, decision in decisions.items():
            self._take(stream, decision, received)
        if command is not None and not any(d.defer for d in decisions.values()):
            self._answer(streams[0], received, self._done(command.command_id, streams[0]))

    def _done(self, command_id: str, stream: str) -> CommandSettled:
        cached = self._cache.get(stream)
        version = cached.version if cached else 0
        return CommandSettled(
            command_id=command_id, outcome="done", stream=stream, version=version
        )

    def _answer(self, stream: str, received: Received, answer: CommandSettled) -> None:
        self._append(self._events_topic, stream, 0, answer, _meta(received), key_of(stream))

    def _append(
        self, topic: str, stream: str, version: int, body: Any, meta: Meta, key: str
    ) -> None:
        name, schema_version, data = registry.encode(body)
        if len(data) > EVENT_BYTES_MAX:
            raise TooLarge(
                f"{name} of {stream} has {len(data)} bytes; the most is {EVENT_BYTES_MAX}"
            )
        partition = partition_of(key)
        self._rows.append(
            NewRow(topic, partition, stream, version, name, schema_version, data, meta)
        )
        self.topics.add(topic)

    def _take(self, stream: str, decision: Decision, received: Received) -> None:
        family = self._cache.family(stream)
        cached = self._cache.get(stream)
        if cached is None:
            raise NeedStreams([stream])
        meta = _meta(received)
        key = key_of(stream)
        partition = partition_of(key)
        self.touched.add(stream)
        for event in decision.events:
            cached.state = family.evolve(cached.state, event)
            cached.version += 1
            self._append(self._events_topic, stream, cached.version, event, meta, key)
        for answer in decision.answers:
            self._append(self._events_topic, stream, 0, answer, meta, key)
        for send in decision.sends:
            about = _told_as(meta, send.story)
            self._append(commands_topic(send.to), stream, 0, send.message, about, send.key)
        self._effects += [NewEffect(stream, partition, e, meta) for e in decision.effects]
        for timer in decision.timers:
            name, version, data = registry.encode(timer.message)
            self._timers[stream, timer.name] = NewTimer(
                stream, timer.name, partition, timer.due, name, version, data,
                _told_as(meta, timer.story),
            )  # fmt: skip
        for cancelled in decision.cancel_timers:
            self._timers[stream, cancelled] = None
        self._cancelled_effects += [f"{stream}/{part}" for part in decision.cancel_effects]
        self._released_seats += [(budget, stream) for budget in decision.release_seats]
        self._reserved += [(name, stream) for name in decision.reserve]
        self._released += [(name, stream) for name in decision.release]

    def _is_where_it_was(self, stream: str, version: int) -> bool:
        """No event was appended to a stream that was read: the commit verifies its version."""
        cached = self._cache.get(stream)
        return cached is not None and cached.version == version

    def _snapshots(self) -> list[Snapshot]:
        snapshots = []
        for stream in self.touched:
            cached = self._cache.get(stream)
            if cached is None or cached.version - cached.snapshot_version < SNAPSHOT_EVERY:
                continue
            state = msgspec.json.encode(cached.state)
            schema = self._cache.family(stream).schema
            snapshots.append(Snapshot(stream, cached.version, schema, state))
            cached.snapshot_version = cached.version
        return snapshots


def refusal(command_id: str, refused: Refused) -> CommandSettled:
    """The answer to a command that its owner refused, its words cut where they are too long."""
    return CommandSettled(
        command_id=command_id,
        outcome="refused",
        code=refused.code,
        message=_cut(refused.message),
        remedy=_cut(refused.remedy),
    )


def _cut(words: str) -> str:
    return words if len(words) <= REFUSAL_CHARS_MAX else f"{words[: REFUSAL_CHARS_MAX - 2]} …"


def _meta(received: Received) -> Meta:
    """The metadata of what a message leads to. One of no story is the root of what follows."""
    return Meta(
        occurred_at=received.at,
        actor=received.meta.actor,
        correlation_id=received.meta.correlation_id or received.cause,
        causation_id=received.cause,
        traceparent=received.meta.traceparent,
    )


def _told_as(meta: Meta, story: Story | None) -> Meta:
    """The metadata of what belongs to another story than the message that is decided."""
    if story is None:
        return meta
    return msgspec.structs.replace(
        meta, correlation_id=story.correlation_id, traceparent=story.traceparent
    )
