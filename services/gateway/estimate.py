"""When queued work will start, as far as budgets and what stands before it say. Pure.

A forecast and no promise: slots are taken to be held for HOLD_S, workers to be free, and nobody to
come first who is not here yet. What a site has no limit on does not hold work up.
"""

from __future__ import annotations

import datetime as dt
import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Final

from shared.decider import OPEN_FROM
from shared.effects.port import Budget, BudgetState, Waiting

HOLD_S: Final[Mapping[str, float]] = {"snapshot-writes": 60.0}
"""How long a slot is taken to be held, by the quota's name (limits.md); else HOLD_DEFAULT_S."""

HOLD_DEFAULT_S: Final = 1.0
ASSUMES: Final = (
    f"a slot is held for {HOLD_DEFAULT_S:g} s, a snapshot write's for "
    f"{HOLD_S['snapshot-writes']:g} s; workers are free; nothing comes in between"
)


def is_open(budget: Budget) -> bool:
    """Whether a budget restricts nothing."""
    return max(budget.concurrent, budget.per_second) >= OPEN_FROM


def estimated_starts(
    waiting: Sequence[Waiting], budgets: Sequence[BudgetState], *, now: dt.datetime
) -> list[dt.datetime | None]:
    """For each in turn its start; None for what runs, and for what a budget will never let pass.

    `waiting` is the queue from its very head, in order.
    """
    clocks = {
        state.budget.name: (
            _Bucket(state, now=now) if state.budget.mode == "rate" else _Slots(state)
        )
        for state in budgets
        if not is_open(state.budget) or state.lowered_to is not None
    }
    found: list[dt.datetime | None] = []
    for work in waiting:
        if work.worker:
            found.append(None)
            continue
        needed = [clocks[need.budget] for need in work.needs if need.budget in clocks]
        after_s = max((work.ready_at - now).total_seconds(), 0.0)
        for clock in needed:
            after_s = max(after_s, clock.free_s())
        if after_s == float("inf"):
            found.append(None)
            continue
        for clock in needed:
            clock.take(after_s)
        found.append(now + dt.timedelta(seconds=after_s))
    return found


class _Bucket:
    """A rate: when its next token is there."""

    def __init__(self, state: BudgetState, *, now: dt.datetime) -> None:
        self._tokens = state.tokens
        self._per_second = state.limit
        until = state.paused_until
        self._paused_s = max((until - now).total_seconds(), 0.0) if until is not None else 0.0

    def free_s(self) -> float:
        """Seconds until one more may pass."""
        if self._tokens >= 1:
            return self._paused_s
        if self._per_second <= 0:
            return float("inf")
        return self._paused_s + (1 - self._tokens) / self._per_second

    def take(self, at_s: float) -> None:
        """One passes; what was spent in advance is owed."""
        self._tokens -= 1


class _Slots:
    """Slots: when the next one is free. Those in use now are taken to have just begun."""

    def __init__(self, state: BudgetState) -> None:
        name = state.budget.name.rpartition("/")[2]
        self._hold_s = HOLD_S.get(name, HOLD_DEFAULT_S)
        self._count = math.floor(state.limit)
        # More may be in use than a limit that was lowered allows.
        self._ends = [self._hold_s] * min(state.in_use, self._count)

    def free_s(self) -> float:
        """Seconds until a slot is free."""
        if not self._count:
            return float("inf")
        return 0.0 if len(self._ends) < self._count else self._ends[0]

    def take(self, at_s: float) -> None:
        """One is held from then on."""
        if len(self._ends) >= self._count:
            heapq.heappop(self._ends)
        heapq.heappush(self._ends, at_s + self._hold_s)
