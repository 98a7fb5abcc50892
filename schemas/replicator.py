"""What the replicator says: replication runs, iterations, checkpoints; and what it is asked.

A routine iteration of one disk is two events (started, finished); what lies between travels in
the payloads of its effects. The other events of an iteration occur where it has several disks,
scripts or long transfers, or where something went wrong.
"""

from __future__ import annotations

import datetime as dt
from typing import Literal

from schemas.common import Command, Fact, Problem, ScriptReport, StepTiming
from schemas.plans import Operation, ReplicationPolicy, ScriptDefinition, VmDefinition
from schemas.registry import published
from schemas.scheduler import PlanHeader, SiteRef

IterationState = Literal["completed", "partially-completed", "failed", "cancelled"]
Leftover = Literal["snapshot", "generations"]

# ── What is passed on from step to step ──────────────────────────────────────────────────────


class SnapshotDisk(Fact, frozen=True, kw_only=True):
    """A disk of a source snapshot; bytes."""

    name: str
    size: int
    file: str = ""


class SnapshotFacts(Fact, frozen=True, kw_only=True):
    """An open source snapshot, as its platform gave it; of an `instance`, where that is given."""

    snapshot_id: str
    vm: str
    taken_at: dt.datetime
    mark: str
    disks: tuple[SnapshotDisk, ...]
    instance: str = ""


class GenerationFacts(Fact, frozen=True, kw_only=True):
    """A staged generation of one disk, as its platform gave it; bytes."""

    generation_id: str
    plan: str
    vm: str
    disk: str
    size: int
    lease: int
    base_mark: str = ""
    blank: bool = False


class DiskResult(Fact, frozen=True, kw_only=True):
    """What one disk's transfer did; bytes. `compared`: changes had to be found by hash.

    `digest` chains the digests of what was written, in offset order. `generation` is not kept
    in IterationFinished. `changes_known_at`: what has to be looked at was known to the end;
    `verified_from`: the first block was verified, None where nothing had to be.
    """

    disk: str
    state: IterationState
    generation: GenerationFacts | None = None
    size: int = 0
    bytes_read: int = 0
    bytes_sent: int = 0
    bytes_zeroed: int = 0
    bytes_same: int = 0
    compared: bool = False
    reason: str = ""
    digest: str = ""
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None
    attempts: int = 1
    problem: Problem | None = None
    changes_known_at: dt.datetime | None = None
    verified_from: dt.datetime | None = None


# ── Messages ─────────────────────────────────────────────────────────────────────────────────


@published("replicator.inspect-site")
class InspectSite(Fact, frozen=True, kw_only=True):
    """Call a site and look up VMs; answered with SiteInspected to `for_stream`.

    `request` is the command's id. `vms` are names that must exist with readable disks;
    `match` asks for all names a glob matches. `target` also asks for space and networks.
    `list_owned` asks for all that carries our tag.
    """

    request: str
    site: SiteRef
    for_stream: str
    vms: tuple[str, ...] = ()
    match: str | None = None
    list_owned: bool = False


@published("replicator.store-script")
class StoreScript(Fact, frozen=True, kw_only=True):
    """One part of a script's content (base64, at most 32 KiB), kept under its SHA-256."""

    plan: str
    sha256: str
    part: int
    parts: int
    content: str


@published("replicator.start-iteration")
class StartIteration(Fact, frozen=True, kw_only=True):
    """Replicate one VM now; the write-copy hold is taken. `full`: the copy is invalid or absent.

    `due_at` orders it in the queue. `gated`: wait for the run's pre-replication script.
    `operation`: what it is part of, by which its scripts are chosen. `protected` is the site it
    is copied from: with `reverse` that is where a recovery brought the VM up, whose `instance`
    (also after it came back to its own site) is the source in place of the site's own VM.
    """

    iteration: str
    plan: str
    plan_version: int
    vm: str
    tick_at: dt.datetime
    due_at: dt.datetime
    protected: SiteRef
    recovery_site: SiteRef
    definition: VmDefinition
    replication: ReplicationPolicy
    priority: int
    full: bool = False
    resync: bool = False
    run: str = ""
    gated: bool = False
    operation: Operation = "replication"
    instance: str = ""
    reverse: bool = False


