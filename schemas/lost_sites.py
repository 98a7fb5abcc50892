"""What is said of a quarantined site: watching for its return, originals that run, powering off.

The recovery service looks and powers off, the scheduler keeps the quarantine. Part of the
language of `schemas.recovery` and `schemas.scheduler`.
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


class Original(msgspec.Struct, frozen=True, kw_only=True):
    """A VM that a failover gave up and that runs at its site again.

    `since` where the platform knows. `instance` is what took its place, where that is there;
    `doubled`: it runs as well, None where that could not be found out.
    """

    plan: str
    recovery: str
    vm: str
    since: dt.datetime | None = None
    instance: str = ""
    doubled: bool | None = False


def in_words(original: Original) -> str:
    """One original that runs: since when, and whether what took its place runs as well."""
    since = f" since {original.since:%Y-%m-%d %H:%M:%S %Z}" if original.since else ""
    if original.doubled is None:
        return f"{original.vm} runs{since}; whether its recovered instance does is not known"
    beside = f", BESIDE its recovered instance {original.instance}" if original.doubled else ""
    return f"{original.vm} runs{since}{beside}"


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What one look found of the `given_up` VMs of a recovery.

    `originals` names the first of the `running` ones. `digest` stands for all that was found: a
    look that gives the same one has no news.
    """

    recovery: str
    plan: str
    given_up: int
    running: int
    doubled: int
    digest: str
    originals: tuple[Original, ...] = ()


# ── Messages ─────────────────────────────────────────────────────────────────────────────────


@published("recovery.watch-lost-site")
class WatchLostSite(Fact, frozen=True, kw_only=True):
    """Scheduler to recovery: look until the site is released whether VMs that the `recovery`
    of `plan` gave up run there."""

    site: SiteRef
    plan: str
    recovery: str


@published("recovery.look-at-lost-site")
class LookAtLostSite(Fact, frozen=True, kw_only=True):
    """Look at once, if the site is watched: it answered somebody, or was acted on."""

    site: str


@published("recovery.site-released")
class SiteReleased(Fact, frozen=True, kw_only=True):
    """Scheduler to recovery: the quarantine is over, or the site is gone: watch no more."""

    site: str


@published("recovery.power-off-originals")
class PowerOffOriginals(Command, frozen=True, kw_only=True):
    """Power off the originals that run at a quarantined site; `confirm` must be its name.

    `job` is the power-off's own stream id. Without `vms` all that are found.
    """

    job: str
    site: str
    confirm: str = ""
    vms: tuple[str, ...] = ()


@published("scheduler.originals-found")
class OriginalsFound(Fact, frozen=True, kw_only=True):
    """Recovery to scheduler: so many originals run at a quarantined site, `doubled` of them
    beside the instances that took their place. `vms` names the first."""

    site: str
    running: int
    doubled: int
    vms: tuple[str, ...] = ()


# ── Timer, and the work of a look ────────────────────────────────────────────────────────────


@published("recovery.lost-site-look-due")
class LostSiteLookDue(Fact, frozen=True, kw_only=True):
    """Look again. `silent` is how many looks in a row had no answer."""

    chain: int
    silent: int = 0


@published("recovery.look-at-originals")
class LookAtOriginals(SiteWork, frozen=True, kw_only=True):
    """Look which VMs run at the site that `recoveries` gave up; reads only.

    `vms`: only these. At most `count_max` are named.
    """

    recoveries: tuple[str, ...]
    count_max: int
    vms: tuple[str, ...] = ()


@published("recovery.originals-listed")
class OriginalsListed(Fact, frozen=True, kw_only=True):
    """The site answered. `unknown` are VMs that were asked for and that nobody gave up."""

    found: tuple[Given, ...]
    unknown: tuple[str, ...] = ()


# ── Events of the watcher ────────────────────────────────────────────────────────────────────


@published("recovery.lost-site-watched")
class LostSiteWatched(Fact, frozen=True, kw_only=True):
    """The site is watched for the sake of a recovery; fields as in WatchLostSite."""

    site: SiteRef
    plan: str
    recovery: str


@published("recovery.lost-site-look-asked")
class LostSiteLookAsked(Fact, frozen=True, kw_only=True):
    """A look at once: it stands for the one that was to come."""

    at: dt.datetime


@published("recovery.originals-seen")
class OriginalsSeen(Fact, frozen=True, kw_only=True):
    """The site answered, and what was found of a recovery's VMs is news."""

    site: str
    at: dt.datetime
    found: Given


@published("recovery.originals-settled")
class OriginalsSettled(Fact, frozen=True, kw_only=True):
    """A recovery's VMs are looked for no more: the site is released."""

    site: str
    plan: str
    recovery: str


@published("recovery.lost-site-released")
class LostSiteReleased(Fact, frozen=True, kw_only=True):
    """Nothing is left to watch for."""

    site: str


@published("recovery.lost-site-powering-off")
class LostSitePoweringOff(Fact, frozen=True, kw_only=True):
    """A job that powers originals off began."""

    job: str


@published("recovery.lost-site-powered-off")
class LostSitePoweredOff(Fact, frozen=True, kw_only=True):
    """That job ended, as its own events say."""

    job: str


@published("recovery.power-off-ended")
class PowerOffEnded(Fact, frozen=True, kw_only=True):
    """Power-off to the site's watcher: it ended."""

    site: str
    job: str


# ── Events of the power-off ──────────────────────────────────────────────────────────────────


@published("recovery.site-power-off-started")
class SitePowerOffStarted(Fact, frozen=True, kw_only=True):
    """Originals of `recoveries` that run at `site` are to be powered off; `vms`: only these."""

    job: str
    site: SiteRef
    recoveries: tuple[str, ...]
    at: dt.datetime
    vms: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    definition_version: int = 1


@published("recovery.site-power-off-looked")
class SitePowerOffLooked(Fact, frozen=True, kw_only=True):
    """A look ended; `originals` (recovery, vm) run and were not asked for before.

    `running` counts all that run, `vms` names the first of them. The last look, which brings
    none anew, is the proof.
    """

    at: dt.datetime
    timing: StepTiming
    originals: tuple[tuple[str, str], ...] = ()
    running: int = 0
    vms: tuple[str, ...] = ()
    problem: Problem | None = None


@published("recovery.original-powered-off")
class OriginalPoweredOff(Fact, frozen=True, kw_only=True):
    """An original is off, or could not be; `forced`: it ignored the shut-down."""

    vm: str
    state: Literal["off", "failed"]
    timing: StepTiming
    forced: bool = False
    problem: Problem | None = None


@published("recovery.site-power-off-finished")
class SitePowerOffFinished(Fact, frozen=True, kw_only=True):
    """The power-off ended; `running` originals were seen to run at its last look."""

    site: str
    state: RecoveryState
    off: int = 0
    running: int = 0
    steps: tuple[StepTiming, ...] = ()
    problem: Problem | None = None
