"""Random worlds of the whole control plane: people, sites, guests, misfortunes; then judgement."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any, Final

from schemas.recovery import CleanupFinished, RecoveryFinished
from schemas.replicator import CheckpointFinished, IterationFinished
from shared.testing.virtual import run_virtual
from tests.simulation.chaos import SITE_TRAPS, Chaos, Harshness
from tests.simulation.facts import Facts
from tests.simulation.judgement import judge
from tests.simulation.plane import Plane
from tests.simulation.plans import ACTS, Temper, random_shape, random_temper
from tests.simulation.story import Story
from tests.simulation.verdict import Verdict

QUIET_S: Final = 150.0
COUNTED: Final = {
    "iterations": IterationFinished,
    "recoveries": RecoveryFinished,
    "cleanups": CleanupFinished,
    "checkpoints": CheckpointFinished,
}


async def simulate(seed: int) -> Verdict:
    """A world in which everything is done. Inside `run_virtual`."""
    chance = random.Random(f"{seed}/main")
    temper = random_temper(chance, acts=ACTS)
    return await live(seed, chance, temper, steps=chance.randint(6, 24))


async def live(seed: int, chance: random.Random, temper: Temper, *, steps: int) -> Verdict:
    """Live through a world of that temper."""
    async with Plane(f"{seed}/main", random_shape(chance, temper)) as world:
        return await _live(world, seed, chance, temper, steps=steps)


async def _live(
    world: Plane, seed: int, chance: random.Random, temper: Temper, *, steps: int
) -> Verdict:
    for name in world.names:
        world.start(name)
    story = Story(world, world.chance("story"), temper)
    loop = asyncio.get_running_loop()
    guests = loop.create_task(story.write(), context=world.outside)
    await story.begin()
    world.let_calls_fail(failing=True)
    harsh = Harshness(
        pause_s=(10.0, 900.0) if temper.hours else (0.5, 40.0),
        freeze_s_max=200.0 if temper.hours else 50.0,
        fault_share_max=0.05 if temper.faults else 0.0,
        traps=SITE_TRAPS,
    )
    chaos = Chaos(world, world.chance("chaos"), names=world.names, harshness=harsh)
    for_s = chance.uniform(30, 900) * (12 if temper.hours else 1)
    troubles = loop.create_task(chaos.run(for_s=for_s), context=world.outside)
    pause_s = 900.0 if temper.hours else chance.choice((5.0, 40.0, 120.0))
    await story.go_on(steps=steps, pause_s=pause_s)
    await troubles
    guests.cancel()
    world.let_calls_fail(failing=False)
    verdict = Verdict(kind="main", seed=seed, notes=chaos.log)
    verdict.broken += await story.finish()
    await asyncio.sleep(QUIET_S)
    verdict.broken += await judge(world, story.facts, temper)
    journals = [site.journal for site in world.sites.values()]
    verdict.digest = await world.digest(journals)
    verdict.facts = {
        "minutes": round(loop.time() / 60),
        "calls": sum(map(len, journals)),
        **{name: _states(story.facts, kind) for name, kind in COUNTED.items()},
    }
    return verdict


def _states(facts: Facts, kind: type[Any]) -> str:
    """How many ended in which state, by their first letters."""
    states = Counter(end.state[0] for _, end in facts.of(kind))
    return "+".join(f"{count}{letter}" for letter, count in sorted(states.items())) or "0"


def run(seed: int) -> Verdict:
    """One seed's world."""
    return run_virtual(simulate(seed))
