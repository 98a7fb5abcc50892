"""A replicator that is stopped in mid-transfer and woken later harms no copy."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.client import Client, encoded_scripts
from tests.acceptance.judge import Verdict, judge_doubles, judge_recovery, judge_snapshots
from tests.acceptance.plane import Plane
from tests.acceptance.world import PLAN, World
from tests.waiting import wait_until

STOPPED_S = 30.0
SLOW = "journal: true\nlatency: {write_chunk: 3s}\n"
FAST = "journal: true\n"


@pytest.fixture
def world(postgres_server: str) -> Iterator[World]:
    root = Path(tempfile.mkdtemp(prefix="seawall-stopped-"))
    root.chmod(0o755)
    try:
        built = World(root, seed=7)
        built.build()
        yield built
    finally:
        shutil.rmtree(root, ignore_errors=True)


def test_a_replicator_stopped_for_30_s_in_mid_transfer_harms_no_copy(world: World) -> None:
    with Plane(world.root) as plane:
        plane.start_all()
        plane.wait_ready()
        client = Client(plane)
        protect(client, world)
        assert replicated(client) == "completed"
        world.change_disks()
        (world.west / "site.yaml").write_text(SLOW)
        run = client.command(f"/v1/plans/{PLAN}/run")["id"]
        wait_until(lambda: staged(world), "disks are being transferred", within_s=20)

        stopped = plane.processes.pop("replicator")
        stopped.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        try:
            (world.west / "site.yaml").write_text(FAST)
            plane.start("replicator")
            assert client.wait_job(run)["state"] == "completed"
            world.change_disks()
            assert replicated(client) == "completed"
            wait_until(
                lambda: time.monotonic() - began > STOPPED_S, "30 s", within_s=STOPPED_S + 1
            )
            stopped.send_signal(signal.SIGCONT)
            world.change_disks()
            assert replicated(client) == "completed"
        finally:
            stopped.send_signal(signal.SIGCONT)
            stopped.terminate()
            stopped.wait(timeout=15)

        verdict = Verdict()
        recovery = client.command(f"/v1/plans/{PLAN}/recover", {"mode": "test"})
        judge_recovery(world, client.wait_job(recovery["id"]), verdict)
        judge_doubles(world, verdict)
        judge_snapshots(world, verdict)
        assert verdict.good, verdict


def protect(client: Client, world: World) -> None:
    """Sites and plan."""
    for site in ("east", "west"):
        settings = {"path": str(world.root / site)}
        client.command("/v1/sites", {"name": site, "platform": "lab", "settings": settings})
    plan = world.plan()
    client.command("/v1/plans", {**plan, "scripts": encoded_scripts(plan["scripts"])})


def replicated(client: Client) -> str:
    """Replicate now; how it ended."""
    state: str = client.wait_job(client.command(f"/v1/plans/{PLAN}/run")["id"])["state"]
    return state


def staged(world: World) -> bool:
    """Whether a generation of each VM is open at the target."""
    opened = {path.parent.parent.name for path in world.west.glob("replicas/*/*/staged/*")}
    return len(opened) == 3
