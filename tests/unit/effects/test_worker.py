"""The worker: what is claimed is run and settled once, through errors, outages and shutdown."""

from __future__ import annotations

import asyncio
import datetime as dt

import msgspec
import pytest

from shared.effects.policy import ONCE
from shared.effects.running import EffectRun, Progress, Stop
from shared.errors import InvariantBroken, Permanent, Throttled, Transient
from shared.eventlog.port import Fenced, Step
from tests.contract.effects.work import Work, effect, hold, in_use, slots
from tests.failures import failure_mode
from tests.unit.effects.world import Handler, World, at_once, lasting, virtual


@virtual
async def test_every_effect_is_run_and_settled_once() -> None:
    world, handler = World(), Handler(at_once)
    await world.enqueue(*(effect(f"s{n}") for n in range(1000)))
    async with world.working(copy=handler):
        await world.until(lambda: len(world.settled) == 1000, "all settled")
    assert len({run.effect_id for run in handler.runs}) == len(handler.runs) == 1000
    assert all(outcome.ok for outcome in world.outcomes.values())
    assert await world.queue.waiting(count_max=9) == ()


@virtual
async def test_a_handler_sees_its_payload_and_its_result_is_the_outcomes() -> None:
    async def answer(run: EffectRun) -> msgspec.Struct | None:
        assert run.payload == Work(text="a/copy/d0")
        assert (run.effect_id, run.stream, run.attempt) == ("a/copy/d0", "a", 0)
        await asyncio.sleep(3)
        return Work(text="done")

    world = World()
    await world.enqueue(effect("a/copy/d0"))
    async with world.working(copy=Handler(answer)):
        await world.until_settled("a")
    outcome = world.outcomes["a"]
    assert (outcome.ok, outcome.result, outcome.part) == (True, Work(text="done"), "copy/d0")
    assert outcome.at - outcome.started_at == dt.timedelta(seconds=3)


@virtual
async def test_no_more_than_the_bound_is_in_flight() -> None:
    world, handler = World(), Handler(lasting(10))
    await world.enqueue(*(effect(f"s{n}") for n in range(400)))
    async with world.working(copy=handler) as worker:
        await world.until(lambda: worker.in_flight == 256, "256 in flight")
        await asyncio.sleep(5)
        assert len(handler.runs) == 256
    assert max(world.queue.claims) == 64


@virtual
async def test_news_does_not_make_a_full_worker_spin() -> None:
    world, handler = World(), Handler(lasting(10))
    await world.enqueue(*(effect(f"s{n}") for n in range(400)))
    async with world.working(copy=handler) as worker:
        await world.until(lambda: worker.in_flight == 256, "256 in flight")
        world.news.set()
        await world.until(lambda: len(world.settled) == 400, "all settled")


@virtual
async def test_news_does_not_make_a_worker_spin_whose_lease_is_over() -> None:
    world, handler = World(), Handler(at_once)
    async with world.working(copy=handler) as worker:
        await world.until(lambda: worker.leased, "leased")
        world.queue.hangs = True
        await world.until(lambda: not worker.leased, "the lease is over")
        world.news.set()
        world.restore()
        await world.enqueue(effect("a"))
        await world.until_settled("a")


@virtual
async def test_outcomes_are_settled_in_batches_while_a_settle_is_under_way() -> None:
    world = World()
    world.settle_s = 1.0
    await world.enqueue(*(effect(f"s{n}") for n in range(200)))
    async with world.working(copy=Handler(at_once)):
        await world.until(lambda: len(world.settled) == 200, "all settled")
    assert len(world.batches) <= 5


@virtual
async def test_a_freed_slot_is_claimed_again_without_waiting_for_a_poll() -> None:
    world = World()
    await world.queue.define([slots("west", 1)])
    await world.enqueue(*(effect(f"s{n}", needs=hold("west")) for n in range(20)))
    async with world.working(copy=Handler(at_once)):
        began = world.clock.monotonic()
        await world.until(lambda: len(world.settled) == 20, "all settled")
        assert world.clock.monotonic() - began < 0.5


@virtual
async def test_a_transient_error_is_tried_again_with_attempts_counted() -> None:
    async def fail_twice(run: EffectRun) -> msgspec.Struct | None:
        if run.attempt < 2:
            raise Transient("busy")
        return None

    world, handler = World(), Handler(fail_twice)
    await world.enqueue(effect("a"))
    async with world.working(copy=handler):
        await world.until_settled("a")
    assert [run.attempt for run in handler.runs] == [0, 1, 2]
    assert (world.outcomes["a"].ok, world.outcomes["a"].attempts) == (True, 3)


