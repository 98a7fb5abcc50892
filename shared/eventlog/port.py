"""The store of one service: log, streams, cursors, timers, reservations, parked keys, blobs.

One `commit` is one transaction. It holds any mix of consumed cursors, appended rows, timers,
effects and settled effects: all of it becomes durable, or none. Two implementations pass the
same contract suite: Postgres (one schema per service) and memory (tests, simulation).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from schemas.envelope import Meta, Recorded
from shared.decider import Effect
from shared.errors import SeawallError


class Conflict(SeawallError):
    """Some streams are not at the expected version; `streams` names them. Nothing was done."""

    code = "conflict"

    def __init__(self, streams: Sequence[str]) -> None:
        super().__init__(f"{len(streams)} streams moved on: {', '.join(streams[:5])}")
        self.streams = tuple(streams)


class Fenced(SeawallError):
    """A cursor, timer or claim is not ours any more. Nothing was done; read again."""

    code = "fenced"

    def __init__(self, what: str, names: Sequence[str]) -> None:
        super().__init__(f"{what} not ours any more: {', '.join(names[:5])}")
        self.what = what
        self.names = tuple(names)


class NameTaken(SeawallError):
    """A reservation exists already for another stream. Nothing was done."""

    code = "name-taken"

    def __init__(self, name: str, holder: str) -> None:
        super().__init__(f"{name!r} is taken by {holder}")
        self.name = name
        self.holder = holder


class NewRow(msgspec.Struct, frozen=True):
    """A row to append: an event of `stream` (version ≥ 1), or a message (version 0).

    `partition` follows from the stream's key for events, from the message's key for messages.
    """

    topic: str
    partition: int
    stream: str
    version: int
    type: str
    schema_version: int
    data: bytes
    meta: Meta


class CursorMove(msgspec.Struct, frozen=True):
    """Compare-and-set of one cursor. `before` 0 means no cursor yet."""

    source: str
    epoch: int
    topic: str
    partition: int
    before: int
    after: int


class NewTimer(msgspec.Struct, frozen=True):
    """A durable timer; (stream, name) is unique, a later one replaces it."""

    stream: str
    name: str
    partition: int
    due: dt.datetime
    type: str
    schema_version: int
    data: bytes
    meta: Meta


class DueTimer(msgspec.Struct, frozen=True):
    """A timer that is due. `token` names this very setting: a replaced one is not ours to fire."""

    stream: str
    name: str
    partition: int
    due: dt.datetime
    type: str
    schema_version: int
    data: bytes
    meta: Meta
    token: int


class Snapshot(msgspec.Struct, frozen=True):
    """A disposable folded state: `state` is JSON of the family's state at `version`."""

    stream: str
    version: int
    schema: int
    state: bytes


class NewEffect(msgspec.Struct, frozen=True):
    """An effect to enqueue with the step that asked for it."""

    stream: str
    partition: int
    effect: Effect
    meta: Meta


class Pushback(msgspec.Struct, frozen=True, kw_only=True):
    """A platform asked for less: what that means for budgets (shared/effects/adapt.py).

    `busy`: it has as many under way as it allows; else calls come too fast. `quota` is what it
    named, "" where nothing; `retry_after_s` what it asked for, None where nothing.
    """

    busy: bool = False
    quota: str = ""
    retry_after_s: float | None = None


