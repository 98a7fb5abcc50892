"""Applying plans: validity, versions, whose VM it is, who joins, changes and leaves."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from schemas import scheduler as said
from schemas.common import Problem
from schemas.plans import ReplicationPolicy, Targets, VmDefinition
from schemas.recovery import EnrolVm
from schemas.replicator import CancelIteration, InspectSite, RunMemberEnded, StartIteration
from services.scheduler.domain.names import plan_stream, vm_stream
from tests.unit.scheduler.desk import QUARTER_S, START, Desk, at, definition, desk_with

MISSING = Problem(code="missing-vm", message="no VM db at east", remedy="check its name")
UNREADABLE = Problem(code="missing-disk", message="web: no file sda.raw", remedy="restore it")


def with_sites(*vms: str) -> Desk:
    desk = Desk()
    desk.add_sites(east=vms, west=())
    return desk


def test_a_plan_is_applied_when_both_sites_have_answered() -> None:
    desk = with_sites("db", "web")
    assert desk.command(said.ApplyPlan, definition=definition("db", "web")) is None
    first, second = desk.take(InspectSite)
    assert (first.vms, second.vms) == (("db", "web"), ())
    assert first.for_stream == second.for_stream == "plan:shop"
    desk.tell(desk.inspection(second))
    assert desk.plan.header is None
    desk.tell(desk.inspection(first))
    answer = desk.answers["c3"]
    assert answer.outcome == "done"
    assert answer.details["version"] == 1
    assert not answer.details["unchanged"]
    assert "+ vms.db" in answer.details["changes"]
    assert desk.plan.vms == ("db", "web")
    assert desk.names == {"vm:east/db": "plan:shop", "vm:east/web": "plan:shop"}


def test_a_repeated_answer_of_a_site_changes_nothing() -> None:
    desk = with_sites("db")
    desk.command(said.ApplyPlan, definition=definition("db"))
    first, second = desk.take(InspectSite)
    desk.tell(desk.inspection(first))
    assert desk.tell(desk.inspection(first)) == []
    desk.tell(desk.inspection(second))
    assert desk.tell(desk.inspection(second)) == []
    assert desk.plan.version == 1


def test_new_vms_start_at_the_next_grid_tick() -> None:
    desk = desk_with("db")
    assert desk.vm("db").on
    assert desk.vm("db").next_due_at == at(15)
    timer = desk.timer("protected-vm:shop:db", "tick")
    assert timer is not None
    assert timer.due == at(15)
    assert not desk.started()


def test_a_start_in_the_future_is_the_first_tick() -> None:
    policy = ReplicationPolicy(interval_s=QUARTER_S, start_at=at(7 * 60))
    desk = desk_with("db", replication=policy)
    assert desk.vm("db").next_due_at == at(7 * 60)


def test_every_problem_of_the_inspection_is_named() -> None:
    desk = with_sites("web")
    desk.command(said.ApplyPlan, definition=definition("db", "web"))
    protected, recovery = desk.take(InspectSite)
    desk.tell(desk.inspection(protected, vm_problems=(MISSING, UNREADABLE)))
    desk.tell(desk.inspection(recovery))
    answer = desk.answers["c3"]
    assert (answer.outcome, answer.code) == ("refused", "invalid")
    assert MISSING.message in answer.message
    assert UNREADABLE.message in answer.message
    assert [p["code"] for p in answer.details["problems"]] == ["missing-vm", "missing-disk"]
    assert not desk.names
    assert desk.plan.header is None
    assert not desk.timers


def test_one_problem_keeps_its_remedy() -> None:
    desk = with_sites("web")
    desk.command(said.ApplyPlan, definition=definition("web"))
    desk.inspect(problem=Problem(code="site-unreachable", message="gone", remedy="mount it"))
    assert desk.answers["c3"].code == "site-unreachable"
    assert desk.answers["c3"].remedy == "mount it"


def test_a_site_that_does_not_exist_is_named_with_its_field() -> None:
    desk = with_sites("db")
    answer = desk.command(said.ApplyPlan, definition=definition("db", recovery_site="mars"))
    assert answer is not None
    assert answer.code == "invalid"
    assert "recovery_site" in answer.message


def test_an_unchanged_plan_makes_no_new_version() -> None:
    desk = desk_with("db", "web")
    answer = desk.apply(definition("web", "db"))
    changes, version = answer.details["changes"], answer.details["version"]
    assert (changes, version, answer.details["unchanged"]) == ([], 1, True)
    assert desk.plan.version == 1
    assert len(desk.said(said.VmProtected)) == 2


def test_a_dry_run_shows_the_diff_and_changes_nothing() -> None:
    desk = desk_with("db")
    answer = desk.apply(definition("db", "web", policy={"priority": 1}), dry_run=True)
    assert answer.details["changes"] == ["~ replication.priority: 3 → 1", "+ vms.web"]
    assert answer.details["version"] == 1
    assert desk.plan.vms == ("db",)
    assert desk.names == {"vm:east/db": "plan:shop"}
    assert not desk.timer(plan_stream("shop"), "application")


def test_an_expected_version_that_does_not_stand_is_refused() -> None:
    desk = desk_with("db")
    answer = desk.command(said.ApplyPlan, definition=definition("db"), expected_version=4)
    assert answer is not None
    assert answer.code == "version"
    assert desk.apply(definition("db", "web"), expected_version=1).details["version"] == 2


def test_a_second_application_waits_for_the_first() -> None:
    desk = with_sites("db")
    desk.command(said.ApplyPlan, definition=definition("db"))
    answer = desk.command(said.ApplyPlan, definition=definition("db"))
    assert answer is not None
    assert answer.code == "busy"


def test_an_application_nobody_answers_is_refused_after_a_minute() -> None:
    desk = with_sites("db")
    desk.command(said.ApplyPlan, definition=definition("db"))
    desk.until(desk.now + dt.timedelta(seconds=61))
    assert desk.answers["c3"].code == "site-unreachable"
    desk.take(InspectSite)
    assert desk.apply(definition("db")).outcome == "done"


@pytest.mark.parametrize("select", [None, "d*"])
def test_a_vm_of_another_plan_is_refused_naming_that_plan(select: str | None) -> None:
    desk = desk_with("db")
    vms = () if select else ("db",)
    answer = desk.apply(definition(*vms, name="other", select=select))
    assert (answer.outcome, answer.code) == ("refused", "name-taken")
    assert "plan:shop" in answer.message
    assert desk.names == {"vm:east/db": "plan:shop"}
    # It may be mended and applied again at once, and nothing answers the refused one twice.
    desk.inventory["east"] = ("db", "new")
    assert desk.apply(definition("new", name="other")).outcome == "done"
    desk.until(desk.now + dt.timedelta(minutes=2))


def test_a_dry_run_names_a_vm_of_another_plan_too() -> None:
    desk = desk_with("db")
    assert desk.apply(definition("db", name="other"), dry_run=True).code == "name-taken"


def test_a_glob_takes_what_the_site_holds_and_follows_it() -> None:
    desk = with_sites("shop-a", "shop-b", "other")
    assert desk.apply(definition(select="shop-*")).outcome == "done"
    assert desk.plan.vms == ("shop-a", "shop-b")
    desk.inventory["east"] = ("shop-a", "shop-c")
    answer = desk.apply(definition(select="shop-*"))
    assert answer.details["changes"] == ["- vms.shop-b", "+ vms.shop-c"]
    assert desk.plan.version == 2
    assert set(desk.names) == {"vm:east/shop-a", "vm:east/shop-c"}
    assert desk.apply(definition(select="shop-*")).details["unchanged"]


def test_a_glob_that_matches_nothing_is_refused() -> None:
    answer = with_sites("db").apply(definition(select="x*"))
    assert answer.code == "invalid"


def test_only_changed_vms_are_told() -> None:
    desk = desk_with("db", "web")
    desk.apply(definition("db", VmDefinition(name="web", boot_order=2)))
    assert [e.vm for e in desk.said(said.VmProtected)] == ["db", "web", "web"]
    assert desk.said(said.VmProtected, vm_stream("shop", "web"))[-1].plan_version == 2
    assert len(desk.said(said.VmStarted)) == 2


def test_a_new_interval_moves_every_vm_to_the_new_grid() -> None:
    desk = desk_with("db", policy={})
    desk.apply(definition("db", replication=ReplicationPolicy(interval_s=60.0, start_at=START)))
    assert desk.vm("db").next_due_at == at(2)
    desk.until(at(2))
    assert desk.started() == ["db"]
    assert not desk.said(said.TicksMissed)


def test_a_vm_that_leaves_is_cancelled_and_its_name_given_back() -> None:
    desk = desk_with("db", "web")
    desk.until(at(15))
    running = desk.vm("web").iteration
    desk.apply(definition("db"))
    assert [m.iteration for m in desk.take(CancelIteration)] == [running]
    assert not desk.vm("web").protected
    assert set(desk.names) == {"vm:east/db"}
    assert not [key for key in desk.timers if key[0] == vm_stream("shop", "web")]
    desk.end("web", "cancelled")
    assert desk.vm("web").iteration == ""


def test_a_vm_that_comes_back_keeps_its_copy() -> None:
    desk = desk_with("db", "web")
    desk.copied("db", "web")
    desk.apply(definition("db"))
    desk.apply(definition("db", "web"))
    copied_at = desk.vm("web").last_checkpoint_at
    assert copied_at is not None
    assert desk.vm("web").on
    (*_, again) = desk.said(said.VmProtected, vm_stream("shop", "web"))
    assert again.last_checkpoint_at == copied_at
    assert desk.apply(definition("db", "web")).details["unchanged"]


def test_a_vm_that_waits_for_its_turn_is_taken_off_its_run() -> None:
    desk = desk_with("db", "web")
    desk.until(at(15))
    desk.command(said.RunPlan, plan="shop", job="replication-run:shop:now")
    desk.apply(definition("db"))
    told = desk.take(RunMemberEnded)
    assert [(m.run, m.vm, m.state) for m in told] == [
        ("replication-run:shop:now", "web", "cancelled")
    ]


def test_vms_join_a_stopped_plan_without_starting() -> None:
    desk = desk_with("db")
    desk.command(said.StopPlan, plan="shop")
    desk.apply(definition("db", "web"))
    assert desk.vm("web").protected
    assert not desk.vm("web").on


def test_another_recovery_site_means_a_first_copy_again() -> None:
    desk = desk_with("db")
    desk.add_sites(north=())
    desk.copied("db")
    desk.started()
    desk.apply(definition("db", recovery_site="north"))
    assert desk.vm("db").last_checkpoint_at is None
    assert desk.said(said.SitePlanRemoved, "site:west")
    assert desk.said(said.SitePlanAdded, "site:north")
    desk.until(at(15))
    (message,) = desk.take(StartIteration)
    assert (message.full, message.resync) == (True, False)
    assert message.recovery_site.site == "north"


def test_sites_cannot_change_under_a_running_iteration() -> None:
    desk = desk_with("db")
    desk.add_sites(north=())
    desk.until(at(15))
    answer = desk.apply(definition("db", recovery_site="north"))
    assert answer.code == "busy"
    assert desk.plan.version == 1
    assert desk.plan.pending is None


def test_a_vm_that_a_recovery_holds_stays_in_its_plan() -> None:
    desk = desk_with("db", "web")
    desk.copied("db", "web")
    desk.command(said.Recover, plan="shop", job="recovery:shop:1", mode="test", vms=("web",))
    answer = desk.apply(definition("db"))
    assert answer.code == "busy"
    assert "recovery:shop:1" in answer.message


def test_deleting_a_plan_gives_everything_back() -> None:
    desk = desk_with("db", "web")
    desk.until(at(15))
    answer = desk.command(said.DeletePlan, plan="shop")
    assert answer is not None
    assert answer.outcome == "done"
    assert len(desk.take(CancelIteration)) == 2
    assert desk.names == {}
    assert not desk.timers
    again = desk.command(said.DeletePlan, plan="shop")
    assert again is not None
    assert again.code == "unknown-plan"
    assert desk.apply(definition("db")).details["version"] == 2


def test_a_plan_with_held_vms_is_not_deleted() -> None:
    desk = desk_with("db")
    desk.copied("db")
    desk.command(said.Recover, plan="shop", job="recovery:shop:1", mode="test")
    answer = desk.command(said.DeletePlan, plan="shop")
    assert answer is not None
    assert answer.code == "busy"


def test_deleting_a_plan_settles_the_application_under_way() -> None:
    desk = desk_with("db")
    desk.command(said.ApplyPlan, definition=definition("db", "web"))
    desk.command(said.DeletePlan, plan="shop")
    assert desk.answers["c4"].outcome == "refused"
    desk.inspect()
    assert desk.plan.header is None


def test_the_operators_priority_stands_until_the_plan_names_another() -> None:
    desk = desk_with("db")
    desk.command(said.PrioritisePlan, plan="shop", priority=1)
    desk.apply(definition("db", "web"))
    desk.until(at(15))
    assert {m.priority for m in desk.take(StartIteration)} == {1}
    desk.apply(definition("db", "web", policy={"priority": 4}))
    desk.end("db")
    desk.until(at(30))
    assert [m.priority for m in desk.take(StartIteration)] == [4]


def test_a_plan_of_two_thousand_vms_fits_into_its_events_and_messages() -> None:
    # The engine refuses rows over 64 KiB: getting through shows that none is.
    names = tuple(f"vm-{number:017}" for number in range(2_000))
    desk = Desk(verify=False)
    desk.add_sites(east=names, west=())
    vms = tuple(VmDefinition(name=name, credentials={"admin": "file:x"}) for name in names)
    assert desk.apply(definition(*vms, targets=Targets(rpo_s=1800))).outcome == "done"
    assert len(desk.said(said.PlanApplicationVms)) > 0
    desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r1")
    assert len(desk.started()) == 2_000
    for name in names:
        desk.end(name)
    desk.settle_checks()
    assert desk.plan.runs == {}
    desk.command(said.CreateCheckpoint, plan="shop", job="checkpoint:shop:1")
    desk.command(said.Recover, plan="shop", job="recovery:shop:1", mode="test")
    assert len(desk.take(EnrolVm)) == 2_000


def test_a_plan_too_large_for_one_message_is_refused_with_what_to_do() -> None:
    names = tuple(f"vm-{number:017}" for number in range(2_500))
    desk = Desk(verify=False)
    desk.add_sites(east=names, west=())
    answer = desk.command(
        said.ApplyPlan, definition=definition(*(VmDefinition(name=name) for name in names))
    )
    assert answer is not None
    assert answer.code == "invalid"
    assert "split" in answer.remedy


def test_a_large_plan_by_glob_is_refused_once_its_size_is_known() -> None:
    names = tuple(f"vm-{number:017}" for number in range(2_500))
    desk = Desk(verify=False)
    desk.add_sites(east=names, west=())
    desk.command(said.ApplyPlan, definition=definition(select="*"))
    # A real site's answer of this size would not fit either: half of it is enough to be too much.
    protected, recovery = desk.take(InspectSite)
    desk.tell(desk.inspection(recovery))
    desk.tell(desk.inspection(protected, vms=names[:2_300]))
    assert desk.answers["c3"].code == "invalid"
    assert desk.plan.pending is None


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (said.StartPlan, {}),
        (said.StopPlan, {}),
        (said.PrioritisePlan, {"priority": 1}),
        (said.ResetVm, {"vm": "db"}),
        (said.RunPlan, {"job": "replication-run:shop:v"}),
        (said.CreateCheckpoint, {"job": "checkpoint:shop:v"}),
        (said.Recover, {"job": "recovery:shop:v", "mode": "test"}),
        (said.DeletePlan, {}),
    ],
)
def test_what_is_asked_of_another_version_than_stands_is_refused(
    kind: type[Any], fields: dict[str, Any]
) -> None:
    desk = desk_with("db")
    desk.copied("db")
    late = desk.command(kind, plan="shop", expected_version=2, **fields)
    assert late is not None and (late.outcome, late.code) == ("refused", "version")
    assert "version 1, not 2" in late.message and late.remedy
    right = desk.command(kind, plan="shop", expected_version=1, **fields)
    assert right is not None and right.outcome == "done", right


def test_a_plan_that_is_not_there_is_unknown_whatever_version_is_expected() -> None:
    answer = desk_with("db").command(said.StartPlan, plan="mars", expected_version=3)
    assert answer is not None and answer.code == "unknown-plan"
