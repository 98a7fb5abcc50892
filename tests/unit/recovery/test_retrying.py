"""Retry and skip: what failed is done again under the same job, what succeeded is kept."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Any

import pytest

from schemas import recovery as said
from schemas import recovery_steering as steer
from schemas import recovery_work as work
from schemas.common import Problem, ScriptReport
from schemas.scheduler import RecoveryEnded, ReleaseHolds
from shared.errors import Refused
from tests.unit.recovery.test_asking import answered, by_hand, until_asked
from tests.unit.recovery.test_cleanup import CLEANUP
from tests.unit.recovery.test_pausing import drain, go_to
from tests.unit.recovery.test_recovery import POST, PRE, PREFLIGHT, begun, launched, stream
from tests.unit.recovery.world import JOB, World, header, script, vm

DB, APP = stream("db"), stream("app")
FAILED = work.ScriptRan(report=ScriptReport(outcome="failed", exit_code=1, error="exit 1"))
BUSY = Problem(code="busy", message="VM 'db' is held by recovery:shop:r2", remedy="wait")
STEPS = ("hold-copy", "rebuild/sda", "create-instance", "power-on")


class Counting(World):
    """Counts what was asked for, by effect id; looks at the site are no work."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_for: Counter[str] = Counter()

    def asked(self, effect_id: str, effect: Any) -> None:
        if effect.kind != "poll-site":
            self.asked_for[effect_id] += 1


def counting(*vms: Any, **options: Any) -> Counting:
    world = Counting()
    plain = begun(*vms, **options)
    world.__dict__.update({**plain.__dict__, "asked_for": Counter()})
    world.settle(PREFLIGHT)
    world.deliver_all()
    return world


def failing(part: str, *vms: Any, **options: Any) -> Counting:
    """A recovery that has ended because the first VM failed at a part."""
    world = counting(*(vms or (vm("db"), vm("app"))), **options)
    world.settle(go_to(world, part) if part != "wait" else go_to(world, "release-copy"),
                 **({"code": "x", "remedy": "mend"} if part != "wait" else {}))  # fmt: skip
    if part == "wait":
        world.late(DB)
    world.run()
    return world


def retried(world: World, job: str = JOB, **fields: Any) -> World:
    world.steer(steer.RetryJob, job, **fields)
    if world.state(JOB).retrying is not None:
        world.grant_holds()
    world.deliver_all()
    return world


def ends(world: World) -> list[said.RecoveryFinished]:
    world.run()
    return world.events(said.RecoveryFinished)


# ── what is done again ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("part", STEPS)
def test_a_vm_that_failed_is_brought_up_and_the_others_are_not_touched(part: str) -> None:
    world = failing(part)
    assert ends(world)[-1].state == "partially-completed"
    before = Counter(world.asked_for)
    retried(world)
    end = ends(world)[-1]
    assert (end.state, end.ready, end.failed, end.problem) == ("completed", 2, 0, None)
    fresh = world.asked_for - before
    assert fresh and all(effect.startswith(f"{DB}/") for effect in fresh), fresh


def test_a_create_that_failed_keeps_its_token_so_that_the_platform_knows_it() -> None:
    world = failing("create-instance")
    before = Counter(world.asked_for)
    ends(retried(world))
    assert world.asked_for - before == Counter([f"{DB}/create-instance", f"{DB}/power-on"]), (
        "the disks are there and the copy is not needed"
    )


def test_a_guest_that_did_not_answer_is_powered_on_under_a_new_token_and_waited_for_again() -> (
    None
):
    world = failing("wait")
    before = Counter(world.asked_for)
    retried(world)
    assert world.asked_for - before == Counter([f"{DB}/power-on/2"])
    world.settle(f"{DB}/power-on/2")
    watch = world.queues["west"][-1]
    assert watch.until == world.now + dt.timedelta(seconds=60)
    assert ends(world)[-1].state == "completed"


