"""Steering a recovery by the command line, on real services: pause, answer, retry, skip."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.operator import ControlPlane, Said, Sites
from tests.waiting import wait_until

DNS = {
    "name": "dns",
    "text": "point the name here",
    "owner": "dns team",
    "at": "before-boot-order",
    "boot_order": 1,
}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("steering")) as started:
        yield started


def replicated(
    plane: ControlPlane, folder: Path, name: str, *, boots_in: str = "50ms", **recovery: Any
) -> Sites:
    """Sites and a plan of two VMs with copies; `db` boots as slowly as it is told."""
    sites = Sites(plane, folder, name)
    for vm in ("db", "app"):
        sites.vm(vm)
    path = sites.east / "vms" / "db" / "vm.yaml"
    document = yaml.safe_load(path.read_text())
    document["guest"]["boots_in"] = boots_in
    path.write_text(yaml.safe_dump(document))
    sites.add()
    vms = [{"name": vm, "ready": {"heartbeat": True, "within": "1s"}} for vm in ("db", "app")]
    assert sites.apply(vms=vms, recovery=recovery).status == 200
    sites.replicate()
    return sites


def said(answer: Said, code: int = 0) -> Said:
    assert answer.code == code, answer
    return answer


def shown(plane: ControlPlane, job: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said(plane.say("job", "show", job, "-o", "json")).out)
    return found


def until(plane: ControlPlane, job: str, reached: Callable[[dict[str, Any]], bool]) -> None:
    wait_until(lambda: reached(shown(plane, job)), f"{job} is as expected")


def begun(sites: Sites) -> str:
    started = sites.plane.command(f"/v1/plans/{sites.name}/recover", {"mode": "test"})
    assert started.status == 202, started
    return str(started.body["id"])


def made(sites: Sites, vm: str) -> int:
    """How many instances were created of a VM."""
    lines = (sites.west / "calls.jsonl").read_text().splitlines()
    calls = [json.loads(line) for line in lines]
    return len(
        [c for c in calls if (c["call"], c["vm"], c["outcome"]) == ("create_instance", vm, "ok")]
    )


def test_a_recovery_is_paused_answered_and_resumed(plane: ControlPlane, tmp_path: Path) -> None:
    sites = replicated(plane, tmp_path, "asked", manual_steps=[DNS])
    job = begun(sites)
    until(plane, job, lambda found: found["state"] == "waiting")
    (asked,) = [step for step in shown(plane, job)["steps"] if step["waiting"]]
    assert (asked["name"], asked["waiting"]["owner"]) == ("manual-dns", "dns team")
    assert "point the name here" in said(plane.say("job", "show", job)).out
    alert = f"alert:{sites.name}:waiting-for-person:plan"
    wait_until(lambda: alert in said(plane.say("alert", "list", "-o", "json")).out, "an alert")
    said(plane.say("job", "pause", job))
    said(plane.say("job", "pause", job))
    until(plane, job, lambda found: found["state"] == "paused")
    said(plane.say("job", "answer", job, "manual-dns", "perhaps"), code=2)
    said(plane.say("job", "answer", job, "manual-dns", "done"))
    said(plane.say("job", "answer", job, "manual-dns", "done"), code=3)
    assert not [i for i in shown(plane, job)["instances"] if i["powered_on_at"]]
    said(plane.say("job", "resume", job))
    ended = plane.ended(job)
    assert ended["state"] == "completed" and 0 < ended["waited_s"] <= ended["rto_s"]
    step = next(step for step in ended["steps"] if step["name"] == "manual-dns")
    assert (step["answer"]["choice"], step["answer"]["actor"]) == ("done", "admin")
    said(plane.say("job", "pause", job), code=3)
    said(plane.say("job", "retry", job), code=3)
    said(plane.say("job", "pause", "recovery:nowhere:1"), code=4)
    sites.clean(job)


def test_a_vm_that_failed_its_boot_is_retried_and_the_rest_is_kept(
    plane: ControlPlane, tmp_path: Path
) -> None:
    sites = replicated(plane, tmp_path, "retried", boots_in="4s")
    job = begun(sites)
    assert plane.ended(job)["state"] == "partially-completed"
    db = next(child for child in shown(plane, job)["children"] if child.endswith(":db"))
    said(plane.say("job", "skip", db, "create-instance"), code=3)
    codes = []
    for _ in range(6):
        codes.append(plane.say("job", "retry", job, "--wait").code)
        if codes[-1] == 0:
            break
    assert codes[-1] == 0 and set(codes[:-1]) <= {6}, codes
    ended = shown(plane, job)
    assert (ended["state"], ended["vms"]["ready"], ended["error"]) == ("completed", 2, None)
    assert made(sites, "db") == made(sites, "app") == 1
    waited = next(step for step in shown(plane, db)["steps"] if step["name"] == "wait-ready")
    assert waited["attempts"] == len(codes) + 1
    cleaned = sites.clean(job)
    assert cleaned["state"] == "completed"
    said(plane.say("job", "retry", job), code=3)


def test_readiness_is_skipped_and_the_recovery_is_partially_completed(
    plane: ControlPlane, tmp_path: Path
) -> None:
    sites = replicated(plane, tmp_path, "skipped", boots_in="10m")
    job = begun(sites)
    plane.ended(job)
    db = next(child for child in shown(plane, job)["children"] if child.endswith(":db"))
    said(plane.say("job", "skip", db, "wait-ready", "--wait"), code=6)
    until(plane, job, lambda found: found["state"] == "partially-completed")
    ended = shown(plane, job)
    assert (ended["vms"]["ready"], ended["vms"]["failed"]) == (2, 0)
    sites.clean(job)


def test_a_cancelled_recovery_says_what_it_leaves(plane: ControlPlane, tmp_path: Path) -> None:
    sites = replicated(plane, tmp_path, "left", manual_steps=[DNS])
    job = begun(sites)
    until(plane, job, lambda found: found["state"] == "waiting" and len(found["instances"]) == 2)
    said(plane.say("job", "cancel", job))
    ended = plane.ended(job)
    assert ended["state"] == "cancelled"
    assert "not touched" in ended["left"] and f"seawall cleanup {job}" in ended["left"]
    assert sites.clean(job)["state"] == "completed"
    assert not sites.instances()


def test_jobs_of_replication_are_not_steered_this_way(plane: ControlPlane, tmp_path: Path) -> None:
    sites = replicated(plane, tmp_path, "other")
    run = plane.command(f"/v1/plans/{sites.name}/run").body["id"]
    said(plane.say("job", "pause", run), code=3)
    plane.ended(run)
