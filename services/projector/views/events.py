"""Every event as a CloudEvents 1.0 JSON document, with the plan and the job it is about."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from schemas.envelope import Recorded
from schemas.views import CloudEvent

JOB_FAMILIES = frozenset(
    {"replication-run", "iteration", "checkpoint", "recovery", "vm-recovery", "cleanup"}
)
"""Streams that are jobs: their ids are the jobs' ids."""

PLAN_FAMILIES = JOB_FAMILIES | {
    "plan", "protected-vm", "script", "alert", "delivery", "digest", "recovery-news"
}  # fmt: skip
"""Streams whose key is a plan's name; other keys are sites."""

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
    family, _, rest = recorded.stream.partition(":")
    plan = rest.partition(":")[0] if family in PLAN_FAMILIES else ""
    job = recorded.stream if family in JOB_FAMILIES else ""
    meta = recorded.meta
    name = f"seawall.{recorded.type}"
    document = CloudEvent(
        specversion="1.0",
        id=recorded.event_id,
        source=f"/seawall/{recorded.source}",
        type=name,
        subject=recorded.stream,
        time=meta.occurred_at,
        datacontenttype="application/json",
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
