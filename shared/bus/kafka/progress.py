"""Progress of running jobs on its lossy topic: who moves bytes tells it, the projector reads it.

No order, no cursor, no repeat: a reader begins at the end of the topic, and what was told while it
was away is not missed, because the next report of a job tells more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.views import Progress
from shared.bus.kafka.control import RECONNECT_S, stop
from shared.bus.kafka.publisher import KafkaPublisher
from shared.bus.kafka.settings import KafkaSettings
from shared.bus.kafka.topics import PROGRESS_TOPIC
from shared.errors import SeawallError
from shared.progress import Tell

log = structlog.get_logger()

GATHER_S: Final = 0.25
"""Between two writes: what several services tell meanwhile is one statement."""

COUNT_MAX: Final = 5_000
_START_S: Final = 10.0
_POLL_MS: Final = 200

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Progress).decode


class KafkaProgress:
    """Tells the topic; for one task."""

    def __init__(self, publisher: KafkaPublisher) -> None:
        self._publisher = publisher

    async def tell(self, moments: Sequence[Progress]) -> None:
        """One message per job, keyed by it. Raises Transient."""
        messages = [(each.job.encode(), _encode(each)) for each in moments]
        await self._publisher.tell_all(PROGRESS_TOPIC, messages)

    async def close(self) -> None:
        """End the producer."""
        await self._publisher.close()


class ProgressReader:
    """Passes on what is told, the newest of each job, while it is `wanted` here."""

    def __init__(self, settings: KafkaSettings, tell: Tell, *, wanted: Callable[[], bool]) -> None:
        self._settings = settings
        self._tell = tell
        self._wanted = wanted

    async def run(self) -> None:
        """Read until cancelled; reconnects."""
        while True:
            try:
                await self._session()
            except (KafkaError, OSError) as lost:
                log.debug("kafka.progress-lost", error=str(lost))
                await asyncio.sleep(RECONNECT_S)

    async def _session(self) -> None:
        consumer = AIOKafkaConsumer(
            **self._settings.client("progress"), enable_auto_commit=False,
            auto_offset_reset="latest",
        )  # fmt: skip
        where = TopicPartition(self._settings.prefix + PROGRESS_TOPIC, 0)
        try:
            async with asyncio.timeout(_START_S):
                await consumer.start()
                consumer.assign([where])
                await consumer.seek_to_end(where)
            while True:
                batches = await consumer.getmany(where, timeout_ms=_POLL_MS, max_records=COUNT_MAX)
                moments = newest(message.value for message in batches.get(where, ()))
                if moments and self._wanted():
                    await self._pass_on(moments)
                    await asyncio.sleep(GATHER_S)
        finally:
            await stop(consumer)

    async def _pass_on(self, moments: Sequence[Progress]) -> None:
        try:
            await self._tell(moments)
        except SeawallError as away:
            log.debug("progress.not-kept", error=away.message)


def newest(values: Iterable[bytes | None]) -> Sequence[Progress]:
    """The last moment of each job among messages; one that cannot be read is left out."""
    found: dict[str, Progress] = {}
    for value in values:
        try:
            moment = _decode(value or b"")
        except msgspec.MsgspecError as strange:
            log.warning("kafka.progress-unreadable", error=str(strange))
            continue
        found[moment.job] = moment
    return list(found.values())
