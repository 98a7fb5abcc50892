"""What platforms' answers do to budgets, across workers, services and restarts."""

from __future__ import annotations

from collections.abc import Iterable

from shared.decider import Need, WorkClass
from shared.effects.adapt import FLOOR_PER_S, LOWER_MAX
from shared.effects.port import BudgetState, Claimed, WorkQueue
from shared.eventlog.port import Pushback, Settled, Step
from tests.contract.effects.work import (
    SECOND,
    Actor,
    Harness,
    actor,
    bucket,
    effect,
    hold,
    in_use,
    rate,
    slots,
)

AGAIN_S = 0.05


async def refuse(
    one: Actor, harness: Harness, claimed: Iterable[Claimed], pushback: Pushback
) -> None:
    """Put effects back as refused by their platform; they are ready again in a moment."""
    at = await harness.now() + AGAIN_S * SECOND
    await one.store.commit(
        Step(
            settled=[
                Settled(each.effect_id, each.lease_no, at, each.attempt, pushback=pushback)
                for each in claimed
            ]
        )
    )


async def state(queue: WorkQueue, name: str) -> BudgetState:
    (found,) = [each for each in await queue.budgets() if each.budget.name == name]
    return found


class ThrottlingContract:
    """What platforms' answers do."""

    async def test_a_refusal_lowers_the_rate_for_all_workers_and_services(
        self, harness: Harness
    ) -> None:
        one, two = await actor(harness), await actor(harness, "recovery")
        await harness.queue.define([bucket("west/api", 10, 100)])
        await one.enqueue(effect(f"a{n}", needs=rate("west/api")) for n in range(10))
        claimed = await one.claim()
        await refuse(one, harness, claimed[:1], Pushback())
        await one.settle(claimed[1:])
        await two.enqueue(effect(f"b{n}", needs=rate("west/api")) for n in range(90))
        granted = len(await two.claim())
        assert granted <= 1
        await harness.pass_time(0.5)
        granted += len(await two.claim()) + len(await one.claim())
        assert granted <= 100 * LOWER_MAX * 0.25 + 2
        found = await state(harness.queue, "west/api")
        assert found.limit == 100 * LOWER_MAX
        assert (found.cap, found.throttled) == (100, 1)
        assert found.throttled_at is not None

    async def test_a_burst_of_refusals_lowers_it_once(self, harness: Harness) -> None:
        one = await actor(harness)
        await harness.queue.define([bucket("west/api", 10, 100)])
        await one.enqueue(effect(f"a{n}", needs=rate("west/api")) for n in range(10))
        claimed = await one.claim()
        for each in claimed:
            await refuse(one, harness, [each], Pushback())
            await one.claim()
        found = await state(harness.queue, "west/api")
        assert found.throttled >= 10
        assert found.limit >= 100 * LOWER_MAX**2

    async def test_a_refused_effect_is_claimed_again_without_an_attempt(
        self, harness: Harness
    ) -> None:
        one = await actor(harness)
        await harness.queue.define([bucket("west/api", 10, 100)])
        await one.enqueue([effect("a", needs=rate("west/api"))])
        await refuse(one, harness, await one.claim(), Pushback())
        claimed = await one.claim()
        await harness.pass_time(AGAIN_S + 0.1)
        (again,) = [*claimed, *await one.claim()]
        assert (again.effect_id, again.attempt) == ("a/step/x", 0)

    async def test_nothing_is_claimed_before_the_platform_allows_it(
        self, harness: Harness
    ) -> None:
        one, two = await actor(harness), await actor(harness, "recovery")
        await harness.queue.define([bucket("west/api", 10, 100)])
        await one.enqueue(effect(f"a{n}", needs=rate("west/api")) for n in range(20))
        await two.enqueue([effect("b", needs=rate("west/api"))])
        (first, *_) = await one.claim(1)
        await refuse(one, harness, [first], Pushback(retry_after_s=0.8))
        result = await two.queue.claim(two.lease, kinds=["copy"], count_max=9)
        assert result.effects == ()
        assert result.next_in_s is not None
        paused_until = (await state(harness.queue, "west/api")).paused_until
        assert paused_until is not None
        await harness.pass_time(0.4)
        assert await one.claim() == []
        await harness.pass_time(0.5)
        assert len(await one.claim_all()) + len(await two.claim_all()) >= 1
        assert (await state(harness.queue, "west/api")).paused_until is None

    async def test_outcomes_raise_a_lowered_rate_and_the_cap_ends_it(
        self, harness: Harness
    ) -> None:
        one = await actor(harness)
        await harness.queue.define([bucket("west/api", 10, 100)])
        await one.enqueue(effect(f"a{n}", needs=rate("west/api")) for n in range(200))
        await refuse(one, harness, await one.claim(1), Pushback())
        await one.claim_all()
        lowered = (await state(harness.queue, "west/api")).limit
        limits = []
        for _ in range(4):
            await harness.pass_time(0.3)
            await one.settle(await one.claim_all())
            limits.append((await state(harness.queue, "west/api")).limit)
        assert limits == sorted(limits)
        assert lowered < limits[-1] <= 100
        await harness.queue.define([bucket("west/api", 10, lowered)])
        assert (await state(harness.queue, "west/api")).lowered_to is None

    async def test_a_lowered_rate_is_kept_when_its_cap_is_defined_again(
        self, harness: Harness
    ) -> None:
        one = await actor(harness)
        await harness.queue.define([bucket("west/api", 10, 100)])
        await one.enqueue(effect(f"a{n}", needs=rate("west/api")) for n in range(9))
        await refuse(one, harness, await one.claim(1), Pushback())
        await one.claim(1)
        lowered = (await state(harness.queue, "west/api")).limit
        await harness.queue.define([bucket("west/api", 10, 100)])
        assert (await state(harness.queue, "west/api")).limit == lowered
        await harness.queue.define([bucket("west/api", 20, 200)])
        assert (await state(harness.queue, "west/api")).limit == lowered

    async def test_however_much_is_refused_one_call_passes_in_the_end(
        self, harness: Harness
    ) -> None:
        one = await actor(harness)
        await harness.queue.define([bucket("west/api", 10, 10)])
        await one.enqueue(effect(f"a{n}", needs=rate("west/api")) for n in range(60))
        for _ in range(40):
            await refuse(one, harness, await one.claim_all(), Pushback())
            await harness.pass_time(0.2)
        found = await state(harness.queue, "west/api")
        assert FLOOR_PER_S <= found.limit < 5
        result = await one.queue.claim(one.lease, kinds=["copy"], count_max=9)
        assert result.effects or result.next_in_s is not None

    async def test_a_platform_that_is_full_is_asked_again_when_a_call_of_ours_ends(
        self, harness: Harness
    ) -> None:
        one = await actor(harness)
        await harness.queue.define([slots("west/writes", 5), bucket("west/api", 99, 99)])
        both = (*hold("west/writes"), *rate("west/api"))
        await one.enqueue(effect(f"a{n}", needs=both) for n in range(9))
        claimed = await one.claim(4)
        await refuse(one, harness, claimed[3:], Pushback(busy=True, quota="writes"))
        assert await one.claim() == []
        assert (await state(harness.queue, "west/writes")).limit == 3
        assert (await state(harness.queue, "west/api")).lowered_to is None
        await one.settle(claimed[:1])
        assert len(await one.claim()) == 1

    async def test_a_full_platform_that_others_use_is_tried_one_call_at_a_time(
        self, harness: Harness
    ) -> None:
        one = await actor(harness)
        await harness.queue.define([slots("west/writes", 5)])
        await one.enqueue(effect(f"a{n}", needs=hold("west/writes")) for n in range(9))
        await refuse(one, harness, await one.claim(1), Pushback(busy=True))
        assert await one.claim() == []
        await harness.pass_time(1.1)
        assert len(await one.claim()) == 1
        assert await in_use(harness.queue, "west/writes") == 1

    async def test_budgets_of_our_own_are_not_a_platforms_to_lower(self, harness: Harness) -> None:
        one = await actor(harness)
        await harness.queue.define([slots("node:west", 5), slots("west/writes", 5)])
        needs = hold("node:west", "west/writes")
        await one.enqueue(effect(f"a{n}", needs=needs) for n in range(9))
        await refuse(one, harness, await one.claim(2), Pushback(busy=True))
        await one.claim()
        assert (await state(harness.queue, "node:west")).lowered_to is None
        assert (await state(harness.queue, "west/writes")).lowered_to == 1

    async def test_a_refusal_of_another_quota_is_put_down_to_that(self, harness: Harness) -> None:
        one = await actor(harness)
        await harness.queue.define(
            [bucket("west/api", 99, 99), bucket("west/list", 9, 9), bucket("east/list", 9, 9)]
        )
        await one.enqueue(effect(f"a{n}", needs=rate("west/api")) for n in range(9))
        await refuse(one, harness, await one.claim(1), Pushback(quota="list"))
        await one.claim(1)
        lowered = {
            each.budget.name
            for each in await harness.queue.budgets()
            if each.lowered_to is not None
        }
        assert lowered == {"west/list"}

    async def test_recovery_comes_before_replication_at_a_lowered_budget(
        self, harness: Harness
    ) -> None:
        one, other = await actor(harness), await actor(harness, "recovery")
        assert await other.claim() == []  # says which kinds it handles
        await harness.queue.define([bucket("west/api", 20, 40)])
        await one.enqueue(effect(f"r{n:02}", needs=rate("west/api")) for n in range(60))
        await refuse(one, harness, await one.claim(20), Pushback())
        await one.claim()
        await other.enqueue(
            effect(f"u{n}", due_s=99, work_class=WorkClass.RECOVERY, needs=rate("west/api"))
            for n in range(60)
        )
        granted: list[str] = []
        # A lowered bucket saves up a quarter of a second's calls: recovery wants more all along.
        for _ in range(10):
            await harness.pass_time(0.06)
            for each in (one, other):
                claimed = await each.claim()
                await each.settle(claimed)
                granted += [done.stream[0] for done in claimed]
        assert 5 <= len(granted) <= 55
        assert set(granted) == {"u"}

    async def test_plans_share_a_lowered_budget_equally(self, harness: Harness) -> None:
        one = await actor(harness)
        await harness.queue.define([bucket("west/api", 20, 100)])
        for plan in ("shop", "bank"):
            await one.enqueue(
                effect(f"{plan}{n}", plan=plan, needs=rate("west/api")) for n in range(60)
            )
        await refuse(one, harness, await one.claim(1), Pushback())
        await one.claim()
        plans: list[str] = []
        for _ in range(30):
            await harness.pass_time(0.05)
            claimed = await one.claim()
            await one.settle(claimed)
            plans += [each.stream[:4] for each in claimed]
        assert len(plans) > 20
        assert abs(plans.count("shop") - plans.count("bank")) <= 2

    async def test_writes_that_are_kept_for_recovery_stay_free_of_replication(
        self, harness: Harness
    ) -> None:
        one = await actor(harness)
        await harness.queue.define(
            [slots("west/writes", 100), slots("west/writes:replication", 80)]
        )
        share = hold("west/writes", "west/writes:replication")
        await one.enqueue(effect(f"r{n}", needs=share) for n in range(200))
        assert len(await one.claim_all()) == 80
        await one.enqueue(
            effect(f"c{n}", work_class=WorkClass.CHECKPOINT, needs=hold("west/writes"))
            for n in range(30)
        )
        checkpoints = await one.claim_all()
        assert {each.stream[0] for each in checkpoints} == {"c"}
        assert len(checkpoints) == 20

    async def test_nobody_knows_a_limit_and_the_platform_has_one(self, harness: Harness) -> None:
        one = await actor(harness)
        await harness.queue.define([bucket("west/api", 1e9, 1e9)])
        needs = (Need(budget="west/api", mode="rate"),)
        await one.enqueue(effect(f"a{n}", needs=needs) for n in range(200))
        claimed = await one.claim()
        await refuse(one, harness, claimed, Pushback())
        await one.claim(1)
        assert (await state(harness.queue, "west/api")).limit < 100
