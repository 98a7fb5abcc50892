"""Failover and migration are steered like other recoveries, but never so that two VMs run."""

from __future__ import annotations

from typing import Any

import pytest

from schemas import operations as said_ops
from schemas import recovery as said
from schemas import recovery_steering as steer
from schemas.common import Problem, ScriptReport
from schemas.recovery_work import ScriptRan
from shared.errors import Refused
from tests.unit.recovery.site_world import SiteWorld
from tests.unit.recovery.test_full_recoveries import kinds, past_preflight, refusal
from tests.unit.recovery.test_recovery import stream
from tests.unit.recovery.world import JOB, header, script


def test_a_paused_failover_shuts_no_source_down_until_it_is_resumed() -> None:
    world = SiteWorld("failover").begin()
    world.deliver_all()
    world.steer(steer.PauseJob)
    world.settle(f"{JOB}/preflight")
    world.deliver_all()
    assert not world.effects and not world.events(said_ops.SourcesSecuring)
    world.steer(steer.ResumeJob)
    world.deliver_all()
    assert kinds(world) == ["look-at-source"]
    assert world.live().end.state == "completed"


def test_sources_that_are_off_wait_for_the_last_sync_while_it_is_paused() -> None:
    world = past_preflight(SiteWorld("migrate").begin())
    world.steer(steer.PauseJob)
    while world.effects:
        world.act(next(iter(world.effects)))
        world.deliver_all()
    assert not world.events(said_ops.LastSyncAsked)
    world.steer(steer.ResumeJob)
    world.deliver_all()
    assert world.events(said_ops.LastSyncAsked)


def left_out() -> SiteWorld:
    """A failover that goes on without `web`, whose source could not be fenced."""
    world = past_preflight(SiteWorld("failover").begin())
    world.settle("vm-source:shop:r1:web/look-at-source", code="site-gone")
    while not world.events(said.VmsLaunched):
        if world.effects:
            world.act(next(iter(world.effects)))
        elif not world.events(said_ops.LastSyncFinished):
            world.sync()
        world.deliver_all()
    return world


@pytest.mark.parametrize(("job", "code"), [(JOB, "nothing-failed"), (stream("web"), "not-fenced")])
def test_a_vm_whose_source_may_run_is_never_brought_up_by_a_retry(job: str, code: str) -> None:
    world = left_out()
    assert refusal(lambda: world.steer(steer.RetryJob, job)).code == code
    world.live()
    assert {vm for vm, _ in world.sites.made.values()} == {"db", "app"}


# ── after the end: the commit window ─────────────────────────────────────────────────────────


def ended_without(world: SiteWorld, vm: str) -> SiteWorld:
    """Everything works out until the end, but that a VM's instance cannot be made."""
    broken = f"{stream(vm)}/create-instance"
    for _ in range(500):
        world.deliver_all()
        if world.events(said.RecoveryFinished):
            return world
        if broken in world.effects:
            world.settle(broken, code="broken")
        elif world.effects:
            world.act(next(iter(world.effects)))
        elif not world.sync():
            world.fire_next_timer()
    raise AssertionError("it does not end")


def in_window(mode: str = "failover") -> SiteWorld:
    """A full recovery that has ended without a VM that failed, and awaits its decision."""
    world = ended_without(SiteWorld(mode).begin(), "web")
    assert world.end.awaits_commit and world.end.state == "partially-completed"
    return world


def go_on(world: SiteWorld, job: str = JOB, **fields: Any) -> SiteWorld:
    world.steer(steer.RetryJob, job, **fields)
    world.grant_holds()
    return world.live()


def running(world: SiteWorld) -> set[str]:
    return {vm for (kind, _), (vm, on) in world.sites.made.items() if kind == "instance" and on}


def ends(world: SiteWorld) -> list[str]:
    return [end.state for end in world.events(said.RecoveryFinished)]


