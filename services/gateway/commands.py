"""Commands: accepted durably before they are answered, then waited for if the caller asks.

One commit holds the CommandAccepted fact, the message to the owner and, where given, the
idempotency key. What the owner decided is read from the read model, never asked of a service.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import structlog

from schemas import registry
from schemas.common import Command
from schemas.envelope import Meta, commands_topic, events_topic
from schemas.gateway import CommandAccepted
from schemas.ids import partition_of, stream_id
from services.gateway.ids import new_id
from services.gateway.problems import Invalid
from services.gateway.pulse import POLL_S, Pulse, wait
from shared.clock import Clock
from shared.errors import Refused, Transient
from shared.eventlog.port import Conflict, EventStore, NameTaken, NewRow, Step
from shared.news import News

log = structlog.get_logger()

MESSAGE_BYTES_MAX = 64 * 1024
WAIT_S_MAX = 60.0
READY_TIMEOUT_S = 1.5


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A command on its way: to whom, under which key, and the job it will be, if any.

    `extras` are messages that must be there with it (a plan's scripts). `traceparent` is the
    place in a trace that what follows is under, if there is one.
    """

    to: str
    key: str
    body: Command
    job: str = ""
    actor: str = "admin"
    idempotency_key: str = ""
    request_sha256: str = ""
    traceparent: str = ""
    extras: Sequence[tuple[str, msgspec.Struct]] = ()


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted command. `repeated`: the idempotency key had been used for it before.

    `position` is where the acceptance stands, as a read may bring it.
    """

    command_id: str
    job: str
    position: str = ""
    repeated: bool = False


def position_of(partition: int, seq: int) -> str:
    """Where a fact of the gateway's log stands, as `Seawall-Position` tells it."""
    return f"gateway/{partition}/{seq}"


def new_command_id() -> str:
    """A new command's id."""
    return new_id()


def request_digest(method: str, path: str, body: bytes) -> str:
    """What tells two requests of one idempotency key apart."""
    return hashlib.sha256(b"\n".join((method.encode(), path.encode(), body))).hexdigest()


class CommandBus:
    """Accepts commands into the gateway's own log."""

    def __init__(self, store: EventStore, *, clock: Clock, news: News) -> None:
        self._store = store
        self._clock = clock
        self._news = news

    async def accept(self, asked: Asked) -> Accepted:
        """Append the command; durable when this returns.

        Raises Refused for a reused key and for what is too large, Invalid for a command that its
        owner could not read.
        """
        command_id = asked.body.command_id
        stream = stream_id("command", asked.key, command_id)
        rows = self._rows(asked, stream)
        reserved = []
        if asked.idempotency_key:
            reserved.append((f"idem:{asked.actor}:{asked.idempotency_key}", stream))
        try:
            last = await self._store.commit(Step(rows=rows, reserved=reserved))
        except NameTaken as taken:
            return await self._repeated(taken.holder, asked)
        except Conflict:
            last = {}  # an earlier try of this very command was committed after all
        self._news.poke({row.topic for row in rows})
        events, partition = events_topic("gateway"), partition_of(asked.key)
        seq = last.get((events, partition))
        position = position_of(partition, seq) if seq else ""
        return Accepted(command_id=command_id, job=asked.job, position=position)

    async def problem(self) -> str:
        """What keeps commands from being accepted, or "": the gateway's own database."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await self._store.heads([events_topic("gateway")])
        except (Transient, TimeoutError) as away:
            return f"commands cannot be accepted: {away or 'no answer'}"
        return ""

    def _rows(self, asked: Asked, stream: str) -> list[NewRow]:
        now = self._clock.now()
        command_id = asked.body.command_id
        meta = Meta(
            occurred_at=now,
            actor=asked.actor,
            correlation_id=command_id,
            traceparent=asked.traceparent,
        )
        accepted = CommandAccepted(
            command_id=command_id,
            to=asked.to,
            type=registry.name_of(type(asked.body)),
            key=asked.key,
            actor=asked.actor,
            job=asked.job,
            idempotency_key=asked.idempotency_key,
            body_sha256=asked.request_sha256,
        )
        events = events_topic("gateway")
        rows = [_row(events, accepted, stream=stream, version=1, key=asked.key, meta=meta)]
        for to, body in (*asked.extras, (asked.to, asked.body)):
            topic = commands_topic(to)
            rows.append(_row(topic, body, stream=stream, version=0, key=asked.key, meta=meta))
        return rows

    async def _repeated(self, stream: str, asked: Asked) -> Accepted:
        loaded = await self._store.load({stream: 0})
        (row,) = loaded[stream].events
        earlier: CommandAccepted = registry.decode(row.type, row.schema_version, row.data)
        if earlier.body_sha256 != asked.request_sha256:
            raise Refused(
                f"the idempotency key {asked.idempotency_key!r} was used for another request",
                remedy="use a new key for a new request",
                code="idempotency-mismatch",
            )
        return Accepted(
            command_id=earlier.command_id,
            job=earlier.job,
            position=position_of(row.partition, row.seq),
            repeated=True,
        )


def _row(
    topic: str, body: msgspec.Struct, *, stream: str, version: int, key: str, meta: Meta
) -> NewRow:
    name, schema_version, data = registry.encode(body)
    if len(data) > MESSAGE_BYTES_MAX:
        raise Refused(
            f"the request becomes a message of {len(data)} bytes; the most is {MESSAGE_BYTES_MAX}",
            remedy="split the plan into several, or shorten names and descriptions",
            code="too-large",
        )
    _check_readable(name, schema_version, data)
    return NewRow(topic, partition_of(key), stream, version, name, schema_version, data, meta)


def _check_readable(name: str, schema_version: int, data: bytes) -> None:
    """Raise Invalid, with the field, for a message that its own published type cannot hold.

    Its owner could not decode it, and would set it aside with all that comes for its key: what a
    route forgot to check ends here, some microseconds per message.
    """
    try:
        registry.decode(name, schema_version, data)
    except msgspec.DecodeError as broken:
        problem, _, place = str(broken).partition(" - at `$")
        field = place.rstrip("`").removeprefix(".")
        raise Invalid(
            f"{field or name}: {problem[:1].lower()}{problem[1:]}",
            remedy="send a value of that kind; see /openapi.json",
            details={"field": field},
        ) from broken


async def wait_for(
    read: Callable[[str], Awaitable[dict[str, Any] | None]],
    command_id: str,
    *,
    pulse: Pulse,
    timeout_s: float,
) -> dict[str, Any] | None:
    """The command's document once it is settled, or None when the time is over or we end.

    Read models that cannot be read are no reason to fail: the command itself is recorded.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + min(timeout_s, WAIT_S_MAX)
    while True:
        beat = pulse.now()
        try:
            found = await read(command_id)
        except Transient as away:
            log.info("gateway.answer-not-read", error=away.message)
            found = None
        if found is not None and found["state"] != "accepted":
            return found
        left_s = deadline - loop.time()
        if left_s <= 0 or pulse.closed:
            return None
        await wait(beat, timeout_s=min(left_s, POLL_S))