@virtual
async def test_a_throttled_effect_waits_as_told_and_uses_no_attempt() -> None:
    world = World()

    async def throttle_once(run: EffectRun) -> msgspec.Struct | None:
        if len(handler.runs) == 1:
            raise Throttled("slow down", retry_after_s=5)
        return None

    handler = Handler(throttle_once, policy=ONCE)
    await world.enqueue(effect("a"))
    async with world.working(copy=handler):
        await world.until_settled("a")
    assert [run.attempt for run in handler.runs] == [0, 0]
    assert world.clock.monotonic() >= 5
    assert world.outcomes["a"].attempts == 1


@virtual
async def test_a_permanent_error_is_the_end_with_its_remedy() -> None:
    async def refuse(run: EffectRun) -> msgspec.Struct | None:
        raise Permanent("no such disk", remedy="attach it", code="disk-missing")

    world, handler = World(), Handler(refuse)
    await world.enqueue(effect("a"))
    async with world.working(copy=handler):
        await world.until_settled("a")
    outcome = world.outcomes["a"]
    assert (outcome.ok, outcome.code, outcome.error, outcome.remedy) == (
        False, "disk-missing", "no such disk", "attach it",
    )  # fmt: skip
    assert len(handler.runs) == 1


@virtual
async def test_the_sole_error_of_a_task_group_counts_as_itself() -> None:
    async def fail(run: EffectRun) -> msgspec.Struct | None:
        async with asyncio.TaskGroup() as group:
            group.create_task(lasting(99)(run))
            raise Permanent("full", code="target-full")

    world = World()
    await world.enqueue(effect("a"))
    async with world.working(copy=Handler(fail)):
        await world.until_settled("a")
    assert world.outcomes["a"].code == "target-full"


@virtual
async def test_an_unexpected_error_is_an_outcome_and_does_not_stop_others() -> None:
    async def stumble(run: EffectRun) -> msgspec.Struct | None:
        if run.stream == "a":
            raise ZeroDivisionError("oops")
        return None

    world = World()
    await world.enqueue(effect("a"), effect("b"))
    async with world.working(copy=Handler(stumble)):
        await world.until_settled("a", "b")
    assert (world.outcomes["a"].code, world.outcomes["a"].error) == (
        "bug",
        "ZeroDivisionError: oops",
    )
    assert world.outcomes["b"].ok


@virtual
async def test_a_broken_invariant_brings_the_worker_down() -> None:
    async def break_(run: EffectRun) -> msgspec.Struct | None:
        raise InvariantBroken("two marks")

    world = World()
    await world.enqueue(effect("a"))
    with pytest.raises(ExceptionGroup) as broken:
        await world.worker(copy=Handler(break_)).run()
    assert broken.group_contains(InvariantBroken, match="two marks")
    assert world.settled == []


@virtual
async def test_a_cancelled_effect_that_nobody_began_is_settled_without_its_handler() -> None:
    world, handler = World(), Handler(at_once)
    await world.enqueue(effect("a", needs=hold("nowhere")))
    async with world.working(copy=handler):
        await world.store.commit(Step(cancelled_effects=["a/step/x"]))
        await world.until_settled("a")
    assert (world.outcomes["a"].ok, world.outcomes["a"].code) == (False, "cancelled")
    assert handler.runs == []


@virtual
async def test_a_running_effect_is_cancelled_soon_after_a_nudge() -> None:
    world, handler = World(), Handler(lasting(1000))
    await world.enqueue(effect("a"), effect("b"))
    async with world.working(copy=handler) as worker:
        await world.until(lambda: len(handler.runs) == 2, "both run")
        await world.store.commit(Step(cancelled_effects=["a/step/x"]))
        worker.nudge()
        await world.until_settled("a")
        assert world.clock.monotonic() < 1
        assert handler.runs[0].stopped is Stop.CANCELLED
        assert worker.in_flight == 1
    assert world.outcomes["a"].code == "cancelled"


