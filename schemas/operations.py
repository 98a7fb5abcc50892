"""What the recovery service says of full recoveries: sources secured and restored, the last sync,
commit and roll back; and what it is asked.

Part of the language of `schemas.recovery`, which has what all recoveries share.
"""

from __future__ import annotations

import datetime as dt
from typing import Literal

import msgspec

from schemas.common import Command, Fact, Problem, StepTiming
from schemas.recovery import RecoveryState
from schemas.recovery_work import SiteWork
from schemas.registry import published
from schemas.scheduler import SiteRef

Secured = Literal["off", "gone", "failed"]
"""A source is off; not to be reached, and gone by the operator's word; or neither."""

Returned = Literal["on", "untouched", "stays-off"]
"""A source is on again; nothing had to be taken back; or it could not be switched on."""


class Discard(msgspec.Struct, frozen=True, kw_only=True):
    """What a roll back discards of one VM: all its instance wrote since it was powered on.

    `bytes` where the platform can tell how much that is.
    """

    vm: str
    since: dt.datetime
    span_s: float
    bytes: int | None = None


# ── Messages ─────────────────────────────────────────────────────────────────────────────────


@published("recovery.secure-source")
class SecureSource(Fact, frozen=True, kw_only=True):
    """Parent to a VM's source: shut it down. `force`: power it off where that does not help.

    `instance` is what the VM runs as, where that is no VM of the site's own.
    """

    stream: str
    job: str
    plan: str
    vm: str
    site: SiteRef
    force: bool
    within_s: float
    requested_at: dt.datetime
    priority: int = 3
    instance: str = ""


@published("recovery.restore-source")
class RestoreSource(Fact, frozen=True, kw_only=True):
    """Take back what was done to a VM's source; `by` is the job to tell."""

    stream: str
    by: str


@published("recovery.source-news")
class SourceNews(Fact, frozen=True, kw_only=True):
    """A VM's source to the job `to`: secured or not, on again or not.

    `unreachable`: whether it runs could not be found out.
    """

    to: str
    vm: str
    news: Literal["off", "failed", "on", "untouched", "stays-off"]
    at: dt.datetime
    forced: bool = False
    unreachable: bool = False
    problem: Problem | None = None


@published("recovery.last-sync-ended")
class LastSyncEnded(Fact, frozen=True, kw_only=True):
    """Scheduler to recovery: a VM's last iteration ended; `checkpoint_at` of the copy it made."""

    job: str
    vm: str
    state: Literal["completed", "partially-completed", "failed", "cancelled"]
    checkpoint_at: dt.datetime | None = None
    problem: Problem | None = None


@published("recovery.commit")
class StartCommit(Command, frozen=True, kw_only=True):
    """Close a full recovery's commit window for good; `job` is the commit's own stream id.

    `without_failed`: what was made of VMs that are not ready is removed first, and they are given
    back; without that word such a commit is refused.
    """

    job: str
    recovery: str
    without_failed: bool = False


@published("recovery.rollback")
class StartRollback(Command, frozen=True, kw_only=True):
    """Undo a full recovery. `confirm` must be the plan's name: what instances wrote is lost.

    `leave_off`: sources that cannot come back may stay off, and keep nothing from being undone.
    """

    job: str
    recovery: str
    confirm: str = ""
    leave_off: bool = False


@published("recovery.begin-rollback")
class BeginRollback(Fact, frozen=True, kw_only=True):
    """A recovery's own roll back, as its plan wants it where a VM did not come up."""

    job: str
    recovery: str


@published("recovery.look-at-sources")
class LookAtSources(SiteWork, frozen=True, kw_only=True):
    """Look whether the site has what the VMs would come back as: all of them in one listing.

    `instances` (by VM) are what they run as there, where that is no VM of the site's own.
    """

    vms: tuple[str, ...]
    instances: dict[str, str] = {}


