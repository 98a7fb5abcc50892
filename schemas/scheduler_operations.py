"""What the scheduler says of full recoveries: holds waited for, VMs that moved, quarantine.

Part of the language of `schemas.scheduler`, which has the rest of the scheduler's events.
"""

from __future__ import annotations

import datetime as dt
from typing import Literal

from schemas.common import Fact, HoldMode, Problem
from schemas.registry import published
from schemas.scheduler_inbox import Recover

Moved = Literal["failed-over", "migrated"]
"""Where a VM runs that does not run at its protected site: at the recovery site, by which way."""


@published("scheduler.recovery-awaited")
class RecoveryAwaited(Fact, frozen=True, kw_only=True):
    """A full recovery waits until running iterations let its VMs go, at most until `until`.

    `request` is the operator's command of `asked_at`, which is answered then.
    """

    request: Recover
    vms: tuple[str, ...]
    asked_at: dt.datetime
    until: dt.datetime
    actor: str = ""


@published("scheduler.recovery-not-started")
class RecoveryNotStarted(Fact, frozen=True, kw_only=True):
    """A recovery that waited for its holds was refused."""

    job: str
    problem: Problem


@published("scheduler.hold-queued")
class HoldQueued(Fact, frozen=True, kw_only=True):
    """A job is the next to hold the VM; nothing newer overtakes it."""

    job: str
    modes: tuple[HoldMode, ...]


@published("scheduler.hold-dropped")
class HoldDropped(Fact, frozen=True, kw_only=True):
    """A job no longer waits for the VM."""

    job: str


@published("scheduler.vm-moved")
class VmMoved(Fact, frozen=True, kw_only=True):
    """The VM runs at the recovery site: it is not replicated until it returns.

    `was_on`: its replication was on, and is turned on again should it be rolled back.
    """

    job: str
    to: Moved
    was_on: bool = False


@published("scheduler.vm-returned")
class VmReturned(Fact, frozen=True, kw_only=True):
    """The recovery was rolled back: the VM runs at its protected site again."""

    job: str


@published("scheduler.site-quarantined")
class SiteQuarantined(Fact, frozen=True, kw_only=True):
    """A failover of `plan` gave the site up: nothing replicates from or to it until answered."""

    site: str
    plan: str
    job: str


@published("scheduler.site-quarantine-ended")
class SiteQuarantineEnded(Fact, frozen=True, kw_only=True):
    """A person looked at the site: it may be used again."""

    site: str


@published("scheduler.site-originals-found")
class SiteOriginalsFound(Fact, frozen=True, kw_only=True):
    """The quarantined site answers; so many VMs that were given up run there, `doubled` of them
    beside the instances that took their place. `vms` names the first."""

    site: str
    running: int
    doubled: int = 0
    vms: tuple[str, ...] = ()


@published("scheduler.plan-quarantined")
class PlanQuarantined(Fact, frozen=True, kw_only=True):
    """A site of the plan is quarantined: the plan's replication cannot be started."""

    plan: str
    site: str
    job: str


@published("scheduler.plan-quarantine-ended")
class PlanQuarantineEnded(Fact, frozen=True, kw_only=True):
    """The plan's site may be used again; replication is started by hand."""

    plan: str
    site: str
