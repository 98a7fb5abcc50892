"""There and back again: failover, reverse replication, failback, on real services and bytes.

Disks are judged where they lie: the originals under `vms/`, instances, and the copies of both
sites put together from their layers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.platforms.lab import tools
from shared.platforms.lab.copies import CopyFolder
from shared.platforms.lab.folder import SiteFolder
from shared.platforms.lab.writer import LabDisk
from tests.acceptance.operator import MIB, ControlPlane, Said, Sites
from tests.waiting import wait_until

VMS = ("db", "web")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    root = tmp_path_factory.mktemp("reverse")
    root.chmod(0o755)
    with ControlPlane(root) as started:
        yield started


class Shop:
    """A plan of two VMs whose disks are known at both sites."""

    def __init__(self, plane: ControlPlane, root: Path, name: str) -> None:
        self.sites = Sites(plane, root, name)
        self.plane, self.name = plane, name
        self.east, self.west = self.sites.east, self.sites.west
        for vm in VMS:
            self.sites.vm(vm)
        self.sites.add()
        assert self.sites.apply(*VMS).status == 200
        tools.start(self.east)
        self.replicate()

    # ── Doing ────────────────────────────────────────────────────────────────────────────────

    def recover(self, mode: str, *options: str) -> Said:
        return self.plane.say(
            "recover", self.name, "--mode", mode, "--yes", "--wait", "-o", "json", *options
        )

    def well(self, mode: str, *options: str) -> dict[str, Any]:
        said = self.recover(mode, *options)
        assert said.code == 0, said
        found: dict[str, Any] = json.loads(said.out)
        return found

    def decide(self, action: str, job: str, *options: str) -> None:
        said = self.plane.say(action, job, "--wait", "-o", "json", *options)
        assert said.code == 0, said

    def start(self, mode: str) -> str:
        """Start a recovery; gives its job."""
        started = self.plane.command(f"/v1/plans/{self.name}/recover", {"mode": mode})
        assert started.status == 202, started
        return str(started.body["id"])

    def kill(self) -> None:
        """The whole control plane dies, and starts again."""
        process = self.plane.process
        assert process is not None
        process.kill()
        process.wait()
        self.plane.__enter__()

    def replicate(self) -> dict[str, Any]:
        iteration = self.sites.replicate()
        assert iteration["state"] == "completed", iteration
        return iteration

    def write(self, site: Path, seed: int) -> None:
        """What the guests at a site do: a few blocks of every disk."""
        for folder in self.running(site).values():
            LabDisk(folder / "sda.raw").write(seed * 8192 % MIB, os.urandom(5000))

    # ── Looking ──────────────────────────────────────────────────────────────────────────────

    def plan(self) -> dict[str, Any]:
        return self.plane.ask("GET", f"/v1/plans/{self.name}").body

    def made(self, site: Path) -> dict[str, dict[str, Any]]:
        """Production instances of a site by VM: their record and folder."""
        found = {}
        for folder in sorted((site / "instances").glob("[!.]*")):
            record = yaml.safe_load((folder / "instance.yaml").read_text())
            if record["name"] == record["vm"]:
                found[record["vm"]] = {**record, "folder": folder}
        return found

    def running(self, site: Path) -> dict[str, Path]:
        return {
            vm: each["folder"] for vm, each in self.made(site).items() if each["power"] == "on"
        }

    def disks(self, site: Path) -> dict[str, str]:
        """SHA-256 of every production instance's disk."""
        return {vm: _sha256(each["folder"] / "sda.raw") for vm, each in self.made(site).items()}

    def originals(self) -> dict[str, str]:
        return {vm: _sha256(self.east / "vms" / vm / "sda.raw") for vm in VMS}

    def copies(self, site: Path) -> dict[str, str]:
        """SHA-256 of every VM's current copy at a site, put together from its layers."""
        return {vm: self._copy(site, vm) for vm in VMS}

    def _copy(self, site: Path, vm: str) -> str:
        home = CopyFolder(SiteFolder(site), self.name, vm)
        current = home.current()
        assert current is not None, f"{vm} has no copy at {site.name}"
        view, disk = home.open_view(current.facts().copy_id, "sda")
        try:
            content = bytearray(disk.size)
            view.read(memoryview(content), 0)
        finally:
            view.close()
        return hashlib.sha256(content).hexdigest()

    def power(self, site: Path) -> dict[str, str]:
        return {vm: each["power"] for vm, each in self.made(site).items()}

    def settled(self, state: str) -> dict[str, Any]:
        """The plan once it is in a state and nobody holds its VMs."""
        wait_until(
            lambda: (
                self.plan()["state"] == state and not any(v["holds"] for v in self.plan()["vms"])
            ),
            f"{self.name} is {state}",
        )
        return self.plan()

    def end(self) -> None:
        for folder in [*(self.east / "vms").iterdir()]:
            tools.stop(folder, grace_s=0)
        for site in (self.east, self.west):
            for folder in (site / "instances").glob("[!.]*"):
                tools.stop(folder, grace_s=0)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def shop(plane: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Shop]:
    name = request.node.name.removeprefix("test_").replace("_", "-")[:30].rstrip("-")
    found = Shop(plane, tmp_path, name)
    yield found
    found.end()


