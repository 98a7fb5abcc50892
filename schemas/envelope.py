"""The envelope of every fact and message: where it stands, what it is, who caused it."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec


class Meta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who and what caused a fact. `correlation_id` is the command or tick at the root."""

    occurred_at: dt.datetime
    actor: str = "seawall"
    correlation_id: str = ""
    causation_id: str = ""
    traceparent: str = ""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a service's log: an event (version ≥ 1) or a message to a service (version 0).

    `seq` is dense per (source, topic, partition), starting at 1. `stream` is the stream of an
    event, or for a message the stream that sent it. `data` is the stored JSON document.
    """

    source: str
    epoch: int
    topic: str
    partition: int
    seq: int
    stream: str
    version: int
    type: str
    schema_version: int
    data: bytes
    meta: Meta

    @property
    def event_id(self) -> str:
        """Stable and unique: where the row stands is what it is."""
        return f"{self.source}.{self.epoch}.{self.topic}.{self.partition}.{self.seq}"


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded message on its way into a decider. `body` is a published struct.

    `at` is the moment it is decided (the only clock a decider sees), `cause` the event id of
    the row that carries it, `stream` the stream that sent it or, for a timer or an effect's
    outcome, the stream it belongs to.
    """

    body: Any
    meta: Meta
    at: dt.datetime
    cause: str = ""
    stream: str = ""


def received_of(row: Recorded, body: Any, *, at: dt.datetime) -> Received:
    """A row's message, decoded as `body`, on its way into a decider at the moment `at`."""
    return Received(body=body, meta=row.meta, at=at, cause=row.event_id, stream=row.stream)


DEAD_LETTER_TOPIC = "seawall.dead-letter"
"""Where services tell of messages that they set aside."""


def events_topic(service: str) -> str:
    """The topic of a service's facts."""
    return f"seawall.{service}.events"


def commands_topic(service: str) -> str:
    """The topic of messages addressed to a service."""
    return f"seawall.{service}.commands"
