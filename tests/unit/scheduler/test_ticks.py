"""Ticks of single VMs: on the grid, queued behind a long iteration, missed, blacked out."""

from __future__ import annotations

import datetime as dt

from schemas import scheduler as said
from schemas.common import Problem
from schemas.plans import OnceBlackout, ReplicationPolicy, VmDefinition
from schemas.replicator import CancelIteration, RunMemberEnded, StartIteration
from schemas.sync_state import sync_state
from services.scheduler.domain.names import plan_stream, vm_stream
from tests.unit.scheduler.desk import QUARTER_S, START, Desk, at, desk_with

DB = vm_stream("shop", "db")


def overrun(desk: Desk) -> None:
    """The iteration of 20:15 is still running at 20:30."""
    desk.until(at(15))
    desk.until(at(30))


def test_a_tick_is_one_event_and_one_message_and_its_end_one_event() -> None:
    desk = desk_with("db")
    desk.copied("db")
    desk.sent.clear()
    rows = desk.rows
    desk.until(at(15))
    assert desk.rows == rows + 2
    assert desk.started() == ["db"]
    desk.now = at(16)
    desk.end("db")
    assert desk.rows == rows + 3
    assert desk.sent == []


def test_a_dispatch_says_tick_iteration_and_the_next_tick() -> None:
    desk = desk_with("db")
    desk.until(at(15))
    (event,) = desk.said(said.IterationDispatched)
    assert event.iteration == "iteration:shop:db:20261122T201500Z"
    assert (event.tick_at, event.due_at, event.next_due_at) == (at(15), at(15), at(30))
    (message,) = desk.take(StartIteration)
    assert message.iteration == event.iteration
    assert (message.protected.site, message.recovery_site.site) == ("east", "west")
    assert not message.gated


def test_the_first_copy_is_full_and_the_next_one_is_not() -> None:
    desk = desk_with("db")
    desk.until(at(15))
    desk.end("db")
    desk.until(at(30))
    first, second = desk.take(StartIteration)
    assert (first.full, first.resync) == (True, False)
    assert not second.full


def test_a_failed_first_copy_is_followed_by_a_full_one() -> None:
    desk = desk_with("db")
    desk.until(at(15))
    desk.end("db", "failed", copy=False, problem=Problem(code="x", message="broken"))
    desk.until(at(30))
    assert [m.full for m in desk.take(StartIteration)] == [True, True]


def test_a_tick_during_an_iteration_waits_and_starts_right_after_it() -> None:
    desk = desk_with("db")
    desk.copied("db")
    desk.sent.clear()
    overrun(desk)
    assert desk.started() == ["db"]
    (queued,) = desk.said(said.TickQueued)
    assert queued.tick_at == at(30)
    assert sync_state(desk.vm("db").sync) == "exceeded-interval"
    desk.until(at(33))
    desk.end("db")
    (message,) = desk.take(StartIteration)
    assert message.tick_at == at(30)
    assert desk.vm("db").next_due_at == at(45)
    desk.now = at(34)
    desk.end("db")
    desk.until(at(45))
    assert desk.started() == ["db"]


def test_of_many_ticks_during_an_iteration_one_is_queued_and_the_others_reported() -> None:
    desk = desk_with("db")
    overrun(desk)
    desk.until(at(80))
    assert len(desk.said(said.TickQueued)) == 1
    desk.end("db")
    (missed,) = desk.said(said.TicksMissed)
    assert (missed.count, missed.first_at, missed.last_at) == (3, at(45), at(75))
    assert [m.tick_at for m in desk.take(StartIteration)] == [at(15), at(30)]
    desk.now = at(81)
    desk.end("db")
    desk.until(at(90))
    assert desk.started() == ["db"]


def test_ticks_missed_while_down_are_caught_up_once_and_reported() -> None:
    desk = desk_with("db")
    timer = desk.timer(DB, "tick")
    assert timer is not None
    desk.fire(timer, late_s=50 * 60)
    (missed,) = desk.said(said.TicksMissed)
    assert (missed.count, missed.first_at, missed.last_at) == (4, at(15), at(60))
    assert missed.caught_up
    assert [m.tick_at for m in desk.take(StartIteration)] == [at(60)]
    assert desk.vm("db").next_due_at == at(75)


def test_a_tick_a_few_seconds_late_is_none_missed() -> None:
    desk = desk_with("db")
    timer = desk.timer(DB, "tick")
    assert timer is not None
    desk.fire(timer, late_s=20)
    assert not desk.said(said.TicksMissed)
    assert [m.tick_at for m in desk.take(StartIteration)] == [at(15)]


def test_a_timer_that_fires_twice_starts_once() -> None:
    desk = desk_with("db")
    timer = desk.timer(DB, "tick")
    assert timer is not None
    desk.fire(timer)
    desk.tell(said.TickDue(tick_at=at(15)), stream=DB)
    assert desk.started() == ["db"]
    assert not desk.said(said.TickQueued)


