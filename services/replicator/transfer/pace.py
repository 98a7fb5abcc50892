"""Paces the data path's calls to one site by that site's request rates, within one process.

Owns token buckets in memory, shared by all disks of the site in this process. Does not share
rates between processes, and does not adapt them: a throttled site is left alone for as long as
it asks.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from shared.platforms.ports import BudgetFacts, Limits


class Pace(Protocol):
    """Lets calls start no faster than a site allows."""

    async def spend(self, call: str) -> None:
        """Return when a call of this name may start. A wait that is cancelled stays spent."""

    def hold(self, call: str, wait_s: float) -> None:
        """The site throttled such a call: start none for `wait_s` seconds."""


class RateBucket:
    """A token bucket kept as the time at which it is full again; times are monotonic seconds.

    Callers get their start times in the order in which they ask.
    """

    def __init__(self, *, burst: float, per_second: float) -> None:
        self._interval_s = 1.0 / per_second
        self._slack_s = max(0.0, burst - 1.0) * self._interval_s
        self._full_at_s = float("-inf")

    def reserve(self, now_s: float) -> float:
        """Take one token and return how many seconds from now its owner may start."""
        full_at_s = max(self._full_at_s, now_s)
        self._full_at_s = full_at_s + self._interval_s
        return max(0.0, full_at_s - self._slack_s - now_s)

    def empty_until(self, until_s: float) -> None:
        """Give no token before `until_s`, and no burst after it: the site knows better."""
        self._full_at_s = max(self._full_at_s, until_s + self._slack_s)


class SitePace:
    """The pace of one site, from what its adapter declares."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buckets = {
            budget.name: RateBucket(burst=budget.burst or 1.0, per_second=budget.per_second)
            for budget in limits.budgets()
            if _is_rate(budget) and budget.per_second
        }
        self._by_call: dict[str, tuple[RateBucket, ...]] = {}
        self._held_until_s: dict[str, float] = {}

    async def spend(self, call: str) -> None:
        """See `Pace`. Returns without yielding when nothing limits the call."""
        loop = asyncio.get_running_loop()
        buckets = self._buckets_of(call)
        while buckets or call in self._held_until_s:
            now_s = loop.time()
            held_s = self._held_until_s.get(call, now_s) - now_s
            if held_s <= 0:
                wait_s = max((bucket.reserve(now_s) for bucket in buckets), default=0.0)
                if wait_s <= 0:
                    return
                await asyncio.sleep(wait_s)
                if self._held_until_s.get(call, 0.0) <= loop.time():
                    return
            else:
                # The token is reserved after the hold: what waited must not start all at once.
                await asyncio.sleep(held_s)

    def hold(self, call: str, wait_s: float) -> None:
        """See `Pace`. Calls that already wait for their turn wait as long, too."""
        until_s = asyncio.get_running_loop().time() + wait_s
        self._held_until_s[call] = max(self._held_until_s.get(call, 0.0), until_s)
        for bucket in self._buckets_of(call):
            bucket.empty_until(until_s)

    def _buckets_of(self, call: str) -> tuple[RateBucket, ...]:
        buckets = self._by_call.get(call)
        if buckets is None:
            needed = self._limits.needs(call)
            buckets = tuple(self._buckets[name] for name in needed if name in self._buckets)
            self._by_call[call] = buckets
        return buckets


def _is_rate(budget: BudgetFacts) -> bool:
    return budget.per_second is not None and budget.per_second > 0
