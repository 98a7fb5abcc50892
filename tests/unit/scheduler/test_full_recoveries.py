"""Full recoveries: how they get their VMs, the last sync, and what of replication is left."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from schemas import scheduler as said
from schemas import scheduler_operations as said_ops
from schemas.common import CommandSettled, HoldMode
from schemas.operations import LastSyncEnded
from schemas.plans import CheckpointPolicy, ReplicationPolicy, ScriptDefinition, Targets
from schemas.recovery import EnrolVm, StartRecovery
from schemas.replicator import (
    CancelIteration,
    DeleteCheckpoint,
    RunMemberEnded,
    StartIteration,
    StartRun,
)
from services.scheduler.domain.full_recoveries import RELEASE_S_MAX
from tests.unit.scheduler.desk import QUARTER_S, START, Desk, at, definition, desk_with

JOB = "recovery:shop:f1"
RUN = "replication-run:shop:failover-f1"
BOTH: tuple[HoldMode, ...] = ("write-copy", "own-instance")


def ready(*vms: str, **changes: Any) -> Desk:
    desk = desk_with(*vms, **changes)
    desk.copied(*vms)
    desk.sent.clear()
    return desk


def recover(
    desk: Desk, mode: str = "failover", job: str = JOB, **fields: Any
) -> CommandSettled | None:
    return desk.command(said.Recover, plan="shop", job=job, mode=mode, **fields)


def ended(desk: Desk, *, moved: bool = True, stayed: tuple[str, ...] = (), job: str = JOB) -> None:
    desk.tell(
        said.RecoveryEnded(
            plan="shop", job=job, mode="failover", state="completed", moved=moved, stayed=stayed
        )
    )
    modes: Any = ("write-copy",) if moved else BOTH
    desk.tell(said.ReleaseHolds(plan="shop", job=job, modes=modes))


def code(answer: CommandSettled | None) -> str:
    assert answer is not None
    return answer.code or answer.outcome


def checkpoint(desk: Desk, name: str, *vms: str, state: Any = "available") -> str:
    """A PIT checkpoint is made of VMs that have a copy, or came to another end."""
    if name not in desk.plan.checkpoints:
        desk.command(said.CreateCheckpoint, plan="shop", job=name)
    made = said.CheckpointEnded(
        plan="shop", checkpoint=name, state=state, created_at=desk.now, vms=vms
    )
    desk.tell(made)
    return name


# ── Getting the VMs ──────────────────────────────────────────────────────────────────────────


def test_a_failover_holds_copies_and_instances_and_starts_at_once() -> None:
    desk = ready("db", "web")
    assert code(recover(desk)) == "done"
    assert desk.modes("db") == desk.modes("web") == {JOB: BOTH}
    assert [type(message) for message in desk.sent] == [EnrolVm, EnrolVm, StartRecovery]
    (start,) = desk.take(StartRecovery)
    assert (start.mode, start.last_sync, start.source_gone) == ("failover", True, False)


def test_with_a_last_sync_a_running_iteration_ends_by_itself() -> None:
    desk = ready("db")
    desk.until(at(15))
    assert code(recover(desk)) == "done"
    assert not desk.take(CancelIteration)
    desk.end("db")
    # Its end starts nothing: the copy is held.
    desk.until(at(50))
    assert not desk.vm("db").iteration
    assert desk.vm("db").queued_at == at(30)


def test_without_one_it_is_cancelled_and_the_recovery_waits_for_it() -> None:
    desk = ready("db", "web")
    desk.until(at(15))
    asked_at = desk.now
    assert recover(desk, last_sync=False) is None
    assert {m.iteration for m in desk.take(CancelIteration)} == {
        desk.vm("db").iteration,
        desk.vm("web").iteration,
    }
    assert not desk.take(StartRecovery) and desk.modes("db") == {}
    command = desk.plan.awaited[JOB].request.command_id
    assert list(desk.plan.awaited[JOB].vms) == ["db", "web"]
    desk.now += dt.timedelta(seconds=4)
    desk.end("db", "cancelled")
    desk.until(desk.now)
    assert not desk.take(StartRecovery)
    desk.end("web", "cancelled")
    desk.until(desk.now)
    (start,) = desk.take(StartRecovery)
    assert start.requested_at == asked_at
    assert desk.answers[command].outcome == "done"
    assert desk.modes("db") == desk.modes("web") == {JOB: BOTH}
    assert desk.plan.awaited == {}


def test_an_iteration_that_does_not_let_go_refuses_the_recovery_with_the_reason() -> None:
    desk = ready("db", "web")
    desk.until(at(15))
    recover(desk, last_sync=False)
    command = desk.plan.awaited[JOB].request.command_id
    desk.end("db", "cancelled")
    holder = desk.vm("web").iteration
    desk.until(desk.now + dt.timedelta(seconds=RELEASE_S_MAX - 1))
    assert command not in desk.answers
    desk.until(desk.now + dt.timedelta(seconds=2))
    answer = desk.answers[command]
    assert (answer.outcome, answer.code) == ("refused", "busy")
    assert holder in answer.message and "'web'" in answer.message
    assert desk.plan.awaited == {} and desk.vm("db").claim == ""
    assert not desk.take(StartRecovery)
    desk.until(at(30))
    assert desk.vm("db").iteration, "replication goes on"


def test_nothing_newer_overtakes_a_recovery_that_waits() -> None:
    desk = ready("db")
    desk.until(at(15))
    recover(desk, last_sync=False)
    assert code(recover(desk, "test", "recovery:shop:t")) == "busy"
    assert code(recover(desk, "failover", "recovery:shop:f2")) == "busy"
    desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r")
    assert desk.vm("db").queued_run == "replication-run:shop:r"
    desk.end("db", "cancelled")
    desk.until(desk.now)
    assert desk.modes("db") == {JOB: BOTH}
    assert desk.vm("db").iteration == ""
    assert code(desk.command(said.DeletePlan, plan="shop")) == "busy"


def test_an_ended_test_that_awaits_its_cleanup_is_not_in_the_way() -> None:
    desk = ready("db")
    test = "recovery:shop:t"
    recover(desk, "test", test)
    assert code(recover(desk)) == "busy"
    desk.tell(said.ReleaseHolds(plan="shop", job=test, modes=("read-copy",)))
    desk.tell(said.RecoveryEnded(plan="shop", job=test, mode="test", state="completed"))
    assert code(recover(desk)) == "done"
    assert desk.modes("db") == {test: ("own-instance",), JOB: BOTH}


def test_a_test_waits_for_commit_or_roll_back() -> None:
    desk = ready("db")
    recover(desk)
    ended(desk)
    answer = recover(desk, "test", "recovery:shop:t")
    assert code(answer) == "busy"
    assert answer is not None
    assert "seawall commit" in answer.remedy and "seawall rollback" in answer.remedy


@pytest.mark.parametrize(
    ("mode", "fields"),
    [
        ("migrate", {"checkpoint": "checkpoint:shop:a"}),
        ("migrate", {"last_sync": False}),
        ("migrate", {"source_gone": True}),
        ("test", {"last_sync": True}),
        ("test", {"source_gone": True}),
    ],
)
def test_what_a_mode_cannot_be_is_refused(mode: str, fields: dict[str, Any]) -> None:
    desk = ready("db")
    answer = recover(desk, mode, **fields)
    assert code(answer) == "invalid"
    assert answer is not None and answer.remedy


def test_a_point_in_time_is_recovered_without_a_last_sync_unless_asked_for() -> None:
    desk = ready("db")
    recover(desk, checkpoint=checkpoint(desk, "checkpoint:shop:a", "db"))
    (start,) = desk.take(StartRecovery)
    assert not start.last_sync


# ── The checkpoint of one that waits ─────────────────────────────────────────────────────────


def waiting(desk: Desk) -> str:
    """A failover to a checkpoint waits for the iteration of db; gives its command's id."""
    name = checkpoint(desk, "checkpoint:shop:a", "db")
    desk.until(at(15))
    assert recover(desk, checkpoint=name) is None
    desk.sent.clear()
    return desk.plan.awaited[JOB].request.command_id


