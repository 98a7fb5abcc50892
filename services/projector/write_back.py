"""Documents of a rebuild: each is written when it is let go, not whenever it changes.

Nobody reads the new tables before they are in place, so a VM that changes with every tick is
written once, and a request that came and went is never written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from schemas.folds import VIEWS
from services.projector.projection import Batch, Documents

Rows = tuple[dict[str, Any], ...]
"""`rows[i]` are documents of `VIEWS[i]` by id."""


class Unwritten(msgspec.Struct):
    """What has to be written: rows the tables lack, and rows they have; None: the row goes."""

    new: Rows
    stored: Rows


class WriteBack(Documents):
    """Documents that know what of them the tables lack; at most `count_max` and one batch."""

    def __init__(self, count_max: int) -> None:
        super().__init__(count_max)
        self.complete = True
        self._changed: set[tuple[int, str]] = set()
        self._stored: set[tuple[int, str]] = set()

    def loaded(self, view: int, rows: Iterable[str], found: Mapping[str, Any]) -> None:
        """Keep what was loaded; rows that were not found are absent."""
        super().loaded(view, rows, found)
        self._stored.update((view, row) for row in found)

    def committed(self, batch: Batch) -> None:
        """Keep what a batch changed, to be written later."""
        super().committed(batch)
        for view, documents in enumerate(batch.documents):
            self._changed.update((view, row) for row in documents)

    def let_go(self, keep: int | None = None) -> Unwritten:
        """Forget all but the `keep` used last (None: the bound); gives what is unwritten of them.

        Whoever gets it must have written it before a document is loaded.
        """
        unwritten = Unwritten(
            new=tuple({} for _ in VIEWS),
            stored=tuple({} for _ in VIEWS),
        )
        bound = self._count_max if keep is None else keep
        while len(self._held) > bound:
            key, document = self._held.popitem(last=False)
            self.complete = False
            if key in self._changed:
                self._changed.discard(key)
                view, row = key
                if key in self._stored:
                    unwritten.stored[view][row] = document
                elif document is not None:
                    unwritten.new[view][row] = document
            self._stored.discard(key)
        return unwritten
