"""Brokers, services and Postgres die under load for two minutes; nothing is lost or doubled."""

from __future__ import annotations

from shared.testing.kafka import KafkaMissing, ensure_jars
from tests import parts
from tests.acceptance.chaos import report, run_trial

MINUTES = 2.0
SEED = 11


def test_two_minutes_of_killing_everything_lose_and_double_nothing() -> None:
    try:
        ensure_jars()
    except KafkaMissing as missing:
        parts.require("kafka", f"{missing}; {missing.remedy}")
    outcome = run_trial(brokers=3, minutes=MINUTES, seed=SEED, keep=False)
    assert report(outcome) == 0, outcome
    assert sum(outcome.kills.values()) >= 5, "the trial killed nothing to speak of"
    assert outcome.settled > 10
