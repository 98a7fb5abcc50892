"""A broker for the tests of this folder, and topics of each test's own."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from shared.bus.kafka.settings import KafkaSettings
from shared.bus.kafka.topics import wanted_topics
from tests.brokers import kafka_servers

SERVICES = ("gateway", "counter")


@pytest.fixture(scope="module")
def servers() -> Iterator[str]:
    with kafka_servers() as found:
        yield found


@pytest.fixture
async def settings(servers: str) -> AsyncIterator[KafkaSettings]:
    """A prefix of this test's own; its topics are deleted afterwards."""
    found = KafkaSettings(servers=tuple(servers.split(",")), prefix=f"t{uuid4().hex[:8]}.")
    yield found
    admin = AIOKafkaAdminClient(bootstrap_servers=list(found.servers))
    await admin.start()
    await admin.delete_topics([topic.name for topic in wanted_topics(SERVICES, found)])
    await admin.close()
    gc.collect()
