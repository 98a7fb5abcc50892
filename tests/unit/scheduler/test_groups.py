"""Synchronized plans: one tick for all VMs, the next one waits for the slowest."""

from __future__ import annotations

import hashlib

import pytest

from schemas import scheduler as said
from schemas.plans import ReplicationPolicy, ScriptDefinition
from schemas.replicator import StartIteration, StartRun
from schemas.sync_state import sync_state
from services.scheduler.domain.names import plan_stream, vm_stream
from tests.unit.scheduler.desk import QUARTER_S, START, Desk, at, definition, desk_with

PLAN = plan_stream("shop")
TOGETHER = ReplicationPolicy(interval_s=QUARTER_S, start_at=START, synchronize=True)
SCRIPT = ScriptDefinition(
    run="x.sh",
    runtime="sh",
    sha256=hashlib.sha256(b"x").hexdigest(),
    size=1,
    operations=("replication",),
)


def together(*vms: str) -> Desk:
    return desk_with(*vms, replication=TOGETHER)


def ended(desk: Desk, *vms: str) -> None:
    for vm in vms:
        desk.end(vm)
    desk.settle_checks()


def test_all_vms_start_at_one_tick_as_one_run() -> None:
    desk = together("db", "web")
    desk.until(at(15))
    kinds = [type(message) for message in desk.sent if not hasattr(message, "request")]
    assert kinds == [StartRun, StartIteration, StartIteration]
    (run,) = desk.take(StartRun)
    assert run.run == "replication-run:shop:20261122T201500Z"
    members = desk.take(StartIteration)
    assert [m.iteration for m in members] == [
        f"iteration:shop:{vm}:20261122T201500Z" for vm in run.vms
    ]
    assert {m.run for m in members} == {run.run}
    assert desk.vm("db").next_due_at == desk.vm("web").next_due_at == at(30)


def test_a_group_ends_with_its_slowest_member() -> None:
    desk = together("db", "web")
    desk.until(at(15))
    ended(desk, "db")
    assert not desk.said(said.GroupTickEnded)
    ended(desk, "web")
    assert len(desk.said(said.GroupTickEnded)) == 1
    desk.until(at(30))
    assert len(desk.said(said.GroupTickDispatched)) == 2


def test_the_next_group_waits_for_the_slowest() -> None:
    desk = together("db", "web")
    desk.until(at(15))
    ended(desk, "db")
    desk.started()
    desk.until(at(31))
    assert not desk.started()
    assert [e.tick_at for e in desk.said(said.GroupTickQueued)] == [at(30)]
    assert [e.group for e in desk.said(said.TickQueued, vm_stream("shop", "web"))] == [True]
    assert not desk.said(said.TickQueued, vm_stream("shop", "db"))
    ended(desk, "web")
    assert sorted(desk.started()) == ["db", "web"]
    assert desk.said(said.GroupTickDispatched)[-1].tick_at == at(30)
    ended(desk, "db", "web")
    desk.until(at(45))
    assert sorted(desk.started()) == ["db", "web"]


def test_the_slow_vm_shows_that_it_exceeds_the_interval() -> None:
    desk = together("db", "web")
    desk.until(at(15))
    ended(desk, "db", "web")
    desk.until(at(30))
    ended(desk, "db")
    desk.until(at(46))
    assert sync_state(desk.vm("web").sync) == "exceeded-interval"
    assert sync_state(desk.vm("db").sync) == "in-sync"
    ended(desk, "web")
    assert sync_state(desk.vm("web").sync) == "sync-in-progress"


def test_a_plan_pre_script_gates_every_member() -> None:
    policy = ReplicationPolicy(
        interval_s=QUARTER_S, start_at=START, synchronize=True, pre_script=SCRIPT
    )
    desk = desk_with("db", replication=policy)
    desk.until(at(15))
    assert [m.pre_script for m in desk.take(StartRun)] == [SCRIPT]
    assert [m.gated for m in desk.take(StartIteration)] == [True]


@pytest.mark.parametrize("gated", [True, False])
def test_a_member_that_waited_has_the_gate_that_its_run_began_with(gated: bool) -> None:
    """A gate that the run never opens would hold the iteration for ever."""
    policies = (ReplicationPolicy(interval_s=QUARTER_S), ReplicationPolicy(
        interval_s=QUARTER_S, pre_script=SCRIPT))  # fmt: skip
    before, after = policies if not gated else policies[::-1]
    desk = desk_with("db", replication=before)
    desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r1")
    assert desk.started() == ["db"]
    desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r2")
    (_, run) = desk.take(StartRun)
    desk.apply(definition("db", replication=after))
    ended(desk, "db")
    (start,) = desk.take(StartIteration)
    assert (start.run, start.gated) == ("replication-run:shop:r2", gated)
    assert (run.pre_script is not None) == gated


