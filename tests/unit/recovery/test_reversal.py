"""Reversals as sagas: whatever step fails, nothing is marked, held or half turned afterwards.

Each step is done twice and fails once, before and after the platform did it; states take their
stored form between any two messages, as after a crash. The scheduler is played by what it says.
"""

from __future__ import annotations

from typing import Any

import pytest

from schemas import directions as said_dir
from schemas import operations as said_ops
from schemas import recovery as said
from schemas import reversals
from schemas.common import Problem
from schemas.scheduler import RecoveryEnded, ReleaseHolds, SyncLast
from services.recovery.domain.recovery_state import Recovery
from services.recovery.domain.reversal import STEPS
from shared.errors import Refused
from tests.unit.recovery.site_world import STEPS_MAX, VMS, SiteWorld
from tests.unit.recovery.world import JOB, header

NAMES = tuple(vm.name for vm in VMS)


def reversal(number: int) -> str:
    return f"reversal:shop:v{number}"


class ReversalWorld(SiteWorld):
    """A committed failover of three VMs that is reversed. `fail_at` counts from there.

    `marked` is what the scheduler has marked and neither turned nor dropped; `turned` what turned.
    """

    def __init__(self, **options: Any) -> None:
        fail_at = options.pop("fail_at", None)
        self.missing: tuple[str, ...] = ()
        super().__init__("failover", **options)
        self.marked: set[str] = set()
        self.turned: set[str] = set()
        self.held: set[str] = set()
        self.slow: set[str] = set()
        self.begin().live()
        self.commit()
        self.sent.clear()
        self.base = self.count
        self.fail_at = None if fail_at is None else self.base + fail_at

    def ask(self, number: int = 1, *, dry_run: bool = False) -> ReversalWorld:
        """The scheduler takes the holds and starts it."""
        self.held = set() if dry_run else set(NAMES)
        self.deliver(
            reversals.StartReversal(
                job=reversal(number),
                plan="shop",
                plan_version=1,
                header=header(),
                groups=(reversals.ReversalGroup(JOB, NAMES),),
                dry_run=dry_run,
                requested_at=self.now,
            )
        )
        return self

    def settle(self, effect_id: str, result: Any = None, **more: Any) -> None:
        if self.missing and effect_id.endswith("/verify-copies") and not more.get("code"):
            result = reversals.CopiesVerified(missing=self.missing)
        super().settle(effect_id, result, **more)

    def sync(self) -> bool:
        """The scheduler does what it is asked, in order; False where nothing was asked."""
        asked, self.sent = self.sent, []
        for message in asked:
            self._scheduled(message)
        return bool(asked)

    def _scheduled(self, message: Any) -> None:
        match message:
            case said_dir.MarkDirection():
                self.marked |= {source.vm for source in message.sources}
                count = len(message.sources)
                self.deliver(said_dir.DirectionMarked(job=message.job, count=count))
            case SyncLast():
                for name in message.vms:
                    if name not in self.slow:
                        self._synced(message.job, name)
            case said_dir.CancelSync():
                for name in self.slow:
                    self._synced(message.job, name, state="cancelled")
            case RecoveryEnded(mode="reverse"):
                assert self.held in (set(NAMES), set()), "it ends under its holds"
                turned = self.marked - set(message.stayed) if message.moved else set()
                self.turned |= turned
                self.marked.clear()
            case ReleaseHolds():
                assert not self.marked, "holds go when nothing is marked any more"
                self.held.clear()

    def _synced(self, job: str, name: str, *, state: Any = "completed") -> None:
        failed = name in self.sync_fails
        state = "failed" if failed else state
        self.deliver(
            said_ops.LastSyncEnded(
                job=job,
                vm=name,
                state=state,
                checkpoint_at=self.now if state == "completed" else None,
                problem=Problem(code="x", message="no sync") if failed else None,
            )
        )

    @property
    def taken(self) -> set[str]:
        """What the recovery that made them knows to be sources."""
        recovery: Recovery = self.state(JOB)
        return set(recovery.window.taken)

    @property
    def over(self) -> reversals.ReversalFinished:
        """How the last reversal ended."""
        found: reversals.ReversalFinished = self.events(reversals.ReversalFinished)[-1]
        return found

    def check_over(self) -> None:
        """It has ended, nothing is under way, marked or held."""
        assert not self.effects and not any(self.queues.values()) and not self.sent
        assert not self.marked and not self.held
        self.check_log()


