"""Windows VMs recovered on a real lab site, from an NTFS image: drivers, prep nodes, guests."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from schemas import prep
from schemas import recovery as said
from services.recovery.domain.vm_state import vm_stream
from shared.platforms.ports import Call
from shared.windows import FileDisk, inspect
from tests.integration.recovery.lab import Lab
from tests.integration.recovery.service import Running
from tests.integration.recovery.test_effects import begin, go_to
from tests.unit.recovery.test_cleanup import clean
from tests.unit.recovery.world import JOB, vm
from tests.windows.guests import data_volume, usual_volume
from tests.windows.images import gpt_disk, require_ntfs

POOL = "prep-pool:west"
ONE_NODE = "prep_nodes: [{name: prep1, seats: 25}]"
PREP_CALLS = ("list_prep_nodes", "power_on_node", "prepare_windows", "power_off_node")


@pytest.fixture(scope="module")
def windows_disk(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A disk with a Windows whose viostor is installed and starts on demand."""
    require_ntfs()
    path = tmp_path_factory.mktemp("windows") / "disk"
    gpt_disk(path, [usual_volume()])
    return path.read_bytes()


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    os.chmod(tmp_path, 0o755)
    built = Lab(tmp_path)
    built.declare(ONE_NODE)
    yield built
    await built.platform.close()


def calls(lab: Lab, *names: str) -> list[tuple[str, str]]:
    """(call, outcome) of the platform's journal, in order, of these calls."""
    return [(line["call"], line["outcome"]) for line in lab.journal() if line["call"] in names]


async def power_of(lab: Lab, node: str = "prep1") -> str:
    nodes = (await lab.platform.prep.list_nodes()).nodes
    return next(found.power for found in nodes if found.name == node)


def start_of(path: Path, driver: str) -> list[int]:
    with FileDisk(path) as disk:
        found = inspect([disk]).systems[0].driver(driver)
    assert found is not None
    return [value.value for value in found.values]


def end_of(lab: Lab, name: str) -> said.VmFinished:
    stream = vm_stream(JOB, name)
    (end,) = [e for s, e, _ in lab.world.log if s == stream and isinstance(e, said.VmFinished)]
    return end


def step_of(end: said.VmFinished, name: str) -> Any:
    return next(step for step in end.steps if step.name == name)


# ── the whole way ────────────────────────────────────────────────────────────────────────────


async def test_a_recovered_windows_starts_its_driver_at_boot_and_the_node_is_off_again(
    lab: Lab, windows_disk: bytes
) -> None:
    await lab.add_copy("win", os="windows", content=windows_disk)
    await lab.add_copy("db")
    begin(lab, vm("win"), vm("db"))
    await lab.run()
    recovered = lab.world.event(said.RecoveryFinished)
    assert (recovered.state, recovered.ready) == ("completed", 2), recovered
    (made,) = [i for i in await lab.platform.compute.list_instances() if i.vm == "win"]
    folder = lab.home / "west" / "instances" / made.instance_id
    assert start_of(folder / "sda.raw", "viostor") == [0]
    assert calls(lab, *PREP_CALLS, "validate_windows") == [
        ("list_prep_nodes", "ok"),  # preflight
        ("list_prep_nodes", "ok"),
        ("power_on_node", "ok"),
        ("prepare_windows", "ok"),
        ("power_off_node", "ok"),
        ("validate_windows", "ok"),
    ]
    assert await power_of(lab) == "off"
    end = end_of(lab, "win")
    assert step_of(end, "prepare-windows").output.splitlines() == [
        "prepared for lab",
        "viostor: Start 3 → 0",
    ]
    assert step_of(end, "validate-windows").state == "completed"
    assert not [step for step in end_of(lab, "db").steps if "windows" in step.name]


async def test_the_copy_itself_is_not_changed_by_the_preparation(
    lab: Lab, windows_disk: bytes
) -> None:
    await lab.add_copy("win", os="windows", content=windows_disk)
    begin(lab, vm("win"))
    await lab.run()
    clean(lab.world)
    await lab.run()
    copy = await lab.platform.target.current(plan="shop", vm="win")
    assert copy is not None
    call = Call(key="again", plan="shop", vm="win", job="job-x")
    disk = await lab.platform.compute.rebuild_disk(call, copy_id=copy.copy_id, disk="sda")
    rebuilt = lab.home / "west" / "disks" / disk.disk_id / disk.file
    assert rebuilt.read_bytes() == windows_disk


# ── repeats and ends in the middle ───────────────────────────────────────────────────────────


