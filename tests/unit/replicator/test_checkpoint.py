"""PIT checkpoints: made per VM, undone when cancelled, deleted and verified."""

from __future__ import annotations

from typing import Any

import pytest

from schemas import registry
from schemas import replicator as said
from schemas.directions import ALL
from schemas.scheduler import CheckpointEnded
from shared.decider import WorkClass
from shared.errors import Refused
from shared.fold import EVENT_BYTES_MAX
from shared.testing.spec import T0
from tests.unit.replicator.world import World, header

JOB = "checkpoint:shop:20261122T200000Z"
VMS = ("db", "app")


def begun(vms: tuple[str, ...] = VMS, *, reverse: tuple[str, ...] = ()) -> World:
    world = World()
    world.deliver(
        said.MakeCheckpoint(
            checkpoint=JOB,
            plan="shop",
            plan_version=3,
            header=header(),
            vms=vms,
            requested_at=T0,
            reverse=reverse,
        )
    )
    return world


def told(world: World) -> CheckpointEnded:
    (only,) = world.told(CheckpointEnded)
    assert isinstance(only, CheckpointEnded)
    return only


def test_every_vm_has_a_copy_of_its_own_under_the_checkpoints_id() -> None:
    world = begun()
    assert world.parts() == ["create/db", "create/app"]
    world.run()
    assert world.checkpoints == {("db", "20261122T200000Z"), ("app", "20261122T200000Z")}
    assert told(world).state == "available"
    assert told(world).vms == VMS
    assert told(world).created_at == T0


def test_checkpoint_work_is_of_its_class_and_carries_the_plans_recovery() -> None:
    effect = next(iter(begun().effects.values()))
    assert effect.work_class is WorkClass.CHECKPOINT
    assert effect.payload.manifest["plan_version"] == 3
    assert effect.payload.manifest["checkpoint"] == JOB
    assert "recovery" in effect.payload.manifest


def test_a_vm_that_fails_leaves_a_partial_checkpoint_of_the_others() -> None:
    world = begun()
    world.settle(f"{JOB}/create/db", code="no-copy")
    world.run()
    assert world.event(said.CheckpointFinished).state == "partially-completed"
    assert told(world).state == "available"
    assert told(world).vms == ("app",)
    problem = told(world).problem
    assert problem is not None
    assert problem.code == "no-copy"


def test_a_checkpoint_without_any_copy_is_failed() -> None:
    world = begun()
    for vm in VMS:
        world.settle(f"{JOB}/create/{vm}", code="target-full")
    assert told(world).state == "failed"
    assert world.event(said.CheckpointFinished).state == "failed"


def test_a_checkpoint_of_nothing_is_failed_at_once() -> None:
    assert told(begun(())).state == "failed"


def test_a_cancelled_checkpoint_leaves_no_copy() -> None:
    world = begun()
    world.settle(f"{JOB}/create/db")
    world.deliver(said.CancelJob(command_id="c", job=JOB))
    world.settle(f"{JOB}/create/app", code="cancelled", done=True)
    world.settle(f"{JOB}/undo/db", code="bug")
    world.run()
    assert not world.checkpoints
    assert world.event(said.CheckpointFinished).state == "cancelled"
    assert told(world).state == "failed"


def test_a_deletion_is_verified_before_it_is_told() -> None:
    world = begun()
    world.run()
    world.deliver(said.DeleteCheckpoint(checkpoint=JOB, plan="shop"))
    world.settle(f"{JOB}/delete/app")
    world.settle(f"{JOB}/delete/db")
    assert not world.checkpoints
    assert len(world.told(CheckpointEnded)) == 1
    assert world.parts() == ["verify-deleted"]
    world.run()
    assert [news.state for news in world.told(CheckpointEnded)] == ["available", "deleted"]
    assert world.event(said.CheckpointDeleted)


def sites(world: World) -> dict[str, str]:
    return {effect.part: effect.payload.target.site for effect in world.effects.values()}


def test_copies_of_vms_in_reverse_are_at_the_site_that_they_came_from() -> None:
    world = begun(reverse=("app",))
    assert sites(world) == {"create/db": "west", "create/app": "east"}
    world.run()
    world.deliver(said.DeleteCheckpoint(checkpoint=JOB, plan="shop"))
    assert sites(world) == {"delete/db": "west", "delete/app": "east"}
    world.settle(f"{JOB}/delete/db")
    world.settle(f"{JOB}/delete/app")
    assert sites(world) == {"verify-deleted": "west"}
    world.settle(f"{JOB}/verify-deleted")
    # Both sites are looked at before it is told.
    assert sites(world) == {"verify-deleted/away": "east"}
    assert len(world.told(CheckpointEnded)) == 1
    world.run()
    assert [news.state for news in world.told(CheckpointEnded)] == ["available", "deleted"]


