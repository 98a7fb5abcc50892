"""`seawall doctor`: what it tells of the whole, and what of left-overs two looks agree on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.cli.commands import doctor
from tests.unit.cli.stub import Stub, listing
from tests.unit.cli.test_commands import say

SITE = {"name": "west", "state": "ok"}
CHECK = "/v1/sites/west/check"
LISTED = {"name": "west", "state": "ok", "listed_at": None, "objects": 9, "compared": 9}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "AGAIN_S", 0.0)


def left(id_: str) -> dict[str, Any]:
    return {
        "site": "west", "kind": "instance", "id": id_, "plan": "shop", "vm": "db", "job": "j",
        "code": "left-over", "age_s": 90.0, "why": "its job has ended", "remedy": "delete it",
        "command": "seawall job show j", "by": "operator",
    }  # fmt: skip


def page(*ids: str, **site: Any) -> dict[str, Any]:
    return {**listing(*map(left, ids)), "sites": [{**LISTED, **site}]}


def test_only_what_two_looks_agree_on_is_left_over(stub: Stub) -> None:
    stub.tell("GET", "/v1/sites", (200, listing(SITE)))
    stub.tell("POST", CHECK, (200, {}))
    stub.tell("GET", "/v1/leftovers", (200, page("i1", "i2")), (200, page("i2", "i3")))
    result = say("doctor", "--leftovers")
    assert result.exit_code == 5
    assert "i2" in result.stdout and "i1" not in result.stdout and "i3" not in result.stdout
    assert "you: delete it" in result.stdout and "see: seawall job show j" in result.stdout
    assert stub.bodies(CHECK) == [{"list_owned": True}] * 2


def test_nothing_left_over_is_said_and_done(stub: Stub) -> None:
    stub.tell("GET", "/v1/sites", (200, listing(SITE)))
    stub.tell("POST", CHECK, (200, {}))
    stub.tell("GET", "/v1/leftovers", (200, page(objects=30_000, compared=20_000)))
    result = say("doctor", "--leftovers")
    assert result.exit_code == 0
    assert "nothing is left over" in result.stdout
    assert "of 30000 objects the first 20000 were compared" in result.stderr


def test_a_site_that_cannot_be_listed_is_no_clean_one(stub: Stub) -> None:
    stub.tell("GET", "/v1/sites", (200, listing(SITE)))
    gone = {"code": "site-gone", "message": "the site is gone", "remedy": "mend it"}
    stub.tell("POST", CHECK, (409, gone))
    stub.tell("GET", "/v1/leftovers", (200, page("i1")))
    result = say("doctor", "--leftovers", "-o", "json")
    assert result.exit_code == 7
    told = json.loads(result.stdout)
    assert told["items"] == [] and told["problems"] == {"west": "the site is gone"}


def test_the_whole_is_told_with_alerts_clocks_and_lowered_budgets(stub: Stub) -> None:
    budget = {
        "name": "west/RunInstances", "mode": "rate", "limit": 1.94, "cap": 20.0, "lowered": True,
        "throttled": 812, "paused_until": None,
    }  # fmt: skip
    notes = {"scripts of recovery": "run as user nobody, without a network"}
    stub.tell("GET", "/readyz", (200, {"status": "ready", "notes": notes}))
    stub.tell("GET", "/v1/sites", (200, listing(SITE)))
    alerts = listing({"severity": "major"}, {"severity": "major"})
    stub.tell("GET", "/v1/alerts", (200, alerts))
    queue = {**listing(), "budgets": [budget], "at": "2000-01-01T00:00:00Z"}
    stub.tell("GET", "/v1/queue", (200, queue))
    result = say("doctor")
    assert result.exit_code == 0, result.output
    assert "2 major open" in result.stdout
    assert "west/RunInstances lowered to 1.94/s" in result.stdout
    assert "set the clocks" in result.stdout
    assert "scripts of recovery: run as user nobody, without a network" in result.stdout
    stub.tell("GET", "/readyz", (200, {"status": "ready"}))
    assert "/readyz of recovery and replicator" in say("doctor").stdout
