"""Plan groups: one command recovers a plan and those it comes `after`, in order.

The scheduler computes who belongs to it; the group itself is a stream `recovery-group` of the
recovery service, its cleanup one of `group-cleanup`.
"""

from __future__ import annotations

import datetime as dt

import msgspec

from schemas.common import Fact, Problem, StepTiming
from schemas.recovery import RecoveryState
from schemas.registry import published
from schemas.scheduler import Recover, RecoveryMode
from schemas.scheduler_inbox import PatientCommand


class GroupMember(msgspec.Struct, frozen=True, array_like=True):
    """A plan of a group, and the plans it comes after. `tolerant`: those that come after it go on
    when it ended partially completed (its on-error policy is *continue*)."""

    plan: str
    after: tuple[str, ...]
    tolerant: bool


# ── Asked of and said by the scheduler ───────────────────────────────────────────────────────


@published("scheduler.recover-group")
class RecoverGroup(PatientCommand, frozen=True, kw_only=True):
    """Recover a plan and all it comes after. The gateway made `job`, the group's stream id.

    `recover` is what is asked of the plan itself. Of the others the same is asked, but for what
    only makes sense for the plan: its VMs, its checkpoint, its scripts to leave out.
    """

    job: str
    recover: Recover


@published("scheduler.recovery-group-requested")
class RecoveryGroupRequested(Fact, frozen=True, kw_only=True):
    """A group was started; `plans` in an order in which each comes after those it needs.

    `checkpoint` is what the group's own plan is recovered from, kept until the group ends.
    """

    job: str
    mode: RecoveryMode
    plans: tuple[str, ...]
    dry_run: bool = False
    checkpoint: str = "latest"


# ── The group ────────────────────────────────────────────────────────────────────────────────


@published("recovery.start-group")
class StartRecoveryGroup(Fact, frozen=True, kw_only=True):
    """Scheduler to group: begin. `members` are in an order in which prerequisites come first."""

    job: str
    plan: str
    members: tuple[GroupMember, ...]
    recover: Recover
    requested_at: dt.datetime
    actor: str = ""


@published("recovery.group-started")
class RecoveryGroupStarted(Fact, frozen=True, kw_only=True):
    """A group exists; its steps are named as its plans."""

    job: str
    plan: str
    members: tuple[GroupMember, ...]
    recover: Recover
    requested_at: dt.datetime
    actor: str = ""
    definition_version: int = 1


@published("recovery.group-member-asked")
class GroupMemberAsked(Fact, frozen=True, kw_only=True):
    """A plan's recovery `job` was asked for: all it comes after is usable."""

    plan: str
    job: str
    at: dt.datetime


@published("recovery.group-member-started")
class GroupMemberStarted(Fact, frozen=True, kw_only=True):
    """A plan's recovery holds its VMs and runs."""

    plan: str


@published("recovery.group-member-refused")
class GroupMemberRefused(Fact, frozen=True, kw_only=True):
    """A plan's recovery was refused."""

    plan: str
    problem: Problem
    timing: StepTiming


@published("recovery.group-member-ended")
class GroupMemberEnded(Fact, frozen=True, kw_only=True):
    """A plan's recovery ended. `usable`: what comes after it may start."""

    plan: str
    state: RecoveryState
    usable: bool
    awaits_cleanup: bool
    rto_s: float | None = None
    timing: StepTiming
    problem: Problem | None = None


@published("recovery.group-cancel-requested")
class RecoveryGroupCancelRequested(Fact, frozen=True, kw_only=True):
    """A person cancelled the group."""


@published("recovery.group-finished")
class RecoveryGroupFinished(Fact, frozen=True, kw_only=True):
    """The group ended. RTO is that of its slowest plan, from the operator's command on."""

    plan: str
    mode: RecoveryMode
    state: RecoveryState
    rto_s: float | None = None
    problem: Problem | None = None
    awaits_cleanup: bool = False
    dry_run: bool = False


@published("recovery.group-cleaning")
class RecoveryGroupCleaning(Fact, frozen=True, kw_only=True):
    """A cleanup of all recoveries of the group began."""

    cleanup: str


@published("recovery.group-cleaned")
class RecoveryGroupCleaned(Fact, frozen=True, kw_only=True):
    """That cleanup ended; with nothing `remaining` the group is cleaned up."""

    cleanup: str
    remaining: int


# ── Its cleanup ──────────────────────────────────────────────────────────────────────────────


@published("recovery.group-cleanup-started")
class GroupCleanupStarted(Fact, frozen=True, kw_only=True):
    """A cleanup of a group began: every recovery that made something, by its plan."""

    job: str
    plan: str
    group: str
    recoveries: dict[str, str]
    definition_version: int = 1


@published("recovery.group-cleanup-member-ended")
class GroupCleanupMemberEnded(Fact, frozen=True, kw_only=True):
    """A plan's cleanup came back; nothing `remaining` is proof that its recovery is gone."""

    plan: str
    remaining: int
    timing: StepTiming
    problem: Problem | None = None


@published("recovery.group-cleanup-cancel-requested")
class GroupCleanupCancelRequested(Fact, frozen=True, kw_only=True):
    """A person cancelled the cleanup."""


@published("recovery.group-cleanup-finished")
class GroupCleanupFinished(Fact, frozen=True, kw_only=True):
    """The cleanup of a group ended."""

    plan: str
    group: str
    state: RecoveryState
    remaining: int = 0
    problem: Problem | None = None
