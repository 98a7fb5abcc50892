"""`make outage SECONDS=60`: the database is stopped under running platform work.

Two lab sites whose calls take their time. When at least 200 creates, power-ons and transfers are
in flight (no scripts), Postgres is stopped, and started again after SECONDS. Judged from outside:

- `failed`: jobs that did not end *completed*
- `attempts`: steps of any of these jobs that used more than one attempt
- `doubled`: keys with more than one `ok` line in a site's call journal
- `unready_s`: from the order to stop Postgres until the last of six processes says 503
- `resumed_s`: from when Postgres accepts connections until the first platform call under a key
  that no call before the stop had, which only the work queue can have given out

Last line: `in_flight=… failed=0 attempts=0 doubled=0 unready=…s resumed=…s outage=…s`; exit 1 if
a bound is broken.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import re
import shutil
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import yaml

from tests.acceptance.client import Client
from tests.acceptance.crew import SERVICES
from tests.acceptance.plane import Plane
from tests.waiting import wait_until

FIRST, SECOND, MOVED = "first", "second", "moved"
VMS = {FIRST: 85, SECOND: 85, MOVED: 45}
IN_FLIGHT_MIN = 200
KINDS = ("create-instance", "power-on", "transfer")
MIB = 1 << 20
UNREADY_S_MAX = 2.0
RESUMED_S_MAX = 20.0
REACH_S_MAX = 60.0
LATENCY_S = 10.0
JOB_S_MAX = 180.0
SQL_TIMEOUT_S = 10.0

IN_FLIGHT = """
select l.kind, e.effect_id from work.effects e join work.lanes l using (lane_id)
    where e.state = 'c' and l.kind = any ($1)