async def test_every_step_of_a_windows_may_be_repeated_and_happens_once(
    lab: Lab, windows_disk: bytes
) -> None:
    await lab.add_copy("win", os="windows", content=windows_disk)
    begin(lab, vm("win"))
    seen: set[str] = set()
    while lab.world.effects or any(lab.world.queues.values()) or lab.world.timers:
        for effect_id in list(lab.world.effects):
            if effect_id not in seen and "poll" not in effect_id:
                seen.add(effect_id)
                first = await lab.do(effect_id)
                assert await lab.do(effect_id) == first
        if not await lab.step():
            break
    done = Counter(call for call, outcome in calls(lab, *PREP_CALLS) if outcome == "ok")
    assert (done["power_on_node"], done["prepare_windows"], done["power_off_node"]) == (1, 1, 1)
    assert lab.world.event(said.RecoveryFinished).state == "completed"


@pytest.mark.parametrize("part", ["rebuild/sda", "on/prep1/1", "prepare-windows"])
async def test_a_recovery_cancelled_in_the_middle_leaves_the_node_off(
    lab: Lab, windows_disk: bytes, part: str
) -> None:
    await lab.add_copy("win", os="windows", content=windows_disk)
    begin(lab, vm("win"))
    effect_id = await go_to(lab, part)
    # It did its work, and nobody heard of it: the worst moment for a cancel.
    await lab.do(effect_id)
    lab.world.deliver(said.CancelRecoveryJob(command_id="c", job=JOB))
    await lab.run()
    assert lab.world.event(said.RecoveryFinished).state == "cancelled"
    assert await power_of(lab) == "off"
    assert lab.world.state(POOL).members == {}


async def test_a_windows_that_must_not_be_written_fails_with_the_reason_and_the_node_goes_off(
    lab: Lab, tmp_path: Path, windows_disk: bytes
) -> None:
    gpt_disk(tmp_path / "other", [data_volume()])
    await lab.add_copy("win", os="windows", content=windows_disk)
    await lab.add_copy("data", os="windows", content=(tmp_path / "other").read_bytes())
    begin(lab, vm("win"), vm("data"))
    await lab.run()
    end = end_of(lab, "data")
    assert end.outcome == "failed" and end.problem is not None
    assert end.problem.code == "no-windows" and end.problem.remedy
    assert step_of(end, "prepare-windows").error
    assert end_of(lab, "win").outcome == "ready"
    assert lab.world.event(said.RecoveryFinished).state == "partially-completed"
    assert await power_of(lab) == "off"


# ── validation ───────────────────────────────────────────────────────────────────────────────


async def test_a_windows_that_is_not_well_is_ready_and_degraded(
    lab: Lab, windows_disk: bytes
) -> None:
    await lab.add_copy("win", os="windows", content=windows_disk, agent={"stopped": ["W32Time"]})
    begin(lab, vm("win"))
    await lab.run()
    end = end_of(lab, "win")
    assert (end.outcome, end.state) == ("ready", "partially-completed")
    assert end.problem is not None and end.problem.code == "services-not-running"


# ── preflight and dry run ────────────────────────────────────────────────────────────────────


async def test_preflight_says_that_there_is_no_node_before_anything_is_touched(
    lab: Lab, windows_disk: bytes
) -> None:
    lab.declare("")
    await lab.add_copy("win", os="windows", content=windows_disk)
    begin(lab, vm("win"))
    await lab.run()
    (problem,) = lab.world.event(said.PreflightFinished).problems
    assert problem.code == "no-prep-node" and problem.remedy
    assert not calls(lab, "hold", "rebuild_disk", "power_on_node")


async def test_preflight_says_that_every_node_is_drained(lab: Lab, windows_disk: bytes) -> None:
    await lab.add_copy("win", os="windows", content=windows_disk)
    lab.world.deliver(prep.DrainNode(command_id="c", site="west", node="prep1"))
    begin(lab, vm("win"))
    await lab.run()
    (problem,) = lab.world.event(said.PreflightFinished).problems
    assert problem.code == "prep-nodes-drained"


