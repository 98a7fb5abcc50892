"""A replicator that is stopped mid-transfer and woken does no harm, and works on."""

from __future__ import annotations

from shared.embedded import BinariesMissing
from tests import parts
from tests.acceptance import stopped
from tests.acceptance.crew import LEASE_S
from tests.failures import failure_mode


@failure_mode(
    "A service",
    "slow",
    sees=(
        "A copy stands still for longer than its lease: another one takes its work over "
        "and finishes it."
    ),
    does="Nothing. When it wakes, its writes are fenced off and it joins in again.",
)
def test_a_replicator_stopped_for_longer_than_its_lease_harms_nothing_when_it_wakes() -> None:
    try:
        outcome = stopped.run_trial(seconds=0)
    except BinariesMissing as missing:
        parts.require("postgres", f"{missing}; {missing.remedy}")
    verdict = outcome.verdict
    assert not verdict.unfinished, verdict.unfinished
    assert not verdict.lost, verdict.lost
    assert not verdict.doubled, verdict.doubled
    assert outcome.stopped_s > 2 * LEASE_S - 0.1
