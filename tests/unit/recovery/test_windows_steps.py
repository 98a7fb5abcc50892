"""The steps of a Windows: prepared on a node before it is created, validated when it is ready."""

from __future__ import annotations

from typing import Any

import pytest

from schemas import prep
from schemas import recovery as said
from schemas import recovery_work as work
from schemas.common import OUTPUT_TAIL_BYTES, Problem
from schemas.plans import WindowsPolicy
from services.recovery.domain import vm_recovery
from services.recovery.domain.windows_steps import unhealthy
from shared.testing.spec import T0
from tests.failures import failure_mode
from tests.unit.recovery.world import JOB, World, enrol, script, start, vm

WIN = f"vm-{JOB}:win"
POOL = "prep-pool:west"


def begun(*, boot: bool = True, **fields: Any) -> World:
    world = World()
    world.deliver(enrol(vm("win", **fields)))
    world.deliver(said.LaunchVm(stream=WIN, boot=boot, requested_at=T0))
    return world


def reach(world: World, effect_id: str) -> World:
    """Let everything work out until this effect is asked for."""
    for _ in range(100):
        world.deliver_all()
        if effect_id in world.effects:
            return world
        if world.effects:
            world.settle(next(iter(world.effects)))
    raise AssertionError(f"{effect_id} never comes")


def ended(world: World) -> said.VmFinished:
    world.run()
    finished: said.VmFinished = world.event(said.VmFinished)
    return finished


def asked(world: World) -> list[str]:
    return [effect.rpartition("/")[2] for effect in world.effects]


def members(world: World) -> dict[str, Any]:
    return dict(world.state(POOL).members)


def step(finished: said.VmFinished, name: str) -> Any:
    return next(timing for timing in finished.steps if timing.name == name)


# ── where the steps lie ──────────────────────────────────────────────────────────────────────


def test_a_windows_has_two_steps_more_and_says_so_when_its_copy_is_known() -> None:
    world = begun(post_script=script())
    world.settle(f"{WIN}/hold-copy")
    (held,) = world.events(said.VmStepEnded)
    assert held.steps == (
        *("hold-copy", "rebuild-disks", "prepare-windows", "create-instance", "power-on"),
        *("wait-ready", "validate-windows", "post-script", "release-copy"),
    )
    finished = ended(world)
    assert [timing.name for timing in finished.steps if "windows" in timing.name] == [
        "prepare-windows",
        "validate-windows",
    ]
    assert finished.state == "completed"


def test_a_linux_has_neither_and_needs_no_node() -> None:
    world = World()
    world.deliver(enrol(vm("db")))
    world.deliver(said.LaunchVm(stream=f"vm-{JOB}:db", boot=True, requested_at=T0))
    assert not any("windows" in timing.name for timing in ended(world).steps)
    assert not world.events(prep.PrepMemberJoined)
    assert all(not event.steps for event in world.events(said.VmStepEnded))


def test_validation_may_be_left_out() -> None:
    finished = ended(begun(windows=WindowsPolicy(validate=False)))
    assert [t.name for t in finished.steps if "windows" in t.name] == ["prepare-windows"]


def test_a_recovery_that_an_earlier_build_began_goes_on_without_the_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vm_recovery, "DEFINITION_VERSION", 1)
    finished = ended(begun())
    assert finished.state == "completed"
    assert not any("windows" in timing.name for timing in finished.steps)


# ── prepare ──────────────────────────────────────────────────────────────────────────────────


def test_the_node_is_asked_for_while_disks_are_rebuilt_and_works_once_they_are() -> None:
    world = begun()
    world.settle(f"{WIN}/hold-copy")
    world.deliver_all()
    assert not members(world)[WIN].ready
    reach(world, f"{WIN}/prepare-windows")
    payload = world.effects[f"{WIN}/prepare-windows"].payload
    assert payload.node == "prep1"
    assert [disk.name for disk in payload.disks] == ["sda", "sdb"]
    assert f"{WIN}/create-instance" not in world.effects


