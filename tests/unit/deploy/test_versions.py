"""Every way to a real component starts the same version of it."""

from __future__ import annotations

import re

import yaml

from tests import containers
from tests.tidy import tree


def images(file: str) -> dict[str, str]:
    """Image of each service of a compose file."""
    services = yaml.safe_load(tree.text(file))["services"]
    return {name: service["image"] for name, service in services.items() if "image" in service}


def test_containers_are_of_the_versions_of_the_artifacts_and_of_compose() -> None:
    pinned = re.findall(
        r"kafka_2\.13</artifactId>\s*<version>([\d.]+)<", tree.text("deploy/kafka/pom.xml")
    )
    assert [containers.kafka_image()] == [f"apache/kafka:{version}" for version in pinned]
    composed = images("docker-compose.yml")
    assert composed["kafka"] == containers.kafka_image()
    assert composed["postgres"] == containers.postgres_image()
