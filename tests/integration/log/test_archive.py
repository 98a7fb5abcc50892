"""An export and its import give the same logs and state back; whatever was spoilt is named."""

from __future__ import annotations

import datetime as dt
import gzip
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas.envelope import events_topic
from schemas.ids import partition_of
from services.projector.settings import SOURCES
from shared.archive import files
from shared.archive.check import check
from shared.archive.errors import AnotherLog, Broken, NotAnExport, NotEmpty
from shared.archive.export import Exported, export
from shared.archive.port import FolderArchive
from shared.archive.restore import Restored, restore
from shared.clock import SystemClock
from shared.databases import Databases
from shared.effects.postgres import PostgresWork
from shared.errors import Refused, Transient
from shared.eventlog.port import CursorMove, NewTimer, Parked, Step
from shared.postgres import open_pool
from shared.verify.installation import Consumer, verify
from tests.contract.effects.work import META, effect, hold, seat, seats, slots
from tests.failures import failure_mode
from tests.integration.projector.logs import Logs, a_history, apart, open_logs

NewDatabase = Callable[[], str]
EVENTS = events_topic("scheduler")
P_SHOP = partition_of("shop")
LOG_TABLES = ("log", "heads", "streams", "cursors", "reservations", "parked", "blobs")
DUE = dt.datetime(2031, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
async def logs(postgres_dsn: str) -> AsyncIterator[Logs]:
    async with open_logs(postgres_dsn) as opened:
        for plan in ("shop", "bank"):
            await a_history(opened, plan)
        yield opened


@pytest.fixture
def archive(tmp_path: Path) -> FolderArchive:
    return FolderArchive(tmp_path / "export")


async def save(logs: Logs, archive: FolderArchive) -> Exported:
    return await export(Databases(logs.dsn), SOURCES, archive, clock=SystemClock())


async def load(dsn: str, archive: FolderArchive) -> Restored:
    return await restore(Databases(dsn), SOURCES, archive)


@asynccontextmanager
async def imported(new_database: NewDatabase, archive: FolderArchive) -> AsyncIterator[Logs]:
    dsn = new_database()
    await load(dsn, archive)
    async with open_logs(dsn) as opened:
        yield opened


async def table(logs: Logs, name: str, columns: str = "*") -> list[dict[str, Any]]:
    rows = await logs.rows(f"select {columns} from {name}")
    return sorted((dict(row) for row in rows), key=repr)


async def effects(logs: Logs) -> list[dict[str, Any]]:
    rows = await logs.rows(
        "select effect_id, stream, partition, stream_version, service, kind, type, data, meta,"
        " due, ready_at, attempt, cancel_requested, work_class, priority, plan, interval_s, needs,"
        " state::text, seated from work.effects join work.lanes using (lane_id) order by 1"
    )
    return [dict(row) for row in rows]


async def flaws(dsn: str) -> list[str]:
    consumers = [*(Consumer(name, name) for name in SOURCES), Consumer("projector", "read")]
    checked = await verify(Databases(dsn), SOURCES, consumers=consumers, decode=True)
    return [f"{each.service} {flaw.where} {flaw.code}" for each in checked for flaw in each.flaws]


async def work_on(logs: Logs) -> None:
    """State of every kind beside the logs."""
    store = logs.store("replicator")
    blob = await store.put_blob(b"what a script said")
    moves = [CursorMove("scheduler", 1, EVENTS, P_SHOP, 0, 2)]
    timer = NewTimer("iteration:shop:db:t9", "late", P_SHOP, DUE, "t", 1, b'{"a": 1}', META)
    aside = Parked("gateway", "seawall.replicator.commands", 3, 1, "shop", "broken", DUE)
    queued = [
        effect("run:shop:1/step/x", needs=hold("disks"), not_before=DUE),
        effect("run:shop:2/step/x", needs=seat("writes")),
        effect("run:shop:3/step/x", plan="bank", interval_s=900),
    ]
    await store.commit(
        Step(cursors=moves, timers=[timer], parked=[aside], reserved=[("plan/x", "plan:x")],
             effects=queued)
    )  # fmt: skip
    await store.ask_parked([aside], asked="retry")
    assert blob
    await logs.rows("update work.effects set attempt = 2 where stream = 'run:shop:2'")
    await logs.store("recovery").commit(Step(effects=[effect("recovery:shop:1/step/y")]))


async def test_logs_and_state_come_back_the_same_under_the_next_epoch(
    logs: Logs, archive: FolderArchive, new_database: NewDatabase
) -> None:
    await work_on(logs)
    saved = await save(logs, archive)
    assert sum(each.rows for each in check(archive)) == saved.rows
    assert [flaw for each in check(archive) for flaw in each.flaws] == []
    async with imported(new_database, archive) as copy:
        for service in SOURCES:
            for name in LOG_TABLES:
                columns = "sha256, content" if name == "blobs" else "*"
                before = await table(logs, f"{service}.{name}", columns)
                after = await table(copy, f"{service}.{name}", columns)
                if name == "cursors":
                    before = [{**row, "epoch": 2} for row in before]
                assert after == before, f"{service}.{name}"
            assert await table(copy, f"{service}.epoch") == [{"one": True, "epoch": 2}]
        columns = "stream, name, partition, due, type, schema_version, data::text, meta::text"
        for service in SOURCES:
            timers = f"{service}.timers"
            assert await table(copy, timers, columns) == await table(logs, timers, columns)
        assert await effects(copy) == await effects(logs)
        assert await flaws(copy.dsn) == []
        (total,) = await logs.rows("select sum(seq) as n from scheduler.heads")
    assert saved.rows_kept > total["n"]


async def test_services_with_databases_of_their_own_are_exported_at_one_moment(
    logs: Logs, archive: FolderArchive, new_database: NewDatabase
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


async def test_moments_that_do_not_fit_are_not_exported(
    logs: Logs, archive: FolderArchive
) -> None:
    await work_on(logs)
    await logs.rows("update replicator.cursors set seq = seq + 1000")
    with pytest.raises(Transient, match="replicator"):
        await export(apart(logs.dsn), SOURCES, archive, clock=SystemClock())
    assert not archive.has(files.MANIFEST)


async def test_the_projection_of_the_import_is_that_of_the_original(
    logs: Logs, archive: FolderArchive, new_database: NewDatabase
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
    logs: Logs, archive: FolderArchive, new_database: NewDatabase
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
    logs: Logs, archive: FolderArchive, new_database: NewDatabase
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
    logs: Logs, archive: FolderArchive, tmp_path: Path, new_database: NewDatabase
) -> None:
    for number in range(20):
        await a_history(logs, "shop", vms=[f"vm-{number}"])
        await save(logs, archive)
    manifest = files.read_manifest(archive.get(files.MANIFEST))
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


async def test_long_logs_are_cut_into_segments_in_a_chain(
    logs: Logs, archive: FolderArchive, monkeypatch: pytest.MonkeyPatch, new_database: NewDatabase
) -> None:
    monkeypatch.setattr(files, "ROWS_MAX", 3)
    await save(logs, archive)
    await a_history(logs, "shop", vms=["late"])
    await save(logs, archive)
    manifest = files.read_manifest(archive.get(files.MANIFEST))
    segments = manifest.services["scheduler"].topics[EVENTS][str(P_SHOP)]
    assert max(segment.rows for segment in segments) == 3
    for before, after in itertools.pairwise(segments):
        header, _ = files.lines_of(after, archive.get(after.name))
        assert header.previous == before.sha256
    async with imported(new_database, archive) as copy:
        assert await table(copy, "scheduler.log") == await table(logs, "scheduler.log")


def segment_names(archive: FolderArchive) -> list[str]:
    manifest = files.read_manifest(archive.get(files.MANIFEST))
    return [s.name for s in manifest.services["scheduler"].topics[EVENTS][str(P_SHOP)]]


def drop(archive: FolderArchive, name: str) -> None:
    archive.delete(name)


def spoil(archive: FolderArchive, name: str) -> None:
    content = archive.get(name) or b""
    archive.put(name, content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])


def forge(archive: FolderArchive, name: str) -> None:
    """Another row in place of one, with a manifest that names the file as it is now."""
    lines = gzip.decompress(archive.get(name) or b"").split(b"\n")
    lines[1] = lines[1].replace(b'"ops"', b'"eve"')
    content = files.compress(b"\n".join(lines))
    archive.put(name, content)
    rename(archive, name, files.sha256_of(content))


def rename(archive: FolderArchive, name: str, sha256: str) -> None:
    document = json.loads(archive.get(files.MANIFEST) or b"")
    for segment in document["services"]["scheduler"]["topics"][EVENTS][str(P_SHOP)]:
        if segment["name"] == name:
            segment["sha256"] = sha256
    archive.put(files.MANIFEST, json.dumps(document).encode())


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
    archive: FolderArchive,
    monkeypatch: pytest.MonkeyPatch,
    new_database: NewDatabase,
    harm: Callable[[FolderArchive, str], None],
    place: int,
    named: int,
) -> None:
    monkeypatch.setattr(files, "ROWS_MAX", 4)
    await save(logs, archive)
    names = segment_names(archive)
    assert len(names) > 2
    harm(archive, names[place])
    dsn = new_database()
    with pytest.raises(Broken) as broken:
        await load(dsn, archive)
    assert broken.value.name == names[named]
    told = [flaw.where for each in check(archive) for flaw in each.flaws]
    assert told == [names[named]]
    async with open_logs(dsn) as copy:
        for service in SOURCES:
            assert await table(copy, f"{service}.log") == []