def test_the_copy_is_held_again_under_a_new_token_where_disks_are_missing() -> None:
    world = failing("rebuild/sda")
    before = Counter(world.asked_for)
    ends(retried(world))
    fresh = world.asked_for - before
    assert f"{DB}/hold-copy/2" in fresh and f"{DB}/release-copy/2" in fresh
    assert f"{DB}/rebuild/sda" in fresh, "of the same copy, under the same token"
    payloads = [e for _, e, _ in world.log if isinstance(e, said.VmStepEnded)]
    assert payloads[-1].timing.name == "release-copy"


def test_the_second_hold_is_the_one_that_is_let_go() -> None:
    world = failing("rebuild/sda")
    retried(world)
    effect = world.effects[go_to(world, "release-copy/2")]
    assert effect.payload.held_under == f"{DB}/hold-copy/2"


def test_disks_of_another_copy_are_never_put_together() -> None:
    world = failing("rebuild/sda", vm("db"), vm("app"))
    retried(world)
    disks = tuple(work.CopyDisk(name=name, size=1) for name in ("sda", "sdb"))
    newer = work.CopyHeld(copy_id="newer", taken_at=world.now, disks=disks)
    world.settle(f"{DB}/hold-copy/2", newer)
    rebuilt = sorted(effect for effect in world.effects if "rebuild" in effect)
    assert rebuilt == [f"{DB}/rebuild/sda/2", f"{DB}/rebuild/sdb/2"]
    for effect in rebuilt:
        assert world.effects[effect].payload.copy_id == "newer"
        world.settle(effect)
    assert f"{DB}/create-instance/2" in world.effects
    assert ends(world)[-1].state == "completed"


def test_attempts_add_up_and_the_last_one_decides_what_the_step_is() -> None:
    world = failing("create-instance")
    ends(retried(world))
    last = [event for event in world.events(said.VmFinished) if event.vm == "db"][-1]
    step = {step.name: step for step in last.steps}["create-instance"]
    assert (step.state, step.attempts) == ("completed", 2)


def test_what_was_reached_before_a_retry_is_still_told_at_the_end() -> None:
    world = failing("wait")
    ends(retried(world))
    last = [event for event in world.events(said.VmFinished) if event.vm == "db"][-1]
    assert {step.name for step in last.steps} == set(world.state(DB).enrolled.steps)
    assert {step.state for step in last.steps} == {"completed"}
    assert {step.name: step.attempts for step in last.steps}["create-instance"] == 1


def test_a_second_retry_goes_on_where_the_first_ended() -> None:
    world = failing("create-instance")
    retried(world)
    world.settle(f"{DB}/create-instance", code="x")
    assert ends(world)[-1].state == "partially-completed"
    assert ends(retried(world))[-1].state == "completed"


def test_a_failed_script_runs_again_as_another_run_and_no_run_twice() -> None:
    world = counting(vm("db", post_script=script()), vm("app"))
    world.settle(go_to(world, "post-script"), FAILED)
    assert ends(world)[-1].state == "partially-completed"
    before = Counter(world.asked_for)
    retried(world)
    assert world.asked_for - before == Counter([f"{DB}/post-script/2"])
    assert ends(world)[-1].state == "completed"
    runs = [(e.step, e.run) for e in world.events(said.VmScriptEnded)]
    assert runs == [("post-script", 1), ("post-script", 2)]


def test_a_retry_of_a_vm_takes_that_one_only() -> None:
    world = counting(vm("db"), vm("app"))
    for name in (DB, APP):
        world.settle(go_to(world, "create-instance") and f"{name}/create-instance", code="x")
    ends(world)
    before = Counter(world.asked_for)
    retried(world, DB)
    end = ends(world)[-1]
    assert (end.state, end.ready, end.failed) == ("partially-completed", 1, 1)
    assert all(effect.startswith(f"{DB}/") for effect in world.asked_for - before)


