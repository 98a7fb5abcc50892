"""A protected VM's document: freshness, what is due, holds, priorities."""

from __future__ import annotations

import msgspec
import pytest

from schemas import scheduler as said
from schemas.common import Problem
from schemas.joins import plan_now, vm_now
from schemas.plans import VmDefinition
from schemas.views import Plan, Vm
from tests.unit.projector.history import HEADER, POLICY, T0, History, after, protected

VM = "protected-vm:shop:db"
ITERATION = "iteration:shop:db:t1"


def a_vm(*events: object) -> Vm | None:
    found: Vm | None = History().say("scheduler", VM, protected(), *events).document("vms", VM)
    return found


def known(*events: object) -> Vm:
    found = a_vm(*events)
    assert found is not None
    return found


def dispatched(**fields: object) -> said.IterationDispatched:
    return msgspec.structs.replace(
        said.IterationDispatched(
            iteration=ITERATION, tick_at=T0, due_at=T0, next_due_at=after(900)
        ),
        **fields,
    )


def recorded(state: str = "completed", **fields: object) -> said.IterationRecorded:
    return msgspec.convert(
        {"iteration": ITERATION, "state": state, **fields}, said.IterationRecorded
    )


def test_a_new_vm_has_no_copy_and_is_off() -> None:
    vm = known()
    assert (vm.sync_state, vm.last_checkpoint_at, vm.replicating) == ("init-success", None, False)


def test_a_first_copy_runs_and_ends_in_sync() -> None:
    assert known(dispatched()).sync_state == "init-sync-in-progress"
    done = known(dispatched(), recorded(checkpoint_at=T0))
    assert (done.sync_state, done.last_checkpoint_at, done.iteration) == ("in-sync", T0, "")


def test_the_running_iteration_and_the_next_tick_are_shown() -> None:
    vm = known(said.VmStarted(next_due_at=T0), dispatched())
    assert (vm.iteration, vm.next_due_at) == (ITERATION, after(900))


def test_a_failure_keeps_the_last_copy_and_says_why() -> None:
    problem = Problem(code="disk-gone", message="sda.raw is missing", remedy="put it back")
    failed = recorded("failed", problem=problem)
    vm = known(dispatched(), recorded(checkpoint_at=T0), dispatched(), failed)
    assert (vm.sync_state, vm.last_checkpoint_at) == ("sync-failed", T0)
    assert vm.error is not None and vm.error.remedy == "put it back"


def test_a_success_clears_the_error_and_the_missed_ticks() -> None:
    problem = Problem(code="x", message="x")
    missed = said.TicksMissed(count=3, first_at=T0, last_at=T0)
    bad = known(missed, dispatched(), recorded("failed", problem=problem))
    good = known(
        missed,
        dispatched(),
        recorded("failed", problem=problem),
        dispatched(),
        recorded(checkpoint_at=T0),
    )
    assert (bad.missed, bad.error is None) == (3, False)
    assert (good.missed, good.error) == (0, None)


def test_a_tick_that_finds_the_vm_busy_is_queued_until_it_starts() -> None:
    first = (dispatched(), recorded(checkpoint_at=T0), dispatched())
    queued = said.TickQueued(tick_at=T0, next_due_at=after(1800))
    vm = known(*first, queued)
    assert (vm.queued, vm.sync_state, vm.next_due_at) == (True, "exceeded-interval", after(1800))
    assert known(*first, queued, recorded(checkpoint_at=T0), dispatched()).queued is False


def test_holds_are_added_and_given_back_by_mode() -> None:
    job = "recovery:shop:r1"
    held = said.Held(job=job, modes=("read-copy", "own-instance"))
    vm = known(held, said.HoldReleased(job=job, modes=("read-copy",)))
    assert [(hold.job, hold.modes) for hold in vm.holds] == [(job, ("own-instance",))]
    assert known(held, said.HoldReleased(job=job, modes=held.modes)).holds == ()


def test_a_stopped_vm_has_nothing_due() -> None:
    vm = known(said.VmStarted(next_due_at=T0), said.VmStopped())
    assert (vm.replicating, vm.next_due_at) == (False, None)


def test_a_released_vm_is_gone() -> None:
    assert a_vm(said.VmReleased(plan="shop", vm="db")) is None


