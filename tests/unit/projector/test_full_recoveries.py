"""Full recoveries, commits and roll backs as jobs; plans, VMs and sites they leave behind."""

from __future__ import annotations

from typing import Any

import pytest

from schemas import scheduler as sched
from schemas import scheduler_operations as sched_ops
from schemas.common import Problem
from schemas.joins import plan_state
from schemas.views import Job, Vm
from tests.unit.projector.history import HEADER, History, after, protected
from tests.unit.projector.test_recovery_jobs import jobs
from tests.unit.recovery.site_world import SiteWorld
from tests.unit.recovery.test_steering_moves import in_window
from tests.unit.recovery.world import JOB

ROLLBACK, COMMIT = "rollback:shop:b1", "commit:shop:k1"


def steps(job: Job) -> dict[str, str]:
    return {step.name: step.state for step in job.steps}


def test_a_failover_shows_its_sources_and_waits_for_a_decision() -> None:
    job = jobs(SiteWorld("failover").begin().live())[JOB]
    assert (job.kind, job.state, job.awaits_commit, job.committed) == (
        "failover", "completed", True, False,
    )  # fmt: skip
    assert list(steps(job).items())[:3] == [
        ("preflight", "completed"),
        ("fence-sources", "completed"),
        ("last-sync", "completed"),
    ]
    assert (job.facts["source_off"], job.facts["synced"]) == (3, 3)
    assert "switched off" in job.note


def test_steps_about_sources_are_under_way_while_they_are() -> None:
    world = SiteWorld("migrate").begin()
    world.deliver_all()
    world.act(next(iter(world.effects)))
    assert steps(jobs(world)[JOB])["shut-down-sources"] == "running"
    world.deliver_all()
    while world.effects:
        world.act(next(iter(world.effects)))
        world.deliver_all()
    shown = steps(jobs(world)[JOB])
    assert (shown["shut-down-sources"], shown["last-sync"]) == ("completed", "running")


def test_a_migration_that_was_taken_back_says_so() -> None:
    world = SiteWorld("migrate")
    world.sync_fails = {"web"}
    job = jobs(world.begin().live())[JOB]
    shown = steps(job)
    assert (job.state, job.awaits_commit) == ("failed", False)
    assert (shown["last-sync"], shown["restore-sources"]) == ("failed", "completed")
    assert job.facts["source_on"] == 3


def test_vms_and_disks_of_a_full_recovery_are_of_its_kind() -> None:
    found = jobs(SiteWorld("failover").begin().live())
    assert {job.kind for job in found.values()} == {"failover"}
    assert any(job.disk for job in found.values())


def test_a_roll_back_is_a_job_that_names_what_it_discards() -> None:
    found = jobs(SiteWorld("failover").begin().live().roll_back())
    job = found[ROLLBACK]
    assert (job.kind, job.state, job.recovery) == ("rollback", "completed", JOB)
    assert steps(job) == {
        "look-at-sources": "completed",
        "measure-discards": "completed",
        "remove-instances": "completed",
        "power-on-sources": "completed",
    }
    assert {each["vm"] for each in job.facts["discards"]} == {"db", "app", "web"}
    assert found[job.facts["cleanup"]].kind == "cleanup"
    assert not found[JOB].awaits_commit
    assert found[JOB].facts["rolled_back_by"] == ROLLBACK


def test_a_roll_back_that_touched_nothing_shows_what_it_did_not_find() -> None:
    world = SiteWorld("failover").begin().live()
    del world.sites.sources["web"]
    found = jobs(world.roll_back())
    job = found[ROLLBACK]
    assert (job.state, job.facts["untouched"]) == ("failed", True)
    assert job.facts["nothing_to_come_back_to"] == ["web"]
    assert steps(job) == {
        "look-at-sources": "failed",
        "measure-discards": "completed",
        "remove-instances": "skipped",
        "power-on-sources": "skipped",
    }
    assert job.error is not None and "--leave-off" in job.error.remedy
    assert "leave_off" not in job.facts and "source_stays_off" not in job.facts
    assert found[JOB].awaits_commit


def test_a_roll_back_by_the_word_shows_what_is_left_off() -> None:
    world = SiteWorld("failover").begin().live()
    del world.sites.sources["web"]
    found = jobs(world.roll_back(leave_off=True))
    job = found[ROLLBACK]
    assert (job.state, job.percent) == ("partially-completed", 100.0)
    facts = {name: job.facts.get(name) for name in ("leave_off", "left_off", "untouched")}
    assert facts == {"leave_off": True, "left_off": ["web"], "untouched": None}
    assert (job.facts["source_on"], job.facts["source_stays_off"]) == (2, 1)
    assert steps(job)["remove-instances"] == "completed"
    assert found[JOB].facts["rolled_back_by"] == ROLLBACK and not found[JOB].awaits_commit


