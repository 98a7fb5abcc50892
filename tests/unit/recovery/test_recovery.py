"""The parent: phases, boot orders, stop, cancel, dry run, outcome, what the scheduler hears."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from schemas import recovery as said
from schemas import recovery_work as work
from schemas import registry
from schemas.common import Problem, ScriptReport
from schemas.scheduler import RecoveryEnded, ReleaseHolds
from shared.decider import WorkClass
from shared.errors import Refused
from shared.testing.spec import T0
from tests.unit.recovery.world import JOB, World, enrol, header, script, start, vm

FAILED = work.ScriptRan(report=ScriptReport(outcome="failed", exit_code=1, error="exit 1"))
PREFLIGHT = f"{JOB}/preflight"
PRE, POST = f"{JOB}/pre-script", f"{JOB}/post-script"


def begun(*vms: Any, **options: Any) -> World:
    world = World()
    for each in vms:
        named = {k: v for k, v in options.items() if k != "dry_run"}
        world.deliver(enrol(each, **named))
    world.deliver(start(*vms, **options))
    return world


def launched(*vms: Any, **options: Any) -> World:
    world = begun(*vms, **options)
    world.settle(PREFLIGHT)
    world.deliver_all()
    return world


def stream(name: str) -> str:
    return f"vm-{JOB}:{name}"


def run_until(world: World, part: str) -> str:
    """Let things go well until an effect with this part is asked for; gives its id."""
    for _ in range(1000):
        world.deliver_all()
        found = [effect_id for effect_id in world.effects if effect_id.endswith(part)]
        if found:
            return found[0]
        if world.effects:
            world.settle(next(iter(world.effects)))
        else:
            assert world.fire_next_timer(), f"{part} never comes"
    raise AssertionError(part)


# ── preflight, dry run ───────────────────────────────────────────────────────────────────────


def test_a_recovery_begins_with_nothing_but_reads() -> None:
    world = begun(vm("db"))
    assert list(world.effects) == [PREFLIGHT]
    assert world.effects[PREFLIGHT].work_class is WorkClass.RECOVERY


def test_a_problem_in_preflight_fails_the_recovery_before_anything_is_touched() -> None:
    world = begun(vm("db"), header=header(pre_script=script(), post_script=script()))
    problem = Problem(code="no-copy", message="db has no copy", remedy="replicate it first")
    world.settle(PREFLIGHT, work.PreflightReport(problems=(problem,)))
    world.run()
    end = world.event(said.RecoveryFinished)
    assert (end.state, end.problem, end.awaits_cleanup) == ("failed", problem, False)
    assert not world.events(said.PlanScriptEnded)
    assert world.event(said.VmFinished).outcome == "skipped"


def test_a_preflight_that_cannot_be_done_fails_the_recovery() -> None:
    world = begun(vm("db"))
    world.settle(PREFLIGHT, code="site-unreachable")
    assert world.event(said.RecoveryFinished).problem.code == "site-unreachable"


def test_a_dry_run_ends_completed_with_what_preflight_found_and_starts_nothing() -> None:
    world = begun(vm("db"), dry_run=True, header=header(pre_script=script()))
    world.settle(PREFLIGHT, work.PreflightReport(facts={"calls": ["hold db"]}))
    world.run()
    assert world.event(said.PreflightFinished).facts == {"calls": ["hold db"]}
    end = world.event(said.RecoveryFinished)
    assert (end.state, end.dry_run) == ("completed", True)
    assert world.event(said.VmFinished).state == "completed"
    assert not world.events(said.VmLaunched)


# ── order ────────────────────────────────────────────────────────────────────────────────────


def test_the_first_boot_order_may_boot_at_once_and_later_ones_build_ahead() -> None:
    world = launched(vm("db", 1), vm("app", 2))
    assert world.state(stream("db")).boot
    assert not world.state(stream("app")).boot
    assert f"{stream('app')}/hold-copy" in world.effects


def test_a_vm_with_a_pre_script_is_not_built_before_its_boot_order_opens() -> None:
    world = launched(vm("db", 1), vm("app", 2, pre_script=script()))
    assert not [effect for effect in world.effects if effect.startswith(stream("app"))]


def test_without_build_ahead_only_the_first_boot_order_begins() -> None:
    world = launched(vm("db", 1), vm("app", 2), header=header(build_ahead=False))
    assert not world.state(stream("app")).launched
    assert world.events(said.VmsLaunched)[0].vms == ("db",)


def test_the_next_boot_order_waits_for_the_longest_delay_after_power_on() -> None:
    vms = vm("db", 1, boot_delay_s=20), vm("log", 1, boot_delay_s=5), vm("app", 2)
    world = launched(*vms)
    world.run()
    opened = {event.boot_order: event.at for event in world.events(said.BootOrderOpened)}
    on = {event.vm: event.at for event in world.events(said.MemberPoweredOn)}
    assert opened[2] == on["db"] + dt.timedelta(seconds=20)


def test_a_delay_timer_that_fires_early_is_set_again() -> None:
    world = launched(vm("db", 1, boot_delay_s=20), vm("app", 2))
    run_until(world, "app/create-instance")
    while (JOB, "boot-delay") not in world.timers:
        effect = next(iter(world.effects), None)
        if effect:
            world.settle(effect)
        world.deliver_all()
    world.deliver(said.BootDelayOver(boot_order=1), stream=JOB)
    assert len(world.events(said.BootOrderOpened)) == 1
    assert world.timers[JOB, "boot-delay"][0] > world.now


def test_boot_orders_go_by_number_whatever_the_roster_says() -> None:
    world = launched(vm("web", 30), vm("app", 7), vm("db", -1))
    world.run()
    assert [event.boot_order for event in world.events(said.BootOrderOpened)] == [-1, 7, 30]


def test_the_next_boot_order_opens_when_a_vm_is_ready_not_when_its_post_script_is_done() -> None:
    world = launched(vm("db", 1, post_script=script()), vm("app", 2))
    run_until(world, "db/post-script")
    world.deliver_all()
    assert [event.boot_order for event in world.events(said.BootOrderOpened)] == [1, 2]


# ── failures ─────────────────────────────────────────────────────────────────────────────────


def test_under_continue_a_failed_vm_lets_the_next_boot_order_go() -> None:
    world = launched(vm("db", 1), vm("app", 2))
    world.settle(run_until(world, "db/power-on"), code="x")
    world.run()
    end = world.event(said.RecoveryFinished)
    assert (end.state, end.ready, end.failed) == ("partially-completed", 1, 1)


def test_under_stop_a_failed_vm_skips_what_has_not_booted() -> None:
    world = launched(vm("db", 1), vm("app", 2), on_error="stop")
    world.settle(run_until(world, "db/power-on"), code="x")
    world.run()
    outcomes = {event.vm: event.outcome for event in world.events(said.VmFinished)}
    assert outcomes == {"db": "failed", "app": "skipped"}
    assert world.event(said.RecoveryFinished).state == "failed"


def test_a_stop_lets_a_guest_that_is_on_become_ready() -> None:
    world = launched(vm("db", 1), vm("log", 1), on_error="stop")
    world.settle(run_until(world, "db/power-on"))
    world.deliver_all()
    world.settle(run_until(world, "log/create-instance"), code="x")
    world.run()
    outcomes = {event.vm: event.outcome for event in world.events(said.VmFinished)}
    assert outcomes == {"db": "ready", "log": "failed"}
    assert world.event(said.RecoveryFinished).state == "partially-completed"


def test_a_pre_script_that_stops_the_job_touches_nothing_and_the_post_script_still_runs() -> None:
    plan = header(pre_script=script(on_failure="stop"), post_script=script())
    world = begun(vm("db"), header=plan)
    world.settle(PREFLIGHT)
    world.settle(PRE, FAILED)
    world.deliver_all()
    context = world.effects[POST].payload.work.context
    assert context["vms"] == [{"name": "db", "boot_order": 1, "outcome": "skipped"}]
    world.run()
    assert not world.events(said.VmsLaunched)
    assert world.event(said.RecoveryFinished).state == "partially-completed"


def test_a_pre_script_that_may_fail_leaves_the_job_partially_completed() -> None:
    world = begun(vm("db"), header=header(pre_script=script()))
    world.settle(PREFLIGHT)
    world.settle(PRE, FAILED)
    world.run()
    end = world.event(said.RecoveryFinished)
    assert (end.state, end.ready) == ("partially-completed", 1)
    assert end.problem.message == "plan pre-script a.sh: exit 1"


def test_the_post_script_runs_after_failures_and_reads_every_outcome() -> None:
    world = launched(vm("db", 1), vm("app", 2), header=header(post_script=script()))
    world.settle(run_until(world, "db/power-on"), code="x")
    run_until(world, "r1/post-script")
    context = world.effects[POST].payload.work.context
    assert {each["name"]: each["outcome"] for each in context["vms"]} == {
        "db": "failed",
        "app": "ready",
    }
    assert context["outcome"] == "partially-completed"


def test_a_vm_that_is_usable_but_whose_script_failed_makes_the_job_partially_completed() -> None:
    world = launched(vm("db", post_script=script(on_failure="continue")))
    world.settle(run_until(world, "db/post-script"), FAILED)
    world.run()
    end = world.event(said.RecoveryFinished)
    assert (end.state, end.ready, end.failed) == ("partially-completed", 1, 0)


def test_outputs_of_the_plans_pre_script_reach_every_vms_scripts() -> None:
    vms = vm("db", post_script=script())
    world = begun(vms, header=header(pre_script=script()))
    world.settle(PREFLIGHT)
    outputs = {"ticket": "T1"}
    world.settle(PRE, work.ScriptRan(report=ScriptReport(outcome="done", outputs=outputs)))
    effect = run_until(world, "db/post-script")
    assert world.effects[effect].payload.work.context["outputs"]["plan"] == outputs


@pytest.mark.parametrize(
    ("on_unknown", "state", "runs"),
    [("fail", "partially-completed", 1), ("rerun", "completed", 2)],
)
def test_a_script_with_unknown_end_goes_by_its_declaration(
    on_unknown: Any, state: str, runs: int
) -> None:
    world = begun(vm("db"), header=header(pre_script=script(on_unknown=on_unknown)))
    world.settle(PREFLIGHT)
    world.deliver(said.PlanScriptStarted(step="pre-script"), stream=JOB)
    world.settle(PRE, code="unknown", unknown=True)
    world.run()
    assert world.event(said.RecoveryFinished).state == state
    assert len(world.events(said.PlanScriptEnded)) == runs


def test_a_script_deselected_by_hook_does_not_run() -> None:
    plan = header(pre_script=script(), post_script=script())
    world = begun(vm("db"), header=plan, skip_scripts=("pre-recovery",))
    world.run()
    assert [event.step for event in world.events(said.PlanScriptEnded)] == ["post-script"]
    assert "pre-script" not in world.event(said.RecoveryStarted).steps


# ── cancel ───────────────────────────────────────────────────────────────────────────────────


def cancel(world: World) -> None:
    world.deliver(said.CancelRecoveryJob(command_id="c1", job=JOB))


def test_a_cancel_during_preflight_ends_the_recovery_at_once() -> None:
    world = begun(vm("db"))
    cancel(world)
    assert PREFLIGHT in world.asked_to_stop
    world.run()
    end = world.event(said.RecoveryFinished)
    assert (end.state, end.awaits_cleanup) == ("cancelled", False)


def test_a_cancel_ends_a_running_plan_script_before_the_job_ends() -> None:
    world = begun(vm("db"), header=header(pre_script=script(), post_script=script()))
    world.settle(PREFLIGHT)
    cancel(world)
    assert PRE in world.asked_to_stop and not world.events(said.RecoveryFinished)
    world.run()
    assert [event.step for event in world.events(said.PlanScriptEnded)] == ["pre-script"]
    assert world.event(said.RecoveryFinished).state == "cancelled"


@pytest.mark.parametrize("always", [True, False])
def test_after_a_cancel_the_post_script_runs_only_if_it_says_always(always: bool) -> None:
    world = launched(vm("db"), header=header(post_script=script(always=always)))
    run_until(world, "db/create-instance")
    cancel(world)
    world.run()
    assert bool(world.events(said.PlanScriptEnded)) is always
    assert world.event(said.RecoveryFinished).state == "cancelled"


def test_a_cancel_leaves_what_was_made_to_cleanup_and_keeps_the_instances_hold() -> None:
    world = launched(vm("db"), vm("app", 2))
    world.settle(run_until(world, "db/power-on"))
    cancel(world)
    world.run()
    assert world.event(said.RecoveryFinished).awaits_cleanup
    assert world.to_scheduler(ReleaseHolds)[0].modes == ("read-copy",)
    assert {event.outcome for event in world.events(said.VmFinished)} == {"cancelled"}


def test_cancelling_an_unknown_or_ended_job_is_refused_and_a_repeat_is_not() -> None:
    world = World()
    with pytest.raises(Refused, match="no job"):
        cancel(world)
    world = begun(vm("db"), header=header(pre_script=script()))
    world.settle(PREFLIGHT)
    cancel(world)
    cancel(world)
    world.run()
    with pytest.raises(Refused) as refused:
        cancel(world)
    assert refused.value.code == "job-ended"


# ── end ──────────────────────────────────────────────────────────────────────────────────────


def test_the_scheduler_hears_of_the_end_with_the_rto_from_the_command_on() -> None:
    world = begun(vm("db"))
    world.now += dt.timedelta(seconds=3)
    world.run()
    (ended,) = world.to_scheduler(RecoveryEnded)
    ready = world.event(said.VmReady).at
    assert (ended.state, ended.rto_s) == ("completed", (ready - T0).total_seconds())
    assert ended.rto_s >= 3


def test_a_completed_test_keeps_own_instance_until_cleanup() -> None:
    world = begun(vm("db"))
    world.run()
    assert world.event(said.RecoveryFinished).awaits_cleanup
    (holds,) = world.to_scheduler(ReleaseHolds)
    assert (holds.modes, holds.release_checkpoint) == (("read-copy",), False)


def test_steps_of_the_job_stand_in_order_with_their_times() -> None:
    plan = header(pre_script=script(), post_script=script())
    world = begun(vm("db", 1), vm("app", 2), header=plan)
    world.run()
    names = [step.name for step in world.event(said.RecoveryFinished).steps]
    assert names == ["preflight", "pre-script", "boot-order-1", "boot-order-2", "post-script"]
    assert world.event(said.RecoveryStarted).steps == tuple(names)


def test_messages_that_come_twice_or_too_late_change_nothing() -> None:
    world = launched(vm("db"))
    world.run()
    before = len(world.log)
    world.deliver(start(vm("db")))
    news = said.MemberNews(job=JOB, vm="db", news="ready", at=T0)
    for message in (news, said.LaunchVm(stream=stream("db"), boot=True)):
        world.deliver(message)
    world.deliver(said.BootDelayOver(boot_order=1), stream=JOB)
    assert len(world.log) == before


def test_two_thousand_vms_stay_within_what_one_event_may_weigh() -> None:
    vms = [vm(f"vm-{number:04}", number % 5) for number in range(2000)]
    world = begun(*vms)
    world.settle(PREFLIGHT)
    for kind in (said.RecoveryStarted, said.VmsLaunched):
        assert len(registry.encode(world.events(kind)[0])[2]) <= 64 * 1024