def test_what_was_changed_and_found_is_the_steps_output_and_the_seat_is_given_back() -> None:
    world = reach(begun(), f"{WIN}/prepare-windows")
    finding = Problem(code="no-network-driver", message="no netkvm", remedy="install it")
    done = work.WindowsPrepared(
        target="kvm", changes=("viostor: Start 3 → 0",), findings=(finding,)
    )
    world.settle(f"{WIN}/prepare-windows", done)
    output = world.events(said.VmStepEnded)[-1].timing.output
    assert output.splitlines() == [
        "prepared for kvm",
        "viostor: Start 3 → 0",
        "finding no-network-driver: no netkvm (install it)",
    ]
    world.deliver_all()
    assert members(world) == {} and f"{WIN}/create-instance" in world.effects


def test_the_output_of_many_findings_fits_into_the_event() -> None:
    world = reach(begun(), f"{WIN}/prepare-windows")
    findings = tuple(Problem(code="x", message="ü" * 500) for _ in range(20))
    world.settle(f"{WIN}/prepare-windows", work.WindowsPrepared(target="kvm", findings=findings))
    output = world.events(said.VmStepEnded)[-1].timing.output
    assert 2000 < len(output.encode()) <= OUTPUT_TAIL_BYTES


def test_a_refusal_fails_the_vm_with_its_remedy_and_gives_the_seat_back() -> None:
    world = reach(begun(), f"{WIN}/prepare-windows")
    world.settle(f"{WIN}/prepare-windows", code="journal-not-clean", remedy="shut down cleanly")
    finished = ended(world)
    assert (finished.outcome, finished.state) == ("failed", "failed")
    assert finished.problem is not None
    assert (finished.problem.code, finished.problem.remedy) == (
        "journal-not-clean",
        "shut down cleanly",
    )
    assert step(finished, "prepare-windows").remedy == "shut down cleanly"
    assert members(world) == {} and world.state(POOL).nodes["prep1"].power == "off"
    assert not world.events(said.VmPoweredOn)


def test_a_site_that_has_no_node_for_it_fails_the_vm_with_the_pools_reason() -> None:
    world = begun()
    world.settle(f"{WIN}/hold-copy")
    world.deliver_all()
    world.settle(f"{POOL}/look/1", work.PrepNodesFound())
    finished = ended(world)
    assert finished.problem is not None and finished.problem.code == "no-prep-node"
    assert step(finished, "prepare-windows").state == "failed"


def test_a_vm_of_a_later_boot_order_is_prepared_ahead_and_its_node_does_not_wait_for_it() -> None:
    world = reach(begun(boot=False), f"{WIN}/create-instance")
    world.run()
    assert world.state(POOL).nodes["prep1"].power == "off"
    assert not world.events(said.VmPoweredOn)
    world.deliver(said.BootVm(stream=WIN))
    assert ended(world).state == "completed"


def test_a_vm_cancelled_before_its_seat_leaves_the_pool_and_a_late_grant_moves_nothing() -> None:
    world = begun()
    world.settle(f"{WIN}/hold-copy")
    world.deliver_all()
    world.deliver(said.AbandonVm(stream=WIN, reason="cancel"))
    world.deliver(prep.SeatGranted(stream=WIN, node="prep1"))
    world.deliver(prep.SeatRefused(stream=WIN, problem=Problem(code="x", message="m")))
    finished = ended(world)
    assert finished.outcome == "cancelled" and not world.events(prep.VmSeated)
    assert members(world) == {} and world.state(POOL).nodes["prep1"].power == "off"


def test_a_node_that_still_works_on_a_cancelled_vm_stays_on_until_that_has_ended() -> None:
    world = reach(begun(), f"{WIN}/prepare-windows")
    world.deliver(said.AbandonVm(stream=WIN, reason="cancel"))
    world.deliver_all()
    assert set(members(world)) == {WIN}
    assert not [effect for effect in world.effects if effect.startswith(f"{POOL}/off")]
    world.settle(f"{WIN}/prepare-windows", code="cancelled")
    world.deliver_all()
    assert members(world) == {} and f"{POOL}/off/prep1/2" in world.effects


