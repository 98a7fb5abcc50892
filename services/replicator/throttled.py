"""Watches what platforms refuse: metrics of every budget that a site limits, and the long trouble.

Every copy watches; the budgets are those of all services that call platforms. What is news is
decided in `domain/throttling.py`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

import structlog

from schemas.replicator import NoteThrottling
from services.replicator.budgets import OPEN_RATE
from shared.effects.adapt import CALM_S
from shared.effects.port import BudgetState
from shared.errors import Transient

log = structlog.get_logger()

LOOK_EVERY_S: Final = 5.0
LONG_S: Final = 600.0
"""Refusals without a pause of CALM_S for so long are a person's business."""


class Gauges(Protocol):
    """Where budgets are shown to whoever measures."""

    def budget(self, name: str, *, limit: float, cap: float, in_use: int) -> None: ...

    def budget_refused(self, name: str, count: int) -> None: ...


def notes(states: Iterable[BudgetState]) -> list[NoteThrottling]:
    """What there is to say of budgets that were ever refused; nothing while it may turn."""
    found = []
    for state in states:
        holds = _for_long(state)
        site, slash, quota = state.budget.name.partition("/")
        if holds is None or not slash:
            continue
        found.append(
            NoteThrottling(
                site=site,
                quota=quota,
                holds=holds,
                mode=state.budget.mode,
                limit=round(state.limit, 3),
                cap=state.cap,
                throttled=state.throttled,
                since=state.throttled_since,
                throttled_at=state.throttled_at,
            )
        )
    return found


def _for_long(state: BudgetState) -> bool | None:
    """True for a trouble that lasts, False for one that is over, None for one that is young."""
    at, last, since = state.at, state.throttled_at, state.throttled_since
    if at is None or last is None or since is None:
        return None
    if at - last >= dt.timedelta(seconds=CALM_S):
        return False
    return True if at - since >= dt.timedelta(seconds=LONG_S) else None


class ThrottleWatch:
    """Looks at all budgets every LOOK_EVERY_S; `tell` has a note decided."""

    def __init__(
        self,
        budgets: Callable[[], Awaitable[Sequence[BudgetState]]],
        *,
        gauges: Gauges,
        tell: Callable[[NoteThrottling], Awaitable[None]],
    ) -> None:
        self._budgets = budgets
        self._gauges = gauges
        self._tell = tell
        self._told: dict[tuple[str, str], bool] = {}

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                await self.look()
            except Transient as away:
                log.info("budgets.not-seen", error=away.message)
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Show every budget, and tell what this copy has not told yet. Raises Transient."""
        states = await self._budgets()
        for state in states:
            name = state.budget.name
            if state.cap < OPEN_RATE or state.lowered_to is not None:
                self._gauges.budget(name, limit=state.limit, cap=state.cap, in_use=state.in_use)
            if state.throttled:
                self._gauges.budget_refused(name, state.throttled)
        for note in notes(states):
            key = note.site, note.quota
            if self._told.get(key) != note.holds:
                await self._tell(note)
                self._told[key] = note.holds
