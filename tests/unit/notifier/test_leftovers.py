"""What should be gone and is not: an alert that closes by itself when it is."""

from __future__ import annotations

from typing import Any

from schemas.common import Problem, StepTiming
from schemas.notifier import AlertOpened, AlertRepeated
from schemas.prep import PrepNodeSettled, PrepNodeTroubled
from schemas.recovery import CleanupFinished, CleanupTroubled, VmFinished, VmReleaseTroubled
from schemas.replicator import (
    CheckpointDeleted,
    CheckpointFinished,
    CheckpointRemovalTroubled,
    IterationFinished,
    LeftoverRemoved,
)
from tests.unit.notifier.desk import Desk

FIRST, SECOND = "iteration:shop:db:t1", "iteration:shop:db:t2"
SNAPSHOT, STAGING = "alert:shop:snapshot-left:db", "alert:shop:staging-left:db"
CHECKPOINT = "checkpoint:shop:c1"
AWAY = Problem(code="site-away", message="the site is away", remedy="bring it back")


def left(*what: Any, state: Any = "partially-completed") -> IterationFinished:
    broken = StepTiming(name="remove-snapshot", state="failed", error="the site is away")
    return IterationFinished(plan="shop", vm="db", state=state, leftovers=what, steps=(broken,))


def test_a_snapshot_that_stays_is_an_alert_until_it_is_removed() -> None:
    desk = Desk()
    desk.hear(left("snapshot"), stream=FIRST)
    assert desk.open_alerts() == {SNAPSHOT}
    (opened,) = desk.events(AlertOpened)
    assert (opened.severity, opened.text, opened.job) == ("major", "the site is away", FIRST)
    assert "db" in opened.title and opened.remedy
    desk.hear(LeftoverRemoved(what="snapshot"), stream=FIRST)
    assert desk.open_alerts() == set()


def test_it_closes_with_the_last_of_several() -> None:
    desk = Desk()
    desk.hear(left("snapshot"), stream=FIRST)
    desk.hear(left("snapshot"), stream=SECOND)
    assert len(desk.events(AlertOpened)) == len(desk.events(AlertRepeated)) == 1
    desk.hear(LeftoverRemoved(what="snapshot"), stream=SECOND)
    assert desk.open_alerts() == {SNAPSHOT}
    desk.hear(LeftoverRemoved(what="snapshot"), stream=SECOND)
    assert desk.open_alerts() == {SNAPSHOT}
    desk.hear(LeftoverRemoved(what="snapshot"), stream=FIRST)
    assert desk.open_alerts() == set()


def test_a_cancelled_iteration_may_leave_something_too() -> None:
    desk = Desk()
    desk.hear(left("snapshot", "generations", state="cancelled"), stream=FIRST)
    assert desk.open_alerts() == {SNAPSHOT, STAGING}
    desk.hear(LeftoverRemoved(what="generations"), stream=FIRST)
    assert desk.open_alerts() == {SNAPSHOT}


def test_a_checkpoint_that_stays_is_an_alert_until_it_is_deleted() -> None:
    desk = Desk()
    stays = CheckpointRemovalTroubled(plan="shop", vm="db", attempts=3, problem=AWAY)
    desk.hear(stays, stream=CHECKPOINT)
    assert desk.open_alerts() == {"alert:shop:checkpoint-left:c1"}
    desk.hear(CheckpointDeleted(plan="shop"), stream="checkpoint:shop:other")
    assert len(desk.open_alerts()) == 1
    desk.hear(CheckpointDeleted(plan="shop"), stream=CHECKPOINT)
    assert desk.open_alerts() == set()


def test_what_a_cancelled_checkpoint_made_is_an_alert_until_it_is_removed() -> None:
    desk = Desk()
    stays = CheckpointRemovalTroubled(plan="shop", vm="db", attempts=3, problem=AWAY)
    desk.hear(stays, CheckpointFinished(plan="shop", state="cancelled"), stream=CHECKPOINT)
    assert len(desk.events(AlertOpened)) == 1
    assert desk.open_alerts() == set()


def test_a_copy_that_cannot_be_let_go_is_an_alert_until_its_vm_has_ended() -> None:
    desk = Desk()
    job = "recovery:shop:r1"
    desk.hear(VmReleaseTroubled(plan="shop", vm="db", job=job, attempts=3, problem=AWAY))
    assert desk.open_alerts() == {"alert:shop:copy-held:db"}
    other = "recovery:shop:r2"
    desk.hear(VmFinished(plan="shop", vm="db", job=other, outcome="ready", state="completed"))
    assert len(desk.open_alerts()) == 1
    desk.hear(VmFinished(plan="shop", vm="db", job=job, outcome="ready", state="completed"))
    assert desk.open_alerts() == set()


def test_a_cleanup_that_is_stuck_is_an_alert_before_it_ends_and_until_one_completes() -> None:
    desk = Desk()
    stuck = CleanupTroubled(
        plan="shop", recovery="recovery:shop:r1", kind="instance", object_id="i1", attempts=3,
        problem=AWAY,
    )  # fmt: skip
    desk.hear(stuck, stream="cleanup:shop:k1")
    (opened,) = desk.events(AlertOpened)
    assert "instance i1" in opened.title and opened.text == "the site is away"
    end = CleanupFinished(plan="shop", recovery="recovery:shop:r1", state="partially-completed")
    desk.hear(end, stream="cleanup:shop:k1")
    assert desk.open_alerts() == {"alert:shop:cleanup-incomplete:r1"}
    end = CleanupFinished(plan="shop", recovery="recovery:shop:r1", state="completed")
    desk.hear(end, stream="cleanup:shop:k2")
    assert desk.open_alerts() == set()


def test_a_prep_node_that_stays_on_is_an_alert_until_it_is_off_or_needed_again() -> None:
    desk = Desk()
    pool, alert = "prep-pool:west", "alert:west:prep-node-left:prep1"
    troubled = PrepNodeTroubled(site="west", node="prep1", attempts=3, problem=AWAY)
    ends: tuple[tuple[Any, set[str]], ...] = (
        ("off", set()), ("on", set()), ("unknown", {alert}),
    )  # fmt: skip
    for power, left in ends:
        desk.hear(troubled, stream=pool)
        assert desk.open_alerts() == {alert}
        desk.hear(PrepNodeSettled(node="prep1", turn=2, power=power), stream=pool)
        assert desk.open_alerts() == left


def test_a_prep_node_that_goes_off_as_it_should_says_nothing() -> None:
    desk = Desk()
    desk.hear(PrepNodeSettled(node="prep1", turn=2, power="off"), stream="prep-pool:west")
    assert desk.open_alerts() == set() and not desk.events(AlertOpened)