OFF, ON = dict.fromkeys(VMS, "off"), dict.fromkeys(VMS, "on")


def reversed_shop(shop: Shop) -> str:
    """Failed over, committed, written to and reversed; gives the failover's job."""
    failover = shop.well("failover")
    assert shop.disks(shop.west) == shop.originals() == shop.copies(shop.west)
    shop.decide("commit", failover["id"])
    shop.write(shop.west, 1)
    assert shop.disks(shop.west) != shop.originals()
    left = shop.originals()
    job = shop.well("reverse")
    assert (job["kind"], job["state"], job["facts"]["turned"]) == ("reverse", "completed", 2)
    assert [step["name"] for step in job["steps"]] == [
        "preflight",
        "mark-direction",
        "resync",
        "verify-copies",
    ]
    assert shop.copies(shop.east) == shop.disks(shop.west)
    assert shop.originals() == left, "an original is never written to"
    plan = shop.settled("reversed")
    assert plan["direction"] == "reverse"
    for vm in plan["vms"]:
        assert vm["instance"] == shop.made(shop.west)[vm["name"]]["id"]
        assert vm["replicating"] and vm["next_due_at"] and not vm["moved"]
    assert shop.power(shop.west) == ON, "it goes on running meanwhile"
    return str(failover["id"])


def test_there_and_back_again(shop: Shop) -> None:
    failover = reversed_shop(shop)
    left = shop.originals()

    # Ordinary iterations in reverse: what changed, and no more.
    shop.write(shop.west, 3)
    iteration = shop.replicate()
    assert 0 < iteration["bytes_done"] < MIB // 4, "only what changed was read"
    assert shop.copies(shop.east) == shop.disks(shop.west)
    refused = shop.plane.say("cleanup", failover, "--confirm", shop.name)
    assert refused.code == 3 and "--mode failback" in refused.err

    # A failback that is rolled back: the instances run on, and are replicated in reverse.
    shop.write(shop.west, 5)
    back = shop.well("failback")
    assert (back["kind"], back["awaits_commit"]) == ("failback", True)
    assert [s["name"] for s in back["steps"]][:3] == [
        "preflight",
        "shut-down-instances",
        "last-sync",
    ]
    assert shop.power(shop.west) == OFF and shop.power(shop.east) == ON
    assert shop.disks(shop.east) == shop.disks(shop.west) == shop.copies(shop.east)
    assert shop.originals() == left
    shop.decide("rollback", back["id"], "--confirm", shop.name)
    assert shop.made(shop.east) == {} and shop.power(shop.west) == ON
    assert shop.settled("reversed")["direction"] == "reverse"
    shop.write(shop.west, 7)
    shop.replicate()
    assert shop.copies(shop.east) == shop.disks(shop.west)

    # And one that is committed: replication goes its original way, from what came up.
    back = shop.well("failback")
    moved = shop.disks(shop.west)
    assert shop.disks(shop.east) == moved
    stale = shop.copies(shop.west)
    assert stale != moved
    shop.decide("commit", back["id"])
    assert shop.settled("running")["direction"] == "original"
    wait_until(lambda: shop.copies(shop.west) == moved, "the old copies are brought up to date")
    plan = shop.plan()
    for vm in plan["vms"]:
        assert vm["instance"] == shop.made(shop.east)[vm["name"]]["id"]
    wait_until(lambda: not any(v["iteration"] for v in shop.plan()["vms"]), "nothing runs")
    assert {v["sync_state"] for v in shop.plan()["vms"]} == {"resync-success"}
    shop.write(shop.east, 9)
    shop.replicate()
    assert shop.copies(shop.west) == shop.disks(shop.east) != moved
    assert shop.originals() == left

    # What ran at the other site is of no further use: nothing is to be typed.
    shop.decide("cleanup", failover)
    assert shop.made(shop.west) == {}
    refused = shop.plane.say("cleanup", back["id"], "--confirm", shop.name)
    assert refused.code == 3

    # The next failover fences the instances that the failback brought up.
    again = shop.well("failover")
    assert shop.power(shop.east) == OFF and shop.power(shop.west) == ON
    assert shop.disks(shop.west) == shop.disks(shop.east)
    shop.decide("rollback", again["id"], "--confirm", shop.name)
    assert shop.power(shop.east) == ON and shop.made(shop.west) == {}
    assert shop.originals() == left


