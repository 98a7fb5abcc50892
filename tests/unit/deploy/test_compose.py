"""The compose files are what the compose specification, the services and the settings ask for."""

from __future__ import annotations

import re
from collections import Counter
from importlib.util import find_spec
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from shared.databases import TOGETHER
from shared.settings import read_settings
from tests.formats import formats
from tests.tidy import tree
from tests.unit.deploy.files import (
    SERVICES,
    Document,
    compose,
    documents,
    environment,
    unknown_settings,
)

BASE = compose()
OVERLAYS: tuple[tuple[str, ...], ...] = (
    (), ("three-brokers",), ("copies",), ("passwords",),
    ("passwords", "three-brokers", "copies"),
)  # fmt: skip
SECRETS = {"POSTGRES_PASSWORD": "p", "GRAFANA_PASSWORD": "g"}


def problems(document: Document) -> list[str]:
    errors = Draft202012Validator(formats("compose-spec")).iter_errors(document)
    return [f"{error.json_path}: {error.message[:200]}" for error in errors]


@pytest.mark.parametrize("overlays", OVERLAYS, ids="+".join)
def test_files_are_as_compose_specifies_them(overlays: tuple[str, ...]) -> None:
    assert problems(compose(*overlays)) == []


@pytest.mark.parametrize("name", ["three-brokers", "copies", "passwords"])
def test_an_overlay_is_one_by_itself(name: str) -> None:
    assert problems(documents(f"deploy/compose/{name}.yml")[0]) == []


@pytest.mark.parametrize(
    "wrong", [{"services": {"a": {"imgae": "x"}}}, {"services": {"a": {"ports": 8640}}}]
)
def test_a_file_that_is_none_is_found(wrong: Document) -> None:
    assert problems(wrong) != []


def test_every_service_is_one_container_of_one_image() -> None:
    images = {str(BASE["services"][name]["image"]) for name in SERVICES}
    assert len(images) == 1
    for name in SERVICES:
        assert BASE["services"][name]["command"] == [f"services.{name}"]
        assert find_spec(f"services.{name}.__main__") is not None


@pytest.mark.parametrize("overlays", OVERLAYS, ids="+".join)
def test_services_read_their_settings(overlays: tuple[str, ...]) -> None:
    brokers = 3 if "three-brokers" in overlays else 1
    for name in SERVICES:
        found = environment(compose(*overlays)["services"][name], SECRETS)
        assert unknown_settings(found) == []
        settings = read_settings(found)
        assert settings.kafka is not None and settings.health_port is not None
        assert (len(settings.kafka.servers), settings.kafka.replication) == (brokers, brokers)
        assert settings.databases.complete and settings.smtp and settings.mail_to
        databases = {url.rpartition("/")[2] for url in settings.databases.urls()}
        assert databases == set(made_at_the_first_start())


def made_at_the_first_start() -> list[str]:
    """The databases of the server: its own, and those of the scripts that it runs once."""
    postgres = BASE["services"]["postgres"]
    assert "./deploy/postgres:/docker-entrypoint-initdb.d:ro" in postgres["volumes"]
    script = tree.text("deploy/postgres/databases.sql")
    return [postgres["environment"]["POSTGRES_DB"], *re.findall(r"create database (\w+);", script)]


def test_only_services_that_call_platforms_share_a_database() -> None:
    databases = read_settings(environment(BASE["services"]["gateway"], SECRETS)).databases
    shared = Counter(map(databases.of, SERVICES))
    assert [count for count in shared.values() if count > 1] == [len(TOGETHER)]


def test_passwords_must_be_given_where_they_are_asked_for() -> None:
    service = compose("passwords")["services"]["gateway"]
    assert ":p@postgres" in environment(service, SECRETS)["SEAWALL_DATABASE_URL"]
    with pytest.raises(KeyError):
        environment(service)


def test_ports_are_on_the_loopback_only() -> None:
    ports = [port for each in BASE["services"].values() for port in each.get("ports", ())]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("overlays", OVERLAYS, ids="+".join)
def test_what_is_mounted_and_waited_for_is_there(overlays: tuple[str, ...]) -> None:
    whole = compose(*overlays)
    for name, service in whole["services"].items():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("./"):
                assert source == "./sites" or (tree.ROOT / source).is_dir(), source
            else:
                assert source in whole["volumes"], source
        for other in service.get("depends_on", ()):
            waits = isinstance(service["depends_on"], dict)
            assert not waits or "healthcheck" in whole["services"][other], f"{name} {other}"


def test_three_brokers_are_alike() -> None:
    services = compose("three-brokers")["services"]
    brokers = [services[name] for name in ("kafka", "kafka-2", "kafka-3")]
    plain = [_without_its_own(broker) for broker in brokers]
    assert plain[0] == plain[1] == plain[2]
    voters = brokers[0]["environment"]["KAFKA_CONTROLLER_QUORUM_VOTERS"]
    assert voters == "1@kafka:9093,2@kafka-2:9093,3@kafka-3:9093"


def _without_its_own(broker: Document) -> dict[str, Any]:
    own = ("KAFKA_NODE_ID", "KAFKA_ADVERTISED_LISTENERS")
    shared = {k: v for k, v in broker["environment"].items() if k not in own}
    return {**broker, "environment": shared, "volumes": None}


def test_prometheus_looks_at_every_service() -> None:
    (scraping,) = documents("deploy/prometheus/prometheus.yml")
    (job,) = scraping["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    settings = read_settings(environment(BASE["services"]["gateway"]))
    assert sorted(found["names"]) == sorted(SERVICES)
    assert (found["port"], job["job_name"]) == (settings.health_port, "seawall")
    folder = tree.ROOT / "deploy" / "prometheus"
    assert all((folder / file).is_file() for file in scraping["rule_files"])
