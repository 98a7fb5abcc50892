"""Searches for a clean point and groups of plans, on the command line against a stub."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from services.cli import client
from services.cli.__main__ import app
from tests.unit.cli.stub import Stub, job, stub_server

RECOVER = "/v1/plans/shop/recover"


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setattr(client, "JOB_POLL_S", 0.01)
    monkeypatch.setenv("SEAWALL_TOKEN", "sw_test")
    with stub_server() as served:
        monkeypatch.setenv("SEAWALL_URL", served.url)
        yield served


def say(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_recover_asks_for_prerequisites_only_where_they_are_wanted(stub: Stub) -> None:
    stub.tell("POST", RECOVER, (202, job("queued", id="recovery-group:shop:g1")))
    result = say("recover", "shop", "--mode", "test", "--with-prerequisites")
    assert result.stdout.strip() == "recovery-group:shop:g1"
    assert stub.bodies(RECOVER)[0]["with_prerequisites"] is True


SEARCH = "/v1/plans/shop/find-clean-point"


def test_a_search_sends_its_script_and_every_choice(stub: Stub, tmp_path: Path) -> None:
    stub.tell("POST", SEARCH, (202, job("queued", id="find-clean-point:shop:s1")))
    script = tmp_path / "scan"
    script.write_bytes(b"exit 0\n")
    result = say(
        "checkpoint", "find-clean", "shop", "--verdict", str(script), "--runtime", "bash",
        "--script-timeout", "90s", "--order", "bisect", "--vm", "db", "--limit", "4",
        "--skip-script", "pre-recovery",
    )  # fmt: skip
    assert result.stdout.strip() == "find-clean-point:shop:s1"
    assert stub.bodies(SEARCH) == [
        {
            "verdict": {
                "run": str(script),
                "content": base64.b64encode(b"exit 0\n").decode(),
                "timeout": "90s",
                "runtime": "bash",
            },
            "order": "bisect",
            "vms": ["db"],
            "limit": 4,
            "keep": False,
            "skip_scripts": ["pre-recovery"],
        }
    ]


def test_a_verdict_script_that_cannot_be_read_asks_for_nothing(stub: Stub, tmp_path: Path) -> None:
    result = say("checkpoint", "find-clean", "shop", "--verdict", str(tmp_path / "none.sh"))
    assert result.exit_code == 2 and "no such file" in result.stderr
    large = tmp_path / "large.sh"
    large.write_bytes(b"#" * (1 << 20) + b"#")
    result = say("checkpoint", "find-clean", "shop", "--verdict", str(large))
    assert result.exit_code == 2 and "larger than" in result.stderr
    assert stub.asked == []


def test_a_search_shows_each_verdict_and_the_clean_point(stub: Stub) -> None:
    name = "find-clean-point:shop:s1"
    steps = [
        {"name": f"checkpoint:shop:{each}", "state": "completed", "attempts": 1}
        for each in ("c2", "c1")
    ]
    verdicts = {"checkpoint:shop:c2": "infected", "checkpoint:shop:c1": "clean"}
    found = job(
        "completed", id=name, kind="find-clean-point", steps=steps,
        checkpoint="checkpoint:shop:c1", facts={"verdicts": verdicts},
    )  # fmt: skip
    stub.tell("GET", f"/v1/jobs/{name}", (200, found))
    told = say("job", "show", name).stdout
    assert "checkpoint:shop:c2  completed  infected" in told
    assert "clean    checkpoint:shop:c1" in told
