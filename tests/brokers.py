"""A real Apache Kafka for tests: one that is given, started with Java, or in a container.

Where there is none of them, the tests are skipped with the reasons, or fail when
`REQUIRE_KAFKA=1`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from shared.testing.kafka import KafkaCluster, KafkaMissing, ensure_jars
from tests import containers, parts
from tests.ways import Way, choose

GIVEN: Final = "SEAWALL_TEST_KAFKA"
JAVA: Final = "Java and the Maven artifacts"
CONTAINER: Final = "a container"


@contextmanager
def kafka_cluster(
    *, nodes: int = 1, scram: tuple[str, str] | None = None
) -> Iterator[KafkaCluster]:
    """Brokers of our own, to be killed at will: processes, so with Java only."""
    folder = Path(tempfile.mkdtemp(prefix="seawall-test-kafka-"))
    try:
        try:
            cluster = KafkaCluster(folder, nodes=nodes, scram=scram)
        except KafkaMissing as missing:
            parts.require("kafka", f"{missing}; {missing.remedy}")
        with cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def kafka_servers() -> Iterator[str]:
    """Where a broker listens, `host:port,…`; tests share it and must not mind what it holds."""
    given = os.environ.get(GIVEN, "")
    choice = choose(kafka_ways(given, jars_obstacle, containers.engine_obstacle))
    if choice.way == GIVEN:
        yield given
    elif choice.way == JAVA:
        with kafka_cluster() as cluster:
            yield cluster.servers
    elif choice.way == CONTAINER:
        with containers.or_absent("kafka", containers.kafka()) as servers:
            yield servers
    else:
        parts.require("kafka", choice.reason)


def kafka_ways(given: str, jars: Callable[[], str], engine: Callable[[], str]) -> Iterator[Way]:
    """The ways to a broker; `jars` and `engine` look, and give what is in the way."""
    yield Way(GIVEN, "" if given else "it is not set")
    yield Way(JAVA, jars())
    yield Way(CONTAINER, engine())


def jars_obstacle() -> str:
    """Why no broker can be started with Java, or "". Brings the jars the first time."""
    try:
        ensure_jars()
    except KafkaMissing as missing:
        return f"{missing}; {missing.remedy}"
    return ""
