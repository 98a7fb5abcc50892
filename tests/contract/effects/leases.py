"""Claims stand and fall with their worker's lease, and with their owner's will."""

from __future__ import annotations

import pytest

from shared.eventlog.port import Fenced, Settled, Step
from tests.contract.effects.work import (
    LEASE_S,
    PLATFORM_TIMEOUT_S,
    SECOND,
    Harness,
    actor,
    effect,
    hold,
    in_use,
    seat,
    seats,
    slots,
)


class LeaseContract:
    """Claims stand and fall with the lease of their worker."""

    async def test_lease_numbers_rise(self, harness: Harness) -> None:
        numbers = [(await actor(harness, worker=f"w{n}")).lease.number for n in range(3)]
        assert numbers == sorted(set(numbers))

    async def test_a_settle_under_another_lease_number_does_not_count(
        self, harness: Harness
    ) -> None:
        one, two = await actor(harness), await actor(harness, worker="replicator-2")
        await one.enqueue([effect("a"), effect("b")])
        claimed = await one.claim()
        stolen = Settled(claimed[0].effect_id, two.lease.number)
        fine = Settled(claimed[1].effect_id, one.lease.number)
        with pytest.raises(Fenced) as fenced:
            await one.store.commit(Step(settled=[stolen, fine]))
        assert (fenced.value.what, fenced.value.names) == ("claim", ("a/step/x",))
        await one.settle(claimed)

    async def test_a_settle_counts_once(self, harness: Harness) -> None:
        one = await actor(harness)
        await harness.queue.define([slots("west", 2)])
        await one.enqueue([effect("a", needs=hold("west"))])
        claimed = await one.claim()
        await one.settle(claimed)
        with pytest.raises(Fenced):
            await one.settle(claimed)
        assert await in_use(harness.queue, "west") == 0

    async def test_a_settle_after_the_lease_is_over_does_not_count(self, harness: Harness) -> None:
        one = await actor(harness, lease_s=LEASE_S)
        await one.enqueue([effect("a")])
        claimed = await one.claim()
        await harness.pass_time(LEASE_S + 0.1)
        with pytest.raises(Fenced):
            await one.settle(claimed)
        with pytest.raises(Fenced):
            await harness.queue.heartbeat(one.lease)
        with pytest.raises(Fenced):
            await one.claim()

    async def test_a_claim_that_is_kept_goes_on_and_must_stand(self, harness: Harness) -> None:
        one = await actor(harness)
        await one.enqueue([effect("a")])
        (claimed,) = await one.claim()
        kept = Settled(claimed.effect_id, claimed.lease_no, keep=True)
        await one.store.commit(Step(settled=[kept]))
        await harness.queue.renew_claims(one.lease, [claimed.effect_id])
        await one.settle([claimed])
        with pytest.raises(Fenced):
            await one.store.commit(Step(settled=[kept]))

    async def test_heartbeats_keep_a_lease(self, harness: Harness) -> None:
        one = await actor(harness, lease_s=LEASE_S)
        await one.enqueue([effect("a")])
        claimed = await one.claim()
        for _ in range(4):
            await harness.pass_time(LEASE_S / 2)
            await harness.queue.heartbeat(one.lease)
        await one.settle(claimed)

    async def test_a_dead_workers_effects_are_ready_at_once_with_the_same_attempt(
        self, harness: Harness
    ) -> None:
        dying = await actor(harness, worker="dying", lease_s=LEASE_S)
        one = await actor(harness)
        await one.enqueue([effect("a"), effect("b")])
        (claimed, _) = await dying.claim()
        await dying.requeue(claimed, await harness.now(), attempt=2)
        assert len(await dying.claim()) == 1
        assert await one.claim_ids() == []
        await harness.pass_time(LEASE_S + 0.1)
        again = await one.claim()
        assert {(each.stream, each.attempt) for each in again} == {("a", 2), ("b", 0)}
        with pytest.raises(Fenced):
            await dying.settle([claimed])

    async def test_a_dead_workers_slots_return_later_but_those_of_quick_kinds_at_once(
        self, harness: Harness
    ) -> None:
        dying = await actor(harness, worker="dying", lease_s=LEASE_S)
        one = await actor(harness)
        await harness.queue.define([slots("api", 2), slots("scripts", 2)])
        await one.enqueue(
            [effect(f"a{n}", needs=hold("api")) for n in range(2)]
            + [effect(f"s{n}", kind="script", needs=hold("scripts")) for n in range(2)]
        )
        assert len(await dying.claim()) == 4
        await harness.pass_time(LEASE_S + 0.1)
        assert sorted(await one.claim_ids()) == ["s0", "s1"]
        assert await in_use(harness.queue, "api") == 2
        await harness.pass_time(PLATFORM_TIMEOUT_S + 0.05)
        assert sorted(await one.claim_ids()) == ["a0", "a1"]
        assert await in_use(harness.queue, "api") == 2

    async def test_a_dead_workers_seats_stay_with_their_streams(self, harness: Harness) -> None:
        dying = await actor(harness, worker="dying", lease_s=LEASE_S)
        one = await actor(harness)
        await harness.queue.define([seats("writes", 1)])
        await one.enqueue(effect(s, needs=seat("writes")) for s in ("a", "b"))
        assert await dying.claim_ids() == ["a"]
        await harness.pass_time(LEASE_S + 0.1)
        assert await one.claim_ids() == ["a"]

    async def test_an_ended_lease_gives_everything_back_at_once(self, harness: Harness) -> None:
        leaving, one = await actor(harness, worker="leaving"), await actor(harness)
        await harness.queue.define([slots("api", 1)])
        await one.enqueue([effect("a", needs=hold("api"))])
        (claimed,) = await leaving.claim()
        await harness.queue.end_lease(leaving.lease)
        (again,) = await one.claim()
        assert (again.effect_id, again.attempt) == (claimed.effect_id, 0)
        with pytest.raises(Fenced):
            await leaving.settle([claimed])
        with pytest.raises(Fenced):
            await harness.queue.heartbeat(leaving.lease)

    async def test_a_lease_of_the_same_name_ends_the_one_before(self, harness: Harness) -> None:
        before = await actor(harness, worker="same")
        await before.enqueue([effect("a")])
        assert await before.claim_ids() == ["a"]
        after = await actor(harness, worker="same")
        assert after.lease.number > before.lease.number
        assert await after.claim_ids() == ["a"]
        with pytest.raises(Fenced):
            await harness.queue.heartbeat(before.lease)

    async def test_renewing_names_the_claims_that_are_lost(self, harness: Harness) -> None:
        one, two = await actor(harness), await actor(harness, worker="replicator-2")
        await one.enqueue([effect("a"), effect("b")])
        mine, theirs = (await one.claim(1))[0], (await two.claim(1))[0]
        await harness.queue.renew_claims(one.lease, [mine.effect_id])
        with pytest.raises(Fenced) as fenced:
            await harness.queue.renew_claims(one.lease, [mine.effect_id, theirs.effect_id])
        assert fenced.value.names == (theirs.effect_id,)

    async def test_claims_whose_answer_was_lost_can_be_found(self, harness: Harness) -> None:
        one = await actor(harness)
        await one.enqueue([effect("a"), effect("b"), effect("c")])
        known, lost, *_ = await one.claim(2)
        assert await harness.queue.unanswered(one.lease, [known.effect_id]) == (lost,)

    async def test_a_throttled_effect_returns_at_its_time_without_an_attempt(
        self, harness: Harness
    ) -> None:
        one = await actor(harness)
        await harness.queue.define([slots("api", 1)])
        await one.enqueue([effect("a", needs=hold("api"))])
        (claimed,) = await one.claim()
        await one.requeue(claimed, await harness.now() + 0.3 * SECOND, attempt=claimed.attempt)
        assert await in_use(harness.queue, "api") == 0
        assert await one.claim_ids() == []
        await harness.pass_time(0.35)
        (again,) = await one.claim()
        assert (again.effect_id, again.attempt) == (claimed.effect_id, 0)

    async def test_a_failed_attempt_is_kept(self, harness: Harness) -> None:
        one = await actor(harness)
        await one.enqueue([effect("a")])
        (claimed,) = await one.claim()
        await one.requeue(claimed, await harness.now(), attempt=1)
        (again,) = await one.claim()
        assert again.attempt == 1


