"""The limits a simulated recovery runs into: token buckets and so many at once.

Times are seconds from the beginning of the simulation. Owns when the next call may pass; not who
is next (`simulation`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from shared.decider import OPEN_FROM


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """A token bucket (`burst`, `per_second`), or so many at once (`concurrent`).

    `tokens` are those in the bucket at the beginning, None where it is full; `in_use` are slots
    that others hold for as long as the simulation lasts.
    """

    name: str
    burst: float = 1.0
    per_second: float | None = None
    tokens: float | None = None
    concurrent: int | None = None
    in_use: int = 0

    @property
    def is_open(self) -> bool:
        """Whether it restricts nothing."""
        return max(self.per_second or 0.0, self.concurrent or 0) >= OPEN_FROM


class Bucket:
    """A token bucket, kept as the moment at which it will be full again.

    That moment moves by 1/rate with every call, so nothing is added up tick by tick: the n-th
    call of a queue passes at (n - burst) / rate to a rounding error.
    """

    def __init__(self, limit: Limit) -> None:
        assert limit.per_second is not None, "a bucket has a rate"
        burst = max(limit.burst, 1.0)
        held = burst if limit.tokens is None else min(limit.tokens, burst)
        self.name = limit.name
        self._per_second = limit.per_second
        self._slack_s = (burst - 1) / limit.per_second if limit.per_second > 0 else math.inf
        self._full_at = (burst - held) / limit.per_second if limit.per_second > 0 else 0.0
        self._left = held if limit.per_second <= 0 else math.inf

    def free_at(self, now: float) -> float:
        """When one more may pass, not before `now`; never (inf) where nothing comes back."""
        if self._left < 1:
            return math.inf
        return max(now, self._full_at - self._slack_s)

    def take(self, now: float) -> None:
        """One passes."""
        if self._per_second > 0:
            self._full_at = max(self._full_at, now) + 1 / self._per_second
        self._left -= 1

    def give_back(self) -> None:
        """A token that was spent stays spent."""


class Slots:
    """So many at once."""

    def __init__(self, limit: Limit) -> None:
        assert limit.concurrent is not None, "slots are counted"
        self.name = limit.name
        self._free = max(limit.concurrent - limit.in_use, 0)

    def free_at(self, now: float) -> float:
        """`now`, or inf while all are taken: whoever gives one back asks again."""
        return now if self._free > 0 else math.inf

    def take(self, now: float) -> None:
        """One is held from now on."""
        self._free -= 1

    def give_back(self) -> None:
        """One is free again."""
        self._free += 1


Resource = Bucket | Slots


def resources_of(limits: Iterable[Limit]) -> dict[str, Resource]:
    """What restricts something, by name; limits that are open are left out."""
    made: dict[str, Resource] = {}
    for limit in limits:
        if limit.is_open:
            continue
        if limit.per_second is not None:
            made[limit.name] = Bucket(limit)
        elif limit.concurrent is not None:
            made[limit.name] = Slots(limit)
    return made


def needed_of(names: Sequence[str], resources: Mapping[str, Resource]) -> tuple[Resource, ...]:
    """Those of the named limits that restrict something, in their order."""
    return tuple(resources[name] for name in names if name in resources)
