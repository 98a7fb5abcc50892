"""A recovery service without an engine: real handlers, queues, timers and effects by hand.

Every event and message takes its stored form on the way, every state that of its snapshot.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict, deque
from typing import Any

import msgspec

from schemas import operations, reversals
from schemas import recovery as said
from schemas import recovery_steering as steer
from schemas import recovery_work as work
from schemas.common import Problem, ScriptReport
from schemas.ids import family_of
from schemas.plans import (
    RECOVERY_OPERATIONS,
    ReadyProbe,
    RecoveryPolicy,
    ReplicationPolicy,
    ScriptDefinition,
    VmDefinition,
)
from schemas.prep import ListedNode
from schemas.scheduler import PlanHeader, SiteRef
from services.recovery.handlers import FAMILIES, HANDLERS
from shared.decider import Decision, Effect, EffectOutcome
from shared.testing.spec import T0, received, restored, stored, trouble

JOB = "recovery:shop:r1"
SITE = SiteRef(site="west", platform="lab", settings={"path": "/west"})


NODES = (ListedNode(name="prep1", seats=2), ListedNode(name="prep2", seats=2))
"""The prep nodes of the site."""


def script(name: str = "a.sh", **fields: Any) -> ScriptDefinition:
    """A script that runs in every recovery."""
    return ScriptDefinition(
        run=name, runtime="sh", sha256="0" * 64, size=1, operations=RECOVERY_OPERATIONS, **fields
    )


def vm(name: str, order: int = 1, **fields: Any) -> VmDefinition:
    """A VM of the plan."""
    fields.setdefault("ready", ReadyProbe(within_s=60))
    return VmDefinition(name=name, boot_order=order, **fields)


def header(**policy: Any) -> PlanHeader:
    """A plan whose recovery goes by `policy`."""
    return PlanHeader(
        name="shop",
        protected=msgspec.structs.replace(SITE, site="east"),
        recovery_site=SITE,
        replication=ReplicationPolicy(interval_s=900),
        recovery=RecoveryPolicy(**policy),
    )


def enrol(definition: VmDefinition, **fields: Any) -> said.EnrolVm:
    """The scheduler's message for one VM."""
    settings: dict[str, Any] = {
        "header": header(), "checkpoint": "latest", "mode": "test", **fields
    }  # fmt: skip
    return said.EnrolVm(job=JOB, plan="shop", definition=definition, **settings)


def start(*vms: VmDefinition, **fields: Any) -> said.StartRecovery:
    """The scheduler's message for the parent."""
    settings: dict[str, Any] = {
        "header": header(), "checkpoint": "latest", "mode": "test", **fields
    }  # fmt: skip
    return said.StartRecovery(
        job=JOB,
        plan="shop",
        plan_version=1,
        members=tuple(said.Member(v.name, v.boot_order, v.boot_delay_s) for v in vms),
        requested_at=T0,
        **settings,
    )


def answer(effect: Effect, now: dt.datetime) -> Any:
    """What a platform on which everything works says. VMs named `win…` are Windows."""
    payload = effect.payload
    match payload:
        case work.Preflight():
            return work.PreflightReport(facts={"calls": []})
        case work.RunScript():
            return work.ScriptRan(report=ScriptReport(outcome="done", exit_code=0))
        case work.HoldCopy():
            disks = tuple(work.CopyDisk(name=name, size=1) for name in ("sda", "sdb"))
            os = "windows" if payload.vm.startswith("win") else "linux"
            return work.CopyHeld(copy_id=f"copy-{payload.vm}", taken_at=now, disks=disks, os=os)
        case work.RebuildDisk():
            disk = payload.disk
            return work.DiskRebuilt(disk_id=f"d-{payload.vm}-{disk}", name=disk, file="", size=1)
        case work.CreateInstance():
            return work.InstanceState(instance_id=f"i-{payload.vm}", addresses=("127.0.0.9",))
        case work.PowerOn():
            return work.InstanceState(instance_id=payload.instance_id, powered_on_at=now)
        case work.PollSite():
            ready = tuple(work.ReadyGuest(stream=w.stream, at=now) for w in payload.watched)
            return work.SitePolled(ready=ready)
        case work.LookAtSource():
            return work.SourceState(on=True)
        case work.ListPrepNodes():
            return work.PrepNodesFound(nodes=NODES)
        case work.PrepareWindows():
            return work.WindowsPrepared(target="lab", changes=("viostor: Start 3 → 0",))
        case work.ValidateWindows():
            return work.WindowsValidated(disks_online=payload.disks)
        case operations.LookAtSources():
            return operations.SourcesListed()
        case reversals.LookAtInstances():
            return reversals.InstancesSeen(facts={"vms": len(payload.sources)})
        case reversals.VerifyCopies():
            return reversals.CopiesVerified()
        case work.ListOwned():
            return work.OwnedListed(objects=(), total=0)
    return work.WorkDone()


