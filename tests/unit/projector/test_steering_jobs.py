"""Steered jobs as people see them: paused, waiting with the question, going on after their end."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from schemas import recovery as said
from schemas import recovery_steering as steer
from schemas import recovery_work as work
from schemas.joins import DONE_STEPS
from schemas.views import ENDED, Job, Step
from shared.testing.spec import T0
from tests.unit.projector.test_recovery_jobs import jobs
from tests.unit.recovery.test_asking import PROMPT, answered, by_hand, cut_off, until_asked
from tests.unit.recovery.test_cleanup import CLEANUP
from tests.unit.recovery.test_pausing import cleaning, drain, go_to, paused
from tests.unit.recovery.test_recovery import begun, launched, stream
from tests.unit.recovery.test_retrying import counting, failing, retried, skipped
from tests.unit.recovery.world import JOB, World, header, script, vm

DB, APP = stream("db"), stream("app")


def step(job: Job, name: str) -> Step:
    return next(each for each in job.steps if each.name == name)


def test_a_paused_recovery_and_its_vms_show_it_until_they_are_resumed() -> None:
    world = launched(vm("db"), vm("app"))
    go_to(world, "create-instance")
    paused(world)
    found = jobs(world)
    assert [found[job].state for job in (JOB, DB, APP)] == ["paused"] * 3
    world.steer(steer.ResumeJob)
    world.deliver_all()
    assert [jobs(world)[job].state for job in (JOB, DB, APP)] == ["running"] * 3


def test_a_vm_paused_twice_over_shows_it_until_neither_pause_lasts() -> None:
    world = launched(vm("db"))
    paused(world, DB)
    paused(world)
    world.steer(steer.ResumeJob)
    world.deliver_all()
    assert [jobs(world)[job].state for job in (JOB, DB)] == ["running", "paused"]


def test_a_question_shows_at_its_step_and_the_answer_stays_with_who_gave_it() -> None:
    world = begun(vm("db"), header=header(manual_steps=(by_hand("before-pre-script"),)))
    until_asked(world)
    job = jobs(world)[JOB]
    asked = step(job, "manual-dns")
    assert (job.state, asked.state) == ("waiting", "waiting")
    assert asked.waiting is not None
    assert (asked.waiting.owner, asked.waiting.choices) == ("dns team", ("done", "failed", "skip"))
    assert asked.waiting.until - asked.waiting.since == dt.timedelta(seconds=600)
    answered(world, "done")
    job = jobs(world)[JOB]
    asked = step(job, "manual-dns")
    assert (job.state, asked.state, asked.waiting) == ("running", "completed", None)
    assert asked.answer is not None and asked.answer.choice == "done"
    world.run()
    last = step(jobs(world)[JOB], "manual-dns")
    assert last.answer == asked.answer, "it stays when the job ends"


def test_a_recovery_waits_while_one_of_its_vms_does() -> None:
    world = begun(vm("db", manual_steps=(by_hand("before-boot"),)))
    until_asked(world)
    world.deliver_all()
    found = jobs(world)
    assert (found[JOB].state, found[JOB].waiting_for) == ("waiting", ("db",))
    assert (found[DB].state, step(found[DB], "manual-dns").state) == ("waiting", "waiting")
    answered(world, "done", job=DB)
    world.deliver_all()
    found = jobs(world)
    assert (found[JOB].state, found[JOB].waiting_for) == ("running", ())
    assert step(found[DB], "power-on").state == "running"


@pytest.mark.parametrize(
    ("choice", "state"),
    [("done", "completed"), ("failed", "failed"), ("skip", "skipped"), ("rerun", "queued")],
)
def test_an_unknown_script_shows_its_question_and_what_was_answered(
    choice: str, state: str
) -> None:
    world = launched(vm("db", pre_script=PROMPT))
    cut_off(world, f"{DB}/pre-script")
    asked = step(jobs(world)[DB], "pre-script")
    assert asked.state == "waiting" and asked.waiting is not None
    assert "rerun" in asked.waiting.choices
    answered(world, choice, job=DB, step="pre-script")
    assert step(jobs(world)[DB], "pre-script").state == state


def test_a_cancel_ends_the_question_too() -> None:
    world = begun(vm("db", manual_steps=(by_hand("before-boot"),)))
    until_asked(world)
    world.steer(said.CancelRecoveryJob)
    world.run()
    found = jobs(world)
    assert found[JOB].state == found[DB].state == "cancelled"
    left = step(found[DB], "manual-dns")
    assert (left.state, left.waiting) == ("cancelled", None)
    assert "not touched" in found[JOB].left and found[DB].left


# ── going on after the end ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("part", ["hold-copy", "rebuild/sda", "create-instance", "wait"])
def test_a_retried_recovery_runs_again_and_ends_as_its_last_attempt(part: str) -> None:
    world = failing(part)
    first = jobs(world)[JOB]
    assert (first.state, first.vms and first.vms.failed) == ("partially-completed", 1)
    retried(world)
    found = jobs(world)
    assert (found[JOB].state, found[JOB].ended_at, found[JOB].error) == ("running", None, None)
    assert (found[DB].state, found[DB].ended_at) == ("running", None)
    assert found[JOB].percent < 100
    world.run()
    found = jobs(world)
    assert [found[job].state for job in (JOB, DB, APP)] == ["completed"] * 3
    counts = found[JOB].vms
    assert counts is not None and (counts.ready, counts.ended, counts.failed) == (2, 2, 0)
    name = {"rebuild/sda": "rebuild-disks", "wait": "wait-ready"}.get(part, part)
    assert (step(found[DB], name).state, step(found[DB], name).attempts) == ("completed", 2)
    assert step(found[JOB], "boot-order-1").state == "completed"


@pytest.mark.parametrize(("copy_id", "made_anew"), [("copy-db", 1), ("newer", 2)])
def test_disks_that_were_made_before_a_retry_count_if_they_are_of_the_same_copy(
    copy_id: str, made_anew: int
) -> None:
    world = counting(vm("db"), vm("app"))
    world.settle(go_to(world, "rebuild/sda"))
    world.settle(f"{DB}/rebuild/sdb", code="x")
    world.run()
    retried(world)
    disks = tuple(work.CopyDisk(name=name, size=1) for name in ("sda", "sdb"))
    taken_at = T0 if copy_id == "copy-db" else T0 + dt.timedelta(hours=1)
    held = work.CopyHeld(copy_id=copy_id, taken_at=taken_at, disks=disks)
    world.settle(f"{DB}/hold-copy/2", held)
    shown = jobs(world)[DB]
    assert shown.disks is not None and shown.disks.total - shown.disks.ready == made_anew
    for effect in [effect for effect in world.effects if "rebuild" in effect]:
        world.settle(effect)
    shown = jobs(world)[DB]
    assert step(shown, "rebuild-disks").state == "completed"
    assert step(shown, "create-instance").state == "running"


def test_a_skipped_step_shows_as_skipped_and_the_vm_as_partially_completed() -> None:
    world = failing("wait", vm("db", post_script=script()), vm("app"))
    skipped(world, "wait-ready")
    world.run()
    found = jobs(world)
    assert (found[JOB].state, found[DB].state) == ("partially-completed", "partially-completed")
    assert step(found[DB], "wait-ready").state == "skipped"
    assert step(found[DB], "post-script").state == "completed"


def test_waits_are_shown_apart_from_the_rto() -> None:
    world = launched(vm("db"))
    go_to(world, "power-on")
    paused(world)
    world.now += dt.timedelta(seconds=30)
    world.steer(steer.ResumeJob)
    world.run()
    found = jobs(world)
    assert found[JOB].waited_s == found[DB].waited_s == 30.0
    assert (found[JOB].rto_s or 0.0) >= 30.0


def test_a_paused_cleanup_shows_it() -> None:
    world = paused(cleaning(), CLEANUP)
    assert jobs(world)[CLEANUP].state == "paused"
    world.steer(steer.ResumeJob, CLEANUP)
    assert jobs(world)[CLEANUP].state == "running"
    paused(world, CLEANUP)
    world.steer(said.CancelRecoveryJob, CLEANUP)
    drain(world)
    assert jobs(world)[CLEANUP].state == "cancelled"


def ended_well(job: Any) -> bool:
    return job.state in ENDED and all(each.state in DONE_STEPS for each in job.steps)


def test_every_step_of_a_steered_recovery_is_over_at_its_end() -> None:
    policy = header(
        pre_script=script(),
        post_script=script(),
        manual_steps=(by_hand("before-boot-order", boot_order=2),),
    )
    world: World = begun(vm("db"), vm("web", 2), header=policy)
    until_asked(world)
    answered(world, "skip")
    world.run()
    found = jobs(world)
    assert all(ended_well(job) for job in found.values())
    assert step(found[JOB], "manual-dns").state == "skipped"