@published("recovery.sources-listed")
class SourcesListed(Fact, frozen=True, kw_only=True):
    """The site answered; `missing` are the VMs that it has nothing of."""

    missing: tuple[str, ...] = ()


@published("recovery.measure-written")
class MeasureWritten(SiteWork, frozen=True, kw_only=True):
    """Ask how much a recovery's instances wrote since power-on; `vms` are to be told apart."""

    vms: tuple[str, ...] = ()


@published("recovery.written-measured")
class WrittenMeasured(Fact, frozen=True, kw_only=True):
    """Bytes that `vms` wrote, None where the platform cannot tell; `total` of all instances of
    which it can, `unknown` counts the others."""

    written: tuple[tuple[str, int | None], ...] = ()
    total: int = 0
    unknown: int = 0


@published("recovery.commit-ended")
class CommitEnded(Fact, frozen=True, kw_only=True):
    """Commit to recovery: it ended, `done` or to be asked for again."""

    recovery: str
    commit: str
    done: bool


@published("recovery.rollback-cleaned")
class RollbackCleaned(Fact, frozen=True, kw_only=True):
    """Recovery to its roll back: the cleanup of its instances ended with so many left."""

    job: str
    remaining: int


@published("recovery.rollback-ended")
class RollbackEnded(Fact, frozen=True, kw_only=True):
    """Roll back to recovery: it ended, `done` or to be asked for again.

    `untouched`: it ended before anything was undone, so that all may be decided as before it.
    """

    recovery: str
    rollback: str
    done: bool
    untouched: bool = False


@published("recovery.commit-reminder")
class CommitReminder(Fact, frozen=True, kw_only=True):
    """The commit window has been open for long."""


# ── Events of the parent ─────────────────────────────────────────────────────────────────────


@published("recovery.sources-securing")
class SourcesSecuring(Fact, frozen=True, kw_only=True):
    """The sources of all VMs are being shut down."""

    at: dt.datetime


@published("recovery.source-site-lost")
class SourceSiteLost(Fact, frozen=True, kw_only=True):
    """The source site cannot be reached; by the operator's word its VMs are gone."""

    site: str
    at: dt.datetime


@published("recovery.member-secured")
class MemberSecured(Fact, frozen=True, kw_only=True):
    """How a VM's source stands; `forced`: it was powered off, having ignored the shut-down."""

    vm: str
    at: dt.datetime
    state: Secured
    forced: bool = False
    problem: Problem | None = None


@published("recovery.sources-secured")
class SourcesSecured(Fact, frozen=True, kw_only=True):
    """The last source settled."""

    timing: StepTiming


@published("recovery.last-sync-asked")
class LastSyncAsked(Fact, frozen=True, kw_only=True):
    """One last iteration of `count` VMs was asked for."""

    at: dt.datetime
    count: int


@published("recovery.member-synced")
class MemberSynced(Fact, frozen=True, kw_only=True):
    """A VM's last iteration ended."""

    vm: str
    at: dt.datetime
    state: Literal["completed", "partially-completed", "failed", "cancelled"]
    checkpoint_at: dt.datetime | None = None
    problem: Problem | None = None


@published("recovery.last-sync-finished")
class LastSyncFinished(Fact, frozen=True, kw_only=True):
    """The slowest VM's last iteration ended."""

    timing: StepTiming


@published("recovery.sources-restoring")
class SourcesRestoring(Fact, frozen=True, kw_only=True):
    """The operation stopped before anything was built: the sources are switched on again."""

    at: dt.datetime


@published("recovery.member-restored")
class MemberRestored(Fact, frozen=True, kw_only=True):
    """A VM's source is as it was, or could not be switched on."""

    vm: str
    at: dt.datetime
    state: Returned
    problem: Problem | None = None


@published("recovery.sources-restored")
class SourcesRestored(Fact, frozen=True, kw_only=True):
    """The last source was restored, or could not be."""

    timing: StepTiming


