"""`make crash BUS=kafka BROKERS=3 MINUTES=10 SEED=…`: everything dies, again and again.

Three real brokers (replication 3, two in sync at least), two copies of every service, Postgres:
any of them is killed with −9, or stopped for a while, and started again, at moments that follow
from the seed, under a load of plans that are replicated, test-recovered and cleaned up, and every
third time failed over and rolled back (`load`). Never two brokers at once: with one in
sync of two nothing may be acknowledged. Judged from outside: what was asked and answered, call
journals, script files, disk hashes and what guests say; what stands in the topics against the
logs; and the read models against a rebuild.

Last line: `commands=… settled=… lost=0 doubled=0 gaps=0 unknown=… stall_max=…s`; exit 1 if
anything is wrong. `stall_max` is the longest that a command waited for its decision.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from schemas.folds import VIEWS
from services.projector.main import rebuild
from shared.databases import Databases
from tests.acceptance.fleet import Fleet
from tests.acceptance.judge import Verdict, judge_doubles, judge_snapshots
from tests.acceptance.live import LiveWorld
from tests.acceptance.load import BREAKS, Operator
from tests.acceptance.topics import judge_topics
from tests.waiting import wait_until

WORLDS = 2
PAUSE_S = (1.5, 5.0)
DOWN_S = (0.5, 5.0)
QUIET_S_MAX = 60.0
TOLD_MAX = 100
"""Rows of a table that are shown where a job did not end."""

TABLES = (*(view.table for view in VIEWS), "events", "cursors")


class Outcome(msgspec.Struct, kw_only=True):
    """What a trial found."""

    commands: int = 0
    settled: int = 0
    stall_s: float = 0.0
    kills: dict[str, int] = {}
    verdicts: list[Verdict] = []
    gaps: list[str] = []
    rows: int = 0
    wrong: list[str] = []


class Chaos(threading.Thread):
    """Kills and starts again until `over`; what it did is in `kills`."""

    def __init__(self, fleet: Fleet, *, seed: int, over: threading.Event) -> None:
        super().__init__(name="chaos")
        self._fleet = fleet
        self._chance = random.Random(seed)
        self._over = over
        self.kills: dict[str, int] = {}
        self.broken: list[str] = []

    def run(self) -> None:
        """Until `over`; what keeps the trial itself from going on is in `broken`."""
        try:
            self._kill_on()
        except BREAKS as broken:
            self.broken.append(f"{broken!r}"[:800])
        self._fleet.start_all()

    def _kill_on(self) -> None:
        """One thing after the other, so that at most one kind of thing is down at a time."""
        deeds: list[tuple[str, int, Callable[[], None]]] = [
            ("service", 6, self._service),
            ("stopped", 2, self._stopped),
            ("broker", 2, self._broker),
            ("postgres", 1, self._postgres),
        ]
        while not self._over.wait(self._chance.uniform(*PAUSE_S)):
            name, _, deed = self._chance.choices(deeds, [weight for _, weight, _ in deeds])[0]
            self.kills[name] = self.kills.get(name, 0) + 1
            deed()

    def _down(self) -> None:
        self._over.wait(self._chance.uniform(*DOWN_S))

    def _service(self) -> None:
        """One member, or both copies of a service."""
        member = self._chance.choice(self._fleet.members)
        name = member.rpartition("-")[0]
        both = self._chance.random() < 0.3
        dying = [each for each in self._fleet.members if each == member or (both and name in each)]
        for each in dying:
            if self._fleet.runs(each):
                self._fleet.kill({each})
        self._down()
        for each in dying:
            self._fleet.start(each)

    def _stopped(self) -> None:
        """SIGSTOP, for longer than a lease, and woken."""
        member = self._chance.choice(self._fleet.members)
        self._fleet.signal(member, signal.SIGSTOP)
        self._down()
        self._fleet.signal(member, signal.SIGCONT)

    def _broker(self) -> None:
        number = self._chance.randrange(self._fleet.kafka.count)
        self._fleet.kafka.kill(number)
        self._down()
        self._fleet.kafka.start_node(number)
        self._fleet.kafka.wait_node(number)

    def _postgres(self) -> None:
        self._fleet.postgres.kill()
        self._down()
        self._fleet.postgres.start()


def run_trial(*, brokers: int, minutes: float, seed: int, keep: bool) -> Outcome:
    """One trial in worlds of its own."""
    root = Path(tempfile.mkdtemp(prefix="seawall-chaos-"))
    root.chmod(0o755)
    worlds = [LiveWorld(_folder(root, n), seed=seed * 100 + n) for n in range(WORLDS)]
    outcome = Outcome()
    over = threading.Event()
    try:
        for world in worlds:
            world.build()
        with Fleet(root, brokers=brokers) as fleet:
            fleet.wait_ready()
            say(f"ready: {len(fleet.members)} services, {brokers} brokers")
            operators = [Operator(fleet, world, n, over) for n, world in enumerate(worlds)]
            chaos = Chaos(fleet, seed=seed, over=over)
            for thread in (*operators, chaos):
                thread.start()
            over.wait(minutes * 60)
            over.set()
            chaos.join()
            for thread in operators:
                thread.join()
            _gather(outcome, operators, worlds, chaos)
            if any(verdict.unfinished for verdict in outcome.verdicts):
                say(asyncio.run(_work_in_hand(fleet.dsn)))
            _judge_fabric(fleet, outcome)
            if outcome.wrong or outcome.gaps or not all(v.good for v in outcome.verdicts):
                say(fleet.log_tail())
    finally:
        over.set()
        for world in worlds:
            world.stop()
        if keep:
            say(f"kept {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    return outcome


async def _work_in_hand(dsn: str) -> str:
    """What a job that did not end may wait for: effects, workers, budgets, as they are."""
    told = []
    connection = await asyncpg.connect(dsn)
    try:
        schemas = await connection.fetch(
            "select schemaname as name from pg_tables where tablename = 'lane_budgets'"
        )
        for schema in schemas:
            for table in ("effects", "workers", "budgets", "slot_returns", "lanes"):
                rows = await connection.fetch(
                    f"select to_jsonb(t) - array['data', 'meta'] as row"
                    f' from "{schema["name"]}".{table} t limit {TOLD_MAX}'
                )
                told += [f"{table}: {row['row']}" for row in rows]
    finally:
        await connection.close()
    return "\n".join(told)


def _folder(root: Path, number: int) -> Path:
    folder = root / f"world{number}"
    folder.mkdir(mode=0o755)
    return folder


def _gather(
    outcome: Outcome, operators: list[Operator], worlds: list[LiveWorld], chaos: Chaos
) -> None:
    for operator, world in zip(operators, worlds, strict=True):
        judge_doubles(world, operator.verdict)
        operator.judge()
        if not operator.verdict.unfinished:
            judge_snapshots(world, operator.verdict)
        outcome.verdicts.append(operator.verdict)
        outcome.commands += operator.client.asked
        outcome.settled += sum(each.settled for each in operator.client.accepted.values())
        outcome.stall_s = max(outcome.stall_s, operator.client.stall_s)
    outcome.kills = chaos.kills
    outcome.wrong += chaos.broken
    say(f"rounds {[operator.rounds for operator in operators]}, killed {chaos.kills}")


def _judge_fabric(fleet: Fleet, outcome: Outcome) -> None:
    """Topics against logs, read models against a rebuild, once all is quiet."""
    fleet.wait_ready()
    outcome.rows, outcome.gaps = asyncio.run(judge_topics(fleet.kafka.servers, fleet.dsn))
    say(f"{outcome.rows} rows stand in the topics, {len(outcome.gaps)} gaps")
    wait_until(
        lambda: asyncio.run(_projected(fleet.dsn)), "all is projected", within_s=QUIET_S_MAX
    )
    before = asyncio.run(_content(fleet.dsn))
    asyncio.run(rebuild(Databases(fleet.dsn)))
    after = asyncio.run(_content(fleet.dsn))
    outcome.wrong += [f"{table} differs after a rebuild" for table in TABLES
                      if before[table] != after[table]]  # fmt: skip


async def _projected(dsn: str) -> bool:
    connection = await asyncpg.connect(dsn)
    try:
        behind = 0
        for service in ("gateway", "scheduler", "replicator", "recovery", "notifier"):
            behind += await connection.fetchval(
                f'select count(*) from "{service}".heads h left join read.cursors c'
                " on c.source = $1 and c.topic = h.topic and c.partition = h.partition"
                " where h.topic like '%.events' and h.seq > coalesce(c.seq, 0)",
                service,
            )
        return behind == 0
    finally:
        await connection.close()


async def _content(dsn: str) -> dict[str, list[dict[str, Any]]]:
    """The read models in key order, all columns but `projected_at`."""
    connection = await asyncpg.connect(dsn)
    try:
        found = {}
        for table in TABLES:
            key = "source, topic, partition" if table == "cursors" else "1"
            rows = [
                dict(r)
                for r in await connection.fetch(f"select * from read.{table} order by {key}")
            ]
            for row in rows:
                row.pop("projected_at", None)
            found[table] = rows
        return found
    finally:
        await connection.close()


def say(text: str) -> None:
    """Tell whoever waits."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def report(outcome: Outcome) -> int:
    """Print the last line; the exit code."""
    for verdict in outcome.verdicts:
        if not verdict.good:
            say(str(msgspec.to_builtins(verdict)))
    for line in (*outcome.gaps[:20], *outcome.wrong):
        say(line)
    lost = sum(len(v.lost + v.unfinished + v.unfounded) for v in outcome.verdicts)
    lost += len(outcome.wrong)
    lost += outcome.commands - outcome.settled
    doubled = sum(len(v.doubled) for v in outcome.verdicts)
    unknown = sum(v.unknown for v in outcome.verdicts)
    sys.stdout.write(
        f"commands={outcome.commands} settled={outcome.settled} lost={lost} doubled={doubled}"
        f" gaps={len(outcome.gaps)} unknown={unknown} stall_max={outcome.stall_s:.1f}s\n"
    )
    return 0 if not (lost or doubled or outcome.gaps) else 1


def main(arguments: list[str] | None = None) -> int:
    """Run one trial; the exit code."""
    parser = argparse.ArgumentParser(prog="make crash BUS=kafka", description=__doc__)
    parser.add_argument("--brokers", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--keep", action="store_true", help="keep the folders")
    chosen = parser.parse_args(arguments)
    return report(
        run_trial(
            brokers=chosen.brokers, minutes=chosen.minutes, seed=chosen.seed, keep=chosen.keep
        )
    )


if __name__ == "__main__":
    sys.exit(main())
