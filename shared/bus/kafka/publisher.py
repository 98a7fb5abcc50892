"""Sends rows with an idempotent producer, and gives up a producer after its first failure.

aiokafka's futures never expire, and after an error nobody knows what a producer will still send:
so a batch has a time-out of ours, and whoever comes next gets a new producer. What the old one may
still write are repeats of rows that follow on each other, which the readers' cursors drop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder

from schemas.envelope import Recorded
from shared.bus.kafka.binding import to_message
from shared.bus.kafka.settings import KafkaSettings
from shared.errors import Transient

log = structlog.get_logger()

START_S: Final = 10.0
PUBLISH_S: Final = 15.0
"""Longer than a partition needs for another leader (2 – 9 s after a broker's death)."""

STOP_S: Final = 2.0
_BATCH_BYTES: Final = 128 * 1024


class KafkaPublisher:
    """One producer of one process. Not for two tasks at once: each relay has its own."""

    def __init__(self, settings: KafkaSettings, *, name: str) -> None:
        self._settings = settings
        self._name = name
        self._producer: AIOKafkaProducer | None = None

    async def publish(self, rows: Sequence[Recorded]) -> None:
        """Return when every row is stored on all in-sync replicas. Raises Transient."""
        await self._attempt(self._send_rows(rows), f"publish {len(rows)} rows")

    async def tell(self, topic: str, key: bytes, value: bytes) -> None:
        """One message of our own to a topic's only partition. Raises Transient."""
        await self._attempt(self._send(topic, key, value), f"send to {topic}")

    async def tell_all(self, topic: str, messages: Sequence[tuple[bytes, bytes]]) -> None:
        """Keys and values to a topic's only partition. Raises Transient."""
        await self._attempt(self._send_all(topic, messages), f"send to {topic}")

    async def close(self) -> None:
        """End the producer; what it has not sent by then is not sent."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await _abandon(producer)

    async def _attempt(self, sending: object, what: str) -> None:
        try:
            async with asyncio.timeout(PUBLISH_S):
                await sending  # type: ignore[misc]
        except (KafkaError, OSError) as error:  # TimeoutError is an OSError
            await self.close()
            raise Transient(
                f"could not {what}: {type(error).__name__}: {error}", code="kafka-unreachable"
            ) from error
        except asyncio.CancelledError:
            await self.close()
            raise

    async def _send_rows(self, rows: Sequence[Recorded]) -> None:
        producer = await self._open()
        places: dict[tuple[str, int], list[Recorded]] = {}
        for row in rows:
            places.setdefault((row.topic, row.partition), []).append(row)
        sent = []
        for (topic, partition), found in places.items():
            for batch in _batches(producer, found):
                sent.append(
                    await producer.send_batch(
                        batch, self._settings.prefix + topic, partition=partition
                    )
                )
        await asyncio.gather(*sent)

    async def _send(self, topic: str, key: bytes, value: bytes) -> None:
        producer = await self._open()
        await producer.send_and_wait(self._settings.prefix + topic, value, key=key, partition=0)

    async def _send_all(self, topic: str, messages: Sequence[tuple[bytes, bytes]]) -> None:
        producer, name = await self._open(), self._settings.prefix + topic
        sent = [await producer.send(name, value, key=key, partition=0) for key, value in messages]
        await asyncio.gather(*sent)

    async def _open(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                **self._settings.client(self._name),
                enable_idempotence=True,
                acks="all",
                linger_ms=0,
                max_batch_size=_BATCH_BYTES,
                max_request_size=1024 * 1024,
            )
            try:
                async with asyncio.timeout(START_S):
                    await producer.start()
            except BaseException:
                await _abandon(producer)
                raise
            self._producer = producer
        return self._producer


def _batches(producer: AIOKafkaProducer, rows: Sequence[Recorded]) -> Iterator[BatchBuilder]:
    """Rows of one partition in as many batches as they need: sending each row by itself costs the
    client five times as much."""
    batch = producer.create_batch()
    for row in rows:
        key, value, headers = to_message(row)
        if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
            yield batch
            batch = producer.create_batch()
            batch.append(key=key, value=value, timestamp=None, headers=headers)
    batch.close()
    yield batch


async def _abandon(producer: AIOKafkaProducer) -> None:
    """Stop without flushing: `stop` alone waits for ever for brokers that do not come back.

    It may end with the cancellation of its own sender; one that is meant for us goes on.
    """
    us = asyncio.current_task()
    asked = us.cancelling() if us is not None else 0
    sender = producer._sender.sender_task if producer._sender is not None else None
    if sender is not None:
        sender.cancel()
    try:
        async with asyncio.timeout(STOP_S):
            await producer.stop()
    except (KafkaError, OSError, asyncio.CancelledError) as error:
        if us is not None and us.cancelling() > asked:
            raise
        log.debug("kafka.producer-not-stopped", error=str(error))