def test_a_grant_told_twice_prepares_once() -> None:
    world = reach(begun(), f"{WIN}/prepare-windows")
    world.deliver(prep.SeatGranted(stream=WIN, node="prep1"))
    assert len(world.events(prep.VmSeated)) == 1


# ── validate ─────────────────────────────────────────────────────────────────────────────────


def test_a_windows_is_validated_once_ready_and_before_its_post_script() -> None:
    world = reach(begun(post_script=script()), f"{WIN}/validate-windows")
    payload = world.effects[f"{WIN}/validate-windows"].payload
    assert (payload.instance_id, payload.disks) == ("i-win", 2)
    assert not [effect for effect in world.effects if "post-script" in effect]
    world.settle(f"{WIN}/validate-windows")
    assert f"{WIN}/post-script" in world.effects


def test_no_node_is_on_for_a_validation() -> None:
    world = reach(begun(), f"{WIN}/validate-windows")
    assert members(world) == {}


def test_a_windows_that_is_not_well_is_recovered_but_degraded() -> None:
    world = reach(begun(post_script=script()), f"{WIN}/validate-windows")
    world.settle(f"{WIN}/validate-windows", code="disks-offline", remedy="bring them online")
    finished = ended(world)
    assert (finished.outcome, finished.state) == ("ready", "partially-completed")
    assert finished.problem is not None and finished.problem.code == "disks-offline"
    assert step(finished, "validate-windows").state == "failed"
    assert step(finished, "post-script").state == "completed"


def test_a_cancelled_validation_leaves_a_cancelled_vm_that_nothing_is_wrong_with() -> None:
    world = reach(begun(), f"{WIN}/validate-windows")
    world.deliver(said.AbandonVm(stream=WIN, reason="cancel"))
    assert f"{WIN}/validate-windows" in world.asked_to_stop
    finished = ended(world)
    assert (finished.outcome, finished.problem) == ("cancelled", None)


def test_the_whole_recovery_is_partially_completed_by_a_validation_that_failed() -> None:
    world = World()
    for each in (vm("win"), vm("db")):
        world.deliver(enrol(each))
    world.deliver(start(vm("win"), vm("db")))
    reach(world, f"{WIN}/validate-windows")
    world.settle(f"{WIN}/validate-windows", code="network-down")
    world.run()
    assert world.event(said.RecoveryFinished).state == "partially-completed"


@pytest.mark.parametrize(
    ("health", "code"),
    [
        ({}, None),
        ({"stopped": ("W32Time",)}, "services-not-running"),
        ({"disks_online": 1}, "disks-offline"),
        ({"network_up": False}, "network-down"),
        ({"network_up": False, "disks_online": 1, "stopped": ("x",)}, "disks-offline"),
    ],
)
def test_what_a_windows_says_of_itself_is_judged(health: dict[str, Any], code: Any) -> None:
    facts: dict[str, Any] = {"stopped": (), "disks_online": 2, "disks": 2, "network_up": True}
    found = unhealthy(**{**facts, **health})
    assert (found.code if found else None) == code
    assert found is None or found.remedy


@failure_mode(
    "Prep node",
    "slow",
    sees="`prepare-windows` *waiting* in the jobs of Windows VMs, the node *starting* in "
    "`seawall node list`; other VMs of the boot order go on, later boot orders wait",
    does="nothing, or look at the node's console; a node that takes over 10 min is powered off "
    "and tried again",
)
def test_linux_and_windows_of_one_recovery_do_not_wait_for_each_other() -> None:
    world = World()
    for each in (vm("win"), vm("db")):
        world.deliver(enrol(each))
    world.deliver(start(vm("win"), vm("db")))
    db = f"vm-{JOB}:db"
    for _ in range(50):
        world.deliver_all()
        free = [e for e in world.effects if not e.startswith(POOL)]
        if f"{db}/power-on" in world.effects or not free:
            break
        world.settle(free[0])
    assert f"{db}/power-on" in world.effects
    assert asked(world).count("prepare-windows") == 0
    world.run()
    assert {event.outcome for event in world.events(said.VmFinished)} == {"ready"}
