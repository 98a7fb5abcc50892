"""What befalls a world: processes die, freeze, end and come back; wires and news fail.

Everything follows the seed. When it is over, the world is healed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final

import msgspec

from shared.testing.world import World

SITE_TRAPS: Final = (
    "commit",
    "claim",
    "platform",
    "script",
    "script",
    "open_snapshot",
    "write_chunk",
    "finalize",
    "close_snapshot",
    "hold",
    "rebuild_disk",
    "create_instance",
    "power_on",
    "delete_instance",
)
"""Calls after which a process that talks to sites may die, before it has told anybody."""


class Harshness(msgspec.Struct, frozen=True, kw_only=True):
    """How hard a world is on its processes; seconds, and shares of calls."""

    pause_s: tuple[float, float] = (0.5, 40.0)
    freeze_s_max: float = 50.0
    fault_share_max: float = 0.1
    traps: tuple[str, ...] = ("commit", "claim", "platform")


class Chaos:
    """One world's misfortunes, one after the other and overlapping."""

    def __init__(
        self,
        world: World,
        chance: random.Random,
        *,
        names: Sequence[str],
        harshness: Harshness | None = None,
    ) -> None:
        self._world = world
        self._chance = chance
        self._names = tuple(names)
        self._harsh = harshness or Harshness()
        self.log: list[str] = []

    async def run(self, *, for_s: float) -> None:
        """Disturb for so long, then heal."""
        loop = asyncio.get_running_loop()
        end = loop.time() + for_s
        while loop.time() < end:
            await asyncio.sleep(self._chance.uniform(*self._harsh.pause_s))
            await self._strike()
            self._return_some()
        self._world.heal()
        self._note("healed")

    async def _strike(self) -> None:
        chance, world = self._chance, self._world
        name = chance.choice(self._names)
        match chance.randrange(8):
            case 0:
                self._note(f"kill {name}")
                world.kill(name)
            case 1 | 2:
                verb, count = chance.choice(self._harsh.traps), chance.randint(1, 12)
                self._note(f"kill {name} after {verb} {count}")
                world.kill_after(name, verb, count)
            case 3:
                self._freeze(name, chance.uniform(1.0, self._harsh.freeze_s_max))
            case 4:
                self._note(f"end {name}")
                await world.end(name)
            case 5:
                world.weather.fault_share = chance.choice((0.0, self._harsh.fault_share_max))
                self._note(f"fault share {world.weather.fault_share}")
            case 6:
                await self._outage(chance.uniform(0.5, 20.0))
            case _:
                world.weather.news_lost_share = chance.choice((0.0, 0.5, 1.0))
                self._note(f"news lost {world.weather.news_lost_share}")

    def _freeze(self, name: str, for_s: float) -> None:
        self._note(f"freeze {name} {for_s:.1f} s")
        self._world.freeze(name)
        asyncio.get_running_loop().call_later(for_s, self._world.thaw, name)

    async def _outage(self, for_s: float) -> None:
        self._note(f"away {for_s:.1f} s")
        self._world.weather.away = True
        await asyncio.sleep(for_s)
        self._world.weather.away = False
        if self._chance.random() < 0.5:
            self._world.restart_queues()

    def _return_some(self) -> None:
        for name in self._names:
            if name not in self._world.hosts and self._chance.random() < 0.6:
                self._note(f"start {name}")
                self._world.start(name)

    def _note(self, what: str) -> None:
        self.log.append(f"{asyncio.get_running_loop().time():.3f} {what}")
