"""Alerts of a quarantined site that is back: originals that run there, or none that does. Pure.

One alert per plan and site, which lists what runs; it is told again when that changes, because
hosts that come back boot their VMs one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from schemas.envelope import Received
from schemas.lost_sites import (
    Given,
    OriginalsSeen,
    OriginalsSettled,
    SitePowerOffFinished,
    in_words,
)
from services.notifier.domain.finding import Finding, job_ended

RUNNING: Final = "originals-running"
RETURNED: Final = "site-returned"
NAMED_MAX: Final = 50
"""Originals that one alert names; more are counted."""


def _seen(received: Received) -> tuple[Finding, ...]:
    body: OriginalsSeen = received.body
    found = body.found
    if found.running:
        return (_over(found.plan, RETURNED, body.site, found.recovery), _running(body))
    quiet = _over(found.plan, RUNNING, body.site, found.recovery)
    if not found.given_up:
        return (quiet, _over(found.plan, RETURNED, body.site, found.recovery))
    return (quiet, _returned(body))


def _running(body: OriginalsSeen) -> Finding:
    site, found = body.site, body.found
    return Finding(
        plan=found.plan,
        condition=RUNNING,
        subject=site,
        holds=True,
        severity="critical",
        title=f"site {site} is back, and originals run there that a failover of {found.plan} "
        "replaced",
        text="\n".join(_listed(found)),
        remedy=f"seawall site power-off {site} --confirm {site}; then: "
        f"seawall site release {site} --confirm {site}",
        job=found.recovery,
        thing=found.recovery,
        retold=True,
    )


def _listed(found: Given) -> list[str]:
    beside = f", {found.doubled} BESIDE the instances in their place" if found.doubled else ""
    head = (
        f"{found.running} of {found.given_up} run{beside}; nothing replicates until you have "
        "answered:"
    )
    named = [in_words(each) for each in found.originals[:NAMED_MAX]]
    more = found.running - len(named)
    return [head, *named, *([f"and {more} more"] if more > 0 else [])]


def _returned(body: OriginalsSeen) -> Finding:
    return Finding(
        plan=body.found.plan,
        condition=RETURNED,
        subject=body.site,
        holds=True,
        severity="minor",
        title=f"site {body.site} is back, and still quarantined",
        text=f"none of the {body.found.given_up} VMs that a failover of {body.found.plan} gave "
        "up runs there",
        remedy=f"seawall site release {body.site} --confirm {body.site}",
        job=body.found.recovery,
        thing=body.found.recovery,
    )


def _settled(received: Received) -> tuple[Finding, ...]:
    body: OriginalsSettled = received.body
    return tuple(
        _over(body.plan, condition, body.site, body.recovery) for condition in (RUNNING, RETURNED)
    )


def _over(plan: str, condition: str, site: str, recovery: str) -> Finding:
    return Finding(plan=plan, condition=condition, subject=site, holds=False, thing=recovery)


def _power_off(received: Received) -> tuple[Finding, ...]:
    """A job of a site: its alerts go by the site's name, as others of a site do."""
    body: SitePowerOffFinished = received.body
    problem = body.problem
    return job_ended(
        received,
        plan=body.site,
        subject="site-power-off",
        severity="critical",
        title=f"powering off originals at {body.site} {body.state.replace('-', ' ')}",
        text=problem.message if problem is not None else "",
        remedy=problem.remedy if problem is not None else "",
    )


FINDERS: Final[dict[type, Callable[[Received], tuple[Finding, ...]]]] = {
    OriginalsSeen: _seen,
    OriginalsSettled: _settled,
    SitePowerOffFinished: _power_off,
}
