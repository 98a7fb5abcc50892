"""Pause and resume: nothing new starts, what runs ends, and then all goes on as it would have."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from schemas import recovery as said
from schemas import recovery_steering as steer
from shared.errors import Refused
from tests.unit.recovery.test_cleanup import CLEANUP
from tests.unit.recovery.test_recovery import POST, PRE, PREFLIGHT, begun, launched, stream
from tests.unit.recovery.world import JOB, World, header, script, vm

DB = stream("db")


def go_to(world: World, part: str) -> str:
    """Let all go well until an effect with this part is under way; gives its id."""
    for _ in range(200):
        world.deliver_all()
        found = [effect for effect in world.effects if effect.endswith(f"/{part}")]
        if found:
            return found[0]
        assert world.effects or world.fire_next_timer(), f"{part} never comes"
        if world.effects:
            world.settle(next(iter(world.effects)))
    raise AssertionError(part)


def paused(world: World, job: str = JOB) -> World:
    world.steer(steer.PauseJob, job)
    world.deliver_all()
    return world


def drain(world: World) -> None:
    """Everything under way ends well; timers do not fire."""
    for _ in range(100):
        world.deliver_all()
        if not world.effects:
            return
        world.settle(next(iter(world.effects)))
    raise AssertionError("effects without end")


STEPS = ("hold-copy", "rebuild/sda", "create-instance", "power-on")


@pytest.mark.parametrize("part", STEPS)
def test_what_runs_ends_and_nothing_follows_until_it_is_resumed(part: str) -> None:
    world = launched(vm("db"))
    running = go_to(world, part)
    paused(world)
    assert not world.asked_to_stop, "a running step is not stopped"
    drain(world)
    assert running not in world.effects and not world.events(said.VmFinished)
    assert not world.events(said.RecoveryFinished)
    world.steer(steer.ResumeJob)
    world.run()
    end = world.event(said.RecoveryFinished)
    assert (end.state, end.ready) == ("completed", 1)


@pytest.mark.parametrize("effect", [PREFLIGHT, PRE])
def test_a_step_of_the_plan_ends_and_the_next_waits(effect: str) -> None:
    world = begun(vm("db"), header=header(pre_script=script()))
    while effect not in world.effects:
        world.settle(next(iter(world.effects)))
    paused(world)
    world.settle(effect)
    world.deliver_all()
    assert not world.effects and not world.events(said.VmsLaunched)
    world.steer(steer.ResumeJob)
    world.run()
    assert world.event(said.RecoveryFinished).state == "completed"


def test_the_post_script_waits_for_the_resume_and_runs_once() -> None:
    world = launched(vm("db"), header=header(post_script=script()))
    go_to(world, "release-copy")
    paused(world)
    drain(world)
    world.deliver(said.InstanceReady(stream=DB, at=world.now))
    world.deliver_all()
    assert POST not in world.effects
    world.steer(steer.ResumeJob)
    world.run()
    assert len(world.events(said.PlanScriptEnded)) == 1


def test_pausing_and_resuming_twice_changes_nothing_more() -> None:
    world = paused(launched(vm("db")))
    before = len(world.log)
    paused(world)
    assert len(world.log) == before
    world.steer(steer.ResumeJob)
    world.deliver_all()
    before = len(world.log)
    world.steer(steer.ResumeJob)
    world.deliver_all()
    assert len(world.log) == before


@pytest.mark.parametrize("command", [steer.PauseJob, steer.ResumeJob])
def test_an_ended_job_and_one_that_never_was_are_refused(command: type) -> None:
    world = launched(vm("db"))
    with pytest.raises(Refused) as refused:
        world.steer(command, "recovery:shop:none")
    assert refused.value.code == "unknown-job"
    world.run()
    for job in (JOB, DB):
        with pytest.raises(Refused) as refused:
            world.steer(command, job)
        assert refused.value.code == "job-ended"


def test_a_job_that_is_being_cancelled_is_not_paused() -> None:
    world = launched(vm("db"))
    world.steer(said.CancelRecoveryJob)
    with pytest.raises(Refused) as refused:
        world.steer(steer.PauseJob)
    assert refused.value.code == "cancelling"


def test_boot_orders_do_not_open_while_paused_and_delays_run_on() -> None:
    world = launched(vm("db", boot_delay_s=20), vm("app", 2))
    world.settle(go_to(world, "power-on"))
    drain(world)
    paused(world)
    world.deliver(said.InstanceReady(stream=DB, at=world.now))
    world.deliver_all()
    world.now += dt.timedelta(seconds=60)
    world.deliver(said.BootDelayOver(boot_order=1), stream=JOB)
    world.deliver_all()
    assert len(world.events(said.BootOrderOpened)) == 1
    world.steer(steer.ResumeJob)
    assert [event.boot_order for event in world.events(said.BootOrderOpened)] == [1, 2]


def test_a_ready_deadline_that_falls_due_while_paused_counts_for_the_guest_boots_on() -> None:
    world = launched(vm("db"))
    world.settle(go_to(world, "power-on"))
    paused(world)
    world.late(DB)
    assert not world.events(said.VmFinished), "its end waits for the resume"
    world.steer(steer.ResumeJob)
    world.run()
    assert world.event(said.VmFinished).problem.code == "not-ready"


def test_a_guest_that_answers_while_paused_is_ready() -> None:
    world = launched(vm("db"))
    world.settle(go_to(world, "power-on"))
    paused(world)
    world.deliver(said.InstanceReady(stream=DB, at=world.now))
    assert world.event(said.VmReady)


def test_a_paused_recovery_can_be_cancelled_and_ends() -> None:
    world = launched(vm("db"), vm("app", 2))
    world.settle(go_to(world, "power-on"))
    paused(world)
    drain(world)
    world.steer(said.CancelRecoveryJob)
    world.run()
    end = world.event(said.RecoveryFinished)
    assert end.state == "cancelled"
    assert "db" in end.left and f"seawall cleanup {JOB}" in end.left
    assert {event.vm: event.outcome for event in world.events(said.VmFinished)} == {
        "db": "ready",
        "app": "cancelled",
    }


def test_a_vm_that_failed_while_paused_ends_when_the_recovery_is_cancelled() -> None:
    world = launched(vm("db"))
    part = go_to(world, "create-instance")
    paused(world)
    world.settle(part, code="x")
    assert not world.events(said.VmFinished)
    world.steer(said.CancelRecoveryJob)
    world.run()
    assert world.event(said.VmFinished).outcome == "failed"
    assert world.event(said.RecoveryFinished).state == "cancelled"


def test_the_time_it_was_paused_is_shown_apart_and_is_part_of_the_rto() -> None:
    world = launched(vm("db"))
    go_to(world, "power-on")
    paused(world)
    world.now += dt.timedelta(seconds=90)
    world.steer(steer.ResumeJob)
    world.run()
    end = world.event(said.RecoveryFinished)
    assert end.waited_s == 90.0
    assert end.rto_s is not None and end.rto_s >= 90.0


# ── one VM alone ─────────────────────────────────────────────────────────────────────────────


def test_one_vm_is_paused_and_the_others_go_on() -> None:
    world = launched(vm("db"), vm("app"))
    paused(world, DB)
    for _ in range(50):
        world.deliver_all()
        if not world.effects:
            break
        world.settle(next(iter(world.effects)))
    assert {event.vm for event in world.events(said.MemberEnded)} == {"app"}
    world.steer(steer.ResumeJob, DB)
    world.run()
    assert world.event(said.RecoveryFinished).ready == 2


def test_a_vm_that_is_paused_with_its_recovery_is_not_resumed_alone() -> None:
    world = paused(launched(vm("db")))
    with pytest.raises(Refused) as refused:
        world.steer(steer.ResumeJob, DB)
    assert (refused.value.code, JOB in refused.value.remedy) == ("paused-with-recovery", True)


def test_a_vm_that_was_paused_alone_stays_so_when_the_recovery_goes_on() -> None:
    world = launched(vm("db"))
    paused(world, DB)
    paused(world)
    world.steer(steer.ResumeJob)
    drain(world)
    assert world.state(DB).paused == ("job",)
    world.steer(steer.ResumeJob, DB)
    world.run()
    assert world.event(said.RecoveryFinished).state == "completed"


# ── a step that was asked for and had not begun ──────────────────────────────────────────────


def test_a_step_that_had_not_begun_is_taken_back_and_asked_for_again() -> None:
    world = launched(vm("db"))
    waiting = go_to(world, "create-instance")
    paused(world)
    world.settle(waiting, code="withdrawn")
    assert not world.effects
    world.steer(steer.ResumeJob)
    world.deliver_all()
    assert waiting in world.effects
    world.run()
    assert world.event(said.RecoveryFinished).state == "completed"


def test_a_step_taken_back_after_the_resume_is_asked_for_at_once() -> None:
    world = launched(vm("db"))
    waiting = go_to(world, "create-instance")
    paused(world)
    world.steer(steer.ResumeJob)
    world.deliver_all()
    world.settle(waiting, code="withdrawn")
    assert waiting in world.effects


# ── cleanup ──────────────────────────────────────────────────────────────────────────────────


def cleaning() -> Any:
    world = launched(vm("db"))
    world.run()
    world.deliver(said.StartCleanup(command_id="c", job=CLEANUP, recovery=JOB))
    return world


def test_a_paused_cleanup_removes_nothing_more_until_it_is_resumed() -> None:
    world = paused(cleaning(), CLEANUP)
    drain(world)
    assert not world.events(said.CleanupFinished)
    paused(world, CLEANUP)
    world.steer(steer.ResumeJob, CLEANUP)
    world.run()
    assert world.event(said.CleanupFinished).state == "completed"


def test_a_paused_cleanup_can_be_cancelled() -> None:
    world = paused(cleaning(), CLEANUP)
    world.steer(said.CancelRecoveryJob, CLEANUP)
    drain(world)
    assert world.event(said.CleanupFinished).state == "cancelled"


@pytest.mark.parametrize(
    ("command", "fields", "code"),
    [
        (steer.RetryJob, {}, "not-available"),
        (steer.SkipStep, {"step": "verify"}, "not-available"),
        (steer.AnswerQuestion, {"step": "verify", "choice": "done"}, "no-question"),
    ],
)
def test_a_cleanup_is_repeated_not_retried_and_asks_nothing(
    command: type, fields: dict[str, str], code: str
) -> None:
    world = cleaning()
    with pytest.raises(Refused) as refused:
        world.steer(command, CLEANUP, **fields)
    assert refused.value.code == code and refused.value.remedy
