"""The judges of full recoveries find what they look for: each is shown a world with one fault."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.platforms.lab import tools
from tests.acceptance.judge import Verdict
from tests.acceptance.live import Line, LiveWorld
from tests.acceptance.moves import (
    judge_barrier,
    judge_clashes,
    judge_moved,
    judge_nothing_left,
    judge_order,
    judge_outcome,
    judge_returned,
    scripts_that_ran,
)
from tests.acceptance.world import VMS
from tests.waiting import wait_until

JOB = "recovery:shop:x"
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
        ("left", "app", {}, 0.3),
        ("up", "app", "source"),
        ("left", "db", {}, 2.0),
        ("left", "app", {}, 5.0),
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
            for at, name, vm, job in journal
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


class Moved(LiveWorld):
    """A world whose VMs were shut down and run at west, as a recovery leaves it."""

    def move(self) -> None:
        """Do by hand what a failover does."""
        for vm in VMS:
            tools.stop(self.source(vm))
        (self.west / "instances").mkdir()
        for vm in VMS:
            self.make(vm)

    def instance(self, vm: str) -> Path:
        """Where the instance of a VM lies."""
        return self.west / "instances" / f"i-{vm}"

    def make(self, vm: str, *, twin: str = "") -> None:
        """An instance on the source's bytes, running."""
        folder = self.west / "instances" / f"i-{vm}{twin}"
        (folder / ".lab").mkdir(parents=True)
        disks = sorted(path.name for path in self.source(vm).glob("*.raw"))
        for file in disks:
            (folder / file).write_bytes((self.source(vm) / file).read_bytes())
        self.record(vm, folder=folder, disks=disks)

    def record(self, vm: str, *, folder: Path | None = None, **changes: Any) -> None:
        """Write its `instance.yaml` anew, with `changes`."""
        folder = folder or self.instance(vm)
        path = folder / "instance.yaml"
        told = yaml.safe_load(path.read_text()) if path.exists() else {}
        document = {
            "id": folder.name, "name": vm, "plan": "shop", "vm": vm, "job": JOB,
            "effect_id": vm, "power": "on", "powered_on_at": "2026-01-01T00:00:00Z",
            "network": "prod", "addresses": ["127.1.1.1"], "boots": 0, **told, **changes,
        }  # fmt: skip
        path.write_text(yaml.safe_dump(document))


@pytest.fixture
def moved(tmp_path: Path) -> Iterator[Moved]:
    world = Moved(tmp_path, seed=1)
    try:
        world.build()
        world.move()
        yield world
    finally:
        world.stop()


def _found(world: LiveWorld) -> Verdict:
    verdict = Verdict()
    judge_moved(world, JOB, verdict, as_left=True)
    return verdict


def _flip(path: Path) -> None:
    with path.open("r+b") as disk:
        first = disk.read(1)
        disk.seek(0)
        disk.write(bytes([first[0] ^ 1]))


def test_guests_tell_what_they_left_and_a_move_of_it_is_good(moved: Moved) -> None:
    verdict = _found(moved)
    assert verdict.good, verdict
    for vm, disks in moved.left().items():
        for file, sha256 in disks.items():
            content = (moved.source(vm) / file).read_bytes()
            assert hashlib.sha256(content).hexdigest() == sha256
    assert set(moved.left()) == set(VMS) and set(moved.left()["db"]) == {"sda.raw", "sdb.raw"}


@pytest.mark.parametrize("fault", ["source on", "instance off", "two", "none", "network", "name"])
def test_a_vm_that_does_not_run_exactly_once_in_production_is_found(
    moved: Moved, fault: str
) -> None:
    match fault:
        case "source on":
            tools.start(moved.source("web"))
        case "instance off":
            moved.record("web", power="off")
        case "two":
            moved.make("web", twin="-2")
        case "none":
            moved.record("web", job="recovery:shop:other")
        case "network":
            moved.record("web", network="isolated")
        case "name":
            moved.record("web", name="web-test")
    assert not _found(moved).good


def test_bytes_that_are_not_those_that_were_left_are_found(moved: Moved) -> None:
    _flip(moved.instance("db") / "sdb.raw")
    assert [line for line in _found(moved).lost if "sdb.raw of the instance" in line]


def test_a_source_that_was_written_to_after_it_was_off_is_found(moved: Moved) -> None:
    _flip(moved.source("db") / "sda.raw")
    assert [line for line in _found(moved).lost if "sda.raw of the source" in line]


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


def test_a_second_copy_of_a_vm_in_production_says_clash(moved: Moved) -> None:
    tools.start(moved.source("web"))
    wait_until(lambda: ("up", "web", "source") in moved.guest_lines()[-2:], "the source is up")
    guest = moved.source("web") / "guest.py"
    spec = yaml.safe_load((moved.source("web") / "vm.yaml").read_text())
    folder = moved.east / "vms" / "twin"
    folder.mkdir()
    (folder / "guest.py").write_text(guest.read_text())
    (folder / "vm.yaml").write_text(yaml.safe_dump({**spec, "name": "twin"}))
    tools.start(folder)
    wait_until(lambda: moved.guest_lines()[-2][0] == "clash", "the twin finds its address taken")
    verdict = Verdict()
    judge_clashes(moved.guest_lines(), verdict)
    assert verdict.doubled == ["web came up as source while another copy of it ran"]


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
def test_anything_left_at_the_site_is_found(tmp_path: Path, left: str) -> None:
    world = LiveWorld(tmp_path, seed=1)
    for folder in ("instances", "disks", "replicas/shop/db/staged"):
        (world.west / folder).mkdir(parents=True)
    (world.west / "replicas/shop/db/current.json").touch()
    (world.west / "instances/.lock").touch()
    verdict = Verdict()
    judge_nothing_left(world, verdict)
    assert verdict.good, verdict
    path = world.west / left
    path.mkdir() if left.endswith("/") else path.touch()
    judge_nothing_left(world, verdict, within_s=0.1)
    assert verdict.lost == [f"{left.rstrip('/')} is left at west"]
