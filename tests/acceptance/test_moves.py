"""The judges of full recoveries find what they look for: each is shown a world with one fault."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.platforms.lab import tools
from shared.platforms.lab.manifest import open_platform
from shared.platforms.ports import Call
from tests.acceptance import live
from tests.acceptance.judge import Verdict
from tests.acceptance.live import Line, LiveWorld, disks_of
from tests.acceptance.moves import (
    judge_barrier,
    judge_clashes,
    judge_copies,
    judge_moved,
    judge_nothing_left,
    judge_order,
    judge_outcome,
    judge_retired,
    judge_returned,
    scripts_that_ran,
    site_of,
)
from tests.acceptance.world import PLAN, VMS
from tests.waiting import wait_until

JOB, BACK_JOB = "recovery:shop:x", "recovery:shop:y"
SCRIPT = ("db-post", JOB)
FENCED = ["shut_down_source db", "shut_down_source app"]
MADE = ["create_instance db", "power_on db", "create_instance app", "power_on app"]
GONE = ["delete_instance db", "delete_instance app"]
BACK = ["power_on_source db", "power_on_source app"]


def ordered(*calls: str, job: str = JOB) -> Verdict:
    """What the judge says of these calls, one after another."""
    verdict = Verdict()
    journal: list[Mapping[str, Any]] = [
        {"at": f"{n:03}", "call": name, "vm": vm, "job": job, "outcome": "ok"}
        for n, (name, vm) in enumerate(call.split() for call in calls)
    ]
    judge_order(reversed(journal), {JOB}, verdict)
    return verdict


@pytest.mark.parametrize(
    "calls",
    [
        [*FENCED, *MADE],
        [*FENCED, *MADE, *GONE, *BACK],
        [*FENCED, *MADE, *GONE, *BACK, *FENCED, *MADE],
        ["power_off_source db", "power_on db"],
        [*FENCED, *BACK],
    ],
)
def test_calls_in_their_order_are_good(calls: list[str]) -> None:
    assert ordered(*calls).good


@pytest.mark.parametrize(
    "calls",
    [
        [*MADE, *FENCED],
        ["shut_down_source db", *MADE],
        [*FENCED, "power_on_source app", *MADE],
        [*FENCED, *MADE, *BACK, *GONE],
        [*FENCED, *MADE, GONE[0], *BACK],
        [*FENCED, *MADE, "create_instance db"],
        [*FENCED, *MADE, *GONE, *BACK, *MADE],
    ],
)
def test_a_call_that_came_too_early_is_found(calls: list[str]) -> None:
    assert ordered(*calls).doubled


def moves(story: str) -> Verdict:
    """What the judge says of the calls of several recoveries, each `call recovery`, of db."""
    verdict = Verdict()
    full: set[str] = set()
    journal: list[Mapping[str, Any]] = []
    for n, line in enumerate(story.strip().splitlines()):
        name, number = line.split()
        full.add(f"recovery:shop:{number}")
        call = {"at": f"{n:03}", "call": name, "vm": "db", "job": f"recovery:shop:{number}"}
        journal.append({**call, "outcome": "ok"})
    judge_order(reversed(journal), full, verdict)
    return verdict


AWAY = """
shut_down_source 1
create_instance 1
power_on 1
"""
HOME = AWAY.replace("1", "2").lstrip()
UNDONE = """\
power_off 2
delete_instance 2
power_on_source 2
"""
CLEANED = "power_off 1\ndelete_instance 1\n"
AGAIN = AWAY.replace("1", "3").lstrip()


@pytest.mark.parametrize(
    "story",
    [AWAY + HOME, AWAY + HOME + UNDONE, AWAY + HOME + CLEANED, AWAY + HOME + UNDONE + AGAIN,
     AWAY + HOME + CLEANED + AGAIN],
    ids=["home", "undone", "cleaned", "undone and again", "cleaned and again"],
)  # fmt: skip
def test_there_and_back_again_is_good(story: str) -> None:
    assert moves(story).good


@pytest.mark.parametrize(
    "story",
    [
        AWAY + HOME.replace("shut_down_source 2\n", ""),
        AWAY + "power_on_source 1",
        AWAY + HOME + "power_on_source 2",
        AWAY + HOME + UNDONE.replace("delete_instance 2\n", ""),
        AWAY + HOME + CLEANED + "power_on_source 1",
        AWAY + HOME + UNDONE + AGAIN.replace("shut_down_source 3\n", ""),
        AWAY + HOME + CLEANED + AGAIN.replace("shut_down_source 3\n", ""),
    ],
    ids=[
        "instance still on", "original on beside it", "instance on beside home", "both there",
        "original on beside home", "undone and still on", "home still on",
    ],
)  # fmt: skip
def test_a_vm_that_ran_twice_on_its_way_back_is_found(story: str) -> None:
    assert moves(story).doubled


def test_test_recoveries_run_beside_their_sources() -> None:
    assert ordered(*MADE, job="recovery:shop:test").good


def test_a_guest_that_found_its_address_in_use_is_found() -> None:
    verdict = Verdict()
    judge_clashes([("up", "db", "source"), ("clash", "db", "instance")], verdict)
    assert verdict.doubled


def _at(second: float) -> str:
    return f"1970-01-01T00:00:{second:09.6f}Z"


@pytest.mark.parametrize(
    ("built_at", "call", "good"),
    [
        (5.5, "hold", True),
        (4.5, "hold", False),
        (4.5, "rebuild_disk", False),
        (4.5, "create_instance", False),
        (4.5, "shut_down_source", True),
    ],
)
def test_what_was_built_before_the_last_source_had_ended_is_found(
    built_at: float, call: str, good: bool
) -> None:
    """Asked at 1, the one ends at 2, the other at 5; an earlier recovery was built in time."""
    lines: list[Line] = [
        ("left", "app", "east/vms/app", {}, 0.3),
        ("up", "app", "east/vms/app"),
        ("left", "db", "west/instances/i-1", {}, 2.0),
        ("left", "app", "west/instances/i-2", {}, 5.0),
    ]
    journal = [
        (0.5, "shut_down_source", "app", "recovery:shop:before"),
        (0.7, "hold", "app", "recovery:shop:before"),
        (1.0, "shut_down_source", "db", JOB),
        (1.0, "shut_down_source", "app", JOB),
        (built_at, call, "db", JOB),
        (6.0, "power_on", "db", JOB),
    ]
    verdict = Verdict()
    judge_barrier(
        [
            {"at": _at(at), "call": name, "vm": vm, "job": job, "outcome": "ok"}
            for at, name, vm, job in reversed(journal)
        ],
        lines,
        {JOB, "recovery:shop:before"},
        verdict,
    )
    assert verdict.good is good, verdict


@pytest.mark.parametrize(
    ("state", "script", "expected", "good"),
    [
        ("completed", "completed", "completed", True),
        ("partially-completed", "unknown", "completed", True),
        ("failed", "unknown", "failed", True),
        ("completed", "unknown", "completed", False),
        ("partially-completed", "completed", "completed", False),
        ("failed", "completed", "completed", False),
        ("completed", "completed", "failed", False),
    ],
)
def test_a_job_ends_by_the_rule_of_outcomes(
    state: str, script: str, expected: str, good: bool
) -> None:
    verdict = Verdict()
    judge_outcome(
        {"id": JOB, "state": state, "error": None}, {SCRIPT: script}, verdict, expected=expected
    )
    assert verdict.good is good


def test_scripts_whose_turn_never_came_are_not_judged() -> None:
    assert scripts_that_ran({SCRIPT: "pending", ("x", JOB): "completed"}) == {
        ("x", JOB): "completed"
    }


@pytest.fixture(autouse=True)
def _guests_that_end_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SLOW_S", 0.0)


class Moved(LiveWorld):
    """A world whose VMs were shut down and run at the other site, as `job` leaves it."""

    job = JOB

    def move(self) -> None:
        """Do by hand what a failover does."""
        for vm in VMS:
            tools.stop(self.source(vm))
        for vm in VMS:
            self.make(vm)

    def move_back(self) -> None:
        """Do by hand what the commit of it and a failback do."""
        self.moved(self.job)
        self.job = BACK_JOB
        for vm in VMS:
            folder = self.source(vm)
            (folder / "sda.raw").write_bytes(os.urandom(1 << 20))
            self.record(vm, folder=folder, power="off")
            where = str(folder.relative_to(self.root))
            with self.lines.with_name("guests.jsonl").open("a") as told:
                line = ("left", vm, where, disks_of(folder), time.time())
                told.write(json.dumps(line) + "\n")
            self.make(vm)

    def instance(self, vm: str) -> Path:
        """Where the instance of a VM lies."""
        site = self.west if site_of(self.source(vm)) == self.east else self.east
        return site / "instances" / f"i-{vm}"

    def make(self, vm: str, *, folder: Path | None = None) -> None:
        """An instance on the source's bytes, running."""
        folder = folder or self.instance(vm)
        (folder / ".lab").mkdir(parents=True)
        for path in self.source(vm).glob("*.raw"):
            (folder / path.name).write_bytes(path.read_bytes())
        self.record(vm, folder=folder, disks=sorted(disks_of(folder)))

    def record(self, vm: str, *, folder: Path | None = None, **changes: Any) -> None:
        """Write its `instance.yaml` anew, with `changes`."""
        folder = folder or self.instance(vm)
        path = folder / "instance.yaml"
        told = yaml.safe_load(path.read_text()) if path.exists() else {}
        document = {
            "id": folder.name, "name": vm, "plan": "shop", "vm": vm, "job": self.job,
            "effect_id": vm, "power": "on", "powered_on_at": "2026-01-01T00:00:00Z",
            "network": "prod", "addresses": ["127.1.1.1"], "boots": 0, **told, **changes,
        }  # fmt: skip
        path.write_text(yaml.safe_dump(document))

    def power_source(self, vm: str) -> None:
        """Power on what a VM ran as."""
        if (self.source(vm) / "vm.yaml").exists():
            tools.start(self.source(vm))
        else:
            self.record(vm, folder=self.source(vm), power="on")


