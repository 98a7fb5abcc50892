"""What the recovery service's effects are told, and what they answer.

Payloads are imperative, answers say what is now. Facts of the log are in `schemas.recovery`.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from schemas.common import Fact, Problem, ScriptReport, ScriptWork
from schemas.plans import ScriptDefinition
from schemas.prep import ListedNode
from schemas.recovery import Member
from schemas.recovery_steering import SourceCheck
from schemas.registry import published
from schemas.scheduler import RecoveryMode, SiteRef


class SiteWork(Fact, frozen=True, kw_only=True):
    """Work at one site for one job. `job` is the recovery's stream id and the platform's tag."""

    site: SiteRef
    plan: str
    job: str
    vm: str = ""


@published("recovery.preflight")
class Preflight(SiteWork, frozen=True, kw_only=True):
    """Look whether the recovery can work; reads only. `scripts` are the plan's chosen ones.

    `source` is the site whose VMs are to be shut down, None where they are left alone; `instances`
    (by VM) are what they run as there. `homeward`: originals of the VMs at `site` must be off.
    """

    mode: RecoveryMode
    members: tuple[Member, ...]
    checkpoint: str
    network: str
    isolated: bool
    skip_scripts: tuple[str, ...] = ()
    scripts: tuple[ScriptDefinition, ...] = ()
    dry_run: bool = False
    source: SiteRef | None = None
    source_gone: bool = False
    last_sync: bool = False
    instances: dict[str, str] = {}
    homeward: bool = False


@published("recovery.preflight-report")
class PreflightReport(Fact, frozen=True, kw_only=True):
    """What was found. Without problems the recovery may begin; `source_lost` as in its event."""

    problems: tuple[Problem, ...] = ()
    facts: dict[str, Any] = {}
    source_lost: bool = False


@published("recovery.run-script")
class RunScript(Fact, frozen=True, kw_only=True):
    """Run a script of a plan (`vm` empty) or a VM; `run` counts from 1."""

    work: ScriptWork
    vm: str = ""
    run: int = 1


@published("recovery.script-ran")
class ScriptRan(Fact, frozen=True, kw_only=True):
    """A script ended, well or not."""

    report: ScriptReport


@published("recovery.hold-copy")
class HoldCopy(SiteWork, frozen=True, kw_only=True):
    """Hold the current copy, or find that of a checkpoint, which is immutable anyway."""

    checkpoint: str


class CopyDisk(Fact, frozen=True, kw_only=True):
    """A disk of a copy; bytes."""

    name: str
    size: int


@published("recovery.copy-held")
class CopyHeld(Fact, frozen=True, kw_only=True):
    """The copy to read from. `early`: instances can be created before they may boot.

    `os` is what the copy says that it is of, as `windows`.
    """

    copy_id: str
    taken_at: dt.datetime
    disks: tuple[CopyDisk, ...]
    configuration: dict[str, Any] = {}
    early: bool = True
    os: str = ""


@published("recovery.rebuild-disk")
class RebuildDisk(SiteWork, frozen=True, kw_only=True):
    """Make a disk of an instance from a copy's disk."""

    copy_id: str
    disk: str


@published("recovery.disk-rebuilt")
class DiskRebuilt(Fact, frozen=True, kw_only=True):
    """A disk exists, attached to nothing yet; bytes."""

    disk_id: str
    name: str
    file: str
    size: int


@published("recovery.create-instance")
class CreateInstance(SiteWork, frozen=True, kw_only=True):
    """Make the instance, powered off."""

    name: str
    network: str
    isolated: bool
    disks: tuple[DiskRebuilt, ...]
    configuration: dict[str, Any] = {}


@published("recovery.power-on")
class PowerOn(SiteWork, frozen=True, kw_only=True):
    """Start the guest, unless `source` is found running."""

    instance_id: str
    source: SourceCheck | None = None


@published("recovery.instance-state")
class InstanceState(Fact, frozen=True, kw_only=True):
    """An instance after a call that made or started it."""

    instance_id: str
    addresses: tuple[str, ...] = ()
    powered_on_at: dt.datetime | None = None


@published("recovery.release-copy")
class ReleaseCopy(SiteWork, frozen=True, kw_only=True):
    """Let a held copy go. Without `copy_id` whatever `held_under` may have held is looked up."""

    held_under: str
    copy_id: str = ""