@published("recovery.recovery-committing")
class RecoveryCommitting(Fact, frozen=True, kw_only=True):
    """A commit of the recovery began; what was made of the VMs `without` is being removed."""

    commit: str
    without: tuple[str, ...] = ()


@published("recovery.commit-refuted")
class RecoveryCommitRefuted(Fact, frozen=True, kw_only=True):
    """The commit found something amiss: the window stays open."""

    commit: str


@published("recovery.recovery-committed")
class RecoveryCommitted(Fact, frozen=True, kw_only=True):
    """The instances are the VMs from now on; the sources stay off.

    Nothing was made, or is left, of the VMs `without`: they are what they were before.
    """

    plan: str
    commit: str
    without: tuple[str, ...] = ()


@published("recovery.recovery-rolling-back")
class RecoveryRollingBack(Fact, frozen=True, kw_only=True):
    """A roll back of the recovery began."""

    rollback: str


@published("recovery.rollback-incomplete")
class RecoveryRollbackIncomplete(Fact, frozen=True, kw_only=True):
    """A roll back ended and something is left to undo: it may be repeated.

    `untouched`: it had not undone anything, the window is as it was.
    """

    rollback: str
    untouched: bool = False


@published("recovery.recovery-rolled-back")
class RecoveryRolledBack(Fact, frozen=True, kw_only=True):
    """The instances are gone and the sources are as they were, or stay off by a person's word."""

    plan: str
    rollback: str


@published("recovery.commit-overdue")
class CommitOverdue(Fact, frozen=True, kw_only=True):
    """The commit window has been open since `since`: a person should decide."""

    plan: str
    since: dt.datetime


# ── Events of a VM's source ──────────────────────────────────────────────────────────────────


@published("recovery.source-asked")
class SourceAsked(Fact, frozen=True, kw_only=True):
    """A VM's source is to be shut down; fields as in SecureSource."""

    job: str
    plan: str
    vm: str
    site: SiteRef
    force: bool
    within_s: float
    requested_at: dt.datetime
    priority: int = 3
    instance: str = ""


@published("recovery.source-seen")
class SourceSeen(Fact, frozen=True, kw_only=True):
    """Whether the source was on before anything was done to it."""

    on: bool


@published("recovery.source-secured")
class SourceSecured(Fact, frozen=True, kw_only=True):
    """The source is off."""

    timing: StepTiming
    forced: bool = False


@published("recovery.source-step-failed")
class SourceStepFailed(Fact, frozen=True, kw_only=True):
    """A step failed for good. `last`: no other is left, the source is not secured.

    `unreachable`: whether the source runs could not be found out.
    """

    step: str
    timing: StepTiming
    problem: Problem
    last: bool = False
    unreachable: bool = False


@published("recovery.source-restore-asked")
class SourceRestoreAsked(Fact, frozen=True, kw_only=True):
    """Take back what was done; `by` is the job to tell."""

    by: str


@published("recovery.source-in-doubt")
class SourceInDoubt(Fact, frozen=True, kw_only=True):
    """The source is on, but was asked to shut down and never seen off: it may go off yet. It is
    switched on once more, for the `again`-th time."""

    again: int


@published("recovery.source-restored")
class SourceRestored(Fact, frozen=True, kw_only=True):
    """The source is as it was, or could not be switched on."""

    state: Returned
    timing: StepTiming | None = None
    problem: Problem | None = None


# ── Events of a commit ───────────────────────────────────────────────────────────────────────


@published("recovery.commit-started")
class CommitStarted(Fact, frozen=True, kw_only=True):
    """A commit of `recovery` began; `instances` (vm, id) are what must be there.

    `without` are VMs that are not ready: `cleanup` is the job that removes what was made of them,
    `note` says where they are afterwards.
    """

    job: str
    plan: str
    recovery: str
    site: SiteRef
    instances: tuple[tuple[str, str], ...]
    steps: tuple[str, ...] = ()
    definition_version: int = 1
    without: tuple[str, ...] = ()
    cleanup: str = ""
    note: str = ""
    at: dt.datetime | None = None


