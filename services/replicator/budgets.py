"""A site's budgets in the work queue: the platform's limits, open ones beside them, our node.

The queue lets nothing pass that names an undefined budget, and deciders name every quota a call
may spend. So each quota that a site does not limit is defined as an open budget when the site is
first looked at, also on behalf of the other services that call platforms.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Final

import structlog

from schemas.scheduler import SiteLimit
from services.replicator.domain.work import node_budget
from shared.decider import OPEN_FROM
from shared.effects.port import Budget, BudgetState, WorkQueue
from shared.errors import Permanent, Refused, Transient
from shared.platforms.ports import BudgetFacts, Platform
from shared.platforms.sites import SiteAddress, Sites, budget_of

log = structlog.get_logger()

REFRESH_S: Final = 5.0
DEFINE_S_MAX: Final = 10.0
NODE_DISKS: Final = 40
WRITES: Final = "snapshot-writes"
NODE: Final = "node"
"""What the node's budget is called among a site's limits."""

SHARE: Final = ":replication"
SHARE_OF_WRITES: Final = 0.8
"""Of a site's snapshot writes replication may hold so many, rounded up; the rest is kept."""

OPEN_RATE: Final = OPEN_FROM
OPEN_COUNT: Final = int(OPEN_FROM)

QUOTAS: Final[dict[str, str]] = {
    "CompleteSnapshot": "rate",
    "CopySnapshot": "rate",
    "CreateSnapshots": "rate",
    "CreateVolume": "rate",
    "DeleteSnapshot": "rate",
    "DeleteVolume": "rate",
    "DescribeInstances": "rate",
    "DescribeSnapshots": "rate",
    "DescribeTags": "rate",
    "RunInstances": "rate",
    "StartInstances": "rate",
    "StartSnapshot": "rate",
    "StopInstances": "rate",
    "TerminateInstances": "rate",
    "snapshot-writes": "hold",
}
"""Every quota that an effect of any service may name, and how it names it."""


def budgets_of(
    site: str, facts: Sequence[BudgetFacts], *, node_disks: int = NODE_DISKS
) -> list[Budget]:
    """What the work queue is to keep for a site, each name once.

    A limit of another mode than effects name it with is left to the platform's own refusals.
    """
    found = {f"{site}/{name}": _open(f"{site}/{name}", mode) for name, mode in QUOTAS.items()}
    for fact in facts:
        budget = budget_of(site, fact)
        if fact.name not in QUOTAS or QUOTAS[fact.name] == budget.mode:
            found[budget.name] = budget
    node = node_budget(site)
    share = share_of(found[f"{site}/{WRITES}"])
    return [*found.values(), share, Budget(name=node, mode="hold", concurrent=node_disks)]


def share_of(writes: Budget) -> Budget:
    """What replication may hold of a site's snapshot writes."""
    concurrent = writes.concurrent
    if concurrent < OPEN_COUNT:
        concurrent = math.ceil(concurrent * SHARE_OF_WRITES)
    return Budget(name=writes.name + SHARE, mode=writes.mode, concurrent=concurrent)


def missing_shares(states: Sequence[BudgetState]) -> list[Budget]:
    """Shares of writes that an earlier build defined without; work would wait for them for ever
    where nothing else looks at the site again."""
    names = {state.budget.name for state in states if state.cap > 0}
    return [
        share_of(state.budget)
        for state in states
        if state.budget.name.endswith(f"/{WRITES}")
        and state.cap > 0
        and state.budget.name + SHARE not in names
    ]


def limits_of(site: str, budgets: Sequence[Budget]) -> tuple[SiteLimit, ...]:
    """What really bounds replication at a site, for whoever computes what it sustains."""
    node = node_budget(site)
    return tuple(
        SiteLimit(
            name=NODE if budget.name == node else budget.name.removeprefix(f"{site}/"),
            concurrent=None if budget.mode == "rate" else budget.concurrent,
            per_second=budget.per_second if budget.mode == "rate" else None,
        )
        for budget in budgets
        if max(budget.concurrent, budget.per_second) < OPEN_RATE
        # A share is no limit of the site's; who computes what it sustains knows of it.
        and not budget.name.endswith(SHARE)
    )


def _open(name: str, mode: str) -> Budget:
    if mode == "rate":
        return Budget(name=name, mode=mode, burst=OPEN_RATE, per_second=OPEN_RATE)
    return Budget(name=name, mode=mode, concurrent=OPEN_COUNT)


class SiteBudgets:
    """Opens sites, and keeps the budgets of those that were opened as the sites say."""

    def __init__(self, sites: Sites, queue: WorkQueue, *, node_disks: int = NODE_DISKS) -> None:
        self._sites = sites
        self._queue = queue
        self._node_disks = node_disks
        self._open: dict[str, Platform] = {}
        self._opened = asyncio.Event()

    def open(self, address: SiteAddress) -> Platform:
        """The site's adapter; its budgets follow soon. Raises Permanent, Refused."""
        platform = self._sites.open(address)
        if self._open.get(address.site) is not platform:
            self._open[address.site] = platform
            self._opened.set()
        return platform

    async def define(self, address: SiteAddress) -> Sequence[Budget]:
        """The site's budgets, once they stand. Raises what the site or the queue raises."""
        return await self._define({address.site: self.open(address)})

    async def keep(self) -> None:
        """Define the budgets of all open sites again, at once for a new one, until cancelled."""
        completed = False
        while True:
            self._opened.clear()
            try:
                completed = completed or await self._complete()
                await self._define(self._open)
            except (Permanent, Transient, Refused) as error:
                log.info("budgets.not-kept", error=error.message)
            try:
                async with asyncio.timeout(REFRESH_S):
                    await self._opened.wait()
            except TimeoutError:
                continue

    async def _complete(self) -> bool:
        """Define the shares that are missing beside what earlier builds defined."""
        if missing := missing_shares(await self._queue.budgets()):
            await self._queue.define(missing)
        return True

    async def _define(self, platforms: dict[str, Platform]) -> Sequence[Budget]:
        budgets: list[Budget] = []
        for site, platform in tuple(platforms.items()):
            try:
                # Reading limits may touch a file or a cloud: not on the loop.
                facts = await asyncio.to_thread(platform.limits.budgets)
            except (Permanent, Transient) as unreadable:
                log.info("budgets.limits-unreadable", site=site, error=unreadable.message)
                facts = ()
            budgets += budgets_of(site, facts, node_disks=self._node_disks)
        if budgets:
            try:
                async with asyncio.timeout(DEFINE_S_MAX):
                    await self._queue.define(budgets)
            except TimeoutError:
                raise Transient(
                    f"defining budgets took over {DEFINE_S_MAX:g} s", code="timed-out"
                ) from None
        return budgets
