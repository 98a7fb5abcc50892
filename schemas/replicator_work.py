"""What the replicator's effects are told, and what they answer.

Payloads are imperative, answers say what is now. Facts of the log are in `schemas.replicator`.
What earlier effects of an iteration found out travels on in `Carried` instead of in events.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from schemas.common import Fact, ScriptReport, ScriptWork, StepTiming
from schemas.registry import published
from schemas.replicator import DiskResult, SnapshotFacts
from schemas.scheduler import SiteRef


class Carried(Fact, frozen=True, kw_only=True):
    """What an iteration knows so far without having it in its log.

    `configuration` is the VM's as the inventory gave it when the snapshot was opened.
    """

    steps: tuple[StepTiming, ...] = ()
    disks: tuple[DiskResult, ...] = ()
    snapshot: SnapshotFacts | None = None
    configuration: dict[str, Any] = {}
    checkpoint_at: dt.datetime | None = None


@published("replicator.open-snapshot")
class OpenSnapshot(Fact, frozen=True, kw_only=True):
    """Open one snapshot over all disks of a VM, or of the `instance` that it is.

    `quiesce`: ask the guest to settle first.
    """

    site: SiteRef
    plan: str
    vm: str
    quiesce: bool = False
    instance: str = ""


@published("replicator.snapshot-taken")
class SnapshotTaken(Fact, frozen=True, kw_only=True):
    """The snapshot is open; `configuration` is the VM's at that moment."""

    snapshot: SnapshotFacts
    configuration: dict[str, Any] = {}


@published("replicator.transfer-disk")
class TransferDisk(Fact, frozen=True, kw_only=True):
    """Copy one disk of the snapshot into a staged generation. `full`: trust no earlier copy."""

    source: SiteRef
    target: SiteRef
    plan: str
    vm: str
    disk: str
    carried: Carried
    full: bool = False


@published("replicator.disk-copied")
class DiskCopied(Fact, frozen=True, kw_only=True):
    """The generation holds the disk, verified and flushed."""

    result: DiskResult
    carried: Carried


@published("replicator.finalize-copy")
class FinalizeCopy(Fact, frozen=True, kw_only=True):
    """Make the carried generations the VM's copy by one atomic switch."""

    target: SiteRef
    plan: str
    vm: str
    manifest: dict[str, Any]
    carried: Carried


@published("replicator.copy-switched")
class CopySwitched(Fact, frozen=True, kw_only=True):
    """The copy of `checkpoint_at` stands at the target."""

    checkpoint_at: dt.datetime
    carried: Carried


@published("replicator.close-snapshot")
class CloseSnapshot(Fact, frozen=True, kw_only=True):
    """Remove whatever source snapshot was opened under the effect id `opened_under`."""

    site: SiteRef
    plan: str
    vm: str
    opened_under: str
    snapshot_id: str = ""
    carried: Carried = Carried()


@published("replicator.snapshot-closed")
class SnapshotClosed(Fact, frozen=True, kw_only=True):
    """No snapshot of the iteration is open any more."""

    carried: Carried = Carried()


@published("replicator.discard-staged")
class DiscardStaged(Fact, frozen=True, kw_only=True):
    """Remove every staged generation of the iteration; its id is the platform's job tag."""

    target: SiteRef
    plan: str
    vm: str


@published("replicator.create-vm-checkpoint")
class CreateVmCheckpoint(Fact, frozen=True, kw_only=True):
    """Make an immutable copy of a VM's latest copy."""

    target: SiteRef
    plan: str
    vm: str
    checkpoint_id: str
    manifest: dict[str, Any]


@published("replicator.vm-checkpoint-created")
class VmCheckpointCreated(Fact, frozen=True, kw_only=True):
    """It exists; `taken_at` is the moment of the copy's source snapshot."""

    copy_id: str
    taken_at: dt.datetime


@published("replicator.delete-vm-checkpoint")
class DeleteVmCheckpoint(Fact, frozen=True, kw_only=True):
    """Delete a VM's copy in a checkpoint; one that is absent is fine."""

    target: SiteRef
    plan: str
    vm: str
    checkpoint_id: str


@published("replicator.verify-checkpoint-deleted")
class VerifyCheckpointDeleted(Fact, frozen=True, kw_only=True):
    """Look at the target's listing until the checkpoint is in it no more."""

    target: SiteRef
    plan: str
    checkpoint_id: str


@published("replicator.run-script")
class RunScript(Fact, frozen=True, kw_only=True):
    """Run a script of a plan's run (`vm` empty) or of a VM's iteration; `run` counts from 1."""

    work: ScriptWork
    vm: str = ""
    run: int = 1


@published("replicator.script-ran")
class ScriptRan(Fact, frozen=True, kw_only=True):
    """A script ended, well or not."""

    report: ScriptReport


@published("replicator.work-done")
class WorkDone(Fact, frozen=True, kw_only=True):
    """Nothing to say but that it is done."""