def test_a_preflight_that_failed_is_looked_at_again_and_all_follows() -> None:
    world = begun(vm("db"))
    problem = Problem(code="no-copy", message="no copy", remedy="replicate")
    world.settle(PREFLIGHT, work.PreflightReport(problems=(problem,)))
    assert ends(world)[-1].state == "failed"
    retried(world)
    assert list(world.effects) == [PREFLIGHT]
    end = ends(world)[-1]
    assert (end.state, end.ready, end.problem) == ("completed", 1, None)
    assert {step.name: step.attempts for step in end.steps}["preflight"] == 2


@pytest.mark.parametrize("ahead", [True, False])
def test_a_pre_script_that_stopped_the_plan_runs_again_and_all_follows(ahead: bool) -> None:
    policy = header(pre_script=script(on_failure="stop"), build_ahead=ahead)
    world = begun(vm("db"), vm("app", 2), header=policy)
    world.settle(PREFLIGHT)
    world.settle(PRE, FAILED)
    assert ends(world)[-1].state == "partially-completed"
    retried(world)
    assert list(world.effects) == [f"{PRE}/2"]
    assert (ends(world)[-1].state, ends(world)[-1].ready) == ("completed", 2)


@pytest.mark.parametrize("ahead", [True, False])
def test_a_recovery_that_a_vm_stopped_goes_on_with_all_it_had_not_reached(ahead: bool) -> None:
    policy = header(build_ahead=ahead)
    world = failing(
        "create-instance", vm("db"), vm("app", 2), vm("web", 3), header=policy, on_error="stop"
    )
    first = ends(world)[-1]
    assert (first.state, first.ready) == ("failed", 0)
    retried(world, DB)
    end = ends(world)[-1]
    assert (end.state, end.ready, end.failed) == ("completed", 3, 0)
    assert [event.boot_order for event in world.events(said.BootOrderOpened)] == [1, 2, 3]


def test_a_post_script_that_succeeded_does_not_run_again_and_one_that_failed_does() -> None:
    policy = header(post_script=script())
    world = failing("create-instance", header=policy)
    retried(world)
    ends(world)
    assert world.asked_for[POST] == 1 and f"{POST}/2" not in world.asked_for
    world = counting(vm("db"), header=policy)
    world.settle(go_to(world, "post-script"), FAILED)
    ends(world)
    assert ends(retried(world))[-1].state == "completed"
    assert world.asked_for[f"{POST}/2"] == 1


def test_one_step_of_the_plan_is_retried_alone() -> None:
    world = counting(vm("db"), vm("app"), header=header(post_script=script()))
    world.settle(go_to(world, "create-instance"), code="x")
    world.settle(go_to(world, "post-script"), FAILED)
    ends(world)
    before = Counter(world.asked_for)
    end = ends(retried(world, step="post-script"))[-1]
    assert world.asked_for - before == Counter([f"{POST}/2"])
    assert (end.state, end.failed) == ("partially-completed", 1)


def test_a_manual_step_that_failed_is_asked_again() -> None:
    world = begun(vm("db", manual_steps=(by_hand("before-boot"),)))
    until_asked(world)
    answered(world, "failed", job=DB)
    assert ends(world)[-1].state == "failed"
    retried(world)
    drain(world)
    assert len(world.events(steer.VmAsked)) == 2
    answered(world, "done", job=DB)
    assert ends(world)[-1].state == "completed"


# ── while the recovery runs ──────────────────────────────────────────────────────────────────


def test_a_vm_that_failed_joins_again_while_the_recovery_runs() -> None:
    world = counting(vm("db"), vm("app", manual_steps=(by_hand("after-boot"),)))
    world.settle(go_to(world, "create-instance"), code="x")
    until_asked(world)
    drain(world)
    assert [event.vm for event in world.events(said.MemberEnded)] == ["db"]
    retried(world)
    assert not world.to_scheduler(steer.HoldAgain), "its holds stand"
    drain(world)
    answered(world, "done", job=APP)
    end = ends(world)[-1]
    assert (end.state, end.ready, end.failed) == ("completed", 2, 0)
    assert len(ends(world)) == 1


