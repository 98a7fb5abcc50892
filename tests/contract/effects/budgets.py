"""What budgets allow, across effects, streams and services."""

from __future__ import annotations

import pytest

from shared.decider import Need, WorkClass
from shared.errors import Refused
from shared.eventlog.port import Step
from tests.contract.effects.work import (
    LEASE_S,
    Actor,
    Harness,
    actor,
    bucket,
    effect,
    hold,
    in_use,
    rate,
    seat,
    seats,
    slots,
)


class BudgetContract:
    """What budgets allow."""

    async def test_a_concurrency_budget_is_never_exceeded(self, harness: Harness) -> None:
        one, two = await actor(harness), await actor(harness, "recovery")
        await harness.queue.define([slots("west", 3)])
        await one.enqueue(effect(f"a{n}", needs=hold("west")) for n in range(9))
        await two.enqueue(effect(f"b{n}", needs=hold("west")) for n in range(9))
        running: list[tuple[Actor, object]] = []
        for _ in range(12):
            for each in (one, two):
                claimed = await each.claim()
                assert len(running) + len(claimed) <= 3
                running += [(each, one_claim) for one_claim in claimed]
            assert await in_use(harness.queue, "west") == len(running)
            owner, done = running.pop(0)
            await owner.settle([done])  # type: ignore[list-item]

    async def test_blocked_work_does_not_hold_up_ready_work_behind_it(
        self, harness: Harness
    ) -> None:
        one = await actor(harness)
        await harness.queue.define([slots("full", 0), slots("free", 9)])
        await one.enqueue(
            [effect(f"blocked{n}", priority=1, needs=hold("full")) for n in range(5)]
            + [effect("both", priority=1, needs=hold("free", "full"))]
            + [effect("ready", priority=5, needs=hold("free"))]
        )
        assert await one.claim_ids() == ["ready"]

    async def test_a_budget_that_nobody_defined_has_no_room_until_it_is(
        self, harness: Harness
    ) -> None:
        one = await actor(harness)
        await one.enqueue([effect("a", needs=rate("later"))])
        assert await one.claim_ids() == []
        await harness.queue.define([bucket("later", 1, 0)])
        assert await one.claim_ids() == ["a"]

    async def test_a_changed_limit_counts_what_is_in_use(self, harness: Harness) -> None:
        one = await actor(harness)
        await harness.queue.define([slots("west", 3)])
        await one.enqueue(effect(f"s{n}", needs=hold("west")) for n in range(9))
        claimed = await one.claim()
        await harness.queue.define([slots("west", 2)])
        await one.settle(claimed[:2])
        assert len(await one.claim()) == 1
        await harness.queue.define([slots("west", 4)])
        assert len(await one.claim()) == 2

    async def test_a_change_of_mode_is_refused_and_changes_nothing(self, harness: Harness) -> None:
        await harness.queue.define([slots("west", 3)])
        with pytest.raises(Refused, match="west"):
            await harness.queue.define([bucket("west", 5, 1), slots("new", 1)])
        (state,) = await harness.queue.budgets()
        assert state.budget == slots("west", 3)

    async def test_a_bucket_gives_its_burst_and_then_its_rate(self, harness: Harness) -> None:
        one = await actor(harness)
        await harness.queue.define([bucket("api", 4, 10)])
        began = await harness.now()
        await one.enqueue(effect(f"s{n}", needs=rate("api")) for n in range(100))
        assert len(await one.claim()) == 4
        granted, elapsed_s = 4, 0.0
        for _ in range(6):
            result = await one.queue.claim(one.lease, kinds=["copy"], count_max=64)
            granted += len(result.effects)
            elapsed_s = (await harness.now() - began).total_seconds()
            assert granted <= 4 + 10 * elapsed_s
            if not result.effects:
                assert result.next_in_s is not None
                await harness.pass_time(result.next_in_s + 0.005)
        assert granted >= 4 + 10 * elapsed_s - 2
        (state,) = await harness.queue.budgets()
        assert 0 <= state.tokens <= 4

    async def test_a_bucket_never_holds_more_than_its_burst(self, harness: Harness) -> None:
        one = await actor(harness)
        await harness.queue.define([bucket("api", 2, 1000)])
        await one.enqueue(effect(f"s{n}", needs=rate("api")) for n in range(9))
        await harness.pass_time(0.1)
        assert len(await one.claim()) == 2

    async def test_defining_a_bucket_again_does_not_fill_it(self, harness: Harness) -> None:
        one = await actor(harness)
        await harness.queue.define([bucket("api", 3, 0)])
        await one.enqueue(effect(f"s{n}", needs=rate("api")) for n in range(9))
        assert len(await one.claim()) == 3
        await harness.queue.define([bucket("api", 5, 0)])
        assert await one.claim() == []

    async def test_a_token_is_spent_for_good(self, harness: Harness) -> None:
        one = await actor(harness)
        await harness.queue.define([bucket("api", 1, 0)])
        await one.enqueue(effect(f"s{n}", needs=rate("api")) for n in range(2))
        await one.settle(await one.claim())
        assert await one.claim() == []

    async def test_a_seat_stays_with_its_stream_across_effects(self, harness: Harness) -> None:
        one = await actor(harness)
        await harness.queue.define([seats("writes", 2)])
        await one.enqueue(effect(f"{s}/open/x", needs=seat("writes")) for s in ("a", "b", "c"))
        first = await one.claim()
        assert [each.stream for each in first] == ["a", "b"]
        await one.settle(first)
        assert await in_use(harness.queue, "writes") == 2
        await one.enqueue([effect("b/finish/x", needs=seat("writes"))])
        (again,) = await one.claim()
        assert again.effect_id == "b/finish/x"
        await one.settle([again], releases=["writes"])
        assert await in_use(harness.queue, "writes") == 1
        assert [each.stream for each in await one.claim()] == ["c"]

    async def test_two_effects_of_one_stream_take_one_seat(self, harness: Harness) -> None:
        one = await actor(harness)
        await harness.queue.define([seats("writes", 1)])
        await one.enqueue(effect(f"a/part/{n}", needs=seat("writes")) for n in range(3))
        await one.enqueue([effect("b/part/0", due_s=-1, needs=seat("writes"))])
        (first,) = await one.claim(1)
        assert first.stream == "b"
        await one.settle([first], releases=["writes"])
        assert len(await one.claim_all()) == 3
        assert await in_use(harness.queue, "writes") == 1

    async def test_a_seat_holder_still_waits_for_other_budgets(self, harness: Harness) -> None:
        one = await actor(harness)
        both = (*seat("writes"), *hold("west"))
        await harness.queue.define([seats("writes", 1), slots("west", 1)])
        await one.enqueue([effect("a/one/x", needs=both), effect("a/two/x", needs=both)])
        (first,) = await one.claim_all()
        assert first.effect_id == "a/one/x"
        await one.settle([first])
        assert [each.effect_id for each in await one.claim()] == ["a/two/x"]

    async def test_releasing_what_is_not_held_is_ignored(self, harness: Harness) -> None:
        one = await actor(harness)
        await harness.queue.define([seats("writes", 1)])
        await one.store.commit(Step(released_seats=[("writes", "a"), ("unknown", "a")]))
        assert await in_use(harness.queue, "writes") == 0

    async def test_replication_leaves_a_budget_to_the_recovery_that_waits_for_it(
        self, harness: Harness
    ) -> None:
        one, other = await actor(harness), await actor(harness, "recovery")
        assert await other.claim() == []  # says which kinds it handles
        await harness.queue.define([slots("west", 2)])
        await one.enqueue(effect(f"r{n}", due_s=n, needs=hold("west")) for n in range(3))
        await other.enqueue(
            [effect("urgent", due_s=9, work_class=WorkClass.RECOVERY, needs=hold("west"))]
        )
        assert await one.claim_ids() == ["r0"]
        assert await other.claim_ids() == ["urgent"]

    async def test_work_of_a_service_without_a_worker_holds_up_nobody(
        self, harness: Harness
    ) -> None:
        one, other = await actor(harness), await actor(harness, "recovery", lease_s=LEASE_S)
        assert await other.claim() == []
        await harness.queue.define([slots("west", 1)])
        await other.enqueue([effect("u", work_class=WorkClass.RECOVERY, needs=hold("west"))])
        await one.enqueue([effect("r", needs=hold("west"))])
        assert await one.claim_ids() == []
        await harness.pass_time(LEASE_S + 0.1)
        assert await one.claim_ids() == ["r"]

    async def test_work_passed_over_twenty_times_keeps_what_room_there_is(
        self, harness: Harness
    ) -> None:
        one = await actor(harness)
        await harness.queue.define([slots("x", 1), slots("y", 1)])
        await one.enqueue([effect("y-now", due_s=-99, needs=hold("y"))])
        (long_y,) = await one.claim()
        await one.enqueue([effect("both", due_s=-9, needs=hold("x", "y"))])
        await one.enqueue(effect(f"x{n}", due_s=n, needs=hold("x")) for n in range(40))
        passes = 0
        for _ in range(40):
            claimed = await one.claim()
            if not claimed:
                break
            passes += 1
            await one.settle(claimed)
            await harness.pass_time(0.011)
        assert 20 <= passes < 40
        await one.settle([long_y])
        assert await one.claim_ids() == ["both"]

    async def test_a_reservation_ends_after_two_seconds(self, harness: Harness) -> None:
        one = await actor(harness)
        await harness.queue.define([slots("x", 1), slots("y", 0)])
        await one.enqueue([effect("both", due_s=-9, needs=hold("x", "y"))])
        await one.enqueue(effect(f"x{n}", due_s=n, needs=hold("x")) for n in range(40))
        while claimed := await one.claim():
            await one.settle(claimed)
            await harness.pass_time(0.011)
        result = await one.queue.claim(one.lease, kinds=["copy"], count_max=9)
        assert result.next_in_s is not None
        assert result.next_in_s <= 2
        await harness.pass_time(2.05)
        assert len(await one.claim()) == 1

    async def test_an_effect_may_name_a_budget_twice_or_in_two_modes(
        self, harness: Harness
    ) -> None:
        one = await actor(harness)
        await harness.queue.define([slots("x", 5)])
        needs = (*hold("x"), Need(budget="x", mode="rate"))
        await one.enqueue([effect("a", needs=needs)])
        await one.settle(await one.claim())
        assert await in_use(harness.queue, "x") == 0