def test_a_lost_copy_is_no_copy() -> None:
    vm = known(dispatched(), recorded(checkpoint_at=T0), said.VmReset(lost=True))
    assert (vm.last_checkpoint_at, vm.sync_state) == (None, "init-success")


@pytest.mark.parametrize(
    ("events", "wanted"),
    [
        ((), (3, "plan")),
        ((said.VmPrioritised(priority=1, of_plan=True),), (1, "plan")),
        ((said.VmPrioritised(priority=5),), (5, "operator")),
        ((said.VmPrioritised(priority=5), said.VmPrioritised(priority=1, of_plan=True)),
         (5, "operator")),
        ((said.VmPrioritised(priority=5), protected()), (5, "operator")),
        ((said.VmPrioritised(priority=5),
          protected(definition=VmDefinition(name="db", priority=2))), (2, "definition")),
    ],
    ids=["plan", "plan-changed", "operator", "operator-stands", "applied-again", "redefined"],
)  # fmt: skip
def test_the_priority_that_holds_is_shown(
    events: tuple[object, ...], wanted: tuple[int, str]
) -> None:
    vm = known(*events)
    assert (vm.priority, vm.priority_from) == wanted


def test_rpo_is_the_age_of_the_copy_when_asked() -> None:
    vm = known(dispatched(), recorded(checkpoint_at=T0))
    assert vm_now(vm, now=after(90)).rpo_s == 90.0
    assert vm_now(known(), now=after(90)).rpo_s is None


# ── Plans ────────────────────────────────────────────────────────────────────────────────────


def a_plan(*events: object, vms: tuple[str, ...] = ("web", "db")) -> Plan:
    applied = said.PlanApplied(plan="shop", plan_version=1, digest="d", header=HEADER, vms=vms)
    found: Plan = (
        History().say("scheduler", "plan:shop", applied, *events).document("plans", "shop")
    )
    return found


def one(name: str, *, on: bool = True, copy_s: float | None = None) -> Vm:
    return Vm(
        name=name,
        plan="shop",
        sync_state="in-sync",
        replicating=on,
        last_checkpoint_at=None if copy_s is None else after(copy_s),
        protected_at=T0,
    )


@pytest.mark.parametrize(
    ("vms", "state"),
    [
        ((one("db", on=False),), "stopped"),
        ((one("db"), one("web", on=False)), "partial"),
        ((one("db", copy_s=0), one("web")), "initializing"),
        ((one("db", copy_s=0), one("web", copy_s=0)), "running"),
        ((), "stopped"),
    ],
)
def test_a_plans_state_follows_from_its_vms(vms: tuple[Vm, ...], state: str) -> None:
    assert plan_now(a_plan(), vms, now=T0).state == state


def test_a_plans_rpo_is_that_of_its_oldest_copy_in_the_plans_order() -> None:
    plan = plan_now(a_plan(), (one("db", copy_s=0), one("web", copy_s=60)), now=after(100))
    assert plan.rpo.achieved_s == 100.0
    assert [vm.name for vm in plan.vms] == ["web", "db"]
    assert plan_now(a_plan(), (one("db", copy_s=0), one("web")), now=T0).rpo.achieved_s is None


def test_the_last_recovery_counts_but_a_dry_run_does_not() -> None:
    real = said.RecoveryRecorded(job="recovery:shop:1", mode="test", state="completed", rto_s=9.0)
    dry = said.RecoveryRecorded(
        job="recovery:shop:2", mode="test", state="completed", dry_run=True
    )
    plan = a_plan(real, dry)
    assert plan.rto.last_s == 9.0
    assert plan.last_recovery is not None and plan.last_recovery.job == "recovery:shop:1"


def test_a_new_version_keeps_what_was_achieved() -> None:
    done = said.RecoveryRecorded(job="recovery:shop:1", mode="test", state="completed", rto_s=9.0)
    second = said.PlanApplied(plan="shop", plan_version=2, digest="e", header=HEADER, vms=("db",))
    plan = a_plan(done, second)
    assert (plan.version, plan.rto.last_s, plan.created_at) == (2, 9.0, T0)


def test_the_operators_priority_of_a_plan_is_shown() -> None:
    assert a_plan().priority == POLICY.priority
    assert a_plan(said.PlanPrioritised(priority=1)).priority == 1
