"""PIT checkpoints: due by schedule, made of what has a copy, kept by rules."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from schemas import scheduler as said
from schemas.plans import CheckpointPolicy
from schemas.replicator import DeleteCheckpoint, MakeCheckpoint
from services.scheduler.domain.names import plan_stream
from tests.unit.scheduler.desk import Desk, at, definition, desk_with

PLAN = plan_stream("shop")
HOURLY = CheckpointPolicy(every_s=3600.0, keep_last=2)


def hourly(*vms: str, policy: CheckpointPolicy = HOURLY) -> Desk:
    desk = desk_with(*(vms or ("db",)), checkpoints=policy)
    desk.command(said.StopPlan, plan="shop")
    return desk


def made(desk: Desk, state: Any = "available") -> str:
    """The checkpoint that was just asked for ends."""
    (message,) = desk.take(MakeCheckpoint)
    desk.tell(
        said.CheckpointEnded(
            plan="shop",
            checkpoint=message.checkpoint,
            state=state,
            created_at=desk.now,
            vms=message.vms,
        )
    )
    return message.checkpoint


def by_hand(desk: Desk, job: str, **fields: Any) -> str:
    answer = desk.command(said.CreateCheckpoint, plan="shop", job=job, **fields)
    assert answer is not None
    assert answer.outcome == "done", answer
    return made(desk)


def change(desk: Desk, checkpoint: str, action: str) -> str:
    answer = desk.command(said.ChangeCheckpoint, plan="shop", checkpoint=checkpoint, action=action)
    assert answer is not None
    return answer.code or answer.outcome


def gone(desk: Desk) -> list[str]:
    return [message.checkpoint for message in desk.take(DeleteCheckpoint)]


def test_a_checkpoint_is_made_on_the_hour_of_the_vms_that_have_a_copy() -> None:
    desk = hourly("db", "web")
    desk.command(said.RunPlan, plan="shop", job="replication-run:shop:r", vms=("db",))
    desk.end("db")
    desk.until(at(60))
    (message,) = desk.take(MakeCheckpoint)
    assert message.checkpoint == "checkpoint:shop:20261122T210000Z"
    assert message.vms == ("db",)
    assert message.header.checkpoints == HOURLY
    timer = desk.timer(PLAN, "checkpoint")
    assert timer is not None
    assert timer.due == at(120)


def test_without_any_copy_the_schedule_goes_on_quietly() -> None:
    desk = hourly()
    desk.until(at(130))
    assert not desk.take(MakeCheckpoint)
    assert desk.timer(PLAN, "checkpoint") is not None
    answer = desk.command(said.CreateCheckpoint, plan="shop", job="checkpoint:shop:x")
    assert answer is not None
    assert answer.code == "no-copy"


def test_no_second_scheduled_checkpoint_while_one_is_being_made() -> None:
    desk = hourly()
    desk.copied("db")
    desk.until(at(130))
    assert len(desk.take(MakeCheckpoint)) == 1


def test_a_schedule_missed_while_down_makes_one() -> None:
    desk = hourly()
    desk.copied("db")
    timer = desk.timer(PLAN, "checkpoint")
    assert timer is not None
    desk.fire(timer, late_s=5 * 3600)
    assert len(desk.take(MakeCheckpoint)) == 1
    timer = desk.timer(PLAN, "checkpoint")
    assert timer is not None
    assert timer.due == at(420)


def test_keep_last_lets_the_oldest_go() -> None:
    desk = hourly()
    desk.copied("db")
    jobs = [f"checkpoint:shop:{n}" for n in range(3)]
    for minute, job in enumerate(jobs):
        desk.now = at(2 + minute)
        by_hand(desk, job)
    assert gone(desk) == [jobs[0]]
    assert desk.plan.checkpoints[jobs[0]].state == "expiring"
    desk.tell(
        said.CheckpointEnded(plan="shop", checkpoint=jobs[0], state="deleted", created_at=at(2))
    )
    assert list(desk.plan.checkpoints) == jobs[1:]


def test_keep_for_lets_go_when_the_time_is_over() -> None:
    policy = CheckpointPolicy(every_s=86_400.0, keep_for_s=600.0)
    desk = hourly(policy=policy)
    desk.copied("db")
    job = by_hand(desk, "checkpoint:shop:a")
    made_at = desk.now
    desk.until(made_at + dt.timedelta(seconds=600))
    assert gone(desk) == []
    desk.until(made_at + dt.timedelta(seconds=601))
    assert gone(desk) == [job]


def test_what_both_rules_let_go_is_gone_and_nothing_else() -> None:
    policy = CheckpointPolicy(every_s=86_400.0, keep_last=1, keep_for_s=600.0)
    desk = hourly(policy=policy)
    desk.copied("db")
    jobs = [by_hand(desk, f"checkpoint:shop:{n}") for n in "ab"]
    desk.until(desk.now + dt.timedelta(hours=2))
    assert len(gone(desk)) == 1
    assert len([e for e in desk.plan.checkpoints.values() if e.state == "available"]) == 1
    assert set(desk.plan.checkpoints) == set(jobs)


def test_preserved_ones_stay_and_cannot_be_deleted() -> None:
    policy = CheckpointPolicy(every_s=86_400.0, keep_last=1)
    desk = hourly(policy=policy)
    desk.copied("db")
    kept = by_hand(desk, "checkpoint:shop:a", preserved=True)
    desk.now = at(3)
    by_hand(desk, "checkpoint:shop:b")
    desk.now = at(4)
    by_hand(desk, "checkpoint:shop:c")
    assert gone(desk) == ["checkpoint:shop:b"]
    assert change(desk, kept, "delete") == "preserved"
    assert change(desk, kept, "unpreserve") == "done"
    assert gone(desk) == [kept]


def test_one_in_use_stays_until_it_is_released() -> None:
    policy = CheckpointPolicy(every_s=86_400.0, keep_last=1)
    desk = hourly(policy=policy)
    desk.copied("db")
    used = by_hand(desk, "checkpoint:shop:a")
    answer = desk.command(
        said.Recover, plan="shop", job="recovery:shop:1", mode="test", checkpoint=used
    )
    assert answer is not None
    assert answer.outcome == "done"
    assert change(desk, used, "delete") == "in-use"
    desk.now = at(3)
    by_hand(desk, "checkpoint:shop:b")
    assert gone(desk) == []
    desk.tell(
        said.ReleaseHolds(
            plan="shop",
            job="recovery:shop:1",
            modes=("read-copy", "own-instance"),
            release_checkpoint=True,
        )
    )
    assert gone(desk) == [used]


def test_deleting_by_hand_is_a_message_and_once() -> None:
    desk = hourly()
    desk.copied("db")
    job = by_hand(desk, "checkpoint:shop:a")
    assert change(desk, job, "delete") == "done"
    assert change(desk, job, "delete") == "done"
    assert gone(desk) == [job]
    assert change(desk, job, "preserve") == "expiring"


def test_one_being_made_cannot_be_deleted_but_preserved() -> None:
    desk = hourly()
    desk.copied("db")
    desk.command(said.CreateCheckpoint, plan="shop", job="checkpoint:shop:a")
    assert change(desk, "checkpoint:shop:a", "delete") == "busy"
    assert change(desk, "checkpoint:shop:a", "preserve") == "done"
    made(desk)
    assert desk.plan.checkpoints["checkpoint:shop:a"].preserved


@pytest.mark.parametrize("action", ["preserve", "unpreserve", "delete"])
def test_a_checkpoint_nobody_knows_is_refused(action: str) -> None:
    assert change(hourly(), "checkpoint:shop:x", action) == "unknown-checkpoint"


def test_a_failed_checkpoint_is_forgotten_and_harms_no_other() -> None:
    desk = hourly()
    desk.copied("db")
    by_hand(desk, "checkpoint:shop:a")
    desk.command(said.CreateCheckpoint, plan="shop", job="checkpoint:shop:b")
    made(desk, "failed")
    assert list(desk.plan.checkpoints) == ["checkpoint:shop:a"]
    assert gone(desk) == []


def test_news_that_comes_twice_counts_once() -> None:
    desk = hourly()
    desk.copied("db")
    job = by_hand(desk, "checkpoint:shop:a")
    rows = desk.rows
    desk.tell(
        said.CheckpointEnded(plan="shop", checkpoint=job, state="available", created_at=at(2))
    )
    assert desk.rows == rows


def test_a_shorter_rule_takes_effect_when_it_is_applied() -> None:
    desk = hourly()
    desk.copied("db")
    for minute, name in enumerate("ab"):
        desk.now = at(2 + minute)
        by_hand(desk, f"checkpoint:shop:{name}")
    desk.apply(definition("db", checkpoints=CheckpointPolicy(every_s=60.0, keep_last=1)))
    desk.until(desk.now)
    assert gone(desk) == ["checkpoint:shop:a"]


def test_without_a_policy_nothing_is_due_and_nothing_expires() -> None:
    desk = hourly()
    desk.copied("db")
    by_hand(desk, "checkpoint:shop:a")
    desk.apply(definition("db"))
    desk.until(at(600))
    assert gone(desk) == []
    assert not desk.take(MakeCheckpoint)


def test_checkpoints_outlive_their_plan() -> None:
    desk = hourly()
    desk.copied("db")
    job = by_hand(desk, "checkpoint:shop:a")
    desk.command(said.DeletePlan, plan="shop")
    assert gone(desk) == []
    assert change(desk, job, "delete") == "done"
