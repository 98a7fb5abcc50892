"""Which way to a real component is taken, and what is said where none is open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests import brokers, containers, parts, servers
from tests.ways import Choice, Way, choose

CLOSED = "it is not there"


def look(found: str) -> str:
    """What a look finds; one that must not be made says so."""
    assert found != "never", "looked at a way behind an open one"
    return found


def test_the_first_open_way_is_taken() -> None:
    ways = [Way("given", CLOSED), Way("local", ""), Way("container", "")]
    assert choose(ways) == Choice("local", "")


def test_ways_behind_an_open_one_are_not_looked_at() -> None:
    def ways() -> Iterator[Way]:
        yield Way("given", "")
        raise AssertionError("looked on")

    assert choose(ways()).way == "given"


def test_where_all_are_closed_each_is_told_with_its_obstacle() -> None:
    ways = [Way("given", "it is not set"), Way("local", "no `java` on PATH")]
    assert choose(ways) == Choice(None, "(1) given: it is not set; (2) local: no `java` on PATH")


@pytest.mark.parametrize(
    ("given", "local", "engine", "taken"),
    [
        ("there:1", "never", "never", 0),
        ("", "", "never", 1),
        ("", CLOSED, "", 2),
    ],
)
def test_what_is_given_comes_first_then_what_is_local_then_a_container(
    given: str, local: str, engine: str, taken: int
) -> None:
    kafka = brokers.kafka_ways(given, lambda: look(local), lambda: look(engine))
    assert choose(kafka).way == (brokers.GIVEN, brokers.JAVA, brokers.CONTAINER)[taken]
    postgres = servers.postgres_ways(given, lambda: look(local), lambda: look(engine))
    assert choose(postgres).way == (servers.GIVEN, servers.EMBEDDED, servers.CONTAINER)[taken]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with none of the three, on which nothing is required."""
    monkeypatch.setattr(parts, "absent", {})
    for name in (brokers.GIVEN, servers.GIVEN, "REQUIRE_KAFKA", "REQUIRE_POSTGRES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(brokers, "jars_obstacle", lambda: "no `java` on PATH")
    monkeypatch.setattr(servers, "binaries_obstacle", lambda: "not installed")
    monkeypatch.setattr(containers, "engine_obstacle", lambda: "no container engine answers")
    return monkeypatch


def test_without_any_way_a_broker_is_absent_for_three_reasons(bare: pytest.MonkeyPatch) -> None:
    with pytest.raises(pytest.skip.Exception) as skipped, brokers.kafka_servers():
        pass
    assert str(skipped.value) == (
        "kafka is absent: (1) SEAWALL_TEST_KAFKA: it is not set; "
        "(2) Java and the Maven artifacts: no `java` on PATH; "
        "(3) a container: no container engine answers"
    )


def test_without_any_way_postgres_is_absent_for_three_reasons(bare: pytest.MonkeyPatch) -> None:
    with pytest.raises(pytest.skip.Exception) as skipped, servers.postgres_server_url():
        pass
    assert str(skipped.value) == (
        "postgres is absent: (1) SEAWALL_TEST_POSTGRES: it is not set; "
        "(2) the embedded server: not installed; "
        "(3) a container: no container engine answers"
    )


@pytest.mark.parametrize("part", ["kafka", "postgres"])
def test_an_absent_part_that_is_required_fails(bare: pytest.MonkeyPatch, part: str) -> None:
    bare.setenv(f"REQUIRE_{part.upper()}", "1")
    opened = brokers.kafka_servers() if part == "kafka" else servers.postgres_server_url()
    with pytest.raises(pytest.fail.Exception, match=f"REQUIRE_{part.upper()}=1"), opened:
        pass


@pytest.mark.parametrize("part", ["kafka", "postgres"])
def test_where_an_engine_answers_a_container_is_used_and_ended(
    bare: pytest.MonkeyPatch, part: str
) -> None:
    ended = []

    @contextmanager
    def container() -> Iterator[str]:
        yield "there:1"
        ended.append(part)

    bare.setattr(containers, "engine_obstacle", lambda: "")
    bare.setattr(containers, part, container)
    opened = brokers.kafka_servers() if part == "kafka" else servers.postgres_server_url()
    with opened as address:
        assert (address, ended) == ("there:1", [])
    assert ended == [part]


def test_a_container_that_does_not_start_is_an_absent_part(bare: pytest.MonkeyPatch) -> None:
    @contextmanager
    def container() -> Iterator[str]:
        raise containers.ContainerFailed("apache/kafka:1 did not start: no such image")
        yield  # what makes it a generator

    bare.setattr(containers, "engine_obstacle", lambda: "")
    bare.setattr(containers, "kafka", container)
    with (
        pytest.raises(pytest.skip.Exception, match=r"kafka is absent: .* no such image"),
        brokers.kafka_servers(),
    ):
        pass


def test_a_test_that_fails_with_a_container_is_no_absent_part(bare: pytest.MonkeyPatch) -> None:
    @contextmanager
    def container() -> Iterator[str]:
        yield "there:1"

    bare.setattr(containers, "engine_obstacle", lambda: "")
    bare.setattr(containers, "kafka", container)
    with pytest.raises(containers.ContainerFailed), brokers.kafka_servers():
        raise containers.ContainerFailed("by the test itself")