def test_a_commit_is_a_job_and_its_instances_stand_until_they_are_cleaned() -> None:
    world = SiteWorld("failover").begin().live().commit()
    found = jobs(world)
    assert (found[COMMIT].kind, found[COMMIT].state) == ("commit", "completed")
    assert (found[JOB].awaits_commit, found[JOB].committed) == (False, True)


def test_a_commit_shows_whom_it_leaves_out_and_where_they_are() -> None:
    found = jobs(in_window().commit(without_failed=True))
    job = found[COMMIT]
    assert list(steps(job).items()) == [
        ("remove-failed", "completed"),
        ("verify-instances", "completed"),
    ]
    assert job.facts["without"] == ["web"] and job.note.startswith("web not brought up")
    cleanup = found[job.facts["cleanup"]]
    assert (cleanup.parent_id, cleanup.facts["vms"]) == (COMMIT, ["web"])
    assert (found[JOB].awaits_commit, found[JOB].committed) == (False, True)
    assert found[JOB].facts["committed_without"] == ["web"]


# ── What the scheduler says ──────────────────────────────────────────────────────────────────


def test_a_recovery_that_waits_for_its_holds_is_a_queued_job_until_it_is_refused() -> None:
    asked = sched.Recover(command_id="c", plan="shop", job=JOB, mode="failover")
    awaited = sched_ops.RecoveryAwaited(
        request=asked, vms=("db",), asked_at=after(0), until=after(60)
    )
    history = History().say("scheduler", "plan:shop", awaited)
    queued = history.document("job_requests", JOB)
    assert (queued.kind, queued.state) == ("failover", "queued")
    problem = Problem(code="busy", message="no")
    refused = sched_ops.RecoveryNotStarted(job=JOB, problem=problem)
    assert history.say("scheduler", "plan:shop", refused).document("job_requests", JOB) is None


def vm_after(*events: Any) -> Vm:
    history = History().say("scheduler", "protected-vm:shop:db", protected(), *events)
    found: Vm = history.document("vms", "protected-vm:shop:db")
    return found


MOVED = sched_ops.VmMoved(job=JOB, to="failed-over", was_on=True)


def test_a_vm_shows_where_it_runs() -> None:
    moved = vm_after(MOVED)
    assert (moved.moved, moved.moved_by) == ("failed-over", JOB)
    assert vm_after(MOVED, sched_ops.VmReturned(job=JOB)).moved == ""
    assert vm_after(MOVED, sched.VmReset(lost=True)).moved == ""


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([()], "stopped"),
        ([(MOVED,)], "failed-over"),
        ([(sched_ops.VmMoved(job=JOB, to="migrated"),)], "migrated"),
        ([(MOVED,), ()], "failed-over"),
        ([(MOVED,), (sched.VmStarted(next_due_at=after(9)),)], "partial"),
    ],
)
def test_a_plans_state_says_which_way_its_vms_went(events: list[Any], state: str) -> None:
    assert plan_state([vm_after(*each) for each in events]) == state


def test_plans_and_sites_show_a_quarantine() -> None:
    applied = sched.PlanApplied(plan="shop", plan_version=1, digest="d", header=HEADER, vms=())
    added = sched.SiteAdded(site="east", platform="lab", settings={})
    history = History().say("scheduler", "plan:shop", applied).say("scheduler", "site:east", added)
    history.say(
        "scheduler", "plan:shop", sched_ops.PlanQuarantined(plan="shop", site="east", job=JOB)
    )
    history.say(
        "scheduler", "site:east", sched_ops.SiteQuarantined(site="east", plan="shop", job=JOB)
    )
    assert history.document("plans", "shop").quarantined == ("east",)
    assert history.document("sites", "east").quarantined
    # A new version of the plan is still one of that site.
    assert history.say("scheduler", "plan:shop", applied).document("plans", "shop").quarantined
    history.say("scheduler", "plan:shop", sched_ops.PlanQuarantineEnded(plan="shop", site="east"))
    history.say("scheduler", "site:east", sched_ops.SiteQuarantineEnded(site="east"))
    assert history.document("plans", "shop").quarantined == ()
    assert not history.document("sites", "east").quarantined
