"""What the scheduler says: sites, plans, protected VMs, ticks, holds; and what it is asked.

The commands, messages and timers it acts on are in `scheduler_inbox`; import them from here.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

import msgspec

from schemas.common import Fact, HoldMode, Problem
from schemas.plans import (
    CheckpointPolicy,
    PlanDefinition,
    RecoveryPolicy,
    ReplicationPolicy,
    Targets,
    VmDefinition,
)
from schemas.registry import published
from schemas.scheduler_inbox import (
    AddSite as AddSite,
)
from schemas.scheduler_inbox import (
    ApplyPlan as ApplyPlan,
)
from schemas.scheduler_inbox import (
    ChangeCheckpoint as ChangeCheckpoint,
)
from schemas.scheduler_inbox import (
    CheckpointDue as CheckpointDue,
)
from schemas.scheduler_inbox import (
    CheckpointEnded as CheckpointEnded,
)
from schemas.scheduler_inbox import (
    CheckSite as CheckSite,
)
from schemas.scheduler_inbox import (
    ClaimDue as ClaimDue,
)
from schemas.scheduler_inbox import (
    CreateCheckpoint as CreateCheckpoint,
)
from schemas.scheduler_inbox import (
    DeletePlan as DeletePlan,
)
from schemas.scheduler_inbox import (
    EndPlanQuarantine as EndPlanQuarantine,
)
from schemas.scheduler_inbox import (
    FinishApplication as FinishApplication,
)
from schemas.scheduler_inbox import (
    GroupCheckDue as GroupCheckDue,
)
from schemas.scheduler_inbox import (
    GroupTickDue as GroupTickDue,
)
from schemas.scheduler_inbox import (
    InspectionDue as InspectionDue,
)
from schemas.scheduler_inbox import (
    IterationEnded as IterationEnded,
)
from schemas.scheduler_inbox import (
    NamesDue as NamesDue,
)
from schemas.scheduler_inbox import (
    PrioritisePlan as PrioritisePlan,
)
from schemas.scheduler_inbox import (
    PutOff as PutOff,
)
from schemas.scheduler_inbox import (
    QuarantinePlan as QuarantinePlan,
)
from schemas.scheduler_inbox import (
    Recover as Recover,
)
from schemas.scheduler_inbox import (
    RecoveryEnded as RecoveryEnded,
)
from schemas.scheduler_inbox import (
    RecoveryMode as RecoveryMode,
)
from schemas.scheduler_inbox import (
    ReleaseHolds as ReleaseHolds,
)
from schemas.scheduler_inbox import (
    ReleaseSite as ReleaseSite,
)
from schemas.scheduler_inbox import (
    RemoveSite as RemoveSite,
)
from schemas.scheduler_inbox import (
    ResetVm as ResetVm,
)
from schemas.scheduler_inbox import (
    RetentionDue as RetentionDue,
)
from schemas.scheduler_inbox import (
    ReturnVms as ReturnVms,
)
from schemas.scheduler_inbox import (
    RpoDue as RpoDue,
)
from schemas.scheduler_inbox import (
    RunPlan as RunPlan,
)
from schemas.scheduler_inbox import (
    SiteInspected as SiteInspected,
)
from schemas.scheduler_inbox import (
    SiteLimit as SiteLimit,
)
from schemas.scheduler_inbox import (
    SiteLost as SiteLost,
)
from schemas.scheduler_inbox import (
    StartPlan as StartPlan,
)
from schemas.scheduler_inbox import (
    StopPlan as StopPlan,
)
from schemas.scheduler_inbox import (
    SyncLast as SyncLast,
)
from schemas.scheduler_inbox import (
    TickDue as TickDue,
)

# ── Events ───────────────────────────────────────────────────────────────────────────────────


@published("scheduler.site-registration-requested")
class SiteRegistrationRequested(Fact, frozen=True, kw_only=True):
    """A site is being checked before it is added."""

    command_id: str
    site: str
    platform: str
    settings: dict[str, str]
    credentials: str = ""


@published("scheduler.site-registration-refused")
class SiteRegistrationRefused(Fact, frozen=True, kw_only=True):
    """The check failed; the site does not exist."""

    command_id: str
    problem: Problem


@published("scheduler.site-added")
class SiteAdded(Fact, frozen=True, kw_only=True):
    """A site exists. `credentials` is a reference."""

    site: str
    platform: str
    settings: dict[str, str]
    credentials: str = ""


@published("scheduler.site-checked")
class SiteChecked(Fact, frozen=True, kw_only=True):
    """What the platform answered."""

    site: str
    ok: bool
    facts: dict[str, Any] = {}
    problem: Problem | None = None


@published("scheduler.site-check-requested")
class SiteCheckRequested(Fact, frozen=True, kw_only=True):
    """A check is under way for a command."""

    command_id: str


@published("scheduler.site-check-finished")
class SiteCheckFinished(Fact, frozen=True, kw_only=True):
    """A check was answered, or given up because nobody answered."""

    command_id: str


@published("scheduler.site-removed")
class SiteRemoved(Fact, frozen=True, kw_only=True):
    """The site is forgotten."""

    site: str


@published("scheduler.site-plan-added")
class SitePlanAdded(Fact, frozen=True, kw_only=True):
    """A plan uses the site: it cannot be removed."""

    plan: str


@published("scheduler.site-plan-removed")
class SitePlanRemoved(Fact, frozen=True, kw_only=True):
    """A plan does not use the site any more."""

    plan: str


class SiteLoad(Fact, frozen=True, kw_only=True):
    """What a plan's replication asks of a site in every interval, whether it is on or not."""

    role: Literal["protected", "recovery"]
    vms: int
    disks: int
    interval_s: float


