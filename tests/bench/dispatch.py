"""5,000 iterations due at one instant: how long until each is started and its first effect ready.

20 plans of 250 VMs, disks of 1 MiB (sparse), six processes, all ticks due at the same moment, ten
minutes of interval, so that only one tick falls into a run. Measured from outside: a connection of
ours reads the log's new rows and the work queue every 20 ms. An iteration counts as dispatched
when one snapshot of the database shows its `IterationStarted` and an effect of it in the queue
(both come with one commit). So every figure is late by at most `look_ms_max`, the longest time
between two looks, and never early. What the iterations do next is not waited for.

A repetition is a control plane of its own, from an empty database to the kill after the last
dispatch. The value is the median of the repetitions' slowest iterations.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from schemas.envelope import events_topic
from schemas.ids import PARTITIONS
from tests.acceptance.client import Client
from tests.acceptance.plane import Plane
from tests.bench.harness import Goal, Measurement, folder, repeat, say

NAME = "dispatch"
UNIT = "s"
GOAL = Goal(most=3.0, parts={"max_s": Goal(most=3.0)})

PLANS = 20
VMS_PER_PLAN = 250
COUNT = PLANS * VMS_PER_PLAN
DISK_BYTES = 1 << 20
LOOK_S = 0.02
APPLY_S_MAX = 12.0
WAIT_S_MAX = 30.0
CLIENTS = 2
SQL_TIMEOUT_S = 10.0
DEFAULTS = {"SEAWALL_LEASE": "15", "SEAWALL_HEARTBEAT": "5", "SEAWALL_CALL_TIMEOUT": "60"}
PLANNER = {"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
"""Looking must cost next to nothing, whatever is believed of tables without statistics."""

TOPIC = events_topic("replicator")
STARTED = "replication.iteration-started"

NEW_ROWS = """
select l.partition, l.seq, l.stream, l.type, exists (
        select from work.effects e
        where e.effect_id > l.stream || '/' and e.effect_id < l.stream || '0') as claimable
    from unnest($1::int[], $2::bigint[]) as p (partition, seq)
    cross join lateral (
        select partition, seq, stream, type from replicator.log
        where topic = $3 and partition = p.partition and seq > p.seq
    ) as l
