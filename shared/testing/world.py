"""A seeded world in virtual time: services' copies as processes over one memory database.

Owns what is around services: stores, work queues, wires, news, processes and their deaths, the
hash of all histories. Which services live in it, and what is judged, is the caller's.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol, Self

import msgspec

from schemas.envelope import Recorded, commands_topic, events_topic
from schemas.ids import PARTITIONS
from shared.bus.memory import MemoryBus
from shared.clock import LoopClock
from shared.effects.memory import MemoryWork
from shared.effects.port import ClaimResult, Lease
from shared.eventlog.memory import MemoryStore
from shared.fold import ServiceDefinition
from shared.service import Service
from shared.testing.remote import (
    RemoteBus,
    RemoteQueue,
    RemoteStore,
    Town,
    TownNews,
    Weather,
    Wire,
)
from shared.testing.virtual import VirtualProcess, cancel_all_others

READ_COUNT_MAX: Final = 1_000_000
END_S_MAX: Final = 60.0


class Knobs(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of every process of a world; seconds."""

    lease_s: float = 15.0
    heartbeat_s: float = 5.0
    poll_s: float = 5.0
    repeat_share: float = 0.02
    quick_return_kinds: tuple[str, ...] = ()
    platform_timeout_s: float = 60.0


class Granted(msgspec.Struct, frozen=True):
    """A claim that was granted, by the database's clock; `needs` are names of budgets."""

    at_s: float
    effect_id: str
    needs: frozenset[str]
    cancelled: bool


class WatchedWork(MemoryWork):
    """A work queue that remembers what it granted, and when."""

    grants: list[Granted]

    async def claim(self, lease: Lease, *, kinds: Sequence[str], count_max: int) -> ClaimResult:
        result = await super().claim(lease, kinds=kinds, count_max=count_max)
        now = asyncio.get_running_loop().time()
        for each in result.effects:
            needs = frozenset(need.budget for need in self._effects[each.effect_id].needs)
            self.grants.append(Granted(now, each.effect_id, needs, each.cancelled))
        return result


class Host:
    """What one process has of the world around it."""

    def __init__(self, world: World, name: str, number: int) -> None:
        self.world = world
        self.name = f"{name}.{number}"
        self.process = VirtualProcess(self.name)
        self.clock = world.clock
        self.knobs = world.knobs
        self.news: TownNews = world.town.join(poll_s=world.knobs.poll_s)
        self.wire = Wire(world.weather, self.chance("wire"), served=self._served)
        self.part: Part | None = None
        self.task: asyncio.Task[None] | None = None

    def chance(self, what: str) -> random.Random:
        """A seeded sequence of this process's own."""
        return self.world.chance(f"{self.name}/{what}")

    def store(self, service: str) -> RemoteStore:
        """The service's store."""
        return RemoteStore(self.world.stores[service], self.wire)

    def queue(self, service: str) -> RemoteQueue:
        """The queue that the service's effects lie in."""
        return RemoteQueue(self.world.queues[service], self.wire)

    def bus(self) -> RemoteBus:
        """All logs."""
        return RemoteBus(
            MemoryBus(self.world.stores),
            self.wire,
            chance=self.chance("bus"),
            repeat_share=self.knobs.repeat_share,
        )

    def service(self, definition: ServiceDefinition) -> Service:
        """A copy of a service in this process."""
        return Service(
            definition,
            store=self.store(definition.name),
            bus=self.bus(),
            clock=self.clock,
            news=self.news,
            copy_id=self.name,
            lease_s=self.knobs.lease_s,
        )

    def _served(self, verb: str) -> None:
        self.world.noticed(self, verb)


class Part(Protocol):
    """What runs in a process: `run` until `stop`."""

    def stop(self) -> None: ...

    async def run(self) -> None: ...


Build = Callable[[Host], Part]
"""Makes the part that runs in a process."""


