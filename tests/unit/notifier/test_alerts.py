"""Alerts: one per condition and subject, counted, closed by what clears them or by people."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from schemas.clean_points import CleanPointSearchFinished
from schemas.common import Problem
from schemas.notifier import (
    AlertAcknowledged,
    AlertOpened,
    AlertRepeated,
    AlertResolved,
    AlertSnoozed,
    AlertSnoozeEnded,
    ChangeAlert,
    SnoozeDue,
)
from schemas.plans import VmDefinition
from schemas.recovery import CleanupFinished, RecoveryFinished
from schemas.recovery_groups import RecoveryGroupFinished
from schemas.replicator import (
    CheckpointFinished,
    IterationFinished,
    ThrottledForLong,
    ThrottlingEased,
)
from schemas.reversals import ReversalFinished
from schemas.scheduler import (
    PlanApplied,
    PlanDeleted,
    RpoBreached,
    RpoRestored,
    TicksMissed,
    VmProtected,
    VmReleased,
)
from shared.errors import Refused
from shared.testing.spec import T0
from tests.unit.notifier.desk import Desk
from tests.unit.recovery.world import header

ALERT = "alert:shop:iteration-failed:db"
BROKEN = Problem(code="target-full", message="the site is full", remedy="free space")


def iteration(state: Any, vm: str = "db") -> IterationFinished:
    problem = BROKEN if state == "failed" else None
    return IterationFinished(plan="shop", vm=vm, state=state, problem=problem)


def recovery(state: Any, **fields: Any) -> RecoveryFinished:
    return RecoveryFinished(plan="shop", mode="test", state=state, **fields)


def checkpoint(state: Any) -> CheckpointFinished:
    return CheckpointFinished(plan="shop", state=state)


@pytest.mark.parametrize("kind", ["find-clean-point", "recovery-group", "reverse"])
def test_a_search_a_group_or_a_reversal_that_fails_is_critical_until_one_completes(
    kind: str,
) -> None:
    def ended(state: Any) -> Any:
        if kind == "find-clean-point":
            return CleanPointSearchFinished(plan="shop", state=state, problem=BROKEN)
        if kind == "reverse":
            return ReversalFinished(plan="shop", state=state, problem=BROKEN)
        return RecoveryGroupFinished(plan="shop", mode="test", state=state, problem=BROKEN)

    desk = Desk()
    desk.hear(ended("failed"), stream=f"{kind}:shop:1")
    (opened,) = desk.events(AlertOpened)
    assert (opened.condition, opened.subject, opened.severity) == ("job-failed", kind, "critical")
    desk.hear(ended("cancelled"), stream=f"{kind}:shop:2")
    assert desk.events(AlertResolved) == []
    desk.hear(ended("partially-completed"), stream=f"{kind}:shop:3")
    assert len(desk.events(AlertResolved)) == 1
    assert desk.events(AlertOpened)[-1].condition == "job-partially-completed"


def test_a_dry_run_of_a_group_or_a_reversal_says_nothing() -> None:
    desk = Desk()
    ended = RecoveryGroupFinished(plan="shop", mode="test", state="failed", dry_run=True)
    desk.hear(ended, stream="recovery-group:shop:1")
    looked = ReversalFinished(plan="shop", state="failed", dry_run=True)
    desk.hear(looked, stream="reversal:shop:1")
    assert desk.events(AlertOpened) == []


def protected() -> VmProtected:
    plan = header()
    return VmProtected(
        plan="shop", vm="db", plan_version=1, definition=VmDefinition(name="db"),
        protected=plan.protected, recovery_site=plan.recovery_site,
        replication=plan.replication, protected_at=T0,
    )  # fmt: skip


def applied() -> PlanApplied:
    return PlanApplied(plan="shop", plan_version=1, digest="d", header=header(), vms=("db",))


def test_a_failure_opens_an_alert_with_what_is_wrong_and_the_remedy() -> None:
    desk = Desk()
    desk.hear(iteration("failed"))
    (opened,) = desk.events(AlertOpened, ALERT)
    assert (opened.severity, opened.text, opened.remedy) == (
        "major", "the site is full", "free space",
    )  # fmt: skip
    assert "db" in opened.title


def test_a_repeat_is_counted_and_does_not_open_again() -> None:
    desk = Desk()
    desk.hear(iteration("failed"), iteration("failed"), iteration("failed"))
    assert len(desk.events(AlertOpened)) == 1
    assert len(desk.events(AlertRepeated, ALERT)) == 2
    assert desk.state(ALERT).count == 3


def test_it_closes_by_itself_and_opens_again() -> None:
    desk = Desk()
    desk.hear(iteration("failed"), iteration("completed"))
    assert [event.by for event in desk.events(AlertResolved)] == ["condition"]
    desk.hear(iteration("failed"))
    assert len(desk.events(AlertOpened)) == 2
    assert desk.open_alerts() == {ALERT}


def test_what_was_never_wrong_says_nothing() -> None:
    desk = Desk()
    desk.hear(iteration("completed"), recovery("completed"))
    assert not desk.events(AlertOpened) and not desk.events(AlertResolved)


def test_subjects_do_not_share_alerts() -> None:
    desk = Desk()
    desk.hear(iteration("failed"), iteration("failed", "web"), iteration("completed", "web"))
    assert desk.open_alerts() == {ALERT}


@pytest.mark.parametrize(
    ("wrong", "cancelled"),
    [
        (iteration("failed"), iteration("cancelled")),
        (recovery("failed"), recovery("cancelled")),
        (
            CheckpointFinished(plan="shop", state="failed", problem=BROKEN),
            CheckpointFinished(plan="shop", state="cancelled"),
        ),
    ],
)
def test_a_cancelled_job_neither_opens_nor_closes(wrong: Any, cancelled: Any) -> None:
    desk = Desk()
    desk.hear(cancelled)
    assert desk.open_alerts() == set()
    desk.hear(wrong)
    before = desk.open_alerts()
    desk.hear(cancelled)
    assert desk.open_alerts() == before != set()


@pytest.mark.parametrize(
    ("state", "condition"),
    [("failed", "job-failed"), ("partially-completed", "job-partially-completed")],
)
def test_a_recoverys_end_opens_what_it_was_and_closes_what_it_was_not(
    state: str, condition: str
) -> None:
    desk = Desk()
    other = "failed" if state != "failed" else "partially-completed"
    desk.hear(recovery(other), recovery(state))
    assert desk.open_alerts() == {f"alert:shop:{condition}:test"}
    desk.hear(recovery("completed"))
    assert desk.open_alerts() == set()


@pytest.mark.parametrize("state", ["completed", "partially-completed", "failed"])
def test_a_dry_run_neither_opens_nor_closes(state: str) -> None:
    desk = Desk()
    desk.hear(recovery(state, dry_run=True))
    assert desk.open_alerts() == set()
    desk.hear(recovery("failed"), recovery(state, dry_run=True))
    assert desk.open_alerts() == {"alert:shop:job-failed:test"}
    assert not desk.events(AlertRepeated)


def test_a_breach_lasts_until_it_is_restored() -> None:
    desk = Desk()
    desk.hear(RpoBreached(plan="shop", vm="db", target_s=1800, last_checkpoint_at=None))
    assert desk.open_alerts() == {"alert:shop:rpo-breached:db"}
    (opened,) = desk.events(AlertOpened)
    assert opened.severity == "critical" and "30m" in opened.text
    desk.hear(RpoRestored(plan="shop", vm="db"))
    assert desk.open_alerts() == set()


def test_missed_ticks_are_over_with_the_next_completed_iteration_of_the_vm() -> None:
    desk = Desk()
    missed = TicksMissed(count=3, first_at=T0, last_at=T0 + dt.timedelta(hours=1))
    desk.hear(missed, stream="protected-vm:shop:db")
    assert desk.open_alerts() == {"alert:shop:schedule-missed:db"}
    desk.hear(iteration("failed"), iteration("completed", "web"))
    assert "alert:shop:schedule-missed:db" in desk.open_alerts()
    desk.hear(iteration("completed"))
    assert desk.open_alerts() == set()


def test_an_incomplete_cleanup_is_over_when_a_later_one_of_it_completes() -> None:
    desk = Desk()
    left = (("instance", "i1", "db"),)
    cleanup = CleanupFinished(
        plan="shop", recovery="recovery:shop:r1", state="partially-completed", remaining=left
    )
    desk.hear(cleanup)
    incomplete, instance = desk.events(AlertOpened)
    assert "1 object" in incomplete.title and "recovery:shop:r1" in incomplete.remedy
    assert (instance.condition, instance.text) == ("instance-left-over", "i1")
    other = CleanupFinished(plan="shop", recovery="recovery:shop:r2", state="completed")
    desk.hear(other)
    assert len(desk.open_alerts()) == 2
    desk.hear(CleanupFinished(plan="shop", recovery="recovery:shop:r1", state="completed"))
    assert desk.open_alerts() == set()


def test_disks_that_are_left_are_no_instances() -> None:
    desk = Desk()
    left = (("disk", "d1", "db"),)
    desk.hear(
        CleanupFinished(
            plan="shop", recovery="recovery:shop:r1", state="partially-completed", remaining=left
        )
    )
    assert desk.open_alerts() == {"alert:shop:cleanup-incomplete:r1"}


def test_a_site_that_refuses_for_long_is_told_until_it_is_calm() -> None:
    desk = Desk()
    told = ThrottledForLong(
        site="west", quota="RunInstances", mode="rate", limit=1.94, cap=20, throttled=812
    )
    desk.hear(told)
    desk.hear(told)
    (opened,) = desk.events(AlertOpened)
    assert (opened.condition, opened.severity) == ("throttled-for-long", "minor")
    assert "west keeps refusing RunInstances" in opened.title
    assert "1.94/s are asked for now, of 20/s" in opened.text
    desk.hear(ThrottlingEased(site="west", quota="RunInstances"))
    assert desk.open_alerts() == set()


# ── Subjects that leave and come back ────────────────────────────────────────────────────────


def breached() -> RpoBreached:
    return RpoBreached(plan="shop", vm="db", target_s=1800, last_checkpoint_at=None)


def test_alerts_of_a_vm_close_when_it_leaves_its_plan_and_others_stay() -> None:
    desk = Desk()
    missed = TicksMissed(count=3, first_at=T0, last_at=T0)
    desk.hear(missed, stream="protected-vm:shop:db")
    desk.hear(iteration("failed"), breached(), iteration("failed", "web"), recovery("failed"))
    desk.hear(VmReleased(plan="shop", vm="db"))
    assert desk.open_alerts() == {
        "alert:shop:iteration-failed:web", "alert:shop:job-failed:test",
    }  # fmt: skip


def test_alerts_of_a_plan_close_when_it_is_deleted() -> None:
    desk = Desk()
    desk.hear(TicksMissed(count=3, first_at=T0, last_at=T0), stream="plan:shop")
    desk.hear(iteration("failed"), recovery("failed"), recovery("partially-completed"))
    desk.hear(checkpoint("failed"))
    desk.hear(PlanDeleted(plan="shop"), VmReleased(plan="shop", vm="db"))
    assert desk.open_alerts() == set()


def test_what_is_left_at_a_site_stays_an_alert_without_its_plan() -> None:
    desk = Desk()
    desk.hear(
        CleanupFinished(plan="shop", recovery="recovery:shop:r1", state="partially-completed"),
        PlanDeleted(plan="shop"),
    )
    assert desk.open_alerts() == {"alert:shop:cleanup-incomplete:r1"}


@pytest.mark.parametrize(
    ("leaves", "late", "returns"),
    [
        (VmReleased(plan="shop", vm="db"), iteration("failed"), protected()),
        (PlanDeleted(plan="shop"), checkpoint("failed"), applied()),
        (PlanDeleted(plan="shop"), recovery("failed"), applied()),
    ],
)
def test_a_failure_heard_after_its_subject_left_opens_nothing_until_it_is_back(
    leaves: Any, late: Any, returns: Any
) -> None:
    desk = Desk()
    desk.hear(leaves, leaves, late)
    assert desk.open_alerts() == set()
    desk.hear(returns, returns, late)
    assert len(desk.open_alerts()) == 1


def test_a_plan_or_vm_that_never_left_says_nothing_when_it_changes() -> None:
    desk = Desk()
    desk.hear(protected(), applied())
    assert desk.log == []


# ── People ───────────────────────────────────────────────────────────────────────────────────


def change(action: Any, alert: str = ALERT, until: dt.datetime | None = None) -> ChangeAlert:
    return ChangeAlert(command_id="c1", alert=alert, action=action, until=until)


def test_a_person_acknowledges_once_snoozes_and_resolves() -> None:
    desk = Desk()
    later = T0 + dt.timedelta(hours=1)
    desk.hear(iteration("failed"), change("ack"), change("ack"), change("snooze", until=later))
    assert len(desk.events(AlertAcknowledged)) == 1
    assert [event.until for event in desk.events(AlertSnoozed)] == [later]
    desk.hear(change("resolve"))
    assert [event.by for event in desk.events(AlertResolved)] == ["person"]


@pytest.mark.parametrize(
    "alert", ["", "x", ":", "::::", "alert", "alert:shop", "alert:a:b:c", "alert:a:b:c:d:e"]
)
def test_an_alert_that_never_was_is_unknown(alert: str) -> None:
    with pytest.raises(Refused) as refused:
        Desk().hear(change("ack", alert))
    assert (refused.value.code, bool(refused.value.remedy)) == ("unknown-alert", True)


def test_a_resolved_alert_is_not_changed() -> None:
    desk = Desk()
    desk.hear(iteration("failed"), iteration("completed"))
    with pytest.raises(Refused) as refused:
        desk.hear(change("ack"))
    assert refused.value.code == "alert-resolved"


LATER = T0 + dt.timedelta(hours=1)


def mailed(desk: Desk) -> int:
    """How many mails there are once the time to collect is over."""
    desk.wait(5)
    return len(desk.mails)


def test_a_snoozed_alert_is_open_again_and_told_again_when_its_time_is_over() -> None:
    desk = Desk()
    desk.hear(iteration("failed"), change("snooze", until=LATER))
    assert mailed(desk) == 1
    desk.wait(3500)
    assert not desk.events(AlertSnoozeEnded)
    desk.wait(100)
    assert len(desk.events(AlertSnoozeEnded, ALERT)) == 1
    assert desk.state(ALERT).silent_until is None
    assert mailed(desk) == 2
    assert "replication of db failed" in desk.mails["delivery:shop:digest-2"].subject


def test_while_it_is_snoozed_a_repeat_is_counted_and_the_newest_text_is_told_at_its_end() -> None:
    desk = Desk()
    desk.hear(iteration("failed"), change("snooze", until=LATER))
    newer = Problem(code="away", message="the site is away", remedy="look")
    again = IterationFinished(plan="shop", vm="db", state="failed", problem=newer)
    desk.hear(again)
    assert desk.state(ALERT).count == 2 and mailed(desk) == 1
    desk.wait(3600)
    assert mailed(desk) == 2
    assert "the site is away" in desk.mails["delivery:shop:digest-2"].text


def test_an_alert_that_a_recoverys_mail_told_of_is_told_by_itself_after_a_snooze() -> None:
    desk = Desk()
    desk.hear(recovery("failed"))
    desk.hear(change("snooze", "alert:shop:job-failed:test", until=LATER))
    desk.wait(3600)
    assert mailed(desk) == 2
    assert "failed" in desk.mails["delivery:shop:digest-1"].subject


@pytest.mark.parametrize("ends", [iteration("completed"), change("resolve"), change("ack")])
def test_a_snooze_is_void_once_the_alert_is_resolved_or_acknowledged(ends: Any) -> None:
    desk = Desk()
    desk.hear(iteration("failed"), change("snooze", until=LATER), ends)
    assert ("alert:shop:iteration-failed:db", "snooze") not in desk.timers
    # Even a timer that was under way says nothing.
    desk.hear(SnoozeDue(until=LATER), stream=ALERT)
    desk.wait(3600)
    assert not desk.events(AlertSnoozeEnded)
    assert mailed(desk) == 1


def test_a_later_snooze_replaces_the_one_before() -> None:
    desk = Desk()
    desk.hear(iteration("failed"), change("snooze", until=LATER))
    desk.hear(change("snooze", until=LATER + dt.timedelta(hours=1)))
    desk.wait(3700)
    desk.hear(SnoozeDue(until=LATER), stream=ALERT)
    assert not desk.events(AlertSnoozeEnded)
    desk.wait(3700)
    assert len(desk.events(AlertSnoozeEnded)) == 1


def test_an_alert_that_opens_anew_is_not_silent() -> None:
    desk = Desk()
    desk.hear(iteration("failed"), change("snooze", until=LATER), iteration("completed"))
    desk.hear(iteration("failed"))
    assert desk.state(ALERT).silent_until is None
    desk.wait(3700)
    assert not desk.events(AlertSnoozeEnded)


def test_what_was_acknowledged_and_snoozed_may_be_acknowledged_again() -> None:
    desk = Desk()
    desk.hear(iteration("failed"), change("ack"), change("snooze", until=LATER), change("ack"))
    assert len(desk.events(AlertAcknowledged)) == 2


@pytest.mark.parametrize("until", [None, T0, T0 - dt.timedelta(seconds=1)])
def test_nobody_snoozes_into_the_past(until: dt.datetime | None) -> None:
    desk = Desk()
    desk.hear(iteration("failed"))
    with pytest.raises(Refused) as refused:
        desk.hear(change("snooze", until=until))
    assert refused.value.code == "invalid"
