"""What services said, as rows of their logs, and the documents that follow: all in memory."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from schemas import registry
from schemas.common import CommandSettled
from schemas.envelope import Meta, Recorded, events_topic
from schemas.ids import key_of, partition_of
from schemas.plans import ReplicationPolicy, VmDefinition
from schemas.scheduler import PlanHeader, SiteRef, VmProtected
from services.projector.model import MemoryReadModel, project

T0 = dt.datetime(2026, 11, 22, 20, 0, tzinfo=dt.UTC)
EAST = SiteRef(site="east", platform="lab", settings={"path": "/sites/east"})
WEST = SiteRef(site="west", platform="lab", settings={"path": "/sites/west"})
POLICY = ReplicationPolicy(interval_s=900.0)
HEADER = PlanHeader(name="shop", protected=EAST, recovery_site=WEST, replication=POLICY)


def after(seconds: float) -> dt.datetime:
    """A moment of the history."""
    return T0 + dt.timedelta(seconds=seconds)


class History:
    """Rows as they lie in the logs. `at` moves the clock: it ticks a second per row."""

    def __init__(self) -> None:
        self.rows: list[Recorded] = []
        self.now = T0
        self._seqs: dict[tuple[str, int], int] = {}
        self._versions: dict[str, int] = {}

    def at(self, seconds: float) -> History:
        """What is said next happens then."""
        self.now = after(seconds)
        return self

    def say(self, source: str, stream: str, *events: Any, actor: str = "ops") -> History:
        """Append events to a stream of a service."""
        for event in events:
            name, schema_version, data = registry.encode(event)
            partition = partition_of(key_of(stream))
            seq = self._seqs[source, partition] = self._seqs.get((source, partition), 0) + 1
            version = 0
            if not isinstance(event, CommandSettled):
                version = self._versions[stream] = self._versions.get(stream, 0) + 1
            self.rows.append(
                Recorded(
                    source=source,
                    epoch=1,
                    topic=events_topic(source),
                    partition=partition,
                    seq=seq,
                    stream=stream,
                    version=version,
                    type=name,
                    schema_version=schema_version,
                    data=data,
                    meta=Meta(occurred_at=self.now, actor=actor, correlation_id="c1"),
                )
            )
            self.now += dt.timedelta(seconds=1)
        return self

    def model(self) -> MemoryReadModel:
        """The read models that follow."""
        return projected(self.rows)

    def document(self, table: str, row: str) -> Any:
        """One document; None where there is no row."""
        return self.model().tables[table].get(row)


def projected(rows: Sequence[Recorded], *, batch: int = 1_000) -> MemoryReadModel:
    """The read models after rows, folded in batches."""
    model = MemoryReadModel()
    for start in range(0, len(rows), batch):
        project(rows[start : start + batch], model)
    return model


def protected(vm: str = "db", *, plan: str = "shop", **fields: Any) -> VmProtected:
    """A VM that joins a plan."""
    fields.setdefault("definition", VmDefinition(name=vm))
    fields.setdefault("replication", POLICY)
    return VmProtected(
        plan=plan, vm=vm, plan_version=1, protected=EAST, recovery_site=WEST, **fields
    )
