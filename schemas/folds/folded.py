"""Documents folded from nothing by the views' own folds.

Pure. For whoever wants documents as they were, or as a log tells them, without read models.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from schemas.envelope import Recorded
from schemas.folds import VIEWS
from schemas.folds.base import put
from schemas.folds.router import Router, changed_by


class Folded:
    """Documents of some views, by table and id. Rows of one stream come in the stream's order."""

    def __init__(self, tables: Collection[str]) -> None:
        self.tables: dict[str, dict[str, Any]] = {table: {} for table in tables}
        # A view that nobody asked for keeps its place and is fed by nothing.
        self._router = Router(
            tuple(
                view if view.table in tables else msgspec.structs.replace(view, routes={})
                for view in VIEWS
            )
        )
        self.passed_over = self._router.passed_over()

    def take(self, rows: Iterable[Recorded]) -> None:
        """Fold rows. Raises UnknownType for one that this build does not know."""
        works = [self._router.work(row) for row in rows]
        for view, documents in zip(VIEWS, changed_by(works, self._document), strict=True):
            if documents:
                put(self.tables[view.table], documents)

    def _document(self, view: int, row: str) -> Any:
        return self.tables[VIEWS[view].table].get(row)
