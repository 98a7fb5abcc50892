"""When a failed effect is tried again, and when that is the end."""

from __future__ import annotations

import datetime as dt
import random
from itertools import pairwise

import pytest

from schemas.envelope import Meta
from shared.decider import EffectOutcome
from shared.effects.policy import (
    MAIL,
    ONCE,
    STEP,
    UNTIL_DONE,
    OutcomeUnknown,
    Requeue,
    RetryPolicy,
    succeeded,
    verdict,
)
from shared.effects.port import Claimed
from shared.errors import Permanent, Refused, SeawallError, Throttled, Transient

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def claimed(attempt: int = 0) -> Claimed:
    return Claimed(
        effect_id="plan:a/snapshot/d0", stream="plan:a", partition=0, kind="copy", type="t",
        schema_version=1, data=b"{}", meta=Meta(occurred_at=NOW), attempt=attempt, lease_no=1,
        stream_version=1,
    )  # fmt: skip


def judge(
    error: SeawallError,
    policy: RetryPolicy = STEP,
    *,
    attempt: int = 0,
    at: dt.datetime = NOW,
    seed: int = 0,
) -> EffectOutcome | Requeue:
    return verdict(
        claimed(attempt), error, policy, started_at=NOW, at=at, chance=random.Random(seed)
    )


def wait_s(judged: EffectOutcome | Requeue) -> float:
    assert isinstance(judged, Requeue)
    return (judged.at - NOW).total_seconds()


def test_an_outcome_names_its_part_and_counts_the_last_try() -> None:
    outcome = succeeded(claimed(2), None, started_at=NOW, at=NOW)
    assert (outcome.ok, outcome.part, outcome.attempts) == (True, "snapshot/d0", 3)


def test_a_transient_error_uses_an_attempt_until_the_retries_are_used_up() -> None:
    judged = [judge(Transient("busy"), attempt=attempt) for attempt in range(4)]
    assert [isinstance(each, Requeue) and each.attempt for each in judged] == [1, 2, 3, False]
    last = judged[-1]
    assert isinstance(last, EffectOutcome)
    assert (last.ok, last.code, last.error, last.attempts) == (False, "transient", "busy", 4)


def test_waits_spread_over_a_range_that_doubles_up_to_the_cap() -> None:
    def longest(attempt: int) -> float:
        policy = RetryPolicy(retries_max=None)
        return max(
            wait_s(judge(Transient("x"), policy, attempt=attempt, seed=n)) for n in range(200)
        )

    ranges = [longest(attempt) for attempt in range(8)]
    assert all(
        limit * 0.9 < seen <= limit
        for limit, seen in zip((1, 2, 4, 8, 16, 32, 60, 60), ranges, strict=True)
    )
    assert all(one < two for one, two in pairwise(ranges[:7]))
    shortest = min(wait_s(judge(Transient("x"), attempt=2, seed=n)) for n in range(200))
    assert shortest < 0.1


def test_retry_after_is_obeyed() -> None:
    assert wait_s(judge(Transient("x", retry_after_s=17))) == 17


def test_a_throttled_call_waits_at_least_as_told_and_uses_no_attempt() -> None:
    for seed in range(50):
        judged = judge(Throttled("slow down", retry_after_s=8), ONCE, attempt=0, seed=seed)
        assert isinstance(judged, Requeue)
        assert (judged.attempt, judged.failed) == (0, False)
        assert 8 <= wait_s(judged) <= 10


def test_a_throttled_call_without_a_time_waits_a_moment() -> None:
    assert 1 <= wait_s(judge(Throttled("slow down"))) <= 1.25


@pytest.mark.parametrize(
    "error", [Permanent("no", remedy="do"), Refused("no", remedy="do", code="full")]
)
def test_what_cannot_pass_ends_at_once_with_its_remedy(error: SeawallError) -> None:
    judged = judge(error, UNTIL_DONE)
    assert isinstance(judged, EffectOutcome)
    assert (judged.ok, judged.code, judged.remedy, judged.unknown) == (
        False,
        error.code,
        "do",
        False,
    )


def test_an_unknown_end_is_said() -> None:
    judged = judge(OutcomeUnknown("the script's process is gone"))
    assert isinstance(judged, EffectOutcome)
    assert (judged.ok, judged.unknown, judged.code) == (False, True, "unknown")


def test_a_script_is_never_repeated_after_a_failure() -> None:
    assert isinstance(judge(Transient("x"), ONCE), EffectOutcome)


def test_what_must_be_removed_is_retried_for_ever_and_alerts_once_after_three() -> None:
    judged = [judge(Transient("x"), UNTIL_DONE, attempt=attempt) for attempt in range(100)]
    assert all(isinstance(each, Requeue) for each in judged)
    alerts = [n for n, each in enumerate(judged) if isinstance(each, Requeue) and each.alert]
    assert alerts == [2]
    assert max(map(wait_s, judged)) <= 600


def test_mail_is_given_up_after_three_days() -> None:
    almost = NOW + dt.timedelta(hours=71, minutes=59)
    assert isinstance(judge(Transient("x"), MAIL, attempt=500, at=almost), Requeue)
    late = NOW + dt.timedelta(hours=72)
    assert isinstance(judge(Transient("x"), MAIL, attempt=500, at=late), EffectOutcome)
