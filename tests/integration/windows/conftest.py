"""All tests here need NTFS volumes."""

from __future__ import annotations

import pytest

from tests.windows.images import require_ntfs


@pytest.fixture(scope="session", autouse=True)
def ntfs() -> None:
    require_ntfs()
