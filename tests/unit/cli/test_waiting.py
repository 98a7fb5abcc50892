"""Waiting for decisions and ends: a site that is gone, a plane that is away, time that is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from services.cli import watch
from services.cli.__main__ import app
from services.cli.commands import jobs, lost_site
from tests.unit.cli.stub import Stub, job, listing, refusal

JOB = "recovery:shop:r1"
RECOVER = "/v1/plans/shop/recover"
GONE = {
    "code": "source-unreachable",
    "message": "site east cannot be reached",
    "remedy": "if you know that its VMs do not run, add --source-gone",
}
LOST = job("failed", kind="failover", error=GONE, steps=[])


def say(*arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(app, list(arguments), input=typed)


# ── A failover of a site that is gone ────────────────────────────────────────────────────────


@pytest.fixture
def at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody reads and answers."""
    monkeypatch.setattr(lost_site, "may_ask", lambda: True)
    monkeypatch.setattr(jobs, "confirm", lambda question: None)


def failing_over(stub: Stub) -> None:
    """The site is gone: the first failover ends in preflight, one with the word goes on."""
    again = job("queued", kind="failover", id="recovery:shop:r2")
    stub.tell("POST", RECOVER, (202, job("queued", kind="failover")), (202, again))
    stub.tell("GET", f"/v1/jobs/{JOB}", (200, job("running", kind="failover")), (200, LOST))
    stub.tell("GET", "/v1/jobs/recovery:shop:r2", (200, {**again, "state": "completed"}))
    stub.tell("GET", "/v1/plans/shop", (200, {"name": "shop", "protected_site": "east"}))


@pytest.mark.usefixtures("at_a_terminal")
def test_who_types_the_sites_name_has_the_failover_started_anew_with_the_word(stub: Stub) -> None:
    failing_over(stub)
    result = say("recover", "shop", "--mode", "failover", "--wait", typed="east\n")
    assert result.exit_code == 0, result.output
    first, second = stub.bodies(RECOVER)
    assert (first["source_gone"], second["source_gone"]) == (False, True)
    assert {**first, "source_gone": True} == second
    assert "recovery:shop:r2" in result.stdout
    assert "two of it" in result.stderr and "site release east" in result.stderr


@pytest.mark.usefixtures("at_a_terminal")
@pytest.mark.parametrize("typed", ["\n", "y\n", "west\n"])
@pytest.mark.parametrize("wait", [(), ("--wait",)])
def test_anything_else_does_nothing_and_ends_as_the_job_did(
    stub: Stub, typed: str, wait: tuple[str, ...]
) -> None:
    failing_over(stub)
    result = say("recover", "shop", "--mode", "failover", *wait, typed=typed)
    assert result.exit_code == 5
    assert len(stub.bodies(RECOVER)) == 1 and "nothing was done" in result.stderr


@pytest.mark.usefixtures("at_a_terminal")
@pytest.mark.parametrize("option", ["--yes", "--source-gone"])
def test_who_wants_no_questions_is_asked_none(stub: Stub, option: str) -> None:
    failing_over(stub)
    result = say("recover", "shop", "--mode", "failover", "--wait", option, typed="east\n")
    assert result.exit_code == 5 and len(stub.bodies(RECOVER)) == 1


@pytest.mark.usefixtures("at_a_terminal")
def test_a_group_of_plans_is_not_waited_for_to_ask(stub: Stub) -> None:
    begun = job("running", kind="recovery-group", id="recovery-group:shop:g1", steps=[])
    stub.tell("POST", RECOVER, (202, begun))
    result = say("recover", "shop", "--mode", "failover", "--with-prerequisites")
    assert (result.exit_code, result.stdout) == (0, "recovery-group:shop:g1\n")
    assert len(stub.asked) == 1


@pytest.mark.usefixtures("at_a_terminal")
def test_a_failover_that_ends_in_preflight_for_another_reason_is_told_at_once(stub: Stub) -> None:
    ended = job("failed", kind="failover", error={"code": "no-copy", "message": "no copy of db"})
    stub.tell("POST", RECOVER, (202, job("queued", kind="failover")))
    stub.tell("GET", f"/v1/jobs/{JOB}", (200, ended))
    result = say("recover", "shop", "--mode", "failover")
    assert result.exit_code == 5 and "no copy of db" in result.stdout


@pytest.mark.usefixtures("at_a_terminal")
def test_a_site_that_answers_is_not_asked_about(stub: Stub) -> None:
    found = job("running", kind="failover", steps=[step("preflight", ended_at="2026-01-01")])
    stub.tell("POST", RECOVER, (202, job("queued", kind="failover")))
    stub.tell("GET", f"/v1/jobs/{JOB}", (200, found))
    result = say("recover", "shop", "--mode", "failover")
    assert (result.exit_code, result.stdout) == (0, JOB + "\n")


def step(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "state": "completed", "ended_at": None, "error": None, **fields}


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_script_is_told_the_option_and_exits_5(stub: Stub, form: str) -> None:
    failing_over(stub)
    result = say("recover", "shop", "--mode", "failover", "--yes", "--wait", "-o", form)
    assert result.exit_code == 5
    told = result.stdout if form == "table" else result.stderr
    assert "site east cannot be reached" in told and "--source-gone" in result.output


