"""Applying a plan: ask its sites, wait for both, then apply in one step or refuse.

A process of the plan's stream. ApplyPlan records what is asked and sends two inspections; when the
second answer is in, the scheduler sends itself FinishApplication, under the id of the ApplyPlan.
That step reserves the VMs' names together with the new version: nothing is reserved early, so a
refused application leaves nothing behind, and VMs found by a glob are reserved like written ones.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from schemas import scheduler as said
from schemas.common import CommandSettled, Problem
from schemas.definitions import resolve
from schemas.documents import Mismatch
from schemas.envelope import Received
from schemas.plans import PlanDefinition, VmDefinition
from schemas.replicator import InspectSite
from schemas.rules import name
from services.scheduler.domain.answers import no_answer, refused_by
from services.scheduler.domain.membership import apply_members, header_of
from services.scheduler.domain.names import (
    plan_stream,
    site_stream,
    vm_reservation,
    vm_streams,
)
from services.scheduler.domain.plan import Application, Plan, check_version
from services.scheduler.domain.prerequisites import check_after, plans_named
from services.scheduler.domain.site import INSPECTION_MAX_S, Site
from shared.decider import NOTHING, Decision, Send, Timer
from shared.errors import Refused

APPLICATION_TIMER: Final = "application"
EVENT_BYTES_FILLED: Final = 56 * 1024
"""How full an event of VM definitions gets; the engine's bound is 64 KiB."""

ROSTER_BYTES_MAX: Final = 63 * 1024
"""The longest message about all VMs of a plan (a recovery's roster) stays below 64 KiB."""

_MEMBER_BYTES: Final = 7
_MESSAGE_CHARS_MAX: Final = 4_000


