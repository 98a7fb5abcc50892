"""Folds a batch of log rows into changed documents, events and cursors: the projector's middle.

Pure but for nothing: documents come in, documents go out. The live projector, a rebuild and the
in-memory read models all go through here, which is why they end up with the same rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from schemas.folds import VIEWS
from schemas.folds.events import EventRow, event_row
from schemas.folds.router import Work, changed_by
from shared.eventlog.port import CursorMove

Where = tuple[str, str, int]
"""(source, topic, partition)."""


class Batch(msgspec.Struct):
    """What one transaction writes. `documents[i]` are those of `VIEWS[i]`; None: the row goes."""

    documents: tuple[dict[str, Any], ...]
    events: list[EventRow]
    cursors: list[CursorMove]


class Documents:
    """The documents used last, None for rows known to be absent; at most `count_max`.

    `complete`: every row there is is held, as in a rebuild that began with empty tables; it ends
    by itself when the first one is dropped.
    """

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._held: OrderedDict[tuple[int, str], Any] = OrderedDict()
        self.complete = False

    def missing(self, works: Iterable[Work]) -> tuple[set[str], ...]:
        """Ids to load before folding, per view. A stream that begins has no row yet."""
        missing: tuple[set[str], ...] = tuple(set() for _ in VIEWS)
        for recorded, _, changes in works:
            for view, row, _ in changes:
                if (view, row) in self._held:
                    self._held.move_to_end((view, row))
                elif self.complete or (recorded.version == 1 and row.startswith(recorded.stream)):
                    self._held[view, row] = None
                else:
                    missing[view].add(row)
        return missing

    def get(self, view: int, row: str) -> Any:
        """The document of a row that was loaded."""
        return self._held[view, row]

    def loaded(self, view: int, rows: Iterable[str], found: Mapping[str, Any]) -> None:
        """Keep what was loaded; rows that were not found are absent."""
        for row in rows:
            self._held[view, row] = found.get(row)

    def committed(self, batch: Batch) -> None:
        """Keep what was written."""
        for view, documents in enumerate(batch.documents):
            for row, document in documents.items():
                self._held[view, row] = document

    def trim(self) -> None:
        """Drop the least recently used past the bound."""
        while len(self._held) > self._count_max:
            self._held.popitem(last=False)
            self.complete = False

    def clear(self) -> None:
        """Forget everything: somebody else may have written."""
        self._held.clear()


def fold(works: Sequence[Work], documents: Documents) -> Batch:
    """Fold the rows in order; every document they change must be in `documents`."""
    changed = changed_by(works, documents.get)
    events: list[EventRow] = []
    reached: dict[Where, tuple[int, int, int]] = {}
    for recorded, _, _ in works:
        if recorded.version > 0:
            events.append(event_row(recorded))
        where = (recorded.source, recorded.topic, recorded.partition)
        before = reached[where][0] if where in reached else recorded.seq - 1
        reached[where] = (before, recorded.seq, recorded.epoch)
    moves = [
        CursorMove(source, epoch, topic, partition, before, after)
        for (source, topic, partition), (before, after, epoch) in sorted(reached.items())
    ]
    return Batch(documents=changed, events=events, cursors=moves)