"""


class Dispatched(msgspec.Struct):
    """Seconds from due until each iteration was seen dispatched, and how closely was looked."""

    after_s: list[float]
    look_s_max: float = 0.0
    prepared_s: float = 0.0


async def run() -> Measurement:
    """Five repetitions, each with new processes and a new database."""
    runs: list[Dispatched] = []
    async with folder() as root:
        root.chmod(0o755)
        await asyncio.to_thread(build_source, root / "source")

        async def once() -> float:
            runs.append(await _once(root))
            return max(runs[-1].after_s)

        values = await repeat(once)
    return Measurement(values=values, parts=_parts(runs), sound=_is_sound(runs))


def _parts(runs: Sequence[Dispatched]) -> dict[str, Any]:
    each = sorted(after for one in runs for after in one.after_s)
    return {
        "p50_s": round(statistics.median(each), 3),
        "p99_s": round(each[-(len(each) // 100) - 1], 3),
        "max_s": round(each[-1], 3),
        "iterations": len(each),
        "look_ms_max": round(max(one.look_s_max for one in runs) * 1000, 1),
    }


def _is_sound(runs: Sequence[Dispatched]) -> bool:
    return all(len(one.after_s) == COUNT and min(one.after_s) >= 0 for one in runs)


def plan_names() -> list[str]:
    """The plans."""
    return [f"plan-{number:02}" for number in range(PLANS)]


def vm_names(plan: str) -> list[str]:
    """The VMs of a plan."""
    return [f"{plan}-vm-{number:03}" for number in range(VMS_PER_PLAN)]


def build_source(root: Path) -> None:
    """5,000 VMs whose disks are holes."""
    for vm in (vm for plan in plan_names() for vm in vm_names(plan)):
        make_vm(root / "vms" / vm)


def make_vm(home: Path) -> None:
    """A VM whose one disk of 1 MiB is a hole."""
    home.mkdir(parents=True)
    with (home / "sda.raw").open("wb") as disk:
        disk.truncate(DISK_BYTES)
    (home / "vm.yaml").write_text(f"name: {home.name}\ndisks: [{{name: sda, file: sda.raw}}]\n")


async def _once(root: Path) -> Dispatched:
    home = root / f"run-{time.monotonic_ns()}"
    east = home / "east"
    await asyncio.to_thread(shutil.copytree, root / "source", east, copy_function=_copy_sparse)
    (home / "west").mkdir()
    try:
        with Plane(home, environment=DEFAULTS) as plane:
            plane.start_all()
            await asyncio.to_thread(plane.wait_ready)
            try:
                return await _measure(plane, home)
            finally:
                plane.kill(plane.running())
    finally:
        await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)


def _copy_sparse(source: str, target: str) -> None:
    """Disks are holes only: the size is all there is to copy."""
    if source.endswith(".raw"):
        with open(target, "wb") as disk:
            disk.truncate(DISK_BYTES)
    else:
        shutil.copyfile(source, target)


async def _measure(plane: Plane, home: Path) -> Dispatched:
    began = time.monotonic()
    due = dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(seconds=APPLY_S_MAX)
    await asyncio.to_thread(_protect, plane, home, due)
    connection = await asyncpg.connect(
        plane.postgres.dsn(),
        timeout=SQL_TIMEOUT_S,
        server_settings=PLANNER,
    )
    try:
        await _check_timers(connection, due)
        prepared_s = time.monotonic() - began
        say(f"    ready {prepared_s:.1f} s, {due.timestamp() - time.time():.1f} s before the tick")
        found = await _watch(connection, due.timestamp())
        found.prepared_s = prepared_s
        return found
    finally:
        await connection.close(timeout=SQL_TIMEOUT_S)


def _protect(plane: Plane, home: Path, due: dt.datetime) -> None:
    client = Client(plane)
    for site in ("east", "west"):
        settings = {"path": str(home / site)}
        client.command("/v1/sites", {"name": site, "platform": "lab", "settings": settings})

    def apply(plan: str) -> None:
        document = {
            "name": plan,
            "protected_site": "east",
            "recovery_site": "west",
            "replication": {
                "interval": "10m", "start_at": due.isoformat().replace("+00:00", "Z"),
            },
            "vms": vm_names(plan),
        }  # fmt: skip
        Client(plane, prefix=plan).command("/v1/plans", {"plan": document, "scripts": {}})

    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(apply, plan_names()))


async def _check_timers(connection: asyncpg.Connection[Any], due: dt.datetime) -> None:
    """All 5,000 are due at one instant, and it is still to come."""
    count = await connection.fetchval(
        "select count(*) from scheduler.timers where name = 'tick' and due = $1", due
    )
    if count != COUNT or dt.datetime.now(dt.UTC) >= due:
        raise AssertionError(f"{count} of {COUNT} ticks wait for {due}")


async def _watch(connection: asyncpg.Connection[Any], due: float) -> Dispatched:
    """Look every 20 ms until all are dispatched."""
    look = await connection.prepare(NEW_ROWS)
    reached = dict.fromkeys(range(PARTITIONS), 0)
    found = Dispatched(after_s=[])
    last = time.time()
    while len(found.after_s) < COUNT:
        rows = await look.fetch([*reached], [*reached.values()], TOPIC, timeout=SQL_TIMEOUT_S)
        now = time.time()
        if now > due:
            found.look_s_max = max(found.look_s_max, now - max(last, due))
        last = now
        for row in rows:
            reached[row["partition"]] = max(reached[row["partition"]], row["seq"])
            if row["type"] == STARTED and row["claimable"]:
                found.after_s.append(now - due)
            elif row["type"] == STARTED:
                raise AssertionError(f"{row['stream']} was started without an effect")
        if now > due + WAIT_S_MAX:
            raise TimeoutError(f"{len(found.after_s)} dispatched after {WAIT_S_MAX} s")
        await asyncio.sleep(LOOK_S)
    return found
