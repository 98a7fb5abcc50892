"""Commands that news under way may still grant: put off, then decided, or refused in the end."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from schemas import scheduler as said
from schemas.common import CommandSettled
from schemas.recovery import StartRecovery
from schemas.replicator import MakeCheckpoint
from services.scheduler.domain.patience import PATIENCE_S
from tests.failures import failure_mode
from tests.unit.scheduler.desk import Desk, desk_with

JOB = "recovery:shop:1"
COPY = "checkpoint:shop:a"


def asked(desk: Desk, kind: type[Any], **fields: Any) -> str:
    """Give a command that is put off; its id."""
    before = set(desk.answers)
    assert desk.command(kind, patient=False, plan="shop", **fields) is None
    assert set(desk.answers) == before
    (command_id,) = [
        t.name.removeprefix("again-") for t in desk.timers.values() if "again" in t.name
    ]
    return command_id


def after(desk: Desk, command_id: str, *, seconds: float) -> CommandSettled | None:
    desk.until(desk.now + dt.timedelta(seconds=seconds))
    return desk.answers.get(command_id)


def running(*vms: str) -> Desk:
    """First iterations are under way, as far as the scheduler has heard."""
    desk = desk_with(*vms)
    desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r")
    return desk


def made(desk: Desk) -> None:
    desk.tell(
        said.CheckpointEnded(
            plan="shop", checkpoint=COPY, state="available", created_at=desk.now, vms=("db",)
        )
    )


def recovering(**fields: Any) -> Desk:
    desk = desk_with("db")
    desk.copied("db")
    desk.command(said.Recover, plan="shop", job=JOB, mode="test", **fields)
    return desk


def cleaned_up(desk: Desk) -> None:
    modes: tuple[Any, ...] = ("read-copy", "own-instance")
    desk.tell(said.ReleaseHolds(plan="shop", job=JOB, modes=modes, release_checkpoint=True))
    desk.tell(said.RecoveryEnded(plan="shop", job=JOB, mode="test", state="completed"))


@failure_mode(
    "Log and read models",
    "slow",
    sees=(
        "One service hears of a job's end later than the read models: the next command "
        "waits up to 5 s for it instead of being refused."
    ),
    does="Nothing.",
)
def test_a_recovery_waits_for_the_news_that_its_copies_are_made() -> None:
    desk = running("db", "web")
    desk.end("db")
    recover = asked(desk, said.Recover, job=JOB, mode="test")
    asked_at = desk.now
    assert after(desk, recover, seconds=1) is None
    desk.end("web")
    answer = after(desk, recover, seconds=0.25)
    assert answer is not None and answer.outcome == "done"
    (start,) = desk.take(StartRecovery)
    assert start.requested_at == asked_at, "the RTO counts from the operator's command"
    assert start.actor == "ann"


def test_without_news_it_is_refused_in_the_end_as_ever() -> None:
    desk = running("db")
    recover = asked(desk, said.Recover, job=JOB, mode="test")
    assert after(desk, recover, seconds=PATIENCE_S - 0.1) is None
    answer = after(desk, recover, seconds=0.1)
    assert answer is not None and answer.code == "no-copy"
    assert not [timer for timer in desk.timers.values() if timer.name.startswith("again")]
    assert not desk.take(StartRecovery)


def test_a_vm_that_nothing_copies_is_refused_at_once() -> None:
    desk = desk_with("db", "web")
    desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r", vms=("db",))
    answer = desk.command(said.Recover, patient=False, plan="shop", job=JOB, mode="test")
    assert answer is not None and answer.code == "no-copy"


def test_an_iteration_that_failed_ends_the_waiting() -> None:
    desk = running("db")
    recover = asked(desk, said.Recover, job=JOB, mode="test")
    desk.end("db", "failed", copy=False)
    answer = after(desk, recover, seconds=0.25)
    assert answer is not None and answer.code == "no-copy"


def test_a_recovery_waits_for_its_checkpoint() -> None:
    desk = desk_with("db")
    desk.copied("db")
    desk.command(said.CreateCheckpoint, plan="shop", job=COPY)
    recover = asked(desk, said.Recover, job=JOB, mode="test", checkpoint=COPY)
    made(desk)
    answer = after(desk, recover, seconds=0.25)
    assert answer is not None and answer.outcome == "done"


def test_a_recovery_waits_for_the_cleanup_of_the_one_before() -> None:
    desk = recovering()
    again = asked(desk, said.Recover, job="recovery:shop:2", mode="test")
    cleaned_up(desk)
    answer = after(desk, again, seconds=0.25)
    assert answer is not None and answer.outcome == "done"
    assert list(desk.modes("db")) == ["recovery:shop:2"]


def test_of_two_that_wait_for_the_same_vm_one_gets_it() -> None:
    desk = recovering()
    first = asked(desk, said.Recover, job="recovery:shop:2", mode="test")
    desk.command(said.Recover, patient=False, plan="shop", job="recovery:shop:3", mode="test")
    cleaned_up(desk)
    answer = after(desk, first, seconds=PATIENCE_S + 1)
    others = [each for each in desk.answers.values() if each.code == "busy"]
    assert answer is not None and answer.outcome == "done"
    assert len(others) == 1 and len(desk.modes("db")) == 1


def test_a_checkpoint_by_hand_waits_for_the_first_copy() -> None:
    desk = running("db")
    create = asked(desk, said.CreateCheckpoint, job=COPY)
    asked_at = desk.now
    desk.end("db")
    answer = after(desk, create, seconds=0.25)
    assert answer is not None and answer.outcome == "done"
    (make,) = desk.take(MakeCheckpoint)
    assert make.requested_at == asked_at


@pytest.mark.parametrize("news", [True, False])
def test_deleting_waits_until_nothing_holds_the_plan(news: bool) -> None:
    desk = recovering()
    delete = asked(desk, said.DeletePlan)
    if news:
        cleaned_up(desk)
    answer = after(desk, delete, seconds=PATIENCE_S)
    assert answer is not None
    assert (answer.outcome == "done") is news


@pytest.mark.parametrize("news", [True, False])
def test_deleting_a_checkpoint_waits_until_it_is_made(news: bool) -> None:
    desk = desk_with("db")
    desk.copied("db")
    desk.command(said.CreateCheckpoint, plan="shop", job=COPY)
    delete = asked(desk, said.ChangeCheckpoint, checkpoint=COPY, action="delete")
    if news:
        made(desk)
    answer = after(desk, delete, seconds=PATIENCE_S)
    assert answer is not None
    assert (answer.outcome == "done") is news
