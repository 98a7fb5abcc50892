"""Alerts of a site that is back: what runs there is listed, mailed, told anew, and closes."""

from __future__ import annotations

import datetime as dt
from typing import Any

from schemas.common import Problem
from schemas.lost_sites import (
    Given,
    Original,
    OriginalsSeen,
    OriginalsSettled,
    SitePowerOffFinished,
)
from schemas.notifier import AlertOpened, AlertRepeated
from shared.testing.spec import T0
from tests.unit.notifier.desk import Desk

JOB = "recovery:shop:r1"
RUNNING = "alert:shop:originals-running:east"
RETURNED = "alert:shop:site-returned:east"
WATCH = "lost-site:east"


def original(vm: str, **fields: Any) -> Original:
    fields = {"since": T0, "instance": f"i-{vm}", "doubled": True, **fields}
    return Original(plan="shop", recovery=JOB, vm=vm, **fields)


def seen(desk: Desk, *vms: str, given_up: int = 3, **fields: Any) -> None:
    found = Given(
        recovery=fields.get("recovery", JOB),
        plan="shop",
        given_up=given_up,
        running=len(vms),
        doubled=len(vms),
        digest=" ".join(vms),
        originals=tuple(original(vm) for vm in vms),
    )
    desk.hear(OriginalsSeen(site="east", at=T0, found=found), stream=WATCH)


def mails(desk: Desk) -> list[str]:
    desk.wait(3600)
    return [mail.text for mail in desk.mails.values()]


def test_originals_that_run_are_a_critical_alert_and_a_mail_that_names_them_all() -> None:
    desk = Desk()
    seen(desk, "db", "app")
    (opened,) = desk.events(AlertOpened, RUNNING)
    assert opened.severity == "critical"
    assert "2 of 3 run, 2 BESIDE the instances in their place" in opened.text
    line = f"db runs since {T0:%Y-%m-%d %H:%M:%S %Z}, BESIDE its recovered instance i-db"
    assert line in opened.text
    assert "seawall site power-off east --confirm east" in opened.remedy
    (mail,) = mails(desk)
    assert line in mail and "app runs since" in mail and "power-off east" in mail


def test_originals_that_boot_later_are_told_again_unless_somebody_wants_silence() -> None:
    desk = Desk()
    seen(desk, "db")
    assert len(mails(desk)) == 1
    seen(desk, "db", "app")
    assert "app runs" in desk.events(AlertRepeated, RUNNING)[-1].text
    assert len(mails(desk)) == 2


def test_many_originals_are_counted_and_each_line_of_the_mail_stands_whole() -> None:
    desk = Desk()
    seen(desk, *(f"vm{number}" for number in range(70)), given_up=70)
    (mail,) = mails(desk)
    assert "vm49 runs" in mail and "vm50 runs" not in mail and "and 20 more" in mail


def test_a_site_that_is_back_without_them_is_no_critical_alert() -> None:
    desk = Desk()
    seen(desk)
    assert desk.open_alerts() == {RETURNED}
    (opened,) = desk.events(AlertOpened)
    assert opened.severity == "minor" and "seawall site release east" in opened.remedy
    seen(desk, "db")
    assert desk.open_alerts() == {RUNNING}
    seen(desk)
    assert desk.open_alerts() == {RETURNED}


def test_what_is_rolled_back_is_no_alert() -> None:
    desk = Desk()
    seen(desk, "db")
    seen(desk, given_up=0)
    assert desk.open_alerts() == set()


def test_a_release_closes_the_alert_of_every_recovery_and_not_before_the_last() -> None:
    desk = Desk()
    seen(desk, "db")
    seen(desk, "web", recovery="recovery:shop:r2")
    for number, recovery in enumerate((JOB, "recovery:shop:r2")):
        assert desk.open_alerts() == {RUNNING}, number
        desk.hear(OriginalsSettled(site="east", plan="shop", recovery=recovery), stream=WATCH)
    assert desk.open_alerts() == set()


def test_a_power_off_that_failed_is_an_alert_of_the_site_until_one_succeeds() -> None:
    desk = Desk()
    problem = Problem(code="runs-again", message="db still runs", remedy="look at it")
    job = "site-power-off:east:p1"
    desk.hear(
        SitePowerOffFinished(site="east", state="partially-completed", problem=problem), stream=job
    )
    assert desk.open_alerts() == {"alert:east:job-partially-completed:site-power-off"}
    (opened,) = desk.events(AlertOpened)
    assert (opened.text, opened.remedy) == ("db still runs", "look at it")
    desk.hear(SitePowerOffFinished(site="east", state="completed"), stream=job)
    assert desk.open_alerts() == set()


def test_since_when_and_what_runs_beside_are_told_only_where_they_are_known() -> None:
    desk = Desk()
    found = Given(
        recovery=JOB,
        plan="shop",
        given_up=2,
        running=2,
        doubled=0,
        digest="x",
        originals=(
            original("db", since=None, instance="", doubled=False),
            original("web", since=T0 + dt.timedelta(hours=1), doubled=None),
        ),
    )
    desk.hear(OriginalsSeen(site="east", at=T0, found=found), stream=WATCH)
    (opened,) = desk.events(AlertOpened)
    lines = opened.text.split("\n")
    assert lines[1] == "db runs"
    assert lines[2].endswith("whether its recovered instance does is not known")
