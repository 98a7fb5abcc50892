"""Progress over a real broker: told, passed on once where it is wanted, and never an error."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import Sequence

import pytest

from schemas.views import Progress
from shared.bus.kafka.fabric import KafkaFabric
from shared.bus.kafka.progress import KafkaProgress
from shared.bus.kafka.settings import KafkaSettings
from shared.bus.kafka.topics import ensure_topics
from shared.clock import SystemClock
from shared.errors import Transient
from tests.integration.kafka.conftest import SERVICES
from tests.waiting import eventually

AT = dt.datetime(2026, 11, 22, 20, 0, tzinfo=dt.UTC)


class Kept:
    """Takes what a reader passes on; `away` as a database would be."""

    def __init__(self) -> None:
        self.moments: dict[str, Progress] = {}
        self.away = False

    async def tell(self, moments: Sequence[Progress]) -> None:
        if self.away:
            raise Transient("the database is away")
        self.moments |= {each.job: each for each in moments}


def moment(job: str, done: int) -> Progress:
    return Progress(
        job=job, bytes_done=done, bytes_total=100, percent=float(done), rate=1.0, at=AT
    )


async def told_until(progress: KafkaProgress, kept: Kept, wanted: Progress) -> None:
    """Tell it again and again, as a job that goes on does: a reader begins at the topic's end,
    and a new topic's broker may be late."""

    async def arrived() -> bool:
        with contextlib.suppress(Transient):
            await progress.tell([wanted])
        return kept.moments.get(wanted.job) == wanted

    await eventually(arrived, f"{wanted.job} is told", within_s=40.0)


async def test_what_is_told_arrives_where_it_is_wanted(settings: KafkaSettings) -> None:
    await ensure_topics(SERVICES, settings)
    fabric = KafkaFabric(settings, name="t", services=SERVICES, clock=SystemClock())
    holder, other = Kept(), Kept()
    readers = [
        asyncio.create_task(fabric.progress_reader(holder.tell, wanted=lambda: True).run()),
        asyncio.create_task(fabric.progress_reader(other.tell, wanted=lambda: False).run()),
    ]
    progress = fabric.progress("replicator")
    try:
        await told_until(progress, holder, moment("a", 1))
        await told_until(progress, holder, moment("b", 2))
        assert set(holder.moments) == {"a", "b"} and other.moments == {}
        holder.away = True
        await progress.tell([moment("lost", 1)])
        holder.away = False
        await told_until(progress, holder, moment("a", 3))
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        await progress.close()


async def test_telling_nobody_is_a_trouble_that_passes() -> None:
    nowhere = KafkaSettings(servers=("127.0.0.1:1",))
    fabric = KafkaFabric(nowhere, name="t", services=SERVICES, clock=SystemClock())
    with pytest.raises(Transient):
        await fabric.progress("replicator").tell([moment("a", 1)])