class Settled(msgspec.Struct, frozen=True):
    """A claimed effect whose outcome was decided. Counts only under the claim's lease number.

    `requeue_at` None removes it; otherwise it is ready again then, with `attempt` (raised by
    the caller for a committed failure, unchanged for a throttle or a give-back). `keep` only
    checks that the claim still stands: the effect goes on running (a fact it reports midway,
    such as a script's start, commits under its claim). `pushback`: put back because its platform
    asked for less; an effect that is removed counts as one whose call the platform took.
    """

    effect_id: str
    lease_no: int
    requeue_at: dt.datetime | None = None
    attempt: int = 0
    keep: bool = False
    pushback: Pushback | None = None


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one transaction commits.

    `read` are (stream, version) pairs that decisions rest on though no event is appended to
    them: one that is at another version is a Conflict, so that nothing is decided, not even
    to do nothing, from a state that another copy has moved on.
    """

    rows: Sequence[NewRow] = ()
    cursors: Sequence[CursorMove] = ()
    fired: Sequence[DueTimer] = ()
    timers: Sequence[NewTimer] = ()
    cancelled_timers: Sequence[tuple[str, str]] = ()
    effects: Sequence[NewEffect] = ()
    settled: Sequence[Settled] = ()
    cancelled_effects: Sequence[str] = ()
    released_seats: Sequence[tuple[str, str]] = ()
    reserved: Sequence[tuple[str, str]] = ()
    released: Sequence[tuple[str, str]] = ()
    snapshots: Sequence[Snapshot] = ()
    parked: Sequence[Parked] = ()
    unparked: Sequence[Parked] = ()
    read: Sequence[tuple[str, int]] = ()


Asked = Literal["", "retry", "skip"]
"""What a person wants of a parked message: nothing yet, decide it again, or drop it."""


class Parked(msgspec.Struct, frozen=True):
    """A message set aside because it failed deterministically; later ones of its key wait.

    `asked` is set by `EventStore.ask_parked` only: one that is set aside again is not asked for.
    """

    source: str
    topic: str
    partition: int
    seq: int
    key: str
    reason: str
    at: dt.datetime
    asked: Asked = ""


class Loaded(msgspec.Struct, frozen=True):
    """A stream as stored: a snapshot if wanted and there, and the events after it, in order."""

    snapshot: Snapshot | None
    events: Sequence[Recorded]


class EventStore(Protocol):
    """The verbs of the store. Every call is one round of I/O; time-outs raise Transient."""

    @property
    def service(self) -> str: ...
    @property
    def epoch(self) -> int: ...

    async def commit(self, step: Step) -> Mapping[tuple[str, int], int]:
        """Commit all of `step` or nothing; gives the last seq per (topic, partition) written.

        Raises Conflict (a stream's version), Fenced (cursor, timer or claim), NameTaken.
        """

    async def load(self, streams: Mapping[str, int]) -> Mapping[str, Loaded]:
        """Load many streams in one query: for each, what came after the version given.

        Version 0 means the caller has nothing: the snapshot is then used where there is one.
        """

    async def heads(self, topics: Iterable[str]) -> Mapping[tuple[str, int], int]:
        """The last seq per (topic, partition) of this service's own log."""

    async def read(
        self, topic: str, after: Mapping[int, int], *, count_max: int
    ) -> Sequence[Recorded]:
        """Rows of one topic past the given seq per partition, in seq order per partition."""

    async def cursors(self) -> Mapping[tuple[str, str, int], tuple[int, int]]:
        """(source, topic, partition) → (epoch, seq) of this service as a consumer."""

    async def due_timers(
        self, partitions: Sequence[int], *, count_max: int
    ) -> Sequence[DueTimer]: ...

    async def next_timer_in_s(self, partitions: Sequence[int]) -> float | None:
        """Seconds until the next timer by the store's clock; None if there is none."""

    async def parked(self) -> Sequence[Parked]: ...

    async def ask_parked(self, parked: Sequence[Parked], *, asked: Asked) -> int:
        """Leave a request with parked messages; gives how many of them are parked still."""

    async def put_blob(self, content: bytes) -> str:
        """Keep `content` under its SHA-256 (hex), which is returned. Repeats are free."""

    async def get_blob(self, sha256: str) -> bytes | None: ...

    async def published(self) -> Mapping[tuple[str, int], int]:
        """(topic, partition) → the last seq that was published on a broker, in this epoch."""

    async def mark_published(self, moves: Mapping[tuple[str, int], tuple[int, int]]) -> None:
        """Compare-and-set of (before, after) per (topic, partition), all or none.

        A mark never set stands at 0. Raises Fenced: another copy of the relay moved one.
        """

    async def publish_again(self, topic: str, partition: int, seq: int) -> None:
        """Move a mark back so that `seq` is published again; nothing where it is not past it."""

    async def balance(self, *, copy_id: str, lease_s: float) -> frozenset[int]:
        """Renew this copy's share of the logical partitions and return it.

        Partitions spread evenly over live copies; one is ours from the return of a call until
        `lease_s` after that call began. Two copies never hold one at the same time, by the
        store's clock. A copy that has too many gives up the rest at once.
        """

    async def leave(self, *, copy_id: str) -> None:
        """Give all partitions of this copy back at once."""
