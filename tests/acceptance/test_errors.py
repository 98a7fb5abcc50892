"""Everything that goes wrong for a person says what is wrong and how to mend it.

One control plane for all of it; every test has two sites of its own and looks at the folders
afterwards: nothing half-done stays behind.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.acceptance.operator import MIB, ControlPlane, Said, Sites
from tests.failures import failure_mode
from tests.folders import let_others_in
from tests.waiting import wait_until

GOOD = """\
name: shop
protected_site: east
recovery_site: west
replication: {interval: 15m}
vms:
  - name: db
    boot_order: 1
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    root = tmp_path_factory.mktemp("plane")
    # Scripts run as a user of their own, who must reach the home's scripts folder.
    let_others_in(root)
    with ControlPlane(root) as started:
        yield started
        # After the last test of the module, in whatever order they come: nothing of all this may
        # have been an error of ours.
        assert errors_of_ours(started.log()) == []


def errors_of_ours(log: str) -> list[str]:
    """Lines in which the control plane says that something is wrong with itself."""
    lines = [line for line in log.splitlines() if line.startswith("{")]
    return [line for line in lines if json.loads(line)["level"] in ("error", "critical")]


@pytest.fixture
def sites(plane: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest) -> Sites:
    return Sites(plane, tmp_path, request.node.name.removeprefix("test_").replace("_", "-")[:40])


def told(error: dict[str, Any] | None, *words: str) -> None:
    """The error names what is wrong and gives a remedy."""
    assert error is not None
    for word in words:
        assert word in error["message"], error
    assert error["remedy"].strip(), error


def said(answer: Said, code: int, *words: str) -> None:
    """The command line ended so, and its standard error names what is wrong."""
    assert answer.code == code, answer
    for word in words:
        assert word in answer.err.replace("\n", " "), answer
    assert "Traceback" not in answer.err


