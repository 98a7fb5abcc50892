"""A scheduler at its desk and a world of recoveries that talk to each other, step by step.

Both are the real deciders. The platform is a set of things that were made: what a test leaves
behind can be counted.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from schemas import recovery_work as work
from schemas import scheduler
from schemas.clean_points import FindCleanPoint, VerdictScript
from schemas.common import ScriptReport
from schemas.ids import family_of
from schemas.recovery import CancelRecoveryJob
from services.recovery.handlers import FAMILIES
from shared.testing.spec import restored
from tests.unit.recovery.world import World, answer
from tests.unit.scheduler.desk import Desk, definition, desk_with

SEARCH = "find-clean-point:shop:s1"
SCRIPT = VerdictScript(run="scan.sh", runtime="sh", sha256="a" * 64, size=1)

CLEAN = ScriptReport(outcome="done", exit_code=0)
INFECTED = ScriptReport(outcome="failed", exit_code=3, output="found it")
TIMED_OUT = ScriptReport(outcome="timed-out", error="it ran longer than 300 s")


def checkpoint(number: int) -> str:
    """The id of the checkpoint that was made as the `number`-th."""
    return f"checkpoint:shop:c{number}"


class Pair:
    """Desk and world. `verdicts` are what the script says of each checkpoint, clean by default.

    `repeat`: every message to the world arrives twice. `fails` says which effects fail for good.
    """

    def __init__(self, desk: Desk, *, repeat: bool = False) -> None:
        self.desk = desk
        self.world = World()
        self.world.now = desk.now
        self.repeat = repeat
        self.verdicts: dict[str, ScriptReport] = {}
        self.fails: Callable[[str], bool] = lambda effect_id: False
        self.made: dict[str, set[tuple[str, str, str]]] = {}
        self.tried: list[str] = []
        self.at_once_max = 0
        self.put_off = 0
        desk.sent.clear()

    # ── Steps ────────────────────────────────────────────────────────────────────────────────

    def step(self) -> bool:
        """Do the next thing there is to do; False where all is at rest."""
        return any(way() for way in self.ways())

    def ways(self) -> list[Callable[[], bool]]:
        """What may happen next, in the usual order; each says whether there was something."""
        return [self._talk, self._work, self._wait]

    def run(self, *, steps_max: int = 5_000, until: type | None = None) -> int:
        """Until all is at rest, or an event of a type has happened; how many steps it took."""
        for count in range(steps_max):
            if (until and self.world.events(until)) or not self.step():
                return count
        raise AssertionError("the pair does not come to rest")

    def cancel(self, job: str) -> None:
        """A person cancels a job."""
        self.world.deliver(CancelRecoveryJob(command_id="x", job=job))

    def _talk(self) -> bool:
        for message in self.desk.sent:
            if type(message).__module__ != "schemas.replicator":
                self.desk.sent.remove(message)
                self._deliver(message)
                return True
        for key, queue in self.world.queues.items():
            if queue:
                self._deliver(self.world.queues[key].popleft())
                return True
        if self.world.sent:
            self.desk.now = self.world.now
            self.desk.tell(self.world.sent.pop(0))
            return True
        return False

    def _deliver(self, message: Any) -> None:
        self.world.deliver(message)
        if self.repeat:
            self.world.deliver(message)
        self._refold()

    def _work(self) -> bool:
        effects = self.world.effects
        if not effects:
            return False
        effect_id, effect = next(iter(effects.items()))
        if effect_id in self.world.asked_to_stop:
            self.world.settle(effect_id, code="cancelled")
        elif self.fails(effect_id):
            self.world.settle(effect_id, code="broken")
        else:
            self.world.settle(effect_id, self._result(effect))
        self._refold()
        return True

    def _wait(self) -> bool:
        reminders = [t for t in self.desk.timers.values() if t.name.startswith("again-")]
        if reminders:
            self.put_off += 1
            self.desk.fire(reminders[0])
            return True
        moved = self.world.fire_next_timer()
        self.desk.now = max(self.desk.now, self.world.now)
        return moved

    def _result(self, effect: Any) -> Any:
        payload = effect.payload
        here = self.made.setdefault(getattr(payload, "job", ""), set())
        match payload:
            case work.RunScript() if effect.kind == "run-verdict":
                tried = payload.work.context["checkpoint"]
                self.tried.append(tried)
                return work.ScriptRan(report=self.verdicts.get(tried, CLEAN))
            case work.CreateInstance():
                here.add(("instance", f"i-{payload.vm}", payload.vm))
                up = sum(1 for things in self.made.values() if things)
                self.at_once_max = max(self.at_once_max, up)
            case work.RebuildDisk():
                here.add(("disk", f"d-{payload.vm}-{payload.disk}", payload.vm))
            case work.ListOwned():
                return work.OwnedListed(objects=tuple(sorted(here)), total=len(here))
            case work.RemoveObject() if payload.action == "delete":
                self.made[payload.job] = {
                    each for each in here if each[:2] != (payload.kind, payload.object_id)
                }
        return answer(effect, self.world.now)

    def _refold(self) -> None:
        """A crash at this moment: what the log says is what is known, nothing else."""
        families = {family.name: family for family in FAMILIES}
        again: dict[str, Any] = {}
        for stream, event, _ in self.world.log:
            family = families[family_of(stream)]
            again[stream] = family.evolve(again.get(stream, family.initial()), event)
        for stream, state in again.items():
            family = families[family_of(stream)]
            assert restored(family, state) == restored(family, self.world.states[stream])
            self.world.states[stream] = restored(family, state)

    # ── Looking ──────────────────────────────────────────────────────────────────────────────

    def left(self) -> dict[str, set[tuple[str, str, str]]]:
        """Recovery → what it made that is still there."""
        return {job: things for job, things in self.made.items() if things}

    def at_rest(self) -> bool:
        """Whether nothing is under way anywhere."""
        world = self.world
        return not (world.effects or world.timers or any(world.queues.values()) or world.sent)


def searchable(*vms: str, checkpoints: int = 3, repeat: bool = False, **plan: Any) -> Pair:
    """A plan `shop` with so many checkpoints, an hour apart, the last one the newest."""
    desk = desk_with(*vms, **plan)
    desk.copied(*vms)
    for number in range(1, checkpoints + 1):
        desk.now += dt.timedelta(hours=1)
        made = checkpoint(number)
        desk.command(scheduler.CreateCheckpoint, plan="shop", job=made)
        desk.tell(
            scheduler.CheckpointEnded(
                plan="shop", checkpoint=made, state="available", created_at=desk.now, vms=vms
            )
        )
    return Pair(desk, repeat=repeat)


def search(pair: Pair, **fields: Any) -> Any:
    """Ask for a search; the scheduler's answer."""
    settings: dict[str, Any] = {"job": SEARCH, "verdict": SCRIPT, **fields}
    return pair.desk.command(FindCleanPoint, plan="shop", **settings)


def with_plan(desk: Desk, name: str, vm: str, **changes: Any) -> None:
    """Another plan of one VM, which has a copy."""
    desk.inventory["east"] = (*desk.inventory["east"], vm)
    answered = desk.apply(definition(vm, name=name, **changes))
    assert answered.outcome == "done", answered
    run = f"replication-run:{name}:r1"
    desk.command(scheduler.RunPlan, plan=name, job=run)
    ended = scheduler.IterationEnded(
        plan=name,
        vm=vm,
        iteration=f"iteration:{name}:{vm}:r1",
        state="completed",
        checkpoint_at=desk.now,
    )
    desk.tell(ended)
    desk.settle_checks()
