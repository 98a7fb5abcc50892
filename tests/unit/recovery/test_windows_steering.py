"""Steering a Windows: paused with its seat, prepared and validated again, gone on without."""

from __future__ import annotations

from typing import Any

import pytest

from schemas import recovery as said
from schemas import recovery_steering as steer
from schemas import recovery_work as work
from schemas.plans import ManualStep
from shared.errors import Refused
from shared.testing.spec import T0
from tests.unit.recovery.test_retrying import ends, retried
from tests.unit.recovery.test_windows_steps import POOL, WIN, members, reach, step
from tests.unit.recovery.world import World, enrol, start, vm


def recovering(**fields: Any) -> World:
    world = World()
    for each in (vm("win", **fields), vm("db")):
        world.deliver(enrol(each))
    world.deliver(start(vm("win"), vm("db")))
    return world


def ended_at(part: str, code: str) -> World:
    """A recovery that has ended because this part of the Windows failed."""
    world = reach(recovering(), f"{WIN}/{part}")
    world.settle(f"{WIN}/{part}", code=code, remedy="mend")
    world.run()
    return world


def last_of_windows(world: World) -> said.VmFinished:
    return [event for s, event, _ in world.log if s == WIN and isinstance(event, said.VmFinished)][
        -1
    ]


def test_a_refused_preparation_is_done_again_on_the_same_disks_and_with_a_node_again() -> None:
    world = ended_at("prepare-windows", "windows-reader-failed")
    assert members(world) == {}
    world.asked_to_stop.clear()
    retried(world)
    reach(world, f"{WIN}/prepare-windows")
    assert set(members(world)) == {WIN}
    assert ends(world)[-1].state == "completed"
    assert step(last_of_windows(world), "prepare-windows").state == "completed"
    assert world.state(POOL).nodes["prep1"].power == "off" and members(world) == {}


def test_disks_of_another_copy_are_prepared_anew_under_another_token() -> None:
    world = reach(recovering(), f"{WIN}/rebuild/sdb")
    world.settle(f"{WIN}/rebuild/sdb", code="x")
    world.run()
    retried(world)
    again = reach(world, f"{WIN}/hold-copy/2")
    disks = tuple(work.CopyDisk(name=name, size=1) for name in ("sda", "sdb"))
    other = work.CopyHeld(copy_id="other", taken_at=T0, disks=disks, os="windows")
    again.settle(f"{WIN}/hold-copy/2", other)
    # The platform would answer the first token with what it did to the first disks.
    assert f"{WIN}/prepare-windows/2" in reach(again, f"{WIN}/prepare-windows/2").effects
    assert ends(again)[-1].state == "completed"


def test_a_failed_validation_is_asked_again_and_heals_the_recovery() -> None:
    world = ended_at("validate-windows", "services-not-running")
    assert world.event(said.RecoveryFinished).state == "partially-completed"
    retried(world)
    assert f"{WIN}/validate-windows" in world.effects
    assert ends(world)[-1].state == "completed"
    assert not last_of_windows(world).problem


@pytest.mark.parametrize(
    ("part", "code", "refused"),
    [
        ("validate-windows", "services-not-running", "gone-on"),
        ("prepare-windows", "journal-not-clean", "not-skippable"),
    ],
)
def test_neither_step_is_skipped(part: str, code: str, refused: str) -> None:
    world = ended_at(part, code)
    with pytest.raises(Refused) as caught:
        world.steer(steer.SkipStep, WIN, step=part)
    assert caught.value.code == refused


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_paused_windows_keeps_its_place_and_starts_nothing(moment: str) -> None:
    world = reach(recovering(), f"{POOL}/on/prep1/1")
    while rest := [e for e in world.effects if e.startswith(f"{WIN}/")]:
        world.settle(rest[0])
        world.deliver_all()
    if moment == "after":
        world.deliver(steer.PauseVm(stream=WIN))
        world.settle(f"{POOL}/on/prep1/1")
    else:
        world.settle(f"{POOL}/on/prep1/1")
        world.deliver(steer.PauseVm(stream=WIN))
    world.deliver_all()
    assert set(members(world)) == {WIN}
    assert f"{WIN}/prepare-windows" not in world.effects
    world.deliver(steer.ResumeVm(stream=WIN))
    assert f"{WIN}/prepare-windows" in world.effects
    world.run()
    assert members(world) == {}


def test_a_manual_step_after_boot_is_asked_for_once_the_windows_was_validated() -> None:
    by_hand = ManualStep(name="look", at="after-boot", text="look at it", operations=("test",))
    world = reach(recovering(manual_steps=(by_hand,)), f"{WIN}/validate-windows")
    assert world.state(WIN).question is None
    world.settle(f"{WIN}/validate-windows")
    assert world.state(WIN).question is not None