def test_copies_in_reverse_are_tested_and_checkpointed(shop: Shop) -> None:
    old = shop.plane.command(f"/v1/plans/{shop.name}/checkpoints").body["id"]
    assert shop.plane.ended(old)["state"] == "completed"
    reversed_shop(shop)
    new = shop.plane.command(f"/v1/plans/{shop.name}/checkpoints").body["id"]
    assert shop.plane.ended(new)["state"] == "completed"
    assert len(list((shop.east / "checkpoints").glob("*/*/*/manifest.json"))) == len(VMS)
    assert len(list((shop.west / "checkpoints").glob("*/*/*/manifest.json"))) == len(VMS)

    # Each is tested where it is, beside production.
    for checkpoint, site in (("latest", shop.east), (new, shop.east), (old, shop.west)):
        before = len(list((site / "instances").glob("[!.]*")))
        tested = shop.well("test", "--checkpoint", checkpoint)
        assert len(list((site / "instances").glob("[!.]*"))) == before + len(VMS)
        shop.decide("cleanup", tested["id"])
    refused = shop.recover("failover", "--checkpoint", old)
    assert refused.code == 3 and "other way" in refused.err
    for checkpoint in (old, new):
        deleted = shop.plane.command(f"/v1/checkpoints/{checkpoint}", method="DELETE")
        assert shop.plane.ended(deleted.body["id"])["state"] == "completed"
    for site in (shop.east, shop.west):
        assert not list((site / "checkpoints").glob("*/*/*/manifest.json"))


def test_orders_that_make_no_sense_are_refused(shop: Shop) -> None:
    def refused(mode: str, *words: str) -> None:
        said = shop.recover(mode)
        assert said.code == 3, said
        assert all(word in said.err for word in words), said

    refused("reverse", "nothing to reverse", "--mode failover")
    refused("failback", "not replicated in reverse", "nothing to bring back")
    failover = shop.well("failover")
    refused("reverse", "neither committed nor rolled back", "seawall commit")
    refused("failback", "--mode reverse")
    shop.decide("commit", failover["id"])
    refused("failback", "--mode reverse")
    rehearsed = shop.plane.say("recover", shop.name, "--mode", "reverse", "--dry-run")
    assert rehearsed.code == 0 and "2 VMs are copied whole" in rehearsed.out, rehearsed
    assert not (shop.east / "replicas").exists()
    shop.well("reverse")
    shop.settled("reversed")
    refused("reverse", "already")
    refused("migrate", "--mode failback")


