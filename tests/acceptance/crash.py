"""`make crash N=50 SEED=7`: kill −9 trials of six processes, judged from outside.

A third of the trials kills at a random time, a third just after the k-th commit of a service, a
third after the k-th platform call has returned and before its outcome is committed. One process
or all of them die, every third time the Postgres postmaster too; then they start again.
Last line: `lost=0 doubled=0 unfinished=0 unknown=n resume_max=…s`; exit 1 if a bound is broken.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import msgspec

from shared.errors import SeawallError
from tests.acceptance.client import Client, encoded_scripts
from tests.acceptance.judge import (
    Verdict,
    judge_cleanup,
    judge_doubles,
    judge_recovery,
    judge_snapshots,
)
from tests.acceptance.plane import SERVICES, Plane
from tests.acceptance.world import PLAN, World

KINDS = ("time", "commit", "call")
POINT_MAX = 200
WORK_S = 5.0
COMMITTING = ("gateway", "scheduler", "replicator", "recovery", "notifier")
CALLING = ("replicator", "recovery")
BREAKS = (AssertionError, LookupError, OSError, SeawallError, TypeError, ValueError)
"""What may break a trial itself: it is told and counted as unfinished, and the others go on."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What dies when. `point` is seconds, or the k of the k-th commit or call."""

    number: int
    seed: int
    kind: str
    victim: str
    point: float
    everyone: bool
    postmaster: bool


def trial_of(number: int, seed: int) -> Trial:
    """The trial of a number and seed, always the same."""
    chance = random.Random(f"{seed}/{number}")
    kind = KINDS[number % 3]
    victim = chance.choice({"time": SERVICES, "commit": COMMITTING, "call": CALLING}[kind])
    # The small numbers are where the main job is: half of the points lie below 25.
    highest = chance.choice((25, POINT_MAX))
    point = chance.uniform(0, WORK_S) if kind == "time" else float(chance.randint(1, highest))
    return Trial(
        number=number,
        seed=seed,
        kind=kind,
        victim=victim,
        point=point,
        everyone=chance.random() < 0.5,
        postmaster=number // 3 % 3 == 2,
    )


class Killer(threading.Thread):
    """Waits for the moment, kills, starts again; `resumed_at` is when all were started again."""

    def __init__(self, trial: Trial, plane: Plane, over: threading.Event) -> None:
        super().__init__(name="killer")
        self._trial = trial
        self._plane = plane
        self._over = over
        self.resumed_at: float | None = None

    def run(self) -> None:
        """Kill once."""
        trial = self._trial
        if trial.kind == "time":
            if self._over.wait(trial.point):
                return
        else:
            while trial.victim in self._plane.running():
                if self._over.wait(0.005):
                    return
        if trial.postmaster:
            self._plane.postgres.kill()
        dying = self._plane.running() if trial.everyone else {trial.victim}
        self._plane.kill(dying)
        if trial.postmaster:
            self._plane.postgres.start()
        self._plane.start_all()
        self.resumed_at = time.time()


def run_trial(trial: Trial, *, keep: bool = False) -> Verdict:
    """One trial in a world of its own, removed afterwards unless `keep`."""
    root = Path(tempfile.mkdtemp(prefix="seawall-crash-"))
    root.chmod(0o755)
    world = World(root, seed=trial.seed * 1000 + trial.number)
    world.build()
    verdict = Verdict()
    over = threading.Event()
    try:
        with Plane(root) as plane:
            armed = (
                {} if trial.kind == "time" else {trial.victim: f"{trial.kind}:{trial.point:.0f}"}
            )
            plane.start_all(armed=armed)
            if trial.kind == "time":
                plane.wait_ready()
            killer = Killer(trial, plane, over)
            killer.start()
            try:
                _work(Client(plane), world, verdict)
            except (AssertionError, OSError, KeyError, ValueError) as broken:
                verdict.unfinished.append(f"{broken!r}"[:600])
                say(plane.log_tail())
            over.set()
            killer.join(timeout=60)
            if killer.resumed_at is not None:
                verdict.resume_s = _resume_s(world, killer.resumed_at)
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