"""


class Verdict(msgspec.Struct, kw_only=True):
    """What was found; `wrong` says it in words."""

    in_flight: dict[str, int] = {}
    failed: int = 0
    attempts: int = 0
    doubled: int = 0
    unready_s: float = 0.0
    resumed_s: float = 0.0
    outage_s: float = 0.0
    wrong: list[str] = []

    @property
    def good(self) -> bool:
        """Whether every bound holds."""
        return (
            not self.wrong
            and sum(self.in_flight.values()) >= IN_FLIGHT_MIN
            and self.unready_s <= UNREADY_S_MAX
            and self.resumed_s <= RESUMED_S_MAX
        )

    def line(self) -> str:
        """The last line of standard output."""
        return (
            f"in_flight={sum(self.in_flight.values())} failed={self.failed}"
            f" attempts={self.attempts} doubled={self.doubled} unready={self.unready_s:.2f}s"
            f" resumed={self.resumed_s:.1f}s outage={self.outage_s:.1f}s"
        )


def run_outage(*, seconds: float, latency_s: float = LATENCY_S) -> Verdict:
    """One outage in a world of its own, removed afterwards."""
    root = Path(tempfile.mkdtemp(prefix="seawall-outage-"))
    root.chmod(0o755)
    try:
        build_sites(root)
        with Plane(root, environment=_environment(seconds)) as plane:
            plane.start_all()
            plane.wait_ready()
            return Outage(plane, root, latency_s=latency_s).run(seconds)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _environment(seconds: float) -> dict[str, str]:
    """Leases that run out during the outage, as the default ones do in 60 s."""
    lease_s = min(15.0, max(seconds / 3, 1.0))
    return {
        "SEAWALL_LEASE": str(lease_s),
        "SEAWALL_HEARTBEAT": str(lease_s / 3),
        "SEAWALL_CALL_TIMEOUT": "60",
        "SEAWALL_HEALTH_PORT": "0",
    }


def build_sites(root: Path) -> None:
    """One VM with a disk of 1 MiB for everything that is to be in flight."""
    for plan, count in VMS.items():
        for vm in vm_names(plan, count):
            home = root / "east" / "vms" / vm
            home.mkdir(parents=True)
            (home / "sda.raw").write_bytes(vm.encode().ljust(512, b".") * (MIB // 512))
            (home / "vm.yaml").write_text(f"name: {vm}\ndisks: [{{name: sda, file: sda.raw}}]\n")
    (root / "west").mkdir()
    for site in ("east", "west"):
        set_latency(root / site, {})


def vm_names(plan: str, count: int) -> list[str]:
    """The VMs of a plan."""
    return [f"{plan}-{number:03}" for number in range(count)]


def set_latency(site: Path, latency_s: dict[str, float]) -> None:
    """Say how long calls of a site take from now on; one rename, for who reads it meanwhile."""
    document = {"journal": True, "latency": {name: f"{s:g}s" for name, s in latency_s.items()}}
    fresh = site / "site.yaml.new"
    fresh.write_text(yaml.safe_dump(document))
    fresh.replace(site / "site.yaml")


class Outage:
    """The steps of the trial, on a plane that is ready."""

    def __init__(self, plane: Plane, root: Path, *, latency_s: float) -> None:
        self._plane = plane
        self._root = root
        self._latency_s = latency_s
        self._client = Client(plane)
        self._verdict = Verdict()

    def run(self, seconds: float) -> Verdict:
        """Bring the work into flight, take the database away, give it back, judge."""
        verdict = self._verdict
        self._protect()
        jobs = self._take_off()
        known = self._in_flight()
        verdict.in_flight = dict(Counter(known.values()))
        say(f"in flight: {verdict.in_flight}")
        self._take_away(seconds)
        back = time.time()
        set_latency(self._root / "west", {})
        try:
            verdict.resumed_s = self._resumed(back, set(known)) - back
            for job in jobs:
                self._judge_job(self._client.wait_job(job, timeout_s=JOB_S_MAX))
        except AssertionError as late:
            verdict.wrong.append(str(late))
            say(self._plane.log_tail())
        self._judge_doubles()
        return verdict

    def _protect(self) -> None:
        for site in ("east", "west"):
            settings = {"path": str(self._root / site)}
            body = {"name": site, "platform": "lab", "settings": settings}
            self._client.command("/v1/sites", body)
        for plan, count in VMS.items():
            document = {
                "name": plan,
                "protected_site": "east",
                "recovery_site": "west",
                "replication": {"interval": "30d"},
                "vms": vm_names(plan, count),
            }
            self._client.command("/v1/plans", {"plan": document, "scripts": {}})
        runs = [self._client.command(f"/v1/plans/{p}/run")["id"] for p in (FIRST, SECOND)]
        for run in runs:
            ended = self._client.wait_job(run, timeout_s=JOB_S_MAX)
            if ended["state"] != "completed":
                raise AssertionError(f"the first copies did not come about: {ended['error']}")
        say(f"protected {sum(VMS.values())} VMs")

    def _take_off(self) -> list[str]:
        """Power-ons, creates and transfers in flight, all at once; gives the jobs."""
        slow = ("create_instance", "power_on", "open_generation")
        set_latency(self._root / "west", dict.fromkeys(slow, self._latency_s))
        first = self._recover(FIRST)
        self._reach({"power-on": VMS[FIRST] // 2})
        second = self._recover(SECOND)
        moved = self._client.command(f"/v1/plans/{MOVED}/run")["id"]
        self._reach(dict.fromkeys(KINDS, 1))
        return [first, second, moved]

    def _recover(self, plan: str) -> str:
        job: str = self._client.command(f"/v1/plans/{plan}/recover", {"mode": "test"})["id"]
        return job

    def _reach(self, least: dict[str, int]) -> None:
        """Wait until so many are in flight of each kind, and enough in all if all kinds are."""
        total = IN_FLIGHT_MIN if len(least) == len(KINDS) else 0

        def reached() -> bool:
            counts = Counter(self._in_flight().values())
            return counts.total() >= total and all(counts[k] >= n for k, n in least.items())

        wait_until(reached, f"{least} are in flight, {total} in all", within_s=REACH_S_MAX)

    def _in_flight(self) -> dict[str, str]:
        """Claimed effects of the kinds that count, by id."""
        return asyncio.run(_claimed(self._plane.postgres.dsn()))

    def _take_away(self, seconds: float) -> None:
        """Stop Postgres for `seconds`; note when every process has said that it is not ready."""
        watches = [Watch(name, url) for name, url in self._health().items()]
        for watch in watches:
            watch.start()
        stopped = time.time()
        self._plane.postgres.stop()
        for watch in watches:
            watch.join(timeout=RESUMED_S_MAX)
        late = [watch.name for watch in watches if watch.unready_at is None]
        if late:
            self._verdict.wrong.append(f"never said 503: {', '.join(late)}")
        seen = [watch.unready_at for watch in watches if watch.unready_at is not None]
        self._verdict.unready_s = max(seen, default=stopped) - stopped
        say(f"stopped; not ready after {self._verdict.unready_s:.2f} s")
        left = stopped + seconds - time.time()
        wait_until(lambda: time.time() >= stopped + seconds, "the outage", within_s=left + 1)
        self._plane.postgres.start()
        self._verdict.outage_s = time.time() - stopped
        say("started again")

    def _health(self) -> dict[str, str]:
        """Where each process answers about its health, as it printed it."""
        found = dict(
            re.findall(r"^seawall (\w+) health (\S+)$", self._plane.log_tail(1 << 20), re.M)
        )
        assert set(found) == set(SERVICES), f"no health of {set(SERVICES) - set(found)}"
        return found

    def _resumed(self, back: float, known: set[str]) -> float:
        """When the first call of a step that was not in flight before was done."""
        found: list[float] = []

        def called() -> bool:
            for call in self._calls("west"):
                at = dt.datetime.fromisoformat(call["at"]).timestamp()
                key = call["key"].partition("@")[0]
                if key and at > back and key not in known and call["outcome"] == "ok":
                    found.append(at)
            return bool(found)

        wait_until(called, "work goes on", within_s=3 * RESUMED_S_MAX)
        say(f"work goes on {min(found) - back:.1f} s after Postgres is back")
        return min(found)

    def _calls(self, site: str) -> Iterator[dict[str, Any]]:
        for line in (self._root / site / "calls.jsonl").read_bytes().splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue  # the line that is being written

    def _judge_job(self, job: dict[str, Any]) -> None:
        path = f"/v1/jobs?limit=1000&parent_id={job['id']}"
        for each in (job, *self._client.request("GET", path)["items"]):
            if each["state"] != "completed":
                self._verdict.failed += 1
                self._verdict.wrong.append(f"{each['id']} {each['state']}: {each['error']}")
            again = [step["name"] for step in each["steps"] if step["attempts"] > 1]
            self._verdict.attempts += len(again)
            self._verdict.wrong += [f"{each['id']} tried {step} again" for step in again]

    def _judge_doubles(self) -> None:
        for site in ("east", "west"):
            done = Counter(
                (call["call"], call["key"])
                for call in self._calls(site)
                if call["outcome"] == "ok" and call["key"]
            )
            twice = [f"{site}: {key} {count}×" for key, count in done.items() if count > 1]
            self._verdict.doubled += len(twice)
            self._verdict.wrong += twice


class Watch(threading.Thread):
    """Asks one process whether it is ready until it says that it is not."""

    def __init__(self, name: str, url: str) -> None:
        super().__init__(name=name, daemon=True)
        self._url = f"{url}/readyz"
        self.unready_at: float | None = None

    def run(self) -> None:
        """Ask until 503, for at most RESUMED_S_MAX."""

        def unready() -> bool:
            try:
                with urllib.request.urlopen(self._url, timeout=5):
                    return False
            except urllib.error.HTTPError as refused:
                return refused.code == 503
            except OSError:
                return False

        try:
            wait_until(unready, f"{self.name} is not ready", within_s=RESUMED_S_MAX)
        except AssertionError:
            return
        self.unready_at = time.time()


async def _claimed(dsn: str) -> dict[str, str]:
    connection = await asyncpg.connect(dsn, timeout=SQL_TIMEOUT_S)
    try:
        rows = await connection.fetch(IN_FLIGHT, list(KINDS), timeout=SQL_TIMEOUT_S)
        return {row["effect_id"]: row["kind"] for row in rows}
    finally:
        await connection.close(timeout=SQL_TIMEOUT_S)


def say(text: str) -> None:
    """Tell whoever waits."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def main(arguments: list[str] | None = None) -> int:
    """Run one outage; the exit code."""
    parser = argparse.ArgumentParser(prog="make outage", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    verdict = run_outage(seconds=parser.parse_args(arguments).seconds)
    for wrong in verdict.wrong[:20]:
        say(wrong)
    sys.stdout.write(verdict.line() + "\n")
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
