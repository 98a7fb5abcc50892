"""What people hear of recoveries that ask them something, and of those that go on after an end."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.recovery import RecoveryFinished, VmFinished
from schemas.recovery_steering import (
    Question,
    RecoveryAnswered,
    RecoveryAsked,
    RecoveryReopened,
    VmAnswered,
    VmAsked,
)
from shared.testing.spec import T0
from tests.unit.notifier.desk import Desk

PLAN = "alert:shop:waiting-for-person:plan"
OF_DB = "alert:shop:waiting-for-person:db"
JOB, DB = "recovery:shop:r1", "vm-recovery:shop:r1:db"


def question(step: str) -> Question:
    return Question(
        step=step,
        number=1,
        kind="manual",
        text="point the name here",
        owner="dns team",
        choices=("done", "failed", "skip"),
        default="failed",
        at=T0,
        until=T0,
    )


def asked(step: str = "manual-dns") -> RecoveryAsked:
    return RecoveryAsked(plan="shop", question=question(step))


def answered(step: str = "manual-dns") -> RecoveryAnswered:
    return RecoveryAnswered(plan="shop", step=step, choice="done", at=T0)


def vm_asked(step: str = "manual-dns") -> VmAsked:
    return VmAsked(plan="shop", vm="db", job=JOB, question=question(step))


def finished(state: Any = "completed") -> RecoveryFinished:
    return RecoveryFinished(plan="shop", mode="test", state=state)


def vm_finished(state: Any = "completed", outcome: Any = "ready") -> VmFinished:
    return VmFinished(plan="shop", vm="db", job=JOB, outcome=outcome, state=state)


def test_a_question_is_an_alert_that_tells_how_to_answer_and_the_answer_closes_it() -> None:
    desk = Desk()
    desk.hear(asked(), stream=JOB)
    assert desk.open_alerts() == {PLAN}
    note = desk.state(PLAN).note
    assert "dns team" in note.title and "point the name here" in note.text
    assert note.remedy == f"seawall job answer {JOB} manual-dns done|failed|skip"
    desk.hear(answered(), stream=JOB)
    assert desk.open_alerts() == set()


def test_a_vms_question_is_an_alert_of_its_own() -> None:
    desk = Desk()
    desk.hear(asked(), stream=JOB)
    desk.hear(vm_asked(), stream=DB)
    assert desk.open_alerts() == {PLAN, OF_DB}
    answer = VmAnswered(plan="shop", vm="db", step="manual-dns", choice="skip", at=T0)
    desk.hear(answer, stream=DB)
    assert desk.open_alerts() == {PLAN}


@pytest.mark.parametrize("state", ["cancelled", "failed", "completed"])
def test_the_end_of_the_job_closes_what_it_asked(state: str) -> None:
    desk = Desk()
    desk.hear(asked(), stream=JOB)
    desk.hear(vm_asked(), stream=DB)
    desk.hear(vm_finished(state), stream=DB)
    assert OF_DB not in desk.open_alerts()
    desk.hear(finished(state), stream=JOB)
    assert PLAN not in desk.open_alerts()


def test_a_retried_recovery_that_completes_closes_the_alert_of_its_failure() -> None:
    desk = Desk()
    desk.hear(finished("failed"), stream=JOB)
    assert desk.open_alerts() == {"alert:shop:job-failed:test"}
    desk.hear(RecoveryReopened(at=T0), finished("completed"), stream=JOB)
    assert desk.open_alerts() == set()


def test_the_second_end_of_a_retried_recovery_is_a_second_mail_with_the_vms_last_end() -> None:
    desk = Desk()
    desk.hear(vm_finished("failed", "failed"), stream=DB)
    desk.hear(finished("failed"), stream=JOB)
    desk.hear(RecoveryReopened(at=T0), stream=JOB)
    desk.hear(vm_finished(), stream=DB)
    desk.hear(finished("completed"), stream=JOB)
    first, second = desk.mails.values()
    assert "failed" in first.subject and "completed" in second.subject
    assert "db: failed" in first.text and "db: ready" in second.text
    assert "db: failed" not in second.text


def test_the_same_end_again_is_no_second_mail() -> None:
    desk = Desk()
    desk.hear(finished("failed"), finished("failed"), stream=JOB)
    assert len(desk.mails) == 1