def test_the_checkpoint_of_a_recovery_that_waits_is_neither_deleted_nor_expires() -> None:
    desk = ready("db", checkpoints=CheckpointPolicy(every_s=86_400.0, keep_last=1))
    waiting(desk)
    gone: dict[str, Any] = {
        "plan": "shop",
        "checkpoint": "checkpoint:shop:a",
        "action": "delete",
    }
    answer = desk.command(said.ChangeCheckpoint, **gone)
    assert code(answer) == "in-use" and answer is not None and JOB in answer.message
    checkpoint(desk, "checkpoint:shop:b", "db")
    assert not desk.take(DeleteCheckpoint)
    desk.end("db", "cancelled")
    desk.until(desk.now)
    (start,) = desk.take(StartRecovery)
    assert start.checkpoint == "checkpoint:shop:a"
    assert desk.plan.checkpoints["checkpoint:shop:a"].state == "available"


def test_a_recovery_that_gave_up_waiting_lets_its_checkpoint_expire() -> None:
    desk = ready("db", checkpoints=CheckpointPolicy(every_s=86_400.0, keep_last=1))
    waiting(desk)
    checkpoint(desk, "checkpoint:shop:b", "db")
    desk.until(desk.now + dt.timedelta(seconds=RELEASE_S_MAX + 1))
    assert not desk.plan.awaited
    assert [m.checkpoint for m in desk.take(DeleteCheckpoint)] == ["checkpoint:shop:a"]