def step_of(job: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(step for step in job["steps"] if step["name"] == name)
    return found


def test_a_plan_that_its_sites_cannot_sustain_is_exit_3_with_the_binding_limit(
    plane: ControlPlane, sites: Sites, tmp_path: Path
) -> None:
    sites.vm("db")
    sites.settings(sites.west, quotas={"StartSnapshot": {"burst": 5, "per_second": 0.01}})
    sites.add()
    file = tmp_path / "shop.yaml"
    plan = sites.plan("db", replication={"interval": "90s"})
    file.write_text(yaml.safe_dump(plan))
    answer = plane.say("plan", "apply", "-f", str(file))
    said(
        answer, 3, f"{sites.name}-west sustains 0.9 StartSnapshot calls per 90s", "--over-capacity"
    )
    said(plane.say("plan", "apply", "-f", str(file), "--dry-run"), 3, "StartSnapshot")
    assert plane.ask("GET", f"/v1/plans/{sites.name}").status == 404
    assert plane.say("plan", "apply", "-f", str(file), "--over-capacity").code == 0
    plan["replication"] |= {"priority": 1, "over_capacity": True}
    file.write_text(yaml.safe_dump(plan))
    knowingly = plane.say("plan", "apply", "-f", str(file))
    assert (knowingly.code, "over capacity:" in knowingly.out) == (0, True), knowingly


# ── Plan files ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param(GOOD + "  - {name: web", ("shop.yaml:9", "expected"), id="bad-yaml"),
        pytest.param(
            GOOD.replace("interval", "intervall"),
            ("shop.yaml:4", "replication.intervall", 'did you mean "interval"?'),
            id="unknown-field",
        ),
        pytest.param(
            GOOD.replace("boot_order: 1", "boot_order: one"),
            ("shop.yaml:7", "vms[0].boot_order", 'found "one"', "allowed: a whole number"),
            id="wrong-type",
        ),
        pytest.param(
            GOOD + "  - {name: db, boot_order: 2}\n",
            ("shop.yaml:8", "vms[1].name", '"db"', "allowed:"),
            id="duplicate-name",
        ),
    ],
)
def test_a_wrong_plan_file_is_exit_2_with_file_line_field_found_and_allowed(
    plane: ControlPlane, tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(text)
    said(plane.say("plan", "apply", "-f", str(file)), 2, *words)
    assert plane.ask("GET", "/v1/plans/shop").status == 404


def test_the_api_names_every_wrong_field_of_a_plan(sites: Sites) -> None:
    wrong = sites.plan("db", "db", replication={"intervall": "15m"}, targets={"rpo": 3})
    answer = sites.plane.command("/v1/plans", {"plan": wrong})
    assert answer.status == 422
    problems = {problem["field"]: problem for problem in answer.body["details"]["problems"]}
    assert {"replication.intervall", "targets.rpo", "vms[1].name"} <= set(problems)
    assert all(each["found"] and each["allowed"] for each in problems.values())
    told(answer.body, "problem(s)")


def test_a_site_of_that_name_is_refused_and_the_first_stays(sites: Sites, tmp_path: Path) -> None:
    sites.add()
    name = f"{sites.name}-east"
    setting = f"path={tmp_path}"
    said(sites.plane.say("site", "add", name, "--set", setting), 3, name)
    shown = sites.plane.ask("GET", f"/v1/sites/{name}").body
    assert shown["settings"] == {"path": str(sites.east)}


def test_a_vm_of_another_plan_is_refused_with_the_plans_name(sites: Sites, tmp_path: Path) -> None:
    for vm in ("db", "web"):
        sites.vm(vm)
    sites.add()
    assert sites.apply("db").status == 200
    second = tmp_path / "second.yaml"
    second.write_text(yaml.safe_dump(sites.plan("web", "db", name="second")))
    said(sites.plane.say("plan", "apply", "-f", str(second)), 3, "db", f"plan {sites.name}")
    refused = sites.plane.command("/v1/plans", {"plan": sites.plan("web", "db", name="second")})
    assert refused.status == 409
    told(refused.body, "db", sites.name)
    # The other VM was not reserved on the way.
    assert sites.plane.ask("GET", "/v1/plans/second").status == 404
    third = sites.plane.command("/v1/plans", {"plan": sites.plan("web", name="third")})
    assert third.status == 200


# ── Disks and sites ──────────────────────────────────────────────────────────────────────────


def test_a_disk_that_is_missing_is_named_when_the_plan_is_applied(sites: Sites) -> None:
    sites.vm("web")
    disk = sites.vm("db")
    disk.unlink()
    sites.add()
    refused = sites.apply("db", "web")
    assert refused.status == 409
    told(refused.body, str(disk), "missing")
    assert sites.plane.ask("GET", f"/v1/plans/{sites.name}").status == 404


def test_a_disk_that_goes_missing_fails_the_iteration_and_leaves_nothing(sites: Sites) -> None:
    disk = sites.vm("db")
    sites.add()
    assert sites.apply("db").status == 200
    disk.unlink()
    iteration = sites.replicate()
    assert iteration["state"] == "failed"
    told(iteration["error"], str(disk), "missing")
    assert sites.left_behind() == []


def test_a_disk_that_shrinks_under_its_snapshot_fails_the_iteration(sites: Sites) -> None:
    disk = sites.vm("db", size=16 * MIB)
    sites.settings(sites.west, latency={"write_chunk": "200ms"})
    sites.add()
    assert sites.apply("db").status == 200
    run = sites.plane.command(f"/v1/plans/{sites.name}/run").body["id"]
    wait_until(lambda: bool(sites.staged()), "the transfer has begun")
    os.truncate(disk, MIB)
    iteration = sites.plane.job(sites.plane.ended(run)["children"][0])
    assert iteration["state"] == "failed"
    told(iteration["error"], str(disk), "16777216")
    assert sites.left_behind() == []


@failure_mode(
    "Recovery site",
    "dead",
    sees=(
        "Its storage is full: the iteration fails with `target-full`; the good copy and "
        "all checkpoints stand."
    ),
    does="Make room or delete checkpoints; the next tick goes on.",
)
def test_a_full_target_fails_the_iteration_and_keeps_the_good_copy(sites: Sites) -> None:
    disk = sites.vm("db")
    sites.add()
    assert sites.apply("db").status == 200
    assert sites.replicate()["state"] == "completed"
    good = sorted((sites.west / "replicas").rglob("layer-*"))
    sites.settings(sites.west, capacity="1MiB")
    disk.write_bytes(os.urandom(MIB))
    iteration = sites.replicate()
    assert iteration["state"] == "failed"
    told(iteration["error"], "full", str(sites.west))
    assert sorted((sites.west / "replicas").rglob("layer-*")) == good
    assert sites.left_behind() == []
    alerts = sites.plane.ask("GET", f"/v1/alerts?plan={sites.name}").body["items"]
    assert [alert["condition"] for alert in alerts] == ["iteration-failed"]


def test_a_site_folder_that_vanishes_mid_transfer_is_named_and_comes_back(sites: Sites) -> None:
    sites.vm("db", size=16 * MIB)
    sites.settings(sites.west, latency={"write_chunk": "200ms"})
    sites.add()
    assert sites.apply("db").status == 200
    run = sites.plane.command(f"/v1/plans/{sites.name}/run").body["id"]
    wait_until(lambda: bool(sites.staged()), "the transfer has begun")
    wait_until(lambda: bool(sites.plane.job(run)["children"]), "the iteration is shown")
    child = sites.plane.job(run)["children"][0]
    away = sites.west.rename(sites.west.with_name("away"))

    def failed() -> bool:
        states = {step["name"]: step["state"] for step in sites.plane.job(child)["steps"]}
        return states.get("transfer") == "failed"

    wait_until(failed, "the transfer failed", within_s=25)
    assert not sites.west.exists()
    away.rename(sites.west)
    iteration = sites.plane.ended(child)
    assert iteration["state"] == "failed"
    told(iteration["error"], f"the site folder {sites.west} is gone")
    wait_until(lambda: not sites.left_behind(), "nothing stays behind")


def test_a_site_without_its_folder_is_refused_when_it_is_added(
    plane: ControlPlane, tmp_path: Path
) -> None:
    answer = plane.say("site", "add", "nowhere", "--set", f"path={tmp_path}/nowhere")
    said(answer, 3, f"{tmp_path}/nowhere", "gone")
    assert plane.ask("GET", "/v1/sites/nowhere").status == 404


# ── Scripts ──────────────────────────────────────────────────────────────────────────────────


def recovered(sites: Sites, script: str, **fields: Any) -> dict[str, Any]:
    """A test recovery of one VM with this plan pre-script, ended and cleaned up."""
    sites.vm("db")
    sites.add()
    pre_script = {"run": "it.sh", "runtime": "sh", **fields}
    applied = sites.apply("db", scripts={"it.sh": script}, recovery={"pre_script": pre_script})
    assert applied.status == 200, applied
    assert sites.replicate()["state"] == "completed"
    job = sites.recover()
    assert sites.clean(job["id"])["state"] == "completed"
    assert sites.left_behind() == []
    return job


def lives(marker: str) -> bool:
    """Whether a process with the marker among its arguments is alive."""
    return any(
        marker in (process.info["cmdline"] or ())
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
    )


@failure_mode(
    "Script",
    "slow",
    sees=("Ended at its time-out, with all its processes; the step shows the end of its output."),
    does="Raise its `timeout`, or mend it.",
)
def test_a_script_that_hangs_is_ended_at_its_time_out_and_says_so(sites: Sites) -> None:
    job = recovered(sites, "echo waiting; exec sleep 86431", timeout="1s")
    step = step_of(job, "pre-script")
    assert (job["state"], step["state"]) == ("partially-completed", "failed")
    told(step["error"], "did not end within 1 s")
    assert "waiting" in step["output"]
    assert not lives("86431")


def test_a_script_that_prints_a_gigabyte_is_kept_to_its_end(sites: Sites) -> None:
    job = recovered(sites, "head -c 1000000000 /dev/zero | tr '\\0' x; echo; echo the end")
    step = step_of(job, "pre-script")
    assert (job["state"], step["state"]) == ("completed", "completed")
    assert step["output"].endswith("the end\n")
    assert len(step["output"]) <= 2048


def test_what_a_script_forked_does_not_outlive_it(sites: Sites) -> None:
    job = recovered(sites, "setsid sleep 86432 & sleep 86432 & echo started")
    assert step_of(job, "pre-script")["state"] == "completed"
    assert not lives("86432")


def test_a_missing_runtime_is_told_before_anything_is_made(sites: Sites) -> None:
    sites.vm("db")
    sites.add()
    pre_script = {"run": "it.go", "runtime": "go"}
    applied = sites.apply(
        "db", scripts={"it.go": "package main\n"}, recovery={"pre_script": pre_script}
    )
    assert applied.status == 200, applied
    assert sites.replicate()["state"] == "completed"
    job = sites.recover()
    assert job["state"] == "failed"
    told(step_of(job, "preflight")["error"], "runtime 'go' is missing")
    assert sites.left_behind() == []


# ── The control plane itself ─────────────────────────────────────────────────────────────────


def test_a_wrong_token_is_401_and_exit_3(plane: ControlPlane) -> None:
    answer = plane.ask("GET", "/v1/plans", headers={"Authorization": "Bearer sw_wrong"})
    assert (answer.status, answer.body["code"]) == (401, "unauthorized")
    told(answer.body, "no valid token")
    said(plane.say("plan", "list", SEAWALL_TOKEN="sw_wrong"), 3, "token", "SEAWALL_TOKEN")


def test_a_used_port_is_exit_3_and_leaves_no_database_behind(
    plane: ControlPlane, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        home = tmp_path / "other"
        answer = plane.say("up", SEAWALL_HOME=str(home), SEAWALL_PORT=port)
    said(answer, 3, port, "SEAWALL_PORT")
    assert [path.name for path in home.iterdir()] == ["seawall.lock"]


def test_a_second_up_on_the_same_home_is_exit_3_and_harms_nothing(plane: ControlPlane) -> None:
    said(plane.say("up"), 3, str(plane.home), "SEAWALL_HOME")
    assert plane.ask("GET", "/v1/plans").status == 200


def test_nobody_at_the_url_is_exit_7_with_what_to_do(plane: ControlPlane) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    said(plane.say("plan", "list", SEAWALL_URL=f"http://127.0.0.1:{free}"), 7, "seawall up")


def test_an_error_of_ours_would_be_found() -> None:
    log = 'seawall ready\n{"level": "warning", "event": "a"}\n{"level": "error", "event": "b"}\n'
    assert errors_of_ours(log) == ['{"level": "error", "event": "b"}']
