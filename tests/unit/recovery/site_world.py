"""A world whose effects happen on two small sites in memory: what is on, exists and is held.

Every effect is done twice, as after a lost answer: the second time must change nothing. At every
moment it is checked that no VM runs at both sites.
"""

from __future__ import annotations

from typing import Any, Final

from schemas import operations as said_ops
from schemas import recovery as said
from schemas import recovery_work as work
from schemas.common import Problem
from schemas.plans import VmDefinition
from schemas.scheduler import SyncLast
from shared.decider import Effect
from tests.unit.recovery.world import JOB, World, answer, enrol, start, vm

VMS: Final = (vm("db", 1), vm("app", 2), vm("web", 2))
STEPS_MAX: Final = 2_000


class Sites:
    """Sources by VM (on or off), and what a recovery made: (kind, id) → (vm, on)."""

    def __init__(self, vms: tuple[str, ...]) -> None:
        self.sources = dict.fromkeys(vms, True)
        self.made: dict[tuple[str, str], tuple[str, bool]] = {}
        self.deaf: set[str] = set()
        self.watching = True

    def do(self, effect: Effect) -> Any:
        """What the platform does and answers; doing it again changes nothing."""
        payload = effect.payload
        match payload:
            case work.LookAtSource():
                return work.SourceState(on=self.sources[payload.vm])
            case work.ShutDownSource():
                self.sources[payload.vm] &= payload.vm in self.deaf
            case work.PowerOffSource():
                self.sources[payload.vm] = False
            case work.PowerOnSource():
                self.sources[payload.vm] = True
            case work.HoldCopy():
                self.made["hold", f"copy-{payload.vm}"] = (payload.vm, False)
            case work.ReleaseCopy():
                self.made.pop(("hold", f"copy-{payload.vm}"), None)
            case work.RebuildDisk():
                if ("instance", f"i-{payload.vm}") not in self.made:
                    disk = f"d-{payload.vm}-{payload.disk}"
                    self.made["disk", disk] = (payload.vm, False)
            case work.CreateInstance():
                self._create(payload)
            case work.PowerOn():
                self.made["instance", payload.instance_id] = (payload.vm, True)
            case work.RemoveObject():
                self._remove(payload)
            case said_ops.LookAtSources():
                gone = tuple(vm for vm in payload.vms if vm not in self.sources)
                return said_ops.SourcesListed(missing=gone)
            case said_ops.MeasureWritten():
                there = {
                    owner for (kind, _), (owner, _) in self.made.items() if kind == "instance"
                }
                written = tuple((vm, 4096 if vm in there else None) for vm in payload.vms)
                return said_ops.WrittenMeasured(written=written, total=4096 * len(there))
            case work.ListOwned():
                objects = tuple(
                    (kind, name, owner)
                    for (kind, name), (owner, _) in self.made.items()
                    if not payload.vms or owner in payload.vms
                )
                return work.OwnedListed(objects=objects, total=len(objects))
        return None

    def _create(self, payload: work.CreateInstance) -> None:
        for disk in payload.disks:
            self.made.pop(("disk", disk.disk_id), None)
        self.made.setdefault(("instance", f"i-{payload.vm}"), (payload.vm, False))

    def _remove(self, payload: work.RemoveObject) -> None:
        key = (payload.kind, payload.object_id)
        if payload.action == "power-off" and key in self.made:
            self.made[key] = (payload.vm, False)
        elif payload.action == "delete":
            self.made.pop(key, None)

    def check(self) -> None:
        """No VM runs twice on a production network."""
        for (kind, name), (owner, on) in self.made.items():
            home = self.sources.get(owner, False)
            assert not (kind == "instance" and on and home and self.watching), (
                f"{owner} runs at its site and as {name}"
            )


