"""`python -m tests.simulation --seeds 20 [--seed FIRST] [--kind main|counter|recovery]`.

Runs every seed's world twice, the second time in another process with another hash seed, judges
the first and compares the histories. The last line is
`seeds=… failed=0 histories_repeated=ok`; the exit code is 1 if anything was broken.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from tests.simulation import counter, drills
from tests.simulation import main as whole
from tests.simulation.quiet import quiet
from tests.simulation.verdict import Verdict

KINDS: Final[dict[str, Callable[[int], Verdict]]] = {
    "counter": counter.run,
    "main": whole.run,
    "recovery": drills.run,
}
REPLAY_S_MAX: Final = 3600.0
BROKEN_SHOWN_MAX: Final = 12


def main(argv: Sequence[str] | None = None) -> int:
    """Run, report, and say with the exit code whether all was well."""
    asked = _arguments(argv)
    kinds = [asked.kind] if asked.kind else sorted(KINDS)
    seeds = range(asked.seed, asked.seed + asked.seeds)
    if asked.replay:
        for kind, seed in ((kind, seed) for seed in seeds for kind in kinds):
            print(kind, seed, _run(kind, seed, verbose=False).digest, flush=True)
        return 0
    replay = _start_replay(asked)
    try:
        runs = [_told(kind, seed, verbose=asked.verbose) for seed in seeds for kind in kinds]
        digests = _digests(replay)
    finally:
        replay.kill()
        replay.wait()
    failed = sum(bool(run.broken) for run in runs)
    differ = [run for run in runs if digests.get((run.kind, run.seed)) != run.digest]
    for run in differ:
        print(f"{run.kind} seed={run.seed}: the same seed gave another history")
    repeated = "ok" if not differ else f"{len(differ)}-differ"
    print(f"seeds={len(seeds)} failed={failed} histories_repeated={repeated}")
    return 1 if failed or differ else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.simulation", description="Random worlds.")
    parser.add_argument("--seeds", type=int, default=20, help="how many")
    parser.add_argument("--seed", type=int, default=1, help="the first")
    parser.add_argument("--kind", choices=sorted(KINDS), help="one kind only")
    parser.add_argument("--verbose", action="store_true", help="logs, and what befell the world")
    parser.add_argument("--replay", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _run(kind: str, seed: int, *, verbose: bool) -> Verdict:
    with quiet(verbose=verbose) as errors:
        verdict = KINDS[kind](seed)
    verdict.broken += [f"logged: {error}" for error in errors]
    return verdict


def _told(kind: str, seed: int, *, verbose: bool) -> Verdict:
    began = time.perf_counter()
    verdict = _run(kind, seed, verbose=verbose)
    took_s = time.perf_counter() - began
    facts = " ".join(f"{name}={value}" for name, value in verdict.facts.items())
    print(f"{kind} seed={seed} {'FAILED' if verdict.broken else 'ok'} {took_s:.1f}s {facts}")
    if verbose or verdict.broken:
        print(*(f"    {note}" for note in verdict.notes), sep="\n")
    for broken in verdict.broken[:BROKEN_SHOWN_MAX]:
        print(f"  seed={seed} {broken}")
    if len(verdict.broken) > BROKEN_SHOWN_MAX:
        print(f"  and {len(verdict.broken) - BROKEN_SHOWN_MAX} more")
    sys.stdout.flush()
    return verdict


def _start_replay(asked: argparse.Namespace) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.simulation", "--replay"]
    command += ["--seeds", str(asked.seeds), "--seed", str(asked.seed)]
    if asked.kind:
        command += ["--kind", asked.kind]
    hash_seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def _digests(replay: subprocess.Popen[str]) -> dict[tuple[str, int], str]:
    said, _ = replay.communicate(timeout=REPLAY_S_MAX)
    found = {}
    for line in said.splitlines():
        kind, seed, digest = line.split()
        found[kind, int(seed)] = digest
    return found


if __name__ == "__main__":
    sys.exit(main())
