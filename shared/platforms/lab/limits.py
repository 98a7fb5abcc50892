"""The budgets and latencies of a lab site. Owns no enforcement (`quotas`)."""

from __future__ import annotations

from collections.abc import Callable

from shared.platforms.lab.settings import SiteSettings
from shared.platforms.lab.vocabulary import CALLS
from shared.platforms.ports import BudgetFacts


class LabLimits:
    """The budgets that `site.yaml` sets at this moment; a quota it leaves out is no budget."""

    def __init__(self, settings: Callable[[], SiteSettings]) -> None:
        self._settings = settings

    def budgets(self) -> tuple[BudgetFacts, ...]:
        """One per quota of the site."""
        return tuple(
            BudgetFacts(
                name=name,
                concurrent=quota.concurrent,
                burst=quota.burst,
                per_second=quota.per_second,
            )
            for name, quota in sorted(self._settings().quotas.items())
        )

    def needs(self, call_name: str) -> tuple[str, ...]:
        """The budgets a call spends; KeyError for a name that is no call."""
        quotas = self._settings().quotas
        return tuple(name for name in CALLS[call_name] if name in quotas)

    def latency_s(self, call_name: str) -> float | None:
        """What `site.yaml` simulates; without it a call takes what its files take."""
        return self._settings().latency_s.get(call_name)
