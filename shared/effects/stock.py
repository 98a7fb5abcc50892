"""A budget of the queue in memory: what is left of it, and how it follows what platforms answer.

The rule is `adapt.py`; the twin of this in PostgreSQL is sql/0005_pre_adaptive.sql.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence

import msgspec

from shared.effects.adapt import (
    USED_S,
    Heard,
    Level,
    adapt,
    cap_of,
    depth_of,
    limit_of,
)
from shared.effects.port import Budget, BudgetState


class Answer(msgspec.Struct, frozen=True):
    """A refusal of a call of claim `claim_no`, or an outcome (None)."""

    budget: int
    at: float
    claim_no: int | None = None
    until: float | None = None


class Stock(msgspec.Struct):
    """A budget and what is left of it."""

    budget: Budget
    in_use: int
    tokens: float
    refilled_at: float
    level: Level = Level()
    used: float = 0.0
    lowered_claim: int = 0

    def limit(self, now: float) -> float:
        return limit_of(self.level, self.budget, now=now)

    def room(self, now: float) -> float:
        if self.paused_s(now):
            return 0
        if self.budget.mode == "rate":
            return self.filled(now)
        return math.floor(self.limit(now)) - self.in_use

    def filled(self, now: float) -> float:
        grown = self.limit(now) * max(now - self.refilled_at, 0)
        return min(depth_of(self.level, self.budget, now=now), self.tokens + grown)

    def take(self, units: int, now: float) -> None:
        if self.budget.mode == "rate":
            self.used = self._still_used(now) + units
            self.tokens = self.filled(now) - units
            self.refilled_at = max(now, self.refilled_at)
        else:
            self.in_use += units

    def wait_s(self, now: float) -> float | None:
        """Seconds until a bucket that is empty now has a token, or a pause is over."""
        paused_s = self.paused_s(now)
        if self.budget.mode != "rate":
            return paused_s or None
        limit, full = self.limit(now), self.room(now) >= 1
        if limit <= 0 or self.budget.burst < 1 or full:
            return None
        return paused_s + (1 - min(self.filled(now), 1)) / limit

    def hear(self, answers: Sequence[Answer], now: float, claim_no: int) -> None:
        """Follow what the platform answered; `claim_no` is the last claim's."""
        refused = [each.claim_no for each in answers if each.claim_no is not None]
        heard = Heard(
            ended=len(answers) - len(refused),
            refused=len(refused),
            fresh=sum(each > self.lowered_claim for each in refused),
            until=max((each.until for each in answers if each.until is not None), default=None),
        )
        adapted = adapt(
            self.level, self.budget, heard,
            now=now, used_per_s=self._still_used(now) / USED_S, in_use=self.in_use,
        )  # fmt: skip
        if adapted.tokens is not None:
            # Never more than there are: answers give no tokens.
            self.tokens = min(self.filled(now), adapted.tokens)
            self.refilled_at = max(self.refilled_at, now, adapted.level.paused_until or 0)
        self.level = adapted.level
        if adapted.lowered:
            self.lowered_claim = claim_no

    def paused_s(self, now: float) -> float:
        return max((self.level.paused_until or now) - now, 0)

    def _still_used(self, now: float) -> float:
        return self.used * math.exp(-max(now - self.refilled_at, 0) / USED_S)


def state_of(stock: Stock, now: float) -> BudgetState:
    """The budget as people are shown it."""
    level, limit = stock.level, stock.limit(now)
    return BudgetState(
        budget=stock.budget,
        in_use=stock.in_use,
        tokens=stock.filled(now) if stock.budget.mode == "rate" else 0,
        lowered_to=limit if limit < cap_of(stock.budget) else None,
        throttled=level.throttled,
        throttled_at=_instant_or_none(level.throttled_at),
        throttled_since=_instant_or_none(level.throttled_since),
        paused_until=instant(now + paused_s) if (paused_s := stock.paused_s(now)) else None,
        at=instant(now),
    )


def _instant_or_none(seconds: float | None) -> dt.datetime | None:
    return None if seconds is None else instant(seconds)


def instant(seconds: float) -> dt.datetime:
    """Seconds since the epoch as a moment."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
