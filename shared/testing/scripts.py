"""Scripts of a world: what a script does stands in its content, how it goes follows the seed.

A run belongs to no process of the world but to the machine: it goes on while the process that
started it is frozen, and is ended by its guard when that process is dead.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec

from shared.scripts.errors import ScriptEndUnknown, ScriptNotStarted
from shared.scripts.runner import EARLIER_S_MAX, ScriptRunner
from shared.scripts.spec import Outcome, Runtime, ScriptResult, ScriptSpec
from shared.secrets import Secret
from shared.testing.world import Host, World

LOOK_S: Final = 0.5
TICK_S: Final = 1e-5
ENDS: Final[Mapping[str, Outcome]] = {
    "done": "done",
    "failed": "failed",
    "timed-out": "timed-out",
}
"""What a script comes to by itself; whatever else becomes of it is *killed*."""


class Play(msgspec.Struct, frozen=True, kw_only=True):
    """A script's content: how long it lasts, how often it fails, what it puts out."""

    name: str
    lasts_s: float = 1.0
    fails: float = 0.0
    not_prepared: float = 0.0
    outputs: dict[str, Any] = {}

    def content(self) -> bytes:
        """As it is stored."""
        return msgspec.json.encode(self)


class Run(msgspec.Struct, kw_only=True):
    """One start of a script under an effect. `outcome` '' while it runs."""

    effect_id: str
    started_at: dt.datetime
    ended_at: dt.datetime | None = None
    outcome: str = ""


class Machine:
    """Where all scripts of a world run. `not_prepared` are the effects whose run found no room."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.runs: list[Run] = []
        self.not_prepared: list[str] = []
        self.guards: dict[str, Host] = {}

    def guarded(self, run_id: str) -> bool:
        """Whether the guard of a run lives: until its process has heard the end, or is dead."""
        host = self.guards.get(run_id)
        return host is not None and host.process.state != "dead"

    async def play(self, host: Host, run: Run, play: Play, *, timeout_s: float) -> None:
        """Let the script run to its end, or to that of the process that guards it."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + min(play.lasts_s, timeout_s)
        try:
            while (left_s := ends_at - loop.time()) > TICK_S:
                await asyncio.sleep(min(left_s, LOOK_S))
                if host.process.state == "dead":
                    run.outcome = "guard-gone"
                    return
        except asyncio.CancelledError:
            run.outcome = "stopped"
            raise
        run.ended_at = self.world.clock.now()
        if play.lasts_s > timeout_s:
            run.outcome = "timed-out"
            return
        luck = self.world.chance(f"script/{run.effect_id}").random()
        run.outcome = "failed" if luck < play.fails else "done"


class MemoryRunner(ScriptRunner):
    """The runner of one process: same contract, no process and no file."""

    def __init__(self, machine: Machine, host: Host) -> None:
        self._machine = machine
        self._host = host
        self._chance = host.chance("scripts")

    def check_runtime(self, runtime: Runtime) -> str | None:
        return None

    @property
    def user(self) -> str:
        return "nobody"

    async def why_not_apart(self) -> str:
        return ""

    async def sweep(self) -> int:
        return 0

    async def run(
        self,
        spec: ScriptSpec,
        *,
        context: Mapping[str, Any],
        secrets: Mapping[str, str | Secret],
        on_started: Callable[[], Awaitable[None]],
        run_id: str = "",
        begun: bool = False,
    ) -> ScriptResult:
        play = msgspec.json.decode(spec.content, type=Play)
        if begun and (earlier := await self._earlier(run_id)) is not None:
            return self._told(earlier, play)
        if self._chance.random() < play.not_prepared:
            self._machine.not_prepared.append(run_id)
            raise ScriptNotStarted("no room to prepare the run", remedy="wait")
        world, guards = self._machine.world, self._machine.guards
        guards[run_id] = self._host
        try:
            await on_started()
            run = Run(effect_id=run_id, started_at=world.clock.now())
            self._machine.runs.append(run)
            world.noticed(self._host, "script")
            await asyncio.get_running_loop().create_task(
                self._machine.play(self._host, run, play, timeout_s=spec.timeout_s),
                context=world.outside,
            )
        finally:
            guards.pop(run_id, None)
        return self._told(run, play)

    async def _earlier(self, run_id: str) -> Run | None:
        """The run that ended under this id; None if it was never started."""
        for _ in range(int(EARLIER_S_MAX / LOOK_S)):
            if not self._machine.guarded(run_id):
                break
            await asyncio.sleep(LOOK_S)
        run = next((run for run in self._machine.runs if run.effect_id == run_id), None)
        if self._machine.guarded(run_id) or (run is not None and run.outcome not in ENDS):
            raise ScriptEndUnknown("the script was cut off, or runs on", remedy="look at it")
        return run

    def _told(self, run: Run, play: Play) -> ScriptResult:
        outcome = ENDS.get(run.outcome, "killed")
        return ScriptResult(
            exit_code={"done": 0, "failed": 1}.get(outcome),
            outcome=outcome,
            output=f"{play.name} {outcome}",
            truncated=False,
            outputs=play.outputs if outcome == "done" else {},
            started_at=run.started_at,
            ended_at=run.ended_at or self._machine.world.clock.now(),
            error=None if outcome == "done" else f"{play.name}: {outcome}; mend it",
        )
