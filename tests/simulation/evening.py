"""The evening of a world of recoveries: everything ends, is decided, and comes to rest.

Nothing fails by chance any more. Travellers bring home what is away, as far as they get. At last
every plan runs once more, so that what the other site has can be held against what there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from schemas import scheduler as sch
from tests.simulation import operations, views
from tests.simulation.traveller import Traveller

ROUNDS_MAX: Final = 8
"""So often the last hours are gone through: clean up, decide, look again."""

LEGS_MAX: Final = 5
"""So many more operations travellers ask for: there and back again, and a mistake."""

ROUNDS_OF_LEG: Final = 3
"""A leg begins, is decided about, and is cleaned up after."""

BEGINS_WITHIN_S: Final = 120
"""So long the message of a job may be on its way from who grants it to who does it."""


class Evening(Traveller):
    """The operators, when the day is over."""

    _legs = 0

    async def finish(self) -> list[str]:
        """Have everything end and be decided; what did not."""
        self._all_well()
        for plan in self.plans:
            await self._ask("scheduler", plan, sch.StopPlan, plan=plan)
        if not await self._settled():
            return ["settled: commands wait half an hour after the world was healed"]
        keeps = self.travels or self._chance.random() < 0.5
        for _ in range(ROUNDS_MAX + ROUNDS_OF_LEG * LEGS_MAX):
            if broken := await self._all_ended():
                return broken
            if not (await self._decide_all(keeps=keeps) or await self._travel_on()):
                break
            await self._settled()
        await self.release_all()
        broken = await self._run_all()
        for plan in self.plans:
            await self._ask("scheduler", plan, sch.DeletePlan, plan=plan)
        await self._settled()
        return broken or await self._all_ended()

    def _all_well(self) -> None:
        for name, site in self._world.sites.items():
            self._world.lose_site(name, lost=False)
            machines = [made.machine for made in site.instances.values()]
            for vm in (*site.vms.values(), *machines):
                vm.deaf = vm.stuck = False

    async def _travel_on(self) -> int:
        """Have one leg of a journey begin for each plan; how many that were."""
        if not self.travels or self._legs >= LEGS_MAX:
            return 0
        self._legs += 1
        await self.release_all()
        begun = 0
        for plan in self.plans:
            for where, mode in (("away", "reverse"), ("reversed", "failback")):
                vms = self.those(plan, where)
                if vms:
                    begun += 1
                    await self.start(plan, operations.of(mode), vms=vms)
                    break
        return begun

    async def _run_all(self) -> list[str]:
        """Every plan once more: whoever is not away is copied."""
        for plan in self.plans:
            away = views.whereabouts(self.facts, plan)
            vms = [vm.name for vm in self.plans[plan].vms if away.get(vm.name) != "away"]
            if vms:
                job = self._job("replication-run", plan)
                self._world.last_runs[job] = tuple(vms)
                await self._ask("scheduler", plan, sch.RunPlan, new=job, plan=plan)
        await self._settled()
        await self._begun(*self._world.last_runs)
        return await self._all_ended()

    async def _begun(self, *jobs: str) -> None:
        """What was granted has begun where it is done: before, it is not seen to be open."""
        for _ in range(BEGINS_WITHIN_S):
            await self.facts.refresh()
            if all(self.facts.by_stream.get(job) for job in jobs):
                return
            await asyncio.sleep(1.0)

    async def _decide_all(self, *, keeps: bool) -> int:
        """Clean up and decide about whatever waits for it; how many that were."""
        acts: list[Awaitable[object]] = []
        for view in views.recoveries(self.facts):
            if view.window:
                usable = view.end is not None and view.end.ready
                commits = usable and self._chance.random() < (0.8 if self.travels else 0.5)
                acts.append(self._commit(view, certain=True) if commits else self._roll_back(view))
            elif view.to_clean or (view.to_delete and (view.freed or not keeps)):
                acts.append(self._clean_one(view))
        for act in acts:
            await act
        return len(acts)
