"""Full recoveries, roll back and commit as sagas: whatever step fails, nothing is left behind.

Each step is done twice and fails once, before and after the platform did it; each undo is asked
for twice. States take their stored form between any two messages, as after a crash.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from schemas import operations as said_ops
from schemas import recovery as said
from schemas.scheduler import RecoveryEnded, ReleaseHolds, ReturnVms
from shared.errors import Refused
from tests.unit.recovery.site_world import STEPS_MAX, SiteWorld
from tests.unit.recovery.world import JOB

MODES = ("failover", "migrate", "failback")
ALL_ON = {"db": True, "app": True, "web": True}
ALL_OFF = dict.fromkeys(ALL_ON, False)


def steps_of(mode: Any) -> int:
    return SiteWorld(mode).begin().live().count


def check_nothing_left(world: SiteWorld) -> None:
    assert world.sites.sources == ALL_ON
    assert world.sites.made == {}
    assert not world.effects and not any(world.queues.values())
    held = set().union(*(set(m.modes) for m in world.to_scheduler(ReleaseHolds)))
    assert held == {"write-copy", "own-instance"}


@pytest.mark.parametrize("mode", MODES)
def test_all_goes_well_and_the_sources_stay_off(mode: str) -> None:
    world = SiteWorld(mode).begin().live()
    assert (world.end.state, world.end.ready, world.end.awaits_commit) == ("completed", 3, True)
    assert world.sites.sources == ALL_OFF
    (told,) = world.to_scheduler(RecoveryEnded)
    assert (told.moved, told.stayed) == (True, ())
    (release,) = world.to_scheduler(ReleaseHolds)
    assert (release.modes, release.release_checkpoint) == (("write-copy",), False)
    # With the hold a tick that waits would start, if the VMs had not moved before.
    assert world.sent.index(told) < world.sent.index(release)
    world.check_log()


@pytest.mark.parametrize(
    ("mode", "done", "code"),
    list(itertools.product(MODES, (False, True), ("broken", "site-gone"))),
)
def test_whichever_step_fails_a_roll_back_leaves_nothing_behind(
    mode: str, done: bool, code: str
) -> None:
    for number in range(1, steps_of(mode) + 1):
        world = SiteWorld(mode, fail_at=number, done=done, code=code).begin().live()
        end = world.end
        if not end.awaits_commit:
            check_nothing_left(world)
            assert end.state in ("failed", "cancelled")
            continue
        assert world.sites.sources != ALL_ON
        world.roll_back()
        check_nothing_left(world)
        assert world.event(said_ops.RecoveryRolledBack).rollback == "rollback:shop:b1"
        world.check_log()


@pytest.mark.parametrize("done", [False, True])
def test_a_roll_back_whose_step_failed_is_repeated_until_nothing_is_left(done: bool) -> None:
    before = steps_of("failover")
    total = SiteWorld("failover").begin().live().roll_back().count
    for number in range(before + 1, total + 1):
        world = SiteWorld("failover", fail_at=number, done=done).begin().live().roll_back()
        if not world.events(said_ops.RecoveryRolledBack):
            ended = world.event(said_ops.RollbackFinished)
            assert ended.state in ("failed", "partially-completed") and ended.problem
            assert not world.to_scheduler(ReturnVms)
            world.roll_back(2)
        check_nothing_left(world)
        assert len(world.to_scheduler(ReturnVms)) == 1
        world.check_log()


@pytest.mark.parametrize("mode", MODES)
def test_a_cancel_at_any_moment_leaves_nothing_that_a_roll_back_does_not_undo(mode: str) -> None:
    for number in range(1, steps_of(mode)):
        world = SiteWorld(mode).begin()
        while world.count < number and (world.effects or any(world.queues.values())):
            world.deliver_all()
            if not world.effects:
                world.sync()
                continue
            world.act(next(iter(world.effects)))
        if world.events(said.RecoveryFinished):
            return
        world.deliver(said.CancelRecoveryJob(command_id="c", job=JOB))
        world.live()
        assert world.end.state == "cancelled"
        if world.end.awaits_commit:
            assert world.end.note
            world.roll_back()
        check_nothing_left(world)


def test_an_undo_asked_for_twice_is_done_once() -> None:
    world = SiteWorld("migrate")
    world.sync_fails = {"web"}
    world.begin().live()
    check_nothing_left(world)
    before = world.count
    for name in ALL_ON:
        stream = f"vm-source:shop:r1:{name}"
        world.deliver(said_ops.RestoreSource(stream=stream, by=JOB))
    world.live()
    assert world.sites.sources == ALL_ON
    # The undo was over: asked again it looks no different, and the recovery heard of it already.
    assert world.count - before <= len(ALL_ON)
    assert len(world.events(said_ops.MemberRestored)) == len(ALL_ON)


def test_messages_that_come_twice_change_nothing() -> None:
    world = SiteWorld("failover").begin()
    for _ in range(STEPS_MAX):
        queue = next((queue for queue in world.queues.values() if queue), None)
        if queue is not None:
            message = queue.popleft()
            world.deliver(message)
            world.deliver(message)
        elif world.effects:
            world.act(next(iter(world.effects)))
        elif not world.sync():
            if set(world.timers) <= {(JOB, "commit-reminder")}:
                break
            world.fire_next_timer()
    assert (world.end.state, world.end.ready) == ("completed", 3)
    world.check_log()


def test_a_commit_is_final() -> None:
    world = SiteWorld("migrate").begin().live().commit()
    assert world.event(said_ops.CommitFinished).state == "completed"
    assert world.sites.sources == ALL_OFF
    release = world.to_scheduler(ReleaseHolds)[-1]
    assert (release.modes, release.release_checkpoint) == (("own-instance",), True)
    assert not world.timers
    with pytest.raises(Refused) as refused:
        world.roll_back()
    assert refused.value.code == "already-committed"
    with pytest.raises(Refused) as refused:
        world.commit(2)
    assert refused.value.code == "already-committed"


def test_a_commit_that_cannot_list_leaves_the_window_open() -> None:
    number = steps_of("failover") + 1
    world = SiteWorld("failover", fail_at=number).begin().live().commit()
    assert world.event(said_ops.CommitFinished).state == "failed"
    assert not world.events(said_ops.RecoveryCommitted)
    world.commit(2)
    assert world.event(said_ops.RecoveryCommitted).commit == "commit:shop:k2"
