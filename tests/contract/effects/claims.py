"""What a claim gives, and in what order."""

from __future__ import annotations

import asyncio

from shared.decider import WorkClass
from shared.eventlog.port import Settled, Step
from tests.contract.effects.work import (
    META,
    SECOND,
    START,
    Harness,
    actor,
    effect,
    hold,
    slots,
)


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
