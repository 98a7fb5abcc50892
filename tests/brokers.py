"""A real Apache Kafka for tests: `SEAWALL_TEST_KAFKA`, else one that is started with Java.

Where there is neither, the tests are skipped with the reason, or fail when `REQUIRE_KAFKA=1`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.testing.kafka import KafkaCluster, KafkaMissing
from tests import parts


@contextmanager
def kafka_cluster(
    *, nodes: int = 1, scram: tuple[str, str] | None = None
) -> Iterator[KafkaCluster]:
    """Brokers of our own, to be killed at will."""
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
    if given := os.environ.get("SEAWALL_TEST_KAFKA"):
        yield given
        return
    with kafka_cluster() as cluster:
        yield cluster.servers
