"""Settings: what is wrong is named with its variable and what is allowed."""

from __future__ import annotations

import pytest

from shared.errors import Permanent
from shared.settings import read_settings


def test_without_anything_set_the_defaults_hold() -> None:
    settings = read_settings({})
    assert (settings.port, settings.health_port, settings.bus) == (8640, None, "postgres")


@pytest.mark.parametrize("port", ["0", "1", "65535"])
def test_a_port_is_0_to_65535(port: str) -> None:
    settings = read_settings({"SEAWALL_PORT": port, "SEAWALL_HEALTH_PORT": port})
    assert (settings.port, settings.health_port) == (int(port), int(port))


@pytest.mark.parametrize("name", ["SEAWALL_PORT", "SEAWALL_HEALTH_PORT"])
@pytest.mark.parametrize("value", ["65536", "-1", "80.5", "http", "nan", "inf", "1e99"])
def test_anything_else_is_no_port(name: str, value: str) -> None:
    with pytest.raises(Permanent) as refused:
        read_settings({name: value})
    assert name in refused.value.message and value in refused.value.message
    assert refused.value.remedy


@pytest.mark.parametrize("name", ["SEAWALL_LEASE", "SEAWALL_HEARTBEAT"])
@pytest.mark.parametrize("value", ["0", "-3", "soon", "inf"])
def test_a_lease_lasts_for_a_while(name: str, value: str) -> None:
    with pytest.raises(Permanent, match=name):
        read_settings({name: value})


def test_the_refusal_of_a_bus_lists_those_there_are() -> None:
    with pytest.raises(Permanent) as refused:
        read_settings({"SEAWALL_BUS": "memory"})
    assert "postgres" in refused.value.remedy and "kafka" in refused.value.remedy