@published("scheduler.site-load-changed")
class SiteLoadChanged(Fact, frozen=True, kw_only=True):
    """What a plan asks of the site from now on."""

    plan: str
    load: SiteLoad


class SiteRef(Fact, frozen=True, kw_only=True):
    """All a service needs to open a site's adapter; credentials by reference."""

    site: str
    platform: str
    settings: dict[str, str]
    credentials: str = ""


@published("scheduler.plan-application-requested")
class PlanApplicationRequested(Fact, frozen=True, kw_only=True):
    """A plan waits for its sites to be inspected before it is applied.

    VMs that do not fit into one event follow as PlanApplicationVms.
    """

    command_id: str
    definition: PlanDefinition
    expected_version: int = 0
    dry_run: bool = False
    requested_at: dt.datetime | None = None
    over_capacity: bool = False


@published("scheduler.plan-application-vms")
class PlanApplicationVms(Fact, frozen=True, kw_only=True):
    """More VMs of the application that was just requested."""

    vms: tuple[VmDefinition, ...]


@published("scheduler.plan-site-inspected")
class PlanSiteInspected(Fact, frozen=True, kw_only=True):
    """One of an application's sites answered. `vms` only where the plan selects by a glob.

    `disks` are those of the plan's VMs, where the site was asked for VMs.
    """

    command_id: str
    site: str
    vms: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    disks: int = 0
    limits: tuple[SiteLimit, ...] = ()


@published("scheduler.plan-application-refused")
class PlanApplicationRefused(Fact, frozen=True, kw_only=True):
    """The plan stays as it was (or does not exist)."""

    command_id: str
    problem: Problem


class PlanHeader(Fact, frozen=True, kw_only=True):
    """A plan without its VMs, which are streams of their own."""

    name: str
    protected: SiteRef
    recovery_site: SiteRef
    replication: ReplicationPolicy
    checkpoints: CheckpointPolicy | None = None
    targets: Targets = msgspec.field(default_factory=Targets)
    recovery: RecoveryPolicy = msgspec.field(default_factory=RecoveryPolicy)
    select: str | None = None
    after: tuple[str, ...] = ()


