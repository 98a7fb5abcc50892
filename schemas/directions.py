"""What is said of the direction in which a VM is replicated, and of instances that are sources.

Part of the language of `schemas.scheduler`, whose fact the direction is. In reverse the VM runs
at its plan's recovery site, as an instance that a recovery made there, and its copies are at the
site that the plan protects.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator

import msgspec

from schemas.common import Fact
from schemas.registry import published

SOURCES_MAX = 400
"""Sources that one message or event names: with ids of 40 letters it stays below 64 KiB."""


class SourceInstance(msgspec.Struct, frozen=True, array_like=True):
    """The instance that a VM runs as, and the recovery that made it."""

    vm: str
    instance: str
    made_by: str


def in_parts(sources: Iterable[SourceInstance]) -> Iterator[tuple[SourceInstance, ...]]:
    """As many of them as one message or event names, in turn."""
    every = tuple(sources)
    return (every[at : at + SOURCES_MAX] for at in range(0, len(every), SOURCES_MAX))


ALL = ("*",)
"""In place of names, where all VMs are replicated in reverse: twice two thousand would not fit."""


def in_short(vms: Iterable[str], reverse: Collection[str]) -> tuple[str, ...]:
    """Those of `vms` that are `reverse`, as messages and events tell it."""
    told = tuple(vm for vm in vms if vm in reverse)
    return ALL if told and len(told) == len(tuple(vms)) else told


def is_reverse(told: Collection[str], vm: str) -> bool:
    """Whether a VM is among those that `in_short` told of."""
    return vm in told or tuple(told) == ALL


# ── Messages ─────────────────────────────────────────────────────────────────────────────────


@published("scheduler.mark-direction")
class MarkDirection(Fact, frozen=True, kw_only=True):
    """A reversal found the instances its VMs run as: replicate from these, the other way.

    Nothing is replicated by it yet. A reversal of many VMs sends several, each answered.
    """

    plan: str
    job: str
    sources: tuple[SourceInstance, ...]


@published("recovery.direction-marked")
class DirectionMarked(Fact, frozen=True, kw_only=True):
    """Scheduler to a reversal: the direction of so many more of its VMs is marked."""

    job: str
    count: int


@published("scheduler.cancel-sync")
class CancelSync(Fact, frozen=True, kw_only=True):
    """The iterations that a job asked for by SyncLast are not wanted any more; each still ends."""

    plan: str
    job: str


@published("scheduler.turn-vms")
class TurnVms(Fact, frozen=True, kw_only=True):
    """A failback of `job` was committed: its VMs run as these instances at their own site, and
    are replicated in their original direction again."""

    plan: str
    job: str
    sources: tuple[SourceInstance, ...]


@published("recovery.name-sources")
class NameSources(Fact, frozen=True, kw_only=True):
    """Scheduler to a recovery, before it starts: VMs whose source is an instance."""

    job: str
    sources: tuple[SourceInstance, ...]


@published("recovery.take-instances")
class TakeInstances(Fact, frozen=True, kw_only=True):
    """To the recovery that made them: these VMs' instances are what `by` replicates from."""

    recovery: str
    by: str
    vms: tuple[str, ...]


@published("recovery.free-instances")
class FreeInstances(Fact, frozen=True, kw_only=True):
    """To the recovery that made them: since `by` these VMs run elsewhere, and their instances,
    shut down, are of no further use. `home`: by a failback they run at their own site."""

    recovery: str
    by: str
    vms: tuple[str, ...]
    home: bool = False


# ── Events of a protected VM ─────────────────────────────────────────────────────────────────


@published("scheduler.vm-direction-marked")
class VmDirectionMarked(Fact, frozen=True, kw_only=True):
    """From here on iterations of the VM go this way. Source and target have not changed roles.

    `copy_at`: the moment of the newest copy from before in this direction, which is brought up
    to date by comparing all of it; None where there is none.
    """

    job: str
    reverse: bool
    instance: str
    made_by: str
    copy_at: dt.datetime | None = None


@published("scheduler.vm-direction-dropped")
class VmDirectionDropped(Fact, frozen=True, kw_only=True):
    """The marked direction does not come to stand; `copy_at` as in VmDirectionMarked."""

    job: str
    copy_at: dt.datetime | None = None


@published("scheduler.vm-turned")
class VmTurned(Fact, frozen=True, kw_only=True):
    """The marked direction stands: source and target have changed roles."""

    job: str


# ── Events of a recovery ─────────────────────────────────────────────────────────────────────


@published("recovery.sources-named")
class SourcesNamed(Fact, frozen=True, kw_only=True):
    """Instances that are sources of the recovery's VMs."""

    sources: tuple[SourceInstance, ...]


@published("recovery.instances-taken")
class InstancesTaken(Fact, frozen=True, kw_only=True):
    """VMs are replicated from the instances that this recovery made of them."""

    by: str
    vms: tuple[str, ...]


@published("recovery.instances-freed")
class InstancesFreed(Fact, frozen=True, kw_only=True):
    """VMs run elsewhere by now; what this recovery made of them may be cleaned up."""

    by: str
    vms: tuple[str, ...]
    home: bool = False
