"""Folds a batch of log rows into changed documents, events and cursors: the projector's middle.

Pure but for nothing: documents come in, documents go out. The live projector, a rebuild and the
in-memory read models all go through here, which is why they end up with the same rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from schemas import registry
from schemas.envelope import Recorded
from services.projector.views import VIEWS
from services.projector.views.base import Fold, Rows, View
from services.projector.views.events import EventRow, event_row
from shared.eventlog.port import CursorMove

Where = tuple[str, str, int]
"""(source, topic, partition)."""

_ABSENT: Final = object()


class Target(NamedTuple):
    """One route of one event type: the view by its place in VIEWS."""

    view: int
    fold: Fold
    rows: Rows | None


class Known(NamedTuple):
    """A type this build knows: the version it writes, and where its events go."""

    version: int
    targets: tuple[Target, ...]


class Work(NamedTuple):
    """One row, decoded if any view wants it, with the documents it changes."""

    recorded: Recorded
    body: Any
    changes: Sequence[tuple[int, str, Fold]]


class Batch(msgspec.Struct):
    """What one transaction writes. `documents[i]` are those of `VIEWS[i]`; None: the row goes."""

    documents: tuple[dict[str, Any], ...]
    events: list[EventRow]
    cursors: list[CursorMove]


class Router:
    """Which views an event of a type goes to; types are found out as they come."""

    def __init__(self, views: Sequence[View] = VIEWS) -> None:
        self._targets: dict[type, list[Target]] = {}
        for index, view in enumerate(views):
            for event, routes in view.routes.items():
                targets = self._targets.setdefault(event, [])
                targets += [Target(index, route.fold, route.rows) for route in routes]
        self._known: dict[str, Known] = {}

    def known(self, recorded: Recorded) -> Known:
        """Raises UnknownType for a type or version of a newer build."""
        known = self._known.get(recorded.type)
        if known is None:
            struct = registry.struct_of(recorded.type)
            targets = tuple(self._targets.get(struct, ()))
            known = self._known[recorded.type] = Known(registry.version_of(struct), targets)
        if recorded.schema_version > known.version:
            raise registry.UnknownType(
                f"type {recorded.type!r} version {recorded.schema_version} is not known"
            )
        return known

    def work(self, recorded: Recorded) -> Work:
        """The row's work. Raises UnknownType."""
        known = self.known(recorded)
        if not known.targets:
            return Work(recorded, None, ())
        body = registry.decode(recorded.type, recorded.schema_version, recorded.data)
        changes: list[tuple[int, str, Fold]] = []
        for view, fold, rows in known.targets:
            if rows is None:
                changes.append((view, recorded.stream, fold))
            else:
                changes += [(view, row, fold) for row in rows(body, recorded)]
        return Work(recorded, body, changes)


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
    changed: tuple[dict[str, Any], ...] = tuple({} for _ in VIEWS)
    events: list[EventRow] = []
    reached: dict[Where, tuple[int, int, int]] = {}
    for recorded, body, changes in works:
        for view, row, apply in changes:
            document = changed[view].get(row, _ABSENT)
            if document is _ABSENT:
                document = documents.get(view, row)
            changed[view][row] = apply(document, body, recorded, row)
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
