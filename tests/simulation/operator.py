"""The operators of a world of recoveries: they start them, steer them and decide about them.

They ask for what makes sense at the moment, and now and then for what does not. What they may
start is a row of `operations`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

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
from tests.simulation.story import Story
from tests.simulation.views import RecoveryView, VmView

Act = tuple[int, Callable[[], Awaitable[object]]]
ROUNDS_MAX: Final = 8
"""So often the last hours are gone through: clean up, decide, look again."""

AWAY_S: Final = (20.0, 400.0)


class Operator(Story):
    """The operators. `words` are the recoveries whose sources are gone by somebody's word."""

    def new_vm(self, name: str) -> MemoryVm:
        vm = drill_vm(self._chance, name)
        vm.deaf = self._chance.random() < 0.12
        vm.stuck = vm.deaf and self._chance.random() < 0.5
        return vm

    def new_plan(self, plan: str, vms: list[str]) -> PlanDefinition:
        return drill_plan(self._chance, plan, vms=vms, scripts=self._scripts, temper=self._temper)

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
            (1 if busy else 9, lambda: self._recover(plan)),
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
            acts.append((3, lambda: self._commit(view)))
            acts.append((5, lambda: self._roll_back(view)))
            acts.append((1, lambda: self._clean_one(view)))
        if view.to_delete:
            acts.append((1, lambda: self._clean_one(view)))
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
        east = self._world.sites["east"]
        if not east.is_there:
            return [(4, self._site_returns)]
        acts: list[Act] = []
        if self._quarantined():
            acts.append((2, self._release))
        return acts

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
        operation = operations.chosen(chance)
        fields: dict[str, Any] = operation.asked(chance)
        if chance.random() < operation.loses_site:
            self._world.lose_site("east", lost=True)
            fields |= {"source_gone": chance.random() < 0.7} if "source_gone" in fields else {}
        names = [vm.name for vm in self.plans[plan].vms]
        some = chance.sample(names, chance.randint(1, len(names)))
        made = [
            stream for stream in self.facts.streams(rep.CheckpointFinished)
            if key_of(stream) == plan
        ]  # fmt: skip
        if operation.from_checkpoint and made and chance.random() < 0.2:
            fields["checkpoint"] = chance.choice(made)
        if self.plans[plan].recovery.pre_script and chance.random() < 0.2:
            fields["skip_scripts"] = ("pre-recovery",)
        await self._ask(
            "scheduler",
            plan,
            sch.Recover,
            new=self._job("recovery", plan),
            plan=plan,
            mode=operation.mode,
            vms=tuple(sorted(some)) if chance.random() < 0.25 else (),
            on_error=chance.choice((None, None, "stop", "continue")),
            dry_run=chance.random() < 0.05,
            **fields,
        )

    async def _clean_one(self, view: RecoveryView) -> None:
        plan = view.start.plan
        job = self._job("cleanup", plan)
        confirm = plan if view.to_delete else ""
        await self._ask(
            "recovery", plan, rec.StartCleanup, new=job, recovery=view.start.job, confirm=confirm
        )

    async def _commit(self, view: RecoveryView) -> None:
        plan = view.start.plan
        job = self._job("commit", plan)
        await self._ask("recovery", plan, ops.StartCommit, new=job, recovery=view.start.job)

    async def _roll_back(self, view: RecoveryView) -> None:
        plan = view.start.plan
        job = self._job("rollback", plan)
        confirm = "" if self._seldom() else plan
        await self._ask(
            "recovery", plan, ops.StartRollback, new=job, recovery=view.start.job, confirm=confirm
        )

    def _quarantined(self) -> bool:
        begun = len(self.facts.of(sch_ops.SiteQuarantined))
        return begun > len(self.facts.of(sch_ops.SiteQuarantineEnded))

    async def _release(self) -> None:
        await self._ask("scheduler", "east", sch.ReleaseSite, site="east", confirm="east")

    async def _site_returns(self) -> None:
        await asyncio.sleep(self._chance.uniform(*AWAY_S))
        self._world.lose_site("east", lost=False)

    # The evening.

    async def finish(self) -> list[str]:
        """Have everything end and be decided; what did not."""
        self._world.lose_site("east", lost=False)
        for vm in self._world.sites["east"].vms.values():
            vm.deaf = vm.stuck = False
        for plan in self.plans:
            await self._ask("scheduler", plan, sch.StopPlan, plan=plan)
        if not await self._settled():
            return ["settled: commands wait half an hour after the world was healed"]
        keeps = self._chance.random() < 0.5
        for _ in range(ROUNDS_MAX):
            if broken := await self._all_ended():
                return broken
            if not await self._decide_all(keeps=keeps):
                break
            await self._settled()
        if self._quarantined():
            await self._release()
            await self._settled()
        for plan in self.plans:
            await self._ask("scheduler", plan, sch.DeletePlan, plan=plan)
        await self._settled()
        return await self._all_ended()

    async def _decide_all(self, *, keeps: bool) -> int:
        """Clean up and decide about whatever waits for it; how many that were."""
        acts: list[Awaitable[object]] = []
        for view in views.recoveries(self.facts):
            if view.window:
                usable = view.end is not None and view.end.ready
                commits = usable and self._chance.random() < 0.5
                acts.append(self._commit(view) if commits else self._roll_back(view))
            elif view.to_clean or (view.to_delete and not keeps):
                acts.append(self._clean_one(view))
        for act in acts:
            await act
        return len(acts)

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


_CLEANUP_COMMANDS: Final = (steer.PauseJob, steer.ResumeJob, rec.CancelRecoveryJob)


def _is_paused(history: list[Any]) -> bool:
    paused = False
    for _, body in history:
        if isinstance(body, steer.CleanupPaused):
            paused = True
        elif isinstance(body, steer.CleanupResumed | rec.CleanupCancelRequested):
            paused = False
    return paused
