"""What the recovery service says: recoveries, each VM's recovery, cleanup; and what it is asked.

The scheduler sends EnrolVm for every VM and then StartRecovery, in one step and on one
partition: when the parent starts, all its children know their definition.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

import msgspec

from schemas.common import Command, Fact, Problem, ScriptReport, StepTiming
from schemas.common import RecoveryState as RecoveryState
from schemas.plans import VmDefinition
from schemas.recovery_cleanup import CleanupCancelRequested as CleanupCancelRequested
from schemas.recovery_cleanup import CleanupFinished as CleanupFinished
from schemas.recovery_cleanup import CleanupListed as CleanupListed
from schemas.recovery_cleanup import CleanupObjectEnded as CleanupObjectEnded
from schemas.recovery_cleanup import CleanupStarted as CleanupStarted
from schemas.recovery_cleanup import CleanupTroubled as CleanupTroubled
from schemas.registry import published
from schemas.scheduler import PlanHeader, RecoveryMode, SiteRef

VmOutcome = Literal["ready", "failed", "skipped", "cancelled"]
AbandonReason = Literal["stop", "cancel", "dry-run"]


class Member(msgspec.Struct, frozen=True, array_like=True):
    """One VM of a recovery's roster; `boot_delay_s` counts from its power-on."""

    vm: str
    boot_order: int
    boot_delay_s: float


# ── Messages ─────────────────────────────────────────────────────────────────────────────────


@published("recovery.store-script")
class StoreRecoveryScript(Fact, frozen=True, kw_only=True):
    """One part of a script's content (base64, at most 32 KiB), kept under its SHA-256."""

    plan: str
    sha256: str
    part: int
    parts: int
    content: str


@published("recovery.enrol-vm")
class EnrolVm(Fact, frozen=True, kw_only=True):
    """Tell a VM's recovery what it is to recover; it starts when its parent says so."""

    job: str
    plan: str
    mode: RecoveryMode
    definition: VmDefinition
    header: PlanHeader
    checkpoint: str
    skip_scripts: tuple[str, ...] = ()
    on_error: Literal["continue", "stop"] = "continue"


@published("recovery.start-recovery")
class StartRecovery(Fact, frozen=True, kw_only=True):
    """Start a recovery whose holds are taken. `requested_at` is the operator's command (RTO).

    `parent` is the job that asked for it, where no person did. `homeward`: the VMs come up at
    the site that their plan protects, where their shut-down originals are.
    """

    job: str
    plan: str
    plan_version: int
    mode: RecoveryMode
    header: PlanHeader
    members: tuple[Member, ...]
    checkpoint: str
    skip_scripts: tuple[str, ...] = ()
    on_error: Literal["continue", "stop"] = "continue"
    dry_run: bool = False
    requested_at: dt.datetime
    actor: str = ""
    parent: str = ""
    last_sync: bool = False
    source_gone: bool = False
    auto_rollback: bool = False
    homeward: bool = False


@published("recovery.cleanup")
class StartCleanup(Command, frozen=True, kw_only=True):
    """Remove everything a recovery made; `job` is the cleanup's own stream id.

    `confirm`: the plan's name, where the instances were committed.
    """

    job: str
    recovery: str
    confirm: str = ""


@published("recovery.cancel-job")
class CancelRecoveryJob(Command, frozen=True, kw_only=True):
    """A person cancels a recovery or a cleanup."""

    job: str


@published("recovery.launch-vm")
class LaunchVm(Fact, frozen=True, kw_only=True):
    """Parent to child: begin. `boot`: its boot order is open already."""

    stream: str
    boot: bool
    requested_at: dt.datetime | None = None
    plan_outputs: dict[str, Any] = {}


@published("recovery.boot-vm")
class BootVm(Fact, frozen=True, kw_only=True):
    """Parent to child: its boot order is open."""

    stream: str


@published("recovery.abandon-vm")
class AbandonVm(Fact, frozen=True, kw_only=True):
    """Parent to child: do not go on (operation stopped, cancelled, or only a dry run)."""

    stream: str
    reason: AbandonReason


