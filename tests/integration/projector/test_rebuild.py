"""A rebuild ends with the very rows the live projector made, whatever goes on meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from schemas.folds import VIEWS
from schemas.scheduler import PlanPrioritised
from services.projector.rebuild import rebuild
from shared.databases import Databases
from shared.errors import Refused
from tests.failures import failure_mode
from tests.integration.projector.logs import Logs, a_history, apart, open_logs, running

TABLES = (*(view.table for view in VIEWS), "events", "cursors")


@pytest.fixture
async def logs(postgres_dsn: str) -> AsyncIterator[Logs]:
    async with open_logs(postgres_dsn) as opened:
        yield opened


@pytest.fixture(params=["together", "apart"])
def databases(request: pytest.FixtureRequest, logs: Logs) -> Databases:
    return Databases(logs.dsn) if request.param == "together" else apart(logs.dsn)


async def content(logs: Logs) -> dict[str, list[dict[str, Any]]]:
    """Every table in key order, all columns but `projected_at`."""
    found = {}
    for table in TABLES:
        key = "source, topic, partition" if table == "cursors" else "1"
        rows = [dict(row) for row in await logs.rows(f"select * from {table} order by {key}")]
        for row in rows:
            row.pop("projected_at", None)
        found[table] = rows
    return found


async def test_a_rebuild_gives_the_rows_of_the_live_projector(
    logs: Logs, databases: Databases
) -> None:
    await a_history(logs, "shop")
    await a_history(logs, "bank", vms=("core", "teller", "web"))
    await logs.project()
    live = await content(logs)
    done = await rebuild(databases)
    assert await content(logs) == live
    assert all(live[table] for table in ("vms", "jobs", "events", "command_settlements"))
    assert done.rows == sum(row["seq"] for row in live["cursors"])


@failure_mode(
    "Log and read models",
    "dead",
    sees="Lists and jobs are empty or wrong, though work goes on.",
    does="`seawall log rebuild`: beside the live ones, swapped in at the end.",
)
async def test_a_rebuild_mends_rows_that_were_lost_or_spoilt(
    logs: Logs, databases: Databases
) -> None:
    await a_history(logs, "shop")
    await logs.project()
    before = await content(logs)
    await logs.rows("delete from jobs")
    await logs.rows("""update vms set sync_state = 'wrong', doc = '{"name": "wrong"}'""")
    await rebuild(databases)
    assert await content(logs) == before


async def test_events_that_were_lost_come_back_behind_all_others(
    logs: Logs, databases: Databases
) -> None:
    await a_history(logs, "shop")
    await logs.project()
    (last,) = await logs.rows("select position from event_head")
    await logs.rows("delete from events where position in (3, 5)")
    await rebuild(databases)
    rows = await logs.rows("select position from events order by position")
    assert [row["position"] for row in rows][-2:] == [last["position"] + 1, last["position"] + 2]


async def test_the_live_projector_goes_on_during_a_rebuild_and_after_it(
    logs: Logs, databases: Databases
) -> None:
    await a_history(logs, "first")
    async with running(logs.projector()):
        await logs.all_projected()
        told = asyncio.create_task(_many(logs))
        for _ in range(3):
            await rebuild(databases)
        await told
        await logs.all_projected()
        live = await content(logs)
        await rebuild(databases)
    assert await content(logs) == live
    positions = [row["position"] for row in live["events"]]
    assert sorted(positions) == list(range(1, len(positions) + 1))


async def _many(logs: Logs) -> None:
    for number in range(25):
        await a_history(logs, f"plan-{number}")


async def test_a_live_projector_forgets_the_documents_it_held_before_a_rebuild(
    logs: Logs,
) -> None:
    await a_history(logs, "shop")
    await logs.project()
    await logs.rows("""update plans set doc = replace(doc::text, '"ops"', '"nobody"')::json""")
    async with running(logs.projector()):
        await logs.say("scheduler", ("plan:shop", PlanPrioritised(priority=1)))
        await logs.all_projected()
        assert (await logs.document("plans", "shop"))["actor"] == "nobody"
        await rebuild(Databases(logs.dsn))
        await logs.say("scheduler", ("plan:shop", PlanPrioritised(priority=2)))
        await logs.all_projected()
    plan = await logs.document("plans", "shop")
    assert (plan["actor"], plan["priority"]) == ("ops", 2)


async def test_only_one_rebuild_runs_at_a_time(logs: Logs) -> None:
    await a_history(logs, "shop")
    await logs.project()
    done = await asyncio.gather(
        rebuild(Databases(logs.dsn)), rebuild(Databases(logs.dsn)), return_exceptions=True
    )
    refused = [each for each in done if isinstance(each, Refused)]
    assert [each.code for each in refused] == ["rebuild-running"]


async def test_nothing_is_left_of_the_replaced_tables(logs: Logs) -> None:
    await a_history(logs, "shop")
    await logs.project()
    await rebuild(Databases(logs.dsn))
    schemas = await logs.rows("select nspname from pg_namespace where nspname like 'read%'")
    assert [row["nspname"] for row in schemas] == ["read"]