async def test_a_missing_reader_is_a_problem_of_preflight_and_no_surprise_in_the_middle(
    lab: Lab, windows_disk: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.windows.inspecting._PACKAGES", ("dissect.nothing",))
    await lab.add_copy("win", os="windows", content=windows_disk)
    begin(lab, vm("win"))
    await lab.run()
    (problem,) = lab.world.event(said.PreflightFinished).problems
    assert problem.code == "windows-reader-missing"


async def test_a_recovery_without_a_windows_asks_for_no_node(lab: Lab) -> None:
    await lab.add_copy("db")
    begin(lab, vm("db"))
    await lab.run()
    assert calls(lab, *PREP_CALLS) == []


async def test_a_dry_run_lists_nodes_and_steps_and_says_what_to_mend_in_the_source(
    lab: Lab, windows_disk: bytes
) -> None:
    await lab.add_copy("win", os="windows", content=windows_disk)
    await lab.add_copy("db")
    begin(lab, vm("win"), vm("db", 2), dry_run=True)
    await lab.run()
    facts = lab.world.event(said.PreflightFinished).facts
    listed = [(call["call"], call["vm"]) for call in facts["calls"]]
    assert listed[:2] == [("list_prep_nodes", ""), ("power_on_node", "")]
    assert [call for call, name in listed[2:] if name in ("win", "")] == [
        *("hold", "rebuild_disk", "prepare_windows", "power_off_node", "create_instance"),
        *("power_on", "release", "validate_windows"),
    ]
    assert [call for call, name in listed if name == "db"] == [
        *("hold", "rebuild_disk", "create_instance", "power_on", "release")
    ]
    assert facts["budgets"]["StartInstances"]["calls"] == 3
    assert [(w["vm"], w["code"]) for w in facts["warnings"]] == [("win", "driver-not-boot-start")]
    assert not calls(lab, "power_on_node", "rebuild_disk", "prepare_windows")


# ── through the engine, on Postgres ──────────────────────────────────────────────────────────


async def idle(service: Running) -> None:
    """Wait until the pool has nothing under way."""
    await service.until(
        POOL,
        lambda pool: (
            not pool.members
            and not pool.looking
            and all(n.power == "off" and not n.doing for n in pool.nodes.values())
        ),
    )


async def test_the_engine_powers_a_node_on_for_a_windows_and_off_after_it(
    running: Running,
    windows_disk: bytes,
) -> None:
    lab = running.lab
    lab.declare(ONE_NODE)
    agent = {"silent": True, "settles_in_s": 1.0}
    await lab.add_copy("win", os="windows", content=windows_disk, agent=agent)
    await running.recover(vm("win"))
    ended = await running.until(JOB, lambda state: state.finished, within_s=90)
    # The guest agent answered only later: validation was tried again.
    assert ended.finished.state == "completed", ended.finished
    await idle(running)
    (made,) = await lab.platform.compute.list_instances()
    folder = lab.home / "west" / "instances" / made.instance_id
    assert start_of(folder / "sda.raw", "viostor") == [0]
    order = [call for call, outcome in calls(lab, *PREP_CALLS[1:]) if outcome == "ok"]
    assert order == ["power_on_node", "prepare_windows", "power_off_node"]
    assert ("validate_windows", "error") in calls(lab, "validate_windows")


async def test_the_engine_powers_the_node_off_also_when_the_recovery_is_cancelled(
    running: Running,
    windows_disk: bytes,
) -> None:
    lab = running.lab
    lab.declare(ONE_NODE + "\nlatency: {prepare_windows: 30s}")
    await lab.add_copy("win", os="windows", content=windows_disk)
    await running.recover(vm("win"))
    child = vm_stream(JOB, "win")
    await running.until(child, lambda state: "prepare-windows" in state.running)
    assert await power_of(lab) == "on"
    await running.send("gateway", said.CancelRecoveryJob(command_id="c1", job=JOB))
    ended = await running.until(JOB, lambda state: state.finished)
    assert ended.finished.state == "cancelled"
    await idle(running)
    assert await power_of(lab) == "off"


async def test_the_engine_powers_the_node_off_also_when_the_vm_fails(
    running: Running,
) -> None:
    require_ntfs()
    lab = running.lab
    lab.declare(ONE_NODE + "\nfaults: {seed: 1, power_off_node: 0.5}")
    await lab.add_copy("win", os="windows")
    await running.recover(vm("win"))
    ended = await running.until(JOB, lambda state: state.finished, within_s=60)
    assert ended.finished.state == "failed"
    assert ended.finished.problem.code == "no-windows"
    await idle(running)
    assert await power_of(lab) == "off"


async def test_more_windows_than_seats_are_prepared_in_turn_and_the_node_is_powered_once(
    running: Running, windows_disk: bytes
) -> None:
    lab = running.lab
    lab.declare("prep_nodes: [{name: prep1, seats: 1}]\nlatency: {prepare_windows: 200ms}")
    names = ("win1", "win2", "win3")
    for name in names:
        await lab.add_copy(name, os="windows", content=windows_disk)
    await running.recover(*(vm(name) for name in names))
    ended = await running.until(JOB, lambda state: state.finished, within_s=90)
    assert (ended.finished.state, ended.finished.ready) == ("completed", 3), ended.finished
    await idle(running)
    order = [call for call, outcome in calls(lab, *PREP_CALLS[1:]) if outcome == "ok"]
    assert order == ["power_on_node", *["prepare_windows"] * 3, "power_off_node"]