def test_an_original_that_runs_keeps_its_vm_from_coming_home(shop: Shop) -> None:
    reversed_shop(shop)
    tools.start(shop.east / "vms" / "db")
    said = shop.recover("failback")
    assert said.code == 5, said
    problem = json.loads(said.out)["error"]
    assert problem["code"] == "original-runs" and problem["remedy"]
    assert shop.power(shop.west) == ON and shop.made(shop.east) == {}
    tools.stop(shop.east / "vms" / "db", grace_s=0)
    assert shop.well("failback")["state"] == "completed"


def test_the_site_of_the_instances_may_be_lost_too(shop: Shop) -> None:
    reversed_shop(shop)
    copied, left = shop.copies(shop.east), shop.originals()
    away = shop.west.rename(shop.west.with_name("away"))
    try:
        refused = shop.recover("failback")
        assert refused.code == 5, refused
        problem = json.loads(refused.out)["error"]
        assert problem["code"] == "source-unreachable" and "--mode failover" in problem["remedy"]
        job = shop.well("failover", "--source-gone")
        assert shop.disks(shop.east) == copied and shop.power(shop.east) == ON
    finally:
        away.rename(shop.west)
    for each in shop.made(shop.west).values():
        tools.stop(each["folder"], grace_s=0)
    shop.decide("commit", job["id"])
    refused = shop.recover("reverse")
    assert refused.code == 3 and "quarantined" in refused.err
    site = f"{shop.name}-west"
    assert shop.plane.say("site", "release", site, "--confirm", site).code == 0
    shop.write(shop.east, 3)
    # A reversal of what is reversed is the original direction, from what came up at home.
    shop.well("reverse")
    assert shop.copies(shop.west) == shop.disks(shop.east) != copied
    assert shop.plan()["direction"] == "original" and shop.originals() == left
    assert shop.plane.say("plan", "start", shop.name).code == 0
    shop.settled("running")


def test_a_reversal_that_cannot_copy_leaves_the_plan_failed_over(shop: Shop) -> None:
    failover = shop.well("failover")
    shop.decide("commit", failover["id"])
    shop.sites.settings(shop.west, faults={"seed": 1, "open_snapshot": 1.0})
    said = shop.recover("reverse")
    assert said.code == 5, said
    job = json.loads(said.out)
    states = {step["name"]: step["state"] for step in job["steps"]}
    assert states["resync"] == "failed" and states["restore-direction"] == "completed"
    assert "not replicated" in job["left"]
    assert shop.settled("failed-over")["direction"] == "original"
    (shop.west / "site.yaml").unlink()
    assert shop.well("reverse")["state"] == "completed"
    assert shop.copies(shop.east) == shop.disks(shop.west)


def test_there_and_back_again_although_everything_is_killed_on_the_way(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with ControlPlane(tmp_path) as plane:
        shop = Shop(plane, tmp_path / "sites", "killed")
        try:
            _killed_on_the_way(shop)
        finally:
            shop.end()


def _killed_on_the_way(shop: Shop) -> None:
    failover = shop.well("failover")
    shop.decide("commit", failover["id"])
    left = shop.originals()
    shop.write(shop.west, 1)
    shop.sites.settings(shop.east, latency={"finalize": "2s", "power_on": "2s"})

    job = shop.start("reverse")
    wait_until(lambda: bool(_staged(shop.east)), "the first copies are being written")
    shop.kill()
    assert shop.plane.ended(job, within_s=60)["state"] == "completed"
    assert shop.copies(shop.east) == shop.disks(shop.west)
    assert not _staged(shop.east) and shop.originals() == left
    shop.settled("reversed")

    job = shop.start("failback")
    wait_until(lambda: len(shop.made(shop.east)) == len(VMS), "the instances are there")
    shop.kill()
    assert shop.plane.ended(job, within_s=60)["state"] == "completed"
    assert shop.power(shop.west) == OFF and shop.power(shop.east) == ON
    assert shop.disks(shop.east) == shop.disks(shop.west)
    moved = shop.disks(shop.east)
    shop.decide("commit", job)
    shop.kill()
    shop.settled("running")
    wait_until(lambda: shop.copies(shop.west) == moved, "the original direction goes on")
    assert shop.originals() == left


def _staged(site: Path) -> list[Path]:
    return sorted((site / "replicas").glob("*/*/staged/*"))
