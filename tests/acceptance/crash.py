"""`make crash N=50 SEED=7`: kill −9 trials of six processes, judged from outside.

The trials go in turn through the main job with its test recovery, failover, migration, a migration
that must be taken back, roll back, commit and cleanup, then reverse replication, iterations in
reverse, failback, its roll back, its commit, and the cleanup after it (`work.OPERATIONS`);
`OPERATION=` does one of them alone, *chain* all the way there and back in one world. A third of
the trials kills at a random time, a third just after the k-th commit, a third after the k-th
platform call has returned and before its outcome is committed. *The k-th* is counted over all
processes together, from where the operation begins: commits to the logs of the five services that
have one, and calls that change something at a site. So k = 1 … 200 are 200 different moments of
the main job and what follows it, and whoever made the commit or call dies: a k per service would
lie beyond what most of them ever do. One process or all of them die, every third time the Postgres
postmaster too; then they start again. Every 25th trial stops a replicator for 30 s instead
(tests/acceptance/stopped.py). `SWEEP=1` does each point of every operation once; `FROM=i` begins
there.

Last line: `lost=0 doubled=0 unfinished=0 unknown=n resume_max=…s killed=n`; exit 1 if a bound is
broken (10 s to go on after a restart, and what starting the processes took beyond 5 s), an
*unknown* step has not a script with a start line and no end line, or fewer than 90 % of the kills
came.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.embedded import EmbeddedPostgres
from shared.errors import SeawallError
from tests.acceptance import stopped
from tests.acceptance.judge import Verdict
from tests.acceptance.trial import KINDS, Trial, run_trial, say, trial_of
from tests.acceptance.work import CHAIN, MIXED, OPERATIONS, STAGES

STOPPED = "stopped"
STOPPED_EVERY = 25
STOP_S = 30.0
KILLED_SHARE_MIN = 0.9
FOUND = ("lost", "doubled", "unfinished", "unfounded", "unknown")
N_DEFAULT = 50
TRIALS_MAX = 1000
BREAKS = (AssertionError, LookupError, OSError, SeawallError, TypeError, ValueError)
"""What may break a trial itself: it is told and counted as unfinished, and the others go on."""


def trials_of(*, seed: int, sweep: bool, operation: str = "", kind: str = "") -> list[Trial]:
    """As many trials as may be wanted, in order.

    A sweep is every point of the operation once, or of all of them, shuffled: a part of it is a
    sample of all. It is of operations with one kill.
    """
    if sweep:
        swept = [
            each for name in ([operation] if operation else MIXED) for each in _sweep(name, seed)
        ]
        random.Random(seed).shuffle(swept)
        return swept
    every = STOPPED_EVERY if operation in ("", "test") and not kind else TRIALS_MAX + 1
    return [
        _stopping(number, seed)
        if kind == STOPPED or (number + 1) % every == 0
        else trial_of(number, seed, operation=operation, kind=kind)
        for number in range(TRIALS_MAX)
    ]


def _sweep(operation: str, seed: int) -> list[Trial]:
    (aim,) = OPERATIONS[operation].aims
    stage = STAGES[aim]
    points = {"commit": stage.commits, "call": stage.calls + stage.calls_beyond}
    return [
        trial_of(3 * k + place, seed, operation=operation, kind=kind, point=float(k))
        for place, (kind, highest) in enumerate(points.items(), 1)
        for k in range(1, highest + 1)
    ]


def _stopping(number: int, seed: int) -> Trial:
    return Trial(number=number, seed=seed, operation=STOPPED, shots={})


def main(arguments: list[str] | None = None) -> int:
    """Run trials; the exit code."""
    parser = argparse.ArgumentParser(prog="make crash", description=__doc__)
    parser.add_argument("--n", type=int, help=f"how many trials; {N_DEFAULT}, or all of a sweep")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--kind", choices=(*KINDS, STOPPED), default="", help="only this kind")
    parser.add_argument("--operation", choices=OPERATIONS, default="", help="only this operation")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--first", type=int, default=0, help="the first trial's index")
    parser.add_argument("--keep", action="store_true", help="keep the folders of trials")
    chosen = parser.parse_args(arguments)
    if chosen.sweep and chosen.operation == CHAIN:
        parser.error(f"{CHAIN} is several kills: sweep the operations it is made of")
    trials = trials_of(
        seed=chosen.seed, sweep=chosen.sweep, operation=chosen.operation, kind=chosen.kind
    )
    count = chosen.n or (len(trials) if chosen.sweep else N_DEFAULT)
    trials = trials[chosen.first : chosen.first + count]
    with _server() as server:
        verdicts = [
            _judged(index, trial, server=server, keep=chosen.keep)
            for index, trial in enumerate(trials, chosen.first)
        ]
    return _report(trials, verdicts)


@contextmanager
def _server() -> Iterator[EmbeddedPostgres]:
    """The Postgres of all trials; each has a database of its own in it."""
    with tempfile.TemporaryDirectory(prefix="seawall-crash-server-") as folder:
        Path(folder).chmod(0o755)
        server = EmbeddedPostgres(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _judged(index: int, trial: Trial, *, server: EmbeddedPostgres, keep: bool) -> Verdict:
    """Run one trial and tell how it went."""
    began = time.monotonic()
    try:
        if trial.operation == STOPPED:
            verdict = _stopped(trial)
        else:
            verdict = run_trial(trial, server=server, keep=keep)
    except BREAKS:
        traceback.print_exc()
        verdict = Verdict(unfinished=["the trial itself broke"])
    took_s = time.monotonic() - began
    say(
        f"{index:3} {trial.name:48} killed {'; '.join(verdict.killed) or 'nobody':24}"
        f" {took_s:5.1f} s  resume {verdict.worst.resume_s:4.1f} s"
        f" ({verdict.worst.start_s:.1f} to start)  load {os.getloadavg()[0]:4.1f}"
        f"  {'' if verdict.good else 'WRONG '}{_told(verdict)}"
    )
    return verdict


def _told(verdict: Verdict) -> str:
    """What was found, where anything was."""
    found = {name: getattr(verdict, name) for name in FOUND}
    found["late"] = verdict.late
    return "; ".join(f"{name}: {what}" for name, what in found.items() if what) or "ok"


def _stopped(trial: Trial) -> Verdict:
    return stopped.run_trial(seconds=STOP_S, seed=trial.seed + trial.number).verdict


def _report(trials: list[Trial], verdicts: list[Verdict]) -> int:
    """The last line, and the exit code."""
    sums = {
        name: sum(len(getattr(verdict, name)) for verdict in verdicts)
        for name in ("lost", "doubled", "unfinished")
    }
    sums["unknown"] = sum(verdict.unknown for verdict in verdicts)
    resume = max((verdict.worst.resume_s for verdict in verdicts), default=0.0)
    aimed = sum(len(trial.shots) for trial in trials)
    killed = sum(len(verdict.killed) for verdict in verdicts)
    counts = " ".join(f"{name}={count}" for name, count in sums.items())
    sys.stdout.write(f"{counts} resume_max={resume:.1f}s killed={killed}\n")
    enough = killed >= KILLED_SHARE_MIN * aimed
    return 0 if enough and all(verdict.good for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