class World:
    """Everything of one run: an async context inside `run_virtual`."""

    def __init__(
        self,
        seed: str,
        *,
        services: Sequence[str],
        shared_queue: Sequence[str] = (),
        knobs: Knobs | None = None,
    ) -> None:
        """`shared_queue` are the services whose effects lie in one queue."""
        self.seed = seed
        self.knobs = knobs or Knobs()
        self.outside = contextvars.copy_context()
        self.grants: list[Granted] = []
        self.clock = LoopClock()
        self.weather = Weather()
        self.town = Town(self.weather, self.chance("town"))
        common = self._new_queue()
        self.queues: dict[str, MemoryWork] = {
            service: common if service in shared_queue else self._new_queue()
            for service in services
        }
        self.stores: dict[str, MemoryStore] = {
            service: MemoryStore(service, clock=self.clock, work=self.queues[service])
            for service in services
        }
        self.hosts: dict[str, Host] = {}
        self.crashes: list[str] = []
        self._builds: dict[str, Build] = {}
        self._numbers: dict[str, int] = {}
        self._ended: list[Host] = []
        self._traps: dict[tuple[str, str], int] = {}

    def _new_queue(self) -> MemoryWork:
        queue = WatchedWork(
            self.clock,
            platform_timeout_s=self.knobs.platform_timeout_s,
            quick_return_kinds=self.knobs.quick_return_kinds,
        )
        queue.grants = self.grants
        return queue

    def chance(self, what: str) -> random.Random:
        """The seeded sequence for one purpose; the others do not disturb it."""
        return random.Random(f"{self.seed}/{what}")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *failure: object) -> None:
        """End everything; nothing that happens now is part of the history."""
        for host in (*self._ended, *self.hosts.values()):
            host.process.bury()
        await cancel_all_others()

    # Processes.

    def place(self, name: str, build: Build) -> None:
        """Name a process and say what runs in it; `start` starts it."""
        self._builds[name] = build

    @property
    def names(self) -> tuple[str, ...]:
        """All processes that were placed."""
        return tuple(self._builds)

    def start(self, name: str) -> None:
        """Begin the process anew; nothing where it runs."""
        if name in self.hosts:
            return
        number = self._numbers[name] = self._numbers.get(name, 0) + 1
        host = self.hosts[name] = Host(self, name, number)
        host.task = host.process.spawn(self._run(host, self._builds[name]), name=host.name)

    async def _run(self, host: Host, build: Build) -> None:
        part = host.part = build(host)
        try:
            await part.run()
        except asyncio.CancelledError:
            raise
        except BaseException as raised:  # the process would have died of it: judged, never hidden
            self.crashes.append(f"{host.name}: {_innermost(raised)!r}")
            self._forget(host)
            raise

    def kill(self, name: str) -> None:
        """As SIGKILL."""
        host = self.hosts.get(name)
        if host is not None:
            host.process.kill()
            self._forget(host)

    def freeze(self, name: str) -> None:
        """As SIGSTOP."""
        if name in self.hosts:
            self.hosts[name].process.freeze()

    def thaw(self, name: str) -> None:
        """As SIGCONT."""
        if name in self.hosts:
            self.hosts[name].process.thaw()

    async def end(self, name: str) -> None:
        """As SIGTERM: waits for the ordered end."""
        host = self.hosts.get(name)
        if host is None or host.part is None or host.task is None:
            return
        host.part.stop()
        host.process.thaw()
        done, _ = await asyncio.wait([host.task], timeout=END_S_MAX)
        if not done and host.process.state != "dead":
            self.crashes.append(f"{host.name}: no end within {END_S_MAX:g} s of being asked")
        if self.hosts.get(name) is host:
            self._forget(host)

    def _forget(self, host: Host) -> None:
        name = host.name.rpartition(".")[0]
        if self.hosts.get(name) is host:
            del self.hosts[name]
            self.town.leave(host.news)
            self._ended.append(host)

    def kill_after(self, name: str, verb: str, count: int) -> None:
        """Kill the process once that many more of its calls were done, before their answers."""
        self._traps[name, verb] = count

    def noticed(self, host: Host, verb: str) -> None:
        """A call of a process was done."""
        name = host.name.rpartition(".")[0]
        left = self._traps.get((name, verb))
        if left is None or self.hosts.get(name) is not host:
            return
        if left > 1:
            self._traps[name, verb] = left - 1
            return
        del self._traps[name, verb]
        self.kill(name)

    def restart_queues(self) -> None:
        """As the restart of the database server: leases get their whole length again."""
        for queue in self.queues.values():
            queue.restart()

    def heal(self) -> None:
        """Good weather, no traps, every process runs."""
        self._traps.clear()
        self.weather.fault_share = self.weather.news_lost_share = 0.0
        self.weather.away = False
        for name in self._builds:
            self.thaw(name)
            self.start(name)

    # History.

    async def rows(self, service: str, topic: str) -> Sequence[Recorded]:
        """All rows of a topic, partition by partition."""
        every = dict.fromkeys(range(PARTITIONS), 0)
        return await self.stores[service].read(topic, every, count_max=READ_COUNT_MAX)

    async def history(self) -> Mapping[tuple[str, str], Sequence[Recorded]]:
        """All rows by (service, topic)."""
        names = sorted(self.stores)
        topics = [commands_topic(name) for name in names]
        found = {}
        for service in names:
            for topic in (events_topic(service), *topics):
                if rows := await self.rows(service, topic):
                    found[service, topic] = rows
        return found

    async def digest(self, *beside: Any) -> str:
        """SHA-256 of all logs, byte for byte, and of whatever is given beside."""
        sha = hashlib.sha256()
        for rows in (await self.history()).values():
            for row in rows:
                sha.update(msgspec.json.encode(row))
        sha.update(msgspec.json.encode(beside))
        return sha.hexdigest()


async def until(
    reached: Callable[[], Awaitable[bool]], *, within_s: float, look_every_s: float = 5.0
) -> bool:
    """Wait in virtual time until something holds; whether it does."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while not await reached():
        if loop.time() >= deadline:
            return False
        await asyncio.sleep(look_every_s)
    return True


def _innermost(raised: BaseException) -> BaseException:
    while isinstance(raised, BaseExceptionGroup):
        raised = raised.exceptions[0]
    return raised
