"""Failover, migration, commit and roll back as an operator does them, on real services and bytes.

The sources are guests that write without pause until they are told to end, and then say so on
their disk: what is recovered must be what they left.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.platforms.lab import tools
from tests.acceptance.operator import MIB, ControlPlane, Said, Sites
from tests.failures import failure_mode
from tests.waiting import wait_until

VMS = ("db", "app", "web")
LAST_WORDS = b"ended cleanly"
GUEST = f"""\
import os, signal, time
from shared.platforms.lab.writer import LabDisk

path = os.environ["SEAWALL_LAB_DISKS"].split(os.pathsep)[0]
original = "/vms/" in path
disk = LabDisk(path) if original else None
ending = []
signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
open("up", "w").close()
count = 0
while not ending:
    count += 1
    if original:
        disk.write(4096 * (count % 128), str(count).encode())
    time.sleep(0.005)
if original:
    disk.write(0, {LAST_WORDS!r})
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    root = tmp_path_factory.mktemp("full")
    root.chmod(0o755)
    with ControlPlane(root) as started:
        yield started


@pytest.fixture
def shop(plane: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Sites]:
    """A plan of three VMs that run, write and have a copy; nothing runs any more afterwards."""
    name = request.node.name.partition("[")[0].removeprefix("test_").replace("_", "-")[:40]
    sites = Sites(plane, tmp_path, name.rstrip("-"))
    for vm in VMS:
        folder = sites.vm(vm).parent
        document = yaml.safe_load((folder / "vm.yaml").read_text())
        document["guest"] |= {"command": ["python3", "guest.py"]}
        (folder / "vm.yaml").write_text(yaml.safe_dump(document))
        (folder / "guest.py").write_text(GUEST)
    sites.add()
    members = [{"name": vm, "boot_order": 1 + (vm != "db")} for vm in VMS]
    document = {**sites.plan(), "vms": members}
    applied = plane.command("/v1/plans", {"plan": document, "scripts": {}})
    assert applied.status == 200, applied
    tools.start(sites.east)
    for vm in VMS:
        wait_until((sites.east / "vms" / vm / "up").exists, f"{vm} is up")
    sites.replicate()
    yield sites
    machines = [*(sites.east / "vms").iterdir(), *sites.instances()]
    for folder in machines:
        tools.stop(folder, grace_s=0)


def recover(shop: Sites, mode: str, *options: str) -> Said:
    return shop.plane.say(
        "recover", shop.name, "--mode", mode, "--yes", "--wait", "-o", "json", *options
    )


def job_of(said: Said) -> dict[str, Any]:
    """The job that `--wait -o json` printed."""
    found: dict[str, Any] = json.loads(said.out)
    return found


def decide(shop: Sites, action: str, job: str, *options: str) -> Said:
    return shop.plane.say(action, job, "--wait", "-o", "json", *options)


def plan_of(shop: Sites) -> dict[str, Any]:
    return shop.plane.ask("GET", f"/v1/plans/{shop.name}").body


def power(shop: Sites) -> dict[str, str]:
    return {machine.name: machine.power for machine in tools.status(shop.east)}


def sources(shop: Sites) -> dict[str, str]:
    return {vm: _digest(shop.east / "vms" / vm / "sda.raw") for vm in VMS}


def recovered(shop: Sites) -> dict[str, str]:
    found = {}
    for folder in shop.instances():
        record = yaml.safe_load((folder / "instance.yaml").read_text())
        assert record["power"] == "on" and record["network"] == "prod"
        assert record["name"] == record["vm"]
        found[record["vm"]] = _digest(folder / "sda.raw")
    return found


def _digest(path: Path) -> str:
    content = path.read_bytes()
    assert len(content) == MIB
    return hashlib.sha256(content).hexdigest()


