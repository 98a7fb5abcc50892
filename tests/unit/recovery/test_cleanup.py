"""Cleanup: when it is allowed, what it removes in which order, and what it takes as proof."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from schemas import recovery as said
from schemas import recovery_work as work
from schemas.scheduler import ReleaseHolds
from shared.errors import Refused
from tests.failures import failure_mode
from tests.unit.recovery.world import JOB, World, enrol, header, start, vm

CLEANUP = "cleanup:shop:k1"
INSTANCE, DISK, HELD = ("instance", "i1", "db"), ("disk", "d1", "db"), ("generation", "h1", "db")


def recovered(**policy: Any) -> World:
    world = World()
    world.deliver(enrol(vm("db"), header=header(**policy)))
    world.deliver(start(vm("db"), header=header(**policy)))
    for _ in range(200):
        world.deliver_all()
        if world.events(said.RecoveryFinished):
            return world
        if world.effects:
            world.settle(next(iter(world.effects)))
    raise AssertionError("the recovery does not end")


def clean(world: World, job: str = CLEANUP) -> World:
    world.deliver(said.StartCleanup(command_id="c", job=job, recovery=JOB))
    return world


def listed(world: World, *objects: tuple[str, str, str], total: int = 0) -> None:
    (effect,) = (e for e in world.effects if "/list/" in e)
    world.settle(effect, work.OwnedListed(objects=objects, total=total or len(objects)))


def under_way(world: World) -> list[str]:
    return sorted(effect.partition("/")[2] for effect in world.effects)


def test_instances_are_powered_off_and_deleted_before_the_disks_they_use() -> None:
    world = clean(recovered())
    listed(world, INSTANCE, DISK, HELD)
    assert under_way(world) == ["delete/generation/h1", "power-off/instance/i1"]
    world.settle(f"{CLEANUP}/power-off/instance/i1")
    assert under_way(world) == ["delete/generation/h1", "delete/instance/i1"]
    world.settle(f"{CLEANUP}/delete/instance/i1")
    assert under_way(world) == ["delete/disk/d1", "delete/generation/h1"]


def test_a_cleanup_completes_when_a_later_listing_shows_nothing() -> None:
    world = clean(recovered())
    listed(world, INSTANCE, DISK)
    for part in ("power-off/instance/i1", "delete/instance/i1", "delete/disk/d1"):
        world.settle(f"{CLEANUP}/{part}")
    assert under_way(world) == ["list/2"]
    world.run()
    end = world.event(said.CleanupFinished)
    assert (end.state, end.removed, end.remaining) == ("completed", 2, ())
    assert [step.name for step in end.steps] == [
        "list",
        "power-off",
        "delete-instances",
        "delete-disks",
        "verify",
    ]
    assert world.event(said.RecoveryCleaned).cleanup == CLEANUP
    release = world.to_scheduler(ReleaseHolds)[-1]
    assert (release.modes, release.release_checkpoint) == (("own-instance",), True)


def test_nothing_found_is_a_completed_cleanup() -> None:
    world = clean(recovered())
    world.run()
    assert world.event(said.CleanupFinished).state == "completed"


def test_what_cannot_be_deleted_stays_listed_and_the_cleanup_may_be_repeated() -> None:
    world = clean(recovered())
    listed(world, DISK)
    world.settle(f"{CLEANUP}/delete/disk/d1", code="busy")
    listed(world, DISK)
    world.run()
    end = world.event(said.CleanupFinished)
    assert (end.state, end.remaining) == ("partially-completed", (DISK,))
    assert end.problem.code == "busy"
    assert world.event(said.RecoveryCleanupIncomplete).remaining == 1
    clean(world, "cleanup:shop:k2").run()
    assert world.events(said.CleanupFinished)[-1].state == "completed"


@failure_mode(
    "Recovery site",
    "lying",
    sees=(
        "A deletion was answered and the object is still listed: the cleanup does not "
        "complete and names it."
    ),
    does=("Look at the object on the platform, remove what holds it, repeat `seawall cleanup`."),
)
def test_a_deletion_that_was_answered_but_is_still_listed_is_no_success() -> None:
    world = clean(recovered())
    listed(world, DISK)
    world.settle(f"{CLEANUP}/delete/disk/d1")
    listed(world, DISK)
    world.run()
    end = world.event(said.CleanupFinished)
    assert (end.state, end.problem.code) == ("partially-completed", "left-over")


def test_objects_past_one_listing_are_removed_by_the_next() -> None:
    world = clean(recovered())
    listed(world, DISK, total=2)
    world.settle(f"{CLEANUP}/delete/disk/d1")
    listed(world, ("disk", "d2", "db"))
    world.settle(f"{CLEANUP}/delete/disk/d2")
    world.run()
    assert world.event(said.CleanupFinished).removed == 2


@pytest.mark.parametrize("listing", [1, 2])
def test_a_platform_that_cannot_be_listed_is_never_a_success(listing: int) -> None:
    world = clean(recovered())
    if listing == 2:
        listed(world, DISK)
        world.settle(f"{CLEANUP}/delete/disk/d1")
    world.settle(f"{CLEANUP}/list/{listing}", code="unreachable")
    world.run()
    expected = "failed" if listing == 1 else "partially-completed"
    assert world.event(said.CleanupFinished).state == expected
    assert world.event(said.RecoveryCleanupIncomplete).remaining == 1


def test_a_cancel_stops_removing_and_says_what_is_left() -> None:
    world = clean(recovered())
    listed(world, INSTANCE, DISK)
    world.deliver(said.CancelRecoveryJob(command_id="c", job=CLEANUP))
    assert f"{CLEANUP}/power-off/instance/i1" in world.asked_to_stop
    world.run()
    end = world.event(said.CleanupFinished)
    assert (end.state, end.remaining) == ("cancelled", (INSTANCE, DISK))


def test_a_cleanup_is_refused_while_the_recovery_runs_or_another_cleanup_does() -> None:
    world = World()
    with pytest.raises(Refused) as refused:
        clean(world)
    assert refused.value.code == "unknown-job"
    world.deliver(start(vm("db")))
    with pytest.raises(Refused) as refused:
        clean(world)
    assert refused.value.code == "still-running"
    world = clean(recovered())
    with pytest.raises(Refused) as refused:
        clean(world, "cleanup:shop:k2")
    assert refused.value.code == "being-cleaned"


def test_a_cleaned_recovery_and_one_that_made_nothing_are_refused() -> None:
    world = clean(recovered())
    world.run()
    with pytest.raises(Refused) as refused:
        clean(world, "cleanup:shop:k2")
    assert refused.value.code == "already-cleaned"
    world = World()
    world.deliver(enrol(vm("db")))
    world.deliver(start(vm("db"), dry_run=True))
    world.run()
    with pytest.raises(Refused) as refused:
        clean(world)
    assert refused.value.code == "nothing-to-clean"


def test_a_command_that_names_no_recovery_is_refused() -> None:
    world = World()
    with pytest.raises(Refused):
        world.deliver(
            said.StartCleanup(command_id="c", job=CLEANUP, recovery="iteration:shop:db:1")
        )


def test_the_plan_may_clean_up_by_itself_after_a_while() -> None:
    world = recovered(auto_cleanup_after_s=3600.0)
    ended = world.now
    world.run()
    assert world.event(said.CleanupFinished).state == "completed"
    (started,) = (at for _, e, at in world.log if isinstance(e, said.CleanupStarted))
    assert started >= ended + dt.timedelta(seconds=3600)


def test_a_cleanup_by_hand_calls_the_automatic_one_off() -> None:
    world = clean(recovered(auto_cleanup_after_s=3600.0))
    world.run()
    assert len(world.events(said.CleanupStarted)) == 1
    assert not world.timers


def test_a_removal_that_keeps_failing_is_told_once_and_goes_on() -> None:
    world = clean(recovered())
    world.trouble(f"{CLEANUP}/list/1")
    listed(world, INSTANCE)
    world.trouble(f"{CLEANUP}/power-off/instance/i1")
    told = world.event(said.CleanupTroubled)
    assert (told.plan, told.recovery, told.kind, told.attempts) == ("shop", JOB, "listing", 3)
    assert (told.problem.code, told.problem.remedy) == ("away", "mend it")
    world.run()
    assert world.event(said.CleanupFinished).state == "completed"


def test_the_object_that_cannot_be_removed_is_named() -> None:
    world = clean(recovered())
    listed(world, INSTANCE)
    world.trouble(f"{CLEANUP}/power-off/instance/i1")
    told = world.event(said.CleanupTroubled)
    assert (told.kind, told.object_id) == ("instance", "i1")
    assert "power-off instance i1" in told.problem.message
