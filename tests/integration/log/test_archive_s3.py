"""Exports and imports through a bucket, also when it fails, or two write to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from services.projector.settings import SOURCES
from shared.archive import files, s3
from shared.archive.addresses import S3Address
from shared.archive.check import check
from shared.archive.errors import AnotherExport, StoreBusy
from shared.archive.parallel import PARALLEL_MAX
from shared.archive.s3 import S3Archive
from tests.failures import failure_mode
from tests.integration.log.exports import (
    EVENTS,
    P_SHOP,
    NewDatabase,
    assert_same,
    flaws,
    histories,
    imported,
    load,
    save,
    table,
    work_on,
)
from tests.integration.projector.logs import Logs, a_history
from tests.objectstore import CREDENTIALS, Door, door, error, keys, new_bucket, settings
from tests.waiting import eventually

PREFIX = "backups/seawall"


class Bucket:
    """A bucket behind a door, and archives in it, each as a process of its own has it."""

    def __init__(self, store: str, opened: Door, name: str, stack: AsyncExitStack) -> None:
        self.door = opened
        self.address = S3Address(name, PREFIX)
        self._store = store
        self._stack = stack

    async def archive(self) -> S3Archive:
        return await self._stack.enter_async_context(s3.connected(self.address))

    async def names(self) -> set[str]:
        found = await keys(self._store, self.address.bucket)
        return {key.removeprefix(f"{PREFIX}/") for key in found}


@pytest.fixture
async def logs(postgres_dsn: str) -> AsyncIterator[Logs]:
    async with histories(postgres_dsn) as opened:
        yield opened


@pytest.fixture
async def bucket(object_store: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bucket]:
    monkeypatch.setattr(s3, "BACKOFF_S", 0.001)
    async with door(object_store) as opened, AsyncExitStack() as stack:
        for name, value in settings(opened.url, **CREDENTIALS).items():
            monkeypatch.setenv(name, value)
        yield Bucket(object_store, opened, await new_bucket(object_store), stack)


@pytest.fixture
async def archive(bucket: Bucket) -> S3Archive:
    return await bucket.archive()


async def named(archive: S3Archive) -> set[str]:
    """Every file that the manifest needs, and itself."""
    manifest = files.read_manifest(await archive.get(files.MANIFEST))
    names = {files.MANIFEST}
    for service in manifest.services.values():
        state = files.state_of(service.state, await archive.get(service.state.name))
        names |= {segment.name for segment in service.segments()}
        names |= {service.state.name, *map(files.blob_name, state.blobs)}
    return names


async def test_logs_state_and_blobs_come_back_the_same_through_a_bucket(
    logs: Logs, bucket: Bucket, archive: S3Archive, new_database: NewDatabase
) -> None:
    await work_on(logs)
    for number in range(20):
        await logs.store("recovery").put_blob(b"output %d" % number)
    saved = await save(logs, archive)
    assert saved.blobs == 21
    later = await bucket.archive()
    checked = await check(later)
    assert sum(each.rows for each in checked) == saved.rows
    assert [flaw for each in checked for flaw in each.flaws] == []
    async with imported(new_database, later) as copy:
        await assert_same(logs, copy)
        assert await flaws(copy.dsn) == []


async def test_later_exports_add_what_is_new_and_leave_no_other_objects(
    logs: Logs, bucket: Bucket, archive: S3Archive, new_database: NewDatabase
) -> None:
    await work_on(logs)
    rows = 0
    for number in range(6):
        # Every other export is by a process that knows nothing of the one before.
        by = archive if number % 2 else await bucket.archive()
        rows += (await save(logs, by)).rows
        await a_history(logs, "shop", vms=[f"vm-{number}"])
    before = bucket.door.count("PUT")
    last = await save(logs, archive)
    assert 0 < last.rows < rows
    assert last.rows_kept == rows + last.rows
    assert last.blobs == 0
    # Segments that grew, states that changed, and the manifest.
    assert bucket.door.count("PUT") - before <= last.segments + len(SOURCES) + 1
    assert await bucket.names() == await named(archive)
    again = await save(logs, archive)
    assert (again.rows, again.segments, again.rows_kept) == (0, 0, last.rows_kept)
    async with imported(new_database, archive) as copy:
        await assert_same(logs, copy)


@failure_mode(
    "Log and read models",
    "cut off",
    sees="An object store that fails in the middle of an export ends it, exit 7; with `--follow` "
    "it is tried again. The export before it stands.",
    does="Nothing with `--follow`; else export again once the store answers.",
)
@pytest.mark.parametrize("puts", [0, 1, 7, "all but the last state", "all but the manifest"])
async def test_an_export_that_was_cut_off_leaves_the_one_before_it_whole(
    logs: Logs,
    bucket: Bucket,
    archive: S3Archive,
    new_database: NewDatabase,
    monkeypatch: pytest.MonkeyPatch,
    puts: int | str,
) -> None:
    monkeypatch.setattr(files, "ROWS_MAX", 5)
    await save(logs, archive)
    first = await archive.get(files.MANIFEST)
    log = await table(logs, "scheduler.log")
    for number in range(3):
        await a_history(logs, "shop", vms=[f"late-{number}"])
    await logs.store(SOURCES[-1]).put_blob(b"late")
    part = f"/{SOURCES[-1]}/state-" if puts == "all but the last state" else files.MANIFEST
    before = bucket.door.count("PUT")

    def cut(request: web.Request) -> web.Response | None:
        if request.method != "PUT":
            return None
        sent = bucket.door.count("PUT") - before
        is_cut = sent > puts if isinstance(puts, int) else part in request.path
        return error(503, "SlowDown") if is_cut else None

    bucket.door.answer = cut
    with pytest.raises(StoreBusy):
        await save(logs, archive)
    assert bucket.door.count("PUT") > before
    assert await archive.get(files.MANIFEST) == first
    async with imported(new_database, await bucket.archive()) as copy:
        assert await table(copy, "scheduler.log") == log
        assert await flaws(copy.dsn) == []
    bucket.door.answer = lambda request: None
    await save(logs, await bucket.archive())
    async with imported(new_database, archive) as copy:
        await assert_same(logs, copy)
        assert await flaws(copy.dsn) == []


async def test_of_two_exports_that_overlap_the_later_one_is_refused_and_harms_nothing(
    logs: Logs, bucket: Bucket, archive: S3Archive, new_database: NewDatabase
) -> None:
    await save(logs, archive)
    await a_history(logs, "shop", vms=["late"])
    held, go_on = [], asyncio.Event()

    async def hold(request: web.Request) -> None:
        if request.method == "PUT" and "scheduler" in request.path and not go_on.is_set():
            held.append(request.path)
            await go_on.wait()

    bucket.door.before = hold
    slow = asyncio.create_task(save(logs, archive))

    async def is_held() -> bool:
        return bool(held)

    await eventually(is_held, "the slow export is held up")
    bucket.door.before = lambda request: asyncio.sleep(0)
    await a_history(logs, "shop", vms=["later"])
    await save(logs, await bucket.archive())
    theirs = await archive.get(files.MANIFEST)
    go_on.set()
    with pytest.raises(AnotherExport, match=f"s3://{bucket.address.bucket}/{PREFIX}"):
        await slow
    assert await archive.get(files.MANIFEST) == theirs
    assert [flaw for each in await check(archive) for flaw in each.flaws] == []
    async with imported(new_database, archive) as copy:
        await assert_same(logs, copy)
    assert (await save(logs, archive)).rows == 0


async def test_requests_are_side_by_side_and_never_more_than_so_many(
    logs: Logs,
    bucket: Bucket,
    archive: S3Archive,
    new_database: NewDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files, "ROWS_MAX", 2)
    for number in range(12):
        await logs.store("recovery").put_blob(b"output %d" % number)
    bucket.door.delay_s = 0.01
    saved = await save(logs, archive)
    assert saved.segments > 3 * PARALLEL_MAX
    assert 3 < bucket.door.under_way_max <= PARALLEL_MAX
    for read in (check(archive), load(new_database(), archive)):
        bucket.door.under_way_max = 0
        await read
        assert 3 < bucket.door.under_way_max <= PARALLEL_MAX


async def test_an_object_that_was_changed_or_lost_is_named(logs: Logs, archive: S3Archive) -> None:
    await save(logs, archive)
    manifest = files.read_manifest(await archive.get(files.MANIFEST))
    (segment, *_) = manifest.services["scheduler"].topics[EVENTS][str(P_SHOP)]
    state = manifest.services["notifier"].state
    await archive.put(segment.name, b"something else")
    await archive.delete(state.name)
    told = {flaw.where for each in await check(archive) for flaw in each.flaws}
    assert told == {segment.name, state.name}