@pytest.fixture(params=["away", "home"])
def moved(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Moved]:
    """The VMs moved, to west or back to east."""
    world = Moved(tmp_path, seed=1)
    try:
        world.build()
        world.move()
        if request.param == "home":
            world.move_back()
        yield world
    finally:
        world.stop()


def _found(world: Moved) -> Verdict:
    verdict = Verdict()
    judge_moved(world, world.job, verdict, as_left=True)
    return verdict


def _flip(path: Path) -> None:
    with path.open("r+b") as disk:
        first = disk.read(1)
        disk.seek(0)
        disk.write(bytes([first[0] ^ 1]))


def test_guests_tell_what_they_left_and_a_move_of_it_is_good(moved: Moved) -> None:
    verdict = _found(moved)
    judge_retired(moved, verdict)
    assert verdict.good, verdict
    left = moved.left()
    for vm in VMS:
        original, source = moved.original(vm), moved.source(vm)
        for folder in (original, source):
            for file, sha256 in left[folder].items():
                content = (folder / file).read_bytes()
                assert hashlib.sha256(content).hexdigest() == sha256
    assert set(left[moved.source("db")]) == {"sda.raw", "sdb.raw"}


@pytest.mark.parametrize(
    "fault", ["source on", "instance off", "two", "none", "network", "name", "site"]
)
def test_a_vm_that_does_not_run_exactly_once_in_production_is_found(
    moved: Moved, fault: str
) -> None:
    match fault:
        case "source on":
            moved.power_source("web")
        case "instance off":
            moved.record("web", power="off")
        case "two":
            moved.make("web", folder=moved.instance("web").with_name("i-web-2"))
        case "none":
            moved.record("web", job="recovery:shop:other")
        case "network":
            moved.record("web", network="isolated")
        case "name":
            moved.record("web", name="web-test")
        case "site":
            instances = site_of(moved.source("web")) / "instances"
            instances.mkdir(exist_ok=True)
            moved.instance("web").rename(instances / "i-web-3")
    assert not _found(moved).good


