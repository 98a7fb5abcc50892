"""What the environment says of Kafka is checked, and each mistake named with its remedy."""

from __future__ import annotations

import pytest

from shared.errors import Permanent
from shared.settings import read_settings

GOOD = {"SEAWALL_BUS": "kafka", "SEAWALL_KAFKA": "one:9092,two:9092"}


def test_brokers_are_read() -> None:
    kafka = read_settings(GOOD).kafka
    assert kafka is not None
    assert kafka.servers == ("one:9092", "two:9092")
    assert (kafka.replication, kafka.min_isr, kafka.retention_s) == (1, 1, 7 * 86400)
    assert read_settings({}).kafka is None


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"SEAWALL_BUS": "rabbit"}, "SEAWALL_BUS"),
        ({"SEAWALL_KAFKA": ""}, "SEAWALL_KAFKA"),
        ({"SEAWALL_KAFKA": "one"}, "SEAWALL_KAFKA"),
        ({"SEAWALL_KAFKA": ":9092"}, "SEAWALL_KAFKA"),
        ({"SEAWALL_KAFKA_SECURITY": "TLS"}, "SEAWALL_KAFKA_SECURITY"),
        ({"SEAWALL_KAFKA_REPLICATION": "three"}, "SEAWALL_KAFKA_REPLICATION"),
        ({"SEAWALL_KAFKA_PASSWORD": "file:/nowhere/secret"}, "SEAWALL_KAFKA_PASSWORD"),
    ],
)
def test_what_is_wrong_is_named(wrong: dict[str, str], named: str) -> None:
    with pytest.raises(Permanent) as mistake:
        read_settings({**GOOD, **wrong})
    assert named in mistake.value.message
    assert mistake.value.remedy
