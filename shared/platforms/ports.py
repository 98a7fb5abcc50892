"""What a platform adapter offers, as capability ports of a handful of methods each.

Adapters return plain structs and raise only the families of `shared.errors`. All methods are
coroutines; an adapter with a blocking library keeps it on its own threads. Every mutating
method takes a `Call`: its `key` is the platform token of the effect, and a repeat of a key
that was already done returns the first result and does nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Protocol

import msgspec

MIB = 1 << 20
CHUNK_BYTES = MIB

# xxh3_128 guards against accidents on a path whose two ends are ours, at memory speed. sha256
# answers "is this the same content?" where a guest may have chosen the bytes.
DigestName = Literal["xxh3_128", "sha256"]


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks, and the token that makes the request idempotent. Also the tag of what it makes."""

    key: str
    plan: str = ""
    vm: str = ""
    job: str = ""
    lease: int = 0


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a platform can do. Deciders read this instead of the platform's name.

    `instance_sources`: instances that were made here can be replicated from, as its own VMs can.
    """

    changed_blocks: bool
    create_powered_off: bool
    consistent_groups: bool
    retention_lock: bool = False
    guest_agent: bool = False
    instance_sources: bool = False


class DiskFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One disk of a source VM. `size` in bytes."""

    name: str
    size: int
    file: str = ""


class VmFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A source as the inventory lists it. `configuration` is opaque, stored with copies.

    `instance` is the id of one that we made, whose `name` is the VM that it is; "" for the site's
    own VMs.
    """

    name: str
    os: str
    cpus: int
    memory: int
    disks: tuple[DiskFacts, ...]
    networks: tuple[str, ...]
    power: str
    configuration: dict[str, Any]
    instance: str = ""


class RunningVm(msgspec.Struct, frozen=True, kw_only=True):
    """A source VM that is on; `since` where the platform knows when it was powered on."""

    name: str
    since: dt.datetime | None = None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """An open source snapshot: one moment across all disks of a VM, or of its `instance`."""

    snapshot_id: str
    vm: str
    taken_at: dt.datetime
    mark: str
    disks: tuple[DiskFacts, ...]
    instance: str = ""


class Extent(msgspec.Struct, frozen=True, array_like=True):
    """A byte range of a disk: `offset`, `length`. A hole needs no transfer but must be zero."""

    offset: int
    length: int
    hole: bool = False


class Extents(msgspec.Struct, frozen=True, kw_only=True):
    """What must be looked at, in offset order. `complete` is False if the platform cannot tell.

    Where it is False the whole disk is listed (holes marked), and the caller compares by hash;
    `reason` says why. One answer is a page of at most 65,536 extents that do not overlap:
    `next_offset` is where the following page starts, None on the last one. What is not listed
    is unchanged where `since` was given and `complete` holds, else it is a hole.
    """

    extents: tuple[Extent, ...]
    complete: bool
    reason: str = ""
    next_offset: int | None = None


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """A staged generation of one disk, written by one claim, not yet the copy.

    `base_mark` is the mark of the copy whose content it starts as. `blank`: there was no such
    copy (or not of this size), so that every byte reads as zero until written.
    """

    generation_id: str
    plan: str
    vm: str
    disk: str
    size: int
    lease: int
    base_mark: str = ""
    blank: bool = False


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
    """Anything that carries our tag: kind is instance, disk, hold, snapshot or generation."""

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


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a look into disks found and stops nothing: stable code, what it is, how to mend it."""

    code: str
    message: str
    remedy: str = ""


class PrepNode(msgspec.Struct, frozen=True, kw_only=True):
    """A prep node of a site; it works on up to `seats` Windows VMs at once while it is on."""

    name: str
    seats: int
    power: Literal["on", "off"]


class PrepFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A site's prep nodes in their order, and what would keep them from working."""

    nodes: tuple[PrepNode, ...] = ()
    problems: tuple[Finding, ...] = ()


class WindowsPrepared(msgspec.Struct, frozen=True, kw_only=True):
    """A Windows whose disks were made ready for `target`; `changes` in words, none if it was."""

    target: str
    changes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


