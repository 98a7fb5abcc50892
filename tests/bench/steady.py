"""20,000 VMs with 15-minute intervals for five minutes: what a quiet installation costs.

80 plans of 250 VMs that start one after the other and spread their ticks, so that 22.2 iterations
are due every second; six processes, a lab without quotas or latency, disks of holes. Once all
plans are applied, five minutes are measured at the real rate: processor time and memory of each
service, rows of all logs, growth of the database, iterations that ended.

`value` is the cores that all services use together, without Postgres. The lab runs in its
callers' processes, so `replicator` holds what a real platform would spend itself. Sound: no
iteration failed, and as many ended as were due, but for 5 %.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from shared.process import LOGGED_SERVICES
from tests.acceptance.client import Client
from tests.acceptance.crew import SERVICES
from tests.acceptance.plane import Plane
from tests.bench.dispatch import DEFAULTS, make_vm
from tests.bench.harness import Goal, Measurement, folder, say
from tests.bench.processes import cpu_s, memory_mib

NAME = "steady"
UNIT = "cores"
GOAL = Goal(most=1.0, parts={"memory_mib": Goal(most=2048)})
LIMIT_S = 1.0
"""A run of five minutes is not repeated."""

PLANS: Final = 80
VMS_PER_PLAN: Final = 250
INTERVAL_S: Final = 900
SECONDS: Final = 300.0
CLIENTS: Final = 2
DUE_SHARE_MIN: Final = 0.95
SQL_TIMEOUT_S: Final = 30.0
_MIB: Final = 1 << 20

ENDED = """
select count(*) filter (where type = 'replication.iteration-finished') as ended,
    count(*) filter (where type = 'replication.iteration-finished'
        and data ->> 'state' <> 'completed') as failed
from replicator.log where topic = 'seawall.replicator.events'
"""


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What was spent so far: seconds of processor by service, rows, bytes, iterations."""

    at: float
    cpu_s: dict[str, float]
    rows: int
    database_bytes: int
    ended: int
    failed: int


async def run() -> Measurement:
    """Prepare, then watch five minutes pass."""
    async with folder() as home:
        home.chmod(0o755)
        await asyncio.to_thread(_build, home)
        with Plane(home, environment=DEFAULTS) as plane:
            plane.start_all()
            await asyncio.to_thread(plane.wait_ready)
            try:
                return await _measure(plane, home)
            finally:
                plane.kill(plane.running())


def _build(home: Path) -> None:
    (home / "west").mkdir()
    for vm in (vm for plan in range(PLANS) for vm in _vms(plan)):
        make_vm(home / "east" / "vms" / vm)


def _vms(plan: int) -> list[str]:
    return [f"plan-{plan:02}-vm-{number:03}" for number in range(VMS_PER_PLAN)]


async def _measure(plane: Plane, home: Path) -> Measurement:
    began = time.monotonic()
    await asyncio.to_thread(_protect, plane, home)
    say(f"  {PLANS * VMS_PER_PLAN} VMs are protected after {time.monotonic() - began:.0f} s")
    connection = await asyncpg.connect(plane.postgres.dsn(), timeout=SQL_TIMEOUT_S)
    try:
        before = await _spent(plane, connection)
        while (passed_s := time.monotonic() - before.at) < SECONDS:
            await asyncio.sleep(min(30.0, SECONDS - passed_s))
            now = await _spent(plane, connection)
            cores = sum(_cores(before, now).values())
            ended = (now.ended - before.ended) / (now.at - before.at)
            say(f"  {now.at - before.at:.0f} s: {cores:.2f} cores, {ended:.1f} iterations/s")
        after = await _spent(plane, connection)
    finally:
        await connection.close(timeout=SQL_TIMEOUT_S)
    return _found(
        before, after, memory={name: memory_mib(plane.processes[name].pid) for name in SERVICES}
    )


def _found(before: Spent, after: Spent, *, memory: dict[str, float]) -> Measurement:
    elapsed_s = after.at - before.at
    cores = _cores(before, after)
    ended = after.ended - before.ended
    due = PLANS * VMS_PER_PLAN / INTERVAL_S * elapsed_s
    failed = after.failed - before.failed
    grown = (after.database_bytes - before.database_bytes) / elapsed_s * 86_400 / _MIB
    return Measurement(
        values=(sum(cores.values()),),
        parts={
            "cores": {name: round(value, 3) for name, value in cores.items()},
            "memory_mib": round(sum(memory.values()), 1),
            "memory_mib_of": {name: round(value, 1) for name, value in memory.items()},
            "events_per_s": round((after.rows - before.rows) / elapsed_s, 1),
            "database_mib_per_day": round(grown),
            "iterations": ended,
            "due": round(due),
            "failed": failed,
            "seconds": round(elapsed_s, 1),
        },
        sound=not failed and ended >= DUE_SHARE_MIN * due,
    )


def _protect(plane: Plane, home: Path) -> None:
    client = Client(plane)
    for site in ("east", "west"):
        settings = {"path": str(home / site)}
        client.command("/v1/sites", {"name": site, "platform": "lab", "settings": settings})
    first_at = dt.datetime.now(dt.UTC).replace(microsecond=0) - dt.timedelta(seconds=INTERVAL_S)

    def apply(plan: int) -> None:
        name = f"plan-{plan:02}"
        start_at = first_at + dt.timedelta(seconds=plan * INTERVAL_S // PLANS)
        document = {
            "name": name,
            "protected_site": "east",
            "recovery_site": "west",
            "replication": {
                "interval": f"{INTERVAL_S}s",
                "spread": f"{INTERVAL_S // 2}s",
                "start_at": start_at.isoformat().replace("+00:00", "Z"),
            },
            "vms": _vms(plan),
        }  # fmt: skip
        Client(plane, prefix=name).command("/v1/plans", {"plan": document, "scripts": {}})

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(apply, range(PLANS)))


async def _spent(plane: Plane, connection: asyncpg.Connection[Any]) -> Spent:
    heads = " + ".join(
        f"coalesce((select sum(seq) from {service}.heads), 0)" for service in LOGGED_SERVICES
    )
    (row,) = await connection.fetch(ENDED, timeout=SQL_TIMEOUT_S)
    return Spent(
        at=time.monotonic(),
        cpu_s={name: cpu_s(plane.processes[name].pid) for name in SERVICES},
        rows=int(await connection.fetchval(f"select {heads}", timeout=SQL_TIMEOUT_S)),
        database_bytes=await connection.fetchval(
            "select pg_database_size(current_database())", timeout=SQL_TIMEOUT_S
        ),
        ended=row["ended"],
        failed=row["failed"],
    )


def _cores(before: Spent, after: Spent) -> dict[str, float]:
    elapsed_s = after.at - before.at
    return {name: (after.cpu_s[name] - before.cpu_s[name]) / elapsed_s for name in SERVICES}
