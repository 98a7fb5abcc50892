"""What a cleanup says: what it listed, what is gone, what could not be removed."""

from __future__ import annotations

from schemas.common import Fact, Problem, RecoveryState, StepTiming
from schemas.registry import published
from schemas.scheduler import SiteRef


@published("recovery.cleanup-started")
class CleanupStarted(Fact, frozen=True, kw_only=True):
    """A cleanup of `recovery` began; with `vms` of what was made of these alone."""

    job: str
    plan: str
    recovery: str
    site: SiteRef
    steps: tuple[str, ...] = ()
    definition_version: int = 1
    parent: str = ""
    vms: tuple[str, ...] = ()


@published("recovery.cleanup-listed")
class CleanupListed(Fact, frozen=True, kw_only=True):
    """What the platform shows as made by the recovery (kind, id, vm), before or after.

    At most 400 of `total` objects: more are listed again when these are gone.
    """

    objects: tuple[tuple[str, str, str], ...]
    verifying: bool
    total: int = 0
    timing: StepTiming | None = None


@published("recovery.cleanup-object-ended")
class CleanupObjectEnded(Fact, frozen=True, kw_only=True):
    """One object is gone, or could not be removed. A powered-off instance is not yet gone."""

    kind: str
    part: str
    object_id: str
    timing: StepTiming
    problem: Problem | None = None


@published("recovery.cleanup-troubled")
class CleanupTroubled(Fact, frozen=True, kw_only=True):
    """Listing, or removing an object, has failed `attempts` times; the cleanup goes on."""

    plan: str
    recovery: str
    kind: str
    object_id: str = ""
    attempts: int
    problem: Problem


@published("recovery.cleanup-cancel-requested")
class CleanupCancelRequested(Fact, frozen=True, kw_only=True):
    """A person cancelled the cleanup."""


@published("recovery.cleanup-finished")
class CleanupFinished(Fact, frozen=True, kw_only=True):
    """What is truly gone, and what is left."""

    plan: str
    recovery: str
    state: RecoveryState
    removed: int = 0
    remaining: tuple[tuple[str, str, str], ...] = ()
    steps: tuple[StepTiming, ...] = ()
    problem: Problem | None = None