def test_the_next_boot_order_waits_for_a_vm_that_joined_again() -> None:
    world = counting(vm("db"), vm("log", manual_steps=(by_hand("before-boot"),)), vm("app", 2))
    world.settle(go_to(world, "create-instance") and f"{DB}/create-instance", code="x")
    until_asked(world)
    drain(world)
    retried(world, DB)
    answered(world, "done", job=stream("log"))
    held = f"{DB}/create-instance"
    for _ in range(50):
        world.deliver_all()
        rest = [effect for effect in world.effects if effect != held]
        if not rest:
            break
        world.settle(rest[0])
    assert len(world.events(said.BootOrderOpened)) == 1
    assert ends(world)[-1].ready == 3


def test_a_retry_of_what_waits_for_an_answer_says_so() -> None:
    world = begun(vm("db", manual_steps=(by_hand("before-boot"),)))
    until_asked(world)
    with pytest.raises(Refused) as refused:
        world.steer(steer.RetryJob)
    assert refused.value.code == "waiting"


# ── holds ────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_touched_before_the_scheduler_grants_the_holds() -> None:
    world = failing("create-instance")
    world.steer(steer.RetryJob)
    world.run()
    assert not world.events(steer.RecoveryReopened) and not world.effects
    (ask,) = world.to_scheduler(steer.HoldAgain)
    assert (ask.vms, ask.checkpoint, ask.mode) == (("db",), "latest", "test")
    world.grant_holds()
    assert world.answers[-1].outcome == "done"
    assert ends(world)[-1].state == "completed"


def test_what_the_scheduler_refuses_is_refused_and_the_job_stays_as_it_ended() -> None:
    world = failing("create-instance")
    before = world.state(JOB).finished
    world.steer(steer.RetryJob)
    world.grant_holds(problem=BUSY)
    settled = world.answers[-1]
    assert (settled.outcome, settled.code, settled.remedy) == ("refused", "busy", "wait")
    assert world.state(JOB).finished == before and world.state(JOB).retrying is None
    retried(world)
    assert ends(world)[-1].state == "completed"


def test_an_answer_about_holds_that_comes_twice_opens_the_job_once() -> None:
    world = failing("create-instance")
    world.steer(steer.RetryJob)
    world.grant_holds()
    world.grant_holds()
    assert len(world.events(steer.RecoveryReopened)) == 1


def test_holds_are_given_back_and_the_end_is_told_again() -> None:
    world = failing("create-instance")
    ends(retried(world))
    assert len(world.to_scheduler(ReleaseHolds)) == 2
    told = [message.state for message in world.to_scheduler(RecoveryEnded)]
    assert told == ["partially-completed", "completed"]


def test_a_retry_and_a_cleanup_do_not_cross() -> None:
    world = failing("create-instance")
    world.steer(steer.RetryJob)
    with pytest.raises(Refused) as refused:
        world.deliver(said.StartCleanup(command_id="k", job=CLEANUP, recovery=JOB))
    assert refused.value.code == "still-running"
    with pytest.raises(Refused) as refused:
        world.steer(steer.RetryJob)
    assert refused.value.code == "retry-pending"


def test_a_retry_calls_the_automatic_cleanup_off_until_the_new_end() -> None:
    world = counting(vm("db"), vm("app"), header=header(auto_cleanup_after_s=3600))
    world.settle(go_to(world, "create-instance"), code="x")
    while not world.events(said.RecoveryFinished):
        world.deliver_all()
        if world.effects:
            world.settle(next(iter(world.effects)))
        elif not world.events(said.RecoveryFinished):
            assert world.fire_next_timer()
    world.steer(steer.RetryJob)
    world.timers.pop((JOB, "auto-cleanup"))
    world.deliver(said.AutoCleanupDue(), stream=JOB)
    assert not world.events(said.CleanupStarted) and (JOB, "auto-cleanup") in world.timers
    world.grant_holds()
    assert (JOB, "auto-cleanup") not in world.timers
    ends(world)
    assert world.event(said.CleanupFinished).state == "completed"


