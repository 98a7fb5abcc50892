"""What a new version of a plan means for its VMs: who joins, who changes, who leaves.

Pure; called with the states of the plan, its sites and its VMs, old and new, and answers for all
of them in one step. Deleting a plan is the step in which everybody leaves.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from schemas import scheduler as said
from schemas.common import CommandSettled, Problem
from schemas.definitions import canonical, describe_change, diff
from schemas.directions import FreeInstances
from schemas.envelope import Received
from schemas.operations import LastSyncEnded
from schemas.plans import PlanDefinition, VmDefinition
from schemas.replicator import CancelIteration, RunMemberEnded
from services.scheduler.domain import capacity
from services.scheduler.domain.answers import done, refused_by
from services.scheduler.domain.checkpoints import CHECKPOINT_TIMER, policy_timers
from services.scheduler.domain.grid import grid_for, next_tick
from services.scheduler.domain.moves import (
    check_new_sites,
    check_sites_kept,
    ended_quarantines,
    quarantine_changes,
)
from services.scheduler.domain.names import (
    plan_stream,
    recovery_of,
    site_stream,
    vm_reservation,
    vm_stream,
    vm_streams,
)
from services.scheduler.domain.patience import NotYet
from services.scheduler.domain.plan import (
    Application,
    Plan,
    all_vm_streams,
    holding_jobs,
    standing,
    with_priority,
)
from services.scheduler.domain.protected_vm import ProtectedVm, same_grid
from services.scheduler.domain.rpo import RPO_TIMER, judge_rpo
from services.scheduler.domain.site import Site
from services.scheduler.domain.ticks import TICK_TIMER, check_timer, tick_timer
from shared.decider import NEW_STORY, Decision, Send, Timer
from shared.errors import Refused

CHANGES_BYTES_MAX: Final = 32 * 1024
"""How much of a diff an answer carries."""

Sites = tuple[said.SiteRef, said.SiteRef]


def header_of(definition: PlanDefinition, refs: Sites) -> said.PlanHeader:
    """A plan without its VMs."""
    return said.PlanHeader(
        name=definition.name,
        protected=refs[0],
        recovery_site=refs[1],
        replication=definition.replication,
        checkpoints=definition.checkpoints,
        targets=definition.targets,
        recovery=definition.recovery,
        select=definition.select,
        after=definition.after,
    )


def apply_members(
    states: Mapping[str, Any],
    definition: PlanDefinition,
    refs: Sites,
    *,
    pending: Application,
    now: dt.datetime,
) -> dict[str, Decision]:
    """Decide an application whose sites have answered; `definition` holds all its VMs."""
    stream = plan_stream(definition.name)
    plan: Plan = states[stream]
    if not definition.vms:
        raise Refused(
            f"no VM at site {definition.protected_site!r} matches {definition.select!r}",
            code="invalid",
            remedy="check the pattern against the VMs of the site",
        )
    check_new_sites(states, plan, definition)
    old = _stands(states, plan)
    digest = hashlib.sha256(canonical(definition)).hexdigest()
    changes = _changes(old, definition)
    unchanged = plan.header is not None and plan.digest == digest
    new_names = _new_names(plan, definition)
    loads = capacity.loads_of(definition, disks=pending.disks)
    fits = _fits(states, definition, loads, pending, unchanged=unchanged)
    if unchanged or pending.dry_run:
        details = {"changes": changes, "version": plan.version, "unchanged": unchanged, **fits}
        told: dict[str, Decision] = {}
        if not pending.dry_run:
            told = _site_decisions(states, plan, header_of(definition, refs), loads)
        return told | {
            stream: Decision(
                events=(said.PlanUnchanged(command_id=pending.command_id),),
                answers=(done(pending.command_id, stream=stream, details=details),),
                cancel_timers=("application",),
                reserve=tuple(vm_reservation(definition.protected_site, vm) for vm in new_names),
                timers=_names_timer(definition.protected_site, new_names, now),
                defer=True,
            )
        }
    _check_held(plan, definition)
    check_sites_kept(states, plan, definition)
    header = header_of(definition, refs)
    version = plan.version + 1
    own = _plan_decision(plan, header, definition, pending, digest, now=now)
    names = {vm.name for vm in definition.vms}
    left = tuple(vm for vm in plan.vms if vm not in names)
    details = {"changes": changes, "version": version, "unchanged": False, **fits}
    own = msgspec.structs.replace(
        own,
        events=(*own.events, *quarantine_changes(states, plan, definition)),
        timers=(*own.timers, *_runs_left(states, definition.name, left, now=now)),
        answers=(done(pending.command_id, stream=stream, details=details),),
        defer=True,
    )
    decisions = {stream: own, **_site_decisions(states, plan, header, loads)}
    decisions |= _member_decisions(states, plan, header, definition.vms, version=version, now=now)
    return decisions


def delete_plan(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Stop protecting: everybody leaves, names are given back; copies and checkpoints stay."""
    m: said.DeletePlan = received.body
    stream = plan_stream(m.plan)
    plan: Plan = states[stream]
    header = standing(plan, m.plan, expected_version=m.expected_version)
    jobs = holding_jobs(plan)
    if jobs:
        raise NotYet(
            f"plan {m.plan!r} is held by {', '.join(jobs[:5])}",
            code="busy",
            remedy="let the job end and clean it up first",
        )
    site = header.protected.site
    answers: tuple[CommandSettled, ...] = ()
    if plan.pending is not None and plan.pending.waiting:
        gone = Problem(code="unknown-plan", message=f"plan {m.plan} was deleted meanwhile")
        answers = (refused_by(plan.pending.command_id, gone, stream=stream),)
    decisions = {
        stream: Decision(
            events=(said.PlanDeleted(plan=m.plan), *ended_quarantines(plan, m.plan)),
            timers=_runs_left(states, m.plan, plan.vms, now=received.at),
            cancel_timers=(TICK_TIMER, CHECKPOINT_TIMER, "retention", "application"),
            release=tuple(vm_reservation(site, vm) for vm in plan.vms),
            answers=answers,
        )
    }
    for used in (site, header.recovery_site.site):
        decisions[site_stream(used)] = Decision(events=(said.SitePlanRemoved(plan=m.plan),))
    for vm in plan.vms:
        key = vm_stream(m.plan, vm)
        decisions[key] = _leave(states[key], m.plan, vm)
    return decisions


