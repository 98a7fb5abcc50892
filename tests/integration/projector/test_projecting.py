"""The live projector on a real PostgreSQL: what was said is there, once, and in order."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.projector.logs import Logs, a_history, open_logs


@pytest.fixture
async def logs(postgres_dsn: str) -> AsyncIterator[Logs]:
    async with open_logs(postgres_dsn) as opened:
        yield opened


async def test_a_history_is_folded_into_documents(logs: Logs) -> None:
    await a_history(logs, "shop")
    await logs.project()
    vm = await logs.document("vms", "protected-vm:shop:db")
    job = await logs.document("jobs", "recovery:shop:r1")
    assert (vm["sync_state"], vm["iteration"]) == ("in-sync", "")
    assert (job["state"], job["rto_s"], job["vms"]["ready"]) == ("completed", 12.5, 2)