@pytest.mark.parametrize("mode", ["failover", "migrate"])
@pytest.mark.parametrize("job", [JOB, stream("web")])
def test_a_vm_that_failed_is_brought_up_while_the_window_is_open(mode: str, job: str) -> None:
    world = in_window(mode)
    assert running(world) == {"db", "app"}
    before = world.count
    go_on(world, job)
    assert running(world) == {"db", "app", "web"}
    assert ends(world) == ["partially-completed", "completed"]
    assert not any(world.sites.sources.values()), "every source stays off"
    (asked,) = world.to_scheduler(steer.HoldAgain)
    assert asked.vms == ("web",) and asked.mode == mode
    named = {stream for stream, _, _ in world.log[-before:]}
    assert "vm-recovery:shop:r1:web" in named
    world.check_log()


def test_what_came_up_after_a_retry_is_committed_with_the_rest() -> None:
    world = go_on(in_window())
    world.commit()
    (started,) = world.events(said_ops.CommitStarted)
    assert {vm for vm, _ in started.instances} == {"db", "app", "web"}


def test_a_roll_back_after_a_retry_takes_all_of_it_back() -> None:
    world = go_on(in_window()).roll_back()
    assert world.sites.made == {} and all(world.sites.sources.values())


def test_nothing_is_decided_about_a_recovery_that_is_being_retried() -> None:
    world = in_window()
    world.steer(steer.RetryJob)
    for decide in (world.commit, world.roll_back):
        assert refusal(decide).code == "still-running"
    assert refusal(lambda: world.steer(steer.RetryJob)).code == "retry-pending"
    world.grant_holds()
    for decide in (world.commit, world.roll_back):
        assert refusal(decide).code == "still-running"
    assert world.live().events(said.RecoveryFinished)[-1].awaits_commit


def test_the_reminder_of_the_window_is_set_anew_by_the_new_end() -> None:
    world = in_window()
    first, _ = world.timers[JOB, "commit-reminder"]
    world.steer(steer.RetryJob)
    world.grant_holds()
    assert (JOB, "commit-reminder") not in world.timers
    world.live()
    assert world.timers[JOB, "commit-reminder"][0] >= first


@pytest.mark.parametrize(
    ("decide", "code"), [("commit", "already-committed"), ("roll_back", "already-rolled-back")]
)
@pytest.mark.parametrize("command", [steer.RetryJob, steer.SkipStep])
def test_what_was_decided_is_not_gone_on_with(decide: str, code: str, command: type) -> None:
    world = in_window()
    getattr(world, decide)(**{"without_failed": True} if decide == "commit" else {})
    fields = {"step": "wait-ready"} if command is steer.SkipStep else {}
    refused = refusal(lambda: world.steer(command, stream("web"), **fields))
    assert refused.code == code and "seawall recover shop --mode failover" in refused.remedy


def test_one_that_left_nothing_is_started_anew() -> None:
    world = SiteWorld("migrate")
    world.sync_fails = {"web"}
    world.begin().live()
    refused = refusal(lambda: world.steer(steer.RetryJob))
    assert refused.code == "no-commit-window" and "--mode migrate" in refused.remedy


def test_a_vm_that_could_not_be_fenced_is_left_out_of_every_retry() -> None:
    world = left_out()
    ended_without(world, "app")
    assert refusal(lambda: world.steer(steer.RetryJob, stream("web"))).code == "not-fenced"
    go_on(world)
    assert running(world) == {"db", "app"} and world.sites.sources["web"]


def test_a_word_given_when_the_job_ran_does_not_stand_for_its_retry() -> None:
    """The site may be back since: that its VMs do not run must be said once more."""
    world = SiteWorld("failover", source_gone=True)
    world.sites.watching = False
    world = past_preflight(world.begin(), source_lost=True)
    ended_without(world, "web")
    for job in (JOB, stream("web")):
        refused = refusal(lambda job=job: world.steer(steer.RetryJob, job))
        assert refused.code == "source-gone" and "--source-gone" in refused.remedy
    skip = refusal(lambda: world.steer(steer.SkipStep, stream("web"), step="wait-ready"))
    assert skip.code in ("source-gone", "not-failed")
    go_on(world, source_gone=True)
    assert running(world) == {"db", "app", "web"}