def streams_to_delete(states: Mapping[str, Any], received: Received) -> tuple[str, ...]:
    """The sites and VMs of a plan that is to be deleted."""
    m: said.DeletePlan = received.body
    plan: Plan = states[plan_stream(m.plan)]
    if plan.header is None:
        return ()
    sites = {plan.header.protected.site, plan.header.recovery_site.site}
    return (*map(site_stream, sorted(sites)), *all_vm_streams(plan, m.plan))


def drop_queued(state: ProtectedVm, plan: str, vm: str) -> tuple[Send, ...]:
    """Tell a run that a member which waited for its turn will not come.

    A recovery that waits for its last sync hears it too: nobody else would tell it.
    """
    if not state.queued_run:
        return ()
    ended = RunMemberEnded(run=state.queued_run, vm=vm, state="cancelled")
    send = Send(to="replicator", key=plan, message=ended)
    job = recovery_of(state.queued_run)
    if not job:
        return (send,)
    problem = Problem(
        code="cancelled",
        message=f"the last sync of {vm} was cancelled before it began",
        remedy="it waited for an iteration that ran, and replication was stopped meanwhile",
    )
    told = LastSyncEnded(job=job, vm=vm, state="cancelled", problem=problem)
    return (send, Send(to="recovery", key=plan, message=told))


def cancel_running(state: ProtectedVm, plan: str, *, reason: str) -> tuple[Send, ...]:
    """Ask the running iteration to stop safely."""
    if not state.iteration:
        return ()
    cancel = CancelIteration(iteration=state.iteration, reason=reason)
    return (Send(to="replicator", key=plan, message=cancel),)


