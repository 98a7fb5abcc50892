"""Recoveries: who may start one, what is held meanwhile, what is told to whom."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from schemas import scheduler as said
from schemas.common import CommandSettled
from schemas.plans import (
    RECOVERY_OPERATIONS,
    RecoveryPolicy,
    ScriptDefinition,
    VmDefinition,
)
from schemas.recovery import EnrolVm, StartRecovery
from tests.unit.scheduler.desk import Desk, at, desk_with

JOB = "recovery:shop:1"
SCRIPT = ScriptDefinition(
    run="a.sh", runtime="sh", sha256="0" * 64, size=1, operations=RECOVERY_OPERATIONS
)


def ready(*vms: str) -> Desk:
    desk = desk_with(*vms)
    desk.copied(*vms)
    desk.sent.clear()
    return desk


def recover(desk: Desk, job: str = JOB, **fields: Any) -> CommandSettled:
    fields = {"mode": "test"} | fields
    answer = desk.command(said.Recover, plan="shop", job=job, **fields)
    assert answer is not None
    return answer


def release(desk: Desk, *modes: Any, job: str = JOB, **fields: Any) -> list[Any]:
    return desk.tell(said.ReleaseHolds(plan="shop", job=job, modes=modes, **fields))


def end(desk: Desk, job: str = JOB) -> None:
    desk.tell(said.RecoveryEnded(plan="shop", job=job, mode="test", state="completed", rto_s=12.5))


def test_a_test_recovery_holds_all_its_vms_and_enrols_them_first() -> None:
    desk = ready("db", "web")
    assert recover(desk).outcome == "done"
    assert desk.modes("db") == desk.modes("web") == {JOB: ("read-copy", "own-instance")}
    assert [type(message) for message in desk.sent] == [EnrolVm, EnrolVm, StartRecovery]


def test_the_recovery_is_told_its_members_and_the_operators_moment() -> None:
    app = VmDefinition(name="app", boot_order=2, boot_delay_s=20.0, post_script=SCRIPT)
    desk = desk_with("db", app)  # type: ignore[arg-type]
    desk.copied("db", "app")
    asked_at = desk.now - dt.timedelta(seconds=3)
    skip = ("post-recovery:app",)
    desk.tell(
        said.Recover(command_id="x", plan="shop", job=JOB, mode="test", skip_scripts=skip),
        moment=asked_at,
    )
    (start,) = desk.take(StartRecovery)
    assert start.requested_at == asked_at
    assert start.actor == "ann"
    assert [(m.vm, m.boot_order, m.boot_delay_s) for m in start.members] == [
        ("db", 1, 0.0),
        ("app", 2, 20.0),
    ]
    assert (start.on_error, start.skip_scripts, start.plan_version) == ("continue", skip, 1)


def test_chosen_vms_only() -> None:
    desk = ready("db", "web")
    recover(desk, vms=("web",))
    assert desk.modes("db") == {}
    assert [m.definition.name for m in desk.take(EnrolVm)] == ["web"]


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_vm_without_a_copy_stops_all_of_them(dry_run: bool) -> None:
    desk = desk_with("db", "web")
    desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r", vms=("db",))
    desk.end("db")
    answer = recover(desk, dry_run=dry_run)
    assert answer.code == "no-copy"
    assert "web" in answer.message
    assert "db" not in answer.message
    assert desk.modes("db") == {}
    assert not desk.take(EnrolVm)


def test_a_first_copy_that_runs_is_no_copy_yet() -> None:
    desk = desk_with("db")
    desk.until(at(15))
    assert recover(desk).code == "no-copy"


def test_names_that_do_not_exist_are_refused() -> None:
    desk = ready("db")
    assert recover(desk, vms=("x",)).code == "unknown-vm"
    assert recover(desk, checkpoint="checkpoint:shop:x").code == "unknown-checkpoint"
    answer = desk.command(said.Recover, plan="mars", job=JOB, mode="test")
    assert answer is not None
    assert answer.code == "unknown-plan"


def scripted() -> Desk:
    """A plan with a pre-script, and a VM with a post-script beside one without any."""
    db = VmDefinition(name="db", post_script=SCRIPT)
    desk = desk_with(db, "web", recovery=RecoveryPolicy(pre_script=SCRIPT))  # type: ignore[arg-type]
    desk.copied("db", "web")
    return desk


@pytest.mark.parametrize(
    ("entry", "code", "named"),
    [
        ("pre_script", "invalid", "'pre_script'"),
        ("post-recovery ", "invalid", "'post-recovery '"),
        ("", "invalid", "''"),
        ("post-recovery:dbb", "unknown-vm", "'dbb'"),
        ("post-recovery:", "unknown-vm", "''"),
        ("post-recovery", "no-script", "plan 'shop'"),
        ("pre-recovery:db", "no-script", "VM 'db'"),
        ("post-recovery:web", "no-script", "VM 'web'"),
    ],
)
@pytest.mark.parametrize("dry_run", [False, True])
def test_what_names_no_script_is_refused_with_those_there_are(
    entry: str, code: str, named: str, dry_run: bool
) -> None:
    desk = scripted()
    answer = recover(desk, skip_scripts=("pre-recovery", entry), dry_run=dry_run)
    assert (answer.outcome, answer.code) == ("refused", code)
    assert named in answer.message
    assert "this recovery has pre-recovery, post-recovery:db" in answer.remedy
    assert not desk.take(StartRecovery) and desk.modes("db") == {}


def test_scripts_that_are_there_may_be_left_out() -> None:
    desk = scripted()
    skip = ("pre-recovery", "post-recovery:db", "pre-recovery")
    assert recover(desk, skip_scripts=skip).outcome == "done"
    (start,) = desk.take(StartRecovery)
    assert start.skip_scripts == skip


def test_a_script_of_a_vm_that_is_not_recovered_cannot_be_skipped() -> None:
    answer = recover(scripted(), vms=("web",), skip_scripts=("post-recovery:db",))
    assert answer.code == "unknown-vm"
    assert "post-recovery:db" not in answer.remedy


def test_where_no_script_is_configured_the_refusal_says_so() -> None:
    answer = recover(ready("db"), skip_scripts=("pre-recovery",))
    assert answer.code == "no-script"
    assert answer.remedy.endswith("this recovery has none to skip")


def test_a_checkpoint_must_hold_every_vm() -> None:
    desk = desk_with("db", "web")
    desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r", vms=("db",))
    desk.end("db")
    desk.command(said.CreateCheckpoint, plan="shop", job="checkpoint:shop:a")
    assert recover(desk, checkpoint="checkpoint:shop:a", vms=("db",)).code == "unknown-checkpoint"
    desk.tell(
        said.CheckpointEnded(
            plan="shop",
            checkpoint="checkpoint:shop:a",
            state="available",
            created_at=desk.now,
            vms=("db",),
        )
    )
    answer = recover(desk, checkpoint="checkpoint:shop:a")
    assert answer.code == "no-copy"
    assert "web" in answer.message
    assert recover(desk, checkpoint="checkpoint:shop:a", vms=("db",)).outcome == "done"


def test_a_second_test_of_a_vm_is_refused_with_vm_and_job() -> None:
    desk = ready("db", "web")
    recover(desk, vms=("web",))
    answer = recover(desk, "recovery:shop:2")
    assert answer.code == "busy"
    assert "'web'" in answer.message
    assert JOB in answer.message
    assert desk.modes("db") == {}
    assert recover(desk, "recovery:shop:3", vms=("db",)).outcome == "done"


def test_an_ended_test_still_owns_its_instances_until_cleanup() -> None:
    desk = ready("db")
    recover(desk)
    release(desk, "read-copy")
    end(desk)
    assert desk.modes("db") == {JOB: ("own-instance",)}
    answer = recover(desk, "recovery:shop:2")
    assert answer.code == "busy"
    assert "cleanup" in answer.remedy
    release(desk, "own-instance", release_checkpoint=True)
    assert desk.modes("db") == {}
    assert desk.plan.recoveries == {}
    assert recover(desk, "recovery:shop:2").outcome == "done"


def test_news_may_come_in_any_order_and_twice() -> None:
    desk = ready("db")
    recover(desk)
    end(desk)
    end(desk)
    release(desk, "read-copy", "own-instance", release_checkpoint=True)
    assert release(desk, "read-copy", "own-instance", release_checkpoint=True) == []
    assert desk.plan.recoveries == {}
    assert len(desk.said(said.RecoveryRecorded)) == 1
    assert desk.said(said.RecoveryRecorded)[0].rto_s == 12.5


def test_some_vms_may_be_given_back_before_others() -> None:
    desk = ready("db", "web")
    recover(desk)
    release(desk, "read-copy", "own-instance", vms=("db",))
    assert desk.modes("db") == {}
    assert desk.modes("web") == {JOB: ("read-copy", "own-instance")}
    assert not desk.said(said.RecoveryHoldsReleased)
    release(desk, "read-copy", "own-instance")
    assert len(desk.said(said.RecoveryHoldsReleased)) == 1


def test_a_test_does_not_wait_for_an_iteration_nor_an_iteration_for_it() -> None:
    desk = ready("db")
    desk.until(at(15))
    assert recover(desk).outcome == "done"
    desk.end("db")
    desk.until(at(30))
    assert desk.vm("db").iteration


def test_a_dry_run_holds_nothing_and_meets_no_hold() -> None:
    desk = ready("db")
    recover(desk)
    desk.sent.clear()
    assert recover(desk, "recovery:shop:2", dry_run=True).outcome == "done"
    assert [type(message) for message in desk.sent] == [EnrolVm, StartRecovery]
    assert list(desk.modes("db")) == [JOB]
    release(desk, "read-copy", "own-instance", job="recovery:shop:2", release_checkpoint=True)
    desk.tell(
        said.RecoveryEnded(plan="shop", job="recovery:shop:2", mode="test", state="completed")
    )
    assert list(desk.plan.recoveries) == [JOB]
    assert [e.dry_run for e in desk.said(said.RecoveryRecorded)] == [True]


def test_the_same_recovery_asked_twice_starts_once() -> None:
    desk = ready("db")
    recover(desk)
    recover(desk)
    assert len(desk.take(StartRecovery)) == 1
