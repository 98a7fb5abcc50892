"""`seawall log …` as an operator uses it, on a control plane that works meanwhile."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from schemas.envelope import Meta, commands_topic
from schemas.folds import VIEWS
from schemas.ids import partition_of
from shared.clock import SystemClock
from shared.embedded import running_dsn
from shared.eventlog.port import NewRow, Step
from shared.eventlog.postgres import PostgresStore
from shared.postgres import open_pool
from tests.acceptance.operator import ControlPlane, Sites
from tests.waiting import wait_until

TIMEOUT_S = 10.0


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane")) as started:
        yield started


@pytest.fixture
def sites(plane: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest) -> Sites:
    return replicated(plane, tmp_path, request.node.name.removeprefix("test_"))


def replicated(plane: ControlPlane, root: Path, name: str) -> Sites:
    """Two sites and a plan over two VMs that was replicated once."""
    made = Sites(plane, root, name.replace("_", "-")[:30])
    for vm in ("db", "web"):
        made.vm(vm)
    made.add()
    assert made.apply("db", "web").status == 200
    assert made.replicate()["state"] == "completed"
    return made


def said(plane: ControlPlane, *arguments: str, code: int = 0) -> Any:
    """The document that a command line answers with."""
    answer = plane.say(*arguments, "-o", "json")
    assert answer.code == code, answer
    return json.loads(answer.out)


def dsn_of(plane: ControlPlane) -> str:
    return running_dsn(plane.home / "postgres")


async def _send_unreadable(dsn: str, key: str) -> None:
    pool = await open_pool(dsn, "gateway")
    try:
        store = await PostgresStore.open(pool, service="gateway")
        topic, stream = commands_topic("scheduler"), f"command:{key}:from-tomorrow"
        meta = Meta(occurred_at=SystemClock().now())
        row = NewRow(
            topic, partition_of(key), stream, 0, "scheduler.from-tomorrow", 1, b"{}", meta
        )
        await store.commit(Step(rows=[row]))
    finally:
        await pool.close()


async def _read_models(dsn: str) -> dict[str, Any]:
    connection = await asyncpg.connect(dsn, timeout=TIMEOUT_S)
    try:
        found = {}
        for view in VIEWS:
            rows = await connection.fetch(
                f"select id, doc::text from read.{view.table} order by 1", timeout=TIMEOUT_S
            )
            found[view.table] = [tuple(row) for row in rows]
        rows = await connection.fetch(
            "select position, source, partition, seq, doc::text from read.events order by 1",
            timeout=TIMEOUT_S,
        )
        found["events"] = [tuple(row) for row in rows]
    finally:
        await connection.close(timeout=TIMEOUT_S)
    return found


def read_models(plane: ControlPlane) -> dict[str, Any]:
    return asyncio.run(_read_models(dsn_of(plane)))


def test_a_working_log_is_whole_and_its_read_models_are_rebuilt(
    plane: ControlPlane, sites: Sites
) -> None:
    found = said(plane, "log", "verify", "--decode")
    assert found["whole"]
    assert {each["service"]: each["rows"] > 0 for each in found["items"]}["scheduler"]
    before = read_models(plane)
    assert said(plane, "log", "rebuild")["rows"] > 0
    assert read_models(plane) == before
    assert "whole" in plane.say("log", "verify").out


def test_a_flaw_is_told_with_its_remedy_and_exit_code_5(plane: ControlPlane, sites: Sites) -> None:
    asyncio.run(_execute(dsn_of(plane), "insert into notifier.streams values ('x:y', 3)"))
    try:
        answer = plane.say("log", "verify")
        (flaw,) = said(plane, "log", "verify", code=5)["items"][4]["flaws"]
    finally:
        asyncio.run(_execute(dsn_of(plane), "delete from notifier.streams where stream = 'x:y'"))
    assert answer.code == 5
    assert "x:y: stands at version 3, its last event is missing" in answer.out
    assert flaw["remedy"] in answer.out


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=TIMEOUT_S)
    try:
        await connection.execute(statement, timeout=TIMEOUT_S)
    finally:
        await connection.close(timeout=TIMEOUT_S)


def test_parked_messages_are_listed_retried_and_skipped(tmp_path: Path) -> None:
    # Its log has a row that no build can read: not for the other tests' control plane.
    (tmp_path / "plane").mkdir()
    with ControlPlane(tmp_path / "plane") as plane:
        _park_and_take_up(plane, replicated(plane, tmp_path, "shop"))
        asyncio.run(_send_unreadable(dsn_of(plane), "bank"))
        wait_until(
            lambda: said(plane, "log", "parked", "--key", "bank")["items"], "the key is parked"
        )
    # Nobody runs who could act on it: the request waits, and the command says so.
    (asked,) = said(plane, "log", "retry", "scheduler", "bank", code=8)["items"]
    assert asked["state"] == "asked"
    (kept,) = said(plane, "log", "parked")["items"]
    assert kept["asked"] == "retry"


def _park_and_take_up(plane: ControlPlane, sites: Sites) -> None:
    asyncio.run(_send_unreadable(dsn_of(plane), sites.name))
    behind = plane.ask("POST", f"/v1/plans/{sites.name}/prioritise?wait=1s", {"priority": 1})
    assert behind.status == 202
    first, second = said(plane, "log", "parked", "--key", sites.name)["items"]
    assert "scheduler.from-tomorrow version 1" in first["reason"]
    assert first["seq"] < second["seq"]
    (kept,) = said(plane, "log", "retry", "scheduler", sites.name, code=5)["items"]
    assert (kept["taken_up"], kept["state"]) == (0, "parked")
    assert plane.say("log", "skip", "scheduler", sites.name).code == 2
    (done,) = said(plane, "log", "skip", "scheduler", sites.name, "--yes")["items"]
    assert (done["taken_up"], done["parked"], done["state"]) == (2, 0, "done")
    assert plane.ask("GET", f"/v1/plans/{sites.name}").body["priority"] == 1
    told = plane.ask("GET", "/v1/events?type=seawall.common.message-skipped").body["items"]
    assert told[-1]["data"]["seq"] == first["seq"]
    nothing = plane.say("log", "retry", "scheduler", sites.name)
    assert nothing.code == 4
    assert "log parked" in nothing.err


def test_an_imported_control_plane_goes_on_where_the_export_was_taken(
    plane: ControlPlane, sites: Sites, tmp_path: Path
) -> None:
    recovery = sites.recover()
    assert recovery["state"] == "completed"
    sites.settings(sites.west, latency={"finalize": "2s"})
    run = plane.command(f"/v1/plans/{sites.name}/run").body["id"]
    folder = str(tmp_path / "export")
    saved = said(plane, "log", "export", folder)
    assert saved["rows"] > 0
    assert said(plane, "log", "export", folder)["rows_kept"] >= saved["rows_kept"]
    # What happens from here on is lost with the first one.
    other = ControlPlane(tmp_path / "other")
    other.home.parent.mkdir(exist_ok=True)
    restored = said(other, "log", "import", folder)
    assert restored["verified"]["whole"]
    assert set(restored["epochs"].values()) == {2}
    again = other.say("log", "import", folder)
    assert again.code == 3
    assert "empty database" in again.err
    plane.ended(run)
    with other:
        sites.plane = other
        sites.settings(sites.west)
        # The read models are folded again from the beginning, a moment after the start.
        path = f"/v1/jobs/{urllib.parse.quote(run, safe='')}"
        wait_until(lambda: other.ask("GET", path).status == 200, "the job is shown again")
        assert other.ended(run)["state"] == "completed"
        assert sites.replicate()["state"] == "completed"
        assert sites.clean(recovery["id"])["state"] == "completed"
        wait_until(lambda: sites.left_behind() == [], "nothing is left behind")
        assert said(other, "log", "verify", "--decode")["whole"]
        before = read_models(other)
        assert said(other, "log", "rebuild")["rows"] > 0
        assert read_models(other) == before


def test_a_home_without_a_database_is_not_given_one(plane: ControlPlane, tmp_path: Path) -> None:
    home = tmp_path / "nothing"
    for command in ("verify", "rebuild", "parked"):
        answer = plane.say("log", command, SEAWALL_HOME=str(home))
        assert answer.code == 4
        assert "there is no database" in answer.err
    answer = plane.say("log", "import", str(tmp_path), SEAWALL_HOME=str(home))
    assert answer.code == 3
    assert not home.exists()


def test_a_database_that_does_not_run_is_started_for_the_command(tmp_path: Path) -> None:
    with ControlPlane(tmp_path) as stopped:
        pass
    assert dsn_of(stopped) == ""
    assert said(stopped, "log", "verify")["whole"]
    assert dsn_of(stopped) == ""