@published("recovery.work-done")
class WorkDone(Fact, frozen=True, kw_only=True):
    """Nothing to say but that it is done."""


class Watched(Fact, frozen=True, kw_only=True):
    """An instance somebody waits for until then, and how to tell that it is ready."""

    stream: str
    instance_id: str
    kind: Literal["heartbeat", "tcp", "http"]
    until: dt.datetime
    port: int | None = None
    path: str | None = None


@published("recovery.poll-site")
class PollSite(Fact, frozen=True, kw_only=True):
    """Look once at all watched instances of a site."""

    site: SiteRef
    watched: tuple[Watched, ...]


class ReadyGuest(Fact, frozen=True, kw_only=True):
    """A watched instance answered."""

    stream: str
    at: dt.datetime
    addresses: tuple[str, ...] = ()


@published("recovery.site-polled")
class SitePolled(Fact, frozen=True, kw_only=True):
    """The watched instances that answered, and the streams of those whose time was over before
    the look began and that did not."""

    ready: tuple[ReadyGuest, ...] = ()
    late: tuple[str, ...] = ()


@published("recovery.list-owned")
class ListOwned(SiteWork, frozen=True, kw_only=True):
    """List what carries the job's tag; with `vms` of that what is of one of these."""

    count_max: int
    vms: tuple[str, ...] = ()


@published("recovery.owned-listed")
class OwnedListed(Fact, frozen=True, kw_only=True):
    """The first of `total` objects (kind, id, vm), instances first."""

    objects: tuple[tuple[str, str, str], ...]
    total: int


@published("recovery.remove-object")
class RemoveObject(SiteWork, frozen=True, kw_only=True):
    """One mutation of a cleanup, on an object of one kind."""

    action: Literal["power-off", "delete"]
    kind: str
    object_id: str


# ── Windows ──────────────────────────────────────────────────────────────────────────────────


@published("recovery.list-prep-nodes")
class ListPrepNodes(SiteWork, frozen=True, kw_only=True):
    """List the prep nodes of a site."""


@published("recovery.prep-nodes")
class PrepNodesFound(Fact, frozen=True, kw_only=True):
    """The prep nodes of a site, in their order."""

    nodes: tuple[ListedNode, ...] = ()


@published("recovery.power-prep-node")
class PowerPrepNode(SiteWork, frozen=True, kw_only=True):
    """Power a prep node on or off; the effect's kind says which."""

    node: str


@published("recovery.prepare-windows")
class PrepareWindows(SiteWork, frozen=True, kw_only=True):
    """Make the Windows on rebuilt disks boot at the site, on the node where the VM has a seat."""

    node: str
    disks: tuple[DiskRebuilt, ...]


@published("recovery.windows-prepared")
class WindowsPrepared(Fact, frozen=True, kw_only=True):
    """What was changed, in words, and what was found besides; verified."""

    target: str
    changes: tuple[str, ...] = ()
    findings: tuple[Problem, ...] = ()


@published("recovery.validate-windows")
class ValidateWindows(SiteWork, frozen=True, kw_only=True):
    """Ask the Windows in an instance how it is; it should use `disks` disks."""

    instance_id: str
    disks: int


@published("recovery.windows-validated")
class WindowsValidated(Fact, frozen=True, kw_only=True):
    """The Windows is well: its services run, its disks are online, its network is up."""

    disks_online: int


class SourcePower(SiteWork, frozen=True, kw_only=True):
    """Something done to a VM's source; `instance` is what it runs as, if we made that."""

    instance: str = ""


@published("recovery.look-at-source")
class LookAtSource(SourcePower, frozen=True, kw_only=True):
    """Whether a source VM is on."""


@published("recovery.source-state")
class SourceState(Fact, frozen=True, kw_only=True):
    """A source VM as it was seen."""

    on: bool


@published("recovery.shut-down-source")
class ShutDownSource(SourcePower, frozen=True, kw_only=True):
    """Ask the guest of a source VM to end, and wait `within_s` until it is off."""

    within_s: float


@published("recovery.power-off-source")
class PowerOffSource(SourcePower, frozen=True, kw_only=True):
    """Power a source VM off."""


@published("recovery.power-on-source")
class PowerOnSource(SourcePower, frozen=True, kw_only=True):
    """Power a source VM on again."""
