"""Searches and groups as jobs, and verdicts on checkpoints, folded from what deciders say."""

from __future__ import annotations

from typing import Any

import pytest

from schemas import replicator
from schemas.children import CleanupGroup
from schemas.joins import checkpoint_now
from schemas.plans import ReplicationPolicy
from schemas.scheduler import ChangeCheckpoint, PlanHeader
from schemas.views import ENDED, Checkpoint, CheckpointMark, Job
from services.projector.model import MemoryReadModel
from tests.unit.projector.history import EAST, WEST, History
from tests.unit.recovery.pair import INFECTED, SEARCH, TIMED_OUT, Pair, checkpoint, search
from tests.unit.recovery.test_clean_point import infected
from tests.unit.recovery.test_group import CLEANUP, GROUP, failing, plans, recover


def model(pair: Pair) -> MemoryReadModel:
    """The read models that follow from what both services said."""
    history = History()
    for stream, events in pair.desk.events.items():
        history.say("scheduler", stream, *events)
    for stream, event, at in pair.world.log:
        history.now = at
        history.say("recovery", stream, event)
    return history.model()


def job(pair: Pair, name: str) -> Job:
    found: Job = model(pair).tables["jobs"][name]
    return found


def children(pair: Pair, parent: str) -> set[str]:
    return {row for row, each in model(pair).tables["jobs"].items() if each.parent_id == parent}


def searched(**verdicts: Any) -> Pair:
    pair = infected()
    pair.verdicts |= {f"checkpoint:shop:{name}": report for name, report in verdicts.items()}
    search(pair)
    pair.run()
    return pair


def test_a_search_has_a_step_per_checkpoint_it_tried_and_offers_the_clean_one() -> None:
    pair = searched(c3=INFECTED)
    found = job(pair, SEARCH)
    assert (found.kind, found.state, found.percent) == ("find-clean-point", "completed", 100.0)
    assert [(step.name, step.state) for step in found.steps] == [
        (checkpoint(3), "completed"),
        (checkpoint(2), "completed"),
    ]
    assert found.steps[0].output == "found it"
    assert found.checkpoint == checkpoint(2)
    assert found.facts["verdicts"] == {checkpoint(3): "infected", checkpoint(2): "clean"}


def test_a_step_without_an_answer_is_unknown_and_says_why() -> None:
    step = job(searched(c3=TIMED_OUT), SEARCH).steps[0]
    assert step.state == "unknown" and step.error is not None
    assert "ran longer" in step.error.message


def test_tests_and_their_cleanups_are_children_of_their_search() -> None:
    assert children(searched(c3=INFECTED), SEARCH) == {
        "recovery:shop:s1-1", "recovery:shop:s1-2", "cleanup:shop:s1-1-1", "cleanup:shop:s1-2-1",
    }  # fmt: skip


def test_a_search_stands_as_queued_before_its_service_begins_it() -> None:
    pair = infected()
    search(pair)
    requested = model(pair).tables["job_requests"][SEARCH]
    assert (requested.kind, requested.state) == ("find-clean-point", "queued")
    pair.run()
    assert SEARCH not in model(pair).tables["job_requests"]


def test_a_running_search_shows_what_it_tries_and_how_far_it_is() -> None:
    pair = infected(3)
    search(pair)
    while len(pair.tried) < 1 or "recovery:shop:s1-2" not in children(pair, SEARCH):
        assert pair.step()
    found = job(pair, SEARCH)
    assert found.state == "running" and found.percent == pytest.approx(33.3)
    assert [step.state for step in found.steps] == ["completed", "running"]


def test_a_kept_test_is_named_by_its_search() -> None:
    pair = infected(3)
    search(pair, keep=True)
    pair.run()
    found = job(pair, SEARCH)
    assert found.recovery == "recovery:shop:s1-2" and "stays up" in found.note


def test_a_cancelled_search_ends_with_its_step_cancelled() -> None:
    pair = infected()
    search(pair)
    while not any("verdict" in effect for effect in pair.world.effects):
        assert pair.step()
    pair.cancel(SEARCH)
    assert job(pair, SEARCH).cancelling
    pair.run()
    found = job(pair, SEARCH)
    assert (found.state, [step.state for step in found.steps]) == ("cancelled", ["cancelled"])


def test_a_checkpoint_shows_its_last_verdict_beside_whether_it_is_preserved() -> None:
    pair = searched(c3=INFECTED)
    mark: CheckpointMark = model(pair).tables["checkpoint_marks"][checkpoint(3)]
    assert mark.verdict is not None
    assert (mark.verdict.verdict, mark.verdict.job) == ("infected", SEARCH)
    header = PlanHeader(
        name="shop", protected=EAST, recovery_site=WEST,
        replication=ReplicationPolicy(interval_s=900.0),
    )  # fmt: skip
    started = replicator.CheckpointStarted(
        plan="shop", plan_version=1, header=header, vms=("db",),
        requested_at=pair.desk.now,
    )  # fmt: skip
    history = History().say("replicator", checkpoint(3), started)
    made: Checkpoint = history.model().tables["checkpoints"][checkpoint(3)]
    assert checkpoint_now(made, None).verdict is None
    assert checkpoint_now(made, mark).verdict == mark.verdict


def test_a_mark_that_changes_keeps_its_verdict() -> None:
    pair = searched(c3=INFECTED)
    change: dict[str, Any] = {"plan": "shop", "checkpoint": checkpoint(3), "action": "preserve"}
    pair.desk.command(ChangeCheckpoint, **change)
    mark: CheckpointMark = model(pair).tables["checkpoint_marks"][checkpoint(3)]
    assert mark.preserved and mark.verdict is not None


# ── Groups ───────────────────────────────────────────────────────────────────────────────────


def test_a_group_has_a_step_per_plan_and_its_recoveries_as_children() -> None:
    pair = plans()
    recover(pair)
    pair.run()
    found = job(pair, GROUP)
    assert (found.kind, found.state) == ("recovery-group", "completed")
    assert [(step.name, step.state) for step in found.steps] == [
        (plan, "completed") for plan in ("dns", "mail", "shop")
    ]
    assert children(pair, GROUP) == {f"recovery:{plan}:g1" for plan in ("dns", "mail", "shop")}
    assert found.awaits_cleanup and found.rto_s is not None


def test_plans_that_were_not_reached_are_skipped() -> None:
    pair = plans()
    failing(pair, "mail")
    recover(pair)
    pair.run()
    found = job(pair, GROUP)
    assert [step.state for step in found.steps] == ["completed", "failed", "skipped"]
    assert found.error is not None and "plan mail ended failed" in found.error.message


def test_a_groups_cleanup_has_a_step_per_plan_and_ends_its_wait() -> None:
    pair = plans()
    recover(pair)
    pair.run()
    pair.world.deliver(CleanupGroup(command_id="k", job=CLEANUP, group=GROUP))
    assert {step.state for step in job(pair, CLEANUP).steps} == {"running"}
    pair.run()
    found = job(pair, CLEANUP)
    assert (found.kind, found.state, found.recovery) == ("cleanup", "completed", GROUP)
    assert {step.state for step in found.steps} == {"completed"}
    assert not job(pair, GROUP).awaits_cleanup
    assert all(job(pair, child).state in ENDED for child in children(pair, CLEANUP))
