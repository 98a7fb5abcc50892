"""The table of hooks: each operation plans and runs the scripts that its row names, and no others.

Every service's real code, in virtual time: a plan with a script at every hook is brought through
each operation. What its jobs announce as their steps is read, and what the machine for scripts was
given to run.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import pytest

from schemas import operations as ops
from schemas import plans, reversals
from schemas import recovery as rec
from schemas import replicator as rep
from schemas import scheduler as sch
from schemas.common import Command
from schemas.ids import family_of
from services.gateway.commands import Asked
from services.recovery.domain.operations import OPERATIONS
from shared.platforms.memory import MemoryVm
from shared.process import QUICK_RETURN_KINDS
from shared.testing.scripts import Play
from shared.testing.sites import PLATFORM
from shared.testing.virtual import run_virtual
from shared.testing.world import Knobs, until
from tests.simulation.facts import Facts
from tests.simulation.plane import CHUNK_BYTES, Plane, Shape
from tests.simulation.quiet import quiet

INTERVAL_S: Final = 900.0
CALM: Final = Knobs(poll_s=5.0, quick_return_kinds=QUICK_RETURN_KINDS)
VMS: Final = ("db", "web")
KINDS: Final[Mapping[str, plans.HookKind]] = {
    "replication-run": "plan-replication",
    "iteration": "vm-replication",
    "recovery": "plan-recovery",
    "vm-recovery": "vm-recovery",
}
"""Stream family of the job whose step a script is → its kind in the table."""

STARTS: Final[tuple[type[Any], ...]] = (
    rec.RecoveryStarted,
    rec.VmEnrolled,
    rep.RunStarted,
    rep.IterationStarted,
)
"""The facts in which jobs announce their steps."""

STEPS: Final = ("pre-script", "post-script")
Scripts = set[tuple[plans.HookKind, str]]
"""Kinds of scripts, each with the step that it is."""


class Day:
    """One plan with a script at every hook, its VMs copied; operations are done to it by hand."""

    def __init__(self, world: Plane, operations: tuple[plans.Operation, ...]) -> None:
        self.world = world
        self.facts = Facts(world)
        self._operations = operations
        self._number = 0
        self._contents: dict[str, bytes] = {}
        self._before: dict[type, int] = {}

    def count_from_here(self) -> None:
        """Forget what was planned and run so far."""
        self.world.machine.runs.clear()
        self._before = {kind: len(self.facts.of(kind)) for kind in STARTS}

    async def begin(self) -> None:
        for name in self.world.names:
            self.world.start(name)
        for site in ("east", "west"):
            settings = {"path": site}
            await self.ask(
                "scheduler", site, sch.AddSite, site=site, platform=PLATFORM, settings=settings
            )
        for vm in VMS:
            self.world.add_vm(MemoryVm(vm, {"sda": b"x" * CHUNK_BYTES}))
        definition = self._plan()
        await self.ask(
            "scheduler", "shop", sch.ApplyPlan, definition=definition,
            expected_version=0, dry_run=False, extras=tuple(self._parts()),
        )  # fmt: skip
        assert await until(self._copied, within_s=2 * INTERVAL_S)
        self.count_from_here()

    async def ask(
        self, to: str, key: str, kind: type[Command], *, job: str = "", **fields: Any
    ) -> None:
        """A command, and wait until its owner has answered it."""
        self._number += 1
        extras = fields.pop("extras", ())
        if job:
            fields["job"] = job
        body = kind(command_id=f"c{self._number}", **fields)
        await self.world.ask(Asked(to=to, key=key, body=body, job=job, actor="ann", extras=extras))

        async def settled() -> bool:
            await self.facts.refresh()
            return body.command_id in self.facts.settled

        assert await until(settled, within_s=120.0), f"{kind.__name__} was not answered"

    async def ended(self) -> None:
        """Wait until every job has."""

        async def idle() -> bool:
            await self.facts.refresh()
            return not self.facts.open

        assert await until(idle, within_s=INTERVAL_S / 2), list(self.facts.open)

    async def recover(self, mode: sch.RecoveryMode) -> None:
        """A recovery of the plan, to its end."""
        job = f"{'reversal' if mode == 'reverse' else 'recovery'}:shop:{mode}"
        await self.ask("scheduler", "shop", sch.Recover, job=job, plan="shop", mode=mode)
        await self.ended()
        ends = {row.stream: end.state for row, end in self.facts.of(rec.RecoveryFinished)}
        ends |= {row.stream: end.state for row, end in self.facts.of(reversals.ReversalFinished)}
        assert ends[job] == "completed", ends

    async def fail_over(self) -> None:
        """The VMs run at the recovery site from now on."""
        await self.recover("failover")
        await self.ask(
            "recovery", "shop", ops.StartCommit,
            job="commit:shop:c", recovery="recovery:shop:failover",
        )  # fmt: skip
        await self.ended()

    @property
    def planned(self) -> Scripts:
        """What jobs have announced since then."""
        return {
            (KINDS[family_of(row.stream)], step)
            for kind in STARTS
            for row, start in self.facts.of(kind)[self._before[kind] :]
            for step in start.steps
            if step in STEPS
        }

    @property
    def ran(self) -> Scripts:
        """What was run since then."""
        found = set()
        for run in self.world.machine.runs:
            stream, _, step = run.effect_id.rpartition("/")
            found.add((KINDS[family_of(stream)], step))
        return found

    async def _copied(self) -> bool:
        await self.facts.refresh()
        done = [end for _, end in self.facts.of(rep.IterationFinished) if end.checkpoint_at]
        return len(done) >= len(VMS) and not self.facts.open

    def _plan(self) -> plans.PlanDefinition:
        def pair(kind: plans.HookKind) -> dict[str, Any]:
            return {f"{at}_script": self._script(kind, at) for at in ("pre", "post")}

        members = tuple(
            plans.VmDefinition(
                name=vm,
                replication=plans.ReplicationScripts(**pair("vm-replication")),
                **pair("vm-recovery"),
            )
            for vm in VMS
        )
        return plans.PlanDefinition(
            name="shop",
            protected_site="east",
            recovery_site="west",
            replication=plans.ReplicationPolicy(
                interval_s=INTERVAL_S, synchronize=True, **pair("plan-replication")
            ),
            recovery=plans.RecoveryPolicy(**pair("plan-recovery")),
            vms=members,
        )

    def _script(self, kind: plans.HookKind, at: str) -> plans.ScriptDefinition:
        content = Play(name=f"{kind}-{at}").content()
        sha256 = hashlib.sha256(content).hexdigest()
        self._contents[sha256] = content
        allowed = plans.operations_of(kind)
        return plans.ScriptDefinition(
            run=f"{kind}-{at}.sh",
            runtime="sh",
            sha256=sha256,
            size=len(content),
            operations=tuple(each for each in allowed if each in self._operations),
        )

    def _parts(self) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        for sha256, content in self._contents.items():
            text = base64.b64encode(content).decode()
            about: dict[str, Any] = {
                "plan": "shop",
                "sha256": sha256,
                "part": 0,
                "parts": 1,
                "content": text,
            }
            found += [
                ("replicator", rep.StoreScript(**about)),
                ("recovery", rec.StoreRecoveryScript(**about)),
            ]
        return found


async def _tick(day: Day) -> None:
    await asyncio.sleep(INTERVAL_S)
    await day.ended()


async def _clean(day: Day) -> None:
    await day.recover("test")
    day.count_from_here()
    await day.ask(
        "recovery", "shop", rec.StartCleanup,
        job="cleanup:shop:c", recovery="recovery:shop:test",
    )  # fmt: skip
    await day.ended()


async def _reverse(day: Day) -> None:
    await day.fail_over()
    day.count_from_here()
    await day.recover("reverse")


async def _fail_back(day: Day) -> None:
    await day.fail_over()
    await day.recover("reverse")
    day.count_from_here()
    await day.recover("failback")


DRIVEN: Final[Mapping[str, Callable[[Day], Awaitable[None]]]] = {
    "replication": _tick,
    "test": lambda day: day.recover("test"),
    "failover": lambda day: day.recover("failover"),
    "migrate": lambda day: day.recover("migrate"),
    "reverse": _reverse,
    "failback": _fail_back,
    "cleanup": _clean,
}
"""How each operation of this build is done to a day: a row for each."""


def done_in(operation: str, *, declared: tuple[plans.Operation, ...]) -> tuple[Scripts, Scripts]:
    """What an operation plans, and runs, of the scripts that are declared for these operations."""

    async def live() -> tuple[Scripts, Scripts]:
        async with Plane(f"hooks/{operation}", Shape(copies=1, knobs=CALM)) as world:
            day = Day(world, declared)
            await day.begin()
            await DRIVEN[operation](day)
            return day.planned, day.ran

    with quiet() as errors:
        found = run_virtual(live())
    assert errors == []
    return found


EVERY: Final = tuple(dict.fromkeys((*plans.REPLICATION_OPERATIONS, *plans.RECOVERY_OPERATIONS)))


def test_every_operation_of_this_build_is_driven_here() -> None:
    assert set(DRIVEN) == {"replication", "cleanup", "reverse", *OPERATIONS}
    assert set(DRIVEN) <= set(plans.HOOKS)


@pytest.mark.parametrize("operation", DRIVEN)
def test_an_operation_runs_the_scripts_of_its_row_and_no_others(operation: str) -> None:
    row = plans.HOOKS[operation]  # type: ignore[index]
    wanted = {(kind, step) for kind in row for step in STEPS}
    assert done_in(operation, declared=EVERY) == (wanted, wanted)


@pytest.mark.parametrize("operation", DRIVEN)
def test_scripts_that_are_declared_for_other_operations_stay_away(operation: str) -> None:
    others = tuple(each for each in EVERY if each != operation)
    assert done_in(operation, declared=others) == (set(), set())