# ── RTO ──────────────────────────────────────────────────────────────────────────────────────


def test_rto_counts_from_the_command_and_the_time_until_the_retry_is_shown_apart() -> None:
    world = failing("create-instance")
    first = ends(world)[-1]
    world.now += dt.timedelta(seconds=100)
    end = ends(retried(world))[-1]
    assert first.rto_s is not None and end.rto_s is not None
    assert end.rto_s - first.rto_s >= 100
    assert end.waited_s == first.waited_s + 100
    last = [event for event in world.events(said.VmFinished) if event.vm == "db"][-1]
    assert last.waited_s == 100


# ── what makes no sense ──────────────────────────────────────────────────────────────────────


def test_retries_that_make_no_sense_are_refused_with_their_reason() -> None:
    world = launched(vm("db"))
    assert _refusal(world, steer.RetryJob) == "nothing-failed"
    assert _refusal(world, steer.RetryJob, DB) == "still-running"
    assert _refusal(world, steer.RetryJob, "recovery:shop:none") == "unknown-job"
    assert _refusal(world, steer.RetryJob, "vm-recovery:shop:r1:none") == "unknown-job"
    world.run()
    assert _refusal(world, steer.RetryJob) == "nothing-failed"
    assert _refusal(world, steer.RetryJob, DB) == "nothing-failed"
    assert _refusal(world, steer.RetryJob, step="pre-script") == "not-failed"
    world.deliver(said.StartCleanup(command_id="k", job=CLEANUP, recovery=JOB))
    assert _refusal(world, steer.RetryJob) == "being-cleaned"
    world.run()
    assert _refusal(world, steer.RetryJob) == "already-cleaned"


def test_a_cancelled_recovery_and_a_dry_run_are_not_retried() -> None:
    world = launched(vm("db"))
    world.steer(said.CancelRecoveryJob)
    world.run()
    assert _refusal(world, steer.RetryJob) == "job-cancelled"
    world = begun(vm("db"), dry_run=True)
    world.run()
    assert _refusal(world, steer.RetryJob) == "nothing-failed"


def _refusal(world: World, command: type, job: str = JOB, **fields: Any) -> str:
    with pytest.raises(Refused) as refused:
        world.steer(command, job, **fields)
    assert refused.value.remedy, "a refusal says what to do"
    return refused.value.code


# ── skip ─────────────────────────────────────────────────────────────────────────────────────


def skipped(world: World, step: str, job: str = DB) -> World:
    world.steer(steer.SkipStep, job, step=step)
    if world.state(JOB).retrying is not None:
        world.grant_holds()
    world.deliver_all()
    return world


def test_a_vm_whose_readiness_is_skipped_counts_as_degraded_and_goes_on() -> None:
    world = failing("wait", vm("db", post_script=script()), vm("app"))
    before = Counter(world.asked_for)
    skipped(world, "wait-ready")
    assert world.asked_for - before == Counter([f"{DB}/post-script"])
    end = ends(world)[-1]
    assert (end.state, end.ready, end.failed) == ("partially-completed", 2, 0)
    last = [event for event in world.events(said.VmFinished) if event.vm == "db"][-1]
    assert (last.outcome, last.state) == ("ready", "partially-completed")
    assert {step.name: step.state for step in last.steps}["wait-ready"] == "skipped"


def test_a_script_that_failed_its_vm_is_skipped_and_the_vm_built() -> None:
    world = counting(vm("db", pre_script=script(on_failure="fail_vm")), vm("app"))
    world.settle(f"{DB}/pre-script", FAILED)
    ends(world)
    skipped(world, "pre-script")
    end = ends(world)[-1]
    assert (end.state, end.ready) == ("partially-completed", 2)
    assert world.asked_for[f"{DB}/pre-script"] == 1 and f"{DB}/pre-script/2" not in world.asked_for


