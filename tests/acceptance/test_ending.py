"""Processes as a supervisor sees them: where their health is, how SIGTERM ends them at work."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.acceptance.operator import MIB, ControlPlane, Sites
from tests.waiting import wait_until

END_S_MAX = 10.0
SLOW = {"latency": {"write_chunk": "500ms"}}
"""64 chunks of a disk then take longer than a test waits for an end."""


def replicating(plane: ControlPlane, root: Path) -> None:
    """Return while a disk is being transferred, for half a minute to come."""
    sites = Sites(plane, root, "slow")
    sites.vm("db", size=64 * MIB)
    sites.settings(sites.west, **SLOW)
    sites.add()
    assert sites.apply("db").status == 200
    assert plane.command("/v1/plans/slow/run").status == 202
    wait_until(lambda: bool(sites.staged()), "a transfer runs", within_s=20)


def ended(process: subprocess.Popen[bytes]) -> int:
    """Send SIGTERM; the exit code, which must come in time."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code = process.wait(timeout=END_S_MAX + 5)
    assert time.monotonic() - began < END_S_MAX
    return code


@contextmanager
def started(log: Path, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose standard output is in `log`."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env={**os.environ, "SEAWALL_LOG_LEVEL": "warning", **environment},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def health_in(log: Path) -> str:
    """Where a process says that its health is."""
    found: list[str] = []

    def told() -> bool:
        found[:] = re.findall(r"health (http://\S+)", log.read_text())
        return bool(found)

    wait_until(told, f"{log.name} says where its health is", within_s=30)
    return found[0]


def asked(url: str) -> tuple[int, str]:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.status, answer.read().decode()


@pytest.fixture
def dsn(postgres_dsn: str) -> str:
    """A database of its own for every test: a control plane is what it finds there."""
    return postgres_dsn


def test_the_whole_control_plane_ends_with_0_while_it_replicates(tmp_path: Path) -> None:
    with ControlPlane(tmp_path) as plane:
        replicating(plane, tmp_path)
        assert plane.process is not None
        assert ended(plane.process) == 0
        assert "Traceback" not in plane.log()


def test_a_single_service_ends_with_0_while_it_replicates(dsn: str, tmp_path: Path) -> None:
    others = ("--services", "gateway,scheduler,projector")
    home = str(tmp_path / "home")
    log = tmp_path / "replicator.log"
    with (
        ControlPlane(tmp_path, *others, SEAWALL_DATABASE_URL=dsn) as plane,
        started(
            log, "services.replicator", SEAWALL_DATABASE_URL=dsn, SEAWALL_HOME=home
        ) as replicator,
    ):
        replicating(plane, tmp_path)
        assert asked(f"{health_in(log)}/readyz")[0] == 200
        assert ended(replicator) == 0
        assert "Traceback" not in log.read_text()


def test_a_part_without_a_gateway_serves_its_health_where_it_says(
    dsn: str, tmp_path: Path
) -> None:
    log = tmp_path / "part.log"
    part = ("services.cli", "up", "--services", "scheduler,notifier")
    settings = {"SEAWALL_DATABASE_URL": dsn, "SEAWALL_HOME": str(tmp_path / "part")}
    with started(log, *part, **settings) as process:
        health = health_in(log)
        assert asked(f"{health}/livez")[0] == 200
        assert asked(f"{health}/readyz")[0] == 200
        assert "seawall_" in asked(f"{health}/metrics")[1]
        # What nobody serves is not announced.
        assert log.read_text().startswith("seawall ready  scheduler,notifier  health http://")
        assert ended(process) == 0


def test_a_health_port_of_its_own_is_served_beside_the_gateway(dsn: str, tmp_path: Path) -> None:
    log = tmp_path / "up.log"
    part = ("services.cli", "up", "--services", "gateway,projector")
    settings = {
        "SEAWALL_DATABASE_URL": dsn, "SEAWALL_HOME": str(tmp_path / "own"),
        "SEAWALL_PORT": "0", "SEAWALL_HEALTH_PORT": "0",
    }  # fmt: skip
    with started(log, *part, **settings):
        health = health_in(log)
        api = (tmp_path / "own" / "endpoint").read_text().strip()
        assert health != api
        assert f"seawall ready  {api}  health {health}  home" in log.read_text()
        assert asked(f"{health}/readyz")[0] == asked(f"{api}/readyz")[0] == 200


def test_a_health_port_in_use_is_refused(dsn: str, tmp_path: Path) -> None:
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    settings = {"SEAWALL_DATABASE_URL": dsn, "SEAWALL_HOME": str(tmp_path / "home")}
    with started(first, "services.notifier", **settings):
        port = health_in(first).rpartition(":")[2]
        with started(second, "services.notifier", **settings, SEAWALL_HEALTH_PORT=port) as late:
            assert late.wait(timeout=30) == 3
    assert port in second.read_text() and "SEAWALL_HEALTH_PORT" in second.read_text()
    assert "Traceback" not in second.read_text()
