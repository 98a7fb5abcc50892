"""Opens the adapters of sites, once per process and site, and makes their limits budgets.

Knows the adapters' names; nobody else does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

import structlog

from shared.effects.port import Budget, WorkQueue
from shared.errors import Permanent, Refused, Transient
from shared.platforms.lab import manifest as lab
from shared.platforms.ports import BudgetFacts, Platform

log = structlog.get_logger()

ADAPTERS: Final[Mapping[str, Callable[[Mapping[str, str]], Platform]]] = {
    lab.NAME: lab.open_platform,
}
REFRESH_S: Final = 5.0


class SiteAddress(Protocol):
    """What names a site and says how to open it."""

    @property
    def site(self) -> str: ...
    @property
    def platform(self) -> str: ...
    @property
    def settings(self) -> Mapping[str, str]: ...


class Sites:
    """The open sites of a process."""

    def __init__(self, *, own: Callable[[str], Sequence[Budget]] = lambda site: ()) -> None:
        """`own` gives our own limits at a site, beside the platform's."""
        self._own = own
        self._changed = asyncio.Event()
        self._open: dict[tuple[str, str, tuple[tuple[str, str], ...]], Platform] = {}
        self._names: dict[str, Platform] = {}

    def open(self, address: SiteAddress) -> Platform:
        """The site's adapter; opened again only where its settings changed.

        Raises Permanent for a platform that this build does not have.
        """
        key = (address.site, address.platform, tuple(sorted(address.settings.items())))
        found = self._open.get(key)
        if found is None:
            adapter = ADAPTERS.get(address.platform)
            if adapter is None:
                raise Permanent(
                    f"this build has no platform {address.platform!r}",
                    remedy=f"platforms: {', '.join(sorted(ADAPTERS))}",
                    code="unknown-platform",
                )
            found = self._open[key] = adapter(address.settings)
        if self._names.get(address.site) is not found:
            self._names[address.site] = found
            self._changed.set()
        return found

    async def keep_budgets(self, queue: WorkQueue) -> None:
        """Keep the queue's budgets as the sites say, until cancelled."""
        while True:
            self._changed.clear()
            try:
                if budgets := await asyncio.to_thread(self.budgets):
                    await queue.define(budgets)
            except Transient as away:
                log.debug("sites.budgets-not-defined", error=away.message)
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_S):
                    await self._changed.wait()

    def budgets(self) -> list[Budget]:
        """The limits of all open sites as budgets named `<site>/<limit>`."""
        found: list[Budget] = []
        for site, platform in tuple(self._names.items()):
            found += self._own(site)
            try:
                facts = platform.limits.budgets()
            except (Permanent, Transient, Refused) as unreadable:
                log.info("sites.limits-unreadable", site=site, error=unreadable.message)
                continue
            found += [budget_of(site, fact) for fact in facts]
        return found

    async def close(self) -> None:
        """Close every adapter."""
        for platform in self._open.values():
            await platform.close()
        self._open.clear()
        self._names.clear()


def budget_of(site: str, fact: BudgetFacts) -> Budget:
    """A platform's limit as the work queue keeps it."""
    if fact.concurrent is not None:
        return Budget(name=f"{site}/{fact.name}", mode="hold", concurrent=fact.concurrent)
    return Budget(
        name=f"{site}/{fact.name}",
        mode="rate",
        burst=fact.burst or 1,
        per_second=fact.per_second or 1,
    )
