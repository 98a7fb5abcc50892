"""Sites of a world: platforms in memory whose calls go on when the process that made them dies.

Owns what a site has shown over time: every snapshot's content, every instance, every call, and
which machine was on when.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, TypeVar

import msgspec

from shared.errors import Permanent
from shared.platforms.memory import MemoryPlatform, MemorySite
from shared.platforms.memory.site import Frame, HeldCopy, MadeInstance, Opened, moment
from shared.platforms.ports import Call, Platform
from shared.platforms.sites import SiteAddress, Sites
from shared.testing.world import Host

T = TypeVar("T")
PLATFORM: Final = "memory"
JITTER_S_MAX: Final = 0.3


class Shot(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot that was opened: of which machine, for which job, and what was in it."""

    at: dt.datetime
    vm: str
    machine: str
    job: str
    mark: str
    disks: dict[str, bytes]


class Switched(msgspec.Struct, frozen=True, kw_only=True):
    """A copy became the current one of a plan's VM."""

    at: dt.datetime
    plan: str
    vm: str
    mark: str
    disks: dict[str, bytes]


class _Snapshots(dict[str, Opened]):
    """Open snapshots; those that were closed are remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.every: list[Shot] = []
        self.contents: dict[str, dict[str, bytes]] = {}

    def __setitem__(self, snapshot_id: str, opened: Opened) -> None:
        facts = opened.facts
        shot = Shot(
            at=facts.taken_at,
            vm=facts.vm,
            machine=facts.instance or facts.vm,
            job=opened.owned.job,
            mark=facts.mark,
            disks=opened.content,
        )
        self.every.append(shot)
        self.contents[facts.mark] = opened.content
        super().__setitem__(snapshot_id, opened)


class _Copies(dict[tuple[str, str], HeldCopy]):
    """Current copies; those that another took the place of are remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.every: list[Switched] = []

    def __setitem__(self, of: tuple[str, str], copy: HeldCopy) -> None:
        plan, vm = of
        mark, disks = copy.facts.mark, copy.content
        self.every.append(Switched(at=moment(), plan=plan, vm=vm, mark=mark, disks=disks))
        super().__setitem__(of, copy)


class _Instances(dict[str, MadeInstance]):
    """Instances; those that are gone are remembered, and each one's disks when it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.every: list[MadeInstance] = []
        self.born: dict[str, dict[str, bytes]] = {}

    def __setitem__(self, instance_id: str, made: MadeInstance) -> None:
        self.every.append(made)
        self.born[instance_id] = {d: bytes(held) for d, held in made.machine.disks.items()}
        super().__setitem__(instance_id, made)


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """A machine of a site became another: an instance by its id, a source VM by its name."""

    at: dt.datetime
    machine: str
    what: Literal["made", "on", "off", "gone"]


class WatchedSite(MemorySite):
    """A site that remembers what it once held, and which of its machines was on when.

    `last_words` are the disks of a machine at each moment at which it went off.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__(name, **settings)
        self.turns: list[Turn] = []
        self.last_words: dict[str, list[tuple[dt.datetime, dict[str, bytes]]]] = {}
        self._seen: dict[str, str] = {}
        self._watched_snapshots = _Snapshots()
        self._watched_instances = _Instances()
        self._watched_copies = _Copies()
        self.snapshots = self._watched_snapshots
        self.instances = self._watched_instances
        self.current = self._watched_copies

    @property
    def contents(self) -> Mapping[str, dict[str, bytes]]:
        """The disks of every snapshot that was ever opened, by its mark."""
        return self._watched_snapshots.contents

    @property
    def every_snapshot(self) -> list[Shot]:
        """All snapshots that were ever opened, in order."""
        return self._watched_snapshots.every

    @property
    def every_copy(self) -> list[Switched]:
        """All copies that were ever current, in order."""
        return self._watched_copies.every

    @property
    def every_instance(self) -> list[MadeInstance]:
        """All instances that were ever made."""
        return self._watched_instances.every

    @property
    def born(self) -> dict[str, dict[str, bytes]]:
        """The disks that each instance had when it was made."""
        return self._watched_instances.born

    def look(self) -> None:
        """Write down which machines changed since the last look; called at every change."""
        now = {vm.name: vm.power for vm in self.vms.values()}
        now |= {made.facts.instance_id: made.facts.power for made in self.instances.values()}
        if now == self._seen:
            return
        at = moment()
        for machine in sorted(self._seen.keys() - now.keys()):
            self.turns.append(Turn(at=at, machine=machine, what="gone"))
        for machine, power in now.items():
            before = self._seen.get(machine)
            if before is None and machine not in self.vms:
                self.turns.append(Turn(at=at, machine=machine, what="made"))
            if power != (before or "off"):
                self.turns.append(Turn(at=at, machine=machine, what=_POWER[power]))
            if (before, power) == ("on", "off"):
                self.last_words.setdefault(machine, []).append((at, self._disks_of(machine)))
        self._seen = now

    def _disks_of(self, machine: str) -> dict[str, bytes]:
        vm = self.vms.get(machine) or self.instances[machine].machine
        return {name: bytes(disk) for name, disk in vm.disks.items()}


_POWER: Final[Mapping[str, Literal["on", "off"]]] = {"on": "on", "off": "off"}


class HostFrame(Frame):
    """Calls of one process: on their way for a while, there and back."""

    def __init__(self, site: MemorySite, host: Host) -> None:
        super().__init__(site)
        self._host = host
        self._chance = host.chance(f"calls/{site.name}")

    async def run(
        self,
        name: str,
        call: Call | None,
        work: Callable[[], T],
        *,
        scope: str | None = None,
        size: int = 0,
        mutates: bool = False,
    ) -> T:
        """A call that was sent reaches the site though its sender dies; a cancelled one is
        called back."""
        reach: Callable[..., Awaitable[T]] = super().run

        async def sent() -> T:
            await asyncio.sleep(self._chance.uniform(0, JITTER_S_MAX))
            answer = await reach(name, call, work, scope=scope, size=size, mutates=mutates)
            if mutates and isinstance(self.site, WatchedSite):
                self.site.look()
            return answer

        host = self._host
        task = asyncio.get_running_loop().create_task(sent(), context=host.world.outside)
        result = await task
        host.world.noticed(host, "platform")
        host.world.noticed(host, name)
        await asyncio.sleep(self._chance.uniform(0, JITTER_S_MAX))
        return result


class MemorySites(Sites):
    """The sites of a world as one process opens them."""

    def __init__(self, sites: Mapping[str, MemorySite], host: Host) -> None:
        super().__init__()
        self._sites = sites
        self._host = host
        self._platforms: dict[str, Platform] = {}

    def open(self, address: SiteAddress) -> Platform:
        """The site's adapter. Raises Permanent for an unknown one."""
        site = self._sites.get(address.settings.get("path", ""))
        if site is None or address.platform != PLATFORM:
            raise Permanent(f"there is no site {address.site}", code="no-such-site", remedy="none")
        if site.name not in self._platforms:
            frame = HostFrame(site, self._host)
            self._platforms[site.name] = MemoryPlatform(site, frame=frame)
        return self._platforms[site.name]
