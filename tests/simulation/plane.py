"""The whole control plane in one world: every service's real deciders, handlers and engine.

Owns the wiring that each service's `main.py` owns in production, on memory twins, and who stands
outside: the gateway's stand-in, the sites, the machine for scripts, the mail server.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from schemas.envelope import Recorded
from schemas.notifier import SendMail
from services.gateway.commands import Asked, CommandBus
from services.notifier.handlers import definition as notifier_definition
from services.projector.model import MemoryReadModel, project
from services.projector.project import Projector
from services.projector.projection import Batch, Where
from services.projector.settings import ProjectorSettings
from services.recovery import effects as recovery_effects
from services.recovery import platform_work as recovery_work
from services.recovery.handlers import DEFINITION as RECOVERY
from services.replicator import effects as replicator_effects
from services.replicator import tools as replicator_tools
from services.replicator.budgets import SiteBudgets
from services.replicator.handlers import DEFINITION as REPLICATOR
from services.replicator.progress import Silence, TransferProgress
from services.replicator.settings import ReplicatorSettings
from services.replicator.transfer import TransferSettings
from services.scheduler.handlers import DEFINITION as SCHEDULER
from shared.effects.policy import MAIL
from shared.effects.running import EffectHandler, EffectRun
from shared.errors import Transient
from shared.platforms.lab.settings import SiteSettings
from shared.platforms.memory import MemoryVm
from shared.process import QUICK_RETURN_KINDS
from shared.secrets import SecretResolver
from shared.service import Service
from shared.testing.remote import Wire
from shared.testing.scripts import Machine, MemoryRunner
from shared.testing.sites import MemorySites, WatchedSite
from shared.testing.world import Host, Knobs, World

LOGGED: Final = ("gateway", "scheduler", "replicator", "recovery", "notifier")
NOTIFIER: Final = notifier_definition(("ops@example.org",))
DEFINITIONS: Final = (SCHEDULER, REPLICATOR, RECOVERY, NOTIFIER)
CHUNK_BYTES: Final = 1024
TRANSFER: Final = TransferSettings(
    chunk_bytes=CHUNK_BYTES,
    window_bytes=8 * CHUNK_BYTES,
    window_bytes_min=4 * CHUNK_BYTES,
    window_bytes_max=16 * CHUNK_BYTES,
    mark_bytes=4 * CHUNK_BYTES,
    merge_gap_bytes=0,
    zero_bytes_max=16 * CHUNK_BYTES,
)
SECRETS: Final = {"DB_ADMIN": "a secret of some length"}


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """How a world is laid out. `telling`: with those who tell people, notifier and projector."""

    knobs: Knobs = Knobs(quick_return_kinds=QUICK_RETURN_KINDS)
    copies: int = 2
    copies_of_others: int = 1
    telling: bool = True
    node_disks: int = 40
    mail_fails: float = 0.0
    east: SiteSettings = SiteSettings()
    west: SiteSettings = SiteSettings()


class Plane(World):
    """All services in one world, and the doors through which people and guests come in."""

    def __init__(self, seed: str, shape: Shape) -> None:
        super().__init__(
            seed,
            services=(*LOGGED, "projector"),
            shared_queue=("replicator", "recovery"),
            knobs=shape.knobs,
        )
        self.shape = shape
        self.sites = {
            "east": WatchedSite("east", settings=_calm(shape.east)),
            "west": WatchedSite("west", settings=_calm(shape.west)),
        }
        self.lost: dict[str, list[tuple[dt.datetime, dt.datetime | None]]] = {
            name: [] for name in self.sites
        }
        """When each site could not be reached, from and until."""
        self.first: dict[str, dict[str, bytes]] = {}
        """The disks of each VM when it was put on its site."""
        self.written: list[tuple[MemoryVm, str, int, bytes]] = []
        """What guests wrote: machine, disk, offset, bytes."""
        self.last_runs: dict[str, tuple[str, ...]] = {}
        """Runs of plans at the very end, and whom they are to copy."""
        self.machine = Machine(self)
        self.model = MemoryReadModel()
        self.mails: list[str] = []
        self.asked: list[Asked] = []
        self._door = self.town.join(poll_s=self.knobs.poll_s)
        self._gateway = CommandBus(self.stores["gateway"], clock=self.clock, news=self._door)
        tellers = shape.copies_of_others if shape.telling else 0
        for name, build, copies in (
            ("scheduler", _scheduler, shape.copies_of_others),
            ("replicator", _replicator, shape.copies),
            ("recovery", _recovery, shape.copies),
            ("notifier", _notifier, tellers),
            ("projector", _projector, tellers),
        ):
            for number in range(1, copies + 1):
                self.place(f"{name}-{number}", build)

    def let_calls_fail(self, *, failing: bool) -> None:
        """Whether the faults that its shape gives a site happen from now on."""
        for name, site in self.sites.items():
            wanted: SiteSettings = getattr(self.shape, name)
            site.settings = wanted if failing else _calm(wanted)

    def add_vm(self, vm: MemoryVm) -> None:
        """Put a VM on the protected site."""
        self.sites["east"].add_vm(vm)
        self.first[vm.name] = {name: bytes(disk) for name, disk in vm.disks.items()}
        self.sites["east"].look()

    def write(self, vm: MemoryVm, disk: str, offset: int, data: bytes) -> None:
        """What a guest does to a disk of its machine."""
        self.written.append((vm, disk, offset, data))
        vm.write(disk, offset, data)

    def lose_site(self, name: str, *, lost: bool) -> None:
        """The site cannot be reached from now on, or can again."""
        now = self.clock.now()
        if lost and self.sites[name].is_there:
            self.lost[name].append((now, None))
        elif not lost and not self.sites[name].is_there:
            self.lost[name][-1] = (self.lost[name][-1][0], now)
        self.sites[name].is_there = not lost

    async def ask(self, asked: Asked) -> None:
        """A person's command, accepted durably."""
        self.asked.append(asked)
        await self._gateway.accept(asked)

    async def rebuilt(self) -> MemoryReadModel:
        """The read model folded again from the logs."""
        rows: list[Recorded] = []
        for (_, topic), found in (await self.history()).items():
            if topic.endswith(".events"):
                rows += found
        return fold_again(rows)


