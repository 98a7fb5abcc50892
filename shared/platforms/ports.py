"""What a platform adapter offers, as capability ports of a handful of methods each.

Adapters return plain structs and raise only the families of `shared.errors`. All methods are
coroutines; an adapter with a blocking library keeps it on its own threads. Every mutating
method takes a `Call`: its `key` is the platform token of the effect, and a repeat of a key
that was already done returns the first result and does nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

MIB = 1 << 20
CHUNK_BYTES = MIB


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, and the token that makes the request idempotent. Also the tag of what it makes."""

    key: str
    plan: str = ""
    vm: str = ""
    job: str = ""
    lease: int = 0


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a platform can do. Deciders read this instead of the platform's name."""

    changed_blocks: bool
    create_powered_off: bool
    consistent_groups: bool
    retention_lock: bool = False


class DiskFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One disk of a source VM. `size` in bytes."""

    name: str
    size: int
    file: str = ""


class VmFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A source VM as the inventory lists it. `configuration` is opaque, stored with copies."""

    name: str
    os: str
    cpus: int
    memory: int
    disks: tuple[DiskFacts, ...]
    networks: tuple[str, ...]
    power: str
    configuration: dict[str, Any]


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """An open source snapshot: one moment across all disks of a VM."""

    snapshot_id: str
    vm: str
    taken_at: dt.datetime
    mark: str
    disks: tuple[DiskFacts, ...]


class Extent(msgspec.Struct, frozen=True, array_like=True):
    """A byte range of a disk: `offset`, `length`. A hole needs no transfer but must be zero."""

    offset: int
    length: int
    hole: bool = False


class Extents(msgspec.Struct, frozen=True, kw_only=True):
    """What must be looked at, in offset order. `complete` is False if the platform cannot tell.

    Where it is False the whole disk is listed (holes marked), and the caller compares by hash;
    `reason` says why.
    """

    extents: tuple[Extent, ...]
    complete: bool
    reason: str = ""


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """A staged generation of one disk, written by one claim, not yet the copy."""

    generation_id: str
    plan: str
    vm: str
    disk: str
    size: int
    lease: int


class CopyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The current copy of a VM at the target, or a PIT checkpoint of it, as its manifest says."""

    copy_id: str
    plan: str
    vm: str
    taken_at: dt.datetime
    mark: str
    disks: tuple[DiskFacts, ...]
    manifest: dict[str, Any]


class DiskRef(msgspec.Struct, frozen=True, kw_only=True):
    """A disk rebuilt from a copy, to be attached to an instance."""

    disk_id: str
    name: str
    file: str
    size: int


class InstanceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What to create. `configuration` is the `VmFacts.configuration` kept with the copy."""

    name: str
    network: str
    disks: tuple[DiskRef, ...]
    configuration: dict[str, Any]
    isolated: bool


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """An instance at the target, as the platform lists it. `heartbeat`: the guest answers."""

    instance_id: str
    name: str
    plan: str
    vm: str
    job: str
    key: str
    power: str
    powered_on_at: dt.datetime | None
    network: str
    addresses: tuple[str, ...]
    disks: tuple[str, ...]
    heartbeat: bool


class Owned(msgspec.Struct, frozen=True, kw_only=True):
    """Anything that carries our tag: kind is instance, disk, network, snapshot or generation."""

    kind: str
    object_id: str
    plan: str
    vm: str
    job: str
    key: str


class SiteFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What `site check` and preflight read: reachability, space in bytes, known networks."""

    capacity_free: int
    networks: tuple[str, ...]
    instances: int


class BudgetFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A limit of the platform: `concurrent` calls or a token bucket `burst`, `per_second`."""

    name: str
    concurrent: int | None = None
    burst: float | None = None
    per_second: float | None = None


class Inventory(Protocol):
    """Lists what a site holds."""

    async def check(self) -> SiteFacts: ...
    async def list_vms(self, names: Sequence[str] | None = None) -> tuple[VmFacts, ...]: ...


