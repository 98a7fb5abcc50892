"""A recovery service that is killed in the middle of a Windows: the next one ends it, node off."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from services.recovery.domain.work import QUOTAS
from services.recovery.main import build
from shared.databases import Databases
from shared.effects.port import Budget
from shared.process import Process
from shared.settings import Settings
from tests.acceptance.service import Aim
from tests.integration.recovery.lab import Lab
from tests.integration.recovery.service import Running
from tests.integration.recovery.test_windows import (
    ONE_NODE,
    PREP_CALLS,
    calls,
    idle,
    power_of,
    start_of,
    windows_disk,
)
from tests.unit.recovery.world import JOB, vm

__all__ = ["windows_disk"]


async def serve(home: Path, dsn: str) -> asyncio.subprocess.Process:
    """The recovery service in a process of its own, which may be aimed at (`acceptance`)."""
    env = {
        **os.environ,
        "SEAWALL_DATABASE_URL": dsn,
        "SEAWALL_HOME": str(home),
        "SEAWALL_LEASE": "1.5",
        "SEAWALL_HEARTBEAT": "0.4",
        "SEAWALL_KILL_AIM": str(home / "aim"),
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.acceptance.service", "recovery", env=env,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize("call", [2, 4, 7])
async def test_whichever_call_a_service_dies_after_the_node_is_on_once_and_off_at_the_end(
    postgres_dsn: str, tmp_path: Path, windows_disk: bytes, call: int
) -> None:
    os.chmod(tmp_path, 0o755)
    lab = Lab(tmp_path)
    lab.declare(ONE_NODE)
    await lab.add_copy("win", os="windows", content=windows_disk)
    settings = Settings(home=tmp_path, lease_s=1.5, heartbeat_s=0.4)
    async with Process(settings, Databases(postgres_dsn)) as process:
        # It only looks and sends: the processes below do the work.
        queue = await process.queue("recovery")
        running = Running(process, lab, queue)
        running.service = await build(process)
        await queue.define(
            [
                Budget(name=f"west/{quota}", mode="rate", burst=1e6, per_second=1e6)
                for quota in sorted(set(QUOTAS.values()))
            ]
        )
        await running.recover(vm("win"))
        Aim(tmp_path / "aim").write(f"call:{call}", number=1)
        first = await serve(tmp_path, postgres_dsn)
        assert await asyncio.wait_for(first.wait(), timeout=60) == -9
        second = await serve(tmp_path, postgres_dsn)
        try:
            ended = await running.until(JOB, lambda state: state.finished, within_s=60)
            assert ended.finished.state == "completed", ended.finished
            async with asyncio.timeout(60):
                await idle(running)
        finally:
            second.terminate()
            await asyncio.wait_for(second.wait(), timeout=30)
    done = Counter(name for name, outcome in calls(lab, *PREP_CALLS[1:]) if outcome == "ok")
    assert done == {"power_on_node": 1, "prepare_windows": 1, "power_off_node": 1}
    assert await power_of(lab) == "off"
    (made,) = await lab.platform.compute.list_instances()
    disk = lab.home / "west" / "instances" / made.instance_id / "sda.raw"
    assert start_of(disk, "viostor") == [0]
    await lab.platform.close()
