"""What a view is: one table of documents, and how each event of one stream family changes a row.

Pure. A fold takes the row's document (None: there is no row), the event, the log's row and the
row's id; it gives the document afterwards (None: the row goes). It sees no other row and no clock,
so that a rebuild ends where the live projection did.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from schemas.common import Problem
from schemas.envelope import Recorded
from schemas.views import Error, Job

Fold = Callable[[Any, Any, Recorded, str], Any]
Rows = Callable[[Any, Recorded], Iterable[str]]


class Route(NamedTuple):
    """Where events of one type go: which rows (None: the stream's own), by which fold."""

    fold: Fold
    rows: Rows | None = None


class Column(NamedTuple):
    """A column that queries filter by: its name, its SQL type, its value in the document."""

    name: str
    sql_type: str
    value: Callable[[Any], Any]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A table `read.<table>` of `document`s, fed by `routes` (event type → where it goes)."""

    table: str
    document: type[msgspec.Struct]
    columns: tuple[Column, ...] = ()
    routes: Mapping[type, tuple[Route, ...]]


def put(table: dict[str, Any], documents: Mapping[str, Any]) -> None:
    """Replace documents of a table by what folds gave (None: the row goes)."""
    for row, document in documents.items():
        if document is None:
            table.pop(row, None)
        else:
            table[row] = document


def cancelling(doc: Job | None, event: Any, recorded: Recorded, row: str) -> Job | None:
    """The fold of any request to cancel a job."""
    return doc and msgspec.structs.replace(doc, cancelling=True)


def at(recorded: Recorded) -> dt.datetime:
    """When the fact happened."""
    return recorded.meta.occurred_at


def error_of(problem: Problem | None) -> Error | None:
    """A problem as the documents tell it."""
    if problem is None:
        return None
    return Error(code=problem.code, message=problem.message, remedy=problem.remedy)
