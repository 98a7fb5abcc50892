"""A scheduler at a desk: the real handlers and the real fold, no store, no clock, no process.

Every fact goes through its stored form, and after every step each touched stream's state must be
what its events alone give, and survive being written as a snapshot.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, TypeVar

import msgspec

from schemas import registry
from schemas import scheduler as said
from schemas.common import CommandSettled, HoldMode
from schemas.envelope import Meta, Received
from schemas.ids import family_of
from schemas.plans import (
    PlanDefinition,
    ReplicationPolicy,
    VmDefinition,
)
from schemas.replicator import InspectSite, StartIteration
from services.scheduler.domain.names import plan_stream, vm_stream
from services.scheduler.domain.plan import Plan
from services.scheduler.domain.protected_vm import ProtectedVm
from services.scheduler.handlers import DEFINITION
from shared.errors import Refused
from shared.eventlog.port import Loaded, NewTimer, Step
from shared.fold import Folder, Input, NeedStreams, StateCache

START = dt.datetime(2026, 11, 22, 20, 0, tzinfo=dt.UTC)
NOW = START + dt.timedelta(minutes=1)
QUARTER_S = 900.0

T = TypeVar("T")


def at(minutes: float) -> dt.datetime:
    """So many minutes after START."""
    return START + dt.timedelta(minutes=minutes)


def definition(*vms: str | VmDefinition, **changes: Any) -> PlanDefinition:
    """A plan of the given VMs, every 15 minutes from START."""
    replication = changes.pop("replication", None) or ReplicationPolicy(
        interval_s=QUARTER_S, start_at=START, **changes.pop("policy", {})
    )
    members = tuple(VmDefinition(name=vm) if isinstance(vm, str) else vm for vm in vms)
    fields: dict[str, Any] = {
        "name": "shop",
        "protected_site": "east",
        "recovery_site": "west",
        "replication": replication,
        "vms": members,
    }
    return PlanDefinition(**(fields | changes))


class Desk:
    """Feeds messages and due timers to the scheduler and keeps what it says."""

    def __init__(self, *, verify: bool = True) -> None:
        self.cache = StateCache(DEFINITION)
        self.handlers = {handler.message: handler for handler in DEFINITION.handlers}
        self.now = NOW
        self.events: dict[str, list[Any]] = {}
        self.sent: list[Any] = []
        self.answers: dict[str, CommandSettled] = {}
        self.timers: dict[tuple[str, str], NewTimer] = {}
        self.names: dict[str, str] = {}
        self.rows = 0
        self.verify = verify
        self.under_way: tuple[type[Any], ...] = ()
        self.inventory: dict[str, tuple[str, ...]] = {"east": (), "west": ()}
        self._commands = 0

    # ── Giving it something to decide ────────────────────────────────────────────────────────

    def tell(self, body: Any, *, stream: str = "", moment: dt.datetime | None = None) -> list[Any]:
        """Deliver one message; gives the new events of all streams, in order.

        What the scheduler tells itself follows at once, but for messages of a type in
        `under_way`: those are taken, and told, by the test.
        """
        meta = Meta(occurred_at=moment or self.now, actor="ann")
        received = Received(body=body, meta=meta, at=self.now, stream=stream)
        before = {key: len(found) for key, found in self.events.items()}
        own = self._commit(received)
        for message in own:
            if isinstance(message, self.under_way):
                self.sent.append(message)
            else:
                self.tell(message)
        return [
            event for key, found in self.events.items() for event in found[before.get(key, 0) :]
        ]

    def command(
        self, body_type: type[Any], *, patient: bool = True, **fields: Any
    ) -> CommandSettled | None:
        """Give a command; the answer, if it was decided at once.

        `patient`: one that is put off is waited for, while no news comes in.
        """
        self._commands += 1
        command_id = f"c{self._commands}"
        self.tell(body_type(command_id=command_id, **fields))
        while patient and (again := self.put_off(command_id)):
            self.fire(again)
        return self.answers.get(command_id)

    def put_off(self, command_id: str) -> NewTimer | None:
        """The reminder of a command that waits for news."""
        name = f"again-{command_id}"
        return next((timer for timer in self.timers.values() if timer.name == name), None)

    def until(self, moment: dt.datetime, *, count_max: int = 10_000) -> None:
        """Let time pass; every timer fires at its moment."""
        for _ in range(count_max):
            due = [timer for timer in self.timers.values() if timer.due <= moment]
            if not due:
                self.now = max(self.now, moment)
                return
            self.fire(min(due, key=lambda timer: (timer.due, timer.stream, timer.name)))
        raise AssertionError("timers never come to rest")

    def fire(self, timer: NewTimer, *, late_s: float = 0.0) -> None:
        """One timer fires, perhaps late."""
        del self.timers[timer.stream, timer.name]
        self.now = max(self.now, timer.due + dt.timedelta(seconds=late_s))
        body = registry.decode(timer.type, timer.schema_version, timer.data)
        self.tell(body, stream=timer.stream)

    # ── Playing the other services ───────────────────────────────────────────────────────────

    def add_sites(self, **vms: tuple[str, ...]) -> None:
        """Register sites by name, with the VMs they hold."""
        for site, names in vms.items():
            self.inventory[site] = names
            self.command(said.AddSite, site=site, platform="lab", settings={"path": f"/{site}"})
            self.inspect()

    def inspect(self, **changes: Any) -> None:
        """Answer all inspections that were asked for; `changes` go into every answer."""
        asked = [message for message in self.sent if isinstance(message, InspectSite)]
        self.sent = [message for message in self.sent if not isinstance(message, InspectSite)]
        for message in asked:
            self.tell(self.inspection(message, **changes))

    def inspection(self, message: InspectSite, **changes: Any) -> said.SiteInspected:
        """What a healthy site answers."""
        answer = said.SiteInspected(
            request=message.request,
            site=message.site.site,
            for_stream=message.for_stream,
            vms=self.inventory[message.site.site] if message.match else message.vms,
        )
        return msgspec.structs.replace(answer, **changes)

    def apply(self, plan: PlanDefinition, **fields: Any) -> CommandSettled:
        """Apply a plan; its sites answer at once."""
        answer = self.command(said.ApplyPlan, definition=plan, **fields)
        if answer is None:
            command_id = f"c{self._commands}"
            self.inspect()
            self.settle_names()
            answer = self.answers[command_id]
        return answer

    def settle_names(self) -> None:
        """Let the names go that a dry run had taken."""
        for timer in [t for t in self.timers.values() if t.name == "names"]:
            self.fire(timer)

    def end(
        self, vm: str, state: Any = "completed", *, copy: bool = True, **fields: Any
    ) -> list[Any]:
        """The VM's running iteration ends now, with a copy of this moment."""
        copied_at = self.now if copy and state != "cancelled" else None
        return self.tell(
            said.IterationEnded(
                plan="shop",
                vm=vm,
                iteration=self.vm(vm).iteration,
                state=state,
                checkpoint_at=fields.pop("checkpoint_at", copied_at),
                **fields,
            )
        )

    def copied(self, *vms: str) -> None:
        """Every VM has a copy: one run, all of it done."""
        self.command(said.RunPlan, plan="shop", job=f"replication-run:shop:r{self._commands}")
        for vm in vms:
            self.end(vm)
        self.settle_checks()

    def settle_checks(self) -> None:
        """Let groups see that their members are done."""
        for timer in [t for t in self.timers.values() if t.name.startswith("group-check")]:
            self.fire(timer)

    # ── Looking ──────────────────────────────────────────────────────────────────────────────

    def vm(self, vm: str) -> ProtectedVm:
        """The state of a VM of the plan `shop`."""
        state: ProtectedVm = self._state(vm_stream("shop", vm))
        return state

    @property
    def plan(self) -> Plan:
        """The state of the plan `shop`."""
        state: Plan = self._state(plan_stream("shop"))
        return state

    def take(self, kind: type[T]) -> list[T]:
        """Messages of a kind that were sent since the last look."""
        found = [message for message in self.sent if isinstance(message, kind)]
        self.sent = [message for message in self.sent if not isinstance(message, kind)]
        return found

    def started(self) -> list[str]:
        """The VMs whose iterations were started since the last look."""
        return [message.vm for message in self.take(StartIteration)]

    def said(self, kind: type[T], stream: str = "") -> list[T]:
        """All events of a kind so far."""
        streams = [stream] if stream else list(self.events)
        return [e for key in streams for e in self.events.get(key, []) if isinstance(e, kind)]

    def timer(self, stream: str, name: str) -> NewTimer | None:
        """A timer that is set."""
        return self.timers.get((stream, name))

    def modes(self, vm: str) -> dict[str, tuple[HoldMode, ...]]:
        """Who holds a VM."""
        return dict(self.vm(vm).holds)

    def _state(self, stream: str) -> Any:
        cached = self.cache.get(stream)
        assert cached is not None, f"{stream} was never loaded"
        return cached.state

    # ── Committing ───────────────────────────────────────────────────────────────────────────

    def _commit(self, received: Received) -> list[Any]:
        folder = Folder(DEFINITION, self.cache, self.handlers)
        step = self._fold(folder, received)
        taken = [name for name, stream in step.reserved if self.names.get(name, stream) != stream]
        if taken:
            # As the runner does: nothing of the step stands, the command is refused.
            self._rewind(folder.touched)
            holder = self.names[taken[0]]
            refused = Refused(f"{taken[0]} belongs to {holder}", code="name-taken")
            answer = CommandSettled(
                command_id=received.body.command_id,
                outcome="refused",
                code=refused.code,
                message=refused.message,
            )
            self.answers[answer.command_id] = answer
            return []
        for name, stream in step.released:
            if self.names.get(name) == stream:
                del self.names[name]
        self.names |= dict(step.reserved)
        for key in step.cancelled_timers:
            self.timers.pop(key, None)
        for timer in step.timers:
            self.timers[timer.stream, timer.name] = timer
        own = self._rows(step)
        if self.verify:
            self._verify(folder.touched)
        return own

    def _fold(self, folder: Folder, received: Received) -> Step:
        while True:
            try:
                missing = folder.streams_of([Input(received=received)])
                self.cache.absorb({s: Loaded(snapshot=None, events=()) for s in missing})
                return folder.fold([Input(received=received)])
            except NeedStreams as need:
                self.cache.absorb({s: Loaded(snapshot=None, events=()) for s in need.streams})
                folder.reset()

    def _rows(self, step: Step) -> list[Any]:
        own = []
        for row in step.rows:
            self.rows += 1
            body = registry.decode(row.type, row.schema_version, row.data)
            if isinstance(body, CommandSettled):
                assert body.command_id not in self.answers, "answered twice"
                self.answers[body.command_id] = body
            elif row.version:
                self.events.setdefault(row.stream, []).append(body)
                assert len(self.events[row.stream]) == row.version
            elif row.topic == "seawall.scheduler.commands":
                own.append(body)
            else:
                self.sent.append(body)
        return own

    def _verify(self, touched: set[str]) -> None:
        for stream in touched:
            family = self.cache.family(stream)
            again = family.initial()
            for event in self.events.get(stream, []):
                again = family.evolve(again, event)
            state = self._state(stream)
            assert again == state, f"{stream} is not what its events say"
            stored = msgspec.json.encode(state)
            assert msgspec.json.decode(stored, type=family.state) == state

    def _rewind(self, touched: set[str]) -> None:
        for stream in touched:
            family = self.cache.family(stream)
            state = family.initial()
            for event in self.events.get(stream, []):
                state = family.evolve(state, event)
            cached = self.cache.get(stream)
            assert cached is not None
            cached.state, cached.version = state, len(self.events.get(stream, []))
            assert family_of(stream) == family.name


def desk_with(*vms: str, **changes: Any) -> Desk:
    """Two sites and the plan `shop`, applied a minute after START."""
    desk = Desk()
    desk.add_sites(east=vms, west=())
    answer = desk.apply(definition(*vms, **changes))
    assert answer.outcome == "done", answer
    return desk
