"""Mails: one per recovery, one per group of alerts, readable, bounded, escaped."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from schemas.common import Problem, StepTiming
from schemas.notifier import DeliveryDelivered, DeliveryFailed
from schemas.plans import Targets
from schemas.recovery import RecoveryFinished, RecoveryStarted, VmFinished
from schemas.replicator import IterationFinished
from services.notifier.domain import delivery
from shared.testing.spec import T0, failed, ok
from tests.unit.notifier.desk import Desk
from tests.unit.recovery.world import header

JOB = "recovery:shop:r1"
MAIL = "delivery:shop:r1"


def started(rto_s: float | None = 600.0, **fields: Any) -> RecoveryStarted:
    plan = msgspec.structs.replace(header(), targets=Targets(rto_s=rto_s))
    return RecoveryStarted(
        job=JOB, plan="shop", plan_version=1, mode="test", header=plan, members=(),
        checkpoint="latest", requested_at=T0, **fields,
    )  # fmt: skip


def vm(name: str, state: Any = "completed", **fields: Any) -> VmFinished:
    outcome: Any = "ready" if state == "completed" else "failed"
    return VmFinished(plan="shop", vm=name, job=JOB, outcome=outcome, state=state, **fields)


def ended(state: Any = "completed", **fields: Any) -> RecoveryFinished:
    return RecoveryFinished(plan="shop", mode="test", state=state, **fields)


@pytest.mark.parametrize("state", ["completed", "partially-completed", "failed", "cancelled"])
def test_every_ended_recovery_is_one_mail_and_no_alert_mail_beside_it(state: str) -> None:
    desk = Desk()
    desk.hear(started(), vm("db"), ended(state))
    desk.wait(60)
    assert list(desk.mails) == [MAIL]
    mail = desk.mails[MAIL]
    assert state.replace("-", " ") in mail.subject and "shop" in mail.subject
    assert mail.to == ("oncall@example.org",)
    assert mail.message_id == "<delivery.shop.r1@seawall>"


@pytest.mark.parametrize("state", ["completed", "failed"])
def test_of_a_dry_run_nobody_is_told(state: str) -> None:
    desk = Desk()
    desk.hear(started(dry_run=True), ended(state, dry_run=True), vm("db", "cancelled"))
    desk.wait(60)
    assert desk.mails == {}


@pytest.mark.parametrize(
    ("parent", "mails"), [("find-clean-point:shop:s1", 0), ("recovery-group:shop:g1", 1), ("", 1)]
)
def test_of_the_tests_of_a_search_nobody_is_told_one_by_one(parent: str, mails: int) -> None:
    desk = Desk()
    desk.hear(started(parent=parent), vm("db"), ended("completed"))
    desk.wait(60)
    assert len(desk.mails) == mails


def test_the_mail_says_what_was_reached_what_failed_and_what_to_do_next() -> None:
    desk = Desk()
    broken = StepTiming(name="post-script", state="failed", error="exit code 3", remedy="mend it")
    desk.hear(
        started(),
        vm("db", addresses=("127.1.2.3:5432",)),
        vm("web", "partially-completed", steps=(broken,)),
        ended("partially-completed", ready=2, rto_s=42.25, awaits_cleanup=True),
    )
    text = desk.mails[MAIL].text
    for words in (
        "RTO achieved: 42.2s of 10m", "2 VM(s) ready, 0 failed", "127.1.2.3:5432",
        "post-script: exit code 3", "mend it", f"seawall job show {JOB}", f"seawall cleanup {JOB}",
    ):  # fmt: skip
        assert words in text, text
    assert text.index("web:") < text.index("db:"), "what failed comes first"


def test_a_plan_without_a_target_names_none() -> None:
    desk = Desk()
    desk.hear(started(None), ended(rto_s=3.0))
    assert "RTO achieved: 3s\n" in desk.mails[MAIL].text


def test_the_same_events_again_are_no_second_mail() -> None:
    desk = Desk()
    events = (started(), vm("db"), ended("failed"))
    desk.hear(*events, *events)
    desk.wait(60)
    assert len(desk.mails) == 1


def test_alerts_that_open_together_are_one_mail() -> None:
    desk = Desk()
    for number in range(200):
        desk.hear(iteration(f"vm-{number}"))
    assert desk.mails == {}
    desk.wait(delivery.COLLECT_S)
    (mail,) = desk.mails.values()
    assert "200 alerts in plan shop" in mail.subject
    assert "replication of vm-0 failed" in mail.text and "free space" in mail.text
    assert "and 150 more" in mail.text


def test_alerts_of_a_later_time_are_a_mail_of_their_own() -> None:
    desk = Desk()
    desk.hear(iteration("a"))
    desk.wait(delivery.COLLECT_S)
    desk.hear(iteration("b"))
    desk.wait(delivery.COLLECT_S)
    assert list(desk.mails) == ["delivery:shop:digest-1", "delivery:shop:digest-2"]
    assert len({mail.message_id for mail in desk.mails.values()}) == 2


def test_a_repeat_is_no_mail() -> None:
    desk = Desk()
    desk.hear(iteration("a"))
    desk.wait(delivery.COLLECT_S)
    desk.hear(iteration("a"), iteration("a"))
    desk.wait(60)
    assert len(desk.mails) == 1


def test_with_nobody_to_write_to_alerts_are_kept_and_no_mail_is_made() -> None:
    desk = Desk(to=())
    desk.hear(started(), vm("db"), ended("failed"), iteration("db"))
    desk.wait(60)
    assert desk.mails == {}
    assert len(desk.open_alerts()) == 2


def test_a_recovery_of_hundreds_of_failed_vms_fits_into_one_event() -> None:
    desk = Desk()
    long = Problem(code="x", message='it "broke" <here> ü ' * 60, remedy="mend it " * 60)
    for number in range(250):
        desk.hear(vm(f"vm-{number}", "failed", problem=long))
    desk.hear(ended("failed", failed=250, awaits_cleanup=True))
    mail = desk.mails[MAIL]
    assert "more lines" in mail.text
    assert mail.text.endswith(f"seawall cleanup {JOB}")
    assert mail.text.count("\n") > 50


def test_what_came_from_outside_is_escaped_in_html() -> None:
    desk = Desk()
    nasty = Problem(code="x", message="<script>alert(1)</script> & more", remedy="<b>")
    desk.hear(vm("db", "failed", problem=nasty), ended("failed"))
    html = desk.mails[MAIL].html
    assert "<script>" not in html and "<b>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in html


def test_a_delivery_ends_once_as_the_server_said() -> None:
    desk = Desk()
    desk.hear(ended())
    desk.end_mail(MAIL, ok(f"{MAIL}/send", None, attempts=3))
    desk.end_mail(MAIL, failed(f"{MAIL}/send", code="mail-refused"))
    assert [event.attempts for event in desk.events(DeliveryDelivered)] == [3]
    assert desk.events(DeliveryFailed) == []


def test_a_mail_that_was_refused_is_on_record_with_its_remedy() -> None:
    desk = Desk()
    desk.hear(ended())
    desk.end_mail(MAIL, failed(f"{MAIL}/send", code="mail-refused", remedy="check recipients"))
    (event,) = desk.events(DeliveryFailed)
    assert (event.problem.code, event.problem.remedy) == ("mail-refused", "check recipients")


def iteration(name: str) -> IterationFinished:
    problem = Problem(code="full", message="the site is full", remedy="free space")
    return IterationFinished(plan="shop", vm=name, state="failed", problem=problem)
