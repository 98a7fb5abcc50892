"""The watcher of a quarantined site: is it back, and do VMs run there that a failover gave up?

Reconciler. Decides when to look and what of a look is news; it ends when the scheduler says that
the site is released. Powers nothing off (`site_power_off`) and releases nothing. A look without
news leaves no event: a site may be gone for months.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from schemas import lost_sites as said
from schemas.envelope import Received
from schemas.ids import stream_id
from schemas.scheduler import SiteRef
from services.recovery.domain.work import recovery_effect
from shared.decider import NOTHING, Decision, Effect, EffectOutcome, Family, Send, Timer
from shared.errors import Refused

LOOK_AGAIN_S: Final = 30.0
"""While the site answers: hosts that come back boot their VMs one after the other."""

SILENT_S_MAX: Final = 120.0
"""While it does not: the pause doubles from LOOK_AGAIN_S up to this, one call each. So long may
originals run before anybody is told, unless `seawall site check` was quicker."""

NAMED_MAX: Final = 100
"""Originals that one look names, of all recoveries together: its events stay below 64 KiB."""

TOLD_MAX: Final = 10
"""Originals that a refusal names, and that the scheduler is told by name."""

PRIORITY: Final = 5
"""Looking for what may be back never goes before bringing up."""

_TIMER: Final = "look"


class LostSite(msgspec.Struct, frozen=True, kw_only=True):
    """What is watched for: recoveries, with their plans; and what was found of each last.

    `chain` is one unbroken run of looks; only the newest counts. `powering_off` is the job that
    powers originals off now.
    """

    site: SiteRef | None = None
    recoveries: dict[str, str] = {}
    found: dict[str, said.Given] = {}
    chain: int = 0
    powering_off: str = ""


def lost_site_stream(site: str) -> str:
    """The stream of a quarantined site's watcher."""
    return stream_id("lost-site", site)


# ── Messages ─────────────────────────────────────────────────────────────────────────────────


def watch(state: LostSite, received: Received) -> Decision:
    """Watch for the VMs of one more recovery; the first one starts the looking."""
    m: said.WatchLostSite = received.body
    if m.recovery in state.recoveries:
        return NOTHING
    event = said.LostSiteWatched(site=m.site, plan=m.plan, recovery=m.recovery)
    if state.recoveries:
        return Decision(events=(event,))
    after = evolve(state, event)
    return Decision(events=(event,), timers=(_timer(after, received.at, silent=0),))


def look_now(state: LostSite, received: Received) -> Decision:
    """Look at once: the site answered somebody, or its originals were acted on."""
    return _look_at_once(state, (), received.at)


def look_due(state: LostSite, received: Received) -> Decision:
    """Look again, if the site is still watched."""
    m: said.LostSiteLookDue = received.body
    if not state.recoveries or m.chain != state.chain:
        return NOTHING
    return Decision(effects=(_look(state, received.at, silent=m.silent),))


def released(state: LostSite, received: Received) -> Decision:
    """A person answered: nothing is watched for any more."""
    if not state.recoveries:
        return NOTHING
    site = _site(state).site
    settled = tuple(
        said.OriginalsSettled(site=site, plan=plan, recovery=recovery)
        for recovery, plan in state.recoveries.items()
    )
    events = (*settled, said.LostSiteReleased(site=site))
    return Decision(events=events, cancel_timers=(_TIMER,))


def power_off_ended(state: LostSite, received: Received) -> Decision:
    """A power-off ended: what runs now is looked at, whatever it said."""
    m: said.PowerOffEnded = received.body
    if state.powering_off != m.job:
        return NOTHING
    return _look_at_once(state, (said.LostSitePoweredOff(job=m.job),), received.at)


def outcome(state: LostSite, received: Received) -> Decision:
    """A look ended: say what is news, and look again later."""
    ended: EffectOutcome = received.body
    chain, silent = _of_part(ended.part)
    if not state.recoveries or chain != state.chain:
        return NOTHING
    if not ended.ok:
        return Decision(timers=(_timer(state, received.at, silent=silent + 1),))
    listed: said.OriginalsListed = ended.result
    site = _site(state).site
    news = tuple(
        said.OriginalsSeen(site=site, at=ended.at, found=found)
        for found in listed.found
        if found.recovery in state.recoveries and _is_news(state, found)
    )
    sends: tuple[Send, ...] = ()
    if news:
        after = state
        for event in news:
            after = evolve(after, event)
        sends = (Send(to="scheduler", key=site, message=_told(after)),)
    return Decision(events=news, sends=sends, timers=(_timer(state, received.at, silent=0),))


# ── For the power-off ────────────────────────────────────────────────────────────────────────


def check_may_power_off(state: LostSite, m: said.PowerOffOriginals) -> SiteRef:
    """The site whose originals may be powered off. Raises Refused `not-quarantined`,
    `being-powered-off`, and `confirm`, which says what was found."""
    if state.site is None or not state.recoveries:
        raise Refused(
            f"site {m.site!r} is not quarantined: no failover gave up VMs that could not be "
            "reached there",
            code="not-quarantined",
            remedy="power VMs off at their own platform",
        )
    if state.powering_off:
        raise Refused(
            f"{state.powering_off} is powering originals off at {m.site!r}",
            code="being-powered-off",
            remedy=f"see `seawall job show {state.powering_off}`",
        )
    if m.confirm != m.site:
        raise Refused(
            f"powering off shuts down what a failover gave up at {m.site!r}: {in_words(state)}",
            code="confirm",
            remedy="type the site's name to go on: "
            f"`seawall site power-off {m.site} --confirm {m.site}`",
        )
    return state.site


