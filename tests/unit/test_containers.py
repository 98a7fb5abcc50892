"""What our containers are told, with an engine that is played: the real one is seldom there."""

from __future__ import annotations

from typing import Any
from unittest.mock import create_autospec

import pytest
from docker.errors import DockerException
from testcontainers.core import container as library

from tests import containers


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The container that is made next: at `host`, its ports mapped to 40000 and more."""
    kind = create_autospec(library.DockerContainer)
    container = kind.return_value
    container.__enter__.return_value = container
    container.with_command.return_value = container
    container.get_container_host_ip.return_value = "host"
    container.get_exposed_port.side_effect = lambda port: 40000 + port
    container.get_logs.return_value = (b"[KafkaRaftServer nodeId=1] Kafka Server started\n", b"")
    container.exec.return_value.exit_code = 0
    monkeypatch.setattr(library, "DockerContainer", kind)
    return container


def test_a_broker_tells_clients_the_address_at_which_they_reach_it(played: Any) -> None:
    with containers.kafka() as servers:
        assert servers == "host:49092"
        script, path = played.copy_into_container.call_args.args
        assert b"KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://host:49092,BROKER://" in script
        assert path in played.with_command.call_args.args[0][-1]
        played.__exit__.assert_not_called()
    played.__exit__.assert_called_once()


def test_a_server_is_given_when_it_answers_by_address(played: Any) -> None:
    with containers.postgres() as url:
        assert url == "postgresql://postgres:seawall@host:45432/postgres"
        assert "127.0.0.1" in played.exec.call_args.args[0]
    played.__exit__.assert_called_once()


@pytest.mark.parametrize("error", [DockerException("no such image"), TimeoutError("late")])
def test_a_container_that_does_not_come_up_is_removed_and_named(
    played: Any, error: Exception
) -> None:
    played.image = containers.kafka_image()
    played.copy_into_container.side_effect = error
    with (
        pytest.raises(containers.ContainerFailed, match=r"apache/kafka.*did not start"),
        containers.kafka(),
    ):
        raise AssertionError("came up")
    played.__exit__.assert_called_once()
