"""Whole worlds of the control plane: some seeds in every test run, many by `make sim`."""

from __future__ import annotations

import pytest

from tests.simulation import drills, main
from tests.simulation.quiet import quiet

RECOVERY_SEEDS = range(1, 101)
TOGETHER = 10
"""Worlds of recoveries in one test: each takes less than a second."""


@pytest.mark.parametrize("seed", [1, 2])
def test_a_random_world_holds_its_promises(seed: int) -> None:
    with quiet() as errors:
        verdict = main.run(seed)
    assert verdict.broken + errors == [], "\n".join(verdict.notes)


@pytest.mark.parametrize("first", RECOVERY_SEEDS[::TOGETHER])
def test_random_worlds_of_recoveries_hold_their_promises(first: int) -> None:
    for seed in range(first, first + TOGETHER):
        with quiet() as errors:
            verdict = drills.run(seed)
        broken = verdict.broken + errors
        assert broken == [], f"make sim KIND=recovery SEEDS=1 SEED={seed}"


def test_one_seed_gives_one_history() -> None:
    with quiet():
        first, second = drills.run(11), drills.run(11)
    assert first.digest == second.digest