@published("replicator.start-run")
class StartRun(Fact, frozen=True, kw_only=True):
    """Open the parent job of a synchronized tick or a `plan run`.

    Sent before the StartIteration messages of its members. Plan scripts run around them all.
    """

    run: str
    plan: str
    tick_at: dt.datetime
    vms: tuple[str, ...]
    iterations: tuple[str, ...]
    pre_script: ScriptDefinition | None = None
    post_script: ScriptDefinition | None = None
    operation: Operation = "replication"


@published("replicator.open-gate")
class OpenGate(Fact, frozen=True, kw_only=True):
    """The run's pre-script is over: a gated iteration may start (or must not)."""

    iteration: str
    allowed: bool = True
    problem: Problem | None = None


@published("replicator.run-member-ended")
class RunMemberEnded(Fact, frozen=True, kw_only=True):
    """An iteration tells its run how it ended."""

    run: str
    vm: str
    state: IterationState


@published("replicator.make-checkpoint")
class MakeCheckpoint(Fact, frozen=True, kw_only=True):
    """Make an immutable copy of the latest copy of each VM, with the recovery configuration.

    The copies of `reverse` VMs are at the header's protected site.
    """

    checkpoint: str
    plan: str
    plan_version: int
    header: PlanHeader
    vms: tuple[str, ...]
    preserved: bool = False
    requested_at: dt.datetime
    reverse: tuple[str, ...] = ()


@published("replicator.delete-checkpoint")
class DeleteCheckpoint(Fact, frozen=True, kw_only=True):
    """Delete a checkpoint that nothing holds, verify on the platform, repeat until true."""

    checkpoint: str
    plan: str


@published("replicator.cancel-iteration")
class CancelIteration(Fact, frozen=True, kw_only=True):
    """Stop an iteration safely; its source snapshot is still removed."""

    iteration: str
    reason: str = ""


@published("replicator.cancel-job")
class CancelJob(Command, frozen=True, kw_only=True):
    """A person cancels an iteration, a run or a checkpoint job."""

    job: str


# ── Events ───────────────────────────────────────────────────────────────────────────────────


@published("replication.script-stored")
class ScriptStored(Fact, frozen=True, kw_only=True):
    """A part of a script's content."""

    plan: str
    sha256: str
    part: int
    parts: int
    content: str


@published("replication.run-started")
class RunStarted(Fact, frozen=True, kw_only=True):
    """The parent job of a group of iterations. `steps` is its step list."""

    plan: str
    tick_at: dt.datetime
    vms: tuple[str, ...]
    iterations: tuple[str, ...]
    pre_script: ScriptDefinition | None = None
    post_script: ScriptDefinition | None = None
    steps: tuple[str, ...] = ()
    definition_version: int = 1
    operation: Operation = "replication"


@published("replication.run-script-started")
class RunScriptStarted(Fact, frozen=True, kw_only=True):
    """A plan script is about to be started; recorded before its process exists."""

    step: str
    run: int = 1


@published("replication.run-script-ended")
class RunScriptEnded(Fact, frozen=True, kw_only=True):
    """How a plan script ended. `again`: it is declared repeatable and runs again."""

    step: str
    report: ScriptReport
    timing: StepTiming | None = None
    run: int = 1
    again: bool = False


@published("replication.run-member-recorded")
class RunMemberRecorded(Fact, frozen=True, kw_only=True):
    """One VM of the run is done."""

    vm: str
    state: IterationState


@published("replication.run-cancel-requested")
class RunCancelRequested(Fact, frozen=True, kw_only=True):
    """A person cancelled the run."""


