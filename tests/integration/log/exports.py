"""A history in logs, its export and its import, and what of both can be compared."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from schemas.envelope import events_topic
from schemas.ids import partition_of
from services.projector.settings import SOURCES
from shared.archive.export import Exported, export
from shared.archive.port import Archive
from shared.archive.restore import Restored, restore
from shared.clock import SystemClock
from shared.databases import Databases
from shared.eventlog.port import CursorMove, NewTimer, Parked, Step
from shared.verify.installation import Consumer, verify
from tests.contract.effects.work import META, effect, hold, seat
from tests.integration.projector.logs import Logs, a_history, open_logs

NewDatabase = Callable[[], str]
EVENTS = events_topic("scheduler")
P_SHOP = partition_of("shop")
LOG_TABLES = ("log", "heads", "streams", "cursors", "reservations", "parked", "blobs")
DUE = dt.datetime(2031, 1, 1, tzinfo=dt.UTC)


@asynccontextmanager
async def histories(dsn: str) -> AsyncIterator[Logs]:
    """The logs of two plans."""
    async with open_logs(dsn) as opened:
        for plan in ("shop", "bank"):
            await a_history(opened, plan)
        yield opened


async def save(logs: Logs, archive: Archive) -> Exported:
    return await export(Databases(logs.dsn), SOURCES, archive, clock=SystemClock())


async def load(dsn: str, archive: Archive) -> Restored:
    return await restore(Databases(dsn), SOURCES, archive)


@asynccontextmanager
async def imported(new_database: NewDatabase, archive: Archive) -> AsyncIterator[Logs]:
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


async def assert_same(logs: Logs, copy: Logs) -> None:
    """Every row of every service, under the next epoch."""
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
        timers = f"{service}.timers"
        assert await table(copy, timers, columns) == await table(logs, timers, columns)
    assert await effects(copy) == await effects(logs)
