"""The judges of crash trials find what they look for, and a sweep holds every point."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.acceptance import crash
from tests.acceptance.client import Accepted
from tests.acceptance.crew import Crew
from tests.acceptance.judge import (
    Resume,
    Verdict,
    judge_accepted,
    judge_scripts,
    judge_snapshots,
)
from tests.acceptance.work import MIXED, OPERATIONS, STAGES
from tests.acceptance.world import PLAN, VMS, World

JOB, REVERSAL = "recovery:shop:x", "reversal:shop:x"
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


def _journalled(world: World, *, without: str, number: str = "x") -> None:
    """Everything that a run of the plan leaves, but one call for one VM."""
    calls = [
        {
            "call": call,
            "key": "k",
            "job": f"iteration:{PLAN}:{vm}:{number}",
            "vm": vm,
            "outcome": "ok",
        }
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
    ("number", "without", "lost"),
    [("reverse-x", "", 0), ("reverse-x", "finalize app", 1), ("x", "", 9)],
)
def test_a_reversal_whose_copies_are_missing_is_lost(
    tmp_path: Path, number: str, without: str, lost: int
) -> None:
    world = World(tmp_path, seed=1)
    _journalled(world, without=without, number=number)
    verdict = Verdict()
    asked = {"mode": "reverse"}
    reversal = Accepted(path=f"/v1/plans/{PLAN}/recover", body=asked, job=REVERSAL)
    judge_accepted(world, [reversal], verdict)
    assert len(verdict.lost) == lost, verdict.lost


@pytest.mark.parametrize("site", ["east", "west"])
@pytest.mark.parametrize(("closed", "good"), [(True, True), (False, False)])
def test_a_snapshot_that_is_left_open_is_found_at_either_site(
    tmp_path: Path, site: str, closed: bool, good: bool
) -> None:
    world = World(tmp_path, seed=1)
    (tmp_path / site).mkdir()
    calls = ["open_snapshot", *(["close_snapshot"] if closed else [])]
    lines = [json.dumps({"call": call, "vm": "db", "outcome": "ok"}) for call in calls]
    (tmp_path / site / "calls.jsonl").write_text("\n".join(lines))
    verdict = Verdict()
    judge_snapshots(world, verdict)
    assert verdict.good is good


@pytest.mark.parametrize(
    "command",
    [
        Accepted(path="/v1/sites", body={"name": "west"}),
        Accepted(path="/v1/plans", body={"plan": {"name": PLAN}}),
        Accepted(path=f"/v1/plans/{PLAN}/run", body={}),
        Accepted(path=f"/v1/plans/{PLAN}/recover", body={}, job=JOB),
        Accepted(path=f"/v1/plans/{PLAN}/recover", body={"mode": "failover"}, job=JOB),
        Accepted(path=f"/v1/plans/{PLAN}/recover", body={"mode": "reverse"}, job=REVERSAL),
        Accepted(path=f"/v1/jobs/{JOB}/rollback", body={}, job="rollback:shop:y"),
        Accepted(path=f"/v1/jobs/{JOB}/cleanup", body={}, job="cleanup:shop:y"),
    ],
)
def test_any_accepted_command_that_led_to_nothing_is_lost(
    tmp_path: Path, command: Accepted
) -> None:
    verdict = Verdict()
    judge_accepted(World(tmp_path, seed=1), [command], verdict)
    assert verdict.lost


@pytest.mark.parametrize(
    ("resume_s", "start_s", "late"),
    [(9.9, 0.1, False), (10.1, 0.1, True), (10.1, 5.0, True), (14.0, 9.1, False),
     (14.0, 8.9, True), (40.0, 29.0, True)],
)  # fmt: skip
def test_only_what_the_machine_took_to_start_processes_is_forgiven(
    resume_s: float, start_s: float, late: bool
) -> None:
    verdict = Verdict(resumes=(Resume(), Resume(resume_s=resume_s, start_s=start_s)))
    assert verdict.late is late and verdict.good is not late


def test_a_service_is_up_once_it_said_so_after_its_restart(tmp_path: Path) -> None:
    crew = Crew(tmp_path)
    crew.log.write_text("seawall recovery health http://127.0.0.1:1\n")
    since = crew.log_size()
    assert crew.said_up(["recovery"], since=0) and not crew.said_up(["recovery"], since=since)
    with crew.log.open("a") as log:
        log.write("seawall recovery health http://127.0.0.1:2\n")
    assert crew.said_up(["recovery"], since=since)
    assert not crew.said_up(["recovery", "gateway"], since=since)


def test_a_sweep_is_every_point_once_and_a_trial_is_always_the_same() -> None:
    swept = crash.trials_of(seed=7, sweep=True, operation="test")
    shots = [shot for trial in swept for shot in trial.shots.values()]
    points = {(shot.kind, shot.point) for shot in shots}
    assert len(points) == len(swept) == 400
    assert {k for kind, k in points if kind == "call"} == set(map(float, range(1, 201)))
    assert crash.trials_of(seed=7, sweep=True, operation="test") == swept


def test_a_sweep_of_all_holds_every_point_of_every_operation() -> None:
    swept = crash.trials_of(seed=7, sweep=True)
    for name in MIXED:
        own = crash.trials_of(seed=7, sweep=True, operation=name)
        assert all(trial in swept for trial in own) and own
    assert len(swept) == sum(len(crash.trials_of(seed=7, sweep=True, operation=n)) for n in MIXED)


def test_fifty_trials_are_of_every_kind_and_operation_and_within_reach() -> None:
    trials = crash.trials_of(seed=7, sweep=False)[:50]
    shots = [(trial, aim, shot) for trial in trials for aim, shot in trial.shots.items()]
    kinds = Counter(shot.kind for _, _, shot in shots)
    # A commit of instances calls nothing: what would be aimed at its calls is at its commits.
    assert kinds["time"] == 16 and kinds["commit"] + kinds["call"] == 32 and kinds["call"] >= 14
    operations = Counter(trial.operation for trial in trials)
    assert set(operations) == {*MIXED, "stopped"} and operations["stopped"] == 2
    assert all(count >= 2 for name, count in operations.items() if name != "stopped")
    for _, aim, shot in shots:
        stage = STAGES[aim]
        reach = {"time": stage.seconds, "commit": stage.commits}
        assert shot.point <= reach.get(shot.kind, stage.calls + stage.calls_beyond)
    assert any(shot.everyone for *_, shot in shots)
    assert any(shot.postmaster for *_, shot in shots)


def test_a_chain_aims_a_kill_into_each_of_its_stages() -> None:
    (trial,) = crash.trials_of(seed=7, sweep=False, operation="chain")[:1]
    assert tuple(trial.shots) == OPERATIONS["chain"].stages
    assert {shot.kind for shot in trial.shots.values()} == {"time", "commit", "call"}