def steps() -> int:
    world = ReversalWorld().ask()
    world.live()
    return world.count - world.base


def test_all_goes_well_and_the_instances_are_the_sources() -> None:
    world = ReversalWorld().ask()
    world.live()
    world.check_over()
    assert (world.over.state, world.over.turned, world.over.left) == ("completed", 3, "")
    assert [s.name for s in world.over.steps] == list(STEPS)
    assert world.turned == set(NAMES)
    assert set(world.event(said_dir.InstancesTaken).vms) == set(NAMES)
    assert world.sites.sources == dict.fromkeys(NAMES, False), "nothing is switched"


def test_instances_are_those_that_the_recovery_brought_up() -> None:
    world = ReversalWorld().ask()
    world.live()
    (event,) = world.events(reversals.ReversalSources)
    assert [(s.vm, s.instance, s.made_by) for s in event.sources] == [
        (n, f"i-{n}", JOB) for n in NAMES
    ]


@pytest.mark.parametrize("done", [False, True])
def test_whichever_step_fails_nothing_turns_and_nothing_is_left(done: bool) -> None:
    for number in range(1, steps() + 1):
        world = ReversalWorld(fail_at=number, done=done).ask()
        world.live()
        world.check_over()
        assert world.over.state == "failed" and world.over.problem is not None
        assert not world.turned and world.taken == set()
        world.ask(2).live()
        world.check_over()
        assert (world.over.turned, world.turned) == (3, set(NAMES))


def test_messages_that_come_twice_change_nothing() -> None:
    world = ReversalWorld().ask()
    world.ask()
    for _ in range(STEPS_MAX):
        queue = next((queue for queue in world.queues.values() if queue), None)
        if queue is not None:
            message = queue.popleft()
            world.deliver(message)
            world.deliver(message)
        elif world.effects:
            world.act(next(iter(world.effects)))
        elif not world.sync():
            break
    world.check_over()
    assert len(world.events(reversals.ReversalStarted)) == 1
    assert len(world.events(said_dir.InstancesTaken)) == 1


@pytest.mark.parametrize("moment", range(5))
def test_a_cancel_at_any_moment_turns_nothing(moment: int) -> None:
    world = ReversalWorld()
    world.slow = {"web"}
    world.ask()
    for _ in range(moment):
        world.deliver_all()
        if world.effects:
            world.act(next(iter(world.effects)))
        else:
            world.sync()
    world.deliver(said.CancelRecoveryJob(command_id="c", job=reversal(1)))
    world.live()
    world.check_over()
    assert world.over.state == "cancelled" and not world.turned
    assert world.over.left
    with pytest.raises(Refused) as refused:
        world.deliver(said.CancelRecoveryJob(command_id="c2", job=reversal(1)))
    assert refused.value.code == "job-ended"


def test_a_cancelled_one_waits_for_its_iterations() -> None:
    world = ReversalWorld()
    world.slow = {"web"}
    world.ask()
    world.live()
    assert not world.events(reversals.ReversalFinished)
    world.deliver(said.CancelRecoveryJob(command_id="c", job=reversal(1)))
    assert not world.events(reversals.ReversalFinished), "web's iteration has not ended"
    world.live()
    assert world.over.state == "cancelled"


def test_a_vm_that_could_not_be_copied_stays_and_the_others_turn() -> None:
    world = ReversalWorld()
    world.sync_fails = {"web"}
    world.ask()
    world.live()
    world.check_over()
    assert (world.over.state, world.over.turned) == ("partially-completed", 2)
    assert world.turned == {"db", "app"} and "web" in world.over.left
    assert reversals.DROP in [step.name for step in world.over.steps]


def test_a_copy_that_is_not_at_the_target_turns_nothing() -> None:
    world = ReversalWorld()
    world.missing = ("db",)
    world.ask()
    world.live()
    world.check_over()
    assert world.over.state == "partially-completed"
    assert world.over.problem is not None and world.over.problem.code == "copy-missing"
    assert world.turned == {"app", "web"}


def test_a_dry_run_looks_and_touches_nothing() -> None:
    world = ReversalWorld().ask(dry_run=True)
    world.live()
    world.check_over()
    assert (world.over.state, world.over.dry_run) == ("completed", True)
    assert not world.events(reversals.ReversalDirectionMarking)


def test_instances_that_were_cleaned_up_cannot_be_sources() -> None:
    world = ReversalWorld()
    world.deliver(
        said.StartCleanup(command_id="c", job="cleanup:shop:c1", recovery=JOB, confirm="shop")
    )
    world.live()
    world.ask().live()
    assert world.over.state == "failed"
    assert world.over.problem is not None and world.over.problem.code == "no-instance"


