"""Searches for a clean point as the scheduler sees them, and what parents hear of children."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from schemas import scheduler as said
from schemas.children import (
    ChildEnded,
    ChildRefused,
    ChildStarted,
    ParentEnded,
    ParentJobEnded,
    RecoverChild,
)
from schemas.clean_points import (
    CheckpointJudged,
    FindCleanPoint,
    RecordVerdict,
    StartCleanPointSearch,
    VerdictScript,
)
from schemas.plans import CheckpointPolicy, RecoveryPolicy
from schemas.recovery import EnrolVm, StartRecovery
from schemas.replicator import DeleteCheckpoint
from tests.unit.scheduler.desk import Desk, desk_with

SEARCH = "find-clean-point:shop:s1"
CHILD = "recovery:shop:s1-1"
SCRIPT = VerdictScript(run="scan.sh", runtime="sh", sha256="a" * 64, size=1)


def desk(*vms: str, count: int = 3, **plan: Any) -> Desk:
    found = desk_with(*vms, **plan)
    found.copied(*vms)
    for number in range(1, count + 1):
        make(found, f"checkpoint:shop:c{number}", *vms)
    found.sent.clear()
    return found


def make(found: Desk, name: str, *vms: str) -> None:
    found.now += dt.timedelta(minutes=1)
    found.command(said.CreateCheckpoint, plan="shop", job=name)
    made = said.CheckpointEnded(
        plan="shop", checkpoint=name, state="available", created_at=found.now, vms=vms
    )
    found.tell(made)


def search(found: Desk, job: str = SEARCH, **fields: Any) -> Any:
    return found.command(FindCleanPoint, plan="shop", job=job, verdict=SCRIPT, **fields)


def ask(found: Desk, **fields: Any) -> None:
    recover = said.Recover(command_id=CHILD, plan="shop", job=CHILD, **({"mode": "test"} | fields))
    found.tell(RecoverChild(parent=SEARCH, recover=recover))


def test_a_search_is_told_the_available_checkpoints_newest_first() -> None:
    found = desk("db", "web")
    assert search(found, tries_max=2, keep=True).outcome == "done"
    (start,) = found.take(StartCleanPointSearch)
    assert [each.checkpoint for each in start.candidates] == [
        f"checkpoint:shop:c{number}" for number in (3, 2, 1)
    ]
    assert (start.tries_max, start.keep, start.vms) == (2, True, ())
    assert start.actor == "ann"


def test_only_checkpoints_that_hold_all_chosen_vms_are_candidates() -> None:
    found = desk("db", "web", count=1)
    make(found, "checkpoint:shop:half", "db")
    search(found, vms=("web",))
    (start,) = found.take(StartCleanPointSearch)
    assert [each.checkpoint for each in start.candidates] == ["checkpoint:shop:c1"]
    assert start.vms == ("web",)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"vms": ("nobody",)}, "unknown-vm"),
        ({"skip_scripts": ("pre-recovery",)}, "no-script"),
        ({"keep": True, "order": "bisect"}, "invalid"),
        ({"expected_version": 7}, "version"),
    ],
)
def test_what_cannot_be_searched_is_refused(fields: dict[str, Any], code: str) -> None:
    found = desk("db")
    answer = search(found, **fields)
    assert (answer.outcome, answer.code) == ("refused", code)
    assert found.take(StartCleanPointSearch) == []


def test_without_a_checkpoint_there_is_nothing_to_search() -> None:
    assert search(desk("db", count=0)).code == "no-checkpoint"


def test_a_second_search_waits_and_is_refused_while_the_first_runs() -> None:
    found = desk("db")
    search(found)
    answer = search(found, job="find-clean-point:shop:s2")
    assert (answer.code, SEARCH in answer.message) == ("busy", True)


def test_no_candidate_expires_or_is_deleted_before_the_search_ends() -> None:
    found = desk("db", checkpoints=CheckpointPolicy(every_s=900.0, keep_last=3))
    search(found)
    make(found, "checkpoint:shop:c4", "db")
    assert found.take(DeleteCheckpoint) == [], "c1 would be the fourth"
    change: dict[str, Any] = {
        "plan": "shop",
        "checkpoint": "checkpoint:shop:c1",
        "action": "delete",
    }
    answer = found.command(said.ChangeCheckpoint, **change)
    assert answer is not None and (answer.code, SEARCH in answer.message) == ("in-use", True)
    found.tell(ParentEnded(plan="shop", job=SEARCH, state="completed"))
    assert [m.checkpoint for m in found.take(DeleteCheckpoint)] == ["checkpoint:shop:c1"]
    assert found.said(ParentJobEnded)[0].job == SEARCH
    assert found.tell(ParentEnded(plan="shop", job=SEARCH, state="completed")) == []


def test_a_verdict_is_kept_with_a_checkpoint_that_is_there() -> None:
    found = desk("db")
    verdict = RecordVerdict(
        plan="shop", checkpoint="checkpoint:shop:c2", verdict="infected", job=SEARCH,
        at=found.now, script_sha256="a" * 64, reason="it said no",
    )  # fmt: skip
    (judged,) = found.tell(verdict)
    assert isinstance(judged, CheckpointJudged)
    assert (judged.verdict, judged.job, judged.reason) == ("infected", SEARCH, "it said no")
    gone = RecordVerdict(
        plan="shop", checkpoint="checkpoint:shop:none", verdict="clean", job=SEARCH,
        at=found.now, script_sha256="a" * 64,
    )  # fmt: skip
    assert found.tell(gone) == []


# ── Children ─────────────────────────────────────────────────────────────────────────────────


def test_a_child_is_started_like_any_recovery_and_its_parent_hears_of_it_last() -> None:
    found = desk("db")
    ask(found, checkpoint="checkpoint:shop:c2")
    assert [type(message) for message in found.sent] == [EnrolVm, StartRecovery, ChildStarted]
    (start,) = found.take(StartRecovery)
    assert (start.parent, start.checkpoint) == (SEARCH, "checkpoint:shop:c2")
    assert found.modes("db") == {CHILD: ("read-copy", "own-instance")}
    assert found.plan.recoveries[CHILD].parent == SEARCH


@pytest.mark.parametrize(("parent", "after_s"), [(SEARCH, None), ("recovery-group:shop:g1", 60.0)])
def test_the_plan_does_not_clean_up_under_a_verdict_script(
    parent: str, after_s: float | None
) -> None:
    found = desk("db", recovery=RecoveryPolicy(auto_cleanup_after_s=60.0))
    recover = said.Recover(command_id=CHILD, plan="shop", job=CHILD, mode="test")
    found.tell(RecoverChild(parent=parent, recover=recover))
    (start,) = found.take(StartRecovery)
    assert start.header.recovery.auto_cleanup_after_s == after_s


def test_a_refused_child_is_told_to_its_parent_and_holds_nothing() -> None:
    found = desk("db")
    ask(found, checkpoint="checkpoint:shop:none")
    (refused,) = found.take(ChildRefused)
    assert (refused.job, refused.problem.code) == (CHILD, "unknown-checkpoint")
    assert refused.problem.remedy
    assert found.modes("db") == {} and found.plan.recoveries == {}


def test_a_child_that_meets_news_under_way_is_put_off_as_a_child() -> None:
    found = desk("db")
    found.command(said.Recover, plan="shop", job="recovery:shop:other", mode="test")
    found.sent.clear()
    ask(found)
    assert found.sent == [], "neither started nor refused: the other's end may be under way"
    (again,) = [timer for timer in found.timers.values() if timer.name.startswith("again-")]
    release = said.ReleaseHolds(
        plan="shop", job="recovery:shop:other", modes=("read-copy", "own-instance")
    )
    found.tell(release)
    found.fire(again)
    assert [message.parent for message in found.take(ChildStarted)] == [SEARCH]


def test_a_child_that_is_put_off_too_long_is_refused_to_its_parent() -> None:
    found = desk("db")
    found.command(said.Recover, plan="shop", job="recovery:shop:other", mode="test")
    ask(found)
    found.until(found.now + dt.timedelta(seconds=6))
    (refused,) = found.take(ChildRefused)
    assert (refused.parent, refused.problem.code) == (SEARCH, "busy")


def replicating_failover(found: Desk) -> None:
    """A failover of a VM that is being copied, asked for by a group."""
    found.command(said.RunPlan, plan="shop", job="replication-run:shop:r9")
    found.sent.clear()
    recover = said.Recover(
        command_id=CHILD, plan="shop", job=CHILD, mode="failover", last_sync=False
    )
    found.tell(RecoverChild(parent="recovery-group:shop:g1", recover=recover))
    assert found.plan.awaited[CHILD].request.parent == "recovery-group:shop:g1"
    assert found.take(ChildStarted) == [] and found.take(ChildRefused) == []


def test_a_child_that_waits_for_its_holds_is_told_of_when_it_starts() -> None:
    found = desk("db")
    replicating_failover(found)
    found.end("db", "cancelled")
    found.until(found.now + dt.timedelta(seconds=1))
    (started,) = found.take(ChildStarted)
    assert (started.parent, started.job) == ("recovery-group:shop:g1", CHILD)
    assert found.plan.recoveries[CHILD].parent == "recovery-group:shop:g1"
    assert CHILD not in found.answers, "no command was given"


def test_a_child_that_waits_in_vain_is_told_of_as_refused() -> None:
    found = desk("db")
    replicating_failover(found)
    found.until(found.now + dt.timedelta(seconds=61))
    (refused,) = found.take(ChildRefused)
    assert (refused.parent, refused.problem.code) == ("recovery-group:shop:g1", "busy")
    assert found.plan.awaited == {} and CHILD not in found.answers


def test_the_end_of_a_child_is_told_to_its_parent_once() -> None:
    found = desk("db")
    ask(found)
    found.sent.clear()
    ended = said.RecoveryEnded(plan="shop", job=CHILD, mode="test", state="completed", rto_s=2.5)
    found.tell(ended)
    found.tell(ended)
    (news,) = found.take(ChildEnded)
    assert (news.parent, news.state, news.rto_s) == (SEARCH, "completed", 2.5)


def test_nobody_is_told_of_a_recovery_that_a_person_asked_for() -> None:
    found = desk("db")
    found.command(said.Recover, plan="shop", job="recovery:shop:p", mode="test")
    found.tell(
        said.RecoveryEnded(plan="shop", job="recovery:shop:p", mode="test", state="completed")
    )
    assert found.take(ChildEnded) == [] and found.take(ChildStarted) == []