def test_a_failover_recovers_what_the_fenced_sources_left_and_rolls_back(shop: Sites) -> None:
    said = recover(shop, "failover")
    assert said.code == 0, said
    job = job_of(said)
    assert (job["kind"], job["state"], job["awaits_commit"]) == ("failover", "completed", True)
    assert [s["name"] for s in job["steps"]][:3] == ["preflight", "fence-sources", "last-sync"]
    assert power(shop) == dict.fromkeys(VMS, "off")
    for vm in VMS:
        content = (shop.east / "vms" / vm / "sda.raw").read_bytes()
        assert content.startswith(LAST_WORDS), "the guest was asked, not killed"
    assert recovered(shop) == sources(shop)
    plan = plan_of(shop)
    assert plan["state"] == "failed-over"
    assert {vm["moved"] for vm in plan["vms"]} == {"failed-over"}
    refused = shop.plane.say("plan", "start", shop.name)
    assert refused.code == 3 and "rollback" in refused.err
    assert shop.plane.say("cleanup", job["id"]).code == 3

    unconfirmed = shop.plane.say("rollback", job["id"])
    assert unconfirmed.code == 3
    assert all(f"{vm} since" in unconfirmed.err for vm in VMS)
    assert len(shop.instances()) == 3
    undone = decide(shop, "rollback", job["id"], "--confirm", shop.name)
    assert undone.code == 0, undone
    assert job_of(undone)["kind"] == "rollback"
    assert shop.instances() == []
    assert power(shop) == dict.fromkeys(VMS, "on")
    assert {machine.heartbeat for machine in tools.status(shop.east)} == {True}
    wait_until(lambda: plan_of(shop)["state"] == "running", "replication is on again")
    wait_until(lambda: not plan_of(shop)["vms"][0]["holds"], "the holds are given back")
    shop.replicate()
    assert not shop.plane.job(job["id"])["awaits_commit"]


def test_a_migration_is_committed_and_its_instances_are_the_vms(shop: Sites) -> None:
    said = recover(shop, "migrate")
    assert said.code == 0, said
    job = job_of(said)
    assert (job["kind"], job["awaits_commit"]) == ("migration", True)
    assert recovered(shop) == sources(shop)
    assert plan_of(shop)["state"] == "migrated"
    kept = decide(shop, "commit", job["id"])
    assert kept.code == 0, kept
    assert job_of(kept)["kind"] == "commit"
    wait_until(lambda: not plan_of(shop)["vms"][0]["holds"], "the holds are given back")
    assert power(shop) == dict.fromkeys(VMS, "off")
    assert plan_of(shop)["state"] == "migrated"
    late = shop.plane.say("rollback", job["id"], "--confirm", shop.name)
    assert late.code == 3 and "committed" in late.err
    unnamed = shop.plane.say("cleanup", job["id"])
    assert unnamed.code == 3 and "production" in unnamed.err
    assert len(shop.instances()) == 3
    cleaned = decide(shop, "cleanup", job["id"], "--confirm", shop.name)
    assert cleaned.code == 0, cleaned
    assert shop.instances() == []


def test_a_migration_whose_last_sync_fails_is_taken_back(shop: Sites) -> None:
    (shop.east / "site.yaml").write_text("faults: {seed: 1, open_snapshot: 1.0}\n")
    said = recover(shop, "migrate")
    assert said.code == 5, said
    job = job_of(said)
    assert not job["awaits_commit"]
    assert power(shop) == dict.fromkeys(VMS, "on")
    assert {machine.heartbeat for machine in tools.status(shop.east)} == {True}
    assert shop.instances() == []
    states = {step["name"]: step["state"] for step in job["steps"]}
    assert states["last-sync"] == "failed" and states["restore-sources"] == "completed"
    (shop.east / "site.yaml").unlink()
    wait_until(lambda: not plan_of(shop)["vms"][0]["holds"], "the holds are given back")
    shop.replicate()


def test_a_failover_without_a_last_sync_cancels_the_iteration_it_meets(shop: Sites) -> None:
    shop.settings(shop.west, latency={"finalize": "30s"})
    run = shop.plane.command(f"/v1/plans/{shop.name}/run").body["id"]
    wait_until(lambda: len(shop.snapshots()) == 3, "the iterations run")
    said = recover(shop, "failover", "--no-last-sync")
    assert said.code == 0, said
    assert shop.plane.ended(run)["state"] == "cancelled"
    assert "last-sync" not in [step["name"] for step in job_of(said)["steps"]]
    assert len(shop.instances()) == 3
    shop.settings(shop.west)
    assert decide(shop, "rollback", job_of(said)["id"], "--confirm", shop.name).code == 0