class World:
    """All streams of the service, and what waits outside of them."""

    def __init__(self) -> None:
        self.now = T0
        self.states: dict[str, Any] = {}
        self.log: list[tuple[str, Any, dt.datetime]] = []
        self.queues: dict[str, deque[Any]] = defaultdict(deque)
        self.sent: list[Any] = []
        self.answers: list[Any] = []
        self.effects: dict[str, Effect] = {}
        self.asked_to_stop: set[str] = set()
        self.timers: dict[tuple[str, str], tuple[dt.datetime, Any]] = {}
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
        if handler.expand is not None:
            states |= {name: self.state(name) for name in handler.expand(states, message)}
        for name, decision in handler.decide(states, message).items():
            self._apply(name, decision)

    def settle(self, effect_id: str, result: Any = None, *, code: str = "", **more: Any) -> None:
        """End an effect: well, with `result` or the usual answer, or for good with `code`."""
        effect = self.effects.pop(effect_id)
        self.asked_to_stop.discard(effect_id)
        stream = effect_id.partition("/")[0]
        ended = EffectOutcome(
            effect_id=effect_id,
            part=effect.part,
            kind=effect.kind,
            ok=not code,
            at=self.now,
            started_at=self.now,
            attempts=1,
            result=None if code else stored(result or answer(effect, self.now)),
            code=code,
            error=code and "it broke",
            **more,
        )
        family = self._families[family_of(stream)]
        assert family.outcome is not None
        message = received(ended, at=self.now, stream=stream)
        self._apply(stream, family.outcome(self.state(stream), message))

    def fire_next_timer(self) -> bool:
        """Let time pass until the next timer is due, and fire it."""
        if not self.timers:
            return False
        key = min(self.timers, key=lambda each: self.timers[each][0])
        due, body = self.timers.pop(key)
        self.now = max(self.now, due)
        self.deliver(body, stream=key[0])
        return True

    def late(self, stream: str, *, error: str = "") -> None:
        """The watcher says that a VM's guest was not ready in its time."""
        state = self.state(stream)
        until = state.powered_on_at + dt.timedelta(
            seconds=state.enrolled.definition.ready.within_s
        )
        self.deliver(said.InstanceLate(stream=stream, until=until, error=error))

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

    def run(self, *, steps_max: int = 10_000) -> None:
        """Let everything work out well until nothing is left to do."""
        for _ in range(steps_max):
            self.deliver_all()
            if self.effects:
                effect_id = next(iter(self.effects))
                if effect_id in self.asked_to_stop:
                    self.settle(effect_id, code="cancelled")
                else:
                    self.settle(effect_id)
            elif not self.fire_next_timer():
                return
        raise AssertionError("the world does not come to rest")

    def events(self, kind: type) -> list[Any]:
        """All events of one type, in order."""
        return [event for _, event, _ in self.log if isinstance(event, kind)]

    def event(self, kind: type) -> Any:
        """The only event of one type."""
        (only,) = self.events(kind)
        return only

    def to_scheduler(self, kind: type) -> list[Any]:
        """What the scheduler was told."""
        return [message for message in self.sent if isinstance(message, kind)]

    def _apply(self, stream: str, decision: Decision) -> None:
        family = self._families[family_of(stream)]
        self.state(stream)
        for event in decision.events:
            self.states[stream] = family.evolve(self.states[stream], stored(event))
            self.log.append((stream, event, self.now))
        for effect in decision.effects:
            effect_id = f"{stream}/{effect.part}"
            assert effect_id not in self.effects, f"{effect_id} is under way already"
            self.effects[effect_id] = msgspec.structs.replace(
                effect, payload=stored(effect.payload)
            )
            self.asked(effect_id, effect)
        for part in decision.cancel_effects:
            if f"{stream}/{part}" in self.effects:
                self.asked_to_stop.add(f"{stream}/{part}")
        for timer in decision.timers:
            self.timers[stream, timer.name] = (timer.due, stored(timer.message))
        for name in decision.cancel_timers:
            self.timers.pop((stream, name), None)
        self.answers += decision.answers
        for send in decision.sends:
            if send.to == "recovery":
                self.queues[send.key].append(stored(send.message))
            else:
                self.sent.append(stored(send.message))

    def steer(self, kind: type, job: str = JOB, **fields: Any) -> None:
        """A person's command about a job; a Refused goes through."""
        self.deliver(kind(command_id=f"c{len(self.log)}", job=job, **fields))

    def grant_holds(self, *, problem: Problem | None = None) -> None:
        """The scheduler answers what it was last asked about holds."""
        asked = self.to_scheduler(steer.HoldAgain)[-1]
        self.deliver(
            steer.HoldsAnswered(job=asked.job, command_id=asked.command_id, problem=problem)
        )

    def asked(self, effect_id: str, effect: Effect) -> None:
        """Called for every effect asked for; tests look at the moment."""
