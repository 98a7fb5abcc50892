"""Opens the adapters of sites, once per process and site; says what their limits are as budgets.

Knows the adapters' names; nobody else does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from shared.effects.port import Budget
from shared.errors import Permanent
from shared.platforms.lab import manifest as lab
from shared.platforms.ports import BudgetFacts, Platform
from shared.platforms.told import ToldPlatform, apart

ADAPTERS: Final[Mapping[str, Callable[[Mapping[str, str]], Platform]]] = {
    lab.NAME: lab.open_platform,
}

ARRIVAL_S: Final = 0.25
"""How much later than the least late a call may reach its platform after it was granted. Measured
on two busy cores: 0.1 to 0.26 s (`bench recover-2000`). It costs a recovery so long, once."""


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

    def __init__(self) -> None:
        self._open: dict[tuple[str, str, tuple[tuple[str, str], ...]], Platform] = {}

    def open(self, address: SiteAddress) -> Platform:
        """The site's adapter; opened again only where its settings changed.

        Limits that its settings tell stand in place of the platform's. Raises Permanent for a
        platform that this build does not have, Refused for settings it cannot have.
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
            settings, told = apart(address.settings)
            found = adapter(settings)
            self._open[key] = found = ToldPlatform(found, told) if told else found
        return found

    async def close(self) -> None:
        """Close every adapter."""
        for platform in self._open.values():
            await platform.close()
        self._open.clear()


def budget_of(site: str, fact: BudgetFacts) -> Budget:
    """A platform's limit as the work queue keeps it: a bucket's burst is smaller by ARRIVAL_S.

    The queue spends a token when it grants a call; the platform counts the call when it arrives.
    Where the first of many is late and the rest are not, more arrive in a window than were granted
    in it, and a bucket of the same size refuses them.
    """
    if fact.concurrent is not None:
        return Budget(name=f"{site}/{fact.name}", mode="hold", concurrent=fact.concurrent)
    burst, per_second = fact.burst or 1, fact.per_second or 1
    return Budget(
        name=f"{site}/{fact.name}",
        mode="rate",
        burst=max(burst - per_second * ARRIVAL_S, min(burst, 1)),
        per_second=per_second,
    )