class Source(Protocol):
    """Reads disks of protected VMs at one moment."""

    async def open_snapshot(self, call: Call, *, vm: str, quiesce: bool = False) -> Snapshot: ...
    async def extents(
        self, call: Call, *, snapshot: Snapshot, disk: str, since: str | None
    ) -> Extents: ...
    async def read(
        self, call: Call, *, snapshot: Snapshot, disk: str, offset: int, into: memoryview
    ) -> None: ...
    async def close_snapshot(self, call: Call, *, snapshot_id: str) -> None: ...
    async def list_snapshots(self) -> tuple[Owned, ...]: ...


class Target(Protocol):
    """Keeps copies: staged generations, one atomic switch, immutable checkpoints."""

    async def open_generation(self, call: Call, *, disk: str, size: int) -> Generation:
        """Open a generation for `call.plan/call.vm/disk`, starting as the current copy's content.

        It belongs to `call.lease`; no other claim writes into it or finalizes it.
        """

    async def write(
        self, call: Call, *, generation: Generation, offset: int, data: memoryview
    ) -> None: ...
    async def zero(
        self, call: Call, *, generation: Generation, offset: int, length: int
    ) -> None: ...
    async def read_back(
        self, call: Call, *, generation: Generation, offset: int, into: memoryview
    ) -> None: ...
    async def flush(self, call: Call, *, generation: Generation) -> None: ...
    async def adopt(
        self, call: Call, *, generation: Generation, earlier_id: str, below: int
    ) -> bool: ...
    async def finalize(
        self, call: Call, *, generations: Sequence[Generation], manifest: dict[str, Any]
    ) -> CopyFacts:
        """Make the generations the VM's copy by one atomic switch of all its disks.

        Refuses a lease below the highest seen for any of the disks (`stale-lease`).
        """

    async def discard(self, call: Call, *, generation_id: str) -> None: ...
    async def current(self, *, plan: str, vm: str) -> CopyFacts | None: ...
    async def create_checkpoint(
        self, call: Call, *, checkpoint_id: str, manifest: dict[str, Any]
    ) -> CopyFacts: ...
    async def delete_checkpoint(self, call: Call, *, checkpoint_id: str) -> None: ...
    async def list_checkpoints(self, *, plan: str) -> tuple[CopyFacts, ...]: ...
    async def list_generations(self) -> tuple[Owned, ...]: ...


class Compute(Protocol):
    """Rebuilds disks, creates and boots instances, lists and deletes what is ours."""

    async def rebuild_disk(self, call: Call, *, copy_id: str, disk: str) -> DiskRef: ...
    async def create_instance(self, call: Call, *, spec: InstanceSpec) -> Instance: ...
    async def power_on(self, call: Call, *, instance_id: str) -> Instance: ...
    async def power_off(self, call: Call, *, instance_id: str) -> None: ...
    async def delete_instance(self, call: Call, *, instance_id: str) -> None: ...
    async def delete_disk(self, call: Call, *, disk_id: str) -> None: ...
    async def list_instances(self) -> tuple[Instance, ...]: ...
    async def list_owned(self) -> tuple[Owned, ...]: ...
    async def find(self, key: str) -> Owned | None:
        """Look up what an earlier call with `key` made; None if nothing exists or is pending."""


class Limits(Protocol):
    """The platform's budgets, and which budget a call spends."""

    def budgets(self) -> tuple[BudgetFacts, ...]: ...
    def needs(self, call_name: str) -> tuple[str, ...]: ...


class Platform(Protocol):
    """One site seen through its adapter."""

    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def inventory(self) -> Inventory: ...
    @property
    def source(self) -> Source: ...
    @property
    def target(self) -> Target: ...
    @property
    def compute(self) -> Compute: ...
    @property
    def limits(self) -> Limits: ...
    async def close(self) -> None: ...