def test_a_group_missed_while_down_is_caught_up_once() -> None:
    desk = together("db", "web")
    timer = desk.timer(PLAN, "tick")
    assert timer is not None
    desk.fire(timer, late_s=50 * 60)
    (missed,) = desk.said(said.TicksMissed)
    assert missed.count == 4
    assert len(desk.said(said.GroupTickDispatched)) == 1
    assert desk.said(said.GroupTickDispatched)[0].next_due_at == at(75)


def test_only_vms_that_are_on_take_part() -> None:
    desk = together("db", "web")
    desk.command(said.StopPlan, plan="shop", vms=("web",))
    desk.until(at(15))
    assert desk.started() == ["db"]


def test_a_stopped_plan_rests_and_catches_up_once_when_started() -> None:
    desk = together("db", "web")
    desk.command(said.StopPlan, plan="shop")
    desk.until(at(100))
    assert not desk.timers
    desk.command(said.StartPlan, plan="shop")
    desk.until(at(100))
    assert sorted(desk.started()) == ["db", "web"]
    assert [e.tick_at for e in desk.said(said.GroupTickDispatched)] == [at(90)]
    ended(desk, "db", "web")
    desk.until(at(105))
    assert sorted(desk.started()) == ["db", "web"]


def test_run_now_makes_the_next_group_wait_too() -> None:
    desk = together("db", "web")
    desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r1")
    desk.started()
    desk.until(at(15))
    assert not desk.started()
    ended(desk, "db", "web")
    assert sorted(desk.started()) == ["db", "web"]


def test_run_now_during_a_group_follows_each_member() -> None:
    desk = together("db", "web")
    desk.until(at(15))
    desk.started()
    desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r1")
    ended(desk, "db")
    assert desk.started() == ["db"]
    ended(desk, "web")
    assert list(desk.plan.runs) == ["replication-run:shop:r1"]
    ended(desk, "db", "web")
    assert desk.plan.runs == {}


def test_a_plan_becomes_synchronized_and_back() -> None:
    desk = desk_with("db", "web")
    desk.apply(definition("db", "web", replication=TOGETHER))
    assert desk.timer(vm_stream("shop", "db"), "tick") is None
    desk.until(at(15))
    assert len(desk.said(said.GroupTickDispatched)) == 1
    desk.apply(definition("db", "web"))
    assert desk.timer(PLAN, "tick") is None
    ended(desk, "db", "web")
    desk.started()
    desk.until(at(30))
    assert sorted(desk.started()) == ["db", "web"]
    assert len(desk.said(said.GroupTickDispatched)) == 1


def test_an_iteration_from_before_synchronizing_joins_the_group_when_it_ends() -> None:
    desk = desk_with("db", "web")
    desk.until(at(15))
    desk.end("web")
    desk.apply(definition("db", "web", replication=TOGETHER))
    desk.started()
    desk.until(at(30))
    assert desk.started() == ["web"]
    desk.end("db")
    assert desk.started() == ["db"]
    assert desk.vm("db").run == "replication-run:shop:20261122T203000Z"


def test_a_deleted_plan_lets_its_group_end() -> None:
    desk = together("db", "web")
    desk.until(at(15))
    desk.command(said.DeletePlan, plan="shop")
    for vm in ("db", "web"):
        desk.end(vm, "cancelled")
    desk.settle_checks()
    assert desk.plan.runs == {}
    assert not desk.timers


def test_a_run_that_waited_when_its_plan_was_deleted_holds_up_no_later_tick() -> None:
    desk = together("db", "web")
    desk.until(at(15))
    desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r1")
    assert desk.vm("db").queued_run and desk.vm("web").queued_run
    desk.command(said.DeletePlan, plan="shop")
    desk.until(desk.now)
    assert list(desk.plan.runs) == ["replication-run:shop:20261122T201500Z"]
    for vm in ("db", "web"):
        desk.end(vm, "cancelled")
    desk.settle_checks()
    assert desk.apply(definition("db", "web", replication=TOGETHER)).outcome == "done"
    desk.started()
    desk.until(at(30))
    assert sorted(desk.started()) == ["db", "web"]


def test_a_run_that_waited_for_a_vm_that_left_holds_up_no_later_tick() -> None:
    desk = together("db", "web")
    desk.until(at(15))
    desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r1", vms=("web",))
    assert desk.vm("web").queued_run
    assert desk.apply(definition("db", replication=TOGETHER)).outcome == "done"
    desk.end("web", "cancelled")
    ended(desk, "db")
    assert desk.plan.runs == {}
    desk.started()
    desk.until(at(30))
    assert desk.started() == ["db"]