# ── Decisions that take longer ───────────────────────────────────────────────────────────────

ACCEPTED = {"command_id": "c1", "state": "accepted", "job": JOB}


def test_a_wait_covers_the_decision_too(stub: Stub) -> None:
    stub.tell("POST", RECOVER, (202, ACCEPTED))
    pending, done = {"state": "accepted"}, {"state": "done"}
    stub.tell("GET", "/v1/commands/c1", (200, pending), (200, pending), (200, done))
    stub.tell("GET", f"/v1/jobs/{JOB}", (200, job("completed")))
    result = say("recover", "shop", "--mode", "test", "--wait")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(JOB)


@pytest.mark.parametrize(("code", "exit_code"), [("busy", 3), ("unknown-checkpoint", 4)])
def test_a_late_refusal_is_one_like_any_other(stub: Stub, code: str, exit_code: int) -> None:
    stub.tell("POST", RECOVER, (202, ACCEPTED))
    late = {**refusal(code, "held by iteration:x"), "state": "refused"}
    stub.tell("GET", "/v1/commands/c1", (200, late))
    result = say("recover", "shop", "--mode", "test", "--wait")
    assert result.exit_code == exit_code
    assert "held by iteration:x" in result.stderr and "do otherwise" in result.stderr


def test_a_decision_that_does_not_come_in_time_is_8(stub: Stub) -> None:
    stub.tell("POST", RECOVER, (202, ACCEPTED))
    stub.tell("GET", "/v1/commands/c1", (200, {"state": "accepted"}))
    result = say("recover", "shop", "--mode", "test", "--wait", "--timeout", "50ms")
    assert result.exit_code == 8 and "c1" in result.stderr


# ── A control plane that is away ─────────────────────────────────────────────────────────────


def test_a_plane_that_was_away_for_a_while_is_followed_on(stub: Stub) -> None:
    away: tuple[int, Any] = (503, refusal("unavailable", "the database does not answer"))
    stub.tell("GET", f"/v1/jobs/{JOB}", (200, job("running")), away, away, (200, job("completed")))
    result = say("job", "watch", JOB)
    assert result.exit_code == 0, result.output
    assert "the job goes on" in result.stderr and "answers again" in result.stderr


def test_a_plane_that_stays_away_is_7(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SILENCE_S_MAX", 0.05)
    away: tuple[int, Any] = (503, refusal("unavailable", "the database does not answer"))
    stub.tell("GET", f"/v1/jobs/{JOB}", (200, job("running")), away)
    assert say("job", "watch", JOB).exit_code == 7


def test_a_plane_that_never_answered_is_7_at_once(stub: Stub) -> None:
    stub.tell("GET", f"/v1/jobs/{JOB}", (503, refusal("unavailable")))
    assert say("job", "watch", JOB).exit_code == 7


@pytest.mark.parametrize(
    "arguments", [("job", "watch", JOB), ("recover", "shop", "--mode", "test", "--wait")]
)
def test_who_waits_no_longer_is_told_how_to_watch_on(
    stub: Stub, arguments: tuple[str, ...]
) -> None:
    stub.tell("POST", RECOVER, (202, job("queued")))
    stub.tell("GET", f"/v1/jobs/{JOB}", (200, job("running")))
    result = say(*arguments, "--timeout", "60ms")
    assert result.exit_code == 8
    assert f"job {JOB} goes on" in result.stderr and f"seawall job watch {JOB}" in result.stderr


# ── A VM of a plan as it was ─────────────────────────────────────────────────────────────────


def test_one_vm_of_a_plan_as_it_was_is_asked_for_by_name(stub: Stub) -> None:
    stub.tell("GET", "/v1/plans/shop", (404, refusal("not-found", "not then")))
    assert say("plan", "show", "shop", "--at", "2026-01-01T00:00:00Z", "--vm", "db").exit_code == 4
    assert stub.asked[0].query == {"at": "2026-01-01T00:00:00Z", "vm": "db"}
    wrong = say("plan", "show", "shop", "--vm", "db")
    assert wrong.exit_code == 2 and "--at" in wrong.stderr


# ── The queue beside the job ─────────────────────────────────────────────────────────────────


def test_following_without_a_terminal_tells_each_fact_once(stub: Stub) -> None:
    failed = step("wait-ready", state="failed", error={"message": "no answer", "remedy": "look"})
    running = job("running", steps=[failed])
    stub.tell("GET", "/v1/queue", (200, {**listing(), "budgets": []}))
    stub.tell(
        "GET",
        f"/v1/jobs/{JOB}",
        (200, running),
        (200, running),
        (200, {**running, "state": "failed"}),
    )
    lines = say("job", "watch", JOB).stdout.splitlines()
    count: Callable[[str], int] = lambda text: sum(text in line for line in lines)  # noqa: E731
    assert count("shop: wait-ready failed: no answer") == 1
    assert count(f"seawall job retry {JOB}") == 1
