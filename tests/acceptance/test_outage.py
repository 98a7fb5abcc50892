"""A database that goes away under running work costs nothing but time."""

from __future__ import annotations

from tests.acceptance.outage import IN_FLIGHT_MIN, KINDS, run_outage
from tests.failures import failure_mode


@failure_mode(
    "Postgres",
    "dead",
    sees=(
        "`/readyz` of every service is 503 within 2 s; a command is answered 503 and "
        "nothing of it is kept; running jobs stand still."
    ),
    does=(
        "Start Postgres again. Work goes on by itself within 20 s; nothing failed, no "
        "attempt was used, nothing is done twice."
    ),
)
def test_work_in_flight_survives_an_outage_without_a_failure_or_a_repeat(
    postgres_server: str,
) -> None:
    verdict = run_outage(seconds=6)
    assert set(verdict.in_flight) == set(KINDS)
    assert sum(verdict.in_flight.values()) >= IN_FLIGHT_MIN
    assert verdict.good, [verdict.line(), *verdict.wrong]
