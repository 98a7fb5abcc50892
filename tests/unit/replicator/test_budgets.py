"""A site's budgets: its own limits, open ones for what it does not limit, the node."""

from __future__ import annotations

import pytest

from services.recovery.domain import work as recovery_work
from services.replicator.budgets import OPEN_COUNT, OPEN_RATE, QUOTAS, budgets_of
from services.replicator.domain import work
from services.replicator.progress import TransferProgress
from shared.effects.port import Budget
from shared.platforms.lab.vocabulary import QUOTAS as LAB_QUOTAS
from shared.platforms.ports import BudgetFacts
from shared.platforms.sites import ARRIVAL_S


def named(*facts: BudgetFacts) -> dict[str, Budget]:
    budgets = budgets_of("west", facts)
    assert len({budget.name for budget in budgets}) == len(budgets), "each name once"
    return {budget.name: budget for budget in budgets}


def test_what_a_site_does_not_limit_is_open() -> None:
    budgets = named()
    assert budgets["west/RunInstances"].per_second == OPEN_RATE
    assert budgets["west/snapshot-writes"].concurrent == OPEN_COUNT


def test_a_sites_limit_replaces_the_open_one() -> None:
    budgets = named(BudgetFacts(name="RunInstances", burst=5, per_second=2))
    assert budgets["west/RunInstances"].per_second == 2


def test_what_may_arrive_late_is_kept_off_a_burst_but_never_its_last_token() -> None:
    budgets = named(
        BudgetFacts(name="RunInstances", burst=5, per_second=2),
        BudgetFacts(name="StartInstances", burst=1, per_second=0.5),
        BudgetFacts(name="CreateVolume", burst=2, per_second=100),
    )
    assert budgets["west/RunInstances"].burst == 5 - 2 * ARRIVAL_S
    assert budgets["west/StartInstances"].burst == 1
    assert budgets["west/CreateVolume"].burst == 1


def test_a_limit_of_another_mode_is_left_to_the_platform() -> None:
    budgets = named(BudgetFacts(name="RunInstances", concurrent=3))
    assert budgets["west/RunInstances"].mode == "rate"
    assert budgets["west/RunInstances"].per_second == OPEN_RATE


def test_a_node_copies_forty_disks() -> None:
    assert named()["node:west"] == Budget(name="node:west", mode="hold", concurrent=40)


@pytest.mark.parametrize("call", sorted(work.QUOTAS))
def test_every_budget_that_an_effect_names_is_defined_with_its_mode(call: str) -> None:
    budgets = named()
    for need in work.needs(call, "west"):
        assert budgets[need.budget].mode == need.mode


def test_the_other_services_quotas_are_defined_too() -> None:
    assert set(recovery_work.QUOTAS.values()) <= set(QUOTAS)


def test_every_quota_that_effects_name_is_one_of_the_labs() -> None:
    assert set(QUOTAS) <= set(LAB_QUOTAS) | {"StopInstances"}


class Told:
    """Keeps what was told."""

    def __init__(self) -> None:
        self.jobs: dict[str, tuple[int, int]] = {}

    def report(self, job: str, *, bytes_done: int, bytes_total: int) -> None:
        self.jobs[job] = (bytes_done, bytes_total)

    def forget(self, job: str) -> None:
        self.jobs.pop(job, None)


def test_a_vms_progress_is_the_sum_of_its_disks() -> None:
    told = Told()
    progress = TransferProgress(told)
    progress.report("iteration:a:b:c", "sda", bytes_done=10, bytes_total=100)
    progress.report("iteration:a:b:c", "sdb", bytes_done=50, bytes_total=60)
    assert told.jobs["iteration:a:b:c"] == (60, 160)
    assert told.jobs["iteration:a:b:c.sdb"] == (50, 60)


def test_nothing_is_remembered_of_an_iteration_whose_disks_have_ended() -> None:
    told = Told()
    progress = TransferProgress(told)
    progress.report("iteration:a:b:c", "sda", bytes_done=10, bytes_total=100)
    progress.report("iteration:a:b:c", "sdb", bytes_done=50, bytes_total=60)
    progress.ended("iteration:a:b:c", "sda")
    progress.report("iteration:a:b:c", "sdb", bytes_done=60, bytes_total=60)
    assert told.jobs["iteration:a:b:c"] == (70, 160)
    progress.ended("iteration:a:b:c", "sdb")
    assert told.jobs == {}
