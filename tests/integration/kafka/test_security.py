"""Brokers that want TLS and a login: the right ones pass, the wrong ones are told as such."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from shared.bus.kafka.settings import KafkaSettings
from shared.bus.kafka.topics import ensure_topics
from shared.errors import Permanent, Transient
from shared.settings import read_settings
from shared.testing.counter import SERVICE
from shared.testing.kafka import KafkaCluster
from tests.brokers import kafka_cluster
from tests.integration.kafka.fabric import Fabric

SERVICES = ("gateway", SERVICE)
USER, PASSWORD = "seawall", "canary-b7f1"

pytestmark = pytest.mark.filterwarnings(
    # aiokafka leaves a connection open that was being made when its task is cancelled.
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    with kafka_cluster(scram=(USER, PASSWORD)) as found:
        yield found


def settings_of(environment: Mapping[str, str]) -> KafkaSettings:
    found = read_settings({"SEAWALL_BUS": "kafka", **environment}).kafka
    assert found is not None
    return found


@pytest.fixture
def settings(cluster: KafkaCluster, tmp_path: Path) -> KafkaSettings:
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    return settings_of(
        {
            "SEAWALL_KAFKA": cluster.servers,
            "SEAWALL_KAFKA_SECURITY": "SASL_SSL",
            "SEAWALL_KAFKA_CA": str(cluster.ca),
            "SEAWALL_KAFKA_USER": USER,
            "SEAWALL_KAFKA_PASSWORD": f"file:{secret}",
        }
    )


async def test_messages_flow_over_tls_with_a_login(settings: KafkaSettings) -> None:
    await ensure_topics(SERVICES, settings)
    async with Fabric(settings) as fabric:
        reader = fabric.read("one")
        await fabric.append(300)
        await fabric.until_read([reader], 300, within_s=60)


@pytest.mark.parametrize(
    "wrong", [{"password": "guessed-9c2e"}, {"ca": ""}, {"security": "PLAINTEXT"}]
)
async def test_who_is_not_let_in_is_told_what_to_check_and_never_the_password(
    settings: KafkaSettings, wrong: dict[str, str]
) -> None:
    stranger = msgspec.structs.replace(settings, **wrong)
    with pytest.raises(Transient) as away:
        await ensure_topics(SERVICES, stranger)
    told = f"{away.value.message} {away.value.remedy}"
    assert "the user and the certificates" in told
    assert PASSWORD not in told
    assert "guessed" not in told


async def test_certificates_that_cannot_be_read_are_named(settings: KafkaSettings) -> None:
    nowhere = msgspec.structs.replace(settings, ca="/nowhere/ca.pem")
    with pytest.raises(Permanent) as unreadable:
        await ensure_topics(SERVICES, nowhere)
    assert unreadable.value.code == "kafka-tls"
    assert "SEAWALL_KAFKA_CA" in unreadable.value.remedy