def _plan_decision(
    plan: Plan,
    header: said.PlanHeader,
    definition: PlanDefinition,
    pending: Application,
    digest: str,
    *,
    now: dt.datetime,
) -> Decision:
    names = tuple(vm.name for vm in definition.vms)
    before = plan.header
    replication = header.replication
    next_due_at = None
    cancelled = ["application"]
    timers: list[Timer] = []
    if not replication.synchronize:
        cancelled.append(TICK_TIMER)
    elif before is None or not same_grid(before.replication, replication):
        next_due_at = next_tick(grid_for(replication), now)
        timers.append(group_timer(next_due_at))
    applied = said.PlanApplied(
        plan=definition.name,
        plan_version=plan.version + 1,
        digest=digest,
        header=header,
        vms=names,
        next_due_at=next_due_at,
    )
    events: tuple[Any, ...] = (applied,)
    kept = _kept_priority(plan, header)
    if kept is not None:
        # Said again, so that whoever shows the new version shows it with the priority that holds.
        events += (said.PlanPrioritised(priority=kept),)
    more_timers, more_cancelled = policy_timers(plan, header, now=now)
    left = () if before is None else _left(plan, definition)
    old_site = "" if before is None else before.protected.site
    return Decision(
        events=events,
        timers=(*timers, *more_timers),
        cancel_timers=(*cancelled, *more_cancelled),
        reserve=tuple(
            vm_reservation(header.protected.site, vm) for vm in _new_names(plan, definition)
        ),
        release=tuple(vm_reservation(old_site, vm) for vm in left),
    )


def _kept_priority(plan: Plan, header: said.PlanHeader) -> int | None:
    """The operator's priority, which stands until the plan's document names another."""
    before = plan.header
    if before is None or before.replication.priority != header.replication.priority:
        return None
    return plan.priority


def group_timer(due: dt.datetime) -> Timer:
    """Look at the grid of a synchronized plan at `due`."""
    message = said.GroupTickDue(tick_at=due)
    return Timer(name=TICK_TIMER, due=due, message=message, story=NEW_STORY)


def _fits(
    states: Mapping[str, Any],
    definition: PlanDefinition,
    loads: Mapping[str, said.SiteLoad],
    pending: Application,
    *,
    unchanged: bool,
) -> dict[str, Any]:
    """How the plan fits its sites' limits. Refuses one that cannot hold its interval."""
    found: list[capacity.Use] = []
    for name, load in loads.items():
        site: Site = states[site_stream(name)]
        limits = pending.limits.get(name, ())
        found += capacity.uses(name, definition.name, load, limits=limits, loads=site.loads)
    problem = capacity.refusal(found)
    knowingly = pending.over_capacity or definition.replication.over_capacity
    if problem is not None and not (knowingly or unchanged):
        raise Refused(problem.message, code=problem.code, remedy=problem.remedy)
    return capacity.details(found)


def _site_decisions(
    states: Mapping[str, Any],
    plan: Plan,
    header: said.PlanHeader,
    loads: Mapping[str, said.SiteLoad],
) -> dict[str, Decision]:
    """Sites know which plans use them, and what for; only changes are said."""
    name = header.name
    old = set()
    if plan.header is not None:
        old = {plan.header.protected.site, plan.header.recovery_site.site}
    decisions = {}
    for site, load in sorted(loads.items()):
        state: Site = states[site_stream(site)]
        events: list[Any] = [] if site in old else [said.SitePlanAdded(plan=name)]
        if state.loads.get(name) != load:
            events.append(said.SiteLoadChanged(plan=name, load=load))
        if events:
            decisions[site_stream(site)] = Decision(events=tuple(events))
    for site in sorted(old - set(loads)):
        decisions[site_stream(site)] = Decision(events=(said.SitePlanRemoved(plan=name),))
    return decisions


