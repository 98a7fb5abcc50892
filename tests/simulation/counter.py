"""Random worlds of the counter saga: the engine alone, before any product stands on it.

Counters with delays and budgets, two to three copies, chaos; then every counter must have
counted each step once, and no budget may ever have been exceeded.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from schemas import registry
from schemas.common import CommandSettled
from schemas.envelope import Meta, Recorded, commands_topic, events_topic
from schemas.ids import key_of, partition_of
from shared.clock import EPOCH
from shared.effects.policy import STEP
from shared.effects.port import Budget
from shared.effects.running import EffectRun
from shared.errors import Permanent, Throttled, Transient
from shared.eventlog.port import NewRow, Step
from shared.service import Service
from shared.testing.counter import DEFINITION, SERVICE, Counted, StartCounter, StepFailed, Tallied
from shared.testing.virtual import run_virtual
from shared.testing.world import Granted, Host, Knobs, World, until
from tests.simulation.chaos import Chaos
from tests.simulation.verdict import (
    Verdict,
    consumed,
    decoded,
    dense,
    nothing_left,
    rates_kept,
    settled_once,
)

BUDGETS: Final = (
    Budget(name="h/narrow", mode="hold", concurrent=2),
    Budget(name="h/wide", mode="hold", concurrent=9),
    Budget(name="s/chairs", mode="seat", concurrent=3),
    Budget(name="r/drops", mode="rate", burst=5, per_second=0.5),
)
TOPIC: Final = commands_topic(SERVICE)
WORK_S_MAX: Final = 8.0


class Works:
    """The place where steps happen: it remembers how many were under way at once."""

    def __init__(self, world: CounterWorld) -> None:
        self._world = world
        self._chance = world.chance("works")
        self._tasks: set[asyncio.Task[None]] = set()
        self.under_way: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.failing = 0.0

    async def do(self, effect: EffectRun, host: Host) -> None:
        """One step's work. It goes on where its process dies, and ends where it is cancelled."""
        for_s = self._chance.uniform(0, WORK_S_MAX)
        luck = self._chance.random()
        work = asyncio.get_running_loop().create_task(
            self._work(effect.effect_id, for_s), context=self._world.outside
        )
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)
        await work
        self._world.noticed(host, "platform")
        if luck < self.failing / 3:
            raise Throttled("slowly", retry_after_s=1.0)
        if luck < self.failing:
            raise Transient("again")
        if luck > 1 - self.failing / 100:
            raise Permanent("never", code="luckless")

    async def _work(self, effect_id: str, for_s: float) -> None:
        holds = [n for n in self._world.needs_of(effect_id) if n.startswith("h/")]
        for name in holds:
            self.under_way[name] += 1
            self.most[name] = max(self.most[name], self.under_way[name])
        try:
            await asyncio.sleep(for_s)
        finally:
            for name in holds:
                self.under_way[name] -= 1


class Count:
    """The handler of a step."""

    policy = STEP
    resumable = True

    def __init__(self, works: Works, host: Host) -> None:
        self._works = works
        self._host = host

    async def run(self, effect: EffectRun) -> msgspec.Struct | None:
        await self._works.do(effect, self._host)
        result: msgspec.Struct = effect.payload
        return result


class CounterWorld(World):
    """A world of counters, and what was asked of it."""

    def __init__(self, seed: str, *, copies: int, knobs: Knobs | None = None) -> None:
        super().__init__(seed, services=("gateway", SERVICE), knobs=knobs)
        self.works = Works(self)
        self.asked: dict[str, StartCounter] = {}
        self.commands: list[StartCounter] = []
        for number in range(1, copies + 1):
            self.place(f"counter-{number}", self._build)

    def _build(self, host: Host) -> Service:
        service = host.service(DEFINITION)
        service.work(
            host.queue(SERVICE),
            {"count": Count(self.works, host)},
            heartbeat_s=self.knobs.heartbeat_s,
            chance=host.chance("worker"),
        )
        return service

    async def open(self) -> None:
        """Define the budgets and start every copy."""
        await self.queues[SERVICE].define(BUDGETS)
        for name in self.names:
            self.start(name)

    def needs_of(self, effect_id: str) -> list[str]:
        """The budgets of a step."""
        asked = self.asked.get(effect_id.partition("/")[0])
        return [need.partition(" ")[2] for need in asked.needs] if asked else []

    async def submit(self, commands: Sequence[StartCounter]) -> None:
        """Accept commands durably, as the gateway does."""
        rows = []
        for command in commands:
            self.commands.append(command)
            self.asked.setdefault(command.counter, command)
            key = key_of(command.counter)
            name, version, data = registry.encode(command)
            meta = Meta(occurred_at=self.clock.now(), correlation_id=command.command_id)
            stream = f"command:{key}:{command.command_id}"
            rows.append(NewRow(TOPIC, partition_of(key), stream, 0, name, version, data, meta))
        await self.stores["gateway"].commit(Step(rows=rows))
        for host in self.hosts.values():
            if self.weather.news_lost_share == 0:
                host.news.hear((TOPIC,))

    async def finished(self) -> bool:
        """Whether every counter has ended and every command was answered."""
        rows = await self.rows(SERVICE, events_topic(SERVICE))
        ends = sum(row.type == "counter.tallied" for row in rows)
        ends += sum(row.type == "counter.step-failed" for row in rows)
        answers = sum(row.type == "common.command-settled" for row in rows)
        return ends >= len(self.asked) and answers >= len(self.commands)

    async def judge(self) -> list[str]:
        """Everything that is not as it must be."""
        history = await self.history()
        events = decoded(await self.rows(SERVICE, events_topic(SERVICE)))
        broken = [f"crashed: {crash}" for crash in self.crashes]
        broken += dense(history)
        broken += await consumed(self, DEFINITION)
        broken += await nothing_left(self)
        answers = [body for _, body in events if isinstance(body, CommandSettled)]
        found, unsettled = settled_once([c.command_id for c in self.commands], answers)
        broken += unsettled
        for command in self.commands:
            first = self.asked[command.counter] is command
            answer = found.get(command.command_id)
            if answer is not None and (answer.outcome == "done") != first:
                broken.append(f"settled: {command.command_id} was {answer.outcome}")
        broken += _counted(self.asked, events)
        broken += self._within_budgets(events)
        return broken

    def _within_budgets(self, events: Sequence[tuple[Recorded, object]]) -> list[str]:
        broken: list[str] = []
        for budget in BUDGETS:
            if budget.mode == "hold" and self.works.most[budget.name] > budget.concurrent:
                broken.append(f"budget: {self.works.most[budget.name]} of {budget.name} at once")
        grants = [g for g in self.grants if not g.cancelled]
        broken += rates_kept(BUDGETS, grants)
        broken += self._seats_kept(grants, events)
        return broken

    def _seats_kept(
        self, grants: Sequence[Granted], events: Sequence[tuple[Recorded, object]]
    ) -> list[str]:
        (seats,) = (b for b in BUDGETS if b.mode == "seat")
        ends: dict[str, float] = {}
        for row, body in events:
            if isinstance(body, Counted | StepFailed):
                ends[row.stream] = (row.meta.occurred_at - EPOCH).total_seconds()
        begins: dict[str, float] = {}
        for grant in grants:
            if seats.name in grant.needs:
                begins.setdefault(grant.effect_id.partition("/")[0], grant.at_s)
        # A stream's last fact was decided a little before the seat was free: ends go first.
        moments = [(ends.get(s, at), -1) for s, at in begins.items()]
        moments += [(at, 1) for at in begins.values()]
        taken = 0
        for at, change in sorted(moments):
            taken += change
            if taken > seats.concurrent:
                return [f"budget: {taken} of {seats.name} taken at {at:.3f}"]
        return []