# ── What becomes of the instances ────────────────────────────────────────────────────────────


def cleanup(world: SiteWorld, number: int, *, confirm: str = "") -> str:
    try:
        world.deliver(
            said.StartCleanup(
                command_id="c", job=f"cleanup:shop:c{number}", recovery=JOB, confirm=confirm
            )
        )
    except Refused as refused:
        return refused.code
    return "done"


def test_instances_in_production_are_not_cleaned_up_until_a_failback_is_committed() -> None:
    world = ReversalWorld().ask()
    world.live()
    assert cleanup(world, 1, confirm="shop") == "in-production"
    free = said_dir.FreeInstances(recovery=JOB, by="commit:shop:x", vms=NAMES, home=True)
    world.deliver(free)
    world.deliver(free)
    assert len(world.events(said_dir.InstancesFreed)) == 1
    assert cleanup(world, 2) == "done", "they are of no further use: nothing is to be typed"


def test_instances_that_are_being_reversed_are_not_cleaned_up() -> None:
    world = ReversalWorld()
    world.slow = {"web"}
    world.ask()
    assert world.taken == set(NAMES)
    assert cleanup(world, 1, confirm="shop") == "in-production"
    world.live()
    assert cleanup(world, 2, confirm="shop") == "in-production"
    world.deliver(said.CancelRecoveryJob(command_id="c", job=reversal(1)))
    world.live()
    world.check_over()
    assert world.taken == set()
    assert cleanup(world, 3, confirm="shop") == "done"


def test_instances_that_are_being_cleaned_up_cannot_be_sources() -> None:
    world = ReversalWorld()
    assert cleanup(world, 1, confirm="shop") == "done"
    world.ask()
    assert world.over.problem is not None and world.over.problem.code == "no-instance"


def test_a_dry_run_takes_nothing() -> None:
    world = ReversalWorld().ask(dry_run=True)
    assert world.taken == set()


def test_after_another_failover_they_are_cleaned_up_with_the_plans_name_typed() -> None:
    world = ReversalWorld().ask()
    world.live()
    world.deliver(said_dir.FreeInstances(recovery=JOB, by="commit:shop:x", vms=NAMES))
    assert cleanup(world, 1) == "confirm"
    assert cleanup(world, 2, confirm="shop") == "done"


def test_a_committed_failback_turns_its_vms_before_it_gives_the_holds_back() -> None:
    world = SiteWorld("failback")
    sources = tuple(said_dir.SourceInstance(n, f"old-{n}", "recovery:shop:f1") for n in NAMES)
    world.deliver(said_dir.NameSources(job=JOB, sources=sources))
    world.begin().live()
    asked = world.events(said_ops.SourceAsked)
    assert {(a.vm, a.instance) for a in asked} == {(n, f"old-{n}") for n in NAMES}
    world.sent.clear()
    world.commit()
    kinds = [type(message).__name__ for message in world.sent]
    assert kinds == ["TurnVms", "ReturnVms", "ReleaseHolds"]
    (turn,) = world.to_scheduler(said_dir.TurnVms)
    assert [(s.vm, s.instance, s.made_by) for s in turn.sources] == [
        (n, f"i-{n}", JOB) for n in NAMES
    ]
    assert set(world.event(said_dir.InstancesTaken).vms) == set(NAMES)
    assert cleanup(world, 1, confirm="shop") == "in-production"


def test_a_commit_of_a_failover_frees_what_its_vms_ran_as_before() -> None:
    world = SiteWorld("failover")
    sources = tuple(said_dir.SourceInstance(n, f"old-{n}", "recovery:shop:b0") for n in NAMES)
    world.deliver(said_dir.NameSources(job=JOB, sources=sources))
    world.begin().live()
    world.deliver(said_ops.StartCommit(command_id="c", job="commit:shop:k1", recovery=JOB))
    verify = next(iter(world.effects))
    world.act(verify)
    while not world.queues["shop"] or isinstance(world.queues["shop"][0], said_ops.CommitEnded):
        world.deliver(world.queues["shop"].popleft())
    freed = [m for m in world.queues["shop"] if isinstance(m, said_dir.FreeInstances)]
    assert {(m.recovery, m.vms, m.home) for m in freed} == {("recovery:shop:b0", NAMES, False)}