@published("replication.run-finished")
class RunFinished(Fact, frozen=True, kw_only=True):
    """All VMs of the run are done."""

    plan: str
    state: IterationState
    steps: tuple[StepTiming, ...] = ()
    problem: Problem | None = None


@published("replication.iteration-started")
class IterationStarted(Fact, frozen=True, kw_only=True):
    """An iteration exists. `steps` is its step list, kept by whatever build continues it."""

    plan: str
    plan_version: int
    vm: str
    tick_at: dt.datetime
    due_at: dt.datetime
    protected: SiteRef
    recovery_site: SiteRef
    definition: VmDefinition
    replication: ReplicationPolicy
    priority: int
    full: bool = False
    resync: bool = False
    run: str = ""
    gated: bool = False
    steps: tuple[str, ...] = ()
    definition_version: int = 1
    operation: Operation = "replication"
    instance: str = ""
    reverse: bool = False


@published("replication.gate-opened")
class GateOpened(Fact, frozen=True, kw_only=True):
    """The run's pre-script let the iteration go, or stopped it."""

    allowed: bool
    problem: Problem | None = None


@published("replication.script-started")
class ScriptStarted(Fact, frozen=True, kw_only=True):
    """A VM's replication script is about to be started; recorded before its process exists.

    `run` counts from 1: a declared repeat is another run.
    """

    step: str
    run: int = 1


@published("replication.script-ended")
class ScriptEnded(Fact, frozen=True, kw_only=True):
    """How a VM's replication script ended. `again`: it is declared repeatable and runs again."""

    step: str
    report: ScriptReport
    timing: StepTiming | None = None
    run: int = 1
    again: bool = False


@published("replication.snapshot-opened")
class SnapshotOpened(Fact, frozen=True, kw_only=True):
    """Which snapshot is open. Recorded only when a transfer of its disks meets an error."""

    snapshot: SnapshotFacts
    steps: tuple[StepTiming, ...] = ()


@published("replication.transfer-marked")
class TransferMarked(Fact, frozen=True, kw_only=True):
    """Everything below `offset` of the disk is written, verified and on stable storage.

    `chain` (hex) digests what the target holds below it, for who takes the transfer over.
    """

    disk: str
    generation_id: str
    offset: int
    snapshot_id: str = ""
    chain: str = ""


@published("replication.disk-transferred")
class DiskTransferred(Fact, frozen=True, kw_only=True):
    """One of several disks is done; the last one's result stands in IterationFinished.

    `index` counts the snapshot's disks from 1, `last` marks the highest. The first such event
    names the snapshot and the steps before the transfers.
    """

    result: DiskResult
    index: int = 1
    last: bool = False
    snapshot: SnapshotFacts | None = None
    steps: tuple[StepTiming, ...] = ()


@published("replication.step-ended")
class StepEnded(Fact, frozen=True, kw_only=True):
    """A step of an iteration ended that did not go the routine way."""

    timing: StepTiming
    problem: Problem | None = None


@published("replication.copy-finalized")
class CopyFinalized(Fact, frozen=True, kw_only=True):
    """The recovery checkpoint stands. Recorded where more than routine steps follow."""

    checkpoint_at: dt.datetime
    steps: tuple[StepTiming, ...] = ()
    disks: tuple[DiskResult, ...] = ()


@published("replication.leftover-removed")
class LeftoverRemoved(Fact, frozen=True, kw_only=True):
    """What an ended iteration could not remove in time is gone."""

    what: Leftover


@published("replication.iteration-cancel-requested")
class IterationCancelRequested(Fact, frozen=True, kw_only=True):
    """The iteration is to stop safely."""

    reason: str = ""


