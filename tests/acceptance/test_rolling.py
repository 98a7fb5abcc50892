"""Every copy of every service is replaced once under work; nobody notices."""

from __future__ import annotations

from shared.testing.kafka import KafkaMissing, ensure_jars
from tests import parts
from tests.acceptance.rolling import report, run_trial

SEED = 11
MEMBERS = 12


def test_a_rolling_restart_fails_loses_and_doubles_nothing(postgres_server: str) -> None:
    try:
        ensure_jars()
    except KafkaMissing as missing:
        parts.require("kafka", f"{missing}; {missing.remedy}")
    outcome = run_trial(brokers=1, rolls=1, seed=SEED, keep=False)
    assert report(outcome) == 0, outcome
    assert outcome.restarted == MEMBERS
    assert outcome.rounds >= 2
    assert outcome.commands > 50
