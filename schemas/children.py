"""Recoveries that another job asks for: its request to the scheduler, and what comes back.

A parent (a clean point search, a group of plans) is a stream of the recovery service. It never
starts a recovery itself: it asks the scheduler as an operator's command would, which takes the
holds or refuses. All news of a child travels under the child's plan, and so in order.
"""

from __future__ import annotations

import datetime as dt

from schemas.common import Command, Fact, Problem
from schemas.recovery import RecoveryState
from schemas.registry import published
from schemas.scheduler import Recover, RecoveryMode


@published("scheduler.recover-child")
class RecoverChild(Fact, frozen=True, kw_only=True):
    """Parent to scheduler: start this recovery for `parent`, or say why not.

    `asked_at` is the moment from which its RTO counts, where that is not the moment it is asked.
    """

    parent: str
    recover: Recover
    asked_at: dt.datetime | None = None


@published("recovery.child-started")
class ChildStarted(Fact, frozen=True, kw_only=True):
    """Scheduler to parent: the holds are taken; the recovery's own messages went before."""

    parent: str
    job: str


@published("recovery.child-refused")
class ChildRefused(Fact, frozen=True, kw_only=True):
    """Scheduler to parent: the recovery was not started, nothing is held for it."""

    parent: str
    job: str
    problem: Problem


@published("recovery.child-ended")
class ChildEnded(Fact, frozen=True, kw_only=True):
    """Scheduler to parent: the recovery ended."""

    parent: str
    job: str
    mode: RecoveryMode
    state: RecoveryState
    rto_s: float | None = None


@published("recovery.cancel-child")
class CancelChild(Fact, frozen=True, kw_only=True):
    """Parent to a recovery or cleanup it asked for: stop safely. One that has ended stays so."""

    job: str


@published("recovery.child-cleaned")
class ChildCleaned(Fact, frozen=True, kw_only=True):
    """A cleanup to the job that asked for it: it ended, or never began and `problem` says why.

    Nothing `remaining`: the recovery is cleaned up, by this cleanup or by another before.
    """

    parent: str
    recovery: str
    cleanup: str
    remaining: int
    problem: Problem | None = None


@published("scheduler.parent-ended")
class ParentEnded(Fact, frozen=True, kw_only=True):
    """A parent to the scheduler: it ended, and no longer needs the checkpoints it looked at."""

    plan: str
    job: str
    state: RecoveryState


@published("scheduler.parent-job-ended")
class ParentJobEnded(Fact, frozen=True, kw_only=True):
    """A search or a group of the plan ended; checkpoints that were kept for it may expire."""

    job: str
    state: RecoveryState


@published("recovery.cleanup-group")
class CleanupGroup(Command, frozen=True, kw_only=True):
    """Clean up every recovery of a group; `job` is the cleanup's own stream id."""

    job: str
    group: str