def _work(client: Client, world: World, verdict: Verdict) -> None:
    """What an operator does: protect, replicate twice, test-recover, clean up."""
    for site in ("east", "west"):
        path = str(world.root / site)
        body = {"name": site, "platform": "lab", "settings": {"path": path}}
        client.command("/v1/sites", body)
    plan = world.plan()
    client.command("/v1/plans", {**plan, "scripts": encoded_scripts(plan["scripts"])})
    for _ in range(2):
        run = client.wait_job(client.command(f"/v1/plans/{PLAN}/run")["id"])
        if run["state"] != "completed":
            verdict.lost.append(f"replication {run['state']}: {_why(client, run)}")
        world.change_disks()
    recovery = client.command(f"/v1/plans/{PLAN}/recover", {"mode": "test"})
    recovery = client.wait_job(recovery["id"])
    judge_recovery(world, recovery, verdict)
    cleanup = client.wait_job(client.command(f"/v1/jobs/{recovery['id']}/cleanup")["id"])
    judge_cleanup(world, cleanup, verdict)


def _why(client: Client, job: dict[str, Any]) -> str:
    told = [client.job(child) for child in job["children"]]
    return json.dumps([(child["vm"], child["state"], child["error"]) for child in told])


def _resume_s(world: World, resumed_at: float) -> float:
    """Seconds from the restart to the next platform call; 0 where none was to come."""
    import datetime as dt

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


def trials_of(*, count: int, seed: int, sweep: bool) -> list[Trial]:
    """The trials of a run; a sweep is every k once, of commits and of calls."""
    if not sweep:
        return [trial_of(number, seed) for number in range(count)]
    chance = random.Random(seed)
    return [
        msgspec.structs.replace(
            trial_of(number * 3 + (1 if kind == "commit" else 2), seed),
            kind=kind,
            victim=chance.choice(COMMITTING if kind == "commit" else CALLING),
            point=float(number + 1),
        )
        for number in range(POINT_MAX)
        for kind in ("commit", "call")
    ]


def main(arguments: list[str] | None = None) -> int:
    """Run trials; the exit code."""
    parser = argparse.ArgumentParser(prog="make crash", description=__doc__)
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--only", type=int, help="one trial by its number")
    parser.add_argument("--keep", action="store_true", help="keep the folders of trials")
    chosen = parser.parse_args(arguments)
    trials = trials_of(count=chosen.n, seed=chosen.seed, sweep=chosen.sweep)
    if chosen.only is not None:
        trials = [trial_of(chosen.only, chosen.seed)]
    verdicts = []
    for trial in trials:
        began = time.monotonic()
        try:
            verdict = run_trial(trial, keep=chosen.keep)
        except BREAKS:
            traceback.print_exc()
            verdict = Verdict(unfinished=["the trial itself broke"])
        verdicts.append(verdict)
        say(
            f"{trial.number:3} {trial.kind:6} {trial.victim:10} {trial.point:6.1f}"
            f" {'all' if trial.everyone else 'one'}{'+pg' if trial.postmaster else '   '}"
            f" {time.monotonic() - began:5.1f} s  resume {verdict.resume_s:4.1f} s"
            f"  {'ok' if verdict.good else msgspec.to_builtins(verdict)}"
        )
    return _report(verdicts)


def _report(verdicts: list[Verdict]) -> int:
    sums = {
        name: sum(len(getattr(verdict, name)) for verdict in verdicts)
        for name in ("lost", "doubled", "unfinished")
    }
    unknown = sum(verdict.unknown for verdict in verdicts)
    resume = max((verdict.resume_s for verdict in verdicts), default=0.0)
    counts = " ".join(f"{name}={count}" for name, count in sums.items())
    sys.stdout.write(f"{counts} unknown={unknown} resume_max={resume:.1f}s\n")
    return 0 if all(verdict.good for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
