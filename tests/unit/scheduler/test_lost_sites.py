"""A lost site: who watches for it, what its release wants; and roll backs by themselves."""

from __future__ import annotations

from typing import Any

import pytest

from schemas import scheduler as said
from schemas import scheduler_operations as said_ops
from schemas.common import Problem
from schemas.lost_sites import LookAtLostSite, OriginalsFound, SiteReleased, WatchLostSite
from schemas.plans import RecoveryPolicy, Targets
from schemas.recovery import StartRecovery
from schemas.replicator import CancelIteration, StartIteration
from tests.unit.scheduler.desk import at, definition
from tests.unit.scheduler.test_full_recoveries import JOB, code, lost, ready, recover


def found(running: int, doubled: int = 0) -> OriginalsFound:
    vms = ("db", "web")[:running]
    return OriginalsFound(site="east", running=running, doubled=doubled, vms=vms)


def release(desk: Any, **fields: Any) -> Any:
    return desk.command(said.ReleaseSite, site="east", **{"confirm": "east", **fields})


def test_a_lost_site_is_watched_for_every_recovery_that_gave_it_up_until_it_is_released() -> None:
    desk = ready("db")
    lost(desk)
    desk.tell(said.SiteLost(site="east", plan="shop", job="recovery:shop:r2"))
    watched = [(m.site.site, m.recovery) for m in desk.take(WatchLostSite)]
    assert watched == [("east", JOB), ("east", "recovery:shop:r2")]
    assert code(release(desk)) == "done"
    assert [m.site for m in desk.take(SiteReleased)] == ["east"]


def test_a_quarantined_site_is_not_removed_before_a_person_released_it() -> None:
    """With the site its watch would go: nobody would be told of originals that run again."""
    desk = ready("db")
    lost(desk)
    assert code(desk.command(said.DeletePlan, plan="shop")) == "done"
    refused = desk.command(said.RemoveSite, site="east")
    assert code(refused) == "quarantined"
    assert refused is not None and "seawall site release east --confirm east" in refused.remedy
    assert not desk.take(SiteReleased)
    assert code(release(desk)) == "done"
    assert [m.site for m in desk.take(SiteReleased)] == ["east"]
    assert code(desk.command(said.RemoveSite, site="east")) == "done"


@pytest.mark.parametrize("role", ["protected_site", "recovery_site"])
@pytest.mark.parametrize("dry_run", [False, True])
def test_no_plan_begins_to_use_a_quarantined_site(role: str, dry_run: bool) -> None:
    desk = ready("db")
    desk.add_sites(north=("db",))
    desk.tell(said.SiteLost(site="north", plan="other", job="recovery:other:r1"))
    with_it = definition("db", **{role: "north"})
    answer = desk.apply(with_it, dry_run=dry_run)
    assert code(answer) == "quarantined"
    assert "'north'" in answer.message and "seawall site release north" in answer.remedy
    assert desk.plan.version == 1 and not desk.plan.quarantined
    desk.until(at(15))
    (start,) = desk.take(StartIteration)
    assert (start.protected.site, start.recovery_site.site) == ("east", "west")
    desk.end("db")
    assert code(desk.command(said.ReleaseSite, site="north", confirm="north")) == "done"
    assert code(desk.apply(with_it, dry_run=dry_run)) == "done"


def test_a_new_plan_does_not_begin_at_a_quarantined_site() -> None:
    desk = ready("db")
    lost(desk)
    assert code(desk.apply(definition("app", name="other"))) == "quarantined"


def test_a_plan_that_was_applied_before_it_heard_of_a_quarantine_stops_all_the_same() -> None:
    desk = ready("db")
    desk.until(at(15))
    desk.under_way = (said.QuarantinePlan,)
    lost(desk)
    (news,) = desk.take(said.QuarantinePlan)
    assert code(desk.apply(definition("db", targets=Targets(rpo_s=3600.0)))) == "done"
    assert list(desk.plan.quarantined) == ["east"] and desk.vm("db").on
    desk.sent.clear()
    desk.tell(news)
    assert not desk.vm("db").on and len(desk.take(CancelIteration)) == 1
    assert len(desk.said(said_ops.PlanQuarantined)) == 1
    desk.end("db", "cancelled")
    desk.until(at(60))
    assert desk.started() == []


def test_a_release_wants_a_second_word_where_originals_were_seen_to_run() -> None:
    desk = ready("db")
    lost(desk)
    assert "not answered" in release(desk, confirm="").message
    desk.tell(found(2, doubled=1))
    refused = release(desk)
    assert refused.code == "originals-running"
    assert "db" in refused.message and "1 of them BESIDE" in refused.message
    assert "--originals-running" in refused.remedy and "site power-off" in refused.remedy
    assert list(desk.plan.quarantined) == ["east"]
    assert code(release(desk, originals_running=True)) == "done"
    assert not desk.plan.quarantined


def test_originals_that_were_powered_off_need_no_second_word() -> None:
    desk = ready("db")
    lost(desk)
    for running in (1, 1, 0):
        desk.tell(found(running))
    assert len(desk.said(said_ops.SiteOriginalsFound)) == 2, "the same again is no news"
    assert code(release(desk)) == "done"


def test_what_was_seen_before_a_release_counts_no_more_after_it() -> None:
    desk = ready("db")
    lost(desk)
    desk.tell(found(1))
    assert code(release(desk, originals_running=True)) == "done"
    desk.tell(found(1))
    lost(desk)
    assert code(release(desk)) == "done"


def test_a_check_that_finds_a_quarantined_site_back_has_it_looked_at() -> None:
    desk = ready("db")
    desk.command(said.CheckSite, site="east")
    desk.inspect()
    assert not desk.take(LookAtLostSite)
    lost(desk)
    desk.command(said.CheckSite, site="east")
    desk.inspect(problem=Problem(code="site-gone", message="it is gone"))
    assert not desk.take(LookAtLostSite)
    desk.command(said.CheckSite, site="east")
    desk.inspect()
    assert [m.site for m in desk.take(LookAtLostSite)] == ["east"]


@pytest.mark.parametrize(
    ("mode", "plan", "asked", "expected"),
    [
        ("migrate", False, None, False),
        ("migrate", True, None, True),
        ("migrate", True, False, False),
        ("test", False, True, True),
        ("failover", True, None, False),
    ],
)
def test_a_roll_back_by_itself_is_the_operators_word_else_the_plans(
    mode: str, plan: bool, asked: bool | None, expected: bool
) -> None:
    desk = ready("db", recovery=RecoveryPolicy(auto_rollback=plan))
    assert code(recover(desk, mode, auto_rollback=asked)) == "done"
    (started,) = desk.take(StartRecovery)
    assert started.auto_rollback is expected


def test_a_failover_is_never_rolled_back_by_itself() -> None:
    assert code(recover(ready("db"), auto_rollback=True)) == "invalid"