def _member_decisions(
    states: Mapping[str, Any],
    plan: Plan,
    header: said.PlanHeader,
    vms: Sequence[VmDefinition],
    *,
    version: int,
    now: dt.datetime,
) -> dict[str, Decision]:
    name = header.name
    replication = with_priority(header.replication, _kept_priority(plan, header))
    members: list[ProtectedVm] = [states[key] for key in vm_streams(name, plan.vms)]
    # A VM that joins a plan which the operator stopped does not start by itself, nor does one
    # whose site is quarantined.
    sites = (header.protected.site, header.recovery_site.site)
    starts = not members or any(member.on for member in members)
    starts = starts and not any(states[site_stream(site)].quarantined for site in sites)
    decisions = {}
    for vm in vms:
        key = vm_stream(name, vm.name)
        state: ProtectedVm = states[key]
        joined = now
        if state.protected and state.setup is not None:
            joined = state.setup.protected_at or now
        wanted = said.VmProtected(
            plan=name,
            vm=vm.name,
            plan_version=version,
            definition=vm,
            protected=header.protected,
            recovery_site=header.recovery_site,
            replication=replication,
            rpo_s=header.targets.rpo_s,
            protected_at=joined,
        )
        if not state.protected:
            decisions[key] = _join(state, wanted, starts=starts, now=now)
        elif state.setup != _at_version(wanted, state.setup):
            decisions[key] = _change(state, wanted, now=now)
    names = {vm.name for vm in vms}
    for left in plan.vms:
        if left not in names:
            key = vm_stream(name, left)
            decisions[key] = _leave(states[key], name, left)
    return decisions


def _at_version(wanted: said.VmProtected, setup: said.VmProtected | None) -> said.VmProtected:
    """What would stand if nothing but the plan's version were new."""
    if setup is None:
        return wanted
    return msgspec.structs.replace(
        wanted, plan_version=setup.plan_version, last_checkpoint_at=setup.last_checkpoint_at
    )


def _join(
    state: ProtectedVm, wanted: said.VmProtected, *, starts: bool, now: dt.datetime
) -> Decision:
    """A VM joins, or comes back to its plan: its copy, if it has one there, still counts."""
    lost = _lost_copy(state, wanted)
    newest = None if lost else state.last_checkpoint_at
    breach, timers = judge_rpo(wanted, newest=newest, breached=False, now=now)
    joins = msgspec.structs.replace(wanted, last_checkpoint_at=newest)
    events: list[Any] = [joins, *lost, *breach]
    if starts:
        event, tick = _start(wanted, now)
        events.append(event)
        timers += tick
    return Decision(events=tuple(events), timers=timers)


def _change(state: ProtectedVm, wanted: said.VmProtected, *, now: dt.datetime) -> Decision:
    setup = state.setup
    assert setup is not None
    lost = _lost_copy(state, wanted)
    if lost and state.iteration:
        raise Refused(
            f"{state.iteration} still copies VM {wanted.vm!r} between the old sites",
            code="busy",
            remedy=f"`seawall plan stop {wanted.plan} --cancel`, then apply again",
        )
    newest = None if lost else state.last_checkpoint_at
    changed, timers = judge_rpo(wanted, newest=newest, breached=state.rpo_breached, now=now)
    if state.moved and not lost:
        # It runs elsewhere: there is no copy of it that could be too old.
        changed, timers = (), ()
    events: list[Any] = [wanted, *lost, *changed]
    cancelled = [] if timers else [RPO_TIMER]
    if state.on and not same_grid(setup.replication, wanted.replication):
        event, tick = _start(wanted, now)
        events.append(event)
        timers += tick
    if wanted.replication.synchronize:
        cancelled.append(TICK_TIMER)
    return Decision(events=tuple(events), timers=timers, cancel_timers=tuple(cancelled))


def _start(wanted: said.VmProtected, now: dt.datetime) -> tuple[said.VmStarted, tuple[Timer, ...]]:
    """The first tick after `now`; a synchronized plan has the timer for all its VMs."""
    due = next_tick(grid_for(wanted.replication, vm=wanted.vm), now)
    timers = () if wanted.replication.synchronize else (tick_timer(due),)
    return said.VmStarted(next_due_at=due), timers


def _lost_copy(state: ProtectedVm, wanted: said.VmProtected) -> tuple[said.VmReset, ...]:
    """A plan that changed sites has no copy of the VM there."""
    setup = state.setup
    if setup is None:
        return ()
    before = (setup.protected.site, setup.recovery_site.site)
    after = (wanted.protected.site, wanted.recovery_site.site)
    return () if before == after else (said.VmReset(lost=True),)


