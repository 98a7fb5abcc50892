"""Random worlds of recoveries: whole plans recovered, steered, committed and rolled back.

Two sites, plans of every shape, operators who change their minds, misfortunes; then judgement by
what the sites, the machine for scripts and the people did (decision 0043).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Final

import msgspec

from schemas import directions, lost_sites, reversals
from schemas import operations as ops
from schemas import recovery as rec
from schemas import recovery_steering as steer
from shared.testing.virtual import run_virtual
from tests.simulation import strangers
from tests.simulation.chaos import SITE_TRAPS, Chaos, Harshness
from tests.simulation.drill_plans import drill_temper
from tests.simulation.evening import Evening
from tests.simulation.facts import Facts
from tests.simulation.judgement import judge
from tests.simulation.plane import Plane
from tests.simulation.plans import Temper, random_shape
from tests.simulation.verdict import Verdict

QUIET_S: Final = 150.0
TRAPS: Final = (
    *SITE_TRAPS,
    "source_state",
    "shut_down_source",
    "power_off_source",
    "power_on_source",
    "power_on_node",
    "prepare_windows",
    "power_off_node",
    "release",
    "delete_disk",
)


class Lived(msgspec.Struct, frozen=True, kw_only=True):
    """A world that is over, for who wants to judge it once more."""

    world: Plane
    facts: Facts
    temper: Temper
    verdict: Verdict


async def simulate(seed: int) -> Lived:
    """One world, judged. Inside `run_virtual`."""
    chance = random.Random(f"{seed}/recovery")
    temper = drill_temper(chance)
    telling = chance.random() < 0.2
    shape = msgspec.structs.replace(random_shape(chance, temper), telling=telling)
    async with Plane(f"{seed}/recovery", shape) as world:
        return await _live(world, seed, chance, temper)


async def _live(world: Plane, seed: int, chance: random.Random, temper: Temper) -> Lived:
    for name in world.names:
        world.start(name)
    loop = asyncio.get_running_loop()
    operator = Evening(world, world.chance("story"), temper)
    strangers.move_in(world, world.chance("strangers"))
    theirs = strangers.seen(world)
    guests = loop.create_task(operator.write(), context=world.outside)
    await operator.begin()
    await operator.copied()
    world.let_calls_fail(failing=True)
    harsh = Harshness(fault_share_max=0.05 if temper.faults else 0.0, traps=TRAPS)
    chaos = Chaos(world, world.chance("chaos"), names=world.names, harshness=harsh)
    for_s = 0.0 if temper.calm else chance.uniform(30, 600 if operator.travels else 400)
    troubles = loop.create_task(chaos.run(for_s=for_s), context=world.outside)
    pause_s = chance.choice((1.5, 5.0, 15.0, 40.0))
    steps = chance.randint(8, 24) * (2 if pause_s < 2 else 1)
    if operator.travels:
        steps //= 2
    await operator.go_on(steps=steps, pause_s=pause_s)
    await troubles
    guests.cancel()
    world.let_calls_fail(failing=False)
    verdict = Verdict(kind="recovery", seed=seed, notes=chaos.log)
    verdict.broken += await operator.finish()
    await asyncio.sleep(QUIET_S)
    verdict.broken += await judge(world, operator.facts, temper)
    if strangers.seen(world) != theirs:
        verdict.broken.append("stranger: what belongs to others was touched")
    journals = [site.journal for site in world.sites.values()]
    verdict.digest = await world.digest(journals)
    verdict.facts = {
        "minutes": round(loop.time() / 60),
        "calls": sum(map(len, journals)),
        "calm": int(temper.calm),
        **_told(operator.facts),
    }
    return Lived(world=world, facts=operator.facts, temper=temper, verdict=verdict)


def _told(facts: Facts) -> dict[str, str | int]:
    """How recoveries ended, by mode and the first letters of their states; what else was done."""
    modes = {row.stream: start.mode for row, start in facts.of(rec.RecoveryStarted)}
    ends: dict[str, Counter[str]] = {mode: Counter() for mode in sorted(set(modes.values()))}
    for row, end in facts.of(rec.RecoveryFinished):
        ends[modes[row.stream]][end.state[0]] += 1
    ends["reverse"] = Counter(e.state[0] for _, e in facts.of(reversals.ReversalFinished))
    told: dict[str, str | int] = {
        mode: "+".join(f"{n}{letter}" for letter, n in sorted(states.items())) or "0"
        for mode, states in ends.items()
    }
    return told | {
        "committed": len(facts.of(ops.RecoveryCommitted)),
        "without": sum(len(b.without) for _, b in facts.of(ops.RecoveryCommitted)),
        "rolled_back": len(facts.of(ops.RecoveryRolledBack)),
        "untouched": sum(end.untouched for _, end in facts.of(ops.RollbackFinished)),
        "left_off": sum(len(end.left_off) for _, end in facts.of(ops.RollbackFinished)),
        "retried": len(facts.of(steer.RecoveryReopened)) + len(facts.of(steer.MemberRetried)),
        "left_out": sum(b.state == "failed" for _, b in facts.of(ops.MemberSecured)),
        "turned": len(facts.of(directions.VmTurned)),
        "undone": sum(bool(end.undone_by) for _, end in facts.of(rec.RecoveryFinished)),
        "powered_off": len(facts.of(lost_sites.SitePowerOffFinished)),
        "asked": len(facts.of(steer.RecoveryAsked)) + len(facts.of(steer.VmAsked)),
    }


def run(seed: int) -> Verdict:
    """One seed's world."""
    return run_virtual(simulate(seed)).verdict