def test_a_recovery_whose_checkpoint_is_gone_when_its_vms_are_free_is_refused() -> None:
    desk = ready("db")
    command = waiting(desk)
    checkpoint(desk, "checkpoint:shop:a", state="deleted")
    desk.end("db", "cancelled")
    desk.until(desk.now)
    answer = desk.answers[command]
    assert (answer.outcome, answer.code) == ("refused", "unknown-checkpoint")
    assert "checkpoint list" in answer.remedy
    assert not desk.take(StartRecovery) and not desk.plan.awaited and not desk.plan.recoveries
    assert desk.vm("db").claim == "" and desk.modes("db") == {}
    assert not [timer for timer in desk.timers.values() if "claim" in timer.name]
    desk.until(at(31))
    assert desk.vm("db").iteration, "replication goes on"


# ── The last sync ────────────────────────────────────────────────────────────────────────────


def sync(desk: Desk, *vms: str) -> None:
    desk.tell(said.SyncLast(plan="shop", job=JOB, vms=vms))


def test_the_last_sync_runs_under_the_recoverys_own_hold_and_is_answered() -> None:
    desk = ready("db", "web")
    recover(desk)
    desk.sent.clear()
    sync(desk, "db", "web")
    (run,) = desk.take(StartRun)
    assert (run.run, run.operation, run.vms) == (RUN, "failover", ("db", "web"))
    iterations = desk.take(StartIteration)
    assert {(m.vm, m.operation, m.run) for m in iterations} == {
        ("db", "failover", RUN),
        ("web", "failover", RUN),
    }
    desk.end("db")
    desk.end("web", "failed", copy=False)
    news = desk.take(LastSyncEnded)
    assert [(m.job, m.vm, m.state) for m in news] == [
        (JOB, "db", "completed"),
        (JOB, "web", "failed"),
    ]
    assert news[0].checkpoint_at == desk.now
    desk.settle_checks()
    assert desk.plan.runs == {}


def test_a_last_sync_comes_after_the_iteration_that_runs_and_takes_a_waiting_ticks_place() -> None:
    desk = ready("db", "web")
    desk.until(at(15))
    recover(desk)
    desk.end("web")
    desk.until(at(31))
    assert desk.vm("db").iteration and desk.vm("web").queued_at == at(30)
    desk.sent.clear()
    sync(desk, "db", "web")
    assert desk.started() == ["web"]
    desk.end("db")
    assert desk.started() == ["db"]
    assert not desk.take(LastSyncEnded), "the iteration before was none"
    desk.end("web")
    desk.end("db")
    assert {m.vm for m in desk.take(LastSyncEnded)} == {"db", "web"}


