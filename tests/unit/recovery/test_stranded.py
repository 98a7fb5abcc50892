"""A commit and the VMs that did not come up: refused by name, or by word without them.

What was made of those is gone before anything is committed, and they are what they were before.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from schemas import directions as said_dir
from schemas import operations as said_ops
from schemas import recovery as said
from schemas import recovery_steering as steer
from schemas.common import ScriptReport
from schemas.recovery_work import ScriptRan
from schemas.scheduler import ReleaseHolds, ReturnVms
from services.recovery.domain import commit_window
from tests.unit.recovery.site_world import SiteWorld
from tests.unit.recovery.test_full_recoveries import _never_deleting, past_preflight, refusal
from tests.unit.recovery.test_recovery import stream
from tests.unit.recovery.test_sagas import MODES, check_nothing_left
from tests.unit.recovery.test_steering_moves import (
    ended_without,
    go_on,
    in_window,
    left_out,
    running,
)
from tests.unit.recovery.world import JOB, script, vm

CLEANUP = "cleanup:shop:commit-k1"
ANYHOW = "--without-failed"


def of_web(world: SiteWorld) -> list[str]:
    """What is there of the VM that did not come up."""
    return [name for (_, name), (owner, _) in world.sites.made.items() if owner == "web"]


def unready(how: str) -> SiteWorld:
    """A failover whose `web` runs, and failed at its post-script or while it was waited for."""
    post = script(on_failure="fail_vm") if how == "post-script" else None
    world = SiteWorld("failover").begin(vm("db"), vm("web", 2, post_script=post))
    part, name = f"{stream('web')}/post-script", stream("web")
    for _ in range(500):
        world.deliver_all()
        if world.events(said.RecoveryFinished):
            return world
        waits = world.state(name).powered_on_at is not None and not world.state(name).failed
        if how == "wait-ready" and waits:
            world.late(name)
        elif part in world.effects:
            report = ScriptReport(outcome="failed", exit_code=1)
            world.settle(part, ScriptRan(report=report))
        elif world.effects:
            world.act(next(iter(world.effects)))
        elif not world.sync():
            world.fire_next_timer()
    raise AssertionError("it does not end")


# ── refused ──────────────────────────────────────────────────────────────────────────────────


def test_a_commit_names_who_did_not_come_up_and_what_may_be_done() -> None:
    world = in_window()
    refused = refusal(world.commit)
    assert refused.code == "not-ready" and refused.message.startswith("web of recovery:shop:r1")
    for command in ("job retry", "rollback", "commit"):
        assert f"`seawall {command} {JOB}" in refused.remedy
    assert f"`seawall commit {JOB} {ANYHOW}`" in refused.remedy
    assert "job skip" not in refused.remedy, "a VM without an instance is none"
    assert world.state(JOB).window.committing == "" and running(world) == {"db", "app"}


@pytest.mark.parametrize("how", ["post-script", "wait-ready"])
def test_one_that_runs_may_be_kept_as_it_is(how: str) -> None:
    world = unready(how)
    assert running(world) == {"db", "web"}
    refused = refusal(world.commit)
    assert f"`seawall job skip {stream('web')} {how}`" in refused.remedy
    world.steer(steer.SkipStep, stream("web"), step=how)
    world.grant_holds()
    world.live().commit()
    assert world.event(said_ops.RecoveryCommitted).without == ()
    assert {name for name, _ in world.event(said_ops.CommitStarted).instances} == {"db", "web"}


def test_a_retry_takes_back_what_failed_it() -> None:
    world = unready("wait-ready")
    assert world.state(JOB).members["web"].failed_step == "wait-ready"
    go_on(world)
    assert world.state(JOB).members["web"].failed_step == ""


def test_what_was_cancelled_is_not_offered_again() -> None:
    world = past_preflight(SiteWorld("failover").begin())
    while not world.events(said.MemberEnded):
        world.deliver_all()
        if not world.sync():
            world.act(next(iter(world.effects)))
    world.deliver(said.CancelRecoveryJob(command_id="c", job=JOB))
    world.live()
    assert world.end.ready == 1
    refused = refusal(world.commit)
    assert refused.code == "not-ready" and "retry" not in refused.remedy
    world.commit(without_failed=True)
    assert len(world.event(said_ops.RecoveryCommitted).without) == 2
    assert len(running(world)) == 1


def test_who_could_not_be_fenced_keeps_nobody_from_committing() -> None:
    world = left_out().live().commit()
    assert world.event(said_ops.RecoveryCommitted).without == ()
    assert world.sites.sources["web"] and not world.to_scheduler(ReturnVms)


def test_one_that_could_neither_be_fenced_nor_switched_on_again_is_given_back() -> None:
    world = past_preflight(SiteWorld("failover").begin())
    web = "vm-source:shop:r1:web"
    world.act(f"{web}/look-at-source")
    world.sites.sources["web"] = False
    # Both were done all the same.
    world.settle(f"{web}/shut-down-source", code="shutdown-timed-out")
    world.settle(f"{web}/power-off-source", code="guest-stuck")
    for _ in range(500):
        world.deliver_all()
        if f"{web}/power-on-source/1" in world.effects:
            world.settle(f"{web}/power-on-source/1", code="site-gone")
        elif world.effects:
            world.act(next(iter(world.effects)))
        elif not world.sync():
            break
    world.live()
    refused = refusal(world.commit)
    assert refused.code == "not-ready" and "retry" not in refused.remedy
    world.commit(without_failed=True)
    (back,) = world.to_scheduler(ReturnVms)
    assert back.vms == ("web",) and running(world) == {"db", "app"}


def test_without_a_usable_vm_there_is_nothing_to_keep_whatever_is_said() -> None:
    world = ended_without(SiteWorld("failover").begin(vm("web")), "web")
    refused = refusal(lambda: world.commit(without_failed=True))
    assert refused.code == "nothing-to-commit"


# ── by word ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", MODES)
def test_by_word_they_are_removed_and_given_back_and_the_rest_is_committed(mode: str) -> None:
    world = in_window(mode)
    kept = {key: made for key, made in world.sites.made.items() if made[0] != "web"}
    assert of_web(world)
    world.sent.clear()
    world.commit(without_failed=True)
    assert world.sites.made == kept
    started = world.event(said_ops.CommitStarted)
    assert {name for name, _ in started.instances} == {"db", "app"}
    end = world.event(said_ops.CommitFinished)
    assert [step.name for step in end.steps] == ["remove-failed", "verify-instances"]
    assert end.state == "completed" and end.note.startswith("web ") and "--vm VM" in end.note
    (back,) = world.to_scheduler(ReturnVms)
    (release,) = world.to_scheduler(ReleaseHolds)
    assert (back.vms, release.modes) == (("web",), ("own-instance",))
    assert world.sent.index(back) < world.sent.index(release)
    assert not any(world.sites.sources.values()), "nothing is switched on"
    world.check_log()


def test_what_was_cleaned_of_some_vms_is_not_cleaned() -> None:
    world = in_window().commit(without_failed=True)
    assert world.event(said.CleanupStarted).vms == ("web",)
    assert not world.events(said.RecoveryCleaning) and not world.events(said.RecoveryCleaned)
    state = world.state(JOB)
    assert not (state.cleaned or state.cleaning)
    assert [name for name, each in state.members.items() if each.made] == ["db", "app"]
    world.deliver(
        said.StartCleanup(command_id="c", job="cleanup:shop:c1", recovery=JOB, confirm="shop")
    )
    world.live()
    assert world.event(said.RecoveryCleaned) and world.sites.made == {}


def test_the_word_removes_nothing_where_all_came_up() -> None:
    world = SiteWorld("failover").begin().live().commit(without_failed=True)
    assert world.event(said_ops.CommitStarted).steps == ("verify-instances",)
    assert not world.events(said.CleanupStarted) and not world.to_scheduler(ReturnVms)
    assert world.event(said_ops.RecoveryCommitted).without == ()


def test_a_vm_that_never_began_is_given_back_too() -> None:
    world = ended_without(SiteWorld("failover", on_error="stop").begin(), "db")
    assert world.end.ready == 0
    world = SiteWorld("failover", on_error="stop").begin(vm("db"), vm("app", 2), vm("web", 3))
    ended_without(world, "app").commit(without_failed=True)
    assert set(world.event(said_ops.RecoveryCommitted).without) == {"app", "web"}
    assert {owner for owner, _ in world.sites.made.values()} == {"db"}


def test_of_a_failback_it_says_that_they_are_off_where_they_were() -> None:
    world = in_window("failback").commit(without_failed=True)
    end = world.event(said_ops.CommitFinished)
    assert "not failed back" in end.note and "--mode failback" in end.note
    (turn,) = world.to_scheduler(said_dir.TurnVms)
    assert [source.vm for source in turn.sources] == ["db", "app"]
    assert set(world.event(said_dir.InstancesTaken).vms) == {"db", "app"}


def test_originals_of_a_lost_site_are_the_vms_again_once_left_out() -> None:
    world = SiteWorld("failover", source_gone=True)
    world.sites.watching = False
    world = ended_without(past_preflight(world.begin(), source_lost=True), "web")
    assert set(commit_window.given_up(world.state(JOB))) == {"db", "app", "web"}
    assert "job skip" not in refusal(world.commit).remedy
    world.commit(without_failed=True)
    assert set(commit_window.given_up(world.state(JOB))) == {"db", "app"}
    assert "as it stands there" in world.event(said_ops.CommitFinished).note


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────


def stuck() -> SiteWorld:
    """A commit that could not remove what is left of `web`."""
    world = in_window()
    (disk, *_) = [key for key, (owner, _) in world.sites.made.items() if owner == "web"]
    world.sites.do = _never_deleting(world.sites.do, disk)  # type: ignore[method-assign]
    return world.commit(without_failed=True)


def mended(world: SiteWorld) -> SiteWorld:
    """The platform deletes again."""
    del world.sites.do
    return world


def test_what_is_left_keeps_the_window_open() -> None:
    world = stuck()
    end = world.event(said_ops.CommitFinished)
    assert (end.state, end.problem.code, end.note) == ("failed", "left-over", "")
    assert f"commit {JOB} {ANYHOW}" in end.problem.remedy and CLEANUP in end.problem.remedy
    assert [step.state for step in end.steps] == ["failed"]
    assert not world.events(said_ops.RecoveryCommitted) and not world.to_scheduler(ReturnVms)
    assert running(world) == {"db", "app"}
    left = world.event(said.CleanupFinished).problem
    assert left.code == "left-over" and ANYHOW in left.remedy


def test_it_is_asked_for_again_until_nothing_is_left() -> None:
    world = stuck()
    assert refusal(lambda: world.commit(2)).code == "not-ready"
    mended(world).commit(2, without_failed=True)
    assert world.event(said_ops.RecoveryCommitted).commit == "commit:shop:k2"
    assert not of_web(world)
    world.check_log()


@pytest.mark.parametrize("job", [JOB, stream("web")])
def test_nobody_builds_upon_what_was_half_removed(job: str) -> None:
    world = stuck()
    refused = refusal(lambda: world.steer(steer.RetryJob, job))
    assert refused.code == "left-out" and "seawall rollback" in refused.remedy
    assert "retry" not in refusal(lambda: world.commit(2)).remedy


def test_it_may_still_be_rolled_back() -> None:
    check_nothing_left(mended(stuck()).roll_back())


def test_nothing_else_is_decided_while_it_removes() -> None:
    world = in_window()
    start = said_ops.StartCommit(
        command_id="c", job="commit:shop:k1", recovery=JOB, without_failed=True
    )
    world.deliver(start)
    assert refusal(world.roll_back).code == "being-committed"
    assert refusal(lambda: world.steer(steer.RetryJob)).code == "being-committed"
    clean = said.StartCleanup(command_id="c", job="cleanup:shop:c1", recovery=JOB, confirm="shop")
    assert refusal(lambda: world.deliver(clean)).code == "awaits-commit"
    world.live()
    assert world.event(said_ops.RecoveryCommitted)


@pytest.mark.parametrize("asker", ["commit:shop:k1", ""])
def test_some_vms_are_cleaned_for_a_commit_that_runs_and_for_nobody_else(asker: str) -> None:
    world = in_window()
    before = dict(world.sites.made)
    world.deliver(said.BeginCleanup(job=CLEANUP, recovery=JOB, parent=asker, vms=("db",)))
    world.live()
    assert not world.events(said.CleanupStarted) and world.sites.made == before


def test_a_removal_that_a_person_stops_commits_nothing() -> None:
    world = in_window()
    world.deliver(
        said_ops.StartCommit(
            command_id="c", job="commit:shop:k1", recovery=JOB, without_failed=True
        )
    )
    world.deliver_all()
    world.deliver(said.CancelRecoveryJob(command_id="c", job=CLEANUP))
    world.live()
    assert world.event(said.CleanupFinished).state == "cancelled"
    assert world.event(said_ops.CommitFinished).state == "failed"
    assert not world.events(said_ops.RecoveryCommitted)


def test_messages_of_it_that_come_twice_change_nothing() -> None:
    world = in_window()
    start: Any = said_ops.StartCommit(
        command_id="c", job="commit:shop:k1", recovery=JOB, without_failed=True
    )
    world.deliver(start)
    for _ in range(500):
        queue = next((queue for queue in world.queues.values() if queue), None)
        if queue is not None:
            message = queue.popleft()
            world.deliver(message)
            world.deliver(message)
        elif world.effects:
            world.act(next(iter(world.effects)))
        else:
            break
    assert world.event(said_ops.RecoveryCommitted).without == ("web",)
    assert len(world.to_scheduler(ReturnVms)) == 1 and not of_web(world)
    world.check_log()


@pytest.mark.parametrize(
    ("mode", "done", "code"),
    list(itertools.product(MODES, (False, True), ("broken", "site-gone"))),
)
def test_whichever_step_of_it_fails_it_is_done_again_or_taken_back(
    mode: str, done: bool, code: str
) -> None:
    good = in_window(mode)
    before = good.count
    total = good.commit(without_failed=True).count
    assert total > before + 3
    for number, again in itertools.product(range(before + 1, total + 1), (True, False)):
        world = in_window(mode)
        world.fail_at, world.done, world.code = number, done, code
        world.commit(without_failed=True)
        committed = bool(world.events(said_ops.RecoveryCommitted))
        assert committed == (world.event(said_ops.CommitFinished).state == "completed")
        if not committed and not again:
            check_nothing_left(world.roll_back())
            continue
        if not committed:
            assert not world.to_scheduler(ReturnVms)
            world.commit(2, without_failed=True)
        assert world.event(said_ops.RecoveryCommitted).without == ("web",)
        assert not of_web(world) and running(world) == {"db", "app"}
        assert len(world.to_scheduler(ReturnVms)) == 1
        world.check_log()