async def test_a_state_or_blob_that_is_missing_is_named(
    logs: Logs, archive: FolderArchive, new_database: NewDatabase
) -> None:
    await work_on(logs)
    await save(logs, archive)
    manifest = files.read_manifest(archive.get(files.MANIFEST))
    blob = files.blob_name(files.sha256_of(b"what a script said"))
    for name in (blob, manifest.services["notifier"].state.name):
        content = archive.get(name) or b""
        archive.delete(name)
        with pytest.raises(Broken) as broken:
            await load(new_database(), archive)
        assert broken.value.name == name
        assert name in [flaw.where for each in check(archive) for flaw in each.flaws]
        archive.put(name, content)
    archive.put(blob, files.compress(b"something else"))
    with pytest.raises(Broken):
        await load(new_database(), archive)


async def test_a_database_in_use_is_not_imported_into(
    logs: Logs, archive: FolderArchive, new_database: NewDatabase
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
    logs: Logs, archive: FolderArchive, new_database: NewDatabase
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


async def test_a_log_with_a_gap_is_not_exported_as_whole(
    logs: Logs, archive: FolderArchive
) -> None:
    await logs.rows(f"delete from scheduler.log where partition = {P_SHOP} and seq = 2")
    with pytest.raises(Refused, match="missing after 0"):
        await save(logs, archive)
    assert archive.get(files.MANIFEST) is None


async def test_one_export_at_a_time_writes_to_a_folder(archive: FolderArchive) -> None:
    with archive.alone(), pytest.raises(Refused), archive.alone():
        raise AssertionError("two at once")


async def test_a_folder_without_an_export_is_refused(
    archive: FolderArchive, new_database: NewDatabase
) -> None:
    with pytest.raises(NotAnExport):
        await load(new_database(), archive)
    archive.put(files.MANIFEST, b'{"format": 99}')
    with pytest.raises(NotAnExport, match="format 99"):
        await load(new_database(), archive)
