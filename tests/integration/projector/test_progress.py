"""Progress of running jobs: coalesced, lossy, and never an error for whoever reports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared.clock import SystemClock
from shared.postgres import Pool, open_pool
from shared.progress import JOBS_MAX, ProgressPublisher, ReadModelProgress
from tests.integration.projector.logs import Logs, open_logs
from tests.waiting import eventually

JOB = "iteration:shop:db:t1.sda"


@pytest.fixture
async def logs(postgres_dsn: str) -> AsyncIterator[Logs]:
    async with open_logs(postgres_dsn) as opened:
        yield opened


@pytest.fixture
async def pool(logs: Logs) -> AsyncIterator[Pool]:
    opened = await open_pool(logs.dsn, "replicator")
    yield opened
    await opened.close()


class FakeClock(SystemClock):
    """Time as the test says."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds


async def test_only_the_newest_report_of_a_job_is_told(logs: Logs, pool: Pool) -> None:
    publisher = ProgressPublisher(ReadModelProgress(pool).tell, clock=SystemClock())
    for done in (1, 2, 30):
        publisher.report(JOB, bytes_done=done, bytes_total=40)
    await publisher.publish()
    (row,) = await logs.rows("select job, bytes_done, bytes_total, percent from progress")
    assert tuple(row) == (JOB, 30, 40, 75.0)


async def test_the_rate_follows_the_bytes(logs: Logs, pool: Pool) -> None:
    clock = FakeClock()
    publisher = ProgressPublisher(ReadModelProgress(pool).tell, clock=clock)
    publisher.report(JOB, bytes_done=0, bytes_total=1000)
    await publisher.publish()
    clock.seconds += 2.0
    publisher.report(JOB, bytes_done=500, bytes_total=1000)
    await publisher.publish()
    (row,) = await logs.rows("select rate from progress")
    assert row["rate"] == 250.0


async def test_a_job_that_begins_again_does_not_run_backwards(logs: Logs, pool: Pool) -> None:
    clock = FakeClock()
    publisher = ProgressPublisher(ReadModelProgress(pool).tell, clock=clock)
    for done in (800, 10):
        publisher.report(JOB, bytes_done=done, bytes_total=1000)
        await publisher.publish()
        clock.seconds += 1.0
    (row,) = await logs.rows("select bytes_done, rate from progress")
    assert row["bytes_done"] == 10 and row["rate"] >= 0.0


async def test_a_database_without_read_models_is_no_error(logs: Logs, pool: Pool) -> None:
    await logs.rows("drop table progress")
    publisher = ProgressPublisher(ReadModelProgress(pool).tell, clock=SystemClock())
    publisher.report(JOB, bytes_done=1, bytes_total=2)
    await publisher.publish()
    assert not await logs.rows("select 1 from pg_tables where tablename = 'progress'")


async def test_a_publisher_at_work_tells_within_its_rhythm(logs: Logs, pool: Pool) -> None:
    publisher = ProgressPublisher(
        ReadModelProgress(pool).tell, clock=SystemClock(), publish_every_s=0.01
    )
    publishing = asyncio.create_task(publisher.run())
    try:
        publisher.report(JOB, bytes_done=1, bytes_total=4)
        await eventually(lambda: _told(logs), "progress told")
    finally:
        publishing.cancel()


async def _told(logs: Logs) -> bool:
    return bool(await logs.rows("select 1 from progress"))


async def test_jobs_remembered_are_bounded_and_ended_ones_forgotten(pool: Pool) -> None:
    publisher = ProgressPublisher(ReadModelProgress(pool).tell, clock=SystemClock())
    for number in range(JOBS_MAX + 5):
        publisher.report(f"job-{number}", bytes_done=1, bytes_total=2)
    assert len(publisher._jobs) == JOBS_MAX
    publisher.forget("job-20")
    assert "job-20" not in publisher._jobs and "job-20" not in publisher._fresh
