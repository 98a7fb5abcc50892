"""A replicator without an engine: real handlers, queues and effects by hand, a platform of sets.

Every event and message takes its stored form on the way, every state that of its snapshot.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict, deque
from typing import Any

import msgspec

from schemas import replicator as said
from schemas import replicator_work as work
from schemas.common import ScriptReport
from schemas.ids import family_of
from schemas.plans import (
    REPLICATION_OPERATIONS,
    ReplicationPolicy,
    ReplicationScripts,
    ScriptDefinition,
    VmDefinition,
)
from schemas.scheduler import IterationEnded, PlanHeader, SiteInspected, SiteRef
from services.replicator.handlers import FAMILIES, HANDLERS
from shared.decider import Decision, Effect, EffectOutcome
from shared.errors import SeawallError
from shared.testing.spec import T0, received, restored, stored, trouble

RUN = "replication-run:shop:t1"
EAST = SiteRef(site="east", platform="lab", settings={"path": "/east"})
WEST = SiteRef(site="west", platform="lab", settings={"path": "/west"})


def iteration(vm: str = "db") -> str:
    """The iteration of a VM in the one tick there is."""
    return f"iteration:shop:{vm}:t1"


def script(name: str = "a.sh", **fields: Any) -> ScriptDefinition:
    """A script that runs around replication."""
    return ScriptDefinition(
        run=name,
        runtime="sh",
        sha256="0" * 64,
        size=1,
        operations=REPLICATION_OPERATIONS,
        **fields,
    )


def start(vm: str = "db", *, pre: Any = None, post: Any = None, **fields: Any) -> Any:
    """The scheduler's message for one iteration."""
    scripts = ReplicationScripts(pre_script=pre, post_script=post)
    return said.StartIteration(
        iteration=iteration(vm),
        plan="shop",
        plan_version=1,
        vm=vm,
        tick_at=T0,
        due_at=T0,
        protected=EAST,
        recovery_site=WEST,
        definition=VmDefinition(name=vm, replication=scripts),
        replication=ReplicationPolicy(interval_s=900),
        priority=3,
        **fields,
    )


def header() -> PlanHeader:
    """The plan of a checkpoint."""
    return PlanHeader(
        name="shop",
        protected=EAST,
        recovery_site=WEST,
        replication=ReplicationPolicy(interval_s=900),
    )


TOOK = dt.timedelta(seconds=4)
"""What copying a disk takes."""