@failure_mode(
    "Protected site",
    "dead",
    sees=(
        "A failover refuses to guess: its preflight fails and says that VMs which cannot be shut "
        "down may still run."
    ),
    does=(
        "Once you know that they do not, `seawall recover … --mode failover --source-gone`. The "
        "site is quarantined until `seawall site release`."
    ),
)
def test_a_site_that_is_gone_needs_the_operators_word_and_is_quarantined(shop: Sites) -> None:
    away = shop.east.rename(shop.east.with_name("away"))
    try:
        refused = recover(shop, "failover")
        assert refused.code == 5, refused
        problem = job_of(refused)["error"]
        assert problem["code"] == "source-unreachable" and "--source-gone" in problem["remedy"]
        assert shop.instances() == []
        said = recover(shop, "failover", "--source-gone")
        assert said.code == 0, said
        job = job_of(said)
        assert len(recovered(shop)) == 3 and "quarantined" in job["note"]
    finally:
        away.rename(shop.east)
    alert = f"alert:{shop.name}:site-quarantined:{shop.name}-east"

    def state_of(alert: str) -> str:
        page = shop.plane.ask("GET", f"/v1/alerts?plan={shop.name}").body
        return next((a["state"] for a in page["items"] if a["id"] == alert), "")

    wait_until(lambda: state_of(alert) == "open", "the alert is open")
    assert plan_of(shop)["quarantined"] == [f"{shop.name}-east"]
    assert shop.plane.ask("GET", f"/v1/sites/{shop.name}-east").body["quarantined"] is True
    undone = decide(shop, "rollback", job["id"], "--confirm", shop.name)
    assert undone.code == 0, undone
    assert shop.instances() == []
    assert power(shop) == dict.fromkeys(VMS, "on"), "they were never touched"
    refused = shop.plane.say("plan", "start", shop.name)
    assert refused.code == 3 and "quarantined" in refused.err
    site = f"{shop.name}-east"
    assert shop.plane.say("site", "release", site).code == 3
    assert shop.plane.say("site", "release", site, "--confirm", site).code == 0
    wait_until(lambda: state_of(alert) == "resolved", "the alert closes by itself")
    wait_until(lambda: plan_of(shop)["quarantined"] == [], "the plan may go on")
    assert shop.plane.say("plan", "start", shop.name).code == 0
    shop.replicate()


def test_a_roll_back_to_a_deleted_original_touches_nothing_but_by_the_word(shop: Sites) -> None:
    job = job_of(recover(shop, "failover"))["id"]
    before = recovered(shop)
    (shop.east / "vms" / "db").rename(shop.east / "deleted")
    refused = decide(shop, "rollback", job, "--confirm", shop.name)
    assert refused.code == 5, refused
    problem = job_of(refused)["error"]
    assert problem["code"] == "nothing-to-come-back-to" and "VM db " in problem["message"]
    assert recovered(shop) == before and power(shop) == {"app": "off", "web": "off"}

    nameless = shop.plane.say("rollback", job, "--leave-off")
    assert nameless.code == 3 and f"--confirm {shop.name} --leave-off" in nameless.err
    undone = decide(shop, "rollback", job, "--confirm", shop.name, "--leave-off")
    assert undone.code == 6, undone
    assert job_of(undone)["facts"]["left_off"] == ["db"]
    assert shop.instances() == [] and power(shop) == {"app": "on", "web": "on"}

    # Nobody holds it any more: it is had again from its copy.
    again = recover(shop, "failover", "--vm", "db", "--source-gone")
    assert again.code == 0, again
    assert set(recovered(shop)) == {"db"} and power(shop) == {"app": "on", "web": "on"}


def test_who_did_not_come_up_is_left_out_of_the_commit_and_recovered_again(shop: Sites) -> None:
    nobody_listens = {"name": "web", "ready": {"tcp": 1, "within": "3s"}}
    _apply(shop, nobody_listens)
    job = job_of(recover(shop, "failover"))
    assert job["state"] == "partially-completed", job
    refused = decide(shop, "commit", job["id"])
    assert refused.code == 3 and "web" in refused.err and "--without-failed" in refused.err
    assert len(shop.instances()) == 3, "refused, it has touched nothing"
    kept = decide(shop, "commit", job["id"], "--without-failed")
    assert kept.code == 0, kept
    assert job_of(kept)["note"].startswith("web not brought up")
    assert set(recovered(shop)) == {"db", "app"}
    assert set(power(shop).values()) == {"off"}
    # Its name is free, its copies are there: nothing need be deleted by hand.
    _apply(shop, {"name": "web"})
    again = recover(shop, "failover", "--vm", "web")
    assert again.code == 0, again
    assert decide(shop, "commit", job_of(again)["id"]).code == 0
    assert set(recovered(shop)) == set(VMS)


def _apply(shop: Sites, *changed: dict[str, Any]) -> None:
    """The plan with other definitions of some of its VMs."""
    members = {vm: {"name": vm} for vm in VMS} | {each["name"]: each for each in changed}
    document = {**shop.plan(), "vms": list(members.values())}
    applied = shop.plane.command("/v1/plans", {"plan": document, "scripts": {}})
    assert applied.status == 200, applied
