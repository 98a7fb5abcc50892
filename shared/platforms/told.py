"""Limits that an operator told Seawall of a site, in place of what the platform says of itself.

A site's settings may hold `limit.<quota>`: `80` is so many at once, `20/s` a rate, `100,20/s` a
rate with its burst. Quotas that are not named stay as the platform says. What the platform then
really refuses is learned (shared/effects/adapt.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from shared.errors import Refused
from shared.platforms.ports import (
    BudgetFacts,
    Capabilities,
    Compute,
    GuestAgent,
    Inventory,
    Limits,
    Platform,
    Power,
    PrepNodes,
    Source,
    Target,
)

PREFIX: Final = "limit."
_ALLOWED: Final = "80 (at once), 20/s or 100,20/s (burst and rate)"


def apart(settings: Mapping[str, str]) -> tuple[dict[str, str], tuple[BudgetFacts, ...]]:
    """The platform's own settings, and the limits told. Raises Refused for one that is none."""
    own = {key: value for key, value in settings.items() if not key.startswith(PREFIX)}
    told = tuple(
        _fact(key.removeprefix(PREFIX), value)
        for key, value in sorted(settings.items())
        if key.startswith(PREFIX)
    )
    return own, told


def _fact(quota: str, value: str) -> BudgetFacts:
    text = value.replace(" ", "")
    try:
        if not text.endswith("/s"):
            return BudgetFacts(name=quota, concurrent=int(_positive(int(text))))
        burst, _, rate = text.removesuffix("/s").rpartition(",")
        per_second = _positive(float(rate))
        return BudgetFacts(
            name=quota,
            burst=_positive(float(burst)) if burst else max(per_second, 1.0),
            per_second=per_second,
        )
    except ValueError:
        raise Refused(
            f"{PREFIX}{quota}: found {value!r}; allowed: {_ALLOWED}",
            code="bad-site-settings",
            remedy=f"seawall site add NAME --set {PREFIX}{quota}=100,20/s",
        ) from None


def _positive(number: float) -> float:
    if not 0 < number < 1e9:
        raise ValueError(number)
    return number


class ToldLimits:
    """A platform's limits with those told in their place."""

    def __init__(self, limits: Limits, told: tuple[BudgetFacts, ...]) -> None:
        self._limits = limits
        self._told = told

    def budgets(self) -> tuple[BudgetFacts, ...]:
        """What the platform says, but for the quotas that were told."""
        names = {fact.name for fact in self._told}
        own = (fact for fact in self._limits.budgets() if fact.name not in names)
        return (*own, *self._told)

    def needs(self, call_name: str) -> tuple[str, ...]:
        """As the platform says."""
        return self._limits.needs(call_name)

    def latency_s(self, call_name: str) -> float | None:
        """As the platform says."""
        return self._limits.latency_s(call_name)


class ToldPlatform:
    """A platform whose limits an operator told."""

    def __init__(self, platform: Platform, told: tuple[BudgetFacts, ...]) -> None:
        self._platform = platform
        self._limits = ToldLimits(platform.limits, told)

    @property
    def capabilities(self) -> Capabilities:
        return self._platform.capabilities

    @property
    def inventory(self) -> Inventory:
        return self._platform.inventory

    @property
    def source(self) -> Source:
        return self._platform.source

    @property
    def power(self) -> Power:
        return self._platform.power

    @property
    def target(self) -> Target:
        return self._platform.target

    @property
    def compute(self) -> Compute:
        return self._platform.compute

    @property
    def prep(self) -> PrepNodes:
        return self._platform.prep

    @property
    def guests(self) -> GuestAgent:
        return self._platform.guests

    @property
    def limits(self) -> Limits:
        return self._limits

    async def close(self) -> None:
        await self._platform.close()
