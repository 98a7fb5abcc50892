"""RPO: breached when the newest copy is as old as the target, restored by a fresh one."""

from __future__ import annotations

import datetime as dt

from schemas import scheduler as said
from schemas.plans import Targets
from services.scheduler.domain.names import vm_stream
from tests.unit.scheduler.desk import NOW, Desk, at, definition, desk_with

DB = vm_stream("shop", "db")
HALF_AN_HOUR = Targets(rpo_s=1800.0)


def watched() -> Desk:
    return desk_with("db", targets=HALF_AN_HOUR)


def test_a_vm_that_never_had_a_copy_is_counted_from_when_it_was_protected() -> None:
    desk = watched()
    desk.until(NOW + dt.timedelta(seconds=1799))
    assert not desk.said(said.RpoBreached)
    desk.until(NOW + dt.timedelta(seconds=1800))
    (breach,) = desk.said(said.RpoBreached)
    assert (breach.plan, breach.vm, breach.target_s) == ("shop", "db", 1800.0)
    assert breach.last_checkpoint_at is None


def test_the_age_counts_from_the_source_snapshot() -> None:
    desk = watched()
    desk.until(at(15))
    desk.now = at(20)
    desk.end("db", checkpoint_at=at(15))
    desk.command(said.StopPlan, plan="shop")
    desk.until(at(44.9))
    assert not desk.said(said.RpoBreached)
    desk.until(at(45))
    assert [e.last_checkpoint_at for e in desk.said(said.RpoBreached)] == [at(15)]


def test_each_copy_moves_the_moment_on() -> None:
    desk = watched()
    for tick in (15, 30, 45, 60):
        desk.until(at(tick))
        desk.end("db")
    assert not desk.said(said.RpoBreached)
    timer = desk.timer(DB, "rpo")
    assert timer is not None
    assert timer.due == at(90)


def test_a_fresh_copy_ends_a_breach_and_a_stale_one_does_not() -> None:
    desk = watched()
    desk.until(at(15))
    desk.until(at(60))
    assert len(desk.said(said.RpoBreached)) == 1
    desk.end("db", checkpoint_at=at(15))
    assert not desk.said(said.RpoRestored)
    desk.end("db", checkpoint_at=at(59))
    assert len(desk.said(said.RpoRestored)) == 1
    assert not desk.vm("db").rpo_breached
    desk.until(at(89))
    assert len(desk.said(said.RpoBreached)) == 2


def test_a_failed_iteration_changes_nothing() -> None:
    desk = watched()
    desk.until(at(15))
    before = desk.timer(DB, "rpo")
    desk.end("db", "failed", copy=False)
    assert desk.timer(DB, "rpo") == before


def test_without_a_target_nothing_is_watched() -> None:
    assert desk_with("db").timer(DB, "rpo") is None


def test_a_target_that_is_dropped_ends_the_breach() -> None:
    desk = watched()
    desk.until(at(60))
    desk.apply(definition("db"))
    assert len(desk.said(said.RpoRestored)) == 1
    assert desk.timer(DB, "rpo") is None


def test_a_shorter_target_may_be_breached_already() -> None:
    desk = watched()
    desk.until(at(15))
    desk.end("db")
    desk.command(said.StopPlan, plan="shop")
    desk.until(at(20))
    desk.apply(definition("db", targets=Targets(rpo_s=240.0)))
    assert [e.target_s for e in desk.said(said.RpoBreached)] == [240.0]


def test_a_released_vm_is_watched_no_more() -> None:
    desk = desk_with("db", "web", targets=HALF_AN_HOUR)
    desk.apply(definition("web", targets=HALF_AN_HOUR))
    desk.until(at(120))
    assert not desk.said(said.RpoBreached, DB)
