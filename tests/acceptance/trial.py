"""One crash trial: six processes at work in a world of their own, a kill, a restart, a verdict.

The work is the main job: two sites, a plan, two runs of it, a test recovery of three VMs with
scripts, the cleanup. Where the kill has not come by then, rounds of a second plan follow (a run,
a test recovery, a cleanup) until it comes or `ROUNDS_MAX` are done. The main job makes some 200
commits and 48 mutating platform calls, a round some 40 and 66.
"""

from __future__ import annotations

import datetime as dt
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from shared.embedded import EmbeddedPostgres
from tests.acceptance.client import Client, encoded_scripts
from tests.acceptance.crew import SERVICES
from tests.acceptance.judge import (
    Verdict,
    judge_accepted,
    judge_cleanup,
    judge_doubles,
    judge_recovery,
    judge_scripts,
    judge_snapshots,
)
from tests.acceptance.plane import Plane
from tests.acceptance.world import MORE, PLAN, World

KINDS = ("time", "commit", "call")
POINT_MAX = 200
WORK_S = 4.0
"""An idle machine needs 3 s for the main job: some trials kill in what comes after it."""

MAIN_CALLS = 48
ROUNDS_MAX = 6
LOOK_S = 0.005
KILLER_S_MAX = 60.0


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What dies when.

    `point` is seconds from ready on, after which `victim` dies, or the k of the k-th commit or
    call of all processes, after which the one dies that made it.
    """

    number: int
    seed: int
    kind: str
    point: float
    victim: str = ""
    everyone: bool = False
    postmaster: bool = False

    @property
    def armed(self) -> str:
        """The point as the services are told it; '' where the killer keeps the time."""
        return "" if self.kind == "time" else f"{self.kind}:{self.point:.0f}"

    @property
    def name(self) -> str:
        """What is aimed at, in words."""
        point = f"{self.point:.1f}s" if self.kind == "time" else f"{self.point:.0f}"
        who = f"{self.victim or 'whoever'}{'+all' if self.everyone else ''}"
        return f"{self.kind:6} {point:>5} {who}{'+postgres' if self.postmaster else ''}"


def trial_of(number: int, seed: int, *, kind: str = "", point: float | None = None) -> Trial:
    """The trial of a number and seed, always the same; `kind` and `point` may be given."""
    chance = random.Random(f"{seed}/{number}")
    kind = kind or KINDS[number % len(KINDS)]
    # The small numbers of calls are where the main job is: more than half lie there.
    highest = chance.choice((MAIN_CALLS, POINT_MAX)) if kind == "call" else POINT_MAX
    drawn = chance.uniform(0, WORK_S) if kind == "time" else float(chance.randint(1, highest))
    return Trial(
        number=number,
        seed=seed,
        kind=kind,
        point=drawn if point is None else point,
        victim=chance.choice(SERVICES) if kind == "time" else "",
        everyone=chance.random() < 0.5,
        postmaster=number // len(KINDS) % 3 == 2,
    )


class Killer(threading.Thread):
    """Waits for the moment, kills, starts again; `resumed_at` is when all were started again."""

    def __init__(self, trial: Trial, plane: Plane, over: threading.Event) -> None:
        super().__init__(name="killer")
        self._trial = trial
        self._plane = plane
        self._over = over
        self.done = threading.Event()
        self.killed = ""
        self.resumed_at: float | None = None

    def run(self) -> None:
        """Kill once."""
        dead = self._moment()
        if not dead:
            return
        if self._trial.postmaster:
            self._plane.postgres.kill()
        if self._trial.everyone:
            self._plane.kill(self._plane.running())
        self.killed = ", ".join(sorted(dead))
        self.done.set()
        if self._trial.postmaster:
            self._plane.postgres.start()
        self._plane.start_all()
        self.resumed_at = time.time()

    def _moment(self) -> set[str]:
        """Who died first, when the moment has come; nobody if the work was over before."""
        trial = self._trial
        if trial.kind == "time":
            if self._over.wait(trial.point):
                return set()
            self._plane.kill({trial.victim})
            return {trial.victim}
        while not (dead := self._plane.killed()):
            if self._over.wait(LOOK_S):
                return set()
        return dead


def run_trial(trial: Trial, *, server: EmbeddedPostgres, keep: bool = False) -> Verdict:
    """One trial, its world removed afterwards unless `keep`."""
    root = Path(tempfile.mkdtemp(prefix="seawall-crash-"))
    root.chmod(0o755)
    world = World(root, seed=trial.seed * 1000 + trial.number)
    world.build()
    verdict = Verdict()
    over = threading.Event()
    try:
        with Plane(root, server=server) as plane:
            plane.start_all(kill_after=trial.armed)
            if trial.kind == "time":
                plane.wait_ready()
            _run_killed(Killer(trial, plane, over), plane, world, verdict, over)
        judge_doubles(world, verdict)
        if not verdict.unfinished:
            judge_snapshots(world, verdict)
    finally:
        over.set()
        if keep:
            say(f"kept {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    return verdict


def _run_killed(
    killer: Killer, plane: Plane, world: World, verdict: Verdict, over: threading.Event
) -> None:
    """Work while the killer does its own, and judge what can only be judged while it runs."""
    killer.start()
    client = Client(plane)
    work = Work(client, world, verdict)
    try:
        work.main_job()
        for _ in range(ROUNDS_MAX):
            if killer.done.is_set():
                break
            work.round()
    except (AssertionError, OSError, LookupError, ValueError) as broken:
        told = [repr(broken), *getattr(broken, "__notes__", ())]
        verdict.unfinished.append(" ".join(told)[:600])
        say(plane.log_tail())
    over.set()
    killer.join(timeout=KILLER_S_MAX)
    for name, process in plane.processes.items():
        if process.poll() is not None:
            verdict.unfinished.append(f"{name} ended by itself with {process.returncode}")
    judge_accepted(world, client.accepted.values(), verdict)
    verdict.killed = killer.killed
    if killer.resumed_at is not None:
        verdict.resume_s = _resume_s(world, killer.resumed_at)


class Work:
    """What an operator does in a trial."""

    def __init__(self, client: Client, world: World, verdict: Verdict) -> None:
        self._client = client
        self._world = world
        self._verdict = verdict
        self._applied: set[str] = set()

    def main_job(self) -> None:
        """Register the sites, protect, replicate twice, test-recover, clean up."""
        for site in ("east", "west"):
            settings = {"path": str(self._world.root / site)}
            body = {"name": site, "platform": "lab", "settings": settings}
            self._client.command("/v1/sites", body)
        self._replicate(PLAN)
        self._replicate(PLAN)
        self._recover(PLAN)

    def round(self) -> None:
        """Replicate, test-recover and clean up the second plan."""
        self._replicate(MORE)
        self._recover(MORE)

    def _replicate(self, plan: str) -> None:
        """A run of the plan, which is applied before the first, over disks that change."""
        if plan not in self._applied:
            body = self._world.plan(plan)
            body["scripts"] = encoded_scripts(body["scripts"])
            self._client.command("/v1/plans", body)
            self._applied.add(plan)
        run = self._client.wait_job(self._client.command(f"/v1/plans/{plan}/run")["id"])
        if run["state"] != "completed":
            self._verdict.lost.append(f"replication {run['state']}: {self._why(run)}")
        self._world.change_disks(plan)

    def _recover(self, plan: str) -> None:
        job = self._client.command(f"/v1/plans/{plan}/recover", {"mode": "test"})["id"]
        recovery = self._client.wait_job(job)
        judge_recovery(self._world, recovery, self._verdict)
        shown = self._client.script_steps(recovery)
        judge_scripts(self._world.script_lines(), shown, self._verdict)
        if recovery["state"] != "completed" and "unknown" not in shown.values():
            self._verdict.lost.append(f"recovery {recovery['state']}: {self._why(recovery)}")
        cleanup = self._client.wait_job(self._client.command(f"/v1/jobs/{job}/cleanup")["id"])
        judge_cleanup(self._world, cleanup, self._verdict)

    def _why(self, job: dict[str, Any]) -> str:
        told = [self._client.job(child) for child in job["children"]]
        return json.dumps([(child["vm"], child["state"], child["error"]) for child in told])


def _resume_s(world: World, resumed_at: float) -> float:
    """Seconds from the restart to the next platform call; 0 where none was to come."""
    moments = [
        dt.datetime.fromisoformat(call["at"]).timestamp()
        for site in (world.east, world.west)
        for call in world.calls(site)
    ]
    later = [moment - resumed_at for moment in moments if moment >= resumed_at]
    return min(later, default=0.0)


def say(text: str) -> None:
    """Tell whoever waits."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
