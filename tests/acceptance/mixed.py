"""`python -m tests.acceptance.mixed`: an old and a new build run side by side, and swap.

On one database and one broker: the old build replicates and begins a test recovery with the new
one beside it; half way the old copies are asked to end and the new ones finish it (an upgrade).
Then the old build comes beside the new one, another recovery begins, and half way the new copies
end (a roll-back). Old and new are *released* and *reads*, then *reads* and *writes* (builds.py):
two builds in a row, which is what the rule about versions allows (docs/published-types.md).

Judged from outside, as the other trials; beside that, that nothing was parked, and that the
versions that a build should write stand in the log.

Last line per pair: `old=… new=… upgrade=completed rollback=completed lost=0 doubled=0 parked=0
versions=…`; exit 1 on a miss.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from shared.process import LOGGED_SERVICES
from tests.acceptance.builds import EVENT, MESSAGE
from tests.acceptance.client import ENDED, Client, encoded_scripts
from tests.acceptance.crew import SERVICES
from tests.acceptance.fleet import Fleet
from tests.acceptance.judge import (
    Verdict,
    judge_cleanup,
    judge_doubles,
    judge_recovery,
    judge_scripts,
    judge_snapshots,
)
from tests.acceptance.load import BREAKS
from tests.acceptance.world import PLAN, VMS, World
from tests.waiting import wait_until

PAIRS = (("released", "reads"), ("reads", "writes"))
WRITTEN = {"released": 1, "reads": 1, "writes": 2}
LATENCY = "latency: {create_instance: 1s, power_on: 2s}\n"
"""A recovery that takes long enough to be met half way."""

JOB_S_MAX = 180.0
HALF_S_MAX = 120.0


class Outcome(msgspec.Struct, kw_only=True):
    """What a pair of builds came to. `versions` are those of the event and message in the log."""

    old: str
    new: str
    verdict: Verdict
    states: dict[str, str] = {}
    parked: int = 0
    versions: tuple[int, ...] = ()

    @property
    def good(self) -> bool:
        """Whether both directions came to their end with nothing wrong."""
        states = [self.states.get(way) for way in ("upgrade", "rollback")]
        expected = tuple(sorted({WRITTEN[self.old], WRITTEN[self.new]}))
        whole = states == ["completed", "completed"] and not self.parked
        return self.verdict.good and whole and self.versions == expected

    def line(self) -> str:
        """The last line of standard output."""
        ways = " ".join(f"{way}={self.states.get(way)}" for way in ("upgrade", "rollback"))
        lost = self.verdict.lost + self.verdict.unfounded + self.verdict.unfinished
        return (
            f"old={self.old} new={self.new} {ways} lost={len(lost)}"
            f" doubled={len(self.verdict.doubled)} parked={self.parked}"
            f" versions={','.join(map(str, self.versions))}"
        )


class Trial:
    """The steps of one pair of builds."""

    def __init__(self, fleet: Fleet, world: World, outcome: Outcome) -> None:
        self._fleet = fleet
        self._world = world
        self._outcome = outcome
        self._client = Client(fleet)

    def run(self) -> None:
        """Upgrade, then roll back."""
        self._protect()
        self._swap("upgrade", build=self._outcome.new, ended=1, begun=2)
        self._swap("rollback", build=self._outcome.old, ended=2, begun=3)
        found = asyncio.run(_found(self._fleet.dsn))
        self._outcome.parked, self._outcome.versions = found

    def _protect(self) -> None:
        for site in ("east", "west"):
            settings = {"path": str(self._world.root / site)}
            body = {"name": site, "platform": "lab", "settings": settings}
            self._client.command("/v1/sites", body)
        plan = self._world.plan()
        body = {**plan, "scripts": encoded_scripts(plan["scripts"])}
        self._client.command("/v1/plans", body)
        self._replicate()

    def _replicate(self) -> None:
        run = self._ended(self._client.command(f"/v1/plans/{PLAN}/run")["id"])
        if run["state"] != "completed":
            self._outcome.verdict.lost.append(f"replication {run['state']}: {run['error']}")

    def _swap(self, way: str, *, build: str, ended: int, begun: int) -> None:
        """Copies of a build come beside those that run, which end in the middle of a recovery."""
        self._fleet.build = ("tests.acceptance.builds", build)
        for service in SERVICES:
            self._fleet.begin(f"{service}-{begun}")
        say(f"{way}: {build} runs beside the other build")
        before = len(self._powered_on())
        job = self._client.command(f"/v1/plans/{PLAN}/recover", {"mode": "test"})["id"]
        wait_until(lambda: len(self._powered_on()) > before, "a VM is on", within_s=HALF_S_MAX)
        for service in SERVICES:
            self._fleet.dismiss(f"{service}-{ended}")
        half = self._client.job(job)["state"]
        assert half not in ENDED, f"the recovery was {half} before the others had ended"
        say(f"{way}: the recovery is {half}, {build} goes on alone")
        recovery = self._ended(job)
        self._outcome.states[way] = recovery["state"]
        self._judge(recovery)
        self._world.change_disks()
        self._replicate()

    def _judge(self, recovery: dict[str, Any]) -> None:
        verdict = self._outcome.verdict
        judge_recovery(self._world, recovery, verdict)
        shown = self._client.script_steps(recovery)
        judge_scripts(self._world.script_lines(), shown, verdict)
        cleanup = self._client.command(f"/v1/jobs/{recovery['id']}/cleanup")["id"]
        judge_cleanup(self._world, self._ended(cleanup), verdict)

    def _powered_on(self) -> list[dict[str, Any]]:
        """Power-ons of the VM that boots first."""
        calls = self._world.calls(self._world.west)
        return [
            call for call in calls
            if (call["call"], call["vm"], call["outcome"]) == ("power_on", VMS[0], "ok")
        ]  # fmt: skip

    def _ended(self, job: str) -> dict[str, Any]:
        return self._client.wait_job(job, timeout_s=JOB_S_MAX)


def run_trial(old: str, new: str, *, seed: int, keep: bool = False) -> Outcome:
    """One pair of builds in a world of its own."""
    outcome = Outcome(old=old, new=new, verdict=Verdict())
    root = Path(tempfile.mkdtemp(prefix="seawall-mixed-"))
    root.chmod(0o755)
    world = World(root, seed=seed)
    world.build()
    (world.west / "site.yaml").write_text(f"journal: true\n{LATENCY}")
    try:
        build = ("tests.acceptance.builds", old)
        with Fleet(root, brokers=1, copies=1, build=build) as fleet:
            fleet.wait_ready()
            try:
                Trial(fleet, world, outcome).run()
            except BREAKS as broken:
                told = [repr(broken), *getattr(broken, "__notes__", ())]
                outcome.verdict.unfinished.append(" ".join(told)[:800])
            judge_doubles(world, outcome.verdict)
            if not outcome.verdict.unfinished:
                judge_snapshots(world, outcome.verdict)
            if not outcome.good:
                say(fleet.log_tail())
    finally:
        if keep:
            say(f"kept {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    return outcome


async def _found(dsn: str) -> tuple[int, tuple[int, ...]]:
    """How much is parked, and the versions of the event and the message that stand in the logs."""
    connection = await asyncpg.connect(dsn)
    try:
        parked = 0
        versions: set[int] = set()
        for service in LOGGED_SERVICES:
            parked += await connection.fetchval(f'select count(*) from "{service}".parked')
            rows = await connection.fetch(
                f'select distinct schema_version from "{service}".log where type = any ($1)',
                [EVENT, MESSAGE],
            )
            versions |= {row["schema_version"] for row in rows}
        return parked, tuple(sorted(versions))
    finally:
        await connection.close()


def say(text: str) -> None:
    """Tell whoever waits."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def report(outcome: Outcome) -> int:
    """Print what is wrong and the line of a pair; the exit code."""
    if not outcome.verdict.good:
        say(str(msgspec.to_builtins(outcome.verdict)))
    sys.stdout.write(outcome.line() + "\n")
    return 0 if outcome.good else 1


def main(arguments: list[str] | None = None) -> int:
    """Run both pairs; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.mixed")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--keep", action="store_true", help="keep the folders")
    chosen = parser.parse_args(arguments)
    return max(
        report(run_trial(old, new, seed=chosen.seed, keep=chosen.keep)) for old, new in PAIRS
    )


if __name__ == "__main__":
    sys.exit(main())