def test_a_failed_post_script_alone_is_run_again_and_no_vm_is_touched() -> None:
    policy = header(post_script=script())
    world = SiteWorld("failover", header=policy).begin()
    for _ in range(500):
        world.deliver_all()
        post = next((e for e in world.effects if e.startswith(f"{JOB}/post-script")), "")
        if post:
            report = ScriptReport(outcome="failed", exit_code=1)
            world.settle(post, ScriptRan(report=report))
            break
        if world.effects:
            world.act(next(iter(world.effects)))
        elif not world.sync():
            world.fire_next_timer()
    world.live()
    assert world.end.state == "partially-completed"
    made, length = dict(world.sites.made), len(world.log)
    go_on(world)
    assert ends(world) == ["partially-completed", "completed"]
    assert world.sites.made == made
    assert {stream for stream, _, _ in world.log[length:]} == {JOB}


def test_a_retry_that_the_scheduler_refuses_leaves_the_window_open() -> None:
    world = in_window()
    world.steer(steer.RetryJob)
    world.grant_holds(problem=Problem(code="busy", message="held by another"))
    assert world.state(JOB).retrying is None
    world.commit(without_failed=True)
    assert world.events(said_ops.RecoveryCommitted)


def test_a_cancelled_one_says_how_it_leaves_the_sources() -> None:
    world = past_preflight(SiteWorld("failover", last_sync=False).begin())
    while not world.events(said.VmsLaunched):
        world.act(next(iter(world.effects)))
        world.deliver_all()
    world.steer(said.CancelRecoveryJob)
    world.live()
    assert world.end.state == "cancelled"
    assert "3 source(s) switched off" in world.end.left


def test_one_that_is_undone_by_itself_is_not_retried() -> None:
    world = ended_without(SiteWorld("migrate", auto_rollback=True).begin(), "web")
    assert world.end.undone_by
    refused = refusal(lambda: world.steer(steer.RetryJob))
    assert refused.code == "being-rolled-back" and world.end.undone_by in refused.message
    world.live()
    assert refusal(lambda: world.steer(steer.RetryJob)).code == "already-rolled-back"
    assert all(world.sites.sources.values())


@pytest.mark.parametrize("job", [JOB, stream("app"), stream("db")])
def test_one_that_took_its_sources_back_is_not_retried_for_the_others_run(job: str) -> None:
    world = SiteWorld("migrate")
    world.sync_fails = {"web"}
    world.begin()
    back = "vm-source:shop:r1:app/power-on-source/1"
    while back not in world.effects:
        world.deliver_all()
        if not world.sync():
            world.act(next(name for name in [*world.effects, back] if name != back))
        world.deliver_all()
    world.settle(back, code="site-gone")
    world.live()
    assert (world.end.state, world.end.awaits_commit) == ("failed", True)
    refused = refusal(lambda: world.steer(steer.RetryJob, job))
    assert refused.code == "taken-back" and f"seawall rollback {JOB}" in refused.remedy
    world.roll_back()
    assert all(world.sites.sources.values())


# ── every failure, retried ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("done", [False, True], ids=["undone", "done"])
@pytest.mark.parametrize("mode", ["failover", "migrate"])
def test_whatever_failed_once_is_retried_without_two_of_a_vm_and_rolled_back(
    mode: str, done: bool
) -> None:
    """Each effect in turn fails for good, whether the platform did it all the same or not."""
    retried_count = 0
    for number in range(1, 200):
        world = SiteWorld(mode, fail_at=number, done=done).begin().live()
        if world.count < number:
            break
        if not world.end.awaits_commit or world.end.state == "completed":
            continue
        try:
            world.steer(steer.RetryJob)
        except Refused as refused:
            # A source that nobody fenced, or a failure that nothing waits for.
            assert refused.code == "nothing-failed", (number, refused)
            continue
        world.grant_holds()
        world.live()
        retried_count += 1
        last = world.events(said.RecoveryFinished)[-1]
        assert last.failed == len(left_running(world)), number
        assert running(world) == {"db", "app", "web"} - left_running(world), number
        world.check_log()
        world.roll_back()
        assert world.sites.made == {} and all(world.sites.sources.values()), number
    assert retried_count > 10


def left_running(world: SiteWorld) -> set[str]:
    """The VMs whose source could not be switched off: they were left out."""
    secured = world.events(said_ops.MemberSecured)
    return {event.vm for event in secured if event.state == "failed"}
