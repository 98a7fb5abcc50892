"""The judges of crash trials find what they look for, and a sweep holds every point."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance import crash
from tests.acceptance.client import Accepted
from tests.acceptance.judge import Verdict, judge_accepted, judge_scripts
from tests.acceptance.world import PLAN, VMS, World

JOB = "recovery:shop:x"
SCRIPT = ("db-post", JOB)
START, END = ("start", *SCRIPT), ("end", *SCRIPT)


@pytest.mark.parametrize(("lines", "state"), [([START, END], "completed"), ([START], "unknown")])
def test_a_step_is_what_its_lines_tell(lines: list[tuple[str, str, str]], state: str) -> None:
    verdict = Verdict()
    judge_scripts(lines, {SCRIPT: state}, verdict)
    assert verdict.good
    assert verdict.unknown == (state == "unknown")


@pytest.mark.parametrize(
    ("lines", "state", "found"),
    [
        ([START, END], "unknown", "unfounded"),
        ([], "unknown", "unfounded"),
        ([START], "completed", "unfounded"),
        ([START], "failed", "unfounded"),
        ([START, END], "failed", "lost"),
        ([], "completed", "lost"),
        ([], "skipped", "lost"),
    ],
)
def test_a_step_that_is_not_what_its_lines_tell_is_found(
    lines: list[tuple[str, str, str]], state: str, found: str
) -> None:
    verdict = Verdict()
    judge_scripts(lines, {SCRIPT: state}, verdict)
    assert getattr(verdict, found) and not verdict.good


def _journalled(world: World, *, without: str) -> None:
    """Everything that a run of the plan leaves, but one call for one VM."""
    calls = [
        {"call": call, "key": "k", "job": f"iteration:{PLAN}:{vm}:x", "vm": vm, "outcome": "ok"}
        for call in ("open_snapshot", "finalize", "close_snapshot")
        for vm in VMS
    ]
    world.west.mkdir(parents=True)
    lines = [json.dumps(call) for call in calls if f"{call['call']} {call['vm']}" != without]
    (world.west / "calls.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize(("without", "lost"), [("", 0), ("finalize app", 1)])
def test_an_accepted_run_whose_result_is_missing_is_lost(
    tmp_path: Path, without: str, lost: int
) -> None:
    world = World(tmp_path, seed=1)
    _journalled(world, without=without)
    verdict = Verdict()
    run = Accepted(path=f"/v1/plans/{PLAN}/run", body={}, job=f"replication-run:{PLAN}:x")
    judge_accepted(world, [run], verdict)
    assert len(verdict.lost) == lost, verdict.lost


@pytest.mark.parametrize(
    "command",
    [
        Accepted(path="/v1/sites", body={"name": "west"}),
        Accepted(path="/v1/plans", body={"plan": {"name": PLAN}}),
        Accepted(path=f"/v1/plans/{PLAN}/run", body={}),
        Accepted(path=f"/v1/plans/{PLAN}/recover", body={}, job=JOB),
        Accepted(path=f"/v1/jobs/{JOB}/cleanup", body={}, job="cleanup:shop:y"),
    ],
)
def test_any_accepted_command_that_led_to_nothing_is_lost(
    tmp_path: Path, command: Accepted
) -> None:
    verdict = Verdict()
    judge_accepted(World(tmp_path, seed=1), [command], verdict)
    assert verdict.lost


def test_a_sweep_is_every_point_once_and_a_trial_is_always_the_same() -> None:
    swept = crash.trials_of(seed=7, sweep=True)
    points = {(trial.kind, trial.point) for trial in swept}
    assert len(points) == len(swept) == 400
    assert {k for kind, k in points if kind == "call"} == set(map(float, range(1, 201)))
    assert crash.trials_of(seed=7, sweep=True) == swept


def test_fifty_trials_are_of_every_kind_and_within_reach() -> None:
    trials = crash.trials_of(seed=7, sweep=False)[:50]
    kinds = [trial.kind for trial in trials]
    assert [kinds.count(kind) for kind in ("time", "commit", "call", "stopped")] == [16, 16, 16, 2]
    assert all(trial.point <= 200 for trial in trials)
    assert any(trial.everyone for trial in trials) and any(trial.postmaster for trial in trials)
