"""The control topic: logs tell their epoch and heads there, readers ask there for rows again.

It is compacted, so whoever reads it from its beginning knows the newest word of each source.
What is told here guards against restored logs and lost rows; nothing is decided from it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.bus.kafka.publisher import KafkaPublisher
from shared.bus.kafka.settings import KafkaSettings
from shared.bus.kafka.topics import CONTROL_TOPIC

log = structlog.get_logger()

REQUEST_AGE_S_MAX: Final = 60.0
"""A reader that still misses rows asks again: older requests are history."""

RECONNECT_S: Final = 1.0
_POLL_MS: Final = 200
_START_S: Final = 10.0


class Told(msgspec.Struct, frozen=True, tag="told", tag_field="kind"):
    """What a source says of its log. `heads` by `topic/partition`.

    `restored`: its heads are below what was published under the same epoch, so the log is an
    older one, and the source publishes nothing until its epoch is raised.
    """

    source: str
    epoch: int
    heads: dict[str, int]
    restored: bool = False


class Again(msgspec.Struct, frozen=True, tag="again", tag_field="kind"):
    """A reader misses `seq`: publish from there again."""

    source: str
    topic: str
    partition: int
    seq: int


Heard = Callable[[Again], Awaitable[None]]

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Told | Again] = msgspec.json.Decoder(Told | Again)


class Control:
    """One per process. `run` reads the topic; listeners hear requests to their source."""

    def __init__(self, settings: KafkaSettings, *, name: str) -> None:
        self._settings = settings
        self._publisher = KafkaPublisher(settings, name=f"{name}-control")
        self._lock = asyncio.Lock()
        self._listeners: dict[str, Heard] = {}
        self._told: dict[str, Told] = {}
        self.caught_up = asyncio.Event()
        """Set once what stood in the topic at the start has been read."""

    @property
    def told(self) -> Mapping[str, Told]:
        """The newest word of each source."""
        return self._told

    def listen(self, source: str, heard: Heard) -> None:
        """Hear the requests for rows of a source."""
        self._listeners[source] = heard

    async def tell(self, message: Told | Again) -> None:
        """Publish; raises Transient."""
        key = (
            f"told/{message.source}"
            if isinstance(message, Told)
            else f"again/{message.source}/{message.topic}/{message.partition}"
        )
        async with self._lock:
            await self._publisher.tell(CONTROL_TOPIC, key.encode(), _encoder.encode(message))

    async def run(self) -> None:
        """Read until cancelled; reconnects."""
        try:
            while True:
                try:
                    await self._session()
                except (KafkaError, OSError) as lost:
                    log.debug("kafka.control-lost", error=str(lost))
                    await asyncio.sleep(RECONNECT_S)
        finally:
            await self._publisher.close()

    async def _session(self) -> None:
        consumer = AIOKafkaConsumer(
            **self._settings.client("control"), enable_auto_commit=False,
            auto_offset_reset="earliest",
        )  # fmt: skip
        where = TopicPartition(self._settings.prefix + CONTROL_TOPIC, 0)
        try:
            async with asyncio.timeout(_START_S):
                await consumer.start()
                consumer.assign([where])
                end = (await consumer.end_offsets([where]))[where]
                await consumer.seek_to_beginning(where)
            while True:
                batches = await consumer.getmany(where, timeout_ms=_POLL_MS)
                for message in batches.get(where, ()):
                    await self._heard(message.value, age_s=time.time() - message.timestamp / 1000)
                if not self.caught_up.is_set() and await consumer.position(where) >= end:
                    self.caught_up.set()
        finally:
            await stop(consumer)

    async def _heard(self, value: bytes | None, *, age_s: float) -> None:
        try:
            message = _decoder.decode(value or b"")
        except msgspec.MsgspecError as strange:
            log.warning("kafka.control-unreadable", error=str(strange))
            return
        if isinstance(message, Told):
            self._told[message.source] = message
        elif age_s < REQUEST_AGE_S_MAX and message.source in self._listeners:
            log.warning(
                "kafka.asked-again", source=message.source, topic=message.topic,
                partition=message.partition, seq=message.seq,
            )  # fmt: skip
            await self._listeners[message.source](message)


async def stop(consumer: AIOKafkaConsumer) -> None:
    """End a consumer, whatever state it is in, within a few seconds."""
    try:
        async with asyncio.timeout(3.0):
            await consumer.stop()
    except (KafkaError, OSError) as error:
        log.debug("kafka.consumer-not-stopped", error=str(error))