def request(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """ApplyPlan: check what can be checked at once, then ask both sites."""
    m: said.ApplyPlan = received.body
    definition = m.definition
    stream = plan_stream(definition.name)
    state: Plan = states[stream]
    pending = state.pending
    if pending is not None and pending.command_id == m.command_id:
        return {stream: Decision(defer=True)}
    _check_wording(definition)
    check_version(state, definition.name, m.expected_version)
    _check_free(pending, received.at)
    refs = _sites(states, definition)
    check_size(header_of(definition, refs), definition.vms)
    inspections = (
        InspectSite(
            request=m.command_id,
            site=refs[0],
            for_stream=stream,
            vms=tuple(vm.name for vm in definition.vms),
            match=definition.select,
        ),
        InspectSite(request=m.command_id, site=refs[1], for_stream=stream),
    )
    decision = Decision(
        events=tuple(_requested(m, received.at)),
        sends=tuple(Send(to="replicator", key=s.site.site, message=s) for s in inspections),
        timers=(
            Timer(
                name=APPLICATION_TIMER,
                due=received.at + dt.timedelta(seconds=INSPECTION_MAX_S),
                message=said.InspectionDue(request=m.command_id),
            ),
        ),
        answers=_replaced(pending, stream),
        defer=True,
    )
    return {stream: decision}


def site_answered(state: Plan, received: Received) -> Decision:
    """One site's answer; the second one finishes the application or refuses it."""
    m: said.SiteInspected = received.body
    pending = state.pending
    if pending is None or pending.command_id != m.request or m.site not in pending.waiting:
        return NOTHING
    problems = m.vm_problems if m.problem is None else (m.problem, *m.vm_problems)
    selects = pending.definition.select is not None and m.site == pending.definition.protected_site
    answer = said.PlanSiteInspected(
        command_id=m.request,
        site=m.site,
        vms=m.vms if selects else (),
        problems=problems,
        disks=m.disks,
        limits=m.limits,
    )
    if len(pending.waiting) > 1:
        return Decision(events=(answer,))
    stream = plan_stream(pending.definition.name)
    found = pending.problems + problems
    if found:
        return _refuse(m.request, found, stream=stream, events=(answer,))
    finish = said.FinishApplication(command_id=m.request, plan=pending.definition.name)
    return Decision(
        events=(answer,), sends=(Send(to="scheduler", key=finish.plan, message=finish),)
    )


def overdue(state: Plan, received: Received) -> Decision:
    """An application took too long. One whose sites all answered has its own answer."""
    m: said.InspectionDue = received.body
    pending = state.pending
    if pending is None or pending.command_id != m.request:
        return NOTHING
    stream = plan_stream(pending.definition.name)
    if pending.waiting:
        problems = tuple(no_answer(site, INSPECTION_MAX_S) for site in pending.waiting)
        return _refuse(m.request, pending.problems + problems, stream=stream)
    problem = Problem(code="name-taken", message="the plan was not applied")
    return Decision(events=(said.PlanApplicationRefused(command_id=m.request, problem=problem),))


def streams_to_finish(states: Mapping[str, Any], received: Received) -> tuple[str, ...]:
    """The sites and VMs, old and new, of the application that is to be finished."""
    m: said.FinishApplication = received.body
    state: Plan = states[plan_stream(m.plan)]
    if state.pending is None or state.pending.command_id != m.command_id:
        return ()
    definition = state.pending.definition
    sites = {definition.protected_site, definition.recovery_site}
    if state.header is not None:
        sites |= {state.header.protected.site, state.header.recovery_site.site}
    members = _resolved(state.pending).vms
    vms = dict.fromkeys((*state.vms, *(vm.name for vm in members)))
    return (*map(site_stream, sorted(sites)), *vm_streams(m.plan, vms))


def plans_to_follow(states: Mapping[str, Any], received: Received) -> tuple[str, ...]:
    """The plans that the application comes after, and theirs in turn."""
    m: said.FinishApplication = received.body
    state: Plan = states[plan_stream(m.plan)]
    if state.pending is None or not state.pending.definition.after:
        return ()
    first = map(plan_stream, state.pending.definition.after)
    return tuple(dict.fromkeys((*first, *plans_named(states))))


def finish(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Apply the plan in one step over its stream, its sites' and its VMs'.

    A VM that another plan protects stops the step at its reservation, and with it everything.
    """
    m: said.FinishApplication = received.body
    stream = plan_stream(m.plan)
    state: Plan = states[stream]
    pending = state.pending
    if pending is None or pending.command_id != m.command_id:
        raise Refused(
            f"another application of plan {m.plan!r} took the place of this one",
            code="busy",
            remedy="look at the plan as it stands, then apply again",
        )
    try:
        refs = _sites(states, pending.definition)
        check_after(states, pending.definition)
        definition = _resolved(pending)
        check_size(header_of(definition, refs), definition.vms)
        return apply_members(states, definition, refs, pending=pending, now=received.at)
    except Refused as refused:
        problem = Problem(code=refused.code, message=refused.message, remedy=refused.remedy)
        decision = _refuse(m.command_id, (problem,), stream=stream)
        return {stream: msgspec.structs.replace(decision, defer=True)}


def names_due(state: Plan, received: Received) -> Decision:
    """Give back what a dry run reserved, but for what the plan protects by now."""
    m: said.NamesDue = received.body
    ours: set[str] = set()
    if state.header is not None and state.header.protected.site == m.site:
        ours = set(state.vms)
    return Decision(release=tuple(vm_reservation(m.site, vm) for vm in m.vms if vm not in ours))


def check_size(header: said.PlanHeader, vms: Sequence[VmDefinition]) -> None:
    """Refuse a plan whose roster would not fit into one message."""
    header_bytes = len(msgspec.json.encode(header))
    roster = sum(
        len(vm.name) + len(str(vm.boot_order)) + len(str(float(vm.boot_delay_s))) + _MEMBER_BYTES
        for vm in vms
    )
    if header_bytes + roster <= ROSTER_BYTES_MAX:
        return
    raise Refused(
        f"a plan of {len(vms)} VMs with these names is too large for one message "
        f"({header_bytes + roster} bytes)",
        code="invalid",
        remedy="split it into several plans; 2,000 VMs with names of 20 letters fit",
    )


def _requested(m: said.ApplyPlan, now: dt.datetime) -> Iterator[Any]:
    """The request, its VMs spread over as many events as they need."""
    parts = list(_parts(m.definition.vms))
    yield said.PlanApplicationRequested(
        command_id=m.command_id,
        definition=msgspec.structs.replace(m.definition, vms=parts[0]),
        expected_version=m.expected_version,
        dry_run=m.dry_run,
        requested_at=now,
        over_capacity=m.over_capacity,
    )
    for vms in parts[1:]:
        yield said.PlanApplicationVms(vms=vms)


def _parts(vms: Sequence[VmDefinition]) -> Iterator[tuple[VmDefinition, ...]]:
    part: list[VmDefinition] = []
    # The first event also holds the rest of the definition.
    filled = EVENT_BYTES_FILLED // 2
    for vm in vms:
        size = len(msgspec.json.encode(vm)) + 1
        if part and filled + size > EVENT_BYTES_FILLED:
            yield tuple(part)
            part, filled = [], 0
        part.append(vm)
        filled += size
    yield tuple(part)


def _resolved(pending: Application) -> PlanDefinition:
    """The definition with the VMs it means: those written, and those its glob selects."""
    definition = pending.definition
    if definition.select is None:
        return definition
    return msgspec.structs.replace(definition, vms=resolve(definition, pending.inventory).vms)


def _check_wording(definition: PlanDefinition) -> None:
    try:
        name()(definition.name)
    except Mismatch:
        raise Refused(f"{definition.name!r} cannot name a plan", code="invalid") from None
    if definition.protected_site == definition.recovery_site:
        raise Refused(
            f"plan {definition.name!r} names {definition.recovery_site!r} for both sites",
            code="invalid",
            remedy="give it another recovery_site than protected_site",
        )


def _check_free(pending: Application | None, now: dt.datetime) -> None:
    """One application at a time; one whose sites answered is decided or refused already."""
    if pending is None or not pending.waiting:
        return
    if now - pending.requested_at < dt.timedelta(seconds=INSPECTION_MAX_S):
        raise Refused(
            f"plan {pending.definition.name!r} is being applied right now",
            code="busy",
            remedy="wait until that is decided",
        )


def _replaced(pending: Application | None, stream: str) -> tuple[CommandSettled, ...]:
    if pending is None or not pending.waiting:
        return ()
    problem = Problem(code="busy", message="a newer application took the place of this one")
    return (refused_by(pending.command_id, problem, stream=stream),)


def _sites(
    states: Mapping[str, Any], definition: PlanDefinition
) -> tuple[said.SiteRef, said.SiteRef]:
    found = []
    for role in ("protected_site", "recovery_site"):
        site = getattr(definition, role)
        state: Site = states[site_stream(site)]
        if state.ref is None:
            raise Refused(
                f"{role}: no site is named {site!r}",
                code="invalid",
                remedy="`seawall site list` shows the sites there are",
            )
        found.append(state.ref)
    return found[0], found[1]


def _refuse(
    request_id: str, problems: tuple[Problem, ...], *, stream: str, events: tuple[Any, ...] = ()
) -> Decision:
    """Refuse with every problem named; a site's own problem gives its code."""
    if len(problems) == 1:
        whole = problems[0]
    else:
        whole = Problem(
            code=problems[0].code if problems[0].code == "site-unreachable" else "invalid",
            message="; ".join(each.message for each in problems)[:_MESSAGE_CHARS_MAX],
            remedy=problems[0].remedy,
        )
    details = {"problems": [msgspec.to_builtins(each) for each in problems[:100]]}
    return Decision(
        events=(*events, said.PlanApplicationRefused(command_id=request_id, problem=whole)),
        answers=(refused_by(request_id, whole, stream=stream, details=details),),
        cancel_timers=(APPLICATION_TIMER,),
    )
