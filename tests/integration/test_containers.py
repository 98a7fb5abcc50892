"""Kafka and PostgreSQL from containers, where an engine answers."""

from __future__ import annotations

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from shared.bus.kafka.settings import KafkaSettings
from shared.bus.kafka.topics import ensure_topics
from shared.embedded import MAJOR_VERSION
from tests import containers, parts

TOPIC = "seawall.counter.events"


@pytest.fixture(autouse=True)
def engine() -> None:
    """Skips with the reason where no engine answers."""
    if obstacle := containers.engine_obstacle():
        parts.require("containers", obstacle)


async def test_a_message_passes_through_a_broker_in_a_container() -> None:
    with containers.or_absent("containers", containers.kafka()) as servers:
        await ensure_topics(["counter"], KafkaSettings(servers=(servers,)))
        producer = AIOKafkaProducer(bootstrap_servers=servers)
        await producer.start()
        await producer.send_and_wait(TOPIC, b"passed", partition=7)
        await producer.stop()
        consumer = AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest")
        consumer.assign([TopicPartition(TOPIC, 7)])
        await consumer.start()
        record = await consumer.getone()
        await consumer.stop()
    assert record.value == b"passed"


async def test_databases_can_be_made_on_a_server_in_a_container() -> None:
    with containers.or_absent("containers", containers.postgres()) as url:
        connection = await asyncpg.connect(url, timeout=10)
        await connection.execute("create database fresh template template0", timeout=10)
        version = await connection.fetchval("show server_version", timeout=10)
        fsync = await connection.fetchval("show fsync", timeout=10)
        await connection.close(timeout=10)
    assert str(version).startswith(f"{MAJOR_VERSION}.")
    assert fsync == "on"
