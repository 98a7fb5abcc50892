"""When the source site of a full recovery counts as lost: after several looks, not after one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from schemas import recovery as said
from schemas.recovery_work import Preflight
from services.recovery import source_checks
from shared.errors import SeawallError, Transient
from shared.testing.virtual import run_virtual
from tests.unit.recovery.world import JOB, SITE

FAULT = Transient("500", code="fault")
GONE = Transient("no route", code="site-gone")


class Inventory:
    """Lists VM `db` once it has raised all its errors."""

    def __init__(self, errors: Sequence[SeawallError]) -> None:
        self.errors = list(errors)
        self.looks = 0

    async def list_vms(self, names: Sequence[str]) -> tuple[Any, ...]:
        self.looks += 1
        if self.errors:
            raise self.errors.pop(0)
        return (SimpleNamespace(name="db"),)


async def _look(inventory: Inventory, *, word: bool) -> tuple[bool, list[str], float]:
    tools: Any = SimpleNamespace(open_site=lambda _: SimpleNamespace(inventory=inventory))
    work = Preflight(
        site=SITE, plan="shop", job=JOB, mode="failover", members=(said.Member("db", 1, 0.0),),
        checkpoint="latest", network="", isolated=False, source=SITE, source_gone=word,
    )  # fmt: skip
    lost, problems = await source_checks.look(tools, work)
    took_s = asyncio.get_running_loop().time()
    return lost, [problem.code for problem in problems], took_s


def looked(*errors: SeawallError, word: bool = True) -> tuple[bool, list[str], float]:
    return run_virtual(_look(Inventory(errors), word=word))


@pytest.mark.parametrize("errors", [(), (FAULT,), (GONE,), (GONE, FAULT, GONE), (FAULT,) * 9])
def test_a_site_that_answers_in_the_end_is_not_lost(errors: Sequence[SeawallError]) -> None:
    assert looked(*errors)[:2] == (False, [])


def test_the_word_counts_for_a_site_that_is_never_reached_and_costs_a_second() -> None:
    lost, problems, took_s = looked(GONE, GONE, GONE)
    assert (lost, problems) == (True, []) and took_s <= 1.5


@pytest.mark.parametrize("errors", [(GONE,) * 3, (FAULT,) * 99])
def test_without_the_word_a_site_that_does_not_answer_is_a_problem(
    errors: Sequence[SeawallError],
) -> None:
    lost, problems, took_s = looked(*errors, word=False)
    assert (lost, problems) == (False, ["source-unreachable"])
    assert took_s <= source_checks.REACH_S_MAX
