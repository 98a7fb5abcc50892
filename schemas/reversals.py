"""What the recovery service says of reversals: recovered instances become the sources.

Part of the language of `schemas.recovery`. The iterations of a reversal are the replicator's, the
direction itself is the scheduler's (`schemas.directions`).
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from schemas.common import Fact, Problem, RecoveryState, StepTiming
from schemas.directions import SourceInstance
from schemas.recovery_work import SiteWork
from schemas.registry import published
from schemas.replicator import IterationState
from schemas.scheduler import PlanHeader, SiteRef

MARK = "mark-direction"
RESYNC = "resync"
VERIFY = "verify-copies"
DROP = "restore-direction"
PREFLIGHT = "preflight"


class ReversalGroup(msgspec.Struct, frozen=True, array_like=True):
    """VMs that run elsewhere since one recovery, which moved them there."""

    moved_by: str
    vms: tuple[str, ...]


# ── Messages ─────────────────────────────────────────────────────────────────────────────────


@published("recovery.start-reversal")
class StartReversal(Fact, frozen=True, kw_only=True):
    """Start a reversal whose holds are taken.

    `header` looks the new way: its protected site is where the VMs run, its recovery site where
    they came from. The recoveries that moved them know the instances.
    """

    job: str
    plan: str
    plan_version: int
    header: PlanHeader
    groups: tuple[ReversalGroup, ...]
    dry_run: bool = False
    requested_at: dt.datetime
    actor: str = ""


# ── Events ───────────────────────────────────────────────────────────────────────────────────


@published("recovery.reversal-started")
class ReversalStarted(Fact, frozen=True, kw_only=True):
    """A reversal exists; fields as in StartReversal. Its sources follow as ReversalSources."""

    job: str
    plan: str
    plan_version: int
    header: PlanHeader
    vms: tuple[str, ...]
    dry_run: bool = False
    requested_at: dt.datetime
    actor: str = ""
    steps: tuple[str, ...] = ()
    definition_version: int = 1


@published("recovery.reversal-sources")
class ReversalSources(Fact, frozen=True, kw_only=True):
    """Instances that some of the VMs run as."""

    sources: tuple[SourceInstance, ...]


@published("recovery.reversal-preflight-finished")
class ReversalPreflightFinished(Fact, frozen=True, kw_only=True):
    """Preflight is over; with any `problems` nothing is touched."""

    timing: StepTiming
    problems: tuple[Problem, ...] = ()
    facts: dict[str, Any] = {}


@published("recovery.reversal-direction-marking")
class ReversalDirectionMarking(Fact, frozen=True, kw_only=True):
    """The scheduler was asked to mark the new direction."""

    at: dt.datetime


@published("recovery.reversal-direction-marked")
class ReversalDirectionMarked(Fact, frozen=True, kw_only=True):
    """So many more VMs are marked; `timing` with the last of them."""

    count: int
    timing: StepTiming | None = None


@published("recovery.reversal-resync-asked")
class ReversalResyncAsked(Fact, frozen=True, kw_only=True):
    """One iteration of every VM was asked for, in the new direction."""

    at: dt.datetime


@published("recovery.reversal-member-synced")
class ReversalMemberSynced(Fact, frozen=True, kw_only=True):
    """A VM's iteration ended; `checkpoint_at` is set where a copy was finalized."""

    vm: str
    at: dt.datetime
    state: IterationState
    checkpoint_at: dt.datetime | None = None
    problem: Problem | None = None


@published("recovery.reversal-resync-finished")
class ReversalResyncFinished(Fact, frozen=True, kw_only=True):
    """The slowest VM's iteration ended."""

    timing: StepTiming


@published("recovery.reversal-verified")
class ReversalVerified(Fact, frozen=True, kw_only=True):
    """The target was listed; VMs whose copy is not what their iteration said are `missing`."""

    timing: StepTiming
    missing: tuple[str, ...] = ()
    problem: Problem | None = None


@published("recovery.reversal-cancel-requested")
class ReversalCancelRequested(Fact, frozen=True, kw_only=True):
    """A person cancelled the reversal."""

    at: dt.datetime


@published("recovery.reversal-finished")
class ReversalFinished(Fact, frozen=True, kw_only=True):
    """A reversal ended: so many VMs `turned`; those that did not are where they were.

    `left` says in what state a reversal that did not turn all leaves things.
    """

    plan: str
    state: RecoveryState
    turned: int = 0
    steps: tuple[StepTiming, ...] = ()
    problem: Problem | None = None
    dry_run: bool = False
    left: str = ""


# ── Effects ──────────────────────────────────────────────────────────────────────────────────


@published("recovery.look-at-instances")
class LookAtInstances(SiteWork, frozen=True, kw_only=True):
    """Look whether instances can be replicated from `site` to `target`; reads only."""

    target: SiteRef
    sources: tuple[SourceInstance, ...]


@published("recovery.instances-seen")
class InstancesSeen(Fact, frozen=True, kw_only=True):
    """What was found; without problems the reversal may begin."""

    problems: tuple[Problem, ...] = ()
    facts: dict[str, Any] = {}


@published("recovery.verify-copies")
class VerifyCopies(SiteWork, frozen=True, kw_only=True):
    """Look whether `site` lists a copy of each VM of that moment (vm, moment)."""

    copies: tuple[tuple[str, dt.datetime], ...]


@published("recovery.copies-verified")
class CopiesVerified(Fact, frozen=True, kw_only=True):
    """VMs whose newest copy is another, or is not there."""

    missing: tuple[str, ...] = ()
