"""`make crash N=50 SEED=7`: kill −9 trials of six processes, judged from outside.

A third of the trials kills at a random time, a third just after the k-th commit, a third after
the k-th platform call has returned and before its outcome is committed; k ≤ 200. *The k-th* is
counted over all processes together: commits to the logs of the five services that have one, and
calls that change something at a site. So k = 1 … 200 are 200 different moments of the main job
and what follows it, and whoever made the commit or call dies: a k per service would lie beyond
what most of them ever do. One process or all of them die, every third time the Postgres
postmaster too; then they start again. Every 25th trial stops a replicator for 30 s instead
(tests/acceptance/stopped.py). `SWEEP=1` does each of the 400 points once; `FROM=i` begins there.

Last line: `lost=0 doubled=0 unfinished=0 unknown=n resume_max=…s killed=n`; exit 1 if a bound is
broken, an *unknown* step has not a script with a start line and no end line, or fewer than 90 %
of the trials that should kill did.
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
from tests.acceptance.judge import RESUME_S_MAX, Verdict
from tests.acceptance.trial import KINDS, POINT_MAX, Trial, run_trial, say, trial_of

STOPPED = "stopped"
STOPPED_EVERY = 25
STOP_S = 30.0
KILLED_SHARE_MIN = 0.9
FOUND = ("lost", "doubled", "unfinished", "unfounded", "unknown")
N_DEFAULT = 50
TRIALS_MAX = 1000
BREAKS = (AssertionError, LookupError, OSError, SeawallError, TypeError, ValueError)
"""What may break a trial itself: it is told and counted as unfinished, and the others go on."""


def trials_of(*, seed: int, sweep: bool, kind: str = "") -> list[Trial]:
    """As many trials as may be wanted, in order.

    A sweep is every k once, of commits and of calls, shuffled: a part of it is a sample of all.
    """
    if sweep:
        swept = [
            trial_of(3 * k + place, seed, kind=kind, point=float(k))
            for k in range(1, POINT_MAX + 1)
            for place, kind in ((1, "commit"), (2, "call"))
        ]
        random.Random(seed).shuffle(swept)
        return swept
    return [
        trial_of(number, seed, kind=kind or ("" if (number + 1) % STOPPED_EVERY else STOPPED))
        for number in range(TRIALS_MAX)
    ]


def main(arguments: list[str] | None = None) -> int:
    """Run trials; the exit code."""
    parser = argparse.ArgumentParser(prog="make crash", description=__doc__)
    parser.add_argument("--n", type=int, help=f"how many trials; {N_DEFAULT}, or all of a sweep")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--kind", choices=(*KINDS, STOPPED), default="", help="only this kind")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--first", type=int, default=0, help="the first trial's index")
    parser.add_argument("--keep", action="store_true", help="keep the folders of trials")
    chosen = parser.parse_args(arguments)
    trials = trials_of(seed=chosen.seed, sweep=chosen.sweep, kind=chosen.kind)
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
        if trial.kind == STOPPED:
            verdict = _stopped(trial)
        else:
            verdict = run_trial(trial, server=server, keep=keep)
    except BREAKS:
        traceback.print_exc()
        verdict = Verdict(unfinished=["the trial itself broke"])
    took_s = time.monotonic() - began
    say(
        f"{index:3} {trial.name:32} killed {verdict.killed or 'nobody: not reached':24}"
        f" {took_s:5.1f} s  resume {verdict.resume_s:4.1f} s  load {os.getloadavg()[0]:4.1f}"
        f"  {'' if verdict.good else 'WRONG '}{_told(verdict)}"
    )
    return verdict


def _told(verdict: Verdict) -> str:
    """What was found, where anything was."""
    found = {name: getattr(verdict, name) for name in FOUND}
    found["late"] = verdict.resume_s > RESUME_S_MAX
    return "; ".join(f"{name}: {what}" for name, what in found.items() if what) or "ok"


def _stopped(trial: Trial) -> Verdict:
    verdict = stopped.run_trial(seconds=STOP_S, seed=trial.seed + trial.number).verdict
    verdict.killed = "stopped"
    return verdict


def _report(trials: list[Trial], verdicts: list[Verdict]) -> int:
    """The last line, and the exit code."""
    sums = {
        name: sum(len(getattr(verdict, name)) for verdict in verdicts)
        for name in ("lost", "doubled", "unfinished")
    }
    sums["unknown"] = sum(verdict.unknown for verdict in verdicts)
    resume = max((verdict.resume_s for verdict in verdicts), default=0.0)
    kills = [v.killed for t, v in zip(trials, verdicts, strict=True) if t.kind != STOPPED]
    killed = sum(map(bool, kills))
    counts = " ".join(f"{name}={count}" for name, count in sums.items())
    sys.stdout.write(f"{counts} resume_max={resume:.1f}s killed={killed}\n")
    enough = killed >= KILLED_SHARE_MIN * len(kills)
    return 0 if enough and all(verdict.good for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
