"""What every work queue must do, whatever it is made of. Time passes as the harness says."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest

from shared.decider import Need, WorkClass
from shared.effects.port import Budget
from shared.errors import Refused
from shared.eventlog.port import Fenced, Settled, Step
from tests.contract.effects.work import (
    LEASE_S,
    META,
    PLATFORM_TIMEOUT_S,
    START,
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

SECOND = dt.timedelta(seconds=1)


class ClaimContract:
    """What a claim gives, and in what order."""

    async def test_a_claimed_effect_is_what_was_enqueued(self, harness: Harness) -> None:
        one = await actor(harness)
        await one.enqueue([effect("plan:a/snapshot/d0")])
        (claimed,) = await one.claim()
        assert (claimed.effect_id, claimed.stream, claimed.partition, claimed.kind) == (
            "plan:a/snapshot/d0", "plan:a", 7, "copy",
        )  # fmt: skip
        assert (claimed.type, claimed.schema_version, claimed.data) == (
            "test.work", 3, b'{"text":"plan:a/snapshot/d0"}',
        )  # fmt: skip
        assert (claimed.meta, claimed.attempt, claimed.cancelled) == (META, 0, False)
        assert claimed.lease_no == one.lease.number

    async def test_an_effect_is_claimed_once(self, harness: Harness) -> None:
        one, two = await actor(harness), await actor(harness, worker="replicator-2")
        await one.enqueue(effect(f"s{n}") for n in range(100))
        granted = await asyncio.gather(*(each.claim_all() for each in (one, two)))
        ids = [each.effect_id for claimed in granted for each in claimed]
        assert len(ids) == 100
        assert len(set(ids)) == 100

    async def test_a_settled_effect_is_gone(self, harness: Harness) -> None:
        one = await actor(harness)
        await one.enqueue([effect("a"), effect("b")])
        await one.settle(await one.claim(1))
        assert await one.claim_ids() == ["b"]
        assert [each.effect_id for each in await harness.queue.waiting(count_max=9)] == [
            "b/step/x"
        ]

    async def test_a_step_may_enqueue_an_effect_under_the_id_it_settles(
        self, harness: Harness
    ) -> None:
        one = await actor(harness)
        await one.enqueue([effect("a")])
        (first,) = await one.claim()
        await one.store.commit(
            Step(effects=[effect("a")], settled=[Settled(first.effect_id, first.lease_no)])
        )
        assert await one.claim_ids() == ["a"]

    async def test_an_id_that_exists_is_left_as_it_is(self, harness: Harness) -> None:
        one = await actor(harness)
        await one.enqueue([effect("a")])
        await one.enqueue([effect("a", needs=hold("nowhere")), effect("b")])
        assert sorted(await one.claim_ids()) == ["a", "b"]

    async def test_count_max_bounds_a_claim_and_more_says_so(self, harness: Harness) -> None:
        one = await actor(harness)
        await one.enqueue(effect(f"s{n}") for n in range(5))
        first = await one.queue.claim(one.lease, kinds=["copy"], count_max=3)
        assert (len(first.effects), first.more) == (3, True)
        rest = await one.queue.claim(one.lease, kinds=["copy"], count_max=3)
        assert (len(rest.effects), rest.more) == (2, False)

    async def test_only_the_own_services_effects_of_the_kinds_asked_for_are_claimed(
        self, harness: Harness
    ) -> None:
        one, other = await actor(harness), await actor(harness, "recovery")
        await one.enqueue([effect("a"), effect("b", kind="script")])
        await other.enqueue([effect("c")])
        assert await one.claim_ids(kinds=["script"]) == ["b"]
        assert await one.claim_ids(kinds=["copy"]) == ["a"]
        assert await other.claim_ids() == ["c"]

    async def test_not_before_is_waited_for_and_told(self, harness: Harness) -> None:
        one = await actor(harness)
        now = await harness.now()
        await one.enqueue([effect("later", not_before=now + 0.4 * SECOND)])
        result = await one.queue.claim(one.lease, kinds=["copy"], count_max=9)
        assert result.effects == ()
        assert result.next_in_s is not None
        assert 0 < result.next_in_s <= 0.41
        await harness.pass_time(0.45)
        assert await one.claim_ids() == ["later"]

    async def test_the_earlier_due_goes_first_across_lanes(self, harness: Harness) -> None:
        one = await actor(harness)
        await harness.queue.define([slots("x", 99), slots("y", 99)])
        needs = (hold("x"), hold("y"), hold("x", "y"), ())
        order = [5, 2, 7, 0, 3, 6, 1, 4]
        await one.enqueue(effect(f"s{n}", due_s=n, needs=needs[n % 4]) for n in order)
        assert await one.claim_ids() == [f"s{n}" for n in range(8)]

    async def test_class_goes_before_priority_before_due(self, harness: Harness) -> None:
        one = await actor(harness)
        await one.enqueue(
            [
                effect("replication-1", priority=1, due_s=0),
                effect("checkpoint-5", work_class=WorkClass.CHECKPOINT, priority=5, due_s=1),
                effect("recovery-3", work_class=WorkClass.RECOVERY, priority=3, due_s=9),
                effect("recovery-2", work_class=WorkClass.RECOVERY, priority=2, due_s=10),
            ]
        )
        assert await one.claim_ids() == [
            "recovery-2", "recovery-3", "checkpoint-5", "replication-1",
        ]  # fmt: skip

    async def test_work_older_than_its_interval_rises_by_one_priority(
        self, harness: Harness
    ) -> None:
        one = await actor(harness)
        now = await harness.now()
        await one.enqueue(
            [
                effect("two", priority=2, due=now - 10 * SECOND),
                effect("aged", priority=3, interval_s=60, due=now - 90 * SECOND),
                effect("fresh", priority=3, interval_s=60, due=now - 30 * SECOND),
                effect("one", priority=1, due=now),
            ]
        )
        assert await one.claim_ids() == ["one", "aged", "two", "fresh"]

    async def test_equal_priorities_share_between_plans(self, harness: Harness) -> None:
        one = await actor(harness)
        await harness.queue.define([slots("west", 4)])
        await one.enqueue(
            [effect(f"big{n}", plan="big", due_s=n, needs=hold("west")) for n in range(40)]
            + [effect(f"small{n}", plan="small", due_s=99, needs=hold("west")) for n in range(4)]
        )
        order: list[str] = []
        for _ in range(4):
            claimed = await one.claim()
            order += [each.stream.rstrip("0123456789") for each in claimed]
            await one.settle(claimed)
        assert order[:8].count("small") == 4
        assert order[8:] == ["big"] * 8

    async def test_plans_take_turns_over_claims_of_one(self, harness: Harness) -> None:
        one = await actor(harness)
        await harness.queue.define([slots("west", 1)])
        await one.enqueue(
            effect(f"{plan}{n}", plan=plan, due_s=n, needs=hold("west"))
            for plan in ("a", "b", "c")
            for n in range(3)
        )
        order = []
        for _ in range(9):
            claimed = await one.claim()
            order += [each.stream[0] for each in claimed]
            await one.settle(claimed)
        assert [set(order[n : n + 3]) for n in (0, 3, 6)] == [{"a", "b", "c"}] * 3

    async def test_a_deep_lane_is_read_in_order_to_its_end(self, harness: Harness) -> None:
        one = await actor(harness)
        await one.enqueue(effect(f"s{n:03}", due_s=n) for n in range(300))
        claimed = await one.claim_all()
        assert [each.stream for each in claimed] == [f"s{n:03}" for n in range(300)]

    async def test_waiting_lists_what_blocks(self, harness: Harness) -> None:
        one = await actor(harness)
        await harness.queue.define([slots("west", 1), slots("east", 5)])
        await one.enqueue(
            [
                effect("runs", due_s=0, needs=hold("west")),
                effect("waits", due_s=1, needs=hold("east", "west")),
                effect("first", due_s=9, work_class=WorkClass.RECOVERY, needs=hold("gone")),
            ]
        )
        await one.claim()
        first, runs, waits = await harness.queue.waiting(count_max=9)
        assert (first.effect_id, first.blocked_by) == ("first/step/x", ("gone",))
        assert (runs.effect_id, runs.worker, runs.blocked_by) == (
            "runs/step/x",
            "replicator-1",
            (),
        )
        assert (waits.effect_id, waits.worker, waits.blocked_by) == ("waits/step/x", "", ("west",))
        assert waits.needs == (*hold("east", "west"),)
        assert (waits.service, waits.plan, waits.due) == ("replicator", "shop", START + SECOND)
        assert len(await harness.queue.waiting(count_max=2)) == 2


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


class WorkContract(ClaimContract, BudgetContract, LeaseContract, CancelContract):
    """All of it."""

    async def test_settling_nothing_and_an_unused_queue_are_fine(self, harness: Harness) -> None:
        one = await actor(harness)
        assert await one.claim() == []
        assert await harness.queue.waiting(count_max=5) == ()
        assert await harness.queue.budgets() == ()
        await harness.queue.define([Budget(name="x", mode="hold", concurrent=1)])
