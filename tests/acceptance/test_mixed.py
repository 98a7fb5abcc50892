"""Two builds in a row work side by side, and each finishes what the other began."""

from __future__ import annotations

from shared.testing.kafka import KafkaMissing, ensure_jars
from tests import parts
from tests.acceptance.mixed import PAIRS, report, run_trial

SEED = 11


def test_a_recovery_is_finished_by_the_build_before_and_the_build_after(
    postgres_server: str,
) -> None:
    try:
        ensure_jars()
    except KafkaMissing as missing:
        parts.require("kafka", f"{missing}; {missing.remedy}")
    # The pair that writes both versions; `python -m tests.acceptance.mixed` runs all.
    old, new = PAIRS[-1]
    outcome = run_trial(old, new, seed=SEED)
    assert report(outcome) == 0, outcome