@published("scheduler.plan-applied")
class PlanApplied(Fact, frozen=True, kw_only=True):
    """A new version of a plan stands. `digest` is the SHA-256 of its canonical form.

    `next_due_at` is the next tick of a synchronized plan whose grid is new.
    """

    plan: str
    plan_version: int
    digest: str
    header: PlanHeader
    vms: tuple[str, ...]
    next_due_at: dt.datetime | None = None


@published("scheduler.plan-unchanged")
class PlanUnchanged(Fact, frozen=True, kw_only=True):
    """An application asked for what already stands, or was a dry run: no new version."""

    command_id: str


@published("scheduler.plan-deleted")
class PlanDeleted(Fact, frozen=True, kw_only=True):
    """The plan protects nothing any more."""

    plan: str


@published("scheduler.plan-prioritised")
class PlanPrioritised(Fact, frozen=True, kw_only=True):
    """The plan's own priority changed."""

    priority: int


@published("scheduler.group-tick-dispatched")
class GroupTickDispatched(Fact, frozen=True, kw_only=True):
    """A synchronized tick of all VMs, or a `plan run`, started as one group job `run`."""

    run: str
    tick_at: dt.datetime
    vms: tuple[str, ...]
    next_due_at: dt.datetime | None = None


@published("scheduler.group-tick-queued")
class GroupTickQueued(Fact, frozen=True, kw_only=True):
    """The last group still runs: this tick starts right after it."""

    tick_at: dt.datetime


@published("scheduler.group-tick-ended")
class GroupTickEnded(Fact, frozen=True, kw_only=True):
    """The slowest VM of a group is done."""

    run: str


@published("scheduler.checkpoint-requested")
class CheckpointRequested(Fact, frozen=True, kw_only=True):
    """A PIT checkpoint job was started, by schedule or by hand.

    `reverse` are those of its VMs that are replicated in reverse: their copies are at the
    protected site.
    """

    checkpoint: str
    vms: tuple[str, ...]
    preserved: bool = False
    requested_at: dt.datetime
    reverse: tuple[str, ...] = ()


@published("scheduler.checkpoint-recorded")
class CheckpointRecorded(Fact, frozen=True, kw_only=True):
    """The plan's list of checkpoints changed."""

    checkpoint: str
    state: Literal["available", "failed", "expiring", "deleted"]
    created_at: dt.datetime
    vms: tuple[str, ...] = ()


@published("scheduler.checkpoint-preservation-changed")
class CheckpointPreservationChanged(Fact, frozen=True, kw_only=True):
    """Preserved checkpoints never expire."""

    checkpoint: str
    preserved: bool


@published("scheduler.recovery-requested")
class RecoveryRequested(Fact, frozen=True, kw_only=True):
    """Holds were taken and the recovery was started. `checkpoint` is held where not latest.

    A dry run holds nothing. `parent` is the job that asked for it, where no person did.
    """

    job: str
    mode: RecoveryMode
    checkpoint: str
    vms: tuple[str, ...]
    dry_run: bool = False
    parent: str = ""


@published("scheduler.recovery-recorded")
class RecoveryRecorded(Fact, frozen=True, kw_only=True):
    """A recovery of the plan ended; a dry run is none that counts."""

    job: str
    mode: RecoveryMode
    state: str
    rto_s: float | None = None
    dry_run: bool = False


@published("scheduler.checkpoint-hold-released")
class CheckpointHoldReleased(Fact, frozen=True, kw_only=True):
    """A job no longer reads from a checkpoint."""

    job: str


@published("scheduler.recovery-holds-released")
class RecoveryHoldsReleased(Fact, frozen=True, kw_only=True):
    """A recovery holds no VM of the plan any more."""

    job: str


