"""Checkpoints: when the next is due, which may go."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.plans import CheckpointPolicy
from services.scheduler.domain.retention import CheckpointFacts, expired, next_checkpoint

START = datetime(2026, 1, 1, tzinfo=UTC)


def utc(month: int, day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


def due(policy: CheckpointPolicy, after: datetime, count: int) -> list[datetime]:
    moments: list[datetime] = []
    for _ in range(count):
        moment = next_checkpoint(policy, start_at=START, after=after)
        assert moment is not None
        moments.append(moment)
        after = moment
    return moments


def test_every_counts_from_the_start_of_replication() -> None:
    policy = CheckpointPolicy(every_s=14_400.0, keep_last=1)
    assert due(policy, utc(3, 1, 1), 2) == [utc(3, 1, 4), utc(3, 1, 8)]


def test_cron_fires_in_its_own_zone() -> None:
    policy = CheckpointPolicy(cron="30 9 * * *", time_zone="Asia/Kolkata", keep_last=1)
    assert due(policy, utc(3, 1, 4), 2) == [utc(3, 2, 4), utc(3, 3, 4)]


def test_a_local_time_that_is_skipped_fires_right_after_the_gap() -> None:
    policy = CheckpointPolicy(cron="30 2 * * *", time_zone="Europe/Berlin", keep_last=1)
    assert due(policy, utc(3, 28, 12), 2) == [utc(3, 29, 1), utc(3, 30, 0, 30)]


def test_a_local_time_that_comes_twice_fires_once() -> None:
    policy = CheckpointPolicy(cron="30 2 * * *", time_zone="Europe/Berlin", keep_last=1)
    assert due(policy, utc(10, 24, 12), 2) == [utc(10, 25, 0, 30), utc(10, 26, 1, 30)]
    # Asked in the second 02:15 of that night, the first 02:30 is over.
    assert due(policy, utc(10, 25, 1, 15), 1) == [utc(10, 26, 1, 30)]


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["30 2 * * *", "0 */4 * * *", "*/15 * * * *", "0 0 1 * 1", "15,45 1-3 * * *"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    st.integers(min_value=0, max_value=365 * 1_440),
    st.floats(min_value=0, max_value=0.999),
)
def test_between_two_fires_the_answer_is_always_the_later_one(
    cron: str, zone: str, minute: int, part: float
) -> None:
    policy = CheckpointPolicy(cron=cron, time_zone=zone, keep_last=1)
    after = START + timedelta(minutes=minute)
    first, second = due(policy, after, 2)
    assert after < first < second
    between = first + (second - first) * part
    assert next_checkpoint(policy, start_at=START, after=between) == second


def facts(
    *ages_h: float, preserved: tuple[int, ...] = (), in_use: tuple[int, ...] = ()
) -> list[CheckpointFacts]:
    return [
        CheckpointFacts(
            id=f"c{index}",
            created_at=START - timedelta(hours=age),
            preserved=index in preserved,
            in_use=index in in_use,
        )
        for index, age in enumerate(ages_h)
    ]


@pytest.mark.parametrize(
    ("keep_last", "keep_for_h", "gone"),
    [
        (2, None, ("c3", "c2")),
        (None, 8, ("c3",)),
        (1, 8, ("c3",)),
        (3, 1, ("c3",)),
        (4, None, ()),
        (None, None, ()),
    ],
)
def test_a_checkpoint_goes_when_no_rule_keeps_it(
    keep_last: int | None, keep_for_h: int | None, gone: tuple[str, ...]
) -> None:
    keep_for_s = None if keep_for_h is None else keep_for_h * 3_600.0
    listed = facts(0, 4, 8, 12)
    assert expired(listed, keep_last=keep_last, keep_for_s=keep_for_s, now=START) == gone


def test_preserved_and_used_ones_stay_and_preserved_take_no_place() -> None:
    listed = facts(0, 4, 8, 12, 16, preserved=(1,), in_use=(3,))
    assert expired(listed, keep_last=2, keep_for_s=None, now=START) == ("c4",)


@given(
    st.lists(st.tuples(st.integers(0, 100), st.booleans(), st.booleans()), max_size=30),
    st.none() | st.integers(1, 10),
    st.none() | st.integers(1, 100),
    st.integers(0, 200),
)
def test_retention_only_ever_takes_what_it_may(
    rows: list[tuple[int, bool, bool]], keep_last: int | None, keep_for_h: int | None, later_h: int
) -> None:
    listed = [
        CheckpointFacts(
            id=f"c{index:02}",
            created_at=START - timedelta(hours=age),
            preserved=preserved,
            in_use=in_use,
        )
        for index, (age, preserved, in_use) in enumerate(rows)
    ]
    keep_for_s = None if keep_for_h is None else keep_for_h * 3_600.0
    now = START + timedelta(hours=later_h)
    gone = set(expired(listed, keep_last=keep_last, keep_for_s=keep_for_s, now=now))
    left = [checkpoint for checkpoint in listed if checkpoint.id not in gone]
    regular = [checkpoint for checkpoint in listed if not checkpoint.preserved]
    assert all(c.id not in gone for c in listed if c.preserved or c.in_use)
    if keep_for_s is not None:
        young = [c for c in listed if now - c.created_at <= timedelta(seconds=keep_for_s)]
        assert all(checkpoint.id not in gone for checkpoint in young)
    if keep_last is not None:
        kept = sum(not checkpoint.preserved for checkpoint in left)
        assert kept >= min(keep_last, len(regular))
    # Nothing is left to take a second time, and time alone never brings one back.
    assert expired(left, keep_last=keep_last, keep_for_s=keep_for_s, now=now) == ()
