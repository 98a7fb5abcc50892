"""`python -m tests.acceptance.rolling`: every copy of every service is restarted under work.

Over a real broker and Postgres run two copies of every service. Operators protect, replicate,
test-recover with scripts and clean up, and another gives plans priorities as fast as it is
answered, while one member after the other is asked to end and another takes its place: ready
before the old one is asked, or started after it has ended, in turn. Clients go to any gateway, as
a load balancer would send them, and on to the next only where a connection is refused.

Judged from outside: nobody got a 5xx, a cut connection or a refusal; every command was decided;
call journals, script files and disk hashes tell that nothing was lost or doubled; no step used
more than one attempt and no script was cut off; every old copy ended with code 0.

Last line: `commands=… failed=0 lost=0 doubled=0 attempts=0 unknown=0 stall_max=…s stop_max=…s
restarted=12`; exit 1 on a miss. `stall_max` is the longest that a command waited for its
decision, at most 10 s; `stop_max` the longest that a copy took to end.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tests.acceptance.fleet import Fleet
from tests.acceptance.judge import judge_doubles, judge_snapshots
from tests.acceptance.load import BREAKS, Measured, Operator
from tests.acceptance.world import World

WORLDS = 2
STALL_S_MAX = 10.0
STOP_S_MAX = 10.0
LATENCY = "latency: {create_instance: 700ms, power_on: 700ms, write_chunk: 20ms}\n"
"""Calls long enough that a copy that ends has some in hand."""

DEFAULTS = {"SEAWALL_LEASE": "15", "SEAWALL_HEARTBEAT": "5", "SEAWALL_CALL_TIMEOUT": "60"}
"""What is not given back at once stalls commands for longer than is allowed; no call fails
because the machine is busy."""

PRIORITIES = (1, 2, 3, 4, 5)


class Outcome(msgspec.Struct, kw_only=True):
    """What a trial found; the lists say it in words."""

    commands: int = 0
    rounds: int = 0
    restarted: int = 0
    stall_s: float = 0.0
    stop_s: float = 0.0
    unknown: int = 0
    failed: list[str] = []
    lost: list[str] = []
    doubled: list[str] = []
    again: list[str] = []

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        wrong = self.failed or self.lost or self.doubled or self.again or self.unknown
        return not wrong and self.stall_s <= STALL_S_MAX and self.stop_s <= STOP_S_MAX

    def line(self) -> str:
        """The last line of standard output."""
        return (
            f"commands={self.commands} failed={len(self.failed)} lost={len(self.lost)}"
            f" doubled={len(self.doubled)} attempts={len(self.again)} unknown={self.unknown}"
            f" stall_max={self.stall_s:.1f}s stop_max={self.stop_s:.1f}s"
            f" restarted={self.restarted}"
        )


class Prioritiser(threading.Thread):
    """Gives a plan one priority after the other, and looks whether it has it."""

    def __init__(self, fleet: Fleet, operator: Operator, over: threading.Event) -> None:
        super().__init__(name=f"prioritiser-{operator.plan}")
        self.client = Measured(fleet, prefix=self.name)
        self.broken: list[str] = []
        self._operator = operator
        self._over = over

    def run(self) -> None:
        """From when the plan stands until `over`."""
        self._operator.protected.wait()
        path = f"/v1/plans/{self._operator.plan}"
        try:
            for priority in itertools.cycle(PRIORITIES):
                if self._over.is_set():
                    return
                self.client.command(f"{path}/prioritise", {"priority": priority})
                found = self.client.request("GET", path)["priority"]
                if found != priority:
                    self.broken.append(f"priority {priority} was granted, and {found} is shown")
        except BREAKS as broken:
            told = [repr(broken), *getattr(broken, "__notes__", ())]
            self.broken.append(" ".join(told)[:800])


def run_trial(*, brokers: int, rolls: int, seed: int, keep: bool) -> Outcome:
    """One trial in worlds of its own; every member is replaced `rolls` times."""
    outcome = Outcome()
    over = threading.Event()
    with _folder(keep) as root:
        worlds = build_worlds(root, seed=seed)
        with Fleet(root, brokers=brokers, environment=DEFAULTS) as fleet:
            for member in fleet.members:
                fleet.wait_member(member)
            operators = [Operator(fleet, world, n, over) for n, world in enumerate(worlds)]
            askers = [Prioritiser(fleet, operator, over) for operator in operators]
            for thread in (*operators, *askers):
                thread.start()
            for operator in operators:
                operator.protected.wait()
            try:
                _roll(fleet, outcome, rolls=rolls)
            except BREAKS as broken:
                outcome.failed.append(f"{broken!r}"[:800])
            over.set()
            for thread in (*operators, *askers):
                thread.join()
            _gather(outcome, operators, askers, worlds)
            if not outcome.good:
                say(fleet.log_tail())
    return outcome


def build_worlds(root: Path, *, seed: int) -> list[World]:
    """Worlds whose platforms take their time."""
    worlds = []
    for number in range(WORLDS):
        folder = root / f"world{number}"
        folder.mkdir(mode=0o755)
        world = World(folder, seed=seed * 100 + number)
        world.build()
        (world.west / "site.yaml").write_text(f"journal: true\n{LATENCY}")
        worlds.append(world)
    return worlds


@contextmanager
def _folder(keep: bool) -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="seawall-rolling-"))
    root.chmod(0o755)
    try:
        yield root
    finally:
        if keep:
            say(f"kept {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)


def _roll(fleet: Fleet, outcome: Outcome, *, rolls: int) -> None:
    """Replace every member, `rolls` times over, one at a time."""
    for number, member in enumerate([*fleet.members] * rolls):
        service, _, copy = member.rpartition("-")
        copies = len([each for each in fleet.members if each.startswith(service)])
        old = f"{service}-{int(copy) + copies * (number // len(fleet.members))}"
        new = f"{service}-{int(copy) + copies * (1 + number // len(fleet.members))}"
        first = "start" if number % 2 else "end"
        code, took_s = fleet.replace(old, by=new, first=first)
        if code:
            outcome.failed.append(f"{old} ended with code {code}")
        outcome.stop_s = max(outcome.stop_s, took_s)
        outcome.restarted += 1
        say(f"{old} ended with {code} in {took_s:.1f} s; {new} is ready ({first} first)")


def _gather(
    outcome: Outcome,
    operators: Sequence[Operator],
    askers: Sequence[Prioritiser],
    worlds: Sequence[World],
) -> None:
    """Judge what stands at the sites, and sum up what the clients met."""
    for operator, world in zip(operators, worlds, strict=True):
        verdict = operator.verdict
        judge_doubles(world, verdict)
        if not verdict.unfinished:
            judge_snapshots(world, verdict)
        outcome.rounds += operator.rounds
        outcome.unknown += verdict.unknown
        outcome.failed += verdict.unfinished
        outcome.lost += verdict.lost + verdict.unfounded
        outcome.doubled += verdict.doubled
        outcome.again += operator.again
    for asker in askers:
        outcome.failed += asker.broken
    for client in (*(each.client for each in operators), *(each.client for each in askers)):
        outcome.commands += client.asked
        outcome.stall_s = max(outcome.stall_s, client.stall_s)
        outcome.failed += client.unanswered
        outcome.failed += [
            f"{each.path} is not decided" for each in client.accepted.values() if not each.settled
        ]
    say(f"{outcome.rounds} rounds of replication, test recovery and cleanup")


def say(text: str) -> None:
    """Tell whoever waits."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def report(outcome: Outcome) -> int:
    """Print what is wrong and the last line; the exit code."""
    for name in ("failed", "lost", "doubled", "again"):
        for line in getattr(outcome, name)[:20]:
            say(f"{name}: {line}")
    sys.stdout.write(outcome.line() + "\n")
    return 0 if outcome.good else 1


def main(arguments: list[str] | None = None) -> int:
    """Run one trial; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.rolling")
    parser.add_argument("--brokers", type=int, default=1)
    parser.add_argument("--rolls", type=int, default=1, help="how often each member is replaced")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--keep", action="store_true", help="keep the folders")
    chosen = parser.parse_args(arguments)
    return report(
        run_trial(brokers=chosen.brokers, rolls=chosen.rolls, seed=chosen.seed, keep=chosen.keep)
    )


if __name__ == "__main__":
    sys.exit(main())
