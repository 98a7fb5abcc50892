"""An export and its import give the same logs and state back; whatever was spoilt is named."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from services.projector.settings import SOURCES
from shared.archive import files
from shared.archive.check import check
from shared.archive.errors import AnotherExport, AnotherLog, Broken, NotAnExport, NotEmpty
from shared.archive.export import export
from shared.archive.folder import FolderArchive
from shared.archive.port import Archive
from shared.archive.restore import restore
from shared.clock import SystemClock
from shared.effects.postgres import PostgresWork
from shared.errors import Refused, Transient
from shared.eventlog.port import Step
from shared.postgres import open_pool
from tests.contract.effects.work import effect, hold, seats, slots
from tests.failures import failure_mode
from tests.integration.log.exports import (
    EVENTS,
    P_SHOP,
    NewDatabase,
    assert_same,
    effects,
    flaws,
    histories,
    imported,
    load,
    save,
    table,
    work_on,
)
from tests.integration.projector.logs import Logs, a_history, apart, open_logs


@pytest.fixture
async def logs(postgres_dsn: str) -> AsyncIterator[Logs]:
    async with histories(postgres_dsn) as opened:
        yield opened


@pytest.fixture
def archive(tmp_path: Path) -> FolderArchive:
    return FolderArchive(tmp_path / "export")


async def test_logs_and_state_come_back_the_same_under_the_next_epoch(
    logs: Logs, archive: Archive, new_database: NewDatabase
) -> None:
    await work_on(logs)
    saved = await save(logs, archive)
    assert sum(each.rows for each in await check(archive)) == saved.rows
    assert [flaw for each in await check(archive) for flaw in each.flaws] == []
    async with imported(new_database, archive) as copy:
        await assert_same(logs, copy)
        assert await flaws(copy.dsn) == []
        (total,) = await logs.rows("select sum(seq) as n from scheduler.heads")
    assert saved.rows_kept > total["n"]


async def test_services_with_databases_of_their_own_are_exported_at_one_moment(
    logs: Logs, archive: Archive, new_database: NewDatabase
) -> None:
    await work_on(logs)
    await export(apart(logs.dsn), SOURCES, archive, clock=SystemClock())
    dsn = new_database()
    await restore(apart(dsn), SOURCES, archive)
    async with open_logs(dsn) as copy:
        for service in SOURCES:
            name = f"{service}.log"
            assert await table(copy, name) == await table(logs, name)
        assert await effects(copy) == await effects(logs)
        assert await flaws(dsn) == []
    with pytest.raises(NotEmpty):
        await restore(apart(dsn), SOURCES, archive)


async def test_moments_that_do_not_fit_are_not_exported(logs: Logs, archive: Archive) -> None:
    await work_on(logs)
    await logs.rows("update replicator.cursors set seq = seq + 1000")
    with pytest.raises(Transient, match="replicator"):
        await export(apart(logs.dsn), SOURCES, archive, clock=SystemClock())
    assert await archive.missing([files.MANIFEST]) == [files.MANIFEST]


async def test_the_projection_of_the_import_is_that_of_the_original(
    logs: Logs, archive: Archive, new_database: NewDatabase
) -> None:
    await logs.project()
    await save(logs, archive)
    async with imported(new_database, archive) as copy:
        await copy.project()
        for name in ("plans", "vms", "jobs", "alerts", "sites", "command_settlements"):
            assert await table(copy, name, "id, doc::text") == await table(
                logs, name, "id, doc::text"
            ), name
        # An event's id names the epoch of its log.
        columns = "source, partition, seq, type, replace(doc::text, '.2.', '.1.') as doc"
        assert await table(copy, "events", columns) == await table(logs, "events", columns)
        assert await flaws(copy.dsn) == []


async def test_what_ran_is_ready_again_and_is_claimed_under_a_higher_number(
    logs: Logs, archive: Archive, new_database: NewDatabase
) -> None:
    await logs.store("replicator").commit(
        Step(effects=[effect("run:shop:1/step/x", needs=hold("disks"))])
    )
    pool = await open_pool(logs.dsn, "replicator")
    queue = PostgresWork(pool, platform_timeout_s=1.0, quick_return_kinds=())
    await queue.define([slots("disks", 2), seats("writes", 3)])
    lease = await queue.lease_worker("one", service="replicator", lease_s=30)
    (first,) = (await queue.claim(lease, kinds=["copy"], count_max=64)).effects
    await logs.rows("select setval('work.claim_numbers', 9000000000000)")
    await save(logs, archive)
    await pool.close()
    dsn = new_database()
    await load(dsn, archive)
    pool = await open_pool(dsn, "replicator")
    queue = PostgresWork(pool, platform_timeout_s=1.0, quick_return_kinds=())
    lease = await queue.lease_worker("one", service="replicator", lease_s=30)
    (again,) = (await queue.claim(lease, kinds=["copy"], count_max=64)).effects
    found = {state.budget.name: (state.budget.concurrent, state.in_use)
             for state in await queue.budgets()}  # fmt: skip
    await pool.close()
    assert (again.effect_id, again.attempt) == (first.effect_id, first.attempt)
    assert again.claim_no > 9_000_000_000_000
    assert found == {"disks": (2, 1), "writes": (3, 0)}


async def test_a_second_export_adds_what_is_new_and_nothing_else(
    logs: Logs, archive: Archive, new_database: NewDatabase
) -> None:
    first = await save(logs, archive)
    again = await save(logs, archive)
    assert (again.rows, again.segments, again.rows_kept) == (0, 0, first.rows)
    await a_history(logs, "more")
    more = await save(logs, archive)
    assert 0 < more.rows < first.rows
    assert more.rows_kept == first.rows + more.rows
    async with imported(new_database, archive) as copy:
        assert await table(copy, "scheduler.log") == await table(logs, "scheduler.log")
        assert await flaws(copy.dsn) == []


async def test_many_exports_leave_few_segments_and_no_other_files(
    logs: Logs, archive: Archive, tmp_path: Path, new_database: NewDatabase
) -> None:
    for number in range(20):
        await a_history(logs, "shop", vms=[f"vm-{number}"])
        await save(logs, archive)
    manifest = files.read_manifest(await archive.get(files.MANIFEST))
    segments = manifest.services["scheduler"].topics[EVENTS][str(P_SHOP)]
    assert len(segments) < 10
    assert [s.first for s in segments] == [1, *(s.last + 1 for s in segments[:-1])]
    named = {
        segment.name
        for service in manifest.services.values()
        for partitions in service.topics.values()
        for each in partitions.values()
        for segment in each
    } | {service.state.name for service in manifest.services.values()}
    kept = {str(p.relative_to(tmp_path / "export")) for p in tmp_path.rglob("*.gz")}
    assert kept == named
    async with imported(new_database, archive) as copy:
        assert await table(copy, "scheduler.log") == await table(logs, "scheduler.log")


async def test_an_export_with_the_names_of_earlier_builds_is_continued(
    logs: Logs, archive: Archive, new_database: NewDatabase
) -> None:
    first = await save(logs, archive)
    content = await archive.get(files.MANIFEST) or b""
    manifest = files.read_manifest(content)
    for service in manifest.services.values():
        for segment in service.segments():
            # They did not have their content in them.
            old = f"{segment.name.rpartition('-')[0]}.jsonl.gz"
            await archive.put(old, await archive.get(segment.name) or b"")
            await archive.delete(segment.name)
            content = content.replace(segment.name.encode(), old.encode())
    await archive.put(files.MANIFEST, content)
    await a_history(logs, "shop", vms=["late"])
    more = await save(logs, archive)
    assert more.rows_kept == first.rows + more.rows
    async with imported(new_database, archive) as copy:
        await assert_same(logs, copy)


async def test_long_logs_are_cut_into_segments_in_a_chain(
    logs: Logs, archive: Archive, monkeypatch: pytest.MonkeyPatch, new_database: NewDatabase
) -> None:
    monkeypatch.setattr(files, "ROWS_MAX", 3)
    await save(logs, archive)
    await a_history(logs, "shop", vms=["late"])
    await save(logs, archive)
    manifest = files.read_manifest(await archive.get(files.MANIFEST))
    segments = manifest.services["scheduler"].topics[EVENTS][str(P_SHOP)]
    assert max(segment.rows for segment in segments) == 3
    for before, after in itertools.pairwise(segments):
        header, _ = files.lines_of(after, await archive.get(after.name))
        assert header.previous == before.sha256
    async with imported(new_database, archive) as copy:
        assert await table(copy, "scheduler.log") == await table(logs, "scheduler.log")


async def segment_names(archive: Archive) -> list[str]:
    manifest = files.read_manifest(await archive.get(files.MANIFEST))
    return [s.name for s in manifest.services["scheduler"].topics[EVENTS][str(P_SHOP)]]


async def drop(archive: Archive, name: str) -> None:
    await archive.delete(name)


async def spoil(archive: Archive, name: str) -> None:
    content = (await archive.get(name)) or b""
    await archive.put(name, content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])


async def forge(archive: Archive, name: str) -> None:
    """Another row in place of one, with a manifest that names the file as it is now."""
    lines = gzip.decompress((await archive.get(name)) or b"").split(b"\n")
    lines[1] = lines[1].replace(b'"ops"', b'"eve"')
    content = files.compress(b"\n".join(lines))
    await archive.put(name, content)
    await rename(archive, name, files.sha256_of(content))


async def rename(archive: Archive, name: str, sha256: str) -> None:
    document = json.loads(await archive.get(files.MANIFEST) or b"")
    for segment in document["services"]["scheduler"]["topics"][EVENTS][str(P_SHOP)]:
        if segment["name"] == name:
            segment["sha256"] = sha256
    await archive.put(files.MANIFEST, json.dumps(document).encode())


@failure_mode(
    "Log and read models",
    "lying",
    sees=("An export that was changed or is damaged is refused on import; the file is named."),
    does="Import an older export, or fetch the file again.",
)
@pytest.mark.parametrize(
    ("harm", "place", "named"), [(drop, 1, 1), (spoil, 1, 1), (forge, 0, 1), (spoil, -1, -1)]
)
async def test_a_broken_chain_is_refused_and_its_file_named(
    logs: Logs,
    archive: Archive,
    monkeypatch: pytest.MonkeyPatch,
    new_database: NewDatabase,
    harm: Callable[[Archive, str], Awaitable[None]],
    place: int,
    named: int,
) -> None:
    monkeypatch.setattr(files, "ROWS_MAX", 4)
    await save(logs, archive)
    names = await segment_names(archive)
    assert len(names) > 2
    await harm(archive, names[place])
    dsn = new_database()
    with pytest.raises(Broken) as broken:
        await load(dsn, archive)
    assert broken.value.name == names[named]
    told = [flaw.where for each in await check(archive) for flaw in each.flaws]
    assert told == [names[named]]
    async with open_logs(dsn) as copy:
        for service in SOURCES:
            assert await table(copy, f"{service}.log") == []


async def test_a_state_or_blob_that_is_missing_is_named(
    logs: Logs, archive: Archive, new_database: NewDatabase
) -> None:
    await work_on(logs)
    await save(logs, archive)
    manifest = files.read_manifest(await archive.get(files.MANIFEST))
    blob = files.blob_name(files.sha256_of(b"what a script said"))
    for name in (blob, manifest.services["notifier"].state.name):
        content = (await archive.get(name)) or b""
        await archive.delete(name)
        with pytest.raises(Broken) as broken:
            await load(new_database(), archive)
        assert broken.value.name == name
        assert name in [flaw.where for each in await check(archive) for flaw in each.flaws]
        await archive.put(name, content)
    await archive.put(blob, files.compress(b"something else"))
    with pytest.raises(Broken):
        await load(new_database(), archive)


async def test_a_database_in_use_is_not_imported_into(
    logs: Logs, archive: Archive, new_database: NewDatabase
) -> None:
    await save(logs, archive)
    with pytest.raises(NotEmpty, match="has written"):
        await load(logs.dsn, archive)
    async with open_logs(new_database()) as fresh:
        await fresh.store("notifier").balance(copy_id="alive", lease_s=30)
        with pytest.raises(NotEmpty, match="a copy of the notifier runs"):
            await load(fresh.dsn, archive)
        await fresh.store("notifier").leave(copy_id="alive")
        await load(fresh.dsn, archive)


async def test_a_folder_goes_on_with_its_own_log_only(
    logs: Logs, archive: Archive, new_database: NewDatabase
) -> None:
    await save(logs, archive)
    async with imported(new_database, archive) as copy:
        with pytest.raises(AnotherLog, match="of epoch 1, the log of 2"):
            await save(copy, archive)
    async with open_logs(new_database()) as other:
        with pytest.raises(AnotherLog, match="the log 0"):
            await save(other, archive)
        await a_history(other, "shop", vms=("web", "db"))
        await a_history(other, "bank", vms=("web", "db"))
        with pytest.raises(AnotherLog, match="is another"):
            await save(other, archive)
    assert (await save(logs, archive)).rows == 0


async def test_a_log_with_a_gap_is_not_exported_as_whole(logs: Logs, archive: Archive) -> None:
    await logs.rows(f"delete from scheduler.log where partition = {P_SHOP} and seq = 2")
    with pytest.raises(Refused, match="missing after 0"):
        await save(logs, archive)
    assert await archive.get(files.MANIFEST) is None


async def test_one_export_at_a_time_writes_to_a_folder(archive: Archive) -> None:
    async with archive.alone():
        with pytest.raises(AnotherExport):
            async with archive.alone():
                raise AssertionError("two at once")


async def test_a_folder_without_an_export_is_refused(
    archive: Archive, new_database: NewDatabase
) -> None:
    with pytest.raises(NotAnExport):
        await load(new_database(), archive)
    await archive.put(files.MANIFEST, b'{"format": 99}')
    with pytest.raises(NotAnExport, match="format 99"):
        await load(new_database(), archive)