class CancelContract:
    """The owner takes effects back: their end is heard of all the same."""

    async def test_a_ready_effect_is_claimable_at_once_without_its_budgets(
        self, harness: Harness
    ) -> None:
        one = await actor(harness)
        await harness.queue.define([slots("full", 0)])
        await one.enqueue([effect("a", needs=hold("full")), effect("b")])
        await one.store.commit(Step(cancelled_effects=["a/step/x", "unknown/step/x"]))
        claimed = {each.stream: each.cancelled for each in await one.claim()}
        assert claimed == {"a": True, "b": False}

    async def test_a_cancelled_effect_gives_back_no_slot_it_never_had(
        self, harness: Harness
    ) -> None:
        one = await actor(harness)
        await harness.queue.define([slots("west", 1)])
        await one.enqueue(effect(s, needs=hold("west")) for s in ("a", "b"))
        running = await one.claim()
        await one.store.commit(Step(cancelled_effects=["b/step/x"]))
        await one.settle(await one.claim())
        assert await in_use(harness.queue, "west") == 1
        await one.settle(running)
        assert await in_use(harness.queue, "west") == 0

    async def test_a_waiting_effect_is_cancelled_before_its_time(self, harness: Harness) -> None:
        one = await actor(harness)
        await one.enqueue([effect("a", not_before=await harness.now() + 600 * SECOND)])
        await one.store.commit(Step(cancelled_effects=["a/step/x"]))
        assert await one.claim_ids() == ["a"]

    async def test_a_running_effect_is_asked_to_stop_by_the_heartbeat(
        self, harness: Harness
    ) -> None:
        one = await actor(harness)
        await one.enqueue([effect("a"), effect("b")])
        claimed = await one.claim()
        assert await harness.queue.heartbeat(one.lease) == ()
        await one.store.commit(Step(cancelled_effects=["b/step/x"]))
        assert await harness.queue.heartbeat(one.lease) == ("b/step/x",)
        await one.settle(claimed)
        assert await harness.queue.heartbeat(one.lease) == ()

    async def test_a_cancelled_effect_that_is_given_back_stays_cancelled(
        self, harness: Harness
    ) -> None:
        one, two = await actor(harness), await actor(harness, worker="replicator-2")
        await harness.queue.define([slots("west", 1)])
        await one.enqueue([effect("a", needs=hold("west"))])
        await one.claim()
        await one.store.commit(Step(cancelled_effects=["a/step/x"]))
        await harness.queue.end_lease(one.lease)
        (again,) = await two.claim()
        assert again.cancelled
        assert await in_use(harness.queue, "west") == 0
