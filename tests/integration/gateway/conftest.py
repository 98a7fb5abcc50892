"""One control plane per module of gateway tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.folders import let_others_in
from tests.integration.gateway.desk import Desk, open_desk


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk(
    module_postgres_dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Desk]:
    """Every service on a fresh database, asked over HTTP."""
    root = tmp_path_factory.mktemp("desk")
    let_others_in(root)
    async with open_desk(module_postgres_dsn, root) as opened:
        yield opened