def test_an_end_that_comes_twice_counts_once() -> None:
    desk = desk_with("db")
    desk.until(at(15))
    iteration = desk.vm("db").iteration
    desk.end("db")
    ended = said.IterationEnded(plan="shop", vm="db", iteration=iteration, state="failed")
    assert desk.tell(ended) == []
    assert sync_state(desk.vm("db").sync) == "in-sync"


def test_ticks_in_a_blackout_run_once_when_it_ends() -> None:
    window = OnceBlackout(starts_at=at(10), ends_at=at(50))
    policy = ReplicationPolicy(interval_s=QUARTER_S, start_at=START, blackouts=(window,))
    desk = desk_with("db", replication=policy)
    desk.until(at(49))
    assert not desk.started()
    desk.until(at(50))
    assert desk.started() == ["db"]
    assert not desk.said(said.TicksMissed)
    desk.end("db")
    desk.until(at(60))
    assert desk.started() == ["db"]


def test_a_queued_tick_waits_for_the_end_of_a_blackout() -> None:
    window = OnceBlackout(starts_at=at(32), ends_at=at(40))
    policy = ReplicationPolicy(interval_s=QUARTER_S, start_at=START, blackouts=(window,))
    desk = desk_with("db", replication=policy)
    overrun(desk)
    desk.started()
    desk.until(at(33))
    desk.end("db")
    assert not desk.started()
    desk.until(at(40))
    assert desk.started() == ["db"]


def test_spread_gives_every_vm_its_own_place_in_the_interval() -> None:
    desk = desk_with("a", "b", "c", "d", policy={"spread_s": 400.0})
    due = {vm: desk.vm(vm).next_due_at for vm in "abcd"}
    assert len(set(due.values())) == 4
    desk.until(at(30))
    for vm in "abcd":
        (event,) = desk.said(said.IterationDispatched, vm_stream("shop", vm))
        assert event.tick_at == due[vm]


def test_a_reset_makes_the_next_iteration_a_resync() -> None:
    desk = desk_with("db")
    desk.copied("db")
    desk.sent.clear()
    desk.command(said.ResetVm, plan="shop", vm="db")
    desk.until(at(15))
    (message,) = desk.take(StartIteration)
    assert (message.full, message.resync) == (True, True)
    desk.end("db", resync=True)
    assert sync_state(desk.vm("db").sync) == "resync-success"
    desk.until(at(30))
    assert not desk.take(StartIteration)[0].full


def test_a_reset_during_an_iteration_is_not_forgotten() -> None:
    desk = desk_with("db")
    desk.copied("db")
    desk.sent.clear()
    desk.until(at(15))
    desk.command(said.ResetVm, plan="shop", vm="db")
    desk.end("db")
    desk.until(at(30))
    assert [m.resync for m in desk.take(StartIteration)] == [False, True]


def test_a_failed_resync_is_tried_again() -> None:
    desk = desk_with("db")
    desk.copied("db")
    desk.sent.clear()
    desk.command(said.ResetVm, plan="shop", vm="db")
    desk.until(at(15))
    desk.end("db", "failed", copy=False)
    assert sync_state(desk.vm("db").sync) == "resync-failed"
    desk.until(at(30))
    assert [m.resync for m in desk.take(StartIteration)] == [True, True]


def test_stopping_lets_the_running_iteration_end_and_starts_no_other() -> None:
    desk = desk_with("db")
    overrun(desk)
    desk.started()
    desk.command(said.StopPlan, plan="shop")
    assert not desk.take(CancelIteration)
    desk.end("db")
    desk.until(at(120))
    assert not desk.started()
    assert desk.vm("db").queued_at is None


def test_stopping_cancels_only_when_asked() -> None:
    desk = desk_with("db", "web")
    desk.until(at(15))
    desk.command(said.StopPlan, plan="shop", vms=("db",), cancel=True)
    assert [m.iteration for m in desk.take(CancelIteration)] == [desk.vm("db").iteration]
    assert desk.vm("web").on


def test_starting_again_catches_up_once_and_goes_back_to_the_grid() -> None:
    desk = desk_with("db")
    desk.command(said.StopPlan, plan="shop")
    desk.until(at(100))
    desk.command(said.StartPlan, plan="shop")
    desk.until(at(100))
    assert [m.tick_at for m in desk.take(StartIteration)] == [at(90)]
    (missed,) = desk.said(said.TicksMissed)
    assert missed.count == 6
    desk.end("db")
    desk.until(at(105))
    assert desk.started() == ["db"]


def test_starting_again_before_a_tick_was_missed_runs_nothing() -> None:
    desk = desk_with("db")
    desk.command(said.StopPlan, plan="shop")
    desk.command(said.StartPlan, plan="shop")
    desk.until(at(14))
    assert not desk.started()
    desk.until(at(15))
    assert desk.started() == ["db"]