class GuestHealth(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent in a running Windows says. `stopped`: services that should run and do not;
    `disks_online`: disks that Windows uses; `network_up`: an adapter has an address."""

    stopped: tuple[str, ...] = ()
    disks_online: int
    network_up: bool


class Inventory(Protocol):
    """Lists what a site holds."""

    async def check(self) -> SiteFacts: ...
    async def list_vms(self, names: Sequence[str] | None = None) -> tuple[VmFacts, ...]: ...
    async def list_made(self, instance_ids: Sequence[str]) -> tuple[VmFacts, ...]:
        """Instances that we made, as the sources they can be; those that exist, in any order.

        `configuration` is the VM's own, so that what is made from a copy of it is the VM again.
        Permanent (`no-instance-sources`) where the platform cannot replicate from instances.
        """


class Source(Protocol):
    """Reads disks of protected VMs at one moment.

    With `instance` the source is that instance, which we made for the call's plan (Refused
    `not-ours` for any other), and `vm` the VM that it is. Its marks are its own: one of the VM it
    was made from, or of an instance before it, is not known and the whole disk is listed.

    `extents` and `read` change nothing: their keys name the range and need not be remembered.
    The same open snapshot gives the same extents and bytes again, to any process.
    """

    async def open_snapshot(
        self, call: Call, *, vm: str, quiesce: bool = False, instance: str = ""
    ) -> Snapshot: ...
    async def extents(
        self, call: Call, *, snapshot: Snapshot, disk: str, since: str | None, start: int = 0
    ) -> Extents:
        """One page of what changed after the mark `since` (None: all), from `start` on."""

    async def read(
        self, call: Call, *, snapshot: Snapshot, disk: str, offset: int, into: memoryview
    ) -> None:
        """Fill `into` (at most CHUNK_BYTES) with the snapshot's bytes at `offset`, or raise.

        A disk that ends before `offset + len(into)` is Permanent (`disk-shrank`).
        """

    async def close_snapshot(self, call: Call, *, snapshot_id: str) -> None: ...
    async def list_snapshots(self) -> tuple[Owned, ...]: ...


NO_SUCH_SOURCE: Final = frozenset({"no-such-vm", "no-such-instance"})
"""Codes of a source that its site does not have."""


class Power(Protocol):
    """Turns sources off and on: fencing, and taking it back.

    A source is a VM of the site or, where `instance` is given, that instance of the call's plan,
    which `vm` runs as. All three leave one alone that is as it should be. One that the site does
    not have is Permanent (`no-such-vm`, `no-such-instance`).
    """

    async def state(self, *, vm: str, instance: str = "") -> str:
        """`on` or `off`, as the platform sees it."""

    async def list_running(
        self, vms: Sequence[str], *, instances: Mapping[str, str] = {}
    ) -> tuple[RunningVm, ...]:
        """Those of the VMs that are on, in the order asked for: one call for them all.

        `instances`: VM → the instance that it runs as there, where it is no VM of the site's own.
        One that the site does not have is left out, also where all are: a site that answers.
        Transient where the site cannot be reached.
        """

    async def shut_down(self, call: Call, *, vm: str, within_s: float, instance: str = "") -> None:
        """Ask the guest to end, and return once the VM is off.

        Permanent (`shutdown-timed-out`) where it is still on after `within_s`: then nothing but
        the asking was done. A repeat of its key asks no second time, and waits again.
        """

    async def power_off(self, call: Call, *, vm: str, instance: str = "") -> None:
        """Off now, as by a power cut."""

    async def power_on(self, call: Call, *, vm: str, instance: str = "") -> None:
        """On; returns without waiting for the guest."""


class Target(Protocol):
    """Keeps copies: staged generations, one atomic switch, immutable checkpoints.

    The data-path calls (`write`, `zero`, `digest`, `read_back`, `flush`) repeat harmlessly:
    their keys name generation and range, and need not be remembered. They may run concurrently
    on ranges that do not overlap. Once a coroutine of theirs has been cancelled, what it was
    writing may still land, in its own generation and nowhere else.
    """

    async def open_generation(self, call: Call, *, disk: str, size: int) -> Generation:
        """Open a generation for `call.plan/call.vm/disk`, starting as the current copy's content.

        It belongs to `call.lease`; no other claim writes into it or finalizes it. The same key
        and lease find it again while it is staged, and get another one once it is gone.
        """

    async def write(
        self, call: Call, *, generation: Generation, offset: int, data: memoryview
    ) -> bytes:
        """Write `data` (at most CHUNK_BYTES) and return the xxh3_128 digest of the range.

        The digest is of the range as the target returns it afterwards, read again and never
        computed from `data`; a target that cannot be read while staged lets its own checksum
        of the transmitted bytes stand for that. Not durable before `flush`.
        """

    async def zero(self, call: Call, *, generation: Generation, offset: int, length: int) -> None:
        """Make the range read as zeros and take no space where the target can; any length."""

    async def digest(
        self,
        call: Call,
        *,
        generation: Generation,
        offset: int,
        length: int,
        algorithm: DigestName,
    ) -> bytes:
        """Digest of a range (at most CHUNK_BYTES) of the generation, computed at the target."""

    async def read_back(
        self, call: Call, *, generation: Generation, offset: int, into: memoryview
    ) -> None: ...
    async def flush(self, call: Call, *, generation: Generation) -> None:
        """Return when every earlier completed `write` and `zero` is on stable storage.

        Runs beside later writes; it does not wait for them.
        """

    async def adopt(
        self, call: Call, *, generation: Generation, earlier_id: str, below: int
    ) -> bool:
        """Take over all content below `below` from an earlier staged generation of this disk.

        Copied (or shared) and compared by hash with `earlier_id`, holes included. False if
        that generation is gone or has another size; nothing is promised about the range then.
        """

    async def finalize(
        self, call: Call, *, generations: Sequence[Generation], manifest: dict[str, Any]
    ) -> CopyFacts:
        """Make the generations the VM's copy by one atomic switch of all its disks.

        Refuses a lease below the highest seen for any of the disks (`stale-lease`), and a
        generation that did not start from the current copy (`stale-base`). What lower leases
        left staged for the same disks is removed with the switch. `manifest` is plain
        JSON data; `taken_at` (ISO 8601), `mark` and `configuration` of it are read, all is kept.
        """

    async def discard(self, call: Call, *, generation_id: str) -> None: ...
    async def hold(self, call: Call) -> CopyFacts:
        """Hold the current copy of `call.plan`/`call.vm` under `call.key`.

        All its disks stay readable as `copy_id`, whatever is finalized meanwhile, until
        `release`. A recovery reads only from a held copy or a checkpoint.
        """

    async def release(self, call: Call, *, copy_id: str) -> None: ...
    async def current(self, *, plan: str, vm: str) -> CopyFacts | None: ...
    async def list_current(self, *, plan: str) -> tuple[CopyFacts, ...]:
        """The current copy of every VM of the plan that has one, by VM: one call for them all."""

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
    async def list_written(self, instance_ids: Sequence[str]) -> dict[str, int | None]:
        """By id, bytes of the instances' disks that changed since they were first powered on.

        At most so many; None where the platform cannot tell, or noticed that it missed
        something. Those that are not there are left out. One call for them all.
        """

    async def list_owned(self) -> tuple[Owned, ...]:
        """Instances, disks that no instance has, and holds. Attached disks go with theirs."""

    async def find(self, key: str) -> Owned | None:
        """Look up what an earlier call with `key` made; None if nothing exists or is pending."""


class PrepNodes(Protocol):
    """Prepares rebuilt disks of Windows VMs, on nodes that are on only while they are needed."""

    async def list_nodes(self) -> PrepFacts: ...
    async def power_on(self, call: Call, *, node: str) -> PrepNode:
        """Returns once the node takes work. Permanent `no-such-node` for one that is not there."""

    async def power_off(self, call: Call, *, node: str) -> None:
        """Returns once it is off; one that is off, or is gone, counts as that."""

    async def prepare(self, call: Call, *, node: str, disks: Sequence[DiskRef]) -> WindowsPrepared:
        """Make the Windows on rebuilt disks boot at this site; no instance has them yet.

        `disks` are all of the VM, in order. Transient `node-off` where the node is not on. Refused
        where they must not be changed (docs/windows.md): nothing was written then.
        """

    async def readiness(
        self, call: Call, *, copy_id: str, disks: Sequence[str]
    ) -> tuple[Finding, ...]:
        """What should be mended in the source before its copy is needed; reads only, no node."""


class GuestAgent(Protocol):
    """Asks the Windows in a running instance how it is."""

    async def validate(self, call: Call, *, instance_id: str) -> GuestHealth:
        """Transient `guest-silent` where it does not answer; Permanent where nobody can ask."""


class Limits(Protocol):
    """The platform's budgets, which budget a call spends, and how long a call takes it."""

    def budgets(self) -> tuple[BudgetFacts, ...]: ...
    def needs(self, call_name: str) -> tuple[str, ...]: ...
    def latency_s(self, call_name: str) -> float | None:
        """Seconds a call takes by what the platform declares; None where it declares nothing."""


class Platform(Protocol):
    """One site seen through its adapter."""

    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def inventory(self) -> Inventory: ...
    @property
    def source(self) -> Source: ...
    @property
    def power(self) -> Power: ...
    @property
    def target(self) -> Target: ...
    @property
    def compute(self) -> Compute: ...
    @property
    def prep(self) -> PrepNodes: ...
    @property
    def guests(self) -> GuestAgent: ...
    @property
    def limits(self) -> Limits: ...
    async def close(self) -> None: ...
