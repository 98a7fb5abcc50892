"""Which documents an event changes, and the changes themselves: the middle of every projection.

Pure: rows and documents come in, documents go out. The live projector, a rebuild, the read models
in memory and time travel all go through here, which is why they come to the same documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from schemas import registry
from schemas.envelope import Recorded
from schemas.folds import VIEWS
from schemas.folds.base import Fold, Rows, View

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

    def passed_over(self) -> list[str]:
        """Stored names of types that no view wants. A type of a newer build is none of them."""
        return [name for name in registry.names()
                if registry.struct_of(name) not in self._targets]  # fmt: skip


def changed_by(
    works: Iterable[Work], document_of: Callable[[int, str], Any]
) -> tuple[dict[str, Any], ...]:
    """The documents after the rows, by id, `[i]` those of `VIEWS[i]`; None: the row goes.

    `document_of(view, row)` gives a document as it was before the first of them.
    """
    changed: tuple[dict[str, Any], ...] = tuple({} for _ in VIEWS)
    for recorded, body, changes in works:
        for view, row, apply in changes:
            document = changed[view].get(row, _ABSENT)
            if document is _ABSENT:
                document = document_of(view, row)
            changed[view][row] = apply(document, body, recorded, row)
    return changed