class SiteWorld(World):
    """A full recovery of three VMs. `fail_at`: the number of the effect that fails for good, and
    whether the platform did it all the same (`done`). `standing` timers are not waited for."""

    standing: frozenset[tuple[str, str]] = frozenset({(JOB, "commit-reminder")})

    def __init__(
        self,
        mode: Any = "failover",
        *,
        fail_at: int | None = None,
        done: bool = False,
        code: str = "broken",
        **options: Any,
    ) -> None:
        super().__init__()
        self.sites = Sites(tuple(each.name for each in VMS))
        self.mode = mode
        self.fail_at, self.done, self.code = fail_at, done, code
        self.count = 0
        self.sync_fails: set[str] = set()
        self.options = {"last_sync": True, **options}

    def begin(self, *vms: VmDefinition) -> SiteWorld:
        """Enrol and start, as the scheduler does."""
        shared = {key: self.options[key] for key in ("header", "on_error") if key in self.options}
        for each in vms or VMS:
            self.deliver(enrol(each, mode=self.mode, **shared))
        self.deliver(start(*(vms or VMS), mode=self.mode, **self.options))
        return self

    def live(self) -> SiteWorld:
        """Let everything happen until nothing is left to do but to remind."""
        for _ in range(STEPS_MAX):
            self.deliver_all()
            if self.effects:
                self.act(next(iter(self.effects)))
            elif self.sync():
                continue
            elif set(self.timers) <= self.standing:
                return self
            else:
                self.fire_next_timer()
        raise AssertionError("the world does not come to rest")

    def act(self, effect_id: str) -> None:
        """One effect is done, twice, or fails."""
        if effect_id in self.asked_to_stop:
            self.settle(effect_id, code="cancelled")
            return
        effect = self.effects[effect_id]
        if isinstance(effect.payload, work.SourcePower) and (
            effect.payload.vm not in self.sites.sources
        ):
            self.settle(effect_id, code="no-such-vm")
            return
        self.count += 1
        failing = self.count == self.fail_at
        result = None
        if not failing or self.done:
            result = self.sites.do(effect)
            self.sites.do(effect)
            self.sites.check()
        if failing:
            self.settle(effect_id, code=self.code)
        elif isinstance(effect.payload, work.ShutDownSource) and (
            effect.payload.vm in self.sites.deaf
        ):
            self.settle(effect_id, code="shutdown-timed-out")
        else:
            self.settle(effect_id, result or answer(effect, self.now))

    def sync(self) -> bool:
        """The scheduler answers for a last sync that was asked for; False where none was."""
        asked = [message for message in self.sent if isinstance(message, SyncLast)]
        self.sent = [message for message in self.sent if not isinstance(message, SyncLast)]
        for name in (name for message in asked for name in message.vms):
            failed = name in self.sync_fails
            self.deliver(
                said_ops.LastSyncEnded(
                    job=JOB,
                    vm=name,
                    state="failed" if failed else "completed",
                    checkpoint_at=None if failed else self.now,
                    problem=Problem(code="x", message="no sync") if failed else None,
                )
            )
        return bool(asked)

    @property
    def end(self) -> said.RecoveryFinished:
        """How the recovery ended."""
        found: said.RecoveryFinished = self.event(said.RecoveryFinished)
        return found

    def roll_back(
        self, number: int = 1, *, confirm: str = "shop", leave_off: bool = False
    ) -> SiteWorld:
        """A person rolls it back."""
        job = f"rollback:shop:b{number}"
        self.deliver(
            said_ops.StartRollback(
                command_id="c", job=job, recovery=JOB, confirm=confirm, leave_off=leave_off
            )
        )
        return self.live()

    def commit(self, number: int = 1, *, without_failed: bool = False) -> SiteWorld:
        """A person commits it."""
        job = f"commit:shop:k{number}"
        self.deliver(
            said_ops.StartCommit(
                command_id="c", job=job, recovery=JOB, without_failed=without_failed
            )
        )
        return self.live()

    def check_log(self) -> None:
        """Every state is what its events alone give: what a copy that takes over would see."""
        for stream, state in self.states.items():
            family = self._families[stream.partition(":")[0]]
            again = family.initial()
            for name, event, _ in self.log:
                if name == stream:
                    again = family.evolve(again, event)
            assert again == state, f"{stream} is not what its events say"
