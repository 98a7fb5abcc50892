"""What the scheduler is asked, told and reminded of: commands, messages, timers.

Part of `schemas.scheduler`, which everybody imports from; the events are there.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

import msgspec

from schemas.common import Command, Fact, HoldMode, Problem
from schemas.plans import PlanDefinition
from schemas.registry import published

RecoveryMode = Literal["test", "failover", "migrate", "reverse", "failback"]

# ── Commands from the gateway ────────────────────────────────────────────────────────────────


@published("scheduler.release-site")
class ReleaseSite(Command, frozen=True, kw_only=True):
    """End a site's quarantine. `confirm` must be its name: originals there may be running.

    `originals_running` is the second word, where some were seen to: they are to go on running.
    """

    site: str
    confirm: str = ""
    originals_running: bool = False


@published("scheduler.add-site")
class AddSite(Command, frozen=True, kw_only=True):
    """Register a site. It is checked on its platform first; an unreachable one is refused."""

    site: str
    platform: str
    settings: dict[str, str]
    credentials: str = ""


@published("scheduler.check-site")
class CheckSite(Command, frozen=True, kw_only=True):
    """Call the platform and record what it answers.

    `list_owned`: it also lists all that carries our tag; `facts["owned"]` then says where.
    """

    site: str
    list_owned: bool = False


@published("scheduler.remove-site")
class RemoveSite(Command, frozen=True, kw_only=True):
    """Forget a site that no plan uses."""

    site: str


@published("scheduler.apply-plan")
class ApplyPlan(Command, frozen=True, kw_only=True):
    """Create or change a plan. `expected_version` 0: whatever stands. `dry_run`: diff only.

    `over_capacity`: apply it though its sites cannot sustain its interval.
    """

    definition: PlanDefinition
    expected_version: int = 0
    dry_run: bool = False
    over_capacity: bool = False


class PlanCommand(Command, frozen=True, kw_only=True):
    """Base of what is asked of a plan that stands. `expected_version` 0: whichever version."""

    plan: str
    expected_version: int = 0


class PutOff(msgspec.Struct, frozen=True, kw_only=True):
    """A command waits for news that is under way: since when, and until when at most."""

    asked_at: dt.datetime
    until: dt.datetime


class PatientCommand(PlanCommand, frozen=True, kw_only=True):
    """Base of commands that a refusal may wrong while news is under way.

    `put_off` is the scheduler's own, where it reminds itself of the command; others leave it out.
    """

    put_off: PutOff | None = None


@published("scheduler.delete-plan")
class DeletePlan(PatientCommand, frozen=True, kw_only=True):
    """Stop protecting; copies at the target stay."""


@published("scheduler.start-plan")
class StartPlan(PlanCommand, frozen=True, kw_only=True):
    """Turn replication on, for the plan or some of its VMs."""

    vms: tuple[str, ...] = ()


@published("scheduler.stop-plan")
class StopPlan(PlanCommand, frozen=True, kw_only=True):
    """Turn replication off. `cancel`: also cancel running iterations, else they finish."""

    vms: tuple[str, ...] = ()
    cancel: bool = False


@published("scheduler.run-plan")
class RunPlan(PlanCommand, frozen=True, kw_only=True):
    """Replicate now. The gateway made `job` (a replication-run stream id)."""

    job: str
    vms: tuple[str, ...] = ()


@published("scheduler.prioritise-plan")
class PrioritisePlan(PlanCommand, frozen=True, kw_only=True):
    """Set the priority, 1 highest to 5, of the plan or some of its VMs."""

    priority: int
    vms: tuple[str, ...] = ()


@published("scheduler.reset-vm")
class ResetVm(PlanCommand, frozen=True, kw_only=True):
    """Declare the copy invalid: the next iteration copies everything (resync)."""

    vm: str


@published("scheduler.create-checkpoint")
class CreateCheckpoint(PatientCommand, frozen=True, kw_only=True):
    """Make a PIT checkpoint now. The gateway made `job` (a checkpoint stream id)."""

    job: str
    preserved: bool = False


@published("scheduler.change-checkpoint")
class ChangeCheckpoint(Command, frozen=True, kw_only=True):
    """Preserve, unpreserve or delete a checkpoint by hand."""

    plan: str
    checkpoint: str
    action: Literal["preserve", "unpreserve", "delete"]
    put_off: PutOff | None = None


@published("scheduler.recover")
class Recover(PatientCommand, frozen=True, kw_only=True):
    """Start a recovery. The gateway made `job` (a recovery stream id).

    `last_sync`: whether sources that can be reached are copied once more before they are given
    up; None: where the latest copy is recovered. `source_gone`: the operator's word that VMs
    whose site cannot be reached do not run. `auto_rollback` None: as the plan says. `parent` is
    the scheduler's own: the job that asked for it, where no person did.
    """

    job: str
    mode: RecoveryMode
    vms: tuple[str, ...] = ()
    checkpoint: str = "latest"
    skip_scripts: tuple[str, ...] = ()
    on_error: Literal["continue", "stop"] | None = None
    dry_run: bool = False
    last_sync: bool | None = None
    source_gone: bool = False
    parent: str = ""
    auto_rollback: bool | None = None


@published("scheduler.finish-application")
class FinishApplication(Command, frozen=True, kw_only=True):
    """Scheduler to itself: the sites of an application answered, apply it.

    It carries the id of the ApplyPlan it finishes, and is a command because only a command that
    meets a reserved name (a VM of another plan) is answered with a refusal.
    """

    plan: str


# ── Messages from other services ─────────────────────────────────────────────────────────────


class SiteLimit(Fact, frozen=True, kw_only=True):
    """A limit of a site: so many at once, or so many per second.

    Quotas go by their own names; `node` is the replication node, in disks at once.
    """

    name: str
    concurrent: int | None = None
    per_second: float | None = None


@published("scheduler.site-inspected")
class SiteInspected(Fact, frozen=True, kw_only=True):
    """Answer to InspectSite. `problem` is set where the platform could not be read.

    `vms` are the names asked for that exist, or all names where a glob was asked; `disks` is how
    many disks these have. `limits` are what the site restricts of what replication calls.
    """

    request: str
    site: str
    for_stream: str
    vms: tuple[str, ...] = ()
    vm_problems: tuple[Problem, ...] = ()
    problem: Problem | None = None
    facts: dict[str, Any] = {}
    disks: int = 0
    limits: tuple[SiteLimit, ...] = ()


@published("scheduler.iteration-ended")
class IterationEnded(Fact, frozen=True, kw_only=True):
    """A VM's iteration ended; its write-copy hold is released.

    `checkpoint_at` is the moment of the source snapshot of a finalized copy, else None.
    """

    plan: str
    vm: str
    iteration: str
    state: Literal["completed", "partially-completed", "failed", "cancelled"]
    checkpoint_at: dt.datetime | None = None
    resync: bool = False
    problem: Problem | None = None


@published("scheduler.checkpoint-ended")
class CheckpointEnded(Fact, frozen=True, kw_only=True):
    """A checkpoint job ended. `created_at` orders checkpoints; states as in product.md §4."""

    plan: str
    checkpoint: str
    state: Literal["available", "failed", "deleted"]
    created_at: dt.datetime
    vms: tuple[str, ...] = ()
    problem: Problem | None = None


@published("scheduler.release-holds")
class ReleaseHolds(Fact, frozen=True, kw_only=True):
    """A job gives back modes on VMs; empty `vms` means all it holds in the plan."""

    plan: str
    job: str
    modes: tuple[HoldMode, ...]
    vms: tuple[str, ...] = ()
    release_checkpoint: bool = False


@published("scheduler.recovery-ended")
class RecoveryEnded(Fact, frozen=True, kw_only=True):
    """A recovery ended. The plan keeps its achieved RTO.

    `moved`: its VMs run at the recovery site or nowhere, and are replicated no more; all but
    those that `stayed`, whose sources were left alone.
    """

    plan: str
    job: str
    mode: RecoveryMode
    state: Literal["completed", "partially-completed", "failed", "cancelled"]
    rto_s: float | None = None
    moved: bool = False
    stayed: tuple[str, ...] = ()


@published("scheduler.sync-last")
class SyncLast(Fact, frozen=True, kw_only=True):
    """A recovery asks for one last iteration of `vms` under its own hold, each answered.

    Iterations of its other VMs are cancelled: their sources are gone.
    """

    plan: str
    job: str
    vms: tuple[str, ...] = ()


@published("scheduler.return-vms")
class ReturnVms(Fact, frozen=True, kw_only=True):
    """A recovery was rolled back, or committed without some of its VMs: they are replicated again.

    `vms` are those; empty: all that it moved and that have not turned.
    """

    plan: str
    job: str
    vms: tuple[str, ...] = ()


@published("scheduler.site-lost")
class SiteLost(Fact, frozen=True, kw_only=True):
    """A failover of `plan` gave up VMs of a site it could not reach."""

    site: str
    plan: str
    job: str


@published("scheduler.quarantine-plan")
class QuarantinePlan(Fact, frozen=True, kw_only=True):
    """Scheduler to itself: a site of the plan is quarantined."""

    plan: str
    site: str
    job: str


@published("scheduler.end-plan-quarantine")
class EndPlanQuarantine(Fact, frozen=True, kw_only=True):
    """Scheduler to itself: a site of the plan may be used again."""

    plan: str
    site: str


# ── Timers ───────────────────────────────────────────────────────────────────────────────────


@published("scheduler.tick-due")
class TickDue(Fact, frozen=True, kw_only=True):
    """A replication tick came due: of one VM, or of a whole synchronized plan."""

    tick_at: dt.datetime


@published("scheduler.checkpoint-due")
class CheckpointDue(Fact, frozen=True, kw_only=True):
    """A scheduled PIT checkpoint came due."""

    due_at: dt.datetime


@published("scheduler.retention-due")
class RetentionDue(Fact, frozen=True, kw_only=True):
    """A checkpoint may have outlived its rules."""


@published("scheduler.names-due")
class NamesDue(Fact, frozen=True, kw_only=True):
    """A dry run reserved VM names to see whether they are free: give them back."""

    site: str
    vms: tuple[str, ...]


@published("scheduler.rpo-due")
class RpoDue(Fact, frozen=True, kw_only=True):
    """The newest copy reached the age of the plan's RPO target."""


@published("scheduler.group-tick-due")
class GroupTickDue(Fact, frozen=True, kw_only=True):
    """A tick of a synchronized plan came due."""

    tick_at: dt.datetime


@published("scheduler.group-check-due")
class GroupCheckDue(Fact, frozen=True, kw_only=True):
    """A member of a group ended: is it the slowest one?"""

    run: str


@published("scheduler.claim-due")
class ClaimDue(Fact, frozen=True, kw_only=True):
    """Look whether a recovery that waits for its holds can start, or must be refused."""

    job: str


@published("scheduler.inspection-due")
class InspectionDue(Fact, frozen=True, kw_only=True):
    """A site did not answer in time; `request` is the id of the command that asked."""

    request: str