def test_a_run_that_waited_for_the_vm_hears_that_it_will_not_come() -> None:
    desk = ready("db")
    recover(desk)
    desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r")
    sync(desk, "db")
    (told,) = desk.take(RunMemberEnded)
    assert told.run == "replication-run:shop:r"
    desk.settle_checks()
    assert list(desk.plan.runs) == [RUN]


def test_a_last_sync_asked_for_twice_runs_once() -> None:
    desk = ready("db")
    recover(desk)
    sync(desk, "db")
    desk.end("db")
    desk.settle_checks()
    desk.sent.clear()
    sync(desk, "db")
    assert desk.started() == []


def test_iterations_of_vms_that_are_gone_are_cancelled_and_not_waited_for() -> None:
    desk = ready("db")
    desk.until(at(15))
    recover(desk)
    sync(desk)
    assert len(desk.take(CancelIteration)) == 1
    assert not desk.take(StartRun)
    desk.end("db", "cancelled")
    assert not desk.take(LastSyncEnded)


def test_a_last_sync_that_waits_and_is_stopped_is_answered() -> None:
    desk = ready("db")
    desk.until(at(15))
    recover(desk)
    sync(desk, "db")
    assert desk.vm("db").queued_run == RUN
    desk.command(said.StopPlan, plan="shop")
    (news,) = desk.take(LastSyncEnded)
    assert (news.job, news.vm, news.state) == (JOB, "db", "cancelled")
    assert news.problem is not None
    desk.end("db")
    assert not desk.take(LastSyncEnded)


def test_scripts_around_replication_run_by_what_they_declare() -> None:
    both = ScriptDefinition(
        run="a.sh", runtime="sh", sha256="0" * 64, size=1, operations=("replication",)
    )
    sync_only = ScriptDefinition(
        run="b.sh", runtime="sh", sha256="1" * 64, size=1, operations=("failover",)
    )
    policy = ReplicationPolicy(
        interval_s=QUARTER_S,
        start_at=START,
        synchronize=True,
        pre_script=both,
        post_script=sync_only,
    )
    desk = ready("db", replication=policy)
    recover(desk)
    sync(desk, "db")
    (run,) = desk.take(StartRun)
    assert (run.pre_script, run.post_script) == (None, sync_only)
    (iteration,) = desk.take(StartIteration)
    assert not iteration.gated


# ── Afterwards ───────────────────────────────────────────────────────────────────────────────


def test_vms_that_moved_are_replicated_no_more() -> None:
    desk = ready("db", "web")
    recover(desk)
    desk.until(at(31))
    assert desk.vm("db").queued_at
    ended(desk)
    assert desk.vm("db").moved == desk.vm("web").moved == "failed-over"
    assert not desk.vm("db").on
    assert desk.modes("db") == {JOB: ("own-instance",)}
    desk.sent.clear()
    desk.until(at(90))
    assert desk.started() == []
    assert code(desk.command(said.StartPlan, plan="shop")) == "failed-over"
    run = desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r")
    assert code(run) == "failed-over"
    assert code(recover(desk, "failover", "recovery:shop:f2")) == "failed-over"


def test_a_vm_whose_source_was_left_alone_goes_on_being_replicated() -> None:
    desk = ready("db", "web")
    recover(desk)
    desk.tell(
        said.RecoveryEnded(
            plan="shop",
            job=JOB,
            mode="failover",
            state="partially-completed",
            moved=True,
            stayed=("web",),
        )
    )
    desk.tell(said.ReleaseHolds(plan="shop", job=JOB, modes=("write-copy",)))
    desk.tell(said.ReleaseHolds(plan="shop", job=JOB, modes=BOTH, vms=("web",)))
    assert desk.modes("web") == {}
    desk.until(at(31))
    assert desk.vm("web").iteration and not desk.vm("db").iteration
    assert code(desk.command(said.StartPlan, plan="shop")) == "done"
    assert code(desk.command(said.StartPlan, plan="shop", vms=("db",))) == "failed-over"