def test_bytes_that_are_not_those_that_were_left_are_found(moved: Moved) -> None:
    _flip(moved.instance("db") / "sdb.raw")
    assert [line for line in _found(moved).lost if "sdb.raw of the instance" in line]


def test_a_source_that_was_written_to_after_it_was_off_is_found(moved: Moved) -> None:
    _flip(moved.source("db") / "sda.raw")
    assert [line for line in _found(moved).lost if "sda.raw of the source" in line]


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("written", "east/vms/db was written to after db had left it"),
        ("on", "east/vms/db was powered on again"),
        ("on and off", "east/vms/db was powered on again"),
        ("gone", "the original of db is gone"),
    ],
)
def test_an_original_that_is_not_as_it_was_left_is_found(
    tmp_path: Path, fault: str, found: str
) -> None:
    world = Moved(tmp_path, seed=1)
    try:
        world.build()
        world.move()
        world.moved(JOB)
        original = world.original("db")
        match fault:
            case "written":
                _flip(original / "sdb.raw")
            case "on":
                tools.start(original)
            case "on and off":
                tools.start(original)
                tools.stop(original, grace_s=0)
            case "gone":
                shutil.rmtree(original)
        verdict = Verdict()
        judge_retired(world, verdict)
        assert [*verdict.lost, *verdict.doubled] == [found]
    finally:
        world.stop()