@virtual
async def test_facts_and_progress_are_passed_on_under_the_claim() -> None:
    async def tell(run: EffectRun) -> msgspec.Struct | None:
        await run.renew()
        run.progress(percent=50)
        await run.report(Work(text="started"))
        return None

    world = World()
    await world.enqueue(effect("a"))
    async with world.working(copy=Handler(tell)):
        await world.until_settled("a")
    assert world.reports == [("a/step/x", Work(text="started"))]
    assert world.progress == [("a/step/x", Progress(percent=50))]


@virtual
async def test_effects_of_a_lost_answer_are_run_all_the_same() -> None:
    world, handler = World(), Handler(at_once)
    world.queue.lose_answers = 2
    await world.enqueue(*(effect(f"s{n}") for n in range(100)))
    async with world.working(copy=handler):
        await world.until(lambda: len(world.settled) == 100, "all settled")
    assert len(handler.runs) == 100


@virtual
async def test_outcomes_survive_an_outage_and_no_attempt_is_used() -> None:
    world, handler = World(), Handler(lasting(2))
    await world.enqueue(*(effect(f"s{n}") for n in range(50)))
    async with world.working(copy=handler):
        await world.until(lambda: len(handler.runs) == 50, "all run")
        world.fail()
        await asyncio.sleep(6)
        world.restore()
        await world.until(lambda: len(world.settled) == 50, "all settled")
        assert world.clock.monotonic() < 12
    assert len(handler.runs) == 50
    assert all(outcome.attempts == 1 for outcome in world.outcomes.values())


@failure_mode(
    "A service",
    "cut off",
    sees=(
        "`lease.unreachable`, then `lease.stopping-self` in its log; what it was doing is"
        " given up before another may begin it."
    ),
    does="Mend the network. It takes work again as soon as it reaches the database.",
)
@virtual
async def test_a_worker_cut_off_stops_itself_before_its_lease_ends() -> None:
    ended_at: list[float] = []

    async def note_end(run: EffectRun) -> msgspec.Struct | None:
        try:
            await asyncio.sleep(25)
        finally:
            ended_at.append(world.clock.monotonic())
        return None

    world, handler = World(), Handler(note_end)
    await world.enqueue(effect("a"))
    async with world.working(copy=handler) as worker:
        await world.until(lambda: len(handler.runs) == 1, "it runs")
        world.queue.hangs = world.down = True
        await world.until(lambda: len(ended_at) == 1, "stopped")
        assert ended_at[0] <= 10.1
        assert not worker.leased
        assert handler.runs[0].stopped is Stop.LEASE
        await asyncio.sleep(30)
        world.restore()
        await world.until_settled("a")
    assert [run.attempt for run in handler.runs] == [0, 0]
    assert len(world.queue.leased) == 2


@virtual
async def test_a_lease_that_outlived_the_outage_is_gone_on_with() -> None:
    world, handler = World(), Handler(lasting(20))
    await world.enqueue(effect("a"))
    async with world.working(copy=handler):
        await world.until(lambda: len(handler.runs) == 1, "it runs")
        world.fail()
        await asyncio.sleep(60)
        world.queue.restart()
        world.restore()
        back = world.clock.monotonic()
        await world.until(lambda: len(handler.runs) == 2, "it runs again")
        assert world.clock.monotonic() - back < 2
        await world.until_settled("a")
    assert len(world.queue.leased) == 1
    assert [requeue.code for requeue in world.requeues] == ["given-back"]


@failure_mode(
    "Postgres",
    "cut off",
    sees=(
        "A copy of a service that cannot reach it is not ready and stops its work before "
        "its lease ends; another copy takes it over."
    ),
    does=(
        "Nothing, if another copy runs. Otherwise mend the network; the copy goes on by itself."
    ),
)
@virtual
async def test_another_worker_takes_over_from_one_that_is_cut_off() -> None:
    world, cut_off, other = World(), Handler(lasting(60)), Handler(lasting(1))
    await world.enqueue(effect("a"))
    first = world.worker("first", copy=cut_off)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(first.run())
        await world.until(lambda: len(cut_off.runs) == 1, "it runs")
        running.cancel()  # As by kill: nothing is given back.
        async with world.working("second", copy=other):
            await world.until_settled("a")
    assert 15 <= world.clock.monotonic() < 17
    assert other.runs[0].fence > cut_off.runs[0].fence