def _counted(
    asked: dict[str, StartCounter], events: Sequence[tuple[Recorded, object]]
) -> list[str]:
    counted: dict[str, list[int]] = {stream: [] for stream in asked}
    failed: Counter[str] = Counter()
    tallied: Counter[str] = Counter()
    for row, body in events:
        match body:
            case Counted(number=number):
                counted.setdefault(row.stream, []).append(number)
            case StepFailed():
                failed[row.stream] += 1
            case Tallied(counter=counter):
                tallied[counter] += 1
    broken: list[str] = []
    for stream, numbers in counted.items():
        steps = asked[stream].steps if stream in asked else 0
        whole = numbers == list(range(1, steps + 1))
        if not whole and not (failed[stream] == 1 and numbers == list(range(1, len(numbers) + 1))):
            broken.append(f"counted: {stream} has {numbers} of {steps}, failed {failed[stream]}")
        if tallied[stream] != int(whole and not failed[stream]):
            broken.append(f"tallied: {stream} {tallied[stream]} times")
    return broken


def random_command(chance: random.Random, number: int) -> StartCounter:
    """A counter; now and then one that exists already."""
    key = f"k{chance.randrange(9)}"
    ident = number if chance.random() < 0.9 else chance.randrange(number + 1)
    wanted = [f"{b.mode} {b.name}" for b in BUDGETS if chance.random() < 0.25]
    return StartCounter(
        command_id=f"c{number}",
        counter=f"counter:{key}:{ident}",
        steps=chance.randint(1, 6),
        delay_s=chance.choice((0, 0, 1, 30)),
        needs=tuple(wanted),
    )


async def simulate(seed: int) -> Verdict:
    """One whole random world, judged. Inside `run_virtual`."""
    chance = random.Random(f"{seed}/counter")
    knobs = Knobs(poll_s=chance.choice((0.25, 2.0, 10.0)))
    async with CounterWorld(f"{seed}", copies=chance.randint(1, 3), knobs=knobs) as world:
        return await _live(world, chance, seed)


async def _live(world: CounterWorld, chance: random.Random, seed: int) -> Verdict:
    await world.open()
    world.works.failing = chance.choice((0.0, 0.1, 0.3))
    chaos = Chaos(world, world.chance("chaos"), names=world.names)
    troubles = asyncio.get_running_loop().create_task(
        chaos.run(for_s=chance.uniform(60, 600)), context=world.outside
    )
    number = 0
    for _ in range(chance.randint(3, 20)):
        burst = [random_command(chance, number + n) for n in range(chance.randint(1, 12))]
        number += len(burst)
        await world.submit(burst)
        await asyncio.sleep(chance.uniform(0, 40))
    await troubles
    verdict = Verdict(kind="counter", seed=seed, notes=chaos.log)
    if not await until(world.finished, within_s=3600):
        verdict.broken.append("ended: not everything has ended an hour after the world was healed")
    await asyncio.sleep(2 * world.knobs.platform_timeout_s)
    verdict.broken += await world.judge()
    verdict.digest = await world.digest()
    verdict.facts = {"counters": len(world.asked), "claims": len(world.grants)}
    return verdict


def run(seed: int) -> Verdict:
    """One seed's world."""
    return run_virtual(simulate(seed))