async def _copy(site: Path, vm: str, contents: Mapping[str, bytes]) -> None:
    """Make the current copy of a VM at a site."""
    platform = open_platform({"path": str(site)})
    call = Call(key=vm, plan=PLAN, vm=vm, job="iteration", lease=1)
    staged = []
    for file, content in contents.items():
        disk, size = file.removesuffix(".raw"), len(content)
        asked = Call(key=f"{vm}/{disk}", plan=PLAN, vm=vm, job="iteration", lease=1)
        made = await platform.target.open_generation(asked, disk=disk, size=size)
        for at in range(0, size, 1 << 20):
            piece = memoryview(content)[at : at + (1 << 20)]
            await platform.target.write(asked, generation=made, offset=at, data=piece)
        staged.append(made)
    disks = [{"name": file.removesuffix(".raw"), "file": file} for file in contents]
    configuration = {"name": vm, "disks": disks}
    manifest = {
        "taken_at": "2026-01-01T00:00:00+00:00", "mark": "m", "configuration": configuration,
    }  # fmt: skip
    await platform.target.finalize(call, generations=staged, manifest=manifest)
    await platform.close()


@pytest.mark.parametrize("fault", ["", "a byte", "a disk", "the copy", "the site"])
async def test_copies_that_are_not_what_instances_hold_are_found(
    tmp_path: Path, fault: str
) -> None:
    world = Moved(tmp_path, seed=1)
    try:
        world.build()
        world.move()
        world.moved(JOB)
        for vm in VMS:
            contents = {path.name: path.read_bytes() for path in world.source(vm).glob("*.raw")}
            if vm == "db" and fault == "a byte":
                contents["sdb.raw"] = contents["sdb.raw"][:-1] + b"?"
            if vm == "db" and fault == "a disk":
                del contents["sdb.raw"]
            if vm != "db" or fault != "the copy":
                await _copy(world.west if fault == "the site" else world.east, vm, contents)
        verdict = Verdict()
        judge_copies(world, verdict)
        assert bool(verdict.lost) is bool(fault), verdict
    finally:
        world.stop()


def test_sources_that_run_with_nothing_left_are_returned(tmp_path: Path) -> None:
    world = LiveWorld(tmp_path, seed=1)
    try:
        world.build()
        verdict = Verdict()
        judge_returned(world, verdict)
        assert verdict.good, verdict
        (machine,) = tools.status(world.source("app"))
        assert machine.pid is not None
        os.kill(machine.pid, signal.SIGKILL)
        wait_until(lambda: not tools.status(world.source("app"))[0].heartbeat, "it is dead")
        judge_returned(world, verdict)
        assert verdict.lost == ["the source of app is ('on', False)"]
    finally:
        world.stop()


def test_instances_that_are_the_vms_are_not_left_over(moved: Moved) -> None:
    """Of those that a failback moves back, the others are."""
    verdict = Verdict()
    judge_returned(moved, verdict)
    assert not verdict.good
    moved.moved(moved.job)
    for folder in moved.left_over():
        shutil.rmtree(folder)
    verdict = Verdict()
    judge_returned(moved, verdict)
    assert verdict.good, verdict


def test_a_second_copy_of_a_vm_in_production_says_clash(moved: Moved) -> None:
    original = moved.original("web")
    tools.start(original)
    up = ("up", "web", "east/vms/web")
    wait_until(lambda: up in moved.guest_lines()[-2:], "the original is up")
    guest = original / "guest.py"
    spec = yaml.safe_load((original / "vm.yaml").read_text())
    folder = moved.east / "vms" / "twin"
    folder.mkdir()
    (folder / "guest.py").write_text(guest.read_text())
    (folder / "vm.yaml").write_text(yaml.safe_dump({**spec, "name": "twin"}))
    tools.start(folder)
    wait_until(lambda: moved.guest_lines()[-2][0] == "clash", "the twin finds its address taken")
    verdict = Verdict()
    judge_clashes(moved.guest_lines(), verdict)
    assert verdict.doubled == ["web came up as east/vms/twin while another copy of it ran"]


@pytest.mark.parametrize("site", ["east", "west"])
@pytest.mark.parametrize(
    "left",
    [
        "instances/i-1/",
        "instances/.gone-i-1/",
        "disks/d-1/",
        "replicas/shop/db/held-h.json",
        "replicas/shop/db/staged/g-1/",
    ],
)
def test_anything_left_at_a_site_is_found(tmp_path: Path, site: str, left: str) -> None:
    world = LiveWorld(tmp_path, seed=1)
    for folder in ("instances", "disks", "replicas/shop/db/staged"):
        (tmp_path / site / folder).mkdir(parents=True)
    (tmp_path / site / "replicas/shop/db/current.json").touch()
    (tmp_path / site / "instances/.lock").touch()
    verdict = Verdict()
    judge_nothing_left(world, verdict)
    assert verdict.good, verdict
    path = tmp_path / site / left
    path.mkdir() if left.endswith("/") else path.touch()
    judge_nothing_left(world, verdict, within_s=0.1)
    assert verdict.lost == [f"{site}/{left.rstrip('/')} is left"]