@virtual
async def test_outcomes_under_a_lost_lease_are_dropped() -> None:
    world, handler = World(), Handler(lasting(1))
    await world.enqueue(effect("a"))
    async with world.working(copy=handler) as worker:
        await world.until(lambda: len(handler.runs) == 1, "it runs")
        await world.queue.end_lease(world.queue.leased[0])
        worker.nudge()
        await world.until_settled("a")
    assert len(handler.runs) == 2
    assert [claimed.lease_no for claimed, _ in world.settled] == [world.queue.leased[1].number]


@virtual
async def test_a_claim_that_is_fenced_in_a_batch_does_not_spoil_the_others() -> None:
    world = World()
    world.settle_s = 1
    await world.enqueue(effect("a"), effect("b"))
    async with world.working(copy=Handler(at_once)) as worker:
        await world.until(lambda: worker.in_flight == 2, "both ended")
        stolen = world.queue._effects["a/step/x"]
        stolen.lease_no = 99
        await world.until_settled("b")
        assert worker.in_flight == 0
    assert world.outcomes.keys() == {"b"}


@virtual
async def test_shutdown_gives_resumable_work_back_and_lets_calls_in_hand_end() -> None:
    world = World()
    transfer, call = Handler(lasting(100), resumable=True), Handler(lasting(3))
    await world.enqueue(effect("transfer"), effect("call", kind="script"))
    async with world.working(copy=transfer, script=call):
        await world.until(lambda: bool(transfer.runs and call.runs), "both run")
        began = world.clock.monotonic()
    assert world.clock.monotonic() - began < 4
    assert world.outcomes.keys() == {"call"}
    (given_back,) = world.requeues
    assert (given_back.attempt, given_back.code) == (0, "given-back")
    (left,) = await world.queue.waiting(count_max=9)
    assert (left.effect_id, left.worker) == ("transfer/step/x", "")


@virtual
async def test_shutdown_stops_calls_that_last_too_long() -> None:
    world, handler = World(), Handler(lasting(100))
    await world.enqueue(effect("a"))
    async with world.working(copy=handler):
        await world.until(lambda: len(handler.runs) == 1, "it runs")
        began = world.clock.monotonic()
    assert 8 <= world.clock.monotonic() - began < 9
    assert [requeue.attempt for requeue in world.requeues] == [0]


@virtual
async def test_shutdown_during_an_outage_ends_in_bounded_time() -> None:
    world = World()
    await world.enqueue(effect("a"))
    handler = Handler(lasting(2))
    async with world.working(copy=handler):
        await world.until(lambda: len(handler.runs) == 1, "it runs")
        world.fail()
        began = world.clock.monotonic()
    assert world.clock.monotonic() - began < 20


@virtual
async def test_nothing_is_claimed_after_stop() -> None:
    world, handler = World(), Handler(at_once)
    worker = world.worker(copy=handler)
    worker.stop()
    await world.enqueue(effect("a"))
    await worker.run()
    assert handler.runs == []


@virtual
async def test_a_payload_this_build_cannot_read_is_put_back_untouched() -> None:
    world, handler = World(), Handler(at_once)
    await world.enqueue(effect("a"))
    world.queue._effects["a/step/x"].schema_version = 99
    async with world.working(copy=handler):
        await world.until(lambda: len(world.requeues) == 1, "put back")
    assert (world.requeues[0].attempt, world.requeues[0].code) == (0, "type-unknown")
    assert handler.runs == []


@virtual
async def test_slots_are_free_once_work_was_given_back() -> None:
    world, handler = World(), Handler(lasting(100), resumable=True)
    await world.queue.define([slots("west", 5)])
    await world.enqueue(*(effect(f"s{n}", needs=hold("west")) for n in range(5)))
    async with world.working(copy=handler):
        await world.until(lambda: len(handler.runs) == 5, "all run")
    assert await in_use(world.queue, "west") == 0


@virtual
async def test_a_claim_that_is_gone_cannot_be_renewed() -> None:
    lost: list[Fenced] = []

    async def renew_late(run: EffectRun) -> msgspec.Struct | None:
        await world.queue.end_lease(world.queue.leased[0])
        try:
            await run.renew()
        except Fenced as fenced:
            lost.append(fenced)
        await asyncio.sleep(100)
        return None

    world = World()
    await world.enqueue(effect("a"))
    async with world.working(copy=Handler(renew_late)):
        await world.until(lambda: len(lost) == 1, "fenced")
    assert lost[0].names == ("a/step/x",)
