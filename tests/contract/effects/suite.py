"""What every work queue must do, whatever it is made of. Time passes as the harness says."""

from __future__ import annotations

from shared.effects.port import Budget
from tests.contract.effects.budgets import BudgetContract
from tests.contract.effects.claims import ClaimContract
from tests.contract.effects.leases import CancelContract, LeaseContract
from tests.contract.effects.throttling import ThrottlingContract
from tests.contract.effects.work import Harness, actor


class WorkContract(
    ClaimContract, BudgetContract, ThrottlingContract, LeaseContract, CancelContract
):
    """All of it."""

    async def test_settling_nothing_and_an_unused_queue_are_fine(self, harness: Harness) -> None:
        one = await actor(harness)
        assert await one.claim() == []
        assert await harness.queue.waiting(count_max=5) == ()
        assert await harness.queue.budgets() == ()
        await harness.queue.define([Budget(name="x", mode="hold", concurrent=1)])
