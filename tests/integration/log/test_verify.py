"""A verification finds whatever is wrong with a log, says what and where, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from services.projector.settings import SOURCES
from shared.databases import Databases
from shared.errors import Refused
from shared.eventlog.port import CursorMove, Step
from shared.verify import log as checks
from shared.verify.installation import Consumer, verify
from shared.verify.report import FLAWS_TOLD_MAX, Checked
from tests.integration.projector.logs import Logs, a_history, open_logs

CONSUMERS = [*(Consumer(name, name) for name in SOURCES), Consumer("projector", "read")]
STREAM = "protected-vm:shop:db"


@pytest.fixture
async def logs(postgres_dsn: str) -> AsyncIterator[Logs]:
    async with open_logs(postgres_dsn) as opened:
        for plan in ("shop", "bank", "store"):
            await a_history(opened, plan)
        yield opened


async def check(logs: Logs, *, decode: bool = False) -> dict[str, Checked]:
    checked = await verify(Databases(logs.dsn), SOURCES, consumers=CONSUMERS, decode=decode)
    return {each.service: each for each in checked}


async def flaws(logs: Logs, *, decode: bool = False) -> list[tuple[str, str, str]]:
    """(service, code, where) of everything found."""
    found = await check(logs, decode=decode)
    return [(each.service, f.code, f.where) for each in found.values() for f in each.flaws]


async def the_row(logs: Logs, version: int) -> tuple[str, int, int]:
    """(topic, partition, seq) of an event of STREAM."""
    (row,) = await logs.rows(
        "select topic, partition, seq from scheduler.log where stream = $1 and version = $2",
        STREAM,
        version,
    )
    return row["topic"], row["partition"], row["seq"]


@pytest.mark.parametrize("decode", [False, True])
async def test_a_whole_log_is_found_whole_and_counted(logs: Logs, decode: bool) -> None:
    await logs.project()
    found = await check(logs, decode=decode)
    assert await flaws(logs, decode=decode) == []
    for service, each in found.items():
        (rows,) = await logs.rows(f"select count(*) as n from {service}.log")
        (streams,) = await logs.rows(f"select count(*) as n from {service}.streams")
        assert (each.rows, each.streams) == (rows["n"], streams["n"])
    assert sum(each.cursors for each in found.values()) > 0


async def test_pages_streams_and_seqs_are_checked_piece_by_piece(
    logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PAGES_EACH", "STREAMS_EACH", "SEQS_EACH", "DECODED_EACH"):
        monkeypatch.setattr(checks, name, 1)
    assert await flaws(logs, decode=True) == []
    topic, partition, seq = await the_row(logs, 2)
    await logs.rows("delete from scheduler.log where stream = $1 and version > 1", STREAM)
    found = (await check(logs, decode=True))["scheduler"].flaws
    assert [flaw.code for flaw in found] == ["seq-gap", "seq-gap", "stream-differs"]
    assert found[0].where == f"{topic}/{partition}"
    assert f"seq {seq} is missing" in found[0].message


async def test_a_missing_row_is_named_by_its_seq_and_its_stream(logs: Logs) -> None:
    topic, partition, seq = await the_row(logs, 2)
    await logs.rows("delete from scheduler.log where stream = $1 and version = 2", STREAM)
    found = (await check(logs))["scheduler"]
    assert [(flaw.code, flaw.where) for flaw in found.flaws] == [
        ("seq-gap", f"{topic}/{partition}"),
        ("stream-gap", STREAM),
    ]
    assert f"seq {seq} is missing below its head" in found.flaws[0].message
    assert all("import" in flaw.remedy for flaw in found.flaws)


async def test_the_last_rows_that_are_missing_are_missed_too(logs: Logs) -> None:
    topic, partition, _ = await the_row(logs, 1)
    await logs.rows(
        "delete from scheduler.log where topic = $1 and partition = $2 and seq > 1",
        topic,
        partition,
    )
    assert ("scheduler", "seq-gap", f"{topic}/{partition}") in await flaws(logs)


@pytest.mark.parametrize("head", [1, None])
async def test_a_row_past_its_head_is_found(logs: Logs, head: int | None) -> None:
    topic, partition, _ = await the_row(logs, 1)
    where = f"topic = '{topic}' and partition = {partition}"
    if head:
        await logs.rows(f"update scheduler.heads set seq = {head} where {where}")
    else:
        await logs.rows(f"delete from scheduler.heads where {where}")
    assert await flaws(logs) == [("scheduler", "row-past-head", f"{topic}/{partition}")]


@pytest.mark.parametrize(
    "statement",
    [
        f"update scheduler.streams set version = version + 1 where stream = '{STREAM}'",
        f"update scheduler.streams set version = version - 1 where stream = '{STREAM}'",
        f"delete from scheduler.streams where stream = '{STREAM}'",
    ],
)
async def test_a_stream_that_does_not_stand_where_its_events_end_is_found(
    logs: Logs, statement: str
) -> None:
    await logs.rows(statement)
    assert await flaws(logs) == [("scheduler", "stream-differs", STREAM)]


async def test_a_stream_without_events_is_found(logs: Logs) -> None:
    await logs.rows("insert into scheduler.streams values ('plan:ghost', 2)")
    assert await flaws(logs) == [("scheduler", "stream-differs", "plan:ghost")]


async def test_a_type_this_build_does_not_know_is_told_once_with_a_row_of_it(logs: Logs) -> None:
    await logs.say_unknown("scheduler", "plan:shop")
    await logs.say_unknown("scheduler", "plan:bank")
    (flaw,) = (await check(logs, decode=True))["scheduler"].flaws
    assert flaw.code == "unknown-type"
    assert "scheduler.of-a-newer-build version 1" in flaw.message
    assert flaw.where.startswith("seawall.scheduler.events/")


async def test_a_row_that_cannot_be_read_is_found_by_decoding_only(logs: Logs) -> None:
    topic, partition, seq = await the_row(logs, 2)
    await logs.rows(
        """update scheduler.log set data = '{"next_due_at": 7}'"""
        " where stream = $1 and version = 2",
        STREAM,
    )
    assert await flaws(logs) == []
    assert await flaws(logs, decode=True) == [
        ("scheduler", "unreadable", f"{topic}/{partition}/{seq}")
    ]


async def test_a_cursor_past_the_log_it_is_of_is_found(logs: Logs) -> None:
    topic, partition, _ = await the_row(logs, 1)
    move = CursorMove("scheduler", 1, topic, partition, 0, 1_000)
    await logs.store("notifier").commit(Step(cursors=[move]))
    where = f"notifier on scheduler {topic}/{partition}"
    assert await flaws(logs) == [("notifier", "cursor-past-head", where)]


async def test_a_cursor_of_another_epoch_is_found_the_projectors_too(logs: Logs) -> None:
    await logs.project()
    await logs.rows("update gateway.epoch set epoch = 2")
    found = await flaws(logs)
    assert {(service, code) for service, code, _ in found} == {
        ("gateway", "cursor-of-another-epoch")
    }
    assert all("projector on gateway" in where for _, _, where in found)


async def test_many_flaws_are_counted_and_the_first_are_told(logs: Logs) -> None:
    await logs.rows(
        "insert into scheduler.streams select 'ghost:' || n, 1 from generate_series(1, 300) as n"
    )
    found = (await check(logs))["scheduler"]
    # Twenty of each page of streams are named: a page is one statement.
    assert found.flaw_count >= 20
    assert len(found.flaws) <= FLAWS_TOLD_MAX


async def test_a_log_that_grows_meanwhile_is_whole(logs: Logs) -> None:
    async def grow() -> None:
        for number in range(15):
            await a_history(logs, f"plan-{number}")

    growing = asyncio.create_task(grow())
    results: list[tuple[str, str, str]] = []
    while not growing.done():
        results += await flaws(logs)
    await growing
    assert results == []


async def test_a_database_without_logs_is_refused(new_database: Callable[[], str]) -> None:
    with pytest.raises(Refused) as refused:
        await verify(Databases(new_database()), SOURCES, consumers=CONSUMERS)
    assert refused.value.code == "no-log"
