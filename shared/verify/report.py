"""What a verification found: counts, and problems that say where, what and what to do."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

FLAWS_TOLD_MAX = 50
"""Problems told per service: a broken disk would fill every screen."""

Told = Callable[[str, int], None]
"""Is told a service and how many of its rows were checked so far."""


class Flaw(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it must be. `code` is stable and scripted against."""

    code: str
    where: str
    message: str
    remedy: str


class Checked(msgspec.Struct, kw_only=True):
    """One service's log: what was counted, and its flaws, the first ones of them in words."""

    service: str
    rows: int = 0
    streams: int = 0
    types: int = 0
    cursors: int = 0
    elapsed_s: float = 0.0
    flaw_count: int = 0
    flaws: list[Flaw] = []

    def add(self, flaw: Flaw) -> None:
        """Count a flaw, and keep it if there is room."""
        self.flaw_count += 1
        if len(self.flaws) < FLAWS_TOLD_MAX:
            self.flaws.append(flaw)