@published("scheduler.vm-protected")
class VmProtected(Fact, frozen=True, kw_only=True):
    """A VM belongs to a plan, with its definition; also sent when the definition changes.

    `protected_at` is when it joined the plan: until the first copy, RPO counts from there.
    `last_checkpoint_at`: it comes back to its plan, and this copy from before still counts.
    """

    plan: str
    vm: str
    plan_version: int
    definition: VmDefinition
    protected: SiteRef
    recovery_site: SiteRef
    replication: ReplicationPolicy
    rpo_s: float | None = None
    protected_at: dt.datetime | None = None
    last_checkpoint_at: dt.datetime | None = None


@published("scheduler.vm-released")
class VmReleased(Fact, frozen=True, kw_only=True):
    """The VM left the plan."""

    plan: str
    vm: str


@published("scheduler.vm-started")
class VmStarted(Fact, frozen=True, kw_only=True):
    """Replication of the VM is on; `next_due_at` is its next grid tick."""

    next_due_at: dt.datetime


@published("scheduler.vm-stopped")
class VmStopped(Fact, frozen=True, kw_only=True):
    """Replication of the VM is off."""


@published("scheduler.vm-prioritised")
class VmPrioritised(Fact, frozen=True, kw_only=True):
    """The VM's own priority changed, or (`of_plan`) that of its plan."""

    priority: int
    of_plan: bool = False


@published("scheduler.vm-reset")
class VmReset(Fact, frozen=True, kw_only=True):
    """The copy counts as invalid: the next iteration is a resync.

    `lost`: the plan changed its sites, so that there is no copy at all.
    """

    lost: bool = False


@published("scheduler.iteration-dispatched")
class IterationDispatched(Fact, frozen=True, kw_only=True):
    """A tick (or run now) started an iteration; it holds write-copy until it ends."""

    iteration: str
    tick_at: dt.datetime
    due_at: dt.datetime
    next_due_at: dt.datetime | None = None
    run: str = ""
    missed: int = 0


@published("scheduler.tick-queued")
class TickQueued(Fact, frozen=True, kw_only=True):
    """The tick found its VM busy: it starts right after.

    With a `run` the VM joins that group job, which is `gated` where it began with a pre-script
    (None: not told), whatever the plan says when it is the VM's turn. `group`: the tick is one of
    its whole plan, which waits for this VM among others. A grid tick (no `run`) or a group's
    means *exceeded interval*.
    """

    tick_at: dt.datetime
    next_due_at: dt.datetime | None = None
    behind: str = ""
    run: str = ""
    group: bool = False
    gated: bool | None = None


@published("scheduler.iteration-recorded")
class IterationRecorded(Fact, frozen=True, kw_only=True):
    """An iteration ended and released its hold."""

    iteration: str
    state: Literal["completed", "partially-completed", "failed", "cancelled"]
    checkpoint_at: dt.datetime | None = None
    resync: bool = False
    problem: Problem | None = None


@published("scheduler.ticks-missed")
class TicksMissed(Fact, frozen=True, kw_only=True):
    """Ticks did not run at their time (control plane down, plan stopped, overrun).

    `count` of them; `caught_up`: the last one is run now, once for all.
    """

    count: int
    first_at: dt.datetime
    last_at: dt.datetime
    caught_up: bool = False


@published("scheduler.held")
class Held(Fact, frozen=True, kw_only=True):
    """A job holds the VM in some modes."""

    job: str
    modes: tuple[HoldMode, ...]


@published("scheduler.hold-released")
class HoldReleased(Fact, frozen=True, kw_only=True):
    """A job gave modes back."""

    job: str
    modes: tuple[HoldMode, ...]


@published("scheduler.rpo-breached")
class RpoBreached(Fact, frozen=True, kw_only=True):
    """The newest copy is older than the plan's target."""

    plan: str
    vm: str
    target_s: float
    last_checkpoint_at: dt.datetime | None


@published("scheduler.rpo-restored")
class RpoRestored(Fact, frozen=True, kw_only=True):
    """A fresh copy ended a breach."""

    plan: str
    vm: str
