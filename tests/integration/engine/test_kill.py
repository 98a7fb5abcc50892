"""Counter processes on a real Postgres are killed -9 at random moments, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from schemas import registry
from schemas.common import CommandSettled
from schemas.envelope import Meta, commands_topic, events_topic
from schemas.ids import PARTITIONS, partition_of
from shared.clock import SystemClock
from shared.eventlog.port import NewRow, Step
from shared.eventlog.postgres import PostgresStore
from shared.migrations import migrate
from shared.postgres import open_pool
from shared.testing.counter import SERVICE, Counted, StartCounter, Tallied

PROCESSES: Final = 2
KILLS: Final = 6
JOBS_PER_ROUND: Final = 300
STEPS: Final = 12
END_S_MAX: Final = 40.0
LEASE_S: Final = "1.5"
HEARTBEAT_S: Final = "0.4"
SEED: Final = 7


class Trial:
    """Counter processes, and a gateway's stand-in that submits jobs to them."""

    def __init__(self, dsn: str, home: Path, gateway: PostgresStore, log: PostgresStore) -> None:
        self._dsn = dsn
        self._home = home
        self._gateway = gateway
        self._log = log
        self.processes: list[asyncio.subprocess.Process] = []
        self.jobs: list[str] = []

    async def start(self) -> None:
        """One more process."""
        env = {
            **os.environ,
            "SEAWALL_DATABASE_URL": self._dsn,
            "SEAWALL_HOME": str(self._home),
            "SEAWALL_LEASE": LEASE_S,
            "SEAWALL_HEARTBEAT": HEARTBEAT_S,
        }
        self.processes.append(
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "shared.testing.counter_process", env=env,
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            )
        )  # fmt: skip

    async def kill(self, index: int) -> None:
        """End one with SIGKILL and start another."""
        process = self.processes.pop(index)
        process.kill()
        await process.wait()
        await self.start()

    async def submit(self, count: int) -> None:
        """Accept so many counters durably, in one commit."""
        rows = []
        topic = commands_topic(SERVICE)
        for number in range(len(self.jobs), len(self.jobs) + count):
            key = f"k{number % 20}"
            stream = f"counter:{key}:{number}"
            self.jobs.append(stream)
            body = StartCounter(command_id=f"c{number}", counter=stream, steps=STEPS)
            name, version, data = registry.encode(body)
            meta = Meta(occurred_at=SystemClock().now())
            sender = f"command:{key}:c{number}"
            rows.append(NewRow(topic, partition_of(key), sender, 0, name, version, data, meta))
        await self._gateway.commit(Step(rows=rows))

    async def events(self) -> list[tuple[str, object]]:
        """(stream, body) of every row of the service's log."""
        every = dict.fromkeys(range(PARTITIONS), 0)
        rows = await self._log.read(events_topic(SERVICE), every, count_max=1_000_000)
        return [
            (row.stream, registry.decode(row.type, row.schema_version, row.data)) for row in rows
        ]

    async def all_ended(self) -> list[tuple[str, object]]:
        """The log once every job was tallied."""
        async with asyncio.timeout(END_S_MAX):
            while True:
                events = await self.events()
                if sum(isinstance(body, Tallied) for _, body in events) >= len(self.jobs):
                    return events
                await asyncio.sleep(0.1)

    async def end(self) -> None:
        """Kill what is left."""
        for process in self.processes:
            process.kill()
            await process.wait()


def judge(jobs: Sequence[str], events: Sequence[tuple[str, object]]) -> None:
    """Each step counted once and in order, each job tallied once, each command answered once."""
    steps: dict[str, list[int]] = {job: [] for job in jobs}
    tallied: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    for stream, body in events:
        match body:
            case Counted(number=number):
                steps[stream].append(number)
            case Tallied(counter=counter):
                tallied[counter] += 1
            case CommandSettled(command_id=command_id, outcome=outcome):
                assert outcome == "done"
                answers[command_id] += 1
    assert all(numbers == list(range(1, STEPS + 1)) for numbers in steps.values())
    assert tallied == Counter(jobs)
    assert set(answers.values()) == {1} and len(answers) == len(jobs)


async def test_every_step_counts_once_though_processes_are_killed(
    postgres_dsn: str, tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    for service in ("gateway", SERVICE):
        await migrate(postgres_dsn, service)
    async with (
        await open_pool(postgres_dsn, "gateway") as mine,
        await open_pool(postgres_dsn, SERVICE) as theirs,
    ):
        gateway = await PostgresStore.open(mine, service="gateway")
        log = await PostgresStore.open(theirs, service=SERVICE)
        trial = Trial(postgres_dsn, tmp_path, gateway, log)
        try:
            for _ in range(PROCESSES):
                await trial.start()
            for _ in range(KILLS):
                await trial.submit(JOBS_PER_ROUND)
                # When to kill is what is tried: any moment is one that it must survive.
                await asyncio.sleep(chance.uniform(0.3, 1.8))
                await trial.kill(chance.randrange(PROCESSES))
            judge(trial.jobs, await trial.all_ended())
        finally:
            await trial.end()
