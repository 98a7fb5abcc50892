"""Tells how far running jobs are: lossy, outside every promise, and never in anybody's way.

A report only replaces the one before it; twice a second the newest of each job is told. Where to
is the bus's: on Postgres `read.progress` itself, on Kafka a topic that the projector reads
(`shared/bus/kafka/progress.py`). Whatever fails is forgotten: the next report tells more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import structlog

from schemas.views import Progress
from shared.clock import Clock
from shared.errors import SeawallError
from shared.postgres import Pool, translated

log = structlog.get_logger()

PUBLISH_EVERY_S: Final = 0.5
STATEMENT_TIMEOUT_S: Final = 2.0
JOBS_MAX: Final = 10_000
"""Jobs remembered for their rate; the one reported longest ago goes first."""

RATE_WEIGHT: Final = 0.5
"""Share of the newest interval in the rate that is told: smooth, yet it follows within seconds."""

_UPSERT: Final = """
insert into read.progress (job, bytes_done, bytes_total, percent, rate, at)
select job, bytes_done, bytes_total, percent, rate, now()
from unnest($1::text[], $2::bigint[], $3::bigint[], $4::float8[], $5::float8[])
    as new (job, bytes_done, bytes_total, percent, rate)
on conflict (job) do update set
    bytes_done = excluded.bytes_done, bytes_total = excluded.bytes_total,
    percent = excluded.percent, rate = excluded.rate, at = excluded.at
"""


Tell = Callable[[Sequence[Progress]], Awaitable[None]]
"""Takes the newest of some jobs, each once. Raises a SeawallError: nobody repeats it."""


class ReadModelProgress:
    """The table that queries read; `at` is its database's clock."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def tell(self, moments: Sequence[Progress]) -> None:
        """Replace what was said of the jobs, in one statement and one order of rows."""
        rows = sorted(moments, key=lambda each: each.job)
        with translated("tell progress"):
            async with (
                asyncio.timeout(STATEMENT_TIMEOUT_S),
                self._pool.lend(timeout_s=STATEMENT_TIMEOUT_S) as connection,
            ):
                await connection.execute(
                    _UPSERT,
                    [each.job for each in rows],
                    [each.bytes_done for each in rows],
                    [each.bytes_total for each in rows],
                    [each.percent for each in rows],
                    [each.rate for each in rows],
                )


class _Told(msgspec.Struct):
    """What is known of one job; `since` and `bytes_since` are of the last publication."""

    bytes_done: int
    bytes_total: int
    since: float
    bytes_since: int
    rate: float = 0.0


class ProgressPublisher:
    """One per process. `report` is cheap and safe to call from any handler at any rhythm."""

    def __init__(
        self, tell: Tell, *, clock: Clock, publish_every_s: float = PUBLISH_EVERY_S
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._publish_every_s = publish_every_s
        self._jobs: dict[str, _Told] = {}
        self._fresh: set[str] = set()
        self._wanted = asyncio.Event()

    def report(self, job: str, *, bytes_done: int, bytes_total: int) -> None:
        """Replace what was said of the job; never raises and never waits."""
        told = self._jobs.pop(job, None)
        if told is None or bytes_done < told.bytes_since:
            told = _Told(bytes_done, bytes_total, self._clock.monotonic(), bytes_done)
        told.bytes_done, told.bytes_total = bytes_done, bytes_total
        self._jobs[job] = told
        self._fresh.add(job)
        self._wanted.set()
        if len(self._jobs) > JOBS_MAX:
            self.forget(next(iter(self._jobs)))

    def forget(self, job: str) -> None:
        """The job ended: its progress stands in its events."""
        self._jobs.pop(job, None)
        self._fresh.discard(job)

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await self.publish()
            await asyncio.sleep(self._publish_every_s)

    async def publish(self) -> None:
        """Tell the newest of every job that reported since the last time, or forget it."""
        fresh, self._fresh = self._fresh, set()
        if not fresh:
            return
        try:
            await self._tell([self._moment(job, self._jobs[job]) for job in sorted(fresh)])
        except SeawallError as error:
            log.debug("progress.not-told", error=error.message)

    def _moment(self, job: str, told: _Told) -> Progress:
        self._move(told)
        return Progress(
            job=job,
            bytes_done=told.bytes_done,
            bytes_total=told.bytes_total,
            percent=_percent(told),
            rate=told.rate,
            at=self._clock.now(),
        )

    def _move(self, told: _Told) -> None:
        """The rate since the last publication joins the one that was told."""
        now = self._clock.monotonic()
        elapsed_s = now - told.since
        if elapsed_s > 0:
            newest = (told.bytes_done - told.bytes_since) / elapsed_s
            weight = RATE_WEIGHT if told.rate else 1.0
            told.rate += weight * (newest - told.rate)
        told.since, told.bytes_since = now, told.bytes_done


def _percent(told: _Told) -> float:
    if not told.bytes_total:
        return 0.0
    return round(min(100.0 * told.bytes_done / told.bytes_total, 100.0), 1)
