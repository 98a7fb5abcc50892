"""What people do in a world: commands of every kind at random moments, sensible or not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from schemas import recovery as rec
from schemas import replicator as rep
from schemas import scheduler as sch
from schemas.common import Command
from schemas.ids import key_of, stream_id
from schemas.plans import PlanDefinition
from services.gateway.commands import Asked
from shared.platforms.memory import MemoryVm
from shared.testing.sites import PLATFORM
from tests.simulation.facts import Facts
from tests.simulation.plane import Plane
from tests.simulation.plans import UNPREPARED, Scripts, Temper, random_plan, random_vm

ENDS_WITHIN_S = 4 * 3600.0


class Story:
    """The people of one world, and the guests that write to their disks."""

    def __init__(self, world: Plane, chance: random.Random, temper: Temper) -> None:
        self._world = world
        self._chance = chance
        self._temper = temper
        self._scripts = Scripts(chance, wanted=temper.scripts)
        self._number = 0
        self.facts = Facts(world)
        self.plans: dict[str, PlanDefinition] = {}

    # Commands.

    async def _ask(
        self, to: str, key: str, kind: type[Command], *, new: str = "", **fields: Any
    ) -> str:
        self._number += 1
        command_id = f"c{self._number}"
        extras = fields.pop("extras", ())
        if new:
            fields["job"] = new
        body = kind(command_id=command_id, **fields)
        asked = Asked(to=to, key=key, body=body, job=new, actor="ann", extras=extras)
        await self._world.ask(asked)
        return command_id

    def _job(self, family: str, plan: str) -> str:
        return stream_id(family, plan, f"j{self._number + 1}")

    async def begin(self) -> None:
        """Two sites, some VMs, one or two plans that replicate."""
        for site in ("east", "west"):
            settings = {"path": site}
            await self._ask(
                "scheduler", site, sch.AddSite, site=site, platform=PLATFORM, settings=settings
            )
        await self._settled()
        count = self._chance.randint(1, self._temper.vms_max)
        names = [f"vm{number}" for number in range(count)]
        for name in names:
            self._world.add_vm(self.new_vm(name))
        cut = self._chance.randint(1, count)
        for plan, vms in (("shop", names[:cut]), ("mill", names[cut:])):
            if vms:
                await self._apply(plan, vms)
        await self._settled()
        for plan in self.plans:
            await self._ask("scheduler", plan, sch.StartPlan, plan=plan)

    def new_vm(self, name: str) -> MemoryVm:
        """A VM of the protected site."""
        return random_vm(self._chance, name)

    def new_plan(self, plan: str, vms: list[str]) -> PlanDefinition:
        """A version of a plan."""
        return random_plan(self._chance, plan, vms=vms, scripts=self._scripts, temper=self._temper)

    async def _apply(self, plan: str, vms: list[str], *, version: int = 0) -> None:
        definition = self.new_plan(plan, vms)
        self.plans[plan] = definition
        await self._ask(
            "scheduler",
            plan,
            sch.ApplyPlan,
            definition=definition,
            expected_version=version,
            dry_run=False,
            extras=self._scripts.parts(plan),
        )

    async def _settled(self, *, within_s: float = 1800.0) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within_s
        while loop.time() < deadline:
            await self.facts.refresh()
            if all(a.body.command_id in self.facts.settled for a in self._world.asked):
                return True
            await asyncio.sleep(1.0)
        return False

    # The day.

    async def go_on(self, *, steps: int, pause_s: float) -> None:
        """So many random acts."""
        for _ in range(steps):
            await asyncio.sleep(self._chance.uniform(0.1, pause_s))
            await self.facts.refresh()
            await self._act(self._chance.choice(sorted(self.plans)))

    async def _act(self, plan: str) -> None:
        acts: dict[str, Callable[[str], Awaitable[object]]] = {
            "recover": self._recover,
            "clean": lambda _: self._clean(every=False),
            "run": self._run,
            "checkpoint": self._checkpoint,
            "change-checkpoint": self._change_checkpoint,
            "cancel": lambda _: self._cancel(),
            "stop": self._stop_and_start,
            "apply": lambda plan: self._apply(plan, [vm.name for vm in self.plans[plan].vms]),
            "reset": self._reset,
            "prioritise": self._prioritise,
            "nonsense": lambda _: self._nonsense(),
        }
        weights = [self._temper.acts.get(name, 0) for name in acts]
        (name,) = self._chance.choices(list(acts), weights)
        await acts[name](plan)

    async def _run(self, plan: str) -> None:
        job = self._job("replication-run", plan)
        await self._ask("scheduler", plan, sch.RunPlan, new=job, plan=plan)

    async def _checkpoint(self, plan: str) -> None:
        preserved = self._chance.random() < 0.3
        job = self._job("checkpoint", plan)
        await self._ask(
            "scheduler", plan, sch.CreateCheckpoint, new=job, plan=plan, preserved=preserved
        )

    async def _reset(self, plan: str) -> None:
        vm = self._chance.choice(self.plans[plan].vms).name
        await self._ask("scheduler", plan, sch.ResetVm, plan=plan, vm=vm)

    async def _prioritise(self, plan: str) -> None:
        priority = self._chance.randint(1, 5)
        await self._ask("scheduler", plan, sch.PrioritisePlan, plan=plan, priority=priority)

    async def _recover(self, plan: str) -> None:
        chance = self._chance
        names = [vm.name for vm in self.plans[plan].vms]
        some = chance.sample(names, chance.randint(1, len(names)))
        checkpoints = [
            stream for stream in self.facts.streams(rep.CheckpointFinished)
            if key_of(stream) == plan
        ]  # fmt: skip
        at = chance.choice(checkpoints) if checkpoints and chance.random() < 0.3 else "latest"
        skip = chance.choice(((), (), ("pre-recovery",)))
        await self._ask(
            "scheduler",
            plan,
            sch.Recover,
            new=self._job("recovery", plan),
            plan=plan,
            mode="test",
            vms=tuple(sorted(some)) if chance.random() < 0.3 else (),
            checkpoint=at,
            skip_scripts=skip if self.plans[plan].recovery.pre_script else (),
            on_error=chance.choice((None, None, "stop", "continue")),
            dry_run=chance.random() < 0.1,
        )

    async def _clean(self, *, every: bool) -> None:
        recoveries = self.facts.to_clean()
        if not every and recoveries:
            recoveries = [self._chance.choice(recoveries)]
        for recovery in recoveries:
            plan = key_of(recovery)
            job = self._job("cleanup", plan)
            await self._ask("recovery", plan, rec.StartCleanup, new=job, recovery=recovery)

    async def _change_checkpoint(self, plan: str) -> None:
        found = [s for s in self.facts.streams(rep.CheckpointStarted) if key_of(s) == plan]
        if found:
            await self._ask(
                "scheduler", plan, sch.ChangeCheckpoint, plan=plan,
                checkpoint=self._chance.choice(found),
                action=self._chance.choice(("preserve", "unpreserve", "delete")),
            )  # fmt: skip

    async def _cancel(self) -> None:
        mine = self.facts.running(rec.RecoveryStarted, rec.CleanupStarted)
        theirs = self.facts.running(rep.IterationStarted, rep.RunStarted, rep.CheckpointStarted)
        if mine and (not theirs or self._chance.random() < 0.5):
            job = self._chance.choice(mine)
            await self._ask("recovery", key_of(job), rec.CancelRecoveryJob, job=job)
        elif theirs:
            job = self._chance.choice(theirs)
            await self._ask("replicator", key_of(job), rep.CancelJob, job=job)

    async def _stop_and_start(self, plan: str) -> None:
        cancel = self._chance.random() < 0.5
        await self._ask("scheduler", plan, sch.StopPlan, plan=plan, cancel=cancel)
        await asyncio.sleep(self._chance.uniform(0, 60))
        await self._ask("scheduler", plan, sch.StartPlan, plan=plan)

    async def _nonsense(self) -> None:
        """What must be refused, and whatever becomes of the site check."""
        await self._ask("scheduler", "nowhere", sch.StartPlan, plan="nowhere")
        await self._ask(
            "recovery", "shop", rec.StartCleanup,
            new=self._job("cleanup", "shop"), recovery="recovery:shop:never",
        )  # fmt: skip
        await self._ask("scheduler", "east", sch.CheckSite, site="east")

    async def write(self) -> None:
        """Guests write to their disks, for ever."""
        chance = self._world.chance("guests")
        while True:
            await asyncio.sleep(chance.uniform(1, 20))
            machines = self.machines()
            if not machines:
                continue
            vm = machines[chance.choice(sorted(machines))]
            disk = chance.choice(sorted(vm.disks))
            length = chance.randint(1, min(2000, len(vm.disks[disk])))
            offset = chance.randint(0, len(vm.disks[disk]) - length)
            data = bytes(length) if chance.random() < 0.2 else chance.randbytes(length)
            if vm.os == "windows" and offset < len(UNPREPARED):
                continue  # It would be a Windows no more.
            self._world.write(vm, disk, offset, data)

    def machines(self) -> dict[str, MemoryVm]:
        """The machines whose guests run, by a name."""
        vms = self._world.sites["east"].vms
        return {name: vm for name, vm in vms.items() if vm.power == "on"}

    # The evening.

    async def finish(self) -> list[str]:
        """Stop replicating, wait for every job, clean up, delete the plans; what did not end."""
        for plan in self.plans:
            await self._ask("scheduler", plan, sch.StopPlan, plan=plan)
        if not await self._settled():
            return ["settled: commands wait half an hour after the world was healed"]
        broken = await self._all_ended()
        for _ in range(5):
            await self._clean(every=True)
            await self._settled()
            broken = broken or await self._all_ended()
        for plan in self.plans:
            await self._ask("scheduler", plan, sch.DeletePlan, plan=plan)
        await self._settled()
        return broken or await self._all_ended()

    async def _all_ended(self) -> list[str]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ENDS_WITHIN_S
        while loop.time() < deadline:
            await self.facts.refresh()
            if not self.facts.open and not await self._effects():
                return []
            await self._nudge()
            await asyncio.sleep(10.0)
        left = [f"ended: {kind.__name__} {stream}" for kind, stream in self.facts.open]
        return left + [f"ended: effect {each}" for each in await self._effects()]

    async def _nudge(self) -> None:
        """What people do while they wait for jobs to end."""

    async def _effects(self) -> list[str]:
        found = []
        for service in ("replicator", "recovery", "notifier"):
            queue = self._world.queues[service]
            found += [
                f"{e.effect_id} attempt {e.attempt} {e.worker or e.blocked_by}"
                for e in await queue.waiting(count_max=1000)
                if e.service == service
            ]
        return found


def plain(definition: PlanDefinition) -> Any:
    """A plan as JSON data, for telling people."""
    return msgspec.to_builtins(definition)
