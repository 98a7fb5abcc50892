"""One crash trial: six processes at work in a world of their own, kills, restarts, a verdict.

What is done and where the kills fall is an operation's (`work`). The first is the main job: two
sites, a plan, two runs of it, a test recovery of three VMs with scripts, the cleanup; the others
are full recoveries and what is decided about them, in a world whose sources run. Where the last
kill has not come by then, rounds of a second plan follow (a run, a test recovery, a cleanup)
until it comes or `ROUNDS_MAX` are done. The main job makes some 200 commits and 48 mutating
platform calls, a round some 40 and 66.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from shared.embedded import EmbeddedPostgres
from tests.acceptance.client import Client
from tests.acceptance.crew import SERVICES
from tests.acceptance.judge import (
    Resume,
    Verdict,
    judge_accepted,
    judge_doubles,
    judge_snapshots,
)
from tests.acceptance.live import LiveWorld
from tests.acceptance.plane import Plane
from tests.acceptance.work import MIXED, OPERATIONS, STAGES, Stage, Work
from tests.acceptance.world import PLAN, World
from tests.waiting import wait_until

KINDS = ("time", "commit", "call")
ROUNDS_MAX = 6
LOOK_S = 0.005
UP_LOOK_S = 0.05
START_S_MAX = 60.0
KILLER_S_MAX = 120.0


class Shot(msgspec.Struct, frozen=True, kw_only=True):
    """What dies when.

    `point` is seconds from when it is aimed, after which `victim` dies, or the k of the k-th
    commit or call of all processes from then on, after which the one dies that made it.
    """

    kind: str
    point: float
    victim: str = ""
    everyone: bool = False
    postmaster: bool = False

    @property
    def name(self) -> str:
        """What is aimed at, in words."""
        point = f"{self.point:.1f}s" if self.kind == "time" else f"{self.point:.0f}"
        who = f"{self.victim or 'whoever'}{'+all' if self.everyone else ''}"
        return f"{self.kind:6} {point:>5} {who}{'+postgres' if self.postmaster else ''}"


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """An operation, and by stage the kills that are aimed into it."""

    number: int
    seed: int
    operation: str
    shots: Mapping[str, Shot]

    @property
    def name(self) -> str:
        """What is done and what is aimed at, in words."""
        aimed = [shot.name for shot in self.shots.values()]
        return f"{self.operation:16} {aimed[0] if len(aimed) == 1 else f'{len(aimed)} kills'}"


def trial_of(
    number: int, seed: int, *, operation: str = "", kind: str = "", point: float | None = None
) -> Trial:
    """The trial of a number and seed, always the same; `operation`, `kind` and `point` may be
    given."""
    operation = operation or MIXED[number % len(MIXED)]
    chance = random.Random(f"{seed}/{number}")
    shots = {}
    for place, aim in enumerate(OPERATIONS[operation].aims, number):
        drawn = kind or KINDS[place % len(KINDS)]
        shot = _shot(chance, drawn, STAGES[aim], point)
        postmaster = place // len(KINDS) % 3 == 2
        shots[aim] = msgspec.structs.replace(shot, postmaster=postmaster)
    return Trial(number=number, seed=seed, operation=operation, shots=shots)


def _shot(chance: random.Random, kind: str, stage: Stage, point: float | None) -> Shot:
    highest = stage.commits
    if kind == "call" and not stage.calls:
        kind = "commit"
    elif kind == "call":
        # The small numbers are where the stage is: more than half lie there.
        highest = chance.choice((stage.calls, stage.calls + stage.calls_beyond))
    drawn = (
        chance.uniform(0, stage.seconds) if kind == "time" else float(chance.randint(1, highest))
    )
    return Shot(
        kind=kind,
        point=drawn if point is None else point,
        victim=chance.choice(SERVICES) if kind == "time" else "",
        everyone=chance.random() < 0.5,
    )


class Killer:
    """Waits for the moment of a shot, kills, starts again; one shot at a time.

    `killed` says who died, shot by shot; `restarts` when all were started again after each, and
    how long after that they said so.
    """

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._hit = threading.Event()
        self.killed: list[str] = []
        self.restarts: list[tuple[float, float]] = []

    @property
    def waits(self) -> bool:
        """Whether a shot is aimed whose moment is still to come."""
        return self._thread is not None and not self._hit.is_set()

    def aim(self, shot: Shot) -> None:
        """Aim, in place of the shot before."""
        self.withdraw()
        self._over, self._hit = threading.Event(), threading.Event()
        if shot.kind != "time":
            self._plane.aim(f"{shot.kind}:{shot.point:.0f}")
        self._thread = threading.Thread(target=self._run, args=(shot,), name="killer")
        self._thread.start()

    def withdraw(self) -> None:
        """Kill no more; returns once everything that was killed was started again."""
        self._plane.aim_at_nothing()
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=KILLER_S_MAX)
            self._thread = None

    def _run(self, shot: Shot) -> None:
        dead = self._moment(shot)
        if not dead:
            return
        if shot.postmaster:
            self._plane.postgres.kill()
        if shot.everyone:
            self._plane.kill(self._plane.running())
        self.killed.append(", ".join(sorted(dead)))
        self._hit.set()
        if shot.postmaster:
            self._plane.postgres.start()
        told = self._plane.log_size()
        started = self._plane.start_all()
        at = time.time()
        with contextlib.suppress(AssertionError):  # Who does not come up is found by the work.
            wait_until(
                lambda: self._plane.said_up(started, since=told),
                "what was started says so",
                within_s=START_S_MAX,
                poll_s=UP_LOOK_S,
            )
        self.restarts.append((at, time.time() - at))

    def _moment(self, shot: Shot) -> set[str]:
        """Who died first, when the moment has come; nobody if the work was over before."""
        if shot.kind == "time":
            if self._over.wait(shot.point):
                return set()
            self._plane.kill({shot.victim})
            return {shot.victim}
        while not (dead := self._plane.killed()):
            if self._over.wait(LOOK_S):
                return self._plane.killed()
        return dead


def run_trial(trial: Trial, *, server: EmbeddedPostgres, keep: bool = False) -> Verdict:
    """One trial, its world removed afterwards unless `keep`."""
    root = Path(tempfile.mkdtemp(prefix="seawall-crash-"))
    root.chmod(0o755)
    made = World if trial.operation == "test" else LiveWorld
    world = made(root, seed=trial.seed * 1000 + trial.number)
    verdict = Verdict()
    try:
        world.build()
        with Plane(root, server=server) as plane:
            killer = Killer(plane)
            try:
                _run_killed(trial, killer, plane, world, verdict)
            finally:
                killer.withdraw()
        judge_doubles(world, verdict)
        if not verdict.unfinished:
            judge_snapshots(world, verdict)
    finally:
        if isinstance(world, LiveWorld):
            world.stop()
        if keep:
            say(f"kept {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    return verdict


def _run_killed(
    trial: Trial, killer: Killer, plane: Plane, world: World, verdict: Verdict
) -> None:
    """Work while the killer does its own, and judge what can only be judged while it runs."""
    plane.start_all()
    client = Client(plane)
    work = Work(client, world, verdict)
    try:
        _work(trial, killer, plane, work)
    except (AssertionError, OSError, LookupError, ValueError) as broken:
        told = [repr(broken), *getattr(broken, "__notes__", ())]
        verdict.unfinished.append(" ".join(told)[:600])
        say(plane.log_tail())
    killer.withdraw()
    for name, process in plane.processes.items():
        if process.poll() is not None:
            verdict.unfinished.append(f"{name} ended by itself with {process.returncode}")
    judge_accepted(world, client.accepted.values(), verdict)
    work.judge()
    verdict.killed = tuple(killer.killed)
    verdict.resumes = tuple(
        Resume(resume_s=_resume_s(world, at), start_s=start_s) for at, start_s in killer.restarts
    )


def _work(trial: Trial, killer: Killer, plane: Plane, work: Work) -> None:
    """Go through the stages, then on until the last kill has come."""
    operation = OPERATIONS[trial.operation]
    if operation.stages[0] != "test":
        work.protect()
    elif trial.shots["test"].kind == "time":
        plane.wait_ready()
    for name in operation.stages:
        if name in trial.shots:
            killer.aim(trial.shots[name])
        STAGES[name].do(work)
    if operation.stages[0] != "test":
        if operation.replicated:
            work.replicate(PLAN)
        work.test_recover(PLAN)
    for _ in range(ROUNDS_MAX):
        if not killer.waits:
            break
        work.round()


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