def test_a_plan_script_that_stopped_the_plan_is_skipped_and_all_follows() -> None:
    world = begun(vm("db"), header=header(pre_script=script(on_failure="stop")))
    world.settle(PREFLIGHT)
    world.settle(PRE, FAILED)
    ends(world)
    skipped(world, "pre-script", JOB)
    end = ends(world)[-1]
    assert (end.state, end.ready) == ("partially-completed", 1)
    assert f"{PRE}/2" not in world.effects


def test_a_manual_step_that_waits_is_skipped() -> None:
    world = begun(vm("db", manual_steps=(by_hand("before-boot"),)))
    until_asked(world)
    world.steer(steer.SkipStep, DB, step="manual-dns")
    assert world.event(steer.VmAnswered).choice == "skip"
    assert ends(world)[-1].state == "partially-completed"


def test_a_skipped_step_is_not_done_again_by_a_retry() -> None:
    world = failing("wait", vm("db", post_script=script(on_failure="fail_vm")), vm("app"))
    skipped(world, "wait-ready")
    world.settle(f"{DB}/post-script", FAILED)
    ends(world)
    before = Counter(world.asked_for)
    retried(world)
    assert world.asked_for - before == Counter([f"{DB}/post-script/2"])
    assert ends(world)[-1].state == "partially-completed"


@pytest.mark.parametrize(
    "step", ["hold-copy", "rebuild-disks", "create-instance", "power-on", "fence", "preflight"]
)
def test_what_makes_the_vm_is_never_skipped(step: str) -> None:
    world = failing("create-instance")
    assert _refusal(world, steer.SkipStep, DB, step=step) == "not-skippable"
    assert _refusal(world, steer.SkipStep, JOB, step=step) == "not-skippable"


def test_only_a_step_that_failed_and_held_things_up_is_skipped() -> None:
    world = launched(vm("db", post_script=script()))
    assert _refusal(world, steer.SkipStep, DB, step="wait-ready") == "not-failed"
    world.settle(go_to(world, "post-script"), FAILED)
    world.run()
    assert _refusal(world, steer.SkipStep, DB, step="post-script") == "gone-on"
    assert _refusal(world, steer.SkipStep, DB, step="pre-script") == "not-failed"
    assert _refusal(world, steer.SkipStep, JOB, step="pre-script") == "not-failed"


# ── every message twice ──────────────────────────────────────────────────────────────────────


def test_what_a_recovery_tells_a_vm_about_a_retry_counts_once() -> None:
    world = failing("create-instance")
    world.steer(steer.RetryJob)
    world.grant_holds()
    again = [m for queue in world.queues.values() for m in queue if isinstance(m, steer.RetryVm)]
    world.deliver_all()
    before = len(world.log)
    for message in again:
        world.deliver(message)
    assert len(world.log) == before
    world.run()
    for message in again:
        world.deliver(message)
    assert len(world.events(steer.VmRetried)) == 1


def test_news_of_before_the_retry_is_old() -> None:
    world = failing("create-instance")
    news = said.MemberNews(job=JOB, vm="db", news="ended", at=world.now, outcome="failed")
    retried(world)
    before = len(world.log)
    world.deliver(news)
    assert len(world.log) == before


def test_a_vm_that_is_told_to_go_on_already_is_not_told_twice() -> None:
    world = counting(vm("db"), vm("app", manual_steps=(by_hand("after-boot"),)))
    world.settle(go_to(world, "create-instance"), code="x")
    until_asked(world)
    drain(world)
    world.steer(steer.RetryJob, DB)
    assert _refusal(world, steer.RetryJob, DB) == "still-running"
    world.deliver_all()
    assert len(world.events(steer.MemberRetried)) == 1
