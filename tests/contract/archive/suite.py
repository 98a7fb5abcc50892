"""What every place for exports promises. Run against each by a subclass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AsyncExitStack, aclosing

import pytest

from shared.archive.errors import AnotherExport
from shared.archive.parallel import Parallel, in_order
from shared.archive.port import Archive

MANIFEST = "manifest.json"
SEGMENT = "scheduler/seawall.scheduler.events/07/000000000001-000000000009-ab.jsonl.gz"


class Harness(ABC):
    """A place, and as many processes at it as asked for."""

    @abstractmethod
    async def another(self) -> Archive:
        """The archive as a process of its own opens it."""


class ArchiveContract:
    """The fixtures `harness` and `archive` come from the subclass's module."""

    async def test_what_was_put_is_got_by_everybody(
        self, archive: Archive, harness: Harness
    ) -> None:
        every_byte = bytes(range(256)) * 5
        for name, content in ((SEGMENT, every_byte), (MANIFEST, b"{}"), ("blobs/ab/abc.gz", b"")):
            assert await archive.get(name) is None
            await archive.put(name, content)
            assert await archive.get(name) == content
            assert await (await harness.another()).get(name) == content

    async def test_a_name_that_is_put_again_holds_the_newer(self, archive: Archive) -> None:
        await archive.put(SEGMENT, b"before, and longer")
        await archive.put(SEGMENT, b"after")
        assert await archive.get(SEGMENT) == b"after"

    async def test_what_is_deleted_is_gone_and_the_rest_stays(self, archive: Archive) -> None:
        await archive.put("blobs/a", b"1")
        await archive.put("blobs/ab", b"2")
        await archive.delete("blobs/a")
        assert await archive.get("blobs/a") is None
        assert await archive.get("blobs/ab") == b"2"
        await archive.delete("blobs/a")
        await archive.delete("never/there")

    async def test_what_is_missing_is_told_in_order(
        self, archive: Archive, harness: Harness
    ) -> None:
        asked = ["blobs/c", "blobs/a", "blobs/b", "blobs/aa"]
        assert await archive.missing([]) == []
        assert await archive.missing(asked) == asked
        await archive.put("blobs/a", b"1")
        await archive.put("blobs/c", b"")
        assert await archive.missing(asked) == ["blobs/b", "blobs/aa"]
        await archive.delete("blobs/a")
        assert await archive.missing(asked) == ["blobs/a", "blobs/b", "blobs/aa"]
        later = await harness.another()
        assert await later.missing(["states/a", *asked]) == ["states/a", *asked[1:]]

    async def test_a_swap_takes_the_place_of_what_was_read(self, archive: Archive) -> None:
        await archive.swap(MANIFEST, b"one", instead_of=None)
        await archive.swap(MANIFEST, b"two", instead_of=b"one")
        await archive.swap(MANIFEST, b"two", instead_of=b"two")
        assert await archive.get(MANIFEST) == b"two"

    @pytest.mark.parametrize(("there", "read"), [(b"a", None), (b"a", b"b"), (None, b"a")])
    async def test_a_swap_of_something_else_is_refused_and_changes_nothing(
        self, archive: Archive, there: bytes | None, read: bytes | None
    ) -> None:
        if there is not None:
            await archive.put(MANIFEST, there)
        with pytest.raises(AnotherExport) as refused:
            await archive.swap(MANIFEST, b"new", instead_of=read)
        assert refused.value.code == "export-running"
        assert refused.value.remedy
        assert await archive.get(MANIFEST) == there

    @pytest.mark.parametrize("before", [None, b"before"])
    async def test_of_two_exports_at_once_one_is_refused_and_the_other_stands(
        self, archive: Archive, harness: Harness, before: bytes | None
    ) -> None:
        if before is not None:
            await archive.put(MANIFEST, before)
        both = [archive, await harness.another()]
        refused = 0
        async with AsyncExitStack() as stack:
            inside: list[Archive] = []
            for each in both:
                try:
                    await stack.enter_async_context(each.alone())
                except AnotherExport:
                    refused += 1
                else:
                    assert await each.get(MANIFEST) == before
                    inside.append(each)
            for number, each in enumerate(inside):
                try:
                    await each.swap(MANIFEST, b"export %d" % number, instead_of=before)
                except AnotherExport:
                    refused += 1
        assert refused == 1
        assert await archive.get(MANIFEST) == b"export 0"

    async def test_one_export_after_another_goes_on_also_after_a_failure(
        self, archive: Archive, harness: Harness
    ) -> None:
        with pytest.raises(KeyError):
            async with archive.alone():
                raise KeyError
        for number, content in enumerate((b"0", b"1")):
            another = await harness.another()
            async with another.alone():
                found = await another.get(MANIFEST)
                assert found == (b"0" if number else None)
                await another.swap(MANIFEST, content, instead_of=found)

    async def test_calls_run_side_by_side(self, archive: Archive) -> None:
        files = {f"blobs/{number:02}": b"%d" % number * 1000 for number in range(40)}
        async with Parallel() as puts:
            for name, content in files.items():
                await puts.start(name, archive.put, content)
        async with aclosing(in_order(archive.get, files)) as contents:
            assert [content async for content in contents] == list(files.values())
        async with Parallel() as deletions:
            for name in files:
                await deletions.start(name, archive.delete)
        assert await archive.missing(list(files)) == list(files)
