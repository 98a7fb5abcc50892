"""Asking for a plan or a job as it was at a moment."""

from __future__ import annotations

import json

from tests.unit.cli.stub import Stub, job, refusal
from tests.unit.cli.test_commands import JOB, say


def test_a_plan_and_a_job_are_asked_for_as_they_were(stub: Stub) -> None:
    at = "2026-11-22T20:00:00+02:00"
    stub.tell("GET", f"/v1/jobs/{JOB}", (200, job("running")))
    shown = say("job", "show", JOB, "--at", at, "-o", "json")
    assert (shown.exit_code, json.loads(shown.stdout)["state"]) == (0, "running")
    stub.tell("GET", "/v1/plans/shop", (422, refusal("invalid", "at: found 'noon'")))
    wrong = say("plan", "show", "shop", "--at", "noon")
    assert wrong.exit_code == 2
    assert "at: found 'noon'" in wrong.stderr
    stub.tell("GET", "/v1/plans/shop", (404, refusal("not-found", "plan 'shop' was not there")))
    assert say("plan", "show", "shop", "--at", at).exit_code == 4
    assert [asked.query for asked in stub.asked] == [{"at": at}, {"at": "noon"}, {"at": at}]


def test_without_a_moment_none_is_sent(stub: Stub) -> None:
    stub.tell("GET", f"/v1/jobs/{JOB}", (200, job("running")))
    assert say("job", "show", JOB).exit_code == 0
    assert stub.asked[0].query == {}