def _calm(settings: SiteSettings) -> SiteSettings:
    return msgspec.structs.replace(settings, faults={})


def fold_again(rows: Sequence[Recorded]) -> MemoryReadModel:
    """The read model of these rows."""
    model = MemoryReadModel()
    project(rows, model)
    return model


def _scheduler(host: Host) -> Service:
    return host.service(SCHEDULER)


def _replicator(host: Host) -> Service:
    world = _plane(host)
    service = host.service(REPLICATOR)
    queue = host.queue("replicator")
    budgets = SiteBudgets(MemorySites(world.sites, host), queue, node_disks=world.shape.node_disks)
    tools = replicator_tools.Tools(
        open_site=budgets.open,
        define_budgets=budgets.define,
        read_states=service.read_states,
        paces=replicator_tools.Paces(),
        patience=replicator_tools.Patience(),
        progress=TransferProgress(Silence()),
        runner=MemoryRunner(world.machine, host),
        secrets=_secrets(),
        put_blob=service.store.put_blob,
        clock=host.clock,
        settings=ReplicatorSettings(node_disks=world.shape.node_disks, transfer=TRANSFER),
    )
    _work(host, service, replicator_effects.handlers(tools))
    service.beside(budgets.keep)
    return service


def _recovery(host: Host) -> Service:
    world = _plane(host)
    service = host.service(RECOVERY)
    tools = recovery_work.Tools(
        open_site=MemorySites(world.sites, host).open,
        read_states=service.read_states,
        runner=MemoryRunner(world.machine, host),
        secrets=_secrets(),
        put_blob=service.store.put_blob,
        clock=host.clock,
    )
    _work(host, service, recovery_effects.handlers(tools))
    return service


def _notifier(host: Host) -> Service:
    service = host.service(NOTIFIER)
    _work(host, service, {"send-mail": MailServer(_plane(host), host.chance("mail"))})
    return service


def _projector(host: Host) -> Projector:
    return Projector(
        RemoteModel(_plane(host).model, host.wire),
        bus=host.bus(),
        leases=host.store("projector"),
        clock=host.clock,
        news=host.news,
        copy_id=host.name,
        lease_s=host.knobs.lease_s,
        settings=ProjectorSettings(),
    )


def _work(host: Host, service: Service, handlers: dict[str, EffectHandler] | Any) -> None:
    service.work(
        host.queue(service.name),
        handlers,
        heartbeat_s=host.knobs.heartbeat_s,
        chance=host.chance("worker"),
    )


def _secrets() -> SecretResolver:
    return SecretResolver(home=Path("/nonexistent"), environ=SECRETS)


def _plane(host: Host) -> Plane:
    assert isinstance(host.world, Plane)
    return host.world


class MailServer:
    """Takes mails, or not."""

    policy = MAIL
    resumable = True

    def __init__(self, world: Plane, chance: random.Random) -> None:
        self._world = world
        self._chance = chance

    async def run(self, effect: EffectRun) -> msgspec.Struct:
        """Deliver."""
        payload: SendMail = effect.payload
        if self._chance.random() < self._world.shape.mail_fails:
            raise Transient("the mail server does not answer")
        self._world.mails.append(payload.mail.message_id)
        return payload


class RemoteModel:
    """The read model at the other end of a wire."""

    def __init__(self, model: MemoryReadModel, wire: Wire) -> None:
        self._model = model
        self._wire = wire

    async def cursors(self) -> dict[Where, tuple[int, int]]:
        return dict(await self._wire.call("model.cursors", self._model.cursors))

    async def load(self, view: int, ids: Any) -> Any:
        return await self._wire.call("model.load", lambda: self._model.load(view, ids))

    async def commit(self, batch: Batch) -> None:
        await self._wire.call("model.commit", lambda: self._model.commit(batch))

    async def tell_freshness(self, copy_id: str, lag_s: float) -> None:
        await self._wire.call("model.tell", lambda: self._model.tell_freshness(copy_id, lag_s))

    async def prune(self, *, keep_days: int) -> None:
        await self._wire.call("model.prune", lambda: self._model.prune(keep_days=keep_days))
