"""What the command line says to input that cannot be: what was found, what is allowed."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner, Result

from services.cli.__main__ import app
from tests.unit.cli.stub import Stub, listing, refusal


def say(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), terminal_width=200)


def told(result: Result) -> str:
    """What was said, unbroken: usage errors come in a box."""
    return " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize("options", [(), ("--yes",)])
def test_a_mode_that_is_none_is_told_before_anybody_is_asked(
    stub: Stub, options: tuple[str, ...]
) -> None:
    result = say("recover", "shop", "--mode", "failovr", *options)
    assert result.exit_code == 2 and not stub.asked
    assert "found 'failovr'; did you mean 'failover'?" in told(result)
    assert "allowed: test, failover, migrate" in told(result)


def test_a_policy_that_is_none_is_told(stub: Stub) -> None:
    result = say("recover", "shop", "--mode", "test", "--on-error", "stopp")
    assert result.exit_code == 2 and "did you mean 'stop'?" in told(result)
    assert not stub.asked


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SEAWALL_URL", "localhost:8640", "http://127.0.0.1:8640"),
        ("SEAWALL_URL", "ftp://here", "SEAWALL_URL: found 'ftp://here'"),
        ("SEAWALL_TOKEN", "a\x07b", "SEAWALL_TOKEN is no token"),
    ],
)
def test_a_setting_that_cannot_be_is_named(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    result = say("plan", "list")
    assert result.exit_code == 2 and words in result.stderr


def test_a_line_end_behind_the_token_does_no_harm(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEAWALL_TOKEN", "sw_test\n")
    stub.tell("GET", "/v1/sites", (200, listing()))
    assert say("site", "list").exit_code == 0
    assert stub.asked[0].headers["Authorization"] == "Bearer sw_test"


@pytest.mark.parametrize(
    ("remedy", "shown"),
    [
        ("see GET /v1/jobs", "see `seawall job list`"),
        ("see GET /v1/checkpoints", "see `seawall checkpoint list PLAN`"),
        ("see /openapi.json", "see /openapi.json"),
    ],
)
def test_a_remedy_names_the_command_and_not_the_path(stub: Stub, remedy: str, shown: str) -> None:
    document = {**refusal("not-found", "no such job"), "remedy": remedy}
    stub.tell("GET", "/v1/jobs/nope", (404, document))
    result = say("job", "show", "nope")
    assert result.exit_code == 4 and f"  {shown}\n" in result.stderr


def test_each_wrong_field_is_told_with_what_was_found_and_what_is_allowed(stub: Stub) -> None:
    problem: dict[str, Any] = {"field": "verdict.runtime", "found": "nothing", "allowed": "sh, go"}
    stub.tell("POST", "/v1/plans/shop/start", (422, refusal("invalid", problems=[problem])))
    result = say("plan", "start", "shop")
    assert result.exit_code == 2
    assert "  verdict.runtime: found nothing; allowed: sh, go\n" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (("vm", "list", "--plan", "shp"), "/v1/vms"),
        (("checkpoint", "list", "shp"), "/v1/checkpoints"),
        (("plan", "history", "shp"), "/v1/events"),
    ],
)
def test_nothing_of_a_plan_that_is_none_is_not_found(
    stub: Stub, arguments: tuple[str, ...], path: str
) -> None:
    stub.tell("GET", path, (200, listing()))
    stub.tell("GET", "/v1/plans/shp", (404, refusal("not-found", "no plan is named 'shp'")))
    result = say(*arguments)
    assert result.exit_code == 4 and "no plan is named 'shp'" in result.stderr
    stub.tell("GET", "/v1/plans/shp", (200, {"name": "shp"}))
    assert say(*arguments).exit_code == 0
