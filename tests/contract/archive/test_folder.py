"""A folder keeps the contract of a place for exports."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.archive.folder import FolderArchive
from shared.archive.port import Archive
from tests.contract.archive.suite import ArchiveContract, Harness


class FolderHarness(Harness):
    def __init__(self, root: Path) -> None:
        self._root = root

    async def another(self) -> Archive:
        return FolderArchive(self._root)


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    return FolderHarness(tmp_path / "not" / "made" / "yet")


@pytest.fixture
async def archive(harness: Harness) -> Archive:
    return await harness.another()


class TestFolderArchive(ArchiveContract):
    pass


async def test_nothing_but_whole_files_is_left(tmp_path: Path) -> None:
    archive = FolderArchive(tmp_path)
    async with archive.alone():
        await archive.put("a/b", b"1")
        await archive.put("a/b", b"2")
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {"b", ".lock"}
