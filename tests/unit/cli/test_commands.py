"""The command line against a stub: exit codes, formats, waiting, what is sent."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from services.cli.__main__ import app
from tests.unit.cli.stub import Stub, job, listing, refusal
from tests.waiting import wait_until

JOB = "recovery:shop:r1"
RECOVER = "/v1/plans/shop/recover"
SITE = {
    "name": "east", "platform": "lab", "state": "ok", "checked_at": None,
    "settings": {"path": "/srv/" + "a-long-folder/" * 12},
}  # fmt: skip


def say(*arguments: str) -> Any:
    """Run a command line in this process."""
    return CliRunner().invoke(app, arguments)


# ── Exit codes ───────────────────────────────────────────────────────────────────────────────


def test_done_is_0_and_the_token_is_shown(stub: Stub) -> None:
    stub.tell("GET", "/v1/sites", (200, listing(SITE)))
    assert say("site", "list").exit_code == 0
    assert stub.asked[0].headers["Authorization"] == "Bearer sw_test"


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (401, "unauthorized", 3), (404, "unknown-plan", 4), (409, "busy", 3), (412, "version", 3),
        (413, "too-large", 3), (422, "invalid", 2), (503, "unavailable", 7),
    ],
)  # fmt: skip
def test_a_refusal_has_its_exit_code_and_reason_and_remedy_on_standard_error(
    stub: Stub, status: int, code: str, exit_code: int
) -> None:
    stub.tell("POST", "/v1/plans/shop/start", (status, refusal(code)))
    result = say("plan", "start", "shop")
    assert result.exit_code == exit_code
    assert result.stdout == ""
    assert "it cannot be" in result.stderr and "do otherwise" in result.stderr


def test_nobody_there_is_7_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    monkeypatch.setenv("SEAWALL_URL", f"http://127.0.0.1:{port}")
    result = say("plan", "list")
    assert result.exit_code == 7
    assert "seawall up" in result.stderr and str(port) in result.stderr


def test_an_answer_that_is_not_ours_is_told_not_thrown(stub: Stub) -> None:
    stub.tell("GET", "/v1/sites", (502, b"<html>bad gateway</html>"))
    result = say("site", "list")
    assert result.exit_code == 7
    assert "bad gateway" in result.stderr


@pytest.mark.parametrize(
    ("state", "exit_code"),
    [("completed", 0), ("partially-completed", 6), ("failed", 5), ("cancelled", 5)],
)
@pytest.mark.parametrize("form", ["table", "json", "yaml"])
def test_waiting_ends_with_the_jobs_outcome(
    stub: Stub, state: str, exit_code: int, form: str
) -> None:
    stub.tell("POST", RECOVER, (202, job("queued")))
    stub.tell("GET", f"/v1/jobs/{JOB}", (200, job("running")), (200, job(state)))
    result = say("recover", "shop", "--mode", "test", "--wait", "-o", form)
    assert result.exit_code == exit_code, result.output
    if form == "table":
        assert result.stdout.splitlines()[0] == JOB
        assert f"test-recovery {state}" in result.stdout
    else:
        read = json.loads if form == "json" else yaml.safe_load
        assert read(result.stdout)["state"] == state


def test_without_wait_only_the_id_is_told(stub: Stub) -> None:
    stub.tell("POST", RECOVER, (202, job("queued")))
    result = say("recover", "shop", "--mode", "test")
    assert (result.exit_code, result.stdout) == (0, JOB + "\n")


def test_waiting_too_long_is_8_and_the_job_goes_on(stub: Stub) -> None:
    stub.tell("POST", RECOVER, (202, job("queued")))
    stub.tell("GET", f"/v1/jobs/{JOB}", (200, job("running")))
    result = say("recover", "shop", "--mode", "test", "--wait", "--timeout", "100ms")
    assert result.exit_code == 8
    assert "goes on" in result.stderr


def test_a_command_that_is_not_decided_is_8_and_says_that_it_will_be(stub: Stub) -> None:
    stub.tell("POST", RECOVER, (202, {"command_id": "c1", "state": "accepted", "job": JOB}))
    result = say("recover", "shop", "--mode", "test")
    assert result.exit_code == 8
    assert "c1" in result.stderr and "it will be" in result.stderr


def test_an_interrupted_wait_is_130_and_says_that_the_job_goes_on(stub: Stub) -> None:
    stub.tell("GET", f"/v1/jobs/{JOB}", (200, job("running")))
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli", "job", "watch", JOB],
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: bool(stub.asked), "it watches", within_s=20)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert JOB in told and "goes on" in told and "Traceback" not in told


# ── Usage ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "forget"),
        ("recover", "shop"),
        ("recover", "shop", "--mode", "test", "--wait", "--timeout", "soon"),
        ("site", "list", "-o", "xml"),
        ("site", "add", "east", "--set", "path"),
        ("plan", "prioritise", "shop", "high"),
        ("plan", "apply", "-f", "/nowhere/shop.yaml"),
        ("lab", "write", "/nowhere/sda.raw", "--offset", "here", "--text", "x"),
        ("up", "--services", "sails"),
    ],
)
def test_wrong_usage_is_2_before_anything_is_asked(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("SEAWALL_HOME", str(tmp_path / "home"))
    result = say(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.strip()
    assert stub.asked == []


def test_what_acts_on_production_is_not_done_where_nobody_can_say_yes(stub: Stub) -> None:
    result = say("recover", "shop", "--mode", "failover")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert stub.asked == []


# ── What is sent ─────────────────────────────────────────────────────────────────────────────


def test_recover_sends_every_choice(stub: Stub) -> None:
    stub.tell("POST", RECOVER, (202, job("queued")))
    say(
        "recover", "shop", "--mode", "test", "--vm", "db", "--vm", "web", "--checkpoint", "c1",
        "--skip-script", "post-recovery:db", "--on-error", "stop", "--dry-run", "--no-last-sync",
        "--source-gone",
    )  # fmt: skip
    assert stub.bodies(RECOVER) == [
        {
            "mode": "test",
            "vms": ["db", "web"],
            "checkpoint": "c1",
            "skip_scripts": ["post-recovery:db"],
            "on_error": "stop",
            "dry_run": True,
            "last_sync": False,
            "source_gone": True,
        }
    ]
    assert stub.asked[0].query == {"wait": "10s"}


@pytest.mark.parametrize("words", ["rollback", "rollback --leave-off", "cleanup"])
def test_what_discards_data_sends_the_name_that_was_typed(stub: Stub, words: str) -> None:
    action, *word = words.split()
    path = f"/v1/jobs/recovery:shop:r1/{action}"
    stub.tell("POST", path, (409, refusal("confirm", "all is lost")), (202, job("queued")))
    nobody = say(action, "recovery:shop:r1", *word)
    assert nobody.exit_code == 3 and "all is lost" in nobody.stderr
    assert say(action, "recovery:shop:r1", *word, "--confirm", "shop").exit_code == 0
    more = {"leave_off": True} if word else {}
    assert stub.bodies(path) == [{**more, "confirm": ""}, {**more, "confirm": "shop"}]


def test_powering_originals_off_wants_the_sites_name_and_may_name_vms(stub: Stub) -> None:
    path = "/v1/sites/east/power-off"
    stub.tell("POST", path, (409, refusal("confirm", "db runs BESIDE it")), (202, job("queued")))
    nobody = say("site", "power-off", "east")
    assert nobody.exit_code == 3 and "db runs BESIDE it" in nobody.stderr
    named = say("site", "power-off", "east", "--confirm", "east", "--vm", "db", "--vm", "web")
    assert named.exit_code == 0
    assert stub.bodies(path) == [
        {"vms": [], "confirm": ""}, {"vms": ["db", "web"], "confirm": "east"},
    ]  # fmt: skip


def test_the_second_word_of_a_release_is_sent_only_where_it_is_given(stub: Stub) -> None:
    path = "/v1/sites/east/release"
    stub.tell("POST", path, (200, SITE), (200, SITE))
    assert say("site", "release", "east", "--confirm", "east").exit_code == 0
    both = say("site", "release", "east", "--confirm", "east", "--originals-running")
    assert both.exit_code == 0
    assert stub.bodies(path) == [
        {"confirm": "east"}, {"confirm": "east", "originals_running": True},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("option", "sent"),
    [((), {}), (("--auto-rollback",), {"auto_rollback": True}),
     (("--no-auto-rollback",), {"auto_rollback": False})],
)  # fmt: skip
def test_an_automatic_roll_back_is_sent_only_where_it_is_chosen(
    stub: Stub, option: tuple[str, ...], sent: dict[str, bool]
) -> None:
    stub.tell("POST", RECOVER, (202, job("queued")))
    assert say("recover", "shop", "--mode", "migrate", "--yes", *option).exit_code == 0
    (body,) = stub.bodies(RECOVER)
    assert {k: v for k, v in body.items() if k == "auto_rollback"} == sent


def test_a_commit_names_its_recovery(stub: Stub) -> None:
    stub.tell("POST", "/v1/jobs/recovery:shop:r1/commit", (202, job("queued")))
    assert say("commit", "recovery:shop:r1").exit_code == 0
    assert say("commit", "recovery:shop:r1", "--without-failed").exit_code == 0
    assert stub.bodies("/v1/jobs/recovery:shop:r1/commit") == [{}, {"without_failed": True}]


def test_a_site_is_released_by_its_name(stub: Stub) -> None:
    stub.tell("POST", "/v1/sites/east/release", (200, {"name": "east"}))
    assert say("site", "release", "east", "--confirm", "east").exit_code == 0
    assert stub.bodies("/v1/sites/east/release") == [{"confirm": "east"}]


REHEARSED = {
    "vms": 1, "disks": 1, "disk_bytes": 1 << 20, "calls_total": 3, "seconds_min": 20.0,
    "calls": [{"call": "rebuild_disk", "vm": "db", "boot_order": 1, "disk": "sda"}],
    "calls_sha256": "ab",
    "budgets": {
        "RunInstances": {"calls": 1, "burst": 5, "per_second": 2, "seconds_min": 0.0},
        "CreateVolume": {"calls": 1},
    },
}  # fmt: skip
CALLS = [
    REHEARSED["calls"][0],  # type: ignore[index]
    {"call": "create_instance", "vm": "db", "boot_order": 1},
    {"call": "power_on", "vm": "db", "boot_order": 1, "boot_delay_s": 20},
]


def test_a_dry_run_is_waited_for_and_prints_every_call_and_budget(stub: Stub) -> None:
    stub.tell("POST", RECOVER, (202, job("queued")))
    ended = job("completed", dry_run=True, facts=REHEARSED)
    stub.tell("GET", f"/v1/jobs/{JOB}", (200, job("running", dry_run=True)), (200, ended))
    stub.tell("GET", f"/v1/jobs/{JOB}/calls", (200, listing(*CALLS)))
    result = say("recover", "shop", "--mode", "test", "--dry-run")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == [JOB]
    assert ["1", "rebuild_disk", "db", "1", "sda"] in lines
    assert ["3", "power_on", "db", "1", "–"] in lines
    assert ["RunInstances", "1", "5", "2", "0s"] in lines
    assert ["CreateVolume", "1", "open", "open", "–"] in lines
    assert "predicted duration: at least 20s" in result.stdout
    told = json.loads(say("recover", "shop", "--mode", "test", "--dry-run", "-o", "json").stdout)
    assert told["facts"]["calls"] == CALLS
    assert "power_on" in say("job", "show", JOB).stdout


def test_a_dry_run_whose_preflight_failed_says_why(stub: Stub) -> None:
    stub.tell("POST", RECOVER, (202, job("queued")))
    error = {"code": "no-copy", "message": "db has no complete copy", "remedy": "replicate"}
    stub.tell("GET", f"/v1/jobs/{JOB}", (200, job("failed", dry_run=True, facts={}, error=error)))
    result = say("recover", "shop", "--mode", "test", "--dry-run")
    assert result.exit_code == 5
    assert "db has no complete copy" in result.stdout and "predicted" not in result.stdout


@pytest.mark.parametrize("whole", [True, False])
def test_a_steps_output_is_printed_as_it_is(stub: Stub, *, whole: bool) -> None:
    path = f"/v1/jobs/{JOB}/steps/pre-script/output"
    stub.tell("GET", path, (200, {"output": "[a]\nb\n", "whole": whole}))
    result = say("job", "output", JOB, "pre-script")
    assert (result.exit_code, result.stdout) == (0, "[a]\nb\n")
    assert ("only the end" in result.stderr) is not whole


ENTRY = {
    "position": 1, "class": "replication", "priority": 3, "plan": "shop", "kind": "transfer",
    "ready_at": "2026-11-22T20:00:00Z", "estimated_start": "2026-11-22T20:01:00Z", "worker": "",
    "blocked_by": ["node:west"],
}  # fmt: skip


def test_the_queue_tells_starts_what_they_assume_and_where_it_goes_on(stub: Stub) -> None:
    page = {**listing(ENTRY, following="100"), "budgets": [], "estimates_assume": "a calm sea"}
    stub.tell("GET", "/v1/queue", (200, page))
    shown = say("queue", "--cursor", "0")
    assert shown.exit_code == 0, shown.output
    assert "STARTS ABOUT" in shown.stdout and "a calm sea" in shown.stdout
    assert "seawall queue --limit 100 --cursor 100" in shown.stdout
    assert stub.asked[-1].query == {"limit": "100", "cursor": "0"}


def test_nodes_are_listed_with_how_busy_they_are(stub: Stub) -> None:
    node = {
        "name": "west-replication", "site": "west", "kind": "replication", "state": "online",
        "capacity": 40, "in_use": 3,
    }  # fmt: skip
    stub.tell("GET", "/v1/nodes", (200, listing(node)))
    line = say("node", "list").stdout.splitlines()[1]
    assert line.split() == [
        *("west-replication", "west", "replication", "online", "3", "of", "40", "–")
    ]


def test_prep_nodes_are_listed_with_seats_and_drained_by_name(stub: Stub) -> None:
    node = {
        "name": "west-prep1", "site": "west", "kind": "prep", "state": "off", "capacity": 25,
        "in_use": 0, "drained": True, "error": {"code": "x", "message": "no host is free"},
    }  # fmt: skip
    stub.tell("GET", "/v1/nodes", (200, listing(node)))
    line = say("node", "list").stdout.splitlines()[1]
    assert "off, drained" in line and "0 of 25" in line and "no host is free" in line
    for action in ("drain", "undrain"):
        stub.tell("POST", f"/v1/nodes/west-prep1/{action}", (200, {"command": {}}))
        done = say("node", action, "west-prep1")
        assert (done.exit_code, stub.asked[-1].path) == (0, f"/v1/nodes/west-prep1/{action}")


def test_a_deletion_prints_its_job_and_is_waited_for(stub: Stub) -> None:
    deletion = "checkpoint:shop:c1.delete"
    stub.tell("DELETE", "/v1/checkpoints/checkpoint:shop:c1", (202, job("queued", id=deletion)))
    result = say("checkpoint", "delete", "checkpoint:shop:c1")
    assert (result.exit_code, result.stdout) == (0, f"{deletion}\n")
    stub.tell("GET", f"/v1/jobs/{deletion}", (200, job("failed", id=deletion)))
    assert say("checkpoint", "delete", "checkpoint:shop:c1", "--wait").exit_code == 5


def test_site_add_makes_its_path_absolute(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stub.tell("POST", "/v1/sites", (200, {"command": {}}))
    assert say("site", "add", "east", "--set", "path=east").exit_code == 0
    assert stub.bodies("/v1/sites")[0]["settings"] == {"path": str(tmp_path / "east")}


def test_names_are_quoted_in_paths(stub: Stub) -> None:
    stub.tell("GET", "/v1/plans/a/b?c", (200, {}))
    say("plan", "show", "a/b?c", "-o", "json")
    assert [asked.path for asked in stub.asked] == ["/v1/plans/a/b?c"]


def test_filters_reach_the_query(stub: Stub) -> None:
    stub.tell("GET", "/v1/jobs", (200, listing()))
    say("job", "list", "--plan", "shop", "--state", "failed", "--since", "2026-01-01T00:00:00Z")
    assert stub.asked[0].query == {
        "plan": "shop", "state": "failed", "since": "2026-01-01T00:00:00Z", "limit": "50",
    }  # fmt: skip


def test_all_pages_of_a_listing_are_read(stub: Stub) -> None:
    vm = {
        "name": "db", "plan": "shop", "sync_state": "in-sync", "rpo_s": 1.0, "boot_order": 1,
        "last_checkpoint_at": None, "next_due_at": None, "error": None,
    }  # fmt: skip
    stub.tell(
        "GET", "/v1/vms", (200, listing(vm, following="n1")), (200, listing({**vm, "name": "web"}))
    )
    result = say("vm", "list", "-o", "json")
    assert [item["name"] for item in json.loads(result.stdout)["items"]] == ["db", "web"]
    assert [asked.query.get("cursor") for asked in stub.asked] == [None, "n1"]


# ── Plans ────────────────────────────────────────────────────────────────────────────────────

PLAN = """\
name: shop
protected_site: east
recovery_site: west
replication: {interval: 15m}
vms:
  - {name: db}
