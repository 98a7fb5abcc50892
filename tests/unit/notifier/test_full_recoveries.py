"""Alerts of full recoveries: quarantined sites, commit windows that stay open."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.common import Problem
from schemas.notifier import AlertOpened
from schemas.operations import (
    CommitOverdue,
    RecoveryCommitted,
    RecoveryRolledBack,
    RollbackFinished,
)
from schemas.recovery import RecoveryFinished
from schemas.scheduler_operations import PlanQuarantined, PlanQuarantineEnded
from shared.testing.spec import T0
from tests.unit.notifier.desk import Desk

JOB = "recovery:shop:r1"
QUARANTINED = "alert:shop:site-quarantined:east"
UNDECIDED = "alert:shop:commit-window-open:r1"


def test_a_quarantined_site_is_a_critical_alert_until_it_is_released() -> None:
    desk = Desk()
    desk.hear(PlanQuarantined(plan="shop", site="east", job=JOB), stream="plan:shop")
    (opened,) = desk.events(AlertOpened)
    assert (opened.severity, opened.job) == ("critical", JOB)
    assert "seawall site release east" in opened.remedy
    assert desk.open_alerts() == {QUARANTINED}
    desk.hear(PlanQuarantineEnded(plan="shop", site="east"), stream="plan:shop")
    assert desk.open_alerts() == set()


def test_an_open_commit_window_is_an_alert_until_somebody_decides() -> None:
    decisions = (
        RecoveryCommitted(plan="shop", commit="commit:shop:k1"),
        RecoveryRolledBack(plan="shop", rollback="rollback:shop:b1"),
    )
    for decided in decisions:
        desk = Desk()
        desk.hear(CommitOverdue(plan="shop", since=T0), stream=JOB)
        (opened,) = desk.events(AlertOpened)
        assert f"seawall commit {JOB}" in opened.remedy
        assert f"seawall rollback {JOB}" in opened.remedy
        assert desk.open_alerts() == {UNDECIDED}
        desk.hear(decided, stream=JOB)
        assert desk.open_alerts() == set()


def test_a_decision_in_time_opens_nothing() -> None:
    desk = Desk()
    desk.hear(RecoveryCommitted(plan="shop", commit="commit:shop:k1"), stream=JOB)
    assert desk.open_alerts() == set()


def test_the_mail_says_how_the_sources_were_left_and_what_can_be_decided() -> None:
    desk = Desk()
    end = RecoveryFinished(
        plan="shop",
        mode="failover",
        state="completed",
        ready=3,
        awaits_commit=True,
        note="3 source(s) switched off",
    )
    desk.hear(end, stream=JOB)
    (mail,) = desk.mails.values()
    assert "3 source(s) switched off" in mail.text
    assert f"seawall commit {JOB}" in mail.text and f"seawall rollback {JOB}" in mail.text


def test_a_roll_back_that_failed_is_a_critical_alert_until_one_is_done() -> None:
    desk = Desk()
    problem = Problem(code="left-over", message="i-db is not proven gone", remedy="look at it")
    end = RollbackFinished(plan="shop", recovery=JOB, state="failed", problem=problem)
    desk.hear(end, stream="rollback:shop:b1")
    (opened,) = desk.events(AlertOpened)
    assert (opened.severity, opened.text) == ("critical", "i-db is not proven gone")
    assert opened.remedy.startswith("look at it") and f"seawall rollback {JOB}" in opened.remedy
    desk.hear(
        RollbackFinished(plan="shop", recovery=JOB, state="completed"), stream="rollback:shop:b2"
    )
    assert desk.open_alerts() == set()


@pytest.mark.parametrize(
    ("state", "fields"),
    [
        ("failed", {"untouched": True}),
        ("partially-completed", {"left_off": ("db",)}),
    ],
)
def test_what_is_said_of_a_roll_back_is_not_to_repeat_what_was_done_or_cannot_be(
    state: Any, fields: dict[str, Any]
) -> None:
    desk = Desk()
    problem = Problem(code="x", message="db runs nowhere", remedy="do this, and only this")
    end = RollbackFinished(plan="shop", recovery=JOB, state=state, problem=problem, **fields)
    desk.hear(end, stream="rollback:shop:b1")
    (opened,) = desk.events(AlertOpened)
    assert (opened.severity, opened.remedy) == ("major", "do this, and only this")


def test_a_recovery_that_is_undone_by_itself_says_by_which_job_in_its_mail() -> None:
    desk = Desk()
    end = RecoveryFinished(
        plan="shop",
        mode="migrate",
        state="partially-completed",
        ready=2,
        failed=1,
        awaits_commit=True,
        undone_by="rollback:shop:auto-r1",
    )
    desk.hear(end, stream=JOB)
    (mail,) = desk.mails.values()
    assert "seawall job show rollback:shop:auto-r1" in mail.text
    assert "seawall commit" not in mail.text
