"""Quarantine: a site whose VMs a failover gave up unreached replicates nothing until answered.

The originals there may run again any moment, beside the instances that took their place. The site
is marked once; each plan that uses it, in either role, is told by a message and stops. The
recovery service, which calls platforms, watches for its return and says what runs there. Ended by
a person's word for the site, by two where originals run; replication is then started plan by plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from schemas import scheduler as said
from schemas import scheduler_operations as said_ops
from schemas.envelope import Received
from schemas.lost_sites import OriginalsFound, WatchLostSite
from schemas.units import some_of
from services.scheduler.domain.membership import cancel_running, drop_queued
from services.scheduler.domain.names import plan_stream, recovery_of, vm_stream
from services.scheduler.domain.plan import Plan
from services.scheduler.domain.protected_vm import ProtectedVm, blocker
from services.scheduler.domain.site import Site, standing_site, watched_no_more
from services.scheduler.domain.ticks import TICK_TIMER, check_timer
from shared.decider import NOTHING, Decision, Send, Timer
from shared.errors import Refused

NAMED_MAX: Final = 10
"""Originals that a refusal names."""


def site_lost(state: Site, received: Received) -> Decision:
    """A failover gave VMs of the site up without having reached it."""
    m: said.SiteLost = received.body
    if state.ref is None:
        return NOTHING
    watch = WatchLostSite(site=state.ref, plan=m.plan, recovery=m.job)
    sends: tuple[Send, ...] = (Send(to="recovery", key=m.site, message=watch),)
    if state.quarantined:
        return Decision(sends=sends)
    event = said_ops.SiteQuarantined(site=m.site, plan=m.plan, job=m.job)
    sends += tuple(
        Send(
            to="scheduler",
            key=plan,
            message=said.QuarantinePlan(plan=plan, site=m.site, job=m.job),
        )
        for plan in state.plans
    )
    return Decision(events=(event,), sends=sends)


def originals_found(state: Site, received: Received) -> Decision:
    """The site answered somebody who looked, and this is what runs there."""
    m: OriginalsFound = received.body
    if not state.quarantined:
        return NOTHING
    event = said_ops.SiteOriginalsFound(
        site=m.site, running=m.running, doubled=m.doubled, vms=m.vms
    )
    return NOTHING if event == state.originals else Decision(events=(event,))


def release_site(state: Site, received: Received) -> Decision:
    """A person looked at the site.

    Raises Refused `unknown-site`, `not-quarantined`, `confirm`, and `originals-running` where
    some were seen to run and the second word is missing.
    """
    m: said.ReleaseSite = received.body
    standing_site(state, m.site)
    if not state.quarantined:
        raise Refused(f"site {m.site!r} is not quarantined", code="not-quarantined")
    if m.confirm != m.site:
        raise Refused(
            f"originals of failed-over VMs that run at {m.site!r} would run beside their "
            f"recovered instances, and would be replicated again; {_seen(state)}",
            code="confirm",
            remedy=f"make sure that they are off, then type the site's name: --confirm {m.site}",
        )
    if state.originals is not None and state.originals.running and not m.originals_running:
        raise Refused(
            f"{_seen(state)}; released, they go on running",
            code="originals-running",
            remedy=f"`seawall site power-off {m.site} --confirm {m.site}` first; where they are "
            "to go on running, give your word for that too: --originals-running",
        )
    sends = tuple(
        Send(to="scheduler", key=plan, message=said.EndPlanQuarantine(plan=plan, site=m.site))
        for plan in state.plans
    )
    ended = said_ops.SiteQuarantineEnded(site=m.site)
    return Decision(events=(ended,), sends=(*sends, watched_no_more(m.site)))


def _seen(state: Site) -> str:
    """What is known of the originals, in words."""
    found = state.originals
    if found is None:
        return "the site has not answered since, so whether any runs is not known"
    if not found.running:
        return "when the site last answered, none of them ran"
    beside = f", {found.doubled} of them BESIDE their recovered instances" if found.doubled else ""
    named = some_of(found.vms, NAMED_MAX)
    return f"{found.running} original(s) were seen to run there ({named}){beside}"


def quarantine_plan(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """One of the plan's sites is quarantined: its replication stops, what runs is cancelled.

    An application may have heard of it first: the plan is marked then, and stops here.
    """
    m: said.QuarantinePlan = received.body
    stream = plan_stream(m.plan)
    plan: Plan = states[stream]
    header = plan.header
    if header is None or m.site not in (header.protected.site, header.recovery_site.site):
        return {}
    checks: list[Timer] = []
    decisions: dict[str, Decision] = {}
    for vm in plan.vms:
        state: ProtectedVm = states[vm_stream(m.plan, vm)]
        if state.queued_run and not recovery_of(state.queued_run):
            checks.append(check_timer(state.queued_run, received.at))
        decisions[vm_stream(m.plan, vm)] = _stop(state, m.plan, vm)
    events: tuple[said_ops.PlanQuarantined, ...] = ()
    if m.site not in plan.quarantined:
        events = (said_ops.PlanQuarantined(plan=m.plan, site=m.site, job=m.job),)
    return {stream: Decision(events=events, timers=tuple(checks)), **decisions}


def end_plan_quarantine(state: Plan, received: Received) -> Decision:
    """The site may be used again; the plan's replication is started by hand."""
    m: said.EndPlanQuarantine = received.body
    if m.site not in state.quarantined:
        return NOTHING
    return Decision(events=(said_ops.PlanQuarantineEnded(plan=m.plan, site=m.site),))


def _stop(state: ProtectedVm, plan: str, vm: str) -> Decision:
    """Replication is off. The last sync of a source that was reached and is off is no part of it:
    one that runs goes on, one that waits for an iteration comes when that has ended."""
    waiting = _last_sync_waiting(state)
    sends = () if waiting else drop_queued(state, plan, vm)
    if not recovery_of(state.run):
        sends += cancel_running(state, plan, reason="its site is quarantined")
    if not state.on and (waiting or state.queued_at is None):
        return Decision(sends=sends)
    # A stop lets go of whatever waits: what is still to come is queued again.
    events = (said.VmStopped(), *waiting)
    return Decision(events=events, sends=sends, cancel_timers=(TICK_TIMER,))


def _last_sync_waiting(state: ProtectedVm) -> tuple[said.TickQueued, ...]:
    """The last sync of a recovery that waits for its turn, as it was queued."""
    if state.queued_at is None or not recovery_of(state.queued_run):
        return ()
    queued = said.TickQueued(
        tick_at=state.queued_at,
        behind=blocker(state),
        run=state.queued_run,
        gated=state.queued_gated,
    )
    return (queued,)