def test_starting_what_is_on_says_nothing() -> None:
    desk = desk_with("db")
    rows = desk.rows
    desk.command(said.StartPlan, plan="shop")
    assert desk.rows == rows + 1


def test_commands_name_unknown_plans_and_vms() -> None:
    desk = desk_with("db")
    for command in (said.StartPlan, said.StopPlan, said.DeletePlan):
        answer = desk.command(command, plan="mars")
        assert answer is not None
        assert answer.code == "unknown-plan"
    answer = desk.command(said.StopPlan, plan="shop", vms=("db", "mars"))
    assert answer is not None
    assert answer.code == "unknown-vm"
    assert desk.vm("db").on


def test_priorities_of_vm_definition_and_plan_in_this_order() -> None:
    own = VmDefinition(name="own", priority=4)
    desk = desk_with("db", "web", own)  # type: ignore[arg-type]
    desk.command(said.PrioritisePlan, plan="shop", priority=2)
    desk.command(said.PrioritisePlan, plan="shop", priority=1, vms=("web",))
    # Nobody who shows the VM takes the plan's priority for its own.
    assert not desk.said(said.VmPrioritised, vm_stream("shop", "own"))
    desk.until(at(15))
    assert {m.vm: m.priority for m in desk.take(StartIteration)} == {"db": 2, "web": 1, "own": 4}


def test_a_priority_that_does_not_exist_is_refused() -> None:
    answer = desk_with("db").command(said.PrioritisePlan, plan="shop", priority=6)
    assert answer is not None
    assert answer.code == "invalid"


def test_run_now_starts_at_once_and_leaves_the_grid_alone() -> None:
    desk = desk_with("db")
    job = "replication-run:shop:r1"
    desk.command(said.RunPlan, plan="shop", job=job)
    (event,) = desk.said(said.IterationDispatched)
    assert (event.iteration, event.run) == ("iteration:shop:db:r1", job)
    assert desk.vm("db").next_due_at == at(15)
    desk.end("db")
    desk.settle_checks()
    assert [e.run for e in desk.said(said.GroupTickEnded)] == [job]
    desk.sent.clear()
    desk.until(at(15))
    assert desk.started() == ["db"]


def test_run_now_works_for_a_stopped_vm_in_a_blackout() -> None:
    window = OnceBlackout(starts_at=START, ends_at=at(600))
    policy = ReplicationPolicy(interval_s=QUARTER_S, start_at=START, blackouts=(window,))
    desk = desk_with("db", replication=policy)
    desk.command(said.StopPlan, plan="shop")
    desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r1")
    assert desk.started() == ["db"]


def test_a_busy_vm_joins_the_run_when_its_iteration_ends() -> None:
    desk = desk_with("db", "web")
    overrun(desk)
    desk.end("web")
    desk.started()
    desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r1")
    assert desk.plan.runs == {"replication-run:shop:r1": ("db", "web")}
    desk.now = at(32)
    desk.end("db")
    (message,) = desk.take(StartIteration)
    assert (message.vm, message.run) == ("db", "replication-run:shop:r1")
    assert desk.vm("db").next_due_at == at(45)
    # The run stands for the queued tick as well: nothing else is queued.
    desk.now = at(33)
    desk.end("db")
    assert not desk.started()
    desk.until(at(45))
    assert "db" in desk.started()


def test_a_second_run_is_refused_while_a_vm_still_waits_for_the_first() -> None:
    desk = desk_with("db")
    desk.until(at(15))
    desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r1")
    answer = desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r2")
    assert answer is not None
    assert answer.code == "busy"
    desk.end("db")
    answer = desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r2")
    assert answer is not None
    assert answer.outcome == "done"


def test_stopping_takes_a_waiting_vm_off_its_run() -> None:
    desk = desk_with("db")
    desk.until(at(15))
    desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r1")
    desk.command(said.StopPlan, plan="shop")
    assert [(m.vm, m.state) for m in desk.take(RunMemberEnded)] == [("db", "cancelled")]
    desk.settle_checks()
    assert desk.plan.runs == {}


def test_a_plan_run_names_a_vm_that_the_plan_does_not_have() -> None:
    desk = desk_with("db")
    answer = desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r1", vms=("x",))
    assert answer is not None
    assert answer.code == "unknown-vm"
    assert not desk.said(said.GroupTickDispatched)


def test_ids_of_ticks_carry_microseconds_only_where_there_are_any() -> None:
    start = START + dt.timedelta(microseconds=5)
    policy = ReplicationPolicy(interval_s=QUARTER_S, start_at=start)
    desk = desk_with("db", replication=policy)
    desk.until(at(16))
    assert desk.vm("db").iteration == "iteration:shop:db:20261122T201500-000005Z"
    assert desk.timer(plan_stream("shop"), "tick") is None
