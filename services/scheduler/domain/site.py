"""A site: added once its platform answered, checked on demand, removed when no plan uses it.

Owns the site's stream. The scheduler calls no platform: the replicator inspects for it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, Final

import msgspec

from schemas import scheduler as said
from schemas import scheduler_operations as said_ops
from schemas.common import Problem
from schemas.documents import Mismatch
from schemas.envelope import Received
from schemas.lost_sites import LookAtLostSite, SiteReleased
from schemas.replicator import InspectSite
from schemas.rules import NAME_ALLOWED, name
from services.scheduler.domain.answers import done, no_answer, refused_by
from services.scheduler.domain.names import site_stream
from shared.decider import NOTHING, Decision, Family, Send, Timer
from shared.errors import Refused

PLATFORMS: Final = ("lab", "memory")
"""Platforms of this build; `memory` serves simulations."""

INSPECTION_MAX_S: Final = 60.0
"""How long a site's answer is waited for before the command is refused."""

CHECKS_MAX: Final = 20


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """A site on its way in."""

    command_id: str
    site: said.SiteRef


class Site(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is known of a site; changed in place by `evolve`. `ref` None: there is none.

    `quarantined`: a failover gave its VMs up, and nobody has released it since. `originals` are
    those that were found running there when it answered last, None: it has not yet.
    """

    ref: said.SiteRef | None = None
    pending: Registration | None = None
    checks: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()
    quarantined: bool = False
    originals: said_ops.SiteOriginalsFound | None = None
    loads: dict[str, said.SiteLoad] = {}


def add_site(state: Site, received: Received) -> Decision:
    """Ask the platform first; the same site again is done already."""
    m: said.AddSite = received.body
    _check_wording(m)
    if state.ref is not None:
        if _same(state.ref, m):
            return NOTHING
        raise Refused(
            f"a site named {m.site!r} exists with other settings",
            code="name-taken",
            remedy=f"choose another name, or `seawall site remove {m.site}` first",
        )
    if state.pending is not None:
        raise Refused(
            f"site {m.site!r} is being added right now",
            code="busy",
            remedy="wait until that is decided",
        )
    ref = said.SiteRef(
        site=m.site, platform=m.platform, settings=m.settings, credentials=m.credentials
    )
    asked = said.SiteRegistrationRequested(
        command_id=m.command_id,
        site=m.site,
        platform=m.platform,
        settings=m.settings,
        credentials=m.credentials,
    )
    return _inspect(asked, ref, request=m.command_id, now=received.at)


def check_site(state: Site, received: Received) -> Decision:
    """Call the platform and answer with what it says."""
    m: said.CheckSite = received.body
    ref = standing_site(state, m.site)
    if len(state.checks) >= CHECKS_MAX:
        raise Refused(
            f"{CHECKS_MAX} checks of site {m.site!r} are under way",
            code="busy",
            remedy="wait for their answers",
        )
    asked = said.SiteCheckRequested(command_id=m.command_id)
    return _inspect(asked, ref, request=m.command_id, now=received.at, list_owned=m.list_owned)


def remove_site(state: Site, received: Received) -> Decision:
    """Forget a site that no plan uses. Raises Refused: `unknown-site`, `in-use`; `quarantined`,
    for whoever watches for its return would fall silent with it."""
    m: said.RemoveSite = received.body
    standing_site(state, m.site)
    if state.quarantined:
        raise Refused(
            f"site {m.site!r} is quarantined: originals that a failover gave up there may run "
            "again, and without the site nobody would be told",
            code="quarantined",
            remedy=f"make sure that they are off for good, then `seawall site release {m.site} "
            f"--confirm {m.site}` first",
        )
    if state.plans:
        raise Refused(
            f"site {m.site!r} is used by plan {', '.join(state.plans)}",
            code="in-use",
            remedy="delete these plans, or apply them with another site, first",
        )
    gone = Problem(code="unknown-site", message=f"site {m.site} was removed", remedy="")
    return Decision(
        events=(
            *(said.SiteCheckFinished(command_id=each) for each in state.checks),
            said.SiteRemoved(site=m.site),
        ),
        answers=tuple(refused_by(each, gone, stream=site_stream(m.site)) for each in state.checks),
        cancel_timers=tuple(inspection_timer(each) for each in state.checks),
    )


def site_inspected(state: Site, received: Received) -> Decision:
    """The platform's answer to whoever asked: a registration or a check."""
    m: said.SiteInspected = received.body
    timer = (inspection_timer(m.request),)
    checked = said.SiteChecked(site=m.site, ok=m.problem is None, facts=m.facts, problem=m.problem)
    details = {"facts": m.facts}
    if state.pending is not None and state.pending.command_id == m.request:
        if m.problem is not None:
            return _not_added(state.pending, m.problem)
        ref = state.pending.site
        added = said.SiteAdded(
            site=ref.site,
            platform=ref.platform,
            settings=ref.settings,
            credentials=ref.credentials,
        )
        answer = done(m.request, stream=site_stream(m.site), details=details)
        return Decision(events=(added, checked), answers=(answer,), cancel_timers=timer)
    if m.request not in state.checks:
        return NOTHING
    answer = done(m.request, stream=site_stream(m.site), details=details)
    if m.problem is not None:
        answer = refused_by(m.request, m.problem, stream=site_stream(m.site))
    finished = said.SiteCheckFinished(command_id=m.request)
    sends: tuple[Send, ...] = ()
    if state.quarantined and m.problem is None:
        # It is back: who watches for that need not wait for the next beat.
        sends = (Send(to="recovery", key=m.site, message=LookAtLostSite(site=m.site)),)
    return Decision(
        events=(checked, finished), answers=(answer,), cancel_timers=timer, sends=sends
    )


def inspection_overdue(state: Site, received: Received) -> Decision:
    """Nobody answered for the platform: say so rather than wait for ever."""
    m: said.InspectionDue = received.body
    if state.pending is not None and state.pending.command_id == m.request:
        site = state.pending.site.site
        return _not_added(state.pending, no_answer(site, INSPECTION_MAX_S))
    if m.request not in state.checks or state.ref is None:
        return NOTHING
    problem = no_answer(state.ref.site, INSPECTION_MAX_S)
    answer = refused_by(m.request, problem, stream=site_stream(state.ref.site))
    return Decision(events=(said.SiteCheckFinished(command_id=m.request),), answers=(answer,))


def standing_site(state: Site, site: str) -> said.SiteRef:
    """The site; refuses where there is none."""
    if state.ref is None:
        raise Refused(
            f"no site is named {site!r}",
            code="unknown-site",
            remedy="`seawall site list` shows the sites there are; `seawall site add` adds one",
        )
    return state.ref


def watched_no_more(site: str) -> Send:
    """To whoever watches for the return of a quarantined site: that is over."""
    return Send(to="recovery", key=site, message=SiteReleased(site=site))


def inspection_timer(request: str) -> str:
    """The timer's name for a request."""
    return f"inspection-{request}"


def _not_added(pending: Registration, problem: Problem) -> Decision:
    request = pending.command_id
    return Decision(
        events=(said.SiteRegistrationRefused(command_id=request, problem=problem),),
        answers=(refused_by(request, problem, stream=site_stream(pending.site.site)),),
        cancel_timers=(inspection_timer(request),),
    )


def _inspect(
    asked: Any, ref: said.SiteRef, *, request: str, now: dt.datetime, list_owned: bool = False
) -> Decision:
    stream = site_stream(ref.site)
    message = InspectSite(request=request, site=ref, for_stream=stream, list_owned=list_owned)
    overdue = Timer(
        name=inspection_timer(request),
        due=now + dt.timedelta(seconds=INSPECTION_MAX_S),
        message=said.InspectionDue(request=request),
    )
    return Decision(
        events=(asked,),
        sends=(Send(to="replicator", key=ref.site, message=message),),
        timers=(overdue,),
        defer=True,
    )


def _same(ref: said.SiteRef, m: said.AddSite) -> bool:
    return (ref.platform, ref.settings, ref.credentials) == (
        m.platform,
        m.settings,
        m.credentials,
    )


def _check_wording(m: said.AddSite) -> None:
    try:
        name()(m.site)
    except Mismatch:
        raise Refused(
            f"{m.site!r} cannot name a site", code="invalid", remedy=f"give it {NAME_ALLOWED}"
        ) from None
    if m.platform not in PLATFORMS:
        raise Refused(
            f"platform {m.platform!r} is not known",
            code="invalid",
            remedy=f"this version has the platform {PLATFORMS[0]}",
        )


def evolve(state: Site, event: Any) -> Site:
    """Apply a fact of the stream, in place."""
    _APPLY[type(event)](state, event)
    return state


def _requested(state: Site, event: said.SiteRegistrationRequested) -> None:
    ref = said.SiteRef(
        site=event.site,
        platform=event.platform,
        settings=event.settings,
        credentials=event.credentials,
    )
    state.pending = Registration(command_id=event.command_id, site=ref)


def _refused(state: Site, event: said.SiteRegistrationRefused) -> None:
    state.pending = None


def _added(state: Site, event: said.SiteAdded) -> None:
    state.pending = None
    state.ref = said.SiteRef(
        site=event.site,
        platform=event.platform,
        settings=event.settings,
        credentials=event.credentials,
    )


def _checked(state: Site, event: said.SiteChecked) -> None:
    """What the platform said is for people; no decision rests on it."""


def _check_requested(state: Site, event: said.SiteCheckRequested) -> None:
    state.checks = (*state.checks, event.command_id)


def _check_finished(state: Site, event: said.SiteCheckFinished) -> None:
    state.checks = tuple(each for each in state.checks if each != event.command_id)


def _removed(state: Site, event: said.SiteRemoved) -> None:
    state.ref = None
    state.quarantined = False
    state.originals = None


def _plan_added(state: Site, event: said.SitePlanAdded) -> None:
    state.plans = (*state.plans, event.plan)


def _plan_removed(state: Site, event: said.SitePlanRemoved) -> None:
    state.plans = tuple(plan for plan in state.plans if plan != event.plan)
    state.loads = {plan: load for plan, load in state.loads.items() if plan != event.plan}


def _quarantined(state: Site, event: said_ops.SiteQuarantined) -> None:
    state.quarantined = True


def _quarantine_ended(state: Site, event: said_ops.SiteQuarantineEnded) -> None:
    state.quarantined = False
    state.originals = None


def _originals_found(state: Site, event: said_ops.SiteOriginalsFound) -> None:
    state.originals = event


def _load_changed(state: Site, event: said.SiteLoadChanged) -> None:
    state.loads = {**state.loads, event.plan: event.load}


_APPLY: Final[dict[type, Callable[[Site, Any], None]]] = {
    said.SiteRegistrationRequested: _requested,
    said.SiteRegistrationRefused: _refused,
    said.SiteAdded: _added,
    said.SiteChecked: _checked,
    said.SiteCheckRequested: _check_requested,
    said.SiteCheckFinished: _check_finished,
    said.SiteRemoved: _removed,
    said.SitePlanAdded: _plan_added,
    said.SitePlanRemoved: _plan_removed,
    said.SiteLoadChanged: _load_changed,
    said_ops.SiteQuarantined: _quarantined,
    said_ops.SiteQuarantineEnded: _quarantine_ended,
    said_ops.SiteOriginalsFound: _originals_found,
}

FAMILY = Family(
    name="site",
    state=Site,
    initial=Site,
    evolve=evolve,
    # A removed site's name may be used again: the stream never ends.
    is_terminal=lambda state: False,
    schema=3,
)
