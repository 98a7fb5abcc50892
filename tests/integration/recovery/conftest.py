"""The recovery service as it runs: Postgres, its engine, a lab site."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.recovery.domain.work import QUOTAS
from shared.databases import Databases
from shared.effects.port import Budget
from shared.process import Process
from shared.settings import Settings
from tests.integration.recovery.lab import Lab
from tests.integration.recovery.service import Running


def _open(name: str) -> Budget:
    """A quota with room for everything."""
    return Budget(name=name, mode="rate", burst=1e6, per_second=1e6)


@pytest.fixture
async def running(postgres_dsn: str, tmp_path: Path) -> AsyncIterator[Running]:
    os.chmod(tmp_path, 0o755)
    lab = Lab(tmp_path)
    settings = Settings(home=tmp_path, lease_s=2.0, heartbeat_s=0.5)
    async with Process(settings, Databases(postgres_dsn)) as process:
        queue = await process.queue("recovery")
        await queue.define([_open(f"west/{quota}") for quota in set(QUOTAS.values())])
        service = Running(process, lab, queue)
        async with asyncio.TaskGroup() as group:
            news = group.create_task(process.hear())
            await service.begin(group)
            yield service
            await service.end()
            news.cancel()
    await lab.platform.close()
