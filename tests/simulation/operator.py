"""The operators of a world of recoveries: they start them, steer them and decide about them.

They ask for what makes sense at the moment, and now and then for what does not. What they may
start is a row of `operations`. How their day ends is in `evening`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

from schemas import lost_sites, reversals
from schemas import operations as ops
from schemas import recovery as rec
from schemas import recovery_steering as steer
from schemas import replicator as rep
from schemas import scheduler as sch
from schemas import scheduler_operations as sch_ops
from schemas.ids import key_of
from schemas.plans import PlanDefinition
from shared.platforms.memory import MemoryVm
from tests.simulation import operations, views
from tests.simulation.drill_plans import drill_plan, drill_vm
from tests.simulation.operations import Operation, Where
from tests.simulation.plane import Plane
from tests.simulation.plans import Temper
from tests.simulation.story import Story
from tests.simulation.strangers import STRANGER
from tests.simulation.views import RecoveryView, VmView

Act = tuple[int, Callable[[], Awaitable[object]]]
AWAY_S: Final = (20.0, 400.0)
TRAVELS: Final = 0.5


class Operator(Story):
    """The operators by day. Some are *travellers*: they mean what moved to stay, and to return."""

    def __init__(self, world: Plane, chance: random.Random, temper: Temper) -> None:
        super().__init__(world, chance, temper)
        self.travels = chance.random() < TRAVELS

    def new_vm(self, name: str) -> MemoryVm:
        vm = drill_vm(self._chance, name)
        vm.deaf = self._chance.random() < 0.12
        vm.stuck = vm.deaf and self._chance.random() < 0.5
        return vm

    def new_plan(self, plan: str, vms: list[str]) -> PlanDefinition:
        return drill_plan(self._chance, plan, vms=vms, scripts=self._scripts, temper=self._temper)

    def machines(self) -> dict[str, MemoryVm]:
        """Originals, and instances at both sites."""
        found = super().machines()
        for name, site in self._world.sites.items():
            for instance, made in site.instances.items():
                if made.facts.power == "on" and made.facts.vm != STRANGER:
                    found[f"{name}/{instance}"] = made.machine
        return found

    async def copied(self, *, within_s: float = 600.0) -> None:
        """Wait until every VM has a copy, or so long."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        count = sum(len(plan.vms) for plan in self.plans.values())
        current = self._world.sites["west"].current
        while loop.time() < deadline and len(current) < count:  # noqa: ASYNC110 - other tasks
            await asyncio.sleep(5.0)

    # The day.

    async def _act(self, plan: str) -> None:
        acts = [*self._about_plans(plan), *self._about_jobs(), *self._about_sites()]
        (act,) = self._chance.choices(acts, [weight for weight, _ in acts])
        await act[1]()

    def _about_plans(self, plan: str) -> list[Act]:
        views_ = [v for v in views.recoveries(self.facts) if v.start.plan == plan]
        busy = any(view.end is None for view in views_)
        names = [vm.name for vm in self.plans[plan].vms]
        return [
            (1 if busy else 14 if self.travels else 9, lambda: self._recover(plan)),
            (1, lambda: self._run(plan)),
            (1, lambda: self._checkpoint(plan)),
            (1, lambda: self._apply(plan, names)),
            (1, lambda: self._ask("scheduler", plan, sch.StartPlan, plan=plan)),
        ]

    def _about_jobs(self) -> list[Act]:
        acts: list[Act] = []
        for view in views.recoveries(self.facts):
            vms = views.vms(self.facts, view)
            acts += self._about_running(view) if view.end is None else self._about_ended(view)
            acts += self._questions(view, vms)
            for vm in vms:
                acts += self._about_vm(vm)
        for cleanup in self.facts.running(rec.CleanupStarted):
            acts += [(1, self._job_command(kind, cleanup)) for kind in _CLEANUP_COMMANDS]
        for reversal in self.facts.running(reversals.ReversalStarted):
            kinds = (rec.CancelRecoveryJob, steer.PauseJob, steer.RetryJob)
            acts += [(1, self._job_command(kind, reversal)) for kind in kinds]
        return acts

    def _about_running(self, view: RecoveryView) -> list[Act]:
        job = view.start.job
        turn = steer.ResumeJob if view.paused else steer.PauseJob
        return [
            (6 if view.paused else 2, self._job_command(turn, job)),
            (2, self._job_command(rec.CancelRecoveryJob, job)),
            (1, self._job_command(steer.RetryJob, job)),
        ]

    def _about_ended(self, view: RecoveryView) -> list[Act]:
        acts: list[Act] = []
        end = view.end
        if view.to_clean:
            acts.append((3, lambda: self._clean_one(view)))
        if view.to_clean and end is not None and end.state not in ("completed", "cancelled"):
            acts.append((9, self._job_command(steer.RetryJob, view.start.job)))
        if view.window:
            acts.append((14 if self.travels else 3, lambda: self._commit(view)))
            acts.append((2 if self.travels else 5, lambda: self._roll_back(view)))
            if not self.travels:
                acts.append((3, lambda: self._roll_back_to_nothing(view)))
            acts.append((1, lambda: self._clean_one(view)))
        if view.to_delete or view.taken:
            acts.append((5 if view.freed else 1, lambda: self._clean_one(view)))
        return acts

    def _questions(self, view: RecoveryView, vms: list[VmView]) -> list[Act]:
        asked = [(view.start.job, view.question), *((vm.stream, vm.question) for vm in vms)]
        return [(4, self._answer(job, each)) for job, each in asked if each is not None]

    def _about_vm(self, vm: VmView) -> list[Act]:
        if vm.end is None:
            kind = steer.ResumeJob if vm.paused else steer.PauseJob
            return [(3, self._job_command(kind, vm.stream))] if self._seldom() else []
        if vm.end.state == "completed":
            return []
        acts: list[Act] = [(2, self._job_command(steer.RetryJob, vm.stream))]
        bad = [step.name for step in vm.end.steps if step.state in ("failed", "unknown")]
        acts += [(1, self._job_command(steer.SkipStep, vm.stream, step=step)) for step in bad]
        return acts

    def _about_sites(self) -> list[Act]:
        acts: list[Act] = []
        for name, site in self._world.sites.items():
            if not site.is_there:
                acts.append((4, self._site_command(self._site_returns, name)))
            elif self._quarantined(name):
                acts.append((3 if self.travels else 2, self._site_command(self._release, name)))
                acts.append((3, self._site_command(self._power_off, name)))
        return acts

    def _site_command(
        self, act: Callable[[str], Awaitable[object]], site: str
    ) -> Callable[[], Awaitable[object]]:
        return lambda: act(site)

    def _seldom(self) -> bool:
        return self._chance.random() < 0.2

    # What they ask for.

    def _job_command(
        self, kind: type[Any], job: str, **fields: Any
    ) -> Callable[[], Awaitable[object]]:
        return lambda: self._ask("recovery", key_of(job), kind, job=job, **fields)

    def _answer(self, job: str, asked: steer.Question) -> Callable[[], Awaitable[object]]:
        choice = self._chance.choice(asked.choices)
        return self._job_command(steer.AnswerQuestion, job, step=asked.step, choice=choice)

    async def _recover(self, plan: str) -> None:
        chance = self._chance
        names = [vm.name for vm in self.plans[plan].vms]
        some = chance.sample(names, chance.randint(1, len(names)))
        away = views.whereabouts(self.facts, plan)
        where: Where = away.get(some[0], "home")
        operation = operations.chosen(chance, where)
        fields: dict[str, Any] = operation.asked(chance)
        source = "east" if where == "home" else "west"
        if chance.random() < operation.loses_site:
            self._world.lose_site(source, lost=True)
            fields |= {"source_gone": chance.random() < 0.7} if "source_gone" in fields else {}
        made = [
            stream for stream in self.facts.streams(rep.CheckpointFinished)
            if key_of(stream) == plan
        ]  # fmt: skip
        if operation.from_checkpoint and made and chance.random() < 0.2:
            fields["checkpoint"] = chance.choice(made)
        policy = self.plans[plan].recovery
        if policy.pre_script and operation.family == "recovery" and chance.random() < 0.2:
            fields["skip_scripts"] = ("pre-recovery",)
        if where == "reversed" and self._seldom():
            self._deafen(some[0])
        # Those that run at the same place, where others do not and nobody errs.
        alike = [name for name in names if away.get(name, "home") == where]
        if operation.mode == "reverse":
            alike = [name for name in alike if self._lives_on(name)]
        alone = alike if len(alike) < len(names) and not self._seldom() else ()
        vms = alone or (some if chance.random() < 0.25 else ())
        on_error = chance.choice((None, None, "stop", "continue"))
        if operation.family == "recovery":
            fields["on_error"] = on_error
        dry_run = chance.random() < 0.05
        await self.start(plan, operation, vms=tuple(sorted(vms)), dry_run=dry_run, **fields)

    async def start(self, plan: str, operation: Operation, **fields: Any) -> None:
        if operation.mode == "failback" and not self._seldom():
            self._switch_originals_off(plan)
        job = self._job(operation.family, plan)
        await self._ask(
            "scheduler", plan, sch.Recover, new=job, plan=plan, mode=operation.mode, **fields
        )

    def _lives_on(self, vm: str) -> bool:
        """Whether anybody would find the VM where it moved to: not if that was cleaned up."""
        made = [m.facts for site in self._world.sites.values() for m in site.instances.values()]
        return any((each.name, each.vm) == (vm, vm) for each in made)

    def _switch_originals_off(self, plan: str) -> None:
        """By hand, at their site: else what was given up there once keeps VMs from coming home."""
        where = views.whereabouts(self.facts, plan)
        for name, vm in self._world.sites["east"].vms.items():
            if where.get(name) == "reversed":
                vm.power = "off"
        self._world.sites["east"].look()

    def _deafen(self, vm: str) -> None:
        """The instance that a VM runs as does not end when it is asked to."""
        for made in self._world.sites["west"].instances.values():
            if made.facts.vm == vm:
                made.machine.deaf = True

    async def _clean_one(self, view: RecoveryView) -> None:
        plan = view.start.plan
        job = self._job("cleanup", plan)
        confirm = plan if view.committed and not view.freed else ""
        await self._ask(
            "recovery", plan, rec.StartCleanup, new=job, recovery=view.start.job, confirm=confirm
        )

    async def _commit(self, view: RecoveryView, *, certain: bool = False) -> None:
        """With the word that leaves out who did not come up, `certain` or as it happens."""
        plan = view.start.plan
        job = self._job("commit", plan)
        word = certain or self._world.chance(f"word of {job}").random() < 0.6
        await self._ask(
            "recovery",
            plan,
            ops.StartCommit,
            new=job,
            recovery=view.start.job,
            without_failed=word,
        )

    async def _roll_back(self, view: RecoveryView) -> None:
        plan = view.start.plan
        job = self._job("rollback", plan)
        confirm = "" if self._seldom() else plan
        # Whoever was told what to type for VMs that cannot come back types it.
        await self._ask(
            "recovery",
            plan,
            ops.StartRollback,
            new=job,
            recovery=view.start.job,
            confirm=confirm,
            leave_off=view.incomplete,
        )

    async def _roll_back_to_nothing(self, view: RecoveryView) -> None:
        """Of all moments when the site of the sources is away."""
        self._world.lose_site(view.start.header.protected.site, lost=True)
        await self._roll_back(view)

    def _quarantined(self, site: str) -> bool:
        begun = sum(body.site == site for _, body in self.facts.of(sch_ops.SiteQuarantined))
        ended = sum(body.site == site for _, body in self.facts.of(sch_ops.SiteQuarantineEnded))
        return begun > ended

    async def _release(self, site: str, *, certain: bool = False) -> None:
        running = certain or self._chance.random() < 0.5
        await self._ask(
            "scheduler",
            site,
            sch.ReleaseSite,
            site=site,
            confirm=site,
            originals_running=running,
        )
        if self.travels:
            for plan in self.plans:
                await self._ask("scheduler", plan, sch.StartPlan, plan=plan)

    async def _power_off(self, site: str) -> None:
        job = self._job("site-power-off", site)
        confirm = "" if self._seldom() else site
        await self._ask(
            "recovery", site, lost_sites.PowerOffOriginals, new=job, site=site, confirm=confirm
        )

    async def _site_returns(self, site: str) -> None:
        await asyncio.sleep(self._chance.uniform(*AWAY_S))
        self._world.lose_site(site, lost=False)


_CLEANUP_COMMANDS: Final = (steer.PauseJob, steer.ResumeJob, rec.CancelRecoveryJob)