@published("recovery.commit-vms-removed")
class CommitVmsRemoved(Fact, frozen=True, kw_only=True):
    """The cleanup of the VMs that are left out ended; `remaining` objects are not proven gone."""

    remaining: int
    timing: StepTiming
    problem: Problem | None = None


@published("recovery.commit-finished")
class CommitFinished(Fact, frozen=True, kw_only=True):
    """A commit ended; `note` says where VMs are that it left out."""

    plan: str
    recovery: str
    state: RecoveryState
    steps: tuple[StepTiming, ...] = ()
    problem: Problem | None = None
    note: str = ""


# ── Events of a roll back ────────────────────────────────────────────────────────────────────


@published("recovery.rollback-started")
class RollbackStarted(Fact, frozen=True, kw_only=True):
    """A roll back of `recovery` began, with the data it discards.

    `cleanup` is the job that removes the instances; empty where there are none. `vms` are those
    whose sources are restored, at `source_site`. `automatic`: nobody asked for it, the plan did.
    `leave_off`: sources that cannot come back count as settled.
    """

    job: str
    plan: str
    recovery: str
    cleanup: str
    vms: tuple[str, ...]
    at: dt.datetime
    discards: tuple[Discard, ...] = ()
    steps: tuple[str, ...] = ()
    definition_version: int = 1
    automatic: bool = False
    leave_off: bool = False
    source_site: str = ""


@published("recovery.rollback-unconfirmed")
class RollbackUnconfirmed(Fact, frozen=True, kw_only=True):
    """A roll back was asked for without the plan's name: what it would discard is measured, and
    the command answered with that."""

    command_id: str
    job: str
    plan: str
    recovery: str
    discards: tuple[Discard, ...] = ()
    leave_off: bool = False


@published("recovery.rollback-not-confirmed")
class RollbackNotConfirmed(Fact, frozen=True, kw_only=True):
    """That was answered; nothing was done."""


@published("recovery.rollback-sources-seen")
class RollbackSourcesSeen(Fact, frozen=True, kw_only=True):
    """The sources were looked at before anything was undone. `missing` VMs have nothing to come
    back to as far as was seen, and `problem` says why; without the word for it, that is the end.
    """

    timing: StepTiming
    missing: tuple[str, ...] = ()
    problem: Problem | None = None


@published("recovery.rollback-measured")
class RollbackMeasured(Fact, frozen=True, kw_only=True):
    """What is discarded, in bytes where the platform told; then it is removed.

    `total` bytes of all instances it told of, None where it told nothing; `unknown` counts the
    instances it could not tell of.
    """

    discards: tuple[Discard, ...]
    timing: StepTiming
    total: int | None = None
    unknown: int = 0


@published("recovery.rollback-instances-removed")
class RollbackInstancesRemoved(Fact, frozen=True, kw_only=True):
    """The cleanup ended; with anything `remaining` the roll back goes no further."""

    remaining: int
    timing: StepTiming


@published("recovery.rollback-source-ended")
class RollbackSourceEnded(Fact, frozen=True, kw_only=True):
    """A VM's source is as it was, or could not be switched on."""

    vm: str
    at: dt.datetime
    state: Returned
    problem: Problem | None = None


@published("recovery.rollback-finished")
class RollbackFinished(Fact, frozen=True, kw_only=True):
    """A roll back ended. `untouched`: before anything was undone.

    `left_off` are VMs that stay off by the operator's word, the first of them by name: nothing of
    the recovery is left to undo.
    """

    plan: str
    recovery: str
    state: RecoveryState
    steps: tuple[StepTiming, ...] = ()
    problem: Problem | None = None
    untouched: bool = False
    left_off: tuple[str, ...] = ()
