"""What VMs come back to when a recovery is rolled back: looked at first, and told in words.

Rules over a roll back's start and a site's answer. Instances are production: before one is removed
its site must show what the VM would run as instead, or a person says that it may run nowhere.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Final

from schemas import operations as said
from schemas.common import Problem
from schemas.units import some_of
from services.recovery.domain.operations.source import UNREACHED
from services.recovery.domain.recovery_state import Recovery, told
from services.recovery.domain.work import recovery_effect, refuted, step_of
from shared.decider import Effect, EffectOutcome

LOOK: Final = "look-at-sources"
"""The step, and the part and kind of its effect."""

NO_SOURCE: Final = "nothing-to-come-back-to"
"""The code of a roll back that touched nothing because of what the look did not find."""

NAMED_MAX: Final = 10
KEPT_MAX: Final = 150
"""VMs left off that the end of a roll back names: with 2,000 VMs it stays below 64 KiB."""


def look(parent: Recovery, *, vms: Sequence[str], now: dt.datetime) -> Effect:
    """Ask the site of the sources, once for all, for what `vms` would come back as."""
    start = told(parent)
    site = start.header.protected
    runs_as = {vm: parent.instances[vm].instance for vm in vms if vm in parent.instances}
    payload = said.LookAtSources(
        site=site, plan=start.plan, job=start.job, vms=tuple(vms), instances=runs_as
    )
    return recovery_effect(
        LOOK, LOOK, payload, site=site.site, plan=start.plan, due=now, priority=1
    )


def seen(start: said.RollbackStarted, ended: EffectOutcome) -> said.RollbackSourcesSeen:
    """What the look found.

    By the word for it, VMs that are `missing` are settled with that: a site that does not have
    them, or is away, is not asked once more for each. After any other error none is missing, for
    one VM that cannot be read keeps a site from listing the others: each is tried.
    """
    timing, site = step_of(ended, LOOK), start.source_site
    if ended.ok:
        listed: said.SourcesListed = ended.result
        if not listed.missing:
            return said.RollbackSourcesSeen(timing=timing)
        lacks = f"{site} does not have VM {some_of(listed.missing, NAMED_MAX)} any more"
        problem = _unseen(start, f"{lacks}: nothing to come back to")
        timing = refuted(timing, problem)
        return said.RollbackSourcesSeen(timing=timing, missing=listed.missing, problem=problem)
    unknown = f"whether VM {some_of(start.vms, NAMED_MAX)} has anything to come back to"
    problem = _unseen(start, f"{site} could not tell {unknown}: {ended.error}")
    tried = start.leave_off and ended.code not in UNREACHED
    missing = () if tried else start.vms
    timing = refuted(timing, problem)
    return said.RollbackSourcesSeen(timing=timing, missing=missing, problem=problem)


def staying_off(start: said.RollbackStarted, vms: Sequence[str], first: Problem | None) -> Problem:
    """Instances are gone and these VMs run nowhere: why, and what a person can do about it."""
    names = some_of(vms, NAMED_MAX)
    cause = first or Problem(code="stays-off", message="no reason was given")
    if start.leave_off:
        return Problem(
            code=cause.code,
            message=f"left off, as asked for: VM {names}; {cause.message}",
            remedy=f"recover them from their copies (`seawall recover {start.plan} --vm …`), "
            f"power them on at {start.source_site}, or take them out of the plan",
        )
    return Problem(
        code=cause.code,
        message=f"VM {names} runs nowhere now; {cause.message}",
        remedy=f"{cause.remedy or 'power it on at its site'}, then roll back again; where that "
        f"will never be: `{command(start.recovery, start.plan, leave_off=True)}`",
    )


def command(recovery: str, plan: str, *, leave_off: bool) -> str:
    """What to type, the plan's name included."""
    word = " --leave-off" if leave_off else ""
    return f"seawall rollback {recovery} --confirm {plan}{word}"


def _unseen(start: said.RollbackStarted, what: str) -> Problem:
    untouched = "" if start.leave_off else "; the roll back has touched nothing"
    return Problem(
        code=NO_SOURCE,
        message=f"{what}{untouched}",
        remedy=f"bring back what is missing at {start.source_site} and roll back again; or, where "
        f"VMs may stay off: `{command(start.recovery, start.plan, leave_off=True)}`",
    )
