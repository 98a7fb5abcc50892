"""What a site in memory holds, and the frame around every call: quotas, faults, keys, journal.

Latencies are `asyncio.sleep`, quotas and boot times count the loop's clock, faults come from a
seed: under a virtual-time loop one seed gives one run.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from shared.errors import Busy, Permanent, Refused, SeawallError, Throttled, Transient
from shared.platforms.lab.settings import Quota, SiteSettings
from shared.platforms.lab.vocabulary import CALLS, SEATS
from shared.platforms.ports import (
    CHUNK_BYTES,
    Call,
    CopyFacts,
    DiskFacts,
    DiskRef,
    Generation,
    Instance,
    Owned,
    Snapshot,
)

T = TypeVar("T")

_START: Final = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class MemoryVm:
    """A source VM: its facts, its disks' bytes, and which ranges were written in which epoch."""

    def __init__(
        self, name: str, disks: dict[str, bytes], *, boots_in_s: float = 0.0, os: str = "linux"
    ) -> None:
        self.name = name
        self.os = os
        self.disks = {disk: bytearray(content) for disk, content in disks.items()}
        self.boots_in_s = boots_in_s
        self.power = "on"
        self.deaf = False
        self.stuck = False
        self.epoch = 1
        self.writes: list[tuple[int, str, int, int]] = []

    def write(self, disk: str, offset: int, data: bytes) -> None:
        """What a guest does to a disk."""
        assert offset + len(data) <= len(self.disks[disk])
        self.writes.append((self.epoch, disk, offset, len(data)))
        self.disks[disk][offset : offset + len(data)] = data

    def configuration(self) -> dict[str, Any]:
        """As a platform's inventory would give it: opaque, plain JSON data."""
        return {
            "name": self.name,
            "os": self.os,
            "disks": [{"name": disk, "file": f"{disk}.raw"} for disk in self.disks],
            "guest": {"boots_in_s": self.boots_in_s},
        }


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    facts: Snapshot
    owned: Owned
    epoch: int
    content: dict[str, bytes]


class Staged(msgspec.Struct, kw_only=True):
    facts: Generation
    owned: Owned
    base_copy: str
    content: bytearray


class HeldCopy(msgspec.Struct, frozen=True, kw_only=True):
    facts: CopyFacts
    owned: Owned
    content: dict[str, bytes]


class LooseDisk(msgspec.Struct, frozen=True, kw_only=True):
    facts: DiskRef
    owned: Owned
    content: bytes


class MadeInstance(msgspec.Struct, kw_only=True):
    """An instance; `machine` is the VM that it is, with its disks and what was written to them.

    Whether it is on is said by `facts`, here as everywhere.
    """

    facts: Instance
    owned: Owned
    boots_in_s: float
    machine: MemoryVm

    @property
    def content(self) -> dict[str, bytes]:
        """Its disks by file."""
        return {f"{name}.raw": bytes(disk) for name, disk in self.machine.disks.items()}


class MemorySite:
    """Everything a site holds. `settings` may be replaced at any time."""

    def __init__(self, name: str, *, settings: SiteSettings | None = None) -> None:
        self.name = name
        self.settings = settings or SiteSettings()
        self.vms: dict[str, MemoryVm] = {}
        self.is_there = True
        self.journal: list[dict[str, Any]] = []
        self.snapshots: dict[str, Opened] = {}
        self.staged: dict[str, Staged] = {}
        self.current: dict[tuple[str, str], HeldCopy] = {}
        self.held: dict[str, HeldCopy] = {}
        self.checkpoints: dict[tuple[str, str, str], HeldCopy] = {}
        self.leases: dict[tuple[str, str, str], int] = {}
        self.disks: dict[str, LooseDisk] = {}
        self.instances: dict[str, MadeInstance] = {}
        self.nodes_on: set[str] = set()
        self.done: dict[tuple[str, str, str], Any] = {}
        self.buckets: dict[str, tuple[float, float]] = {}
        self.running: dict[str, int] = {}
        self.count = 0
        self._faults: dict[str, random.Random] = {}

    def add_vm(self, vm: MemoryVm) -> MemoryVm:
        """Put a VM on the site."""
        self.vms[vm.name] = vm
        return vm

    def line(self, name: str, call: Call, outcome: str, size: int = 0) -> None:
        """One journal line, as `calls.jsonl` of the lab."""
        self.journal.append(
            {
                "at": moment().isoformat(),
                "call": name,
                "key": call.key,
                "outcome": outcome,
                "job": call.job,
                "vm": call.vm,
                "bytes": size,
            }
        )

    def chance(self, name: str) -> float:
        """The next number of the call's seeded sequence."""
        if name not in self._faults:
            self._faults[name] = random.Random(f"{self.settings.fault_seed}/{name}")
        return self._faults[name].random()

    def next_id(self, prefix: str) -> str:
        """A name that was never used at this site."""
        self.count += 1
        return f"{prefix}-{self.count}"


