"""Sites: added once they answer, checked on demand, kept while a plan uses them."""

from __future__ import annotations

import datetime as dt

from schemas import scheduler as said
from schemas.common import CommandSettled, Problem
from schemas.replicator import InspectSite
from tests.unit.scheduler.desk import Desk, desk_with

GONE = Problem(code="site-unreachable", message="no folder /east", remedy="create it")


def add(desk: Desk, *, path: str = "/east", platform: str = "lab") -> CommandSettled | None:
    return desk.command(said.AddSite, site="east", platform=platform, settings={"path": path})


def test_a_site_exists_once_its_platform_has_answered() -> None:
    desk = Desk()
    assert add(desk) is None
    assert not desk.said(said.SiteAdded)
    desk.inspect(facts={"vms": 2})
    assert desk.answers["c1"].outcome == "done"
    assert [e.facts for e in desk.said(said.SiteChecked, "site:east")] == [{"vms": 2}]
    assert desk.said(said.SiteAdded)[0].settings == {"path": "/east"}
    assert not desk.timers


def test_an_unreachable_site_is_refused_with_its_remedy() -> None:
    desk = Desk()
    add(desk)
    desk.inspect(problem=GONE)
    answer = desk.answers["c1"]
    assert (answer.outcome, answer.code, answer.remedy) == (
        "refused",
        "site-unreachable",
        "create it",
    )
    add(desk)
    desk.inspect()
    assert desk.answers["c2"].outcome == "done"


def test_the_same_site_again_is_done_and_says_nothing_new() -> None:
    desk = Desk()
    desk.add_sites(east=())
    rows = desk.rows
    answer = add(desk)
    assert answer is not None
    assert answer.outcome == "done"
    assert desk.rows == rows + 1
    assert not desk.take(InspectSite)


def test_another_site_of_the_same_name_is_refused() -> None:
    desk = Desk()
    desk.add_sites(east=())
    answer = add(desk, path="/elsewhere")
    assert answer is not None
    assert answer.code == "name-taken"


def test_an_unknown_platform_is_refused_at_once() -> None:
    answer = add(Desk(), platform="abacus")
    assert answer is not None
    assert answer.code == "invalid"


def test_a_name_that_is_none_is_refused() -> None:
    desk = Desk()
    answer = desk.command(said.AddSite, site="a b", platform="lab", settings={})
    assert answer is not None
    assert answer.code == "invalid"


def test_a_second_registration_waits_for_the_first() -> None:
    desk = Desk()
    add(desk)
    answer = add(desk)
    assert answer is not None
    assert answer.code == "busy"


def test_a_site_that_never_answers_is_refused_after_a_minute() -> None:
    desk = Desk()
    add(desk)
    desk.until(desk.now + dt.timedelta(seconds=61))
    assert desk.answers["c1"].code == "site-unreachable"
    desk.inspect()
    assert not desk.said(said.SiteAdded)


def test_a_check_records_and_answers_what_the_platform_says() -> None:
    desk = Desk()
    desk.add_sites(east=())
    desk.command(said.CheckSite, site="east")
    desk.inspect(facts={"free": 1})
    assert desk.answers["c2"].details == {"facts": {"free": 1}}
    desk.command(said.CheckSite, site="east")
    desk.inspect(problem=GONE)
    assert desk.answers["c3"].code == "site-unreachable"
    assert [e.ok for e in desk.said(said.SiteChecked)] == [True, True, False]


def test_a_site_nobody_knows_cannot_be_checked_or_removed() -> None:
    desk = Desk()
    for command in (said.CheckSite, said.RemoveSite):
        answer = desk.command(command, site="mars")
        assert answer is not None
        assert answer.code == "unknown-site"


def test_a_site_stays_while_a_plan_uses_it() -> None:
    desk = desk_with("db")
    for site in ("east", "west"):
        answer = desk.command(said.RemoveSite, site=site)
        assert answer is not None
        assert answer.code == "in-use"
        assert "shop" in answer.message
    desk.command(said.DeletePlan, plan="shop")
    answer = desk.command(said.RemoveSite, site="east")
    assert answer is not None
    assert answer.outcome == "done"


def test_a_removed_site_settles_the_checks_under_way() -> None:
    desk = Desk()
    desk.add_sites(east=())
    desk.command(said.CheckSite, site="east")
    desk.command(said.RemoveSite, site="east")
    assert desk.answers["c2"].code == "unknown-site"
    desk.inspect()
    assert not desk.timers