def in_words(state: LostSite) -> str:
    """What was found at the site, for the person who must decide."""
    if not state.found:
        return "it has not answered yet, so what runs there is not known"
    originals = [each for found in state.found.values() for each in found.originals]
    running = sum(found.running for found in state.found.values())
    if not running:
        return "when it last answered, none of them ran"
    listed = "; ".join(said.in_words(each) for each in originals[:TOLD_MAX])
    more = running - min(len(originals), TOLD_MAX)
    return f"{listed}; and {more} more" if more > 0 else listed


# ── Looks ────────────────────────────────────────────────────────────────────────────────────


def _look_at_once(state: LostSite, before: tuple[Any, ...], now: dt.datetime) -> Decision:
    if not state.recoveries:
        return Decision(events=before)
    asked = said.LostSiteLookAsked(at=now)
    after = evolve(state, asked)
    # The look under way, if there is one, belongs to a chain that no longer counts.
    return Decision(
        events=(*before, asked), effects=(_look(after, now, silent=0),), cancel_timers=(_TIMER,)
    )


def _timer(state: LostSite, now: dt.datetime, *, silent: int) -> Timer:
    doublings = min(max(silent - 1, 0), 8)
    pause_s = min(LOOK_AGAIN_S * 2**doublings, SILENT_S_MAX)
    message = said.LostSiteLookDue(chain=state.chain, silent=silent)
    return Timer(name=_TIMER, due=now + dt.timedelta(seconds=pause_s), message=message)


def _look(state: LostSite, now: dt.datetime, *, silent: int) -> Effect:
    site = _site(state)
    return look_effect(
        f"look/{state.chain}/{silent}",
        site=site,
        job=lost_site_stream(site.site),
        recoveries=tuple(state.recoveries),
        count_max=NAMED_MAX,
        now=now,
        priority=PRIORITY,
        kind="look-at-lost-site",
    )


def look_effect(
    part: str,
    *,
    site: SiteRef,
    job: str,
    recoveries: tuple[str, ...],
    count_max: int,
    now: dt.datetime,
    priority: int,
    kind: str,
    vms: tuple[str, ...] = (),
) -> Effect:
    """A look at what runs of what the recoveries gave up; the kind says with which patience."""
    payload = said.LookAtOriginals(
        site=site, plan="", job=job, recoveries=recoveries, count_max=count_max, vms=vms
    )
    return recovery_effect(
        part, kind, payload, site=site.site, plan="", due=now, priority=priority
    )


def _of_part(part: str) -> tuple[int, int]:
    _, chain, silent = part.split("/")
    return int(chain), int(silent)


def _is_news(state: LostSite, found: said.Given) -> bool:
    before = state.found.get(found.recovery)
    return before is None or before.digest != found.digest


def _told(state: LostSite) -> said.OriginalsFound:
    found = state.found.values()
    names = [each.vm for given in found for each in given.originals]
    return said.OriginalsFound(
        site=_site(state).site,
        running=sum(given.running for given in found),
        doubled=sum(given.doubled for given in found),
        vms=tuple(names[:TOLD_MAX]),
    )


def _site(state: LostSite) -> SiteRef:
    assert state.site is not None, "a site that is watched is known"
    return state.site


# ── Folding ──────────────────────────────────────────────────────────────────────────────────


def evolve(state: LostSite, event: Any) -> LostSite:
    """Apply one fact."""
    replace = msgspec.structs.replace
    match event:
        case said.LostSiteWatched():
            chain = state.chain if state.recoveries else state.chain + 1
            recoveries = {**state.recoveries, event.recovery: event.plan}
            return replace(state, site=event.site, recoveries=recoveries, chain=chain)
        case said.LostSiteLookAsked():
            return replace(state, chain=state.chain + 1)
        case said.OriginalsSeen():
            # Names beyond those that are told need not be carried in every snapshot.
            few = replace(event.found, originals=event.found.originals[:TOLD_MAX])
            return replace(state, found={**state.found, event.found.recovery: few})
        case said.OriginalsSettled():
            return replace(state, **_without(state, event.recovery))
        case said.LostSiteReleased():
            return LostSite(chain=state.chain, powering_off=state.powering_off)
        case said.LostSitePoweringOff():
            return replace(state, powering_off=event.job)
        case said.LostSitePoweredOff():
            return replace(state, powering_off="")
    raise AssertionError(f"{type(event).__name__} is no event of a quarantined site's watcher")


def _without(state: LostSite, recovery: str) -> Mapping[str, Any]:
    return {
        "recoveries": {r: plan for r, plan in state.recoveries.items() if r != recovery},
        "found": {r: found for r, found in state.found.items() if r != recovery},
    }


FAMILY = Family(
    name="lost-site",
    state=LostSite,
    initial=LostSite,
    evolve=evolve,
    # A site may be lost again, as often as it likes.
    is_terminal=lambda state: False,
    outcome=outcome,
)
