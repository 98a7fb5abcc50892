"""The topics: made where they are missing, and refused where they are not as they must be."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from schemas.envelope import DEAD_LETTER_TOPIC, commands_topic, events_topic
from schemas.ids import PARTITIONS
from shared.bus.kafka.settings import REQUEST_TIMEOUT_S, KafkaSettings
from shared.errors import Permanent, Refused, Transient

CONTROL_TOPIC: Final = "seawall.control"
"""Logs tell their epoch and heads there, readers ask for rows again. Compacted, one partition."""

PROGRESS_TOPIC: Final = "seawall.progress"

PROGRESS_RETENTION_S: Final = 3600
_MESSAGE_BYTES_MAX: Final = 1024 * 1024
_PAUSE_S: Final = 0.25


class Topic(msgspec.Struct, frozen=True):
    """A topic as it must be. `config` are the broker's own names and texts."""

    name: str
    partitions: int
    replication: int
    config: dict[str, str]


def wanted_topics(services: Sequence[str], settings: KafkaSettings) -> list[Topic]:
    """Every topic of an installation with these services."""
    retention_ms = -1 if settings.retention_s < 0 else int(settings.retention_s * 1000)
    durable = {
        "min.insync.replicas": str(settings.min_isr),
        "max.message.bytes": str(_MESSAGE_BYTES_MAX),
    }
    kept = {**durable, "cleanup.policy": "delete", "retention.ms": str(retention_ms)}
    control = {**durable, "cleanup.policy": "compact"}
    lossy = {"cleanup.policy": "delete", "retention.ms": str(PROGRESS_RETENTION_S * 1000)}
    prefix = settings.prefix
    names = [make(service) for service in services for make in (events_topic, commands_topic)]
    return [
        *(Topic(prefix + name, PARTITIONS, settings.replication, kept) for name in names),
        Topic(prefix + DEAD_LETTER_TOPIC, PARTITIONS, settings.replication, kept),
        Topic(prefix + CONTROL_TOPIC, 1, settings.replication, control),
        Topic(prefix + PROGRESS_TOPIC, 1, settings.replication, lossy),
    ]


async def ensure_topics(services: Sequence[str], settings: KafkaSettings) -> list[str]:
    """Make the topics that are missing; gives their names.

    Raises Refused `kafka-topic` where one exists with other settings, naming all that differs;
    Transient while the brokers cannot be reached, Permanent where they do not let us.
    """
    wanted = wanted_topics(services, settings)
    admin = AIOKafkaAdminClient(**_admin_options(settings))
    try:
        async with asyncio.timeout(6 * REQUEST_TIMEOUT_S):
            await admin.start()
            made = await _create(admin, wanted)
            found = await _describe(admin, wanted)
    except (KafkaError, OSError) as error:
        raise _unreachable(error) from error
    finally:
        await admin.close()
    if wrong := [line for topic in wanted for line in _differences(topic, found[topic.name])]:
        raise Refused(
            "topics exist with other settings: " + "; ".join(wrong),
            remedy="change the topics, or the settings SEAWALL_KAFKA_REPLICATION, "
            "SEAWALL_KAFKA_MIN_ISR and SEAWALL_KAFKA_RETENTION; partitions cannot be changed",
            code="kafka-topic",
        )
    return made


def _admin_options(settings: KafkaSettings) -> dict[str, Any]:
    return settings.client("admin")


def _unreachable(error: BaseException) -> Transient:
    return Transient(
        f"Kafka cannot be reached: {type(error).__name__}: {error}",
        remedy="check SEAWALL_KAFKA, the user and the certificates, and that brokers run",
        code="kafka-unreachable",
    )


async def _create(admin: AIOKafkaAdminClient, wanted: Sequence[Topic]) -> list[str]:
    existing = set(await admin.list_topics())
    missing = [topic for topic in wanted if topic.name not in existing]
    if not missing:
        return []
    answer = await admin.create_topics(
        [
            NewTopic(
                name=topic.name,
                num_partitions=topic.partitions,
                replication_factor=topic.replication,
                topic_configs=topic.config,
            )
            for topic in missing
        ]
    )
    # An error is told in the answer and not raised; another process may have been first.
    for name, code, *more in answer.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:
            raise Permanent(
                f"the topic {name} cannot be made: {error.__name__} {more[0] if more else ''}",
                remedy="make it by hand, or let this user create topics; a replication above "
                "the number of brokers is refused too",
                code="kafka-topic",
            )
    return [topic.name for topic in missing]


class _Found(msgspec.Struct):
    partitions: int
    replication: int
    config: Mapping[str, str]


async def _describe(admin: AIOKafkaAdminClient, wanted: Sequence[Topic]) -> dict[str, _Found]:
    """How the topics are; one that was just made shows after a moment."""
    names = [topic.name for topic in wanted]
    described: dict[str, dict[str, Any]] = {}
    while not all(described.get(name, {}).get("partitions") for name in names):
        await asyncio.sleep(_PAUSE_S if described else 0)
        described = {each["topic"]: each for each in await admin.describe_topics(names)}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    configs: dict[str, dict[str, str]] = {}
    for answer in await admin.describe_configs(resources):
        for _, _, _, name, entries in answer.resources:
            configs[name] = {entry[0]: entry[1] for entry in entries}
    return {
        name: _Found(
            len(described[name]["partitions"]),
            len(described[name]["partitions"][0]["replicas"]),
            configs.get(name, {}),
        )
        for name in names
    }


def _differences(topic: Topic, found: _Found) -> list[str]:
    pairs = [
        ("partitions", str(topic.partitions), str(found.partitions)),
        ("replication", str(topic.replication), str(found.replication)),
        *((name, text, found.config.get(name, text)) for name, text in topic.config.items()),
    ]
    return [
        f"{topic.name} has {name} {have}, wanted {want}"
        for name, want, have in pairs
        if want != have
    ]
