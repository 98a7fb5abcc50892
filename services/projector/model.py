"""The port of the read models, and their twin in memory for tests and simulation.

Cursors, documents and events of one batch become visible together or not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from schemas.envelope import Recorded
from schemas.folds import VIEWS
from schemas.folds.base import put
from schemas.folds.events import EventRow
from schemas.folds.router import Router
from services.projector.projection import Batch, Documents, Where, fold
from shared.eventlog.port import Fenced


class ReadModel(Protocol):
    """Where the projector writes. Time-outs and a database that is away raise Transient."""

    async def cursors(self) -> Mapping[Where, tuple[int, int]]:
        """(source, topic, partition) → (epoch, seq); commits stand on these until called again."""

    async def load(self, view: int, ids: Collection[str]) -> Mapping[str, Any]:
        """The documents of `VIEWS[view]` that exist among `ids`."""

    async def commit(self, batch: Batch) -> None:
        """Write all of it or nothing. Raises Fenced: a cursor is not where the batch began."""

    async def tell_freshness(self, copy_id: str, lag_s: float) -> None:
        """Say how far behind this copy is."""

    async def prune(self, *, keep_days: int) -> None:
        """Let ended iterations go that are older, and progress nobody tells any more."""


class MemoryReadModel:
    """The read models as dictionaries: `tables` by name, `events` in the order of positions."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, Any]] = {view.table: {} for view in VIEWS}
        self.events: list[EventRow] = []
        self.lag_s: dict[str, float] = {}
        self._cursors: dict[Where, tuple[int, int]] = {}

    async def cursors(self) -> Mapping[Where, tuple[int, int]]:
        return dict(self._cursors)

    async def load(self, view: int, ids: Collection[str]) -> Mapping[str, Any]:
        table = self.tables[VIEWS[view].table]
        return {row: table[row] for row in ids if row in table}

    async def commit(self, batch: Batch) -> None:
        self.apply(batch)

    def apply(self, batch: Batch) -> None:
        """`commit`, for callers without an event loop."""
        for move in batch.cursors:
            where = (move.source, move.topic, move.partition)
            if self._cursors.get(where, (0, 0))[1] != move.before:
                raise Fenced("cursors", ["/".join(map(str, where))])
        for view, documents in zip(VIEWS, batch.documents, strict=True):
            put(self.tables[view.table], documents)
        self.events += batch.events
        for move in batch.cursors:
            where = (move.source, move.topic, move.partition)
            self._cursors[where] = (move.epoch, move.after)

    async def tell_freshness(self, copy_id: str, lag_s: float) -> None:
        self.lag_s[copy_id] = lag_s

    async def prune(self, *, keep_days: int) -> None:
        """Nothing lives that long in memory."""


def project(rows: Sequence[Recorded], model: MemoryReadModel) -> None:
    """Fold rows straight into memory: in seq order per (source, topic, partition)."""
    router, documents = Router(), Documents(count_max=0)
    works = [router.work(row) for row in rows]
    for view, ids in enumerate(documents.missing(works)):
        table = model.tables[VIEWS[view].table]
        documents.loaded(view, ids, {row: table[row] for row in ids if row in table})
    model.apply(fold(works, documents))
