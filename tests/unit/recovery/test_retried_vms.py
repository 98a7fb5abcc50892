"""Retried VMs among the others: in boot order, and not over before all that is done again is."""

from __future__ import annotations

import datetime as dt

import pytest

from schemas import recovery as said
from schemas import recovery_steering as steer
from tests.unit.recovery.test_asking import answered
from tests.unit.recovery.test_pausing import go_to
from tests.unit.recovery.test_recovery import stream
from tests.unit.recovery.test_retrying import DB, FAILED, counting, ends, retried
from tests.unit.recovery.world import JOB, World, header, script, vm


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("part", ["create-instance", "power-on"])
def test_of_two_boot_orders_that_are_retried_the_higher_waits_for_the_lower(
    part: str, ahead: bool
) -> None:
    vms = vm("db", boot_delay_s=60), vm("app", 2), vm("web", 3)
    world = counting(*vms, header=header(build_ahead=ahead))
    for name in ("db", "app"):
        _until(world, f"{stream(name)}/{part}", but=part)
        world.settle(f"{stream(name)}/{part}", code="x")
    first = ends(world)[-1]
    assert (first.ready, first.failed) == (1, 2)
    opened = len(world.events(said.BootOrderOpened))
    retried(world)
    _until(world, "", but=f"{DB}/{part}")
    assert [effect.startswith(f"{DB}/{part}") for effect in world.effects] == [True]
    assert len(world.events(said.BootOrderOpened)) == opened
    end = ends(world)[-1]
    assert (end.state, end.ready) == ("completed", 3)
    (again,) = world.events(said.BootOrderOpened)[opened:]
    on = world.state(JOB).members
    assert again.boot_order == 2
    assert on["app"].powered_on_at - on["db"].powered_on_at >= dt.timedelta(seconds=60)


def test_a_boot_order_of_vms_that_are_given_up_is_not_said_to_open() -> None:
    world = counting(vm("db"), vm("app", 2))
    for name in ("db", "app"):
        _until(world, f"{stream(name)}/create-instance", but="create-instance")
        world.settle(f"{stream(name)}/create-instance", code="x")
    ends(world)
    opened = len(world.events(said.BootOrderOpened))
    retried(world)
    assert [part.rpartition("/")[2] for part in world.effects] == ["create-instance"] * 2
    world.deliver(said.CancelRecoveryJob(command_id="c", job=JOB))
    end = ends(world)[-1]
    assert (end.state, end.ready) == ("cancelled", 0)
    assert len(world.events(said.BootOrderOpened)) == opened


def _until(world: World, wanted: str, *, but: str) -> None:
    """Let all go well but effects with a part, until one is under way; "": until nothing is."""
    for _ in range(100):
        world.deliver_all()
        rest = [effect for effect in world.effects if but not in effect]
        if wanted in world.effects or not (wanted or rest):
            return
        assert rest or world.fire_next_timer(), f"{wanted} never comes"
        if rest:
            world.settle(rest[0])
    raise AssertionError(wanted)


@pytest.mark.parametrize(
    ("choice", "state"), [("done", "completed"), ("failed", "partially-completed")]
)
def test_a_pre_script_that_is_retried_for_a_vm_that_is_up_is_waited_for(
    choice: str, state: str
) -> None:
    """Its end is not known, and a person is asked: the VM has not ended before the answer."""
    world = counting(vm("db", pre_script=script(on_unknown="prompt", on_failure="continue")))
    world.settle(go_to(world, "pre-script"), FAILED)
    assert ends(world)[-1].state == "partially-completed"
    retried(world, DB)
    world.settle(f"{DB}/pre-script/2", code="unknown", unknown=True)
    world.deliver_all()
    assert len(world.events(steer.VmAsked)) == 1 and len(world.events(said.VmFinished)) == 1
    answered(world, choice, job=DB, step="pre-script")
    end = ends(world)[-1]
    assert (end.state, end.ready, len(world.events(said.VmFinished))) == (state, 1, 2)
