"""Brokers die, stand still, and lose what they had; no message is lost and none comes twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from schemas.ids import PARTITIONS
from shared.bus.kafka.settings import KafkaSettings
from shared.bus.kafka.topics import ensure_topics
from shared.testing.counter import SERVICE
from shared.testing.kafka import KafkaCluster
from tests.brokers import kafka_cluster
from tests.failures import failure_mode
from tests.integration.kafka.fabric import TOPIC, Fabric

SERVICES = ("gateway", SERVICE)
BACK_S = 60.0
"""A killed node is back after 8 – 14 s; a busy machine needs longer."""

pytestmark = pytest.mark.filterwarnings(
    # aiokafka leaves a connection open that was being made when its task is cancelled.
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster() as found:
        yield found


@pytest.fixture
async def settings(
    cluster: KafkaCluster, request: pytest.FixtureRequest
) -> AsyncIterator[KafkaSettings]:
    prefix = f"{request.node.name[:40]}.".replace("[", ".").replace("]", "")
    found = KafkaSettings(servers=(cluster.servers,), prefix=prefix)
    await ensure_topics(SERVICES, found)
    yield found


@failure_mode(
    "Kafka",
    "dead",
    sees=(
        "Commands are taken and answered 202; `/readyz` says that events are not "
        "published; the lag rises."
    ),
    does=(
        "Start the broker. What was recorded meanwhile is published from the relay's "
        "mark, once and in order."
    ),
)
async def test_a_broker_that_is_killed_and_comes_back_loses_and_doubles_nothing(
    cluster: KafkaCluster, settings: KafkaSettings
) -> None:
    async with Fabric(settings) as fabric:
        reader = fabric.read("one")
        await fabric.append(500)
        await fabric.until_read([reader], 500, within_s=BACK_S)
        cluster.kill(0)
        await fabric.append(500)
        await asyncio.sleep(1)
        await fabric.append(500)
        cluster.start_node(0)
        await fabric.until_read([reader], 1500, within_s=BACK_S)


@failure_mode(
    "Kafka",
    "slow",
    sees=(
        "As when it is dead, for as long as it stands still; requests end by their own time-outs."
    ),
    does=("Look at the broker's disk and memory. Nothing is lost or doubled when it goes on."),
)
async def test_a_broker_that_stands_still_for_a_while_loses_and_doubles_nothing(
    cluster: KafkaCluster, settings: KafkaSettings
) -> None:
    async with Fabric(settings) as fabric:
        reader = fabric.read("one")
        await fabric.append(500)
        cluster.pause(0)
        await fabric.append(500)
        await asyncio.sleep(5)
        cluster.resume(0)
        await fabric.append(500)
        await fabric.until_read([reader], 1500, within_s=BACK_S)


async def test_a_reader_that_starts_later_is_brought_everything(settings: KafkaSettings) -> None:
    async with Fabric(settings) as fabric:
        await fabric.append(3000)
        early = fabric.read("one")
        await fabric.until_read([early], 3000, within_s=BACK_S)
        late = fabric.read("two")
        await fabric.until_read([late], 3000, within_s=BACK_S)


@failure_mode(
    "Kafka",
    "lying",
    sees=(
        "Rows that a broker confirmed are missing: readers see the gap in the dense "
        "sequence and never step over it."
    ),
    does=(
        "Nothing: the source is asked to publish them again from its log. Check "
        "replication and `min.insync.replicas`."
    ),
)
async def test_rows_that_the_broker_lost_are_asked_for_and_published_again(
    settings: KafkaSettings,
) -> None:
    async with Fabric(settings) as fabric:
        early = fabric.read("one")
        await fabric.append(1000)
        await fabric.until_read([early], 1000, within_s=BACK_S)
        await fabric.outlet.tell()
        await _lose_everything(settings)
        late = fabric.read("two", gaps_allowed=True)
        await fabric.append(200)
        await fabric.until_read([early, late], 1200, within_s=BACK_S)


async def _lose_everything(settings: KafkaSettings) -> None:
    """As retention does: what stood in the topic is gone, also for readers that need it yet."""
    admin = AIOKafkaAdminClient(bootstrap_servers=list(settings.servers))
    await admin.start()
    gone = {
        TopicPartition(settings.prefix + TOPIC, partition): RecordsToDelete(before_offset=-1)
        for partition in range(PARTITIONS)
    }
    await admin.delete_records(gone)
    await admin.close()
