"""What the logs say so far, decoded once: by type, and which jobs have not ended."""

from __future__ import annotations

from typing import Any, Final, TypeVar

from schemas import directions, lost_sites, registry, reversals
from schemas import operations as ops
from schemas import recovery as rec
from schemas import recovery_steering as steer
from schemas import replicator as rep
from schemas.common import CommandSettled
from schemas.envelope import Recorded, events_topic
from schemas.ids import PARTITIONS
from tests.simulation.plane import LOGGED, Plane

T = TypeVar("T")
Fact = tuple[Recorded, Any]

BEGINS: Final[dict[type, tuple[type, ...]]] = {
    rec.RecoveryStarted: (rec.RecoveryFinished,),
    rec.VmLaunched: (rec.VmFinished,),
    rec.CleanupStarted: (rec.CleanupFinished,),
    ops.CommitStarted: (ops.CommitFinished,),
    ops.RollbackStarted: (ops.RollbackFinished,),
    reversals.ReversalStarted: (reversals.ReversalFinished,),
    lost_sites.SitePowerOffStarted: (lost_sites.SitePowerOffFinished,),
    rep.IterationStarted: (rep.IterationFinished,),
    rep.RunStarted: (rep.RunFinished,),
    rep.CheckpointStarted: (rep.CheckpointFinished,),
    rep.CheckpointDeletionStarted: (rep.CheckpointDeleted,),
    rep.InspectionStarted: (rep.InspectionEnded,),
}
"""What begins, and how it ends."""

GOES_ON: Final[dict[type, type]] = {
    steer.RecoveryReopened: rec.RecoveryStarted,
    steer.VmRetried: rec.VmLaunched,
}
"""What has an ended job go on under its id."""


class Facts:
    """The events of all services, read on from where they were read last."""

    def __init__(self, world: Plane) -> None:
        self._world = world
        self._after: dict[str, dict[int, int]] = {}
        self.by_type: dict[type, list[Fact]] = {}
        self.by_stream: dict[str, list[Fact]] = {}
        self.open: dict[tuple[type, str], Recorded] = {}
        self.settled: set[str] = set()

    async def refresh(self) -> None:
        """Take in what was added."""
        for service in LOGGED:
            topic = events_topic(service)
            after = self._after.setdefault(service, dict.fromkeys(range(PARTITIONS), 0))
            for row in await self._world.stores[service].read(topic, after, count_max=1_000_000):
                after[row.partition] = row.seq
                self._take(row, registry.decode(row.type, row.schema_version, row.data))

    def _take(self, row: Recorded, body: Any) -> None:
        kind = type(body)
        self.by_type.setdefault(kind, []).append((row, body))
        # Answers to commands lie beside a stream, not in it; and a history begins with its start.
        if row.version and kind is not directions.SourcesNamed:
            self.by_stream.setdefault(row.stream, []).append((row, body))
        if isinstance(body, CommandSettled):
            self.settled.add(body.command_id)
        if kind in BEGINS or kind in GOES_ON:
            self.open[GOES_ON.get(kind, kind), row.stream] = row
        for begin, ends in BEGINS.items():
            if kind in ends:
                self.open.pop((begin, row.stream), None)

    def of(self, kind: type[T]) -> list[tuple[Recorded, T]]:
        """The events of a type, in log order per partition."""
        return self.by_type.get(kind, [])

    def streams(self, kind: type) -> list[str]:
        """The streams that have an event of a type, in order."""
        return list(dict.fromkeys(row.stream for row, _ in self.by_type.get(kind, ())))

    def running(self, *kinds: type) -> list[str]:
        """The jobs of these kinds that have begun and not ended."""
        return [stream for kind, stream in self.open if kind in kinds]

    def to_clean(self) -> list[str]:
        """Recoveries that have ended, made something, and are not cleaned nor being cleaned."""
        cleaned = {row.stream for row, _ in self.of(rec.RecoveryCleaned)}
        cleaning: dict[str, int] = {}
        for row, _ in self.of(rec.RecoveryCleaning):
            cleaning[row.stream] = cleaning.get(row.stream, 0) + 1
        for row, _ in self.of(rec.RecoveryCleanupIncomplete):
            cleaning[row.stream] = cleaning.get(row.stream, 0) - 1
        return [
            row.stream
            for row, end in self.of(rec.RecoveryFinished)
            if end.awaits_cleanup and row.stream not in cleaned and not cleaning.get(row.stream)
        ]

    def committed(self) -> list[str]:
        """Recoveries whose instances are the VMs now, and were not deleted since."""
        cleaned = set(self.streams(rec.RecoveryCleaned))
        return [job for job in self.streams(ops.RecoveryCommitted) if job not in cleaned]

    def unclean(self) -> list[str]:
        """Recoveries whose things are not all gone, though nobody keeps them."""
        gone = {*self.streams(rec.RecoveryCleaned), *self.streams(ops.RecoveryRolledBack)}
        gone |= set(self.streams(ops.RecoveryCommitted))
        ends = {row.stream: end for row, end in self.of(rec.RecoveryFinished)}
        return [
            job
            for job, end in ends.items()
            if (end.awaits_cleanup or end.awaits_commit) and job not in gone
        ]