@published("recovery.member-news")
class MemberNews(Fact, frozen=True, kw_only=True):
    """Child to parent: powered on, ready, or ended (with its outcome).

    `stop`: the operation must stop. `degraded`: usable, but something of it failed. `made`:
    something may exist on the platform that cleanup must remove. `again`: something failed that
    can be done again. `round` counts the VM's retries. `failed_step` is what failed the VM.
    """

    job: str
    vm: str
    news: Literal["powered-on", "ready", "ended"]
    at: dt.datetime
    outcome: VmOutcome | None = None
    stop: bool = False
    degraded: bool = False
    made: bool = False
    instance_id: str = ""
    addresses: tuple[str, ...] = ()
    problem: Problem | None = None
    again: bool = False
    round: int = 0
    failed_step: str = ""


@published("recovery.begin-cleanup")
class BeginCleanup(Fact, frozen=True, kw_only=True):
    """A recovery's own cleanup: `auto_cleanup_after` is over, it is undone by itself, a `rollback`
    needs it, or another job, `parent`, asks for it and is told of its end. With `vms` only what
    was made of these is removed, for a commit: the recovery is not cleaned by that."""

    job: str
    recovery: str
    rollback: str = ""
    parent: str = ""
    vms: tuple[str, ...] = ()


@published("recovery.cleanup-news")
class CleanupNews(Fact, frozen=True, kw_only=True):
    """Cleanup to recovery: it ended; nothing `remaining` means the recovery is cleaned."""

    recovery: str
    cleanup: str
    remaining: int


@published("recovery.watch-instance")
class WatchInstance(Fact, frozen=True, kw_only=True):
    """Child to the site's watcher: tell me when this instance is ready, or that it is late."""

    site: SiteRef
    stream: str
    instance_id: str
    kind: Literal["heartbeat", "tcp", "http"]
    until: dt.datetime
    port: int | None = None
    path: str | None = None


@published("recovery.unwatch-instance")
class UnwatchInstance(Fact, frozen=True, kw_only=True):
    """Child to the site's watcher: no longer needed."""

    site: str
    stream: str


@published("recovery.instance-ready")
class InstanceReady(Fact, frozen=True, kw_only=True):
    """Watcher to child: the probe succeeded at `at`."""

    stream: str
    at: dt.datetime
    addresses: tuple[str, ...] = ()


@published("recovery.instance-late")
class InstanceLate(Fact, frozen=True, kw_only=True):
    """Watcher to child: a look that began at `until` or later did not find it ready. With `error`,
    nobody could look for as long as the watcher has patience."""

    stream: str
    until: dt.datetime
    error: str = ""


# ── Timers ───────────────────────────────────────────────────────────────────────────────────


@published("recovery.poll-due")
class PollDue(Fact, frozen=True, kw_only=True):
    """The watcher looks at its site again. An older `chain` than the running one is void."""

    chain: int = 0


@published("recovery.boot-delay-over")
class BootDelayOver(Fact, frozen=True, kw_only=True):
    """The delay after a boot order's power-on is over."""

    boot_order: int


@published("recovery.auto-cleanup-due")
class AutoCleanupDue(Fact, frozen=True, kw_only=True):
    """The plan's `auto_cleanup_after` is over."""


# ── Events of the parent ─────────────────────────────────────────────────────────────────────


@published("recovery.script-stored")
class RecoveryScriptStored(Fact, frozen=True, kw_only=True):
    """A part of a script's content."""

    plan: str
    sha256: str
    part: int
    parts: int
    content: str


@published("recovery.recovery-started")
class RecoveryStarted(Fact, frozen=True, kw_only=True):
    """A recovery exists. `steps` is its step list, kept by whatever build continues it."""

    job: str
    plan: str
    plan_version: int
    mode: RecoveryMode
    header: PlanHeader
    members: tuple[Member, ...]
    checkpoint: str
    skip_scripts: tuple[str, ...] = ()
    on_error: Literal["continue", "stop"] = "continue"
    dry_run: bool = False
    requested_at: dt.datetime
    actor: str = ""
    steps: tuple[str, ...] = ()
    definition_version: int = 1
    parent: str = ""
    last_sync: bool = False
    source_gone: bool = False
    auto_rollback: bool = False
    homeward: bool = False