def test_a_checkpoint_of_a_reversed_plan_is_looked_for_at_one_site() -> None:
    world = begun(reverse=ALL)
    assert set(sites(world).values()) == {"east"}
    world.run()
    world.deliver(said.DeleteCheckpoint(checkpoint=JOB, plan="shop"))
    for vm in VMS:
        world.settle(f"{JOB}/delete/{vm}")
    assert sites(world) == {"verify-deleted": "east"}
    world.settle(f"{JOB}/verify-deleted")
    assert [news.state for news in world.told(CheckpointEnded)] == ["available", "deleted"]


@pytest.mark.parametrize("part", ["delete/db", "verify-deleted"])
def test_a_deletion_is_repeated_until_it_is_true(part: str) -> None:
    world = begun()
    world.run()
    world.deliver(said.DeleteCheckpoint(checkpoint=JOB, plan="shop"))
    while f"{JOB}/{part}" not in world.effects:
        world.settle(next(iter(world.effects)))
    world.settle(f"{JOB}/{part}", code="bug")
    again = world.effects[f"{JOB}/{part}"]
    assert again.not_before is not None
    assert again.not_before > world.now
    world.run()
    assert world.event(said.CheckpointDeleted)


def test_repeated_messages_change_nothing() -> None:
    world = begun()
    make: Any = world.log[0][1]
    world.deliver(
        said.MakeCheckpoint(
            checkpoint=JOB,
            plan="shop",
            plan_version=3,
            header=make.header,
            vms=VMS,
            requested_at=T0,
        )
    )
    world.deliver(said.DeleteCheckpoint(checkpoint=JOB, plan="shop"))
    assert len(world.log) == 1
    ended = world.settle(f"{JOB}/create/db")
    world.ended(JOB, ended)
    assert len(world.events(said.VmCheckpointed)) == 1
    world.run()
    world.deliver(said.DeleteCheckpoint(checkpoint=JOB, plan="shop"))
    world.deliver(said.DeleteCheckpoint(checkpoint=JOB, plan="shop"))
    assert len(world.events(said.CheckpointDeletionStarted)) == 1


def test_a_deletion_is_not_cancelled() -> None:
    world = begun()
    world.run()
    with pytest.raises(Refused) as over:
        world.deliver(said.CancelJob(command_id="c", job=JOB))
    assert over.value.code == "job-ended"
    world.deliver(said.DeleteCheckpoint(checkpoint=JOB, plan="shop"))
    with pytest.raises(Refused) as refused:
        world.deliver(said.CancelJob(command_id="c", job=JOB))
    assert refused.value.code == "not-cancellable"


def test_a_checkpoint_of_two_thousand_vms_fits_into_its_events() -> None:
    world = begun(tuple(f"a-vm-with-a-name-{n:04}" for n in range(2_000)))
    for effect_id in list(world.effects)[:1_999]:
        vm = effect_id.rpartition("/")[2]
        world.states[JOB].made[vm] = True
        del world.effects[effect_id]
    world.run()
    for _, event in world.log:
        assert len(registry.encode(event)[2]) < EVENT_BYTES_MAX
    assert len(registry.encode(told(world))[2]) < EVENT_BYTES_MAX


# ── Removals that fail and fail ──────────────────────────────────────────────────────────────


def made() -> World:
    world = begun()
    world.run()
    world.deliver(said.DeleteCheckpoint(plan="shop", checkpoint=JOB))
    return world


def test_a_deletion_that_keeps_failing_is_told_once_and_goes_on() -> None:
    world = made()
    world.trouble(f"{JOB}/delete/db")
    world.trouble(f"{JOB}/delete/app")
    told_of = world.event(said.CheckpointRemovalTroubled)
    assert (told_of.plan, told_of.vm, told_of.attempts) == ("shop", "db", 3)
    assert told_of.problem.code == "away" and told_of.problem.remedy == "mend it"
    world.run()
    assert world.events(said.CheckpointDeleted)


def test_a_proof_that_keeps_failing_is_told_as_well() -> None:
    world = made()
    for vm in VMS:
        world.settle(f"{JOB}/delete/{vm}")
    world.trouble(f"{JOB}/verify-deleted")
    assert world.event(said.CheckpointRemovalTroubled).vm == ""


def test_what_a_cancelled_checkpoint_cannot_remove_is_told_and_so_is_its_later_deletion() -> None:
    world = begun()
    world.deliver(said.CancelJob(command_id="c", job=JOB))
    for vm in VMS:
        world.settle(f"{JOB}/create/{vm}")
    world.trouble(f"{JOB}/undo/db")
    world.run()
    world.deliver(said.DeleteCheckpoint(plan="shop", checkpoint=JOB))
    world.trouble(f"{JOB}/delete/db")
    assert len(world.events(said.CheckpointRemovalTroubled)) == 2
