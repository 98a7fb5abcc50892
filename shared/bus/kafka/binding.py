"""A row of a log as a Kafka message, and back: CloudEvents 1.0, binary content mode.

The value is the JSON document as it is stored; all else is in headers. Key = the plan or site,
partition = the logical partition. Attributes of our own: `epoch`, `seq`, `version` (of the
stream; 0 is a message to a service), `schemaversion`.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from schemas.cloudevents import CONTENT_TYPE, SPEC_VERSION, about, source_of, type_of
from schemas.envelope import Meta, Recorded
from schemas.ids import key_of

_SOURCE_PREFIX: Final = len(source_of(""))
_TYPE_PREFIX: Final = len(type_of(""))

Headers = Sequence[tuple[str, bytes]]


class Message(NamedTuple):
    """What goes to the broker."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


class Unreadable(ValueError):
    """A message in one of our topics that is none of ours."""


def to_message(row: Recorded) -> Message:
    """The message of a row."""
    meta = row.meta
    plan, job = about(row.stream)
    headers = [
        ("content-type", CONTENT_TYPE.encode()),
        ("ce_specversion", SPEC_VERSION.encode()),
        ("ce_id", row.event_id.encode()),
        ("ce_source", source_of(row.source).encode()),
        ("ce_type", type_of(row.type).encode()),
        ("ce_subject", row.stream.encode()),
        ("ce_time", meta.occurred_at.isoformat().encode()),
        ("ce_epoch", b"%d" % row.epoch),
        ("ce_seq", b"%d" % row.seq),
        ("ce_version", b"%d" % row.version),
        ("ce_schemaversion", b"%d" % row.schema_version),
        ("ce_actor", meta.actor.encode()),
    ]
    for name, text in (
        ("ce_correlationid", meta.correlation_id),
        ("ce_causationid", meta.causation_id),
        ("ce_traceparent", meta.traceparent),
        ("ce_seawallplan", plan),
        ("ce_seawalljob", job),
    ):
        if text:
            headers.append((name, text.encode()))
    return Message(key_of(row.stream).encode(), row.data, headers)


def to_row(topic: str, partition: int, value: bytes, headers: Headers) -> Recorded:
    """The row of a message. Raises Unreadable for one that we did not write."""
    found: dict[str, Any] = dict(headers)
    try:
        return Recorded(
            source=found["ce_source"].decode()[_SOURCE_PREFIX:],
            epoch=int(found["ce_epoch"]),
            topic=topic,
            partition=partition,
            seq=int(found["ce_seq"]),
            stream=found["ce_subject"].decode(),
            version=int(found["ce_version"]),
            type=found["ce_type"].decode()[_TYPE_PREFIX:],
            schema_version=int(found["ce_schemaversion"]),
            data=value,
            meta=Meta(
                occurred_at=dt.datetime.fromisoformat(found["ce_time"].decode()),
                actor=found["ce_actor"].decode(),
                correlation_id=found.get("ce_correlationid", b"").decode(),
                causation_id=found.get("ce_causationid", b"").decode(),
                traceparent=found.get("ce_traceparent", b"").decode(),
            ),
        )
    except (KeyError, ValueError) as broken:
        raise Unreadable(f"a message in {topic}/{partition} lacks or garbles {broken}") from broken
