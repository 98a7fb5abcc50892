"""Every event as a CloudEvents 1.0 JSON document, with the plan and the job it is about."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from schemas.cloudevents import CONTENT_TYPE, SPEC_VERSION, about, source_of, type_of
from schemas.envelope import Recorded
from schemas.views import CloudEvent

_encoder = msgspec.json.Encoder()


class EventRow(NamedTuple):
    """A row of `read.events`, its position apart."""

    source: str
    partition: int
    seq: int
    type: str
    plan: str
    job: str
    occurred_at: object
    doc: bytes


def event_row(recorded: Recorded) -> EventRow:
    """The row of an event; `data` is passed on as it was stored."""
    plan, job = about(recorded.stream)
    meta = recorded.meta
    name = type_of(recorded.type)
    document = CloudEvent(
        specversion=SPEC_VERSION,
        id=recorded.event_id,
        source=source_of(recorded.source),
        type=name,
        subject=recorded.stream,
        time=meta.occurred_at,
        datacontenttype=CONTENT_TYPE,
        data=msgspec.Raw(recorded.data),
        seawallplan=plan,
        seawalljob=job,
        correlationid=meta.correlation_id,
        causationid=meta.causation_id,
        actor=meta.actor,
    )
    return EventRow(
        recorded.source,
        recorded.partition,
        recorded.seq,
        name,
        plan,
        job,
        meta.occurred_at,
        _encoder.encode(document),
    )
