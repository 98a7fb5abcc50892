"""The live projector on a real PostgreSQL: what was said is there, once, and in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from schemas import scheduler
from shared.eventlog.port import Fenced
from tests.failures import failure_mode
from tests.integration.projector.logs import Logs, a_history, open_logs, running
from tests.waiting import eventually


@pytest.fixture
async def logs(postgres_dsn: str) -> AsyncIterator[Logs]:
    async with open_logs(postgres_dsn) as opened:
        yield opened


async def test_a_history_is_folded_into_documents(logs: Logs) -> None:
    await a_history(logs, "shop")
    await logs.project()
    vm = await logs.document("vms", "protected-vm:shop:db")
    job = await logs.document("jobs", "recovery:shop:r1")
    assert (vm["sync_state"], vm["iteration"]) == ("in-sync", "")
    assert (job["state"], job["rto_s"], job["vms"]["ready"]) == ("completed", 12.5, 2)


async def test_positions_are_dense_and_every_event_is_there_once(logs: Logs) -> None:
    async with running(logs.projector("one"), logs.projector("two")):
        for number in range(12):
            await a_history(logs, f"plan-{number}")
        await logs.all_projected()
    rows = await logs.rows("select position, source, partition, seq from events order by position")
    assert [row["position"] for row in rows] == list(range(1, len(rows) + 1))
    assert len({(row["source"], row["partition"], row["seq"]) for row in rows}) == len(rows)


async def test_a_reader_of_positions_misses_nothing_while_copies_write(logs: Logs) -> None:
    """Server-sent events resume from the last position read: nothing may appear below it."""
    seen: list[int] = []

    async def read_on() -> None:
        while True:
            after = seen[-1] if seen else 0
            sql = "select position from events where position > $1 order by position"
            seen.extend(row["position"] for row in await logs.rows(sql, after))
            await asyncio.sleep(0)

    async with running(logs.projector("one"), logs.projector("two")):
        reader = asyncio.create_task(read_on())
        for number in range(12):
            await a_history(logs, f"plan-{number}")
        await logs.all_projected()
        (last,) = await logs.rows("select position from event_head")
        await eventually(lambda: _has(seen, last["position"]), "everything read")
        reader.cancel()
    assert seen == list(range(1, last["position"] + 1))


async def _has(seen: list[int], last: int) -> bool:
    return bool(seen) and seen[-1] == last


async def test_another_copy_goes_on_where_one_stopped(logs: Logs) -> None:
    await a_history(logs, "first")
    async with running(logs.projector("one")):
        await logs.all_projected()
    await a_history(logs, "second")
    async with running(logs.projector("two")):
        await logs.all_projected()
    assert (await logs.document("jobs", "recovery:first:r1"))["state"] == "completed"
    assert (await logs.document("jobs", "recovery:second:r1"))["state"] == "completed"


async def test_a_copy_whose_cursors_another_moved_writes_nothing(logs: Logs) -> None:
    await a_history(logs, "shop")
    late = logs.projector("late")
    async with running(logs.projector("quick")):
        await logs.all_projected()
    before = await logs.rows("select id, doc::text from jobs order by id")
    works = late._next(await late._bus.fetch(logs.from_the_start(), count_max=100))
    assert works == []  # it stands nowhere, so that nothing follows
    late._positions = logs.from_the_start()
    works = late._next(await late._bus.fetch(logs.from_the_start(), count_max=100))
    await late._model.cursors()
    with pytest.raises(Fenced):
        await late._commit(works)
    assert await logs.rows("select id, doc::text from jobs order by id") == before


@failure_mode(
    "A service",
    "lying",
    sees=(
        "An older copy meets what only a newer build knows: it stops at that partition "
        "alone, and says so in `/readyz`."
    ),
    does="Finish the upgrade: start that service in the newer build too.",
)
async def test_what_a_newer_build_says_stops_its_partition_only_and_shows(logs: Logs) -> None:
    await a_history(logs, "shop")
    await logs.say_unknown("scheduler", "plan:shop")
    projector = logs.projector()
    async with running(projector):
        await eventually(lambda: _stuck(projector.problem), "the partition stopped")
        await a_history(logs, "bank")
        await eventually(lambda: _is_there(logs, "recovery:bank:r1"), "others go on")
        problem = await projector.problem()
    assert "scheduler.of-a-newer-build" in problem


async def _stuck(problem: Callable[[], Awaitable[str]]) -> bool:
    return bool(await problem())


async def _is_there(logs: Logs, job: str) -> bool:
    rows = await logs.rows("select state from jobs where id = $1", job)
    return bool(rows) and rows[0]["state"] == "completed"


@failure_mode(
    "Postgres",
    "lying",
    sees=(
        "A log was restored to an older state: its consumers stop at its partitions and "
        "say so in `/readyz` and their logs."
    ),
    does="Finish the restore with a new epoch (docs/log.md), then `seawall log rebuild`.",
)
async def test_a_restored_log_is_noticed_and_not_folded(logs: Logs) -> None:
    await a_history(logs, "shop")
    projector = logs.projector()
    async with running(projector):
        await logs.all_projected()
        await logs.rows("update scheduler.epoch set epoch = epoch + 1")
        await logs.say("scheduler", ("plan:shop", scheduler.PlanPrioritised(priority=1)))
        await eventually(lambda: _stuck(projector.problem), "the restored log shows")
        assert "was restored" in await projector.problem()
    assert (await logs.document("plans", "shop"))["priority"] == 3


async def test_an_event_is_visible_soon_after_its_commit(logs: Logs) -> None:
    await a_history(logs, "shop")
    changed = logs.news.subscribe(["projected"])
    waited_s = []
    async with running(logs.projector()):
        await logs.all_projected()
        for priority in (1, 2, 3, 4, 5):
            changed.clear()
            event = scheduler.PlanPrioritised(priority=priority)
            await logs.say("scheduler", ("plan:shop", event))
            began = time.perf_counter()
            async with asyncio.timeout(5.0):
                await changed.wait()
            waited_s.append(time.perf_counter() - began)
            assert (await logs.document("plans", "shop"))["priority"] == priority
    assert min(waited_s) < 0.1


async def test_jobs_that_were_only_decided_are_listed_until_they_begin(logs: Logs) -> None:
    job = "recovery:shop:r9"
    asked = scheduler.RecoveryRequested(job=job, mode="test", checkpoint="latest", vms=("db",))
    await logs.say("scheduler", ("plan:shop", asked))
    await logs.project()
    rows = await logs.rows("select id, state from job_list where plan = 'shop'")
    assert [(row["id"], row["state"]) for row in rows] == [(job, "queued")]


async def test_listings_say_how_far_behind_they_are(logs: Logs) -> None:
    await a_history(logs, "shop")
    async with running(logs.projector()):
        await logs.all_projected()
        await eventually(lambda: _told_fresh(logs), "freshness told")
    (row,) = await logs.rows("select position, lag_s from as_of")
    (head,) = await logs.rows("select max(position) as position from events")
    assert row["position"] == head["position"]


async def _told_fresh(logs: Logs) -> bool:
    rows = await logs.rows("select lag_s from freshness")
    return bool(rows) and rows[0]["lag_s"] == 0.0


async def test_ended_iterations_leave_after_their_time_and_recoveries_stay(logs: Logs) -> None:
    await a_history(logs, "shop")
    await logs.project()
    await logs.rows(
        "update jobs set created_at = now() - interval '31 days',"
        " ended_at = now() - interval '31 days'"
    )
    async with running(logs.projector()):
        await eventually(lambda: _no_iterations(logs), "iterations gone")
    kinds = {row["kind"] for row in await logs.rows("select kind from jobs")}
    assert kinds == {"test-recovery"}


async def _no_iterations(logs: Logs) -> bool:
    return not await logs.rows("select id from jobs where kind = 'iteration'")