@published("recovery.preflight-finished")
class PreflightFinished(Fact, frozen=True, kw_only=True):
    """What preflight found; problems stop the recovery before anything is touched.

    `source_lost`: the source site cannot be reached, and the operator's word stands for it.
    """

    timing: StepTiming
    problems: tuple[Problem, ...] = ()
    facts: dict[str, Any] = {}
    source_lost: bool = False


@published("recovery.plan-script-started")
class PlanScriptStarted(Fact, frozen=True, kw_only=True):
    """A plan script is about to be started; recorded before its process exists."""

    step: str
    run: int = 1


@published("recovery.plan-script-ended")
class PlanScriptEnded(Fact, frozen=True, kw_only=True):
    """How a plan script ended. `again`: it is declared repeatable and runs once more."""

    step: str
    report: ScriptReport
    timing: StepTiming
    run: int = 1
    again: bool = False


@published("recovery.vms-launched")
class VmsLaunched(Fact, frozen=True, kw_only=True):
    """The VMs' recoveries began: all of them, or those of one boot order.

    `vms` names them up to 500; `count` is how many they are.
    """

    count: int
    vms: tuple[str, ...] = ()


@published("recovery.boot-order-opened")
class BootOrderOpened(Fact, frozen=True, kw_only=True):
    """The VMs of this boot order may power on."""

    boot_order: int
    at: dt.datetime


@published("recovery.member-powered-on")
class MemberPoweredOn(Fact, frozen=True, kw_only=True):
    """A VM of the roster was powered on at `at`."""

    vm: str
    at: dt.datetime


@published("recovery.member-ready")
class MemberReady(Fact, frozen=True, kw_only=True):
    """A VM of the roster is ready."""

    vm: str
    at: dt.datetime
    instance_id: str = ""
    addresses: tuple[str, ...] = ()


@published("recovery.member-ended")
class MemberEnded(Fact, frozen=True, kw_only=True):
    """A VM's recovery ended; `degraded`, `stop`, `made`, `again` and `failed_step` as in
    MemberNews."""

    vm: str
    at: dt.datetime
    outcome: VmOutcome
    degraded: bool = False
    stop: bool = False
    made: bool = False
    problem: Problem | None = None
    again: bool = False
    failed_step: str = ""


@published("recovery.cancel-requested")
class RecoveryCancelRequested(Fact, frozen=True, kw_only=True):
    """A person cancelled the recovery."""

    at: dt.datetime | None = None


@published("recovery.recovery-finished")
class RecoveryFinished(Fact, frozen=True, kw_only=True):
    """The recovery ended, with its outcome and achieved RTO. A dry run only looked.

    `awaits_commit`: it waits for *commit* or *roll back*. `note` says how the sources were left.
    `rto_s` counts from the operator's command, waits included; `waited_s` is how long in all the
    recovery was paused, waited for a person or was over and then retried. `left` says in words
    in what state a cancelled one leaves things. `undone_by` is the job that undoes it by itself,
    as its plan wants where a VM did not come up. A retry may follow.
    """

    plan: str
    mode: RecoveryMode
    state: RecoveryState
    rto_s: float | None = None
    ready: int = 0
    failed: int = 0
    steps: tuple[StepTiming, ...] = ()
    problem: Problem | None = None
    awaits_cleanup: bool = False
    dry_run: bool = False
    awaits_commit: bool = False
    note: str = ""
    at: dt.datetime | None = None
    waited_s: float = 0.0
    left: str = ""
    undone_by: str = ""


@published("recovery.recovery-cleaning")
class RecoveryCleaning(Fact, frozen=True, kw_only=True):
    """A cleanup of what the recovery made began."""

    cleanup: str


@published("recovery.cleanup-incomplete")
class RecoveryCleanupIncomplete(Fact, frozen=True, kw_only=True):
    """A cleanup ended and something is left: it may be repeated."""

    cleanup: str
    remaining: int


@published("recovery.recovery-cleaned")
class RecoveryCleaned(Fact, frozen=True, kw_only=True):
    """Everything the recovery made is gone, verified by listing."""

    cleanup: str


