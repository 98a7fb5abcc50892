"""Topics are made once, as they must be, and never taken as they are."""

from __future__ import annotations

import msgspec
import pytest

from shared.bus.kafka.settings import KafkaSettings
from shared.bus.kafka.topics import ensure_topics
from shared.errors import Permanent, Refused, Transient
from tests.failures import failure_mode

SERVICES = ("gateway", "counter")


async def test_missing_topics_are_made_and_found_the_next_time(settings: KafkaSettings) -> None:
    made = await ensure_topics(SERVICES, settings)
    assert len(made) == 7
    assert f"{settings.prefix}seawall.counter.commands" in made
    assert await ensure_topics(SERVICES, settings) == []


async def test_topics_with_other_settings_are_refused_and_all_differences_named(
    settings: KafkaSettings,
) -> None:
    await ensure_topics(SERVICES, settings)
    other = msgspec.structs.replace(settings, retention_s=3600, min_isr=2)
    with pytest.raises(Refused) as refused:
        await ensure_topics(SERVICES, other)
    assert refused.value.code == "kafka-topic"
    said = refused.value.message
    events = f"{settings.prefix}seawall.gateway.events"
    assert f"{events} has retention.ms 604800000, wanted 3600000" in said
    assert f"{events} has min.insync.replicas 1, wanted 2" in said
    assert "SEAWALL_KAFKA_RETENTION" in refused.value.remedy


async def test_more_copies_than_brokers_cannot_be_made_and_the_broker_says_so(
    settings: KafkaSettings,
) -> None:
    with pytest.raises(Permanent) as refused:
        await ensure_topics(SERVICES, msgspec.structs.replace(settings, replication=9))
    assert "InvalidReplicationFactor" in refused.value.message
    await ensure_topics(SERVICES, settings)


@failure_mode(
    "Kafka",
    "cut off",
    sees="A service that starts says which brokers it cannot reach, and ends.",
    does=("Check SEAWALL_KAFKA, the network and the listeners' names; start the service again."),
)
async def test_brokers_that_are_not_there_are_told_as_such(settings: KafkaSettings) -> None:
    nobody = msgspec.structs.replace(settings, servers=("127.0.0.1:1",))
    with pytest.raises(Transient) as away:
        await ensure_topics(SERVICES, nobody)
    assert away.value.code == "kafka-unreachable"
    assert "SEAWALL_KAFKA" in away.value.remedy
    await ensure_topics(SERVICES, settings)