def test_a_recovery_that_moved_nothing_lets_replication_go_on() -> None:
    desk = ready("db")
    recover(desk)
    desk.until(at(31))
    ended(desk, moved=False)
    assert desk.vm("db").iteration and desk.vm("db").moved == ""
    assert desk.modes("db") == {}
    assert desk.plan.recoveries == {}


def test_a_commit_gives_the_holds_back_and_the_vms_stay_where_they_are() -> None:
    desk = ready("db")
    recover(desk)
    ended(desk)
    release: Any = ("own-instance",)
    desk.tell(said.ReleaseHolds(plan="shop", job=JOB, modes=release, release_checkpoint=True))
    assert desk.modes("db") == {} and desk.plan.recoveries == {}
    assert desk.vm("db").moved == "failed-over"
    assert code(recover(desk, "test", "recovery:shop:t")) == "done"
    assert code(desk.command(said.DeletePlan, plan="shop")) == "busy"


@pytest.mark.parametrize("synchronize", [False, True])
@pytest.mark.parametrize("stopped", [False, True])
def test_a_roll_back_turns_replication_on_where_it_was_on(
    synchronize: bool, stopped: bool
) -> None:
    policy = ReplicationPolicy(interval_s=QUARTER_S, start_at=START, synchronize=synchronize)
    desk = ready("db", "web", replication=policy)
    if stopped:
        desk.command(said.StopPlan, plan="shop")
    recover(desk)
    ended(desk)
    desk.until(at(31))
    desk.sent.clear()
    desk.tell(said.ReturnVms(plan="shop", job=JOB))
    desk.tell(said.ReleaseHolds(plan="shop", job=JOB, modes=("own-instance",)))
    assert desk.vm("db").moved == "" and desk.modes("db") == {}
    assert desk.vm("db").on is not stopped
    desk.until(at(46))
    assert sorted(set(desk.started())) == ([] if stopped else ["db", "web"])


def test_what_a_commit_leaves_out_is_replicated_and_recovered_again() -> None:
    desk = ready("db", "web")
    recover(desk)
    ended(desk)
    desk.until(at(31))
    desk.sent.clear()
    desk.tell(said.ReturnVms(plan="shop", job=JOB, vms=("web",)))
    desk.tell(said.ReleaseHolds(plan="shop", job=JOB, modes=("own-instance",)))
    assert (desk.vm("db").moved, desk.vm("web").moved) == ("failed-over", "")
    assert (desk.vm("db").on, desk.vm("web").on) == (False, True)
    desk.until(at(46))
    assert set(desk.started()) == {"web"}
    again = "recovery:shop:f2"
    assert code(recover(desk, job=again, vms=("db",))) == "failed-over"
    assert code(recover(desk, job=again, vms=("web",))) == "done"


def test_the_rpo_of_a_vm_that_moved_is_not_judged_and_is_again_when_it_returns() -> None:
    desk = ready("db", targets=Targets(rpo_s=1200.0))
    recover(desk)
    ended(desk)
    desk.until(at(60))
    assert not desk.said(said.RpoBreached)
    desk.tell(said.ReturnVms(plan="shop", job=JOB))
    assert len(desk.said(said.RpoBreached)) == 1


def test_scheduled_checkpoints_of_copies_that_stand_still_are_not_made() -> None:
    desk = ready("db", checkpoints=CheckpointPolicy(every_s=3600.0, keep_last=2))
    recover(desk)
    ended(desk)
    desk.until(at(200))
    assert not desk.said(said.CheckpointRequested)


# ── Quarantine ───────────────────────────────────────────────────────────────────────────────


def lost(desk: Desk) -> None:
    desk.tell(said.SiteLost(site="east", plan="shop", job=JOB))


