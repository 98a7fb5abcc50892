"""Whole worlds of the control plane: a few seeds in every test run, many by `make sim`."""

from __future__ import annotations

import pytest

from tests.simulation import main
from tests.simulation.quiet import quiet


@pytest.mark.parametrize("seed", [1, 2])
def test_a_random_world_holds_its_promises(seed: int) -> None:
    with quiet() as errors:
        verdict = main.run(seed)
    assert verdict.broken + errors == [], "\n".join(verdict.notes)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_random_world_of_recoveries_holds_its_promises(seed: int) -> None:
    with quiet() as errors:
        verdict = main.run_recoveries(seed)
    assert verdict.broken + errors == [], "\n".join(verdict.notes)


def test_one_seed_gives_one_history() -> None:
    with quiet():
        first, second = main.run_recoveries(11), main.run_recoveries(11)
    assert first.digest == second.digest
