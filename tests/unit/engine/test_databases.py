"""Databases by service: which setting counts, and what may not be apart is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from shared.databases import SERVICES, Databases, one_each, variable_of
from shared.errors import Permanent
from shared.settings import read_settings

ALL = "postgresql://all"
OWN = "postgresql://own"
KAFKA = {"SEAWALL_BUS": "kafka", "SEAWALL_KAFKA": "one:9092"}


def test_one_database_is_that_of_every_service() -> None:
    found = read_settings({"SEAWALL_DATABASE_URL": ALL}).databases
    assert [found.of(service) for service in SERVICES] == [ALL] * len(SERVICES)
    assert found.urls() == (ALL,) and found.complete


@pytest.mark.parametrize("service", ["gateway", "scheduler", "notifier", "projector"])
def test_a_service_may_have_one_of_its_own(service: str) -> None:
    variables = {"SEAWALL_DATABASE_URL": ALL, variable_of(service): OWN}
    found = read_settings({**KAFKA, **variables}).databases
    assert {name for name in SERVICES if found.of(name) == OWN} == {service}


@pytest.mark.parametrize("service", SERVICES)
def test_on_the_postgres_bus_it_may_not_and_is_named(service: str) -> None:
    with pytest.raises(Permanent) as refused:
        read_settings({"SEAWALL_DATABASE_URL": ALL, variable_of(service): OWN})
    assert variable_of(service) in refused.value.message
    assert "SEAWALL_BUS" in refused.value.remedy


def test_on_the_postgres_bus_the_one_that_differs_among_them_is_named() -> None:
    variables = {variable_of("gateway"): ALL, variable_of("notifier"): OWN}
    with pytest.raises(Permanent, match="SEAWALL_DATABASE_URL_NOTIFIER"):
        read_settings(variables)


@pytest.mark.parametrize("bus", [{}, KAFKA], ids=["postgres", "kafka"])
def test_the_same_database_said_twice_is_one(bus: dict[str, str]) -> None:
    variables = {variable_of(service): ALL for service in SERVICES}
    assert read_settings({**bus, **variables}).databases.urls() == (ALL,)


@pytest.mark.parametrize("service", ["replicator", "recovery"])
def test_services_that_call_platforms_share_one_on_any_bus(service: str) -> None:
    variables = {"SEAWALL_DATABASE_URL": ALL, variable_of(service): OWN}
    with pytest.raises(Permanent, match="share budgets"):
        read_settings({**KAFKA, **variables})
    both = {variable_of("replicator"): OWN, variable_of("recovery"): OWN}
    found = read_settings({**KAFKA, "SEAWALL_DATABASE_URL": ALL, **both}).databases
    assert found.of("recovery") == found.of("replicator") == OWN


def test_a_process_may_know_only_the_databases_it_needs() -> None:
    found = read_settings({**KAFKA, variable_of("recovery"): OWN}).databases
    assert found.knows("recovery") and not found.complete
    with pytest.raises(Permanent) as unknown:
        found.of("scheduler")
    assert variable_of("scheduler") in unknown.value.remedy


def test_an_embedded_database_stands_in_where_nothing_was_set() -> None:
    found = Databases(own={"notifier": OWN}).with_default(ALL)
    assert found.urls(["scheduler", "notifier", "gateway"]) == (ALL, OWN)
    with pytest.raises(Permanent, match="SEAWALL_DATABASE_URL_NOTIFIER"):
        found.check(bus="postgres")


async def test_services_of_one_database_share_what_is_opened_for_it() -> None:
    events: list[str] = []

    @asynccontextmanager
    async def connect(url: str) -> AsyncIterator[str]:
        events.append(f"open {url}")
        yield f"connection to {url}"
        events.append(f"close {url}")

    databases = Databases(ALL, {"notifier": OWN})
    async with one_each(databases, ["gateway", "notifier", "scheduler"], connect) as opened:
        assert opened["gateway"] == opened["scheduler"] == f"connection to {ALL}"
        assert opened["notifier"] == f"connection to {OWN}"
    assert events == [f"open {ALL}", f"open {OWN}", f"close {OWN}", f"close {ALL}"]
