"""Where readers left off, by Kafka's own committed offsets: all of a group in one request."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from shared.bus.kafka.settings import KafkaSettings

log = structlog.get_logger()

TIMEOUT_S: Final = 3.0


async def read_hints(settings: KafkaSettings, group: str) -> dict[TopicPartition, int]:
    """The group's offsets; none where they cannot be had in time, which costs reading more."""
    admin = AIOKafkaAdminClient(**settings.client("hints"))
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await admin.start()
            found = await admin.list_consumer_group_offsets(group)
    except (KafkaError, OSError) as error:
        log.debug("kafka.no-hints", group=group, error=str(error))
        return {}
    finally:
        await admin.close()
    return {partition: each.offset for partition, each in found.items() if each.offset >= 0}