@published("replication.iteration-finished")
class IterationFinished(Fact, frozen=True, kw_only=True):
    """The iteration ended; `checkpoint_at` is set where a recovery checkpoint was finalized."""

    plan: str
    vm: str
    state: IterationState
    checkpoint_at: dt.datetime | None = None
    full: bool = False
    resync: bool = False
    run: str = ""
    disks: tuple[DiskResult, ...] = ()
    steps: tuple[StepTiming, ...] = ()
    bytes_read: int = 0
    bytes_sent: int = 0
    bytes_total: int = 0
    problem: Problem | None = None
    leftovers: tuple[Leftover, ...] = ()


@published("replication.checkpoint-started")
class CheckpointStarted(Fact, frozen=True, kw_only=True):
    """A PIT checkpoint is being made; the copies of `reverse` VMs are at the protected site."""

    plan: str
    plan_version: int
    header: PlanHeader
    vms: tuple[str, ...]
    preserved: bool = False
    requested_at: dt.datetime
    reverse: tuple[str, ...] = ()


@published("replication.vm-checkpointed")
class VmCheckpointed(Fact, frozen=True, kw_only=True):
    """One VM's immutable copy exists, or could not be made."""

    vm: str
    taken_at: dt.datetime | None = None
    copy_id: str = ""
    problem: Problem | None = None


@published("replication.checkpoint-finished")
class CheckpointFinished(Fact, frozen=True, kw_only=True):
    """The checkpoint is available (`completed`, or `partially-completed`), or failed."""

    plan: str
    state: IterationState
    vms: tuple[str, ...] = ()
    problem: Problem | None = None


@published("replication.checkpoint-cancel-requested")
class CheckpointCancelRequested(Fact, frozen=True, kw_only=True):
    """A person cancelled the checkpoint job."""


@published("replication.checkpoint-deletion-started")
class CheckpointDeletionStarted(Fact, frozen=True, kw_only=True):
    """The checkpoint is expiring."""

    plan: str


@published("replication.vm-checkpoint-deleted")
class VmCheckpointDeleted(Fact, frozen=True, kw_only=True):
    """One VM's copy in the checkpoint was deleted."""

    vm: str


@published("replication.checkpoint-removal-troubled")
class CheckpointRemovalTroubled(Fact, frozen=True, kw_only=True):
    """Removing the checkpoint has failed `attempts` times; it goes on until it is true."""

    plan: str
    vm: str = ""
    attempts: int
    problem: Problem


@published("replication.checkpoint-deleted")
class CheckpointDeleted(Fact, frozen=True, kw_only=True):
    """The platform's listing shows that it is gone."""

    plan: str


# ── Inspections ──────────────────────────────────────────────────────────────────────────────


@published("replication.inspection-started")
class InspectionStarted(Fact, frozen=True, kw_only=True):
    """A site is being looked at for somebody."""

    request: str
    site: str
    for_stream: str


@published("replication.inspection-ended")
class InspectionEnded(Fact, frozen=True, kw_only=True):
    """The site was looked at, and whoever asked was answered."""

    problem: Problem | None = None


# ── Budgets ──────────────────────────────────────────────────────────────────────────────────


@published("replicator.note-throttling")
class NoteThrottling(Fact, frozen=True, kw_only=True):
    """A site's budget was looked at: it has been refused for long (`holds`), or not for a while.

    `limit` and `cap` are calls per second or units at once: what is in force and what was defined.
    `throttled` counts refusals of all time, the last at `throttled_at`.
    """

    site: str
    quota: str
    holds: bool
    mode: str
    limit: float
    cap: float
    throttled: int
    since: dt.datetime | None = None
    throttled_at: dt.datetime | None = None


@published("replication.throttled-for-long")
class ThrottledForLong(Fact, frozen=True, kw_only=True):
    """A site has refused calls of one quota for long, as NoteThrottling says."""

    site: str
    quota: str
    mode: str
    limit: float
    cap: float
    throttled: int
    since: dt.datetime | None = None


@published("replication.throttling-eased")
class ThrottlingEased(Fact, frozen=True, kw_only=True):
    """A site has refused no call of the quota for a while."""

    site: str
    quota: str