def made_instance(site: MemorySite, call: Call | None, instance_id: str) -> MadeInstance:
    """An instance of the call's plan, as a source. Permanent or Refused where it is none."""
    made = site.instances.get(instance_id)
    if made is None:
        raise Permanent(
            f"there is no instance {instance_id}",
            code="no-such-instance",
            remedy="run the recovery again; somebody deleted its instance",
        )
    if call is not None and call.plan and made.facts.plan != call.plan:
        raise Refused(f"{instance_id} was not made for this plan", code="not-ours")
    return made


def moment() -> dt.datetime:
    return _START + dt.timedelta(seconds=asyncio.get_running_loop().time())


def owned_by(kind: str, object_id: str, call: Call) -> Owned:
    return Owned(
        kind=kind, object_id=object_id, plan=call.plan, vm=call.vm, job=call.job, key=call.key
    )


class Frame:
    """What every call goes through: site there, quotas, fault, latency, key, journal."""

    def __init__(self, site: MemorySite) -> None:
        self.site = site

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
        """The result of `work`, or of the first call with its key where it `mutates`."""
        site = self.site
        asked = call or Call(key="")
        slots: list[str] = []
        try:
            self._require()
            self._spend(name, slots)
            if name in site.settings.faults and site.chance(name) < site.settings.faults[name]:
                site.line(name, asked, "fault")
                raise Transient(f"{name}: a simulated fault, nothing was done", code="fault")
            await asyncio.sleep(site.settings.latency_s.get(name, 0.0))
            self._require()
            return self._once(name, asked, work, scope, size, mutates)
        except Throttled:
            site.line(name, asked, "throttled")
            raise
        except SeawallError as error:
            if error.code != "fault":
                site.line(name, asked, "error")
            raise
        finally:
            for slot in slots:
                site.running[slot] -= 1

    def _require(self) -> None:
        if not self.site.is_there:
            raise Transient(
                f"the site {self.site.name} is gone",
                code="site-gone",
                remedy="bring the site back; it is never created again by itself",
            )

    def _once(
        self,
        name: str,
        call: Call,
        work: Callable[[], T],
        scope: str | None,
        size: int,
        mutates: bool,
    ) -> T:
        key = (name, call.key, scope or "")
        if mutates and call.key and key in self.site.done:
            self.site.line(name, call, "known")
            known: T = self.site.done[key]
            return known
        result = work()
        if mutates and call.key:
            self.site.done[key] = result
        self.site.line(name, call, "ok", size)
        return result

    def _spend(self, name: str, slots: list[str]) -> None:
        quotas = self.site.settings.quotas
        for need in CALLS[name]:
            quota = quotas.get(need)
            if quota is None or need == SEATS:
                continue
            if quota.concurrent is None:
                self._take_token(need, quota)
            elif self.site.running.get(need, 0) >= quota.concurrent:
                raise busy(need, 0.1)
            else:
                self.site.running[need] = self.site.running.get(need, 0) + 1
                slots.append(need)

    def _take_token(self, name: str, quota: Quota) -> None:
        assert quota.burst is not None and quota.per_second is not None
        now = asyncio.get_running_loop().time()
        tokens, at = self.site.buckets.get(name, (quota.burst, now))
        tokens = min(quota.burst, tokens + (now - at) * quota.per_second)
        if tokens < 1:
            self.site.buckets[name] = (tokens, now)
            raise throttled(name, (1 - tokens) / quota.per_second)
        self.site.buckets[name] = (tokens - 1, now)


def throttled(quota: str, retry_after_s: float) -> Throttled:
    return Throttled(
        f"quota {quota}: refused",
        code="request-limit-exceeded",
        retry_after_s=retry_after_s,
        quota=quota,
    )


def busy(quota: str, retry_after_s: float) -> Busy:
    return Busy(
        f"quota {quota}: all are taken",
        code="concurrent-limit",
        retry_after_s=retry_after_s,
        quota=quota,
    )


def disk_facts(disks: dict[str, Any]) -> tuple[DiskFacts, ...]:
    return tuple(
        DiskFacts(name=name, size=len(content), file=f"{name}.raw")
        for name, content in disks.items()
    )


def check_chunk(length: int) -> None:
    if length > CHUNK_BYTES:
        raise Refused(f"a chunk has at most {CHUNK_BYTES} bytes", code="out-of-range")


def unkeyed(call: Call) -> Call:
    """Data-path calls are journalled without a key: one key stands for many of them."""
    return msgspec.structs.replace(call, key="")
