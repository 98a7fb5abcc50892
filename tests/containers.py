"""Apache Kafka and PostgreSQL in containers, for machines that have an engine and no Java.

The versions are those that the other ways start. testcontainers removes what it started, also
after a kill. It is imported where it is used: nobody else pays for its second of imports.
"""

from __future__ import annotations

import functools
import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree

from shared.embedded import MAJOR_VERSION
from tests import parts

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

POM: Final = Path(__file__).parents[1] / "deploy" / "kafka" / "pom.xml"
ENGINE_S: Final = 5
READY_S: Final = 60

_KAFKA_PORT: Final = 9092
_POSTGRES_PORT: Final = 5432
_POSTGRES_PASSWORD: Final = "seawall"

# The address that clients are told must be the one they can reach, and the port is known only
# once the container runs: so it starts with waiting for this script.
_KAFKA_SCRIPT: Final = "/tmp/seawall-start.sh"
_KAFKA: Final = {
    "KAFKA_NODE_ID": "1",
    "KAFKA_PROCESS_ROLES": "broker,controller",
    "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9094",
    "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
    "KAFKA_LISTENERS": "PLAINTEXT://:9092,BROKER://:9093,CONTROLLER://:9094",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": (
        "PLAINTEXT:PLAINTEXT,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT"
    ),
    "KAFKA_INTER_BROKER_LISTENER_NAME": "BROKER",
    "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
    "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "1",
    "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
    "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
    "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
    "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
}


class ContainerFailed(Exception):
    """The engine answers, and still there is no such component: its image, or its start."""


def kafka_image() -> str:
    """Apache Kafka's image, of the version that the Maven artifacts are of."""
    space = "{http://maven.apache.org/POM/4.0.0}"
    for dependency in ElementTree.parse(POM).iter(f"{space}dependency"):
        if dependency.findtext(f"{space}groupId") == "org.apache.kafka":
            return f"apache/kafka:{dependency.findtext(f'{space}version')}"
    raise AssertionError(f"{POM} does not name Kafka")


def postgres_image() -> str:
    """PostgreSQL's image, of the major version that is embedded."""
    return f"postgres:{MAJOR_VERSION}"


@functools.cache
def engine_obstacle() -> str:
    """Why no container can be started here, or "". Asked once a run."""
    from docker.errors import DockerException
    from testcontainers.core.docker_client import DockerClient

    obstacle = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            client = DockerClient(timeout=ENGINE_S).client
            client.ping()
            client.close()
        except (DockerException, OSError) as error:
            obstacle = f"no container engine answers ({type(error).__name__}: {error})"
        gc.collect()  # docker leaves the socket of a failed connection open
    return obstacle


@contextmanager
def kafka() -> Iterator[str]:
    """A broker, as `host:port`. Raises ContainerFailed."""
    from testcontainers.core.container import DockerContainer

    command = f"until test -f {_KAFKA_SCRIPT}; do sleep 0.1; done; exec sh {_KAFKA_SCRIPT}"
    container = DockerContainer(kafka_image(), env=dict(_KAFKA))
    container.with_command(["sh", "-c", command]).with_exposed_ports(_KAFKA_PORT)
    with _running(container, _serve_kafka):
        yield _address(container, _KAFKA_PORT)


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of a server's first database. Raises ContainerFailed."""
    from testcontainers.core.container import DockerContainer

    container = DockerContainer(postgres_image(), env={"POSTGRES_PASSWORD": _POSTGRES_PASSWORD})
    container.with_command(["postgres", "-c", "max_connections=200", "-c", "timezone=UTC"])
    container.with_exposed_ports(_POSTGRES_PORT)
    with _running(container, _wait_for_postgres):
        server = _address(container, _POSTGRES_PORT)
        yield f"postgresql://postgres:{_POSTGRES_PASSWORD}@{server}/postgres"


@contextmanager
def or_absent(part: str, container: AbstractContextManager[str]) -> Iterator[str]:
    """What the container gives; one that fails to start is an absent `part`."""
    with ExitStack() as stack:
        try:
            address = stack.enter_context(container)
        except ContainerFailed as failed:
            parts.require(part, str(failed))
        yield address


@contextmanager
def _running(
    container: DockerContainer, ready: Callable[[DockerContainer], None]
) -> Iterator[None]:
    """A container that is started and `ready`, removed at the end."""
    from docker.errors import DockerException

    with ExitStack() as stack:
        try:
            stack.enter_context(container)
            ready(container)
        except (DockerException, OSError, RuntimeError) as error:  # TimeoutError is an OSError
            raise ContainerFailed(f"{container.image} did not start: {error}") from error
        yield


def _address(container: DockerContainer, port: int) -> str:
    return f"{container.get_container_host_ip()}:{container.get_exposed_port(port)}"


def _serve_kafka(container: DockerContainer) -> None:
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    outside = f"PLAINTEXT://{_address(container, _KAFKA_PORT)}"
    script = (
        f"export KAFKA_ADVERTISED_LISTENERS={outside},BROKER://localhost:9093\n"
        "exec /etc/kafka/docker/run\n"
    )
    container.copy_into_container(script.encode(), _KAFKA_SCRIPT)
    started = LogMessageWaitStrategy("Kafka Server started").with_startup_timeout(READY_S)
    started.wait_until_ready(container)


def _wait_for_postgres(container: DockerContainer) -> None:
    from testcontainers.core.wait_strategies import ExecWaitStrategy

    # By address: the server that only sets the databases up listens on its socket alone.
    answers = ExecWaitStrategy(["pg_isready", "-h", "127.0.0.1", "-U", "postgres"])
    answers.with_startup_timeout(READY_S).wait_until_ready(container)