# ── Events of a VM's recovery ────────────────────────────────────────────────────────────────


@published("recovery.vm-enrolled")
class VmEnrolled(Fact, frozen=True, kw_only=True):
    """A VM's recovery knows its definition; nothing has started."""

    job: str
    plan: str
    mode: RecoveryMode
    definition: VmDefinition
    header: PlanHeader
    checkpoint: str
    skip_scripts: tuple[str, ...] = ()
    on_error: Literal["continue", "stop"] = "continue"
    steps: tuple[str, ...] = ()
    definition_version: int = 1


@published("recovery.vm-launched")
class VmLaunched(Fact, frozen=True, kw_only=True):
    """The VM's recovery began. RTO counts from `requested_at`."""

    boot: bool
    requested_at: dt.datetime
    plan_outputs: dict[str, Any] = {}


@published("recovery.vm-boot-allowed")
class VmBootAllowed(Fact, frozen=True, kw_only=True):
    """Its boot order is open."""


@published("recovery.vm-step-ended")
class VmStepEnded(Fact, frozen=True, kw_only=True):
    """A step ended; `made` says what is on the platform now, `disk` which disk it was.

    `steps` is the VM's step list from now on, where the end of this one made more of it known:
    only the copy says that a VM is a Windows.
    """

    timing: StepTiming
    disk: str = ""
    made: dict[str, Any] = {}
    problem: Problem | None = None
    mode: RecoveryMode = "test"
    steps: tuple[str, ...] = ()


@published("recovery.vm-script-started")
class VmScriptStarted(Fact, frozen=True, kw_only=True):
    """A VM script is about to be started; recorded before its process exists."""

    step: str
    run: int = 1


@published("recovery.vm-script-ended")
class VmScriptEnded(Fact, frozen=True, kw_only=True):
    """How a VM script ended. `again`: it is declared repeatable and runs once more."""

    step: str
    report: ScriptReport
    timing: StepTiming
    run: int = 1
    again: bool = False


@published("recovery.vm-powered-on")
class VmPoweredOn(Fact, frozen=True, kw_only=True):
    """The instance was powered on."""

    instance_id: str
    at: dt.datetime
    addresses: tuple[str, ...] = ()
    timing: StepTiming


@published("recovery.vm-ready")
class VmReady(Fact, frozen=True, kw_only=True):
    """The guest answers."""

    at: dt.datetime
    addresses: tuple[str, ...] = ()


@published("recovery.vm-abandoned")
class VmAbandoned(Fact, frozen=True, kw_only=True):
    """The parent asked to stop."""

    reason: AbandonReason
    at: dt.datetime | None = None


@published("recovery.vm-finished")
class VmFinished(Fact, frozen=True, kw_only=True):
    """The VM's recovery ended. `state` is the job's state; steps not listed were not reached.

    `waited_s` and `left` as in RecoveryFinished.
    """

    plan: str
    vm: str
    job: str
    outcome: VmOutcome
    state: RecoveryState
    instance_id: str = ""
    addresses: tuple[str, ...] = ()
    rto_s: float | None = None
    steps: tuple[StepTiming, ...] = ()
    problem: Problem | None = None
    at: dt.datetime | None = None
    waited_s: float = 0.0
    left: str = ""


@published("recovery.vm-release-troubled")
class VmReleaseTroubled(Fact, frozen=True, kw_only=True):
    """Letting the held copy go has failed `attempts` times; it goes on until it is true."""

    plan: str
    vm: str
    job: str
    attempts: int
    problem: Problem


# ── Events of the site watcher ───────────────────────────────────────────────────────────────


@published("recovery.instance-watched")
class InstanceWatched(Fact, frozen=True, kw_only=True):
    """An instance is being watched until ready; the rest says in which story (`envelope.Meta`)."""

    site: SiteRef
    stream: str
    instance_id: str
    kind: Literal["heartbeat", "tcp", "http"]
    until: dt.datetime
    port: int | None = None
    path: str | None = None
    correlation_id: str = ""
    traceparent: str = ""


@published("recovery.instance-unwatched")
class InstanceUnwatched(Fact, frozen=True, kw_only=True):
    """It is ready, or nobody waits any more."""

    stream: str
