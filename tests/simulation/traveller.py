"""Operators who travel: failover, reversal, failback, and what a lost second site makes of it.

They are patient: the next leg begins when the one before has ended, or it takes too long. All of
it is under the misfortunes that the world has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from schemas import recovery as rec
from schemas import recovery_steering as steer
from tests.simulation import operations, views
from tests.simulation.operations import Where
from tests.simulation.operator import Operator

LEGS: Final = 7
"""There and back again, and two decisions between, and a mistake."""

PATIENCE_S: Final = 120.0
MODES: Final[dict[Where, tuple[str, ...]]] = {
    "home": ("failover", "migrate"),
    "away": ("reverse",),
    "reversed": ("failback", "failback", "failover"),
}


class Traveller(Operator):
    """The operators when the random acts of a day are over."""

    async def go_on(self, *, steps: int, pause_s: float) -> None:
        """So many random acts; then the legs of a journey."""
        await super().go_on(steps=steps, pause_s=pause_s)
        for _ in range(LEGS if self.travels else 0):
            await self._patiently()
            for plan in self.plans:
                await self._leg(plan)

    async def _patiently(self) -> None:
        """Wait until all jobs have ended, or so long; answer whoever asks meanwhile."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_S
        while loop.time() < deadline:
            await asyncio.sleep(self._chance.uniform(2.0, 8.0))
            await self.facts.refresh()
            if not self.facts.open:
                return
            await self._nudge()

    async def _leg(self, plan: str) -> None:
        chance = self._chance
        open_now = [v for v in views.recoveries(self.facts) if v.start.plan == plan and v.window]
        for view in open_now:
            usable = view.end is not None and view.end.ready and chance.random() < 0.8
            await (self._commit(view) if usable else self._roll_back(view))
        if open_now:
            return
        for view in views.recoveries(self.facts):
            # What it was is in the way of what comes there next, by its name; or it is a mistake.
            idle = view.to_delete and view.freed
            if view.start.plan == plan and (idle or (view.taken and self._seldom())):
                await self._clean_one(view)
        for name in self._world.sites:
            if chance.random() < 0.7:
                self._world.lose_site(name, lost=False)
        await self.release_all()
        where = chance.choice(sorted(self._places(plan)))
        operation = operations.of(chance.choice(MODES[where]))
        fields: dict[str, Any] = {}
        if operation.mode == "failover" and chance.random() < 0.4:
            self._world.lose_site("east" if where == "home" else "west", lost=True)
            fields["source_gone"] = chance.random() < 0.9
        vms = self.those(plan, where)
        if vms:
            await self.start(plan, operation, vms=vms, **fields)

    def _places(self, plan: str) -> set[Where]:
        where = views.whereabouts(self.facts, plan)
        return {where.get(vm.name, "home") for vm in self.plans[plan].vms}

    def those(self, plan: str, where: str) -> tuple[str, ...]:
        """The VMs of a plan that run there."""
        away = views.whereabouts(self.facts, plan)
        names = sorted(vm.name for vm in self.plans[plan].vms)
        there = [name for name in names if away.get(name, "home") == where]
        return tuple(name for name in there if where == "home" or self._lives_on(name))

    async def release_all(self) -> None:
        """Answer for every quarantined site that is there, now and then by powering off first."""
        for site in self._world.sites:
            if self._world.sites[site].is_there and self._quarantined(site):
                if self._seldom():
                    await self._power_off(site)
                    await self._settled()
                await self._release(site, certain=True)
        await self._settled()

    async def _nudge(self) -> None:
        """Whoever waits for a person is answered, who is paused goes on."""
        acts: list[Callable[[], Awaitable[object]]] = []
        for view in views.recoveries(self.facts):
            if view.end is not None:
                continue
            vms = views.vms(self.facts, view)
            acts += [act for _, act in self._questions(view, vms)]
            if view.paused:
                acts.append(self._job_command(steer.ResumeJob, view.start.job))
            acts += [
                self._job_command(steer.ResumeJob, vm.stream)
                for vm in vms
                if vm.paused and vm.end is None
            ]
        for job in self.facts.running(rec.CleanupStarted):
            if self.facts.by_stream[job] and _is_paused(self.facts.by_stream[job]):
                acts.append(self._job_command(steer.ResumeJob, job))
        for act in acts:
            await act()


def _is_paused(history: list[Any]) -> bool:
    paused = False
    for _, body in history:
        if isinstance(body, steer.CleanupPaused):
            paused = True
        elif isinstance(body, steer.CleanupResumed | rec.CleanupCancelRequested):
            paused = False
    return paused