"""


def applied(changes: list[str], version: int) -> tuple[int, Any]:
    return 200, {"command": {"details": {"changes": changes, "version": version}}}


def test_apply_shows_the_changes_first_and_then_applies(stub: Stub, tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(PLAN)
    stub.tell("POST", "/v1/plans", applied(["+ vms.db"], 0), applied(["+ vms.db"], 1))
    result = say("plan", "apply", "-f", str(file))
    assert (result.exit_code, "+ vms.db" in result.stdout) == (0, True), result.output
    assert "version 1" in result.stdout
    assert [body["dry_run"] for body in stub.bodies("/v1/plans")] == [True, False]


def test_an_unchanged_plan_is_not_applied(stub: Stub, tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(PLAN)
    stub.tell("POST", "/v1/plans", applied([], 3))
    result = say("plan", "apply", "-f", str(file))
    assert (result.exit_code, result.stdout) == (0, "unchanged\n")
    assert [body["dry_run"] for body in stub.bodies("/v1/plans")] == [True]


def test_apply_shows_the_binding_limit_and_what_it_is_over(stub: Stub, tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(PLAN)
    status, answer = applied(["+ vms.db"], 1)
    uses = [
        {"message": "west sustains 9 StartSnapshot", "over": True},
        {"message": "west sustains 36,000 node", "over": False},
    ]
    answer["command"]["details"]["capacity"] = uses
    stub.tell("POST", "/v1/plans", (status, answer))
    result = say("plan", "apply", "-f", str(file), "--over-capacity")
    assert "over capacity: west sustains 9 StartSnapshot" in result.stdout
    assert "36,000" not in result.stdout
    assert [body["over_capacity"] for body in stub.bodies("/v1/plans")] == [True, True]
    uses.pop(0)
    result = say("plan", "apply", "-f", str(file), "--dry-run")
    assert "  capacity: west sustains 36,000 node" in result.stdout
    assert [body["over_capacity"] for body in stub.bodies("/v1/plans")][2:] == [False]


def test_the_services_problems_are_told_with_file_and_line(stub: Stub, tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(PLAN)
    found = {
        "path": ["vms", 0, "name"], "field": "vms[0].name", "found": '"db"',
        "allowed": "a VM of east", "message": "",
    }  # fmt: skip
    stub.tell("POST", "/v1/plans", (422, refusal("invalid", problems=[found])))
    result = say("plan", "apply", "-f", str(file))
    assert result.exit_code == 2
    assert 'shop.yaml:6: vms[0].name: found "db"; allowed: a VM of east' in result.stderr


# ── What is shown ────────────────────────────────────────────────────────────────────────────


def test_a_table_in_a_pipe_holds_whole_values(stub: Stub) -> None:
    stub.tell("GET", "/v1/sites", (200, listing(SITE)))
    lines = say("site", "list").stdout.splitlines()
    assert len(lines) == 2
    assert f"path={SITE['settings']['path']}" in lines[1]  # type: ignore[index]


def test_what_came_from_outside_is_not_read_as_markup(stub: Stub) -> None:
    error = {"code": "x", "message": "[red]boom[/] [/nothing]", "remedy": "[bold]mend[/bold]"}
    step = {"name": "[a]", "state": "failed", "attempts": 1, "error": error, "output": "[/x]"}
    stub.tell("GET", f"/v1/jobs/{JOB}", (200, job("failed", steps=[step], error=error)))
    shown = say("job", "show", JOB)
    watched = say("job", "watch", JOB)
    assert (shown.exit_code, watched.exit_code) == (0, 5), shown.output
    assert "[red]boom[/] [/nothing]" in shown.stdout and "[bold]mend[/bold]" in shown.stdout
    assert "[a]" in watched.stdout


def test_machine_formats_give_the_document_itself(stub: Stub) -> None:
    page = listing(SITE)
    stub.tell("GET", "/v1/sites", (200, page))
    assert json.loads(say("site", "list", "-o", "json").stdout) == page
    assert yaml.safe_load(say("site", "list", "-o", "yaml").stdout) == page


def test_doctor_says_what_stands_in_the_way(stub: Stub) -> None:
    problems = {"scheduler": "the database does not answer"}
    stub.tell("GET", "/readyz", (503, {"status": "not ready", "problems": problems}))
    result = say("doctor")
    assert result.exit_code == 7
    assert "scheduler: the database does not answer" in result.stdout


# ── Events ───────────────────────────────────────────────────────────────────────────────────


def test_following_events_goes_on_after_the_last_one_when_the_connection_ends(stub: Stub) -> None:
    first = b': at 4\n\nid: 5\nevent: a\ndata: {"n": 5}\n\n'
    second = b': at 5\n\nid: 7\nevent: a\ndata: {"n": 7}\n\n'
    stub.tell(
        "GET", "/v1/events/stream", (200, b": at 4\n\n"), (200, first), (200, second),
        (401, refusal("unauthorized")),
    )  # fmt: skip
    result = say("event", "follow", "--plan", "shop")
    assert [json.loads(line)["n"] for line in result.stdout.splitlines()] == [5, 7]
    assert result.exit_code == 3
    resumed = [asked.headers.get("Last-Event-ID") for asked in stub.asked]
    assert resumed == [None, "4", "5", "7"]
    assert {asked.query["plan"] for asked in stub.asked} == {"shop"}


# ── Listings: filters, freshness, pages ──────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("line", "path", "query"),
    [
        ("alert list --severity major --state open", "/v1/alerts",
         {"severity": "major", "state": "open"}),
        ("vm list --plan shop --sync-state in-sync", "/v1/vms",
         {"plan": "shop", "sync_state": "in-sync"}),
        ("plan list --protected-site east", "/v1/plans", {"protected_site": "east"}),
        ("site list --platform lab --state ok", "/v1/sites", {"platform": "lab", "state": "ok"}),
        ("checkpoint list shop --state available", "/v1/checkpoints",
         {"plan": "shop", "state": "available"}),
        ("plan history shop", "/v1/events",
         {"plan": "shop", "order": "oldest", "type": "seawall.scheduler.plan-applied"}),
    ],
)  # fmt: skip
def test_a_listing_is_filtered_and_whole_and_says_how_fresh_it_is(
    stub: Stub, line: str, path: str, query: dict[str, str]
) -> None:
    stub.tell("GET", path, (200, listing({"n": 1}, following="c1")), (200, listing({"n": 2})))
    result = say(*line.split(), "-o", "json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["items"] == [{"n": 1}, {"n": 2}]
    assert (document["next"], document["as_of"]["position"]) == (None, 9)
    assert [asked.query for asked in stub.asked] == [
        {**query, "limit": "1000"},
        {**query, "limit": "1000", "cursor": "c1"},
    ]


def test_events_come_newest_first_and_go_on_backwards(stub: Stub) -> None:
    event = {"time": "2026-11-22T20:00:00Z", "type": "seawall.a", "subject": "plan:shop"}
    stub.tell("GET", "/v1/events", (200, listing(event, following="older")), (200, listing()))
    result = say("event", "list", "--limit", "1")
    assert result.exit_code == 0 and "plan:shop" in result.stdout
    assert "more with --cursor older" in result.stderr
    say("event", "list", "--limit", "1", "--cursor", "older")
    assert [asked.query for asked in stub.asked] == [
        {"order": "newest", "limit": "1"},
        {"order": "newest", "limit": "1", "cursor": "older"},
    ]


def test_a_parked_command_is_told_with_the_reason(stub: Stub) -> None:
    parked = {"command_id": "c9", "state": "parked", "job": None}
    stub.tell("POST", "/v1/plans/shop/start", (202, parked))
    stub.tell("GET", "/v1/commands/c9", (200, {**parked, "reason": "Bug: x"}))
    result = say("plan", "start", "shop")
    assert result.exit_code == 8
    assert "parked: Bug: x" in result.stderr


def test_ids_are_shown_as_they_are(stub: Stub) -> None:
    name = "iteration:a:key:b"
    stub.tell("GET", f"/v1/jobs/{name}", (404, refusal("not-found", f"no job is {name}")))
    assert name in say("job", "show", name).stderr
    stub.tell("GET", "/v1/jobs", (200, listing(job("running", id=name))))
    assert name in say("job", "list").stdout
