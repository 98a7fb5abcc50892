"""From the command to the first power-on: test recoveries of three VMs on an idle control plane.

Six processes and their Postgres, a lab without latency, three VMs of one disk of 1 MiB, no
scripts. The clock starts when the client sends its POST and stops at the first `power_on` line
of the site's own call journal, which is written when the machine is on. Each recovery is waited
for and cleaned up before the next; neither counts. The value is the median of five repetitions'
medians; `parts` are over all recoveries.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.acceptance.client import Client
from tests.acceptance.plane import Plane
from tests.bench.harness import Goal, Measurement, folder, repeat, say
from tests.waiting import wait_until

NAME = "first-power-on"
UNIT = "ms"
GOAL = Goal(most=150, parts={"p99_ms": Goal(most=300), "recoveries": Goal(least=200)})

PER_REPETITION = 40
WARM_UP = 3
PLAN = "shop"
VMS = ("db", "app", "web")
DISK_BYTES = 1 << 20
IDLE_S_MAX = 10.0
DEFAULTS = {"SEAWALL_LEASE": "15", "SEAWALL_HEARTBEAT": "5", "SEAWALL_CALL_TIMEOUT": "60"}


async def run() -> Measurement:
    """Five repetitions of 40 recoveries, one after the other."""
    async with folder() as root:
        return await asyncio.to_thread(_run, root)


def _run(root: Path) -> Measurement:
    root.chmod(0o755)
    build_sites(root)
    taken: list[float] = []
    with Plane(root, environment=DEFAULTS) as plane:
        plane.start_all()
        plane.wait_ready()
        client = Client(plane)
        _protect(client, root)
        journal = Journal(root / "west" / "calls.jsonl")
        for _ in range(WARM_UP):
            _recover(client, journal)

        async def once() -> float:
            values = [_recover(client, journal) for _ in range(PER_REPETITION)]
            taken.extend(values)
            return statistics.median(values)

        values = asyncio.run(repeat(once))
    return Measurement(values=values, parts=_parts(taken))


def _parts(taken: Sequence[float]) -> dict[str, Any]:
    ranked = sorted(taken)
    return {
        "p50_ms": round(statistics.median(ranked), 1),
        "p99_ms": round(ranked[-(len(ranked) // 100) - 1], 1),
        "max_ms": round(ranked[-1], 1),
        "recoveries": len(ranked),
    }


def build_sites(root: Path) -> None:
    """Both sites; only the recovery site keeps a journal, which is the clock."""
    (root / "west").mkdir()
    for vm in VMS:
        home = root / "east" / "vms" / vm
        home.mkdir(parents=True)
        (home / "sda.raw").write_bytes(vm.encode().ljust(512, b".") * (DISK_BYTES // 512))
        disks = [{"name": "sda", "file": "sda.raw"}]
        (home / "vm.yaml").write_text(yaml.safe_dump({"name": vm, "disks": disks}))
    (root / "east" / "site.yaml").write_text("journal: false\n")
    (root / "west" / "site.yaml").write_text("journal: true\n")


def _protect(client: Client, root: Path) -> None:
    for site in ("east", "west"):
        settings = {"path": str(root / site)}
        client.command("/v1/sites", {"name": site, "platform": "lab", "settings": settings})
    plan = {
        "name": PLAN,
        "protected_site": "east",
        "recovery_site": "west",
        "replication": {"interval": "30d"},
        "vms": list(VMS),
    }
    client.command("/v1/plans", {"plan": plan, "scripts": {}})
    _completed(client, client.command(f"/v1/plans/{PLAN}/run")["id"])


def _recover(client: Client, journal: Journal) -> float:
    """Milliseconds from the command to the first power-on of one recovery."""
    journal.skip()
    sent = time.time()
    job = client.command(f"/v1/plans/{PLAN}/recover", {"mode": "test"})["id"]
    _completed(client, job)
    ons = journal.power_ons(job)
    if len(ons) != len(VMS):
        raise AssertionError(f"{len(ons)} power-ons in {job}")
    _completed(client, client.command(f"/v1/jobs/{job}/cleanup")["id"])
    _wait_idle(client)
    return (min(ons) - sent) * 1000


def _completed(client: Client, job: str) -> None:
    ended = client.wait_job(job)
    if ended["state"] != "completed":
        raise AssertionError(f"{job} is {ended['state']}: {ended['error']}")


def _wait_idle(client: Client) -> None:
    """Return when nothing holds the VMs: a recovery before that is refused."""

    def idle() -> bool:
        return not any(
            vm["holds"] for vm in client.request("GET", f"/v1/vms?plan={PLAN}")["items"]
        )

    wait_until(idle, "nothing holds the VMs after their cleanup", within_s=IDLE_S_MAX)


class Journal:
    """A call journal read on from where it was left."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def skip(self) -> None:
        """Forget what is there."""
        self._offset = self._path.stat().st_size

    def power_ons(self, job: str) -> list[float]:
        """When the job's machines went on, seconds of the machine's clock."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            calls = [json.loads(line) for line in file]
        say_other = {call["call"] for call in calls if call["outcome"] not in ("ok", "known")}
        if say_other:
            say(f"  refused calls: {sorted(say_other)}")
        return [
            dt.datetime.fromisoformat(call["at"]).timestamp()
            for call in calls
            if call["call"] == "power_on" and call["outcome"] == "ok" and call["job"] == job
        ]
