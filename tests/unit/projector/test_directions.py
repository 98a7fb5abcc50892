"""Which way VMs go, and reversals, as people see them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from schemas import reversals as said
from schemas import scheduler
from schemas import scheduler_operations as moves
from schemas.common import Problem, StepTiming
from schemas.directions import VmDirectionDropped, VmDirectionMarked, VmTurned
from schemas.joins import copies_at, plan_now
from schemas.views import Job, Vm
from tests.unit.projector.history import HEADER, T0, History, after
from tests.unit.projector.test_vms import a_plan, dispatched, known, one, recorded

JOB = "reversal:shop:v1"
MARKED = VmDirectionMarked(job=JOB, reverse=True, instance="i-1", made_by="recovery:shop:f1")
MOVED = moves.VmMoved(job="recovery:shop:f1", to="failed-over", was_on=True)


def copied(seconds: float) -> tuple[Any, ...]:
    return dispatched(), recorded(checkpoint_at=after(seconds))


def test_a_vm_whose_reversal_is_under_way_has_not_turned() -> None:
    vm = known(*copied(0), MOVED, MARKED)
    assert (vm.direction, vm.instance, vm.moved) == ("original", "", "failed-over")
    assert vm.sync_state == "init-success", "the original site has no copy yet"
    assert vm.last_checkpoint_at is None and copies_at(vm) == "east"


def test_a_vm_that_turned_runs_as_its_instance_and_is_copied_home() -> None:
    vm = known(*copied(0), MOVED, MARKED, *copied(60), VmTurned(job=JOB))
    assert (vm.direction, vm.instance, vm.moved, vm.moved_by) == ("reverse", "i-1", "", "")
    assert vm.last_checkpoint_at == after(60) and vm.sync_state == "in-sync"
    assert copies_at(vm) == "east"


def test_a_marked_direction_that_is_dropped_leaves_what_was() -> None:
    dropped = VmDirectionDropped(job=JOB, copy_at=T0)
    vm = known(*copied(0), MOVED, MARKED, *copied(60), dropped)
    assert (vm.direction, vm.instance, vm.moved) == ("original", "", "failed-over")
    assert vm.last_checkpoint_at == T0 and copies_at(vm) == "west"


def test_a_copy_from_before_is_to_be_compared() -> None:
    again = VmDirectionMarked(job=JOB, reverse=False, instance="i-2", made_by="r", copy_at=T0)
    vm = known(*copied(0), MOVED, MARKED, VmTurned(job=JOB), again)
    assert vm.sync_state == "resync-in-progress" and vm.last_checkpoint_at == T0


def way(name: str, direction: Any, *, on: bool = True) -> Vm:
    return msgspec.structs.replace(one(name, on=on, copy_s=0), direction=direction)


@pytest.mark.parametrize(
    ("vms", "state", "direction"),
    [
        ((way("db", "reverse"), way("web", "reverse")), "reversed", "reverse"),
        ((way("db", "reverse"), way("web", "original")), "running", "mixed"),
        ((way("db", "reverse", on=False),), "stopped", "reverse"),
        ((way("db", "original"),), "running", "original"),
    ],
)
def test_a_plan_tells_which_way_it_goes(vms: tuple[Vm, ...], state: str, direction: str) -> None:
    plan = plan_now(a_plan(), vms, now=T0)
    assert (plan.state, plan.direction) == (state, direction)


# ── Jobs ─────────────────────────────────────────────────────────────────────────────────────

STARTED = said.ReversalStarted(
    job=JOB,
    plan="shop",
    plan_version=1,
    header=HEADER,
    vms=("db", "web"),
    requested_at=T0,
    actor="ann",
    steps=(said.PREFLIGHT, said.MARK, said.RESYNC, said.VERIFY),
)


def done(step: str, state: Any = "completed") -> StepTiming:
    return StepTiming(name=step, state=state, started_at=T0, ended_at=after(1))


def job(*events: Any) -> Job:
    found: Job = History().say("recovery", JOB, STARTED, *events).document("jobs", JOB)
    return found


def synced(vm: str, state: Any = "completed") -> said.ReversalMemberSynced:
    at = after(5) if state == "completed" else None
    return said.ReversalMemberSynced(vm=vm, at=after(5), state=state, checkpoint_at=at)


RESYNCING: tuple[Any, ...] = (
    said.ReversalPreflightFinished(timing=done(said.PREFLIGHT), facts={"full": 2}),
    said.ReversalDirectionMarking(at=after(1)),
    said.ReversalDirectionMarked(count=2, timing=done(said.MARK)),
    said.ReversalResyncAsked(at=after(2)),
)


def test_a_reversal_is_a_job_with_its_steps() -> None:
    begun = job()
    assert (begun.kind, begun.state, begun.actor) == ("reverse", "running", "ann")
    assert begun.facts == {"from": "east", "to": "west"}
    under_way = job(*RESYNCING, synced("db"))
    states = {step.name: step.state for step in under_way.steps}
    assert states == {
        said.PREFLIGHT: "completed",
        said.MARK: "completed",
        said.RESYNC: "running",
        said.VERIFY: "pending",
    }
    assert under_way.steps[2].percent == 50.0
    assert under_way.facts["run"] == "replication-run:shop:reverse-v1"
    assert under_way.vms is not None
    assert (under_way.vms.total, under_way.vms.ended, under_way.vms.ready) == (2, 1, 1)


def test_one_that_fails_says_what_is_left() -> None:
    problem = Problem(code="x", message="no sync", remedy="look")
    end = said.ReversalFinished(
        plan="shop",
        state="failed",
        steps=(done(said.RESYNC, "failed"),),
        problem=problem,
        left="2 VM(s) run where they ran",
    )
    failed = job(*RESYNCING, synced("db", "failed"), synced("web", "failed"), end)
    assert (failed.state, failed.left) == ("failed", "2 VM(s) run where they ran")
    assert failed.error is not None and failed.error.code == "x"
    assert failed.vms is not None and failed.vms.failed == 2
    assert {step.name: step.state for step in failed.steps}[said.VERIFY] == "skipped"


def test_the_schedulers_word_stands_until_it_begins() -> None:
    asked = scheduler.RecoveryRequested(
        job=JOB, mode="reverse", checkpoint="latest", vms=("db", "web")
    )
    history = History().say("scheduler", "plan:shop", asked)
    found: Job = history.document("job_requests", JOB)
    assert (found.kind, found.state) == ("reverse", "queued")