def _leave(state: ProtectedVm, plan: str, vm: str) -> Decision:
    return Decision(
        events=(said.VmReleased(plan=plan, vm=vm),),
        cancel_timers=(TICK_TIMER, RPO_TIMER),
        sends=(
            *drop_queued(state, plan, vm),
            *cancel_running(state, plan, reason="the VM left its plan"),
            *_let_go(state, plan, vm),
        ),
    )


def _runs_left(
    states: Mapping[str, Any], plan: str, vms: Sequence[str], *, now: dt.datetime
) -> tuple[Timer, ...]:
    """Looks at the runs in which leaving VMs waited for their turn: nothing else would end them
    where all their members leave, and ticks of a synchronized plan wait for all runs."""
    runs = dict.fromkeys(states[key].queued_run for key in vm_streams(plan, vms))
    return tuple(check_timer(run, now) for run in runs if run)


def _let_go(state: ProtectedVm, plan: str, vm: str) -> tuple[Send, ...]:
    """The recovery that made what the VM runs as hears that nothing is replicated from it now:
    whether it is still in production is for people to know."""
    if not state.direction.instance:
        return ()
    left = FreeInstances(recovery=state.direction.made_by, by=plan_stream(plan), vms=(vm,))
    return (Send(to="recovery", key=plan, message=left),)


def _check_held(plan: Plan, definition: PlanDefinition) -> None:
    """VMs that a recovery holds stay, and so do the plan's sites."""
    names = {vm.name for vm in definition.vms}
    before = plan.header
    moved = before is not None and (
        before.protected.site != definition.protected_site
        or before.recovery_site.site != definition.recovery_site
    )
    holding = {job: each.vms for job, each in plan.recoveries.items() if not each.released}
    holding |= {job: each.vms for job, each in plan.awaited.items()}
    for job, vms in holding.items():
        held = vms if moved else [vm for vm in vms if vm not in names]
        if held:
            raise Refused(
                f"VM {held[0]!r} is held by {job}",
                code="busy",
                remedy="let the job end and clean it up before the plan lets go of the VM",
            )


def _new_names(plan: Plan, definition: PlanDefinition) -> tuple[str, ...]:
    """VMs whose names the plan has not reserved yet."""
    ours: set[str] = set()
    if plan.header is not None and plan.header.protected.site == definition.protected_site:
        ours = set(plan.vms)
    return tuple(vm.name for vm in definition.vms if vm.name not in ours)


def _left(plan: Plan, definition: PlanDefinition) -> tuple[str, ...]:
    assert plan.header is not None
    if plan.header.protected.site != definition.protected_site:
        return plan.vms
    names = {vm.name for vm in definition.vms}
    return tuple(vm for vm in plan.vms if vm not in names)


def _names_timer(site: str, vms: tuple[str, ...], now: dt.datetime) -> tuple[Timer, ...]:
    if not vms:
        return ()
    return (Timer(name="names", due=now, message=said.NamesDue(site=site, vms=vms)),)


def _stands(states: Mapping[str, Any], plan: Plan) -> PlanDefinition | None:
    """The definition as it stands, put together again from the plan and its VMs."""
    header = plan.header
    if header is None:
        return None
    members: list[ProtectedVm] = [states[key] for key in vm_streams(header.name, plan.vms)]
    return PlanDefinition(
        name=header.name,
        protected_site=header.protected.site,
        recovery_site=header.recovery_site.site,
        replication=header.replication,
        checkpoints=header.checkpoints,
        targets=header.targets,
        recovery=header.recovery,
        select=header.select,
        vms=tuple(member.setup.definition for member in members if member.setup is not None),
        after=header.after,
    )


def _changes(old: PlanDefinition | None, new: PlanDefinition) -> list[str]:
    """One line per difference, as many as fit."""
    shown: list[str] = []
    room = CHANGES_BYTES_MAX
    changes = diff(old, new)
    for number, change in enumerate(changes):
        line = describe_change(change)
        room -= len(line) * 2
        if room < 0:
            return [*shown, f"… and {len(changes) - number} more"]
        shown.append(line)
    return shown