class World:
    """All streams of the service, and a platform that holds what its effects made."""

    def __init__(self, *, disk_count: int = 1) -> None:
        self.now = T0
        self.disk_count = disk_count
        self.states: dict[str, Any] = {}
        self.log: list[tuple[str, Any]] = []
        self.queues: dict[str, deque[Any]] = defaultdict(deque)
        self.sent: list[Any] = []
        self.effects: dict[str, Effect] = {}
        self.asked_to_stop: set[str] = set()
        self.snapshots: set[str] = set()
        self.staged: set[tuple[str, str]] = set()
        self.copies: list[str] = []
        self.checkpoints: set[tuple[str, str]] = set()
        self.closed: list[str] = []
        self._families = {family.name: family for family in FAMILIES}
        self._handlers = {handler.message: handler for handler in HANDLERS}

    def state(self, stream: str) -> Any:
        """A stream's state as after a restart."""
        family = self._families[family_of(stream)]
        if stream not in self.states:
            self.states[stream] = family.initial()
        return restored(family, self.states[stream])

    def deliver(self, body: Any, *, stream: str = "") -> None:
        """Decide a message and apply what comes of it; a Refused goes through."""
        message = received(stored(body), at=self.now, stream=stream)
        handler = self._handlers[type(body)]
        states = {name: self.state(name) for name in handler.route(message)}
        for name, decision in handler.decide(states, message).items():
            self._apply(name, decision)

    def settle(
        self,
        effect_id: str,
        *,
        code: str = "",
        result: Any = None,
        done: bool = False,
        **more: Any,
    ) -> EffectOutcome:
        """End an effect well, or for good with `code`; `done`: it took effect all the same."""
        effect = self.effects.pop(effect_id)
        self.asked_to_stop.discard(effect_id)
        stream = effect_id.partition("/")[0]
        wanted = result is None and (not code or done)
        answer = self._carry_out(effect_id, effect) if wanted else None
        ended = EffectOutcome(
            effect_id=effect_id,
            part=effect.part,
            kind=effect.kind,
            ok=not code,
            at=self.now,
            started_at=self.now,
            attempts=1,
            result=None if code else stored(result or answer),
            code=code,
            error=code and "it broke",
            remedy=code and "mend it",
            **more,
        )
        self.ended(stream, ended)
        return ended

    def settle_failed(self, effect_id: str, error: SeawallError, *, unknown: bool = False) -> None:
        """End an effect for good with the error that its handler raised."""
        effect = self.effects.pop(effect_id)
        self.asked_to_stop.discard(effect_id)
        ended = EffectOutcome(
            effect_id=effect_id,
            part=effect.part,
            kind=effect.kind,
            ok=False,
            at=self.now,
            started_at=self.now,
            attempts=1,
            code=error.code,
            error=error.message,
            remedy=error.remedy,
            unknown=unknown,
        )
        self.ended(effect_id.partition("/")[0], ended)

    def ended(self, stream: str, ended: EffectOutcome) -> None:
        """The owner hears of an effect's end."""
        family = self._families[family_of(stream)]
        assert family.outcome is not None
        message = received(ended, at=self.now, stream=stream)
        self._apply(stream, family.outcome(self.state(stream), message))

    def trouble(self, effect_id: str, *, code: str = "away") -> None:
        """An effect goes on and has failed three times."""
        stream = effect_id.partition("/")[0]
        family = self._families[family_of(stream)]
        assert family.trouble is not None and effect_id in self.effects
        message = received(trouble(effect_id, code=code), at=self.now, stream=stream)
        self._apply(stream, family.trouble(self.state(stream), message))

    def deliver_all(self) -> None:
        """Deliver messages between the service's streams until none is left."""
        while any(self.queues.values()):
            for queue in list(self.queues.values()):
                if queue:
                    self.deliver(queue.popleft())

    def run(self, *, steps_max: int = 1_000) -> None:
        """Let everything work out well until nothing is left to do."""
        for _ in range(steps_max):
            self.deliver_all()
            if not self.effects:
                return
            effect_id = next(iter(self.effects))
            stopped = effect_id in self.asked_to_stop
            self.settle(effect_id, code="cancelled" if stopped else "")
        raise AssertionError("the world does not come to rest")

    def events(self, kind: type) -> list[Any]:
        """All events of one type, in order."""
        return [event for _, event in self.log if isinstance(event, kind)]

    def event(self, kind: type) -> Any:
        """The only event of one type."""
        (only,) = self.events(kind)
        return only

    def told(self, kind: type) -> list[Any]:
        """What other services were told."""
        return [message for message in self.sent if isinstance(message, kind)]

    def parts(self) -> list[str]:
        """The parts of the effects that are under way."""
        return [effect.part for effect in self.effects.values()]

    def rows(self) -> int:
        """Rows of the log: events and messages, those to the service itself included."""
        return len(self.log) + len(self.sent)

    def _apply(self, stream: str, decision: Decision) -> None:
        family = self._families[family_of(stream)]
        self.state(stream)
        for event in decision.events:
            self.states[stream] = family.evolve(self.states[stream], stored(event))
            self.log.append((stream, event))
        for effect in decision.effects:
            # As in the queue: an effect that is there already is not asked for twice.
            self.effects.setdefault(
                f"{stream}/{effect.part}",
                msgspec.structs.replace(effect, payload=stored(effect.payload)),
            )
            self.asked(f"{stream}/{effect.part}")
        for part in decision.cancel_effects:
            if f"{stream}/{part}" in self.effects:
                self.asked_to_stop.add(f"{stream}/{part}")
        for send in decision.sends:
            if send.to == "replicator":
                self.queues[send.key].append(stored(send.message))
            else:
                self.sent.append(stored(send.message))

    def asked(self, effect_id: str) -> None:
        """Called for every effect asked for; tests look at the moment."""

    # -- the platform -------------------------------------------------------------------------

    def _carry_out(self, effect_id: str, effect: Effect) -> Any:
        payload = effect.payload
        match payload:
            case work.OpenSnapshot():
                self.snapshots.add(effect_id)
                return work.SnapshotTaken(snapshot=self._snapshot(payload.vm))
            case work.TransferDisk():
                self.staged.add((effect_id.partition("/")[0], payload.disk))
                result = said.DiskResult(
                    disk=payload.disk,
                    state="completed",
                    size=4096,
                    bytes_read=4096,
                    bytes_sent=1024,
                    generation=self._generation(payload),
                    started_at=self.now - TOOK,
                    changes_known_at=self.now - TOOK / 2,
                    verified_from=self.now - TOOK / 4,
                    ended_at=self.now,
                )
                return work.DiskCopied(result=result, carried=payload.carried)
            case work.FinalizeCopy():
                assert payload.carried.snapshot is not None
                self.copies.append(effect_id)
                self.staged.clear()
                at = payload.carried.snapshot.taken_at
                return work.CopySwitched(checkpoint_at=at, carried=payload.carried)
            case work.CloseSnapshot():
                self.snapshots.discard(payload.opened_under)
                self.closed.append(payload.opened_under)
                return work.SnapshotClosed(carried=payload.carried)
            case work.DiscardStaged():
                self.staged.clear()
            case work.CreateVmCheckpoint():
                self.checkpoints.add((payload.vm, payload.checkpoint_id))
                return work.VmCheckpointCreated(copy_id=payload.checkpoint_id, taken_at=T0)
            case work.DeleteVmCheckpoint():
                self.checkpoints.discard((payload.vm, payload.checkpoint_id))
            case work.RunScript():
                return work.ScriptRan(report=ScriptReport(outcome="done", exit_code=0))
            case said.InspectSite():
                return SiteInspected(
                    request=payload.request, site=payload.site.site, for_stream=payload.for_stream
                )
        return work.WorkDone()

    def _snapshot(self, vm: str) -> said.SnapshotFacts:
        disks = tuple(
            said.SnapshotDisk(name=f"sd{chr(97 + index)}", size=4096)
            for index in range(self.disk_count)
        )
        at = T0 + dt.timedelta(seconds=1)
        return said.SnapshotFacts(snapshot_id="s1", vm=vm, taken_at=at, mark="t:1", disks=disks)

    def _generation(self, payload: work.TransferDisk) -> said.GenerationFacts:
        return said.GenerationFacts(
            generation_id=f"g-{payload.disk}",
            plan=payload.plan,
            vm=payload.vm,
            disk=payload.disk,
            size=4096,
            lease=1,
        )


def outcome_of(world: World) -> IterationEnded:
    """What the scheduler was told about the only iteration; exactly once."""
    (only,) = world.told(IterationEnded)
    assert isinstance(only, IterationEnded)
    return only
