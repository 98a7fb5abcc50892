"""A control plane that says what it is told, for the commands that ask it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.cli import client, watch
from tests.unit.cli.stub import Stub, stub_server


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setattr(client, "JOB_POLL_S", 0.01)
    monkeypatch.setattr(client, "RESUME_PAUSE_S", 0.01)
    monkeypatch.setattr(watch, "REFRESH_S", 0.01)
    monkeypatch.setenv("SEAWALL_TOKEN", "sw_test")
    with stub_server() as served:
        monkeypatch.setenv("SEAWALL_URL", served.url)
        yield served