def test_a_lost_site_stops_every_plan_that_uses_it_until_a_person_looked() -> None:
    desk = ready("db")
    desk.until(at(15))
    desk.sent.clear()
    lost(desk)
    assert desk.said(said_ops.SiteQuarantined)[0].job == JOB
    assert list(desk.plan.quarantined) == ["east"]
    assert len(desk.take(CancelIteration)) == 1
    desk.end("db", "cancelled")
    desk.until(at(60))
    assert desk.started() == []
    assert code(desk.command(said.StartPlan, plan="shop")) == "quarantined"
    run = desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r")
    assert code(run) == "quarantined"
    assert code(desk.command(said.ReleaseSite, site="east")) == "confirm"
    assert code(desk.command(said.ReleaseSite, site="east", confirm="east")) == "done"
    assert not desk.plan.quarantined
    assert code(desk.command(said.StartPlan, plan="shop")) == "done"
    desk.until(desk.now)
    assert desk.started() == ["db"]
    assert code(desk.command(said.ReleaseSite, site="east", confirm="east")) == "not-quarantined"


def test_a_site_is_quarantined_once_whoever_says_so_how_often() -> None:
    desk = ready("db")
    lost(desk)
    lost(desk)
    assert len(desk.said(said_ops.SiteQuarantined)) == 1
    assert len(desk.said(said_ops.PlanQuarantined)) == 1


def test_a_vm_that_joins_a_plan_of_a_quarantined_site_does_not_replicate() -> None:
    desk = ready("db")
    lost(desk)
    desk.inventory["east"] = ("db", "web")
    assert desk.apply(definition("db", "web")).outcome == "done"
    assert not desk.vm("web").on
    desk.sent.clear()
    desk.until(at(60))
    assert desk.started() == []


def test_a_last_sync_that_runs_is_not_cancelled_by_a_quarantine() -> None:
    desk = ready("db")
    recover(desk)
    sync(desk, "db")
    lost(desk)
    assert not desk.take(CancelIteration)
    desk.end("db")
    assert [news.state for news in desk.take(LastSyncEnded)] == ["completed"]


@pytest.mark.parametrize("stopped", [False, True])
def test_a_last_sync_that_waits_for_its_turn_outlives_a_quarantine(stopped: bool) -> None:
    desk = ready("db", "web")
    desk.until(at(15))
    if stopped:
        desk.command(said.StopPlan, plan="shop")
    recover(desk, source_gone=True)
    sync(desk, "web")
    assert desk.vm("web").queued_run == RUN
    desk.sent.clear()
    lost(desk)
    assert not desk.take(LastSyncEnded) and not desk.take(RunMemberEnded)
    assert not desk.vm("web").on
    assert len(desk.said(said.VmStopped, "protected-vm:shop:web")) == 1
    desk.end("db", "cancelled")
    desk.end("web", "cancelled")
    assert [(m.vm, m.run) for m in desk.take(StartIteration)] == [("web", RUN)]
    desk.end("web")
    assert [(m.vm, m.state) for m in desk.take(LastSyncEnded)] == [("web", "completed")]
    desk.settle_checks()
    assert desk.plan.runs == {}


def test_another_plan_of_a_quarantined_site_can_still_fail_over() -> None:
    desk = ready("db")
    lost(desk)
    assert code(recover(desk, source_gone=True)) == "done"


@pytest.mark.parametrize("late", [False, True])
def test_a_roll_back_while_a_site_is_quarantined_starts_nothing(late: bool) -> None:
    desk = ready("db")
    recover(desk, source_gone=True)
    if not late:
        lost(desk)
    ended(desk)
    if late:
        lost(desk)
    desk.tell(said.ReturnVms(plan="shop", job=JOB))
    assert desk.vm("db").moved == "" and not desk.vm("db").on


def test_a_plan_that_is_deleted_is_quarantined_no_more() -> None:
    desk = ready("db")
    lost(desk)
    assert code(desk.command(said.DeletePlan, plan="shop")) == "done"
    assert [event.site for event in desk.said(said_ops.PlanQuarantineEnded)] == ["east"]
    assert not desk.plan.quarantined
