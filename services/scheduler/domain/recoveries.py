"""Recoveries as the scheduler sees them: may it start, who holds what, what it gives back.

Takes all holds or none in one step, and sends the recovery service everything it needs. What full
recoveries add is in `full_recoveries`; steps of a recovery are the recovery service's.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

import msgspec

from schemas import scheduler as said
from schemas.common import HoldMode, Problem
from schemas.directions import NameSources, in_parts, is_reverse
from schemas.envelope import Received
from schemas.recovery import EnrolVm, Member, StartRecovery
from services.scheduler.domain import full_recoveries
from services.scheduler.domain.answers import done
from services.scheduler.domain.checkpoints import tidy
from services.scheduler.domain.copies import check_copies
from services.scheduler.domain.direction import (
    common,
    homeward,
    oriented,
    reversal_ended,
    sources_of,
    start_message,
)
from services.scheduler.domain.holds import MODES, excluding_job, without
from services.scheduler.domain.moves import check_quarantine
from services.scheduler.domain.names import plan_stream, vm_stream, vm_streams
from services.scheduler.domain.patience import NotYet, asked_at
from services.scheduler.domain.plan import Plan, chosen_vms, standing
from services.scheduler.domain.protected_vm import ProtectedVm, copy_taken_by
from services.scheduler.domain.skipping import check_skipped
from services.scheduler.domain.ticks import check_timer, start_queued
from shared.decider import NOTHING, Decision, Send, Timer
from shared.errors import Refused


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A recovery as it was asked for: the command, when it was given, by whom."""

    command: said.Recover
    at: dt.datetime
    actor: str


def recover(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Start a recovery: every VM has a copy, no hold excludes it, then all in one step.

    A dry run checks the same but for holds: it touches nothing. `NotYet` where a job that goes on
    is in the way. A full recovery without a last sync waits for iterations, which it cancels.
    """
    m: said.Recover = received.body
    plan: Plan = states[plan_stream(m.plan)]
    header = standing(plan, m.plan, expected_version=m.expected_version)
    vms = chosen_vms(plan, m.plan, m.vms)
    if m.job in plan.recoveries or m.job in plan.awaited:
        return {}
    members: dict[str, ProtectedVm] = {vm: states[vm_stream(m.plan, vm)] for vm in vms}
    full_recoveries.check(m, members)
    check_skipped(m.skip_scripts, header, members)
    reverse = _way(plan, m, members)
    check_copies(plan, m, members)
    asked = _Asked(command=m, at=asked_at(received), actor=received.meta.actor)
    if not m.dry_run:
        _check_holds(plan, m, members)
        if full_recoveries.must_wait(m, members):
            return full_recoveries.wait(m, members, received, asked_at=asked.at)
    return _begin(plan, oriented(header, reverse=reverse), members, asked)


def _way(plan: Plan, m: said.Recover, members: Mapping[str, ProtectedVm]) -> bool:
    """Whether the recovery reads copies of the reverse direction.

    A checkpoint stays where it was made. One of the other direction may be tested there; to bring
    VMs up from it for good is refused: their site would be both source and target.
    """
    if m.mode in ("reverse", "failback"):
        check_quarantine(plan, m.plan)
    reverse = common(members)
    entry = plan.checkpoints.get(m.checkpoint)
    if entry is None:
        return reverse
    of_checkpoint = {vm: is_reverse(entry.reverse, vm) for vm in members}
    ways = set(of_checkpoint.values())
    if ways == {reverse}:
        return reverse
    if m.mode == "test" and len(ways) == 1:
        return not reverse
    raise Refused(
        f"checkpoint {m.checkpoint!r} was made while its VMs were replicated the other way",
        code="other-direction",
        remedy="test it with --mode test where it is, or choose a newer one",
    )


def claim_due(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """A recovery waits for iterations to let its VMs go: start it, refuse it, or wait on.

    What it was granted on is asked again before anything is touched: copies may be lost meanwhile.
    """
    job: str = received.body.job
    stream = received.stream
    plan: Plan = states[stream]
    awaited = plan.awaited.get(job)
    if awaited is None or plan.header is None:
        return {}
    m = awaited.request
    members: dict[str, ProtectedVm] = {vm: states[vm_stream(m.plan, vm)] for vm in awaited.vms}
    if any(state.iteration for state in members.values()):
        if received.at < awaited.until:
            return {}
        return full_recoveries.give_up(plan, awaited, members, now=received.at)
    try:
        reverse = _way(plan, m, members)
        check_copies(plan, m, members)
    except Refused as refused:
        problem = Problem(code=refused.code, message=refused.message, remedy=refused.remedy)
        return full_recoveries.not_started(plan, awaited, members, problem, now=received.at)
    asked = _Asked(command=m, at=awaited.asked_at, actor=awaited.actor)
    decisions = _begin(plan, oriented(plan.header, reverse=reverse), members, asked)
    decisions[stream] = msgspec.structs.replace(
        decisions[stream],
        answers=(done(m.command_id, stream=stream, details={}),),
        cancel_timers=(full_recoveries.deadline_timer(job),),
    )
    return decisions


def _begin(
    plan: Plan, header: said.PlanHeader, members: Mapping[str, ProtectedVm], asked: _Asked
) -> dict[str, Decision]:
    """Take the holds and send all that the recovery needs; a dry run takes none."""
    m = asked.command
    requested = said.RecoveryRequested(
        job=m.job, mode=m.mode, checkpoint=m.checkpoint, vms=tuple(members), dry_run=m.dry_run
    )
    # All messages are the plan's: the VMs enrol before the recovery starts.
    sends = (
        *_enrolments(m, header, members),
        *_named_sources(m, members),
        _start(plan, header, members, asked),
    )
    if m.mode == "reverse":
        sends = (start_message(m, plan, members, at=asked.at, actor=asked.actor),)
    decisions = {plan_stream(m.plan): Decision(events=(requested,), sends=sends)}
    if not m.dry_run:
        held = said.Held(job=m.job, modes=MODES[m.mode])
        for vm in members:
            decisions[vm_stream(m.plan, vm)] = Decision(events=(held,))
    return decisions


def streams_to_release(states: Mapping[str, Any], received: Received) -> tuple[str, ...]:
    """The VMs that a recovery may hold."""
    m: said.ReleaseHolds | said.RecoveryEnded | said.SyncLast | said.ReturnVms = received.body
    entry = states[plan_stream(m.plan)].recoveries.get(m.job)
    return () if entry is None else vm_streams(m.plan, entry.vms)


def release_holds(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """A job gives back modes; what waited for the copy starts, a checkpoint may expire."""
    m: said.ReleaseHolds = received.body
    stream = plan_stream(m.plan)
    plan: Plan = states[stream]
    entry = plan.recoveries.get(m.job)
    if entry is None:
        return {}
    decisions: dict[str, Decision] = {}
    still_held = False
    for vm in entry.vms:
        key = vm_stream(m.plan, vm)
        held = states[key].holds.get(m.job, ())
        left = held if m.vms and vm not in m.vms else without(held, m.modes)
        still_held |= bool(left)
        if len(left) < len(held):
            given = tuple(mode for mode in held if mode not in left)
            decisions[key] = _give_back(
                states[key], said.HoldReleased(job=m.job, modes=given), at=received.at
            )
    events: tuple[Any, ...] = ()
    if not still_held and not entry.released:
        events += (said.RecoveryHoldsReleased(job=m.job),)
    tidied = NOTHING
    if m.release_checkpoint and entry.checkpoint:
        events += (said.CheckpointHoldReleased(job=m.job),)
        tidied = tidy(plan, plan.checkpoints, now=received.at, released=m.job)
    decisions[stream] = Decision(
        events=events + tidied.events, sends=tidied.sends, timers=tidied.timers
    )
    return decisions


def recovery_ended(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """A recovery ended; a test keeps its instances, and their hold, until its cleanup.

    The VMs of a full recovery run at the recovery site from here on, in the very step that gives
    no hold back yet: no tick starts in between.
    """
    m: said.RecoveryEnded = received.body
    stream = plan_stream(m.plan)
    plan: Plan = states[stream]
    entry = plan.recoveries.get(m.job)
    if entry is None or entry.ended:
        return {}
    recorded = said.RecoveryRecorded(
        job=m.job, mode=m.mode, state=m.state, rto_s=m.rto_s, dry_run=entry.dry_run
    )
    decisions: dict[str, Decision] = {}
    if m.mode == "reverse":
        decisions = reversal_ended(states, m, entry.vms, now=received.at)
        own = decisions.pop(stream, NOTHING)
        return {stream: Decision(events=(recorded,), timers=own.timers), **decisions}
    checks: list[Timer] = []
    for vm in entry.vms if m.moved else ():
        if vm in m.stayed:
            continue
        state: ProtectedVm = states[vm_stream(m.plan, vm)]
        if state.moved_by == m.job:
            continue  # it ended before, and was retried: what stood before its move is known
        if state.queued_run:
            checks.append(check_timer(state.queued_run, received.at))
        decisions[vm_stream(m.plan, vm)] = full_recoveries.move_out(state, m, vm=vm)
    return {stream: Decision(events=(recorded,), timers=tuple(checks)), **decisions}


def _check_holds(plan: Plan, m: said.Recover, members: Mapping[str, ProtectedVm]) -> None:
    """Refuse what another job's hold excludes. A running iteration is none: it gives way."""
    for vm, state in members.items():
        problem = held_elsewhere(plan, vm, state.holds, claim=state.claim, mode=m.mode)
        if problem is not None:
            raise NotYet(problem.message, code=problem.code, remedy=problem.remedy)


def held_elsewhere(
    plan: Plan,
    vm: str,
    holds: Mapping[str, tuple[HoldMode, ...]],
    *,
    claim: str,
    mode: said.RecoveryMode,
) -> Problem | None:
    """Why a recovery may not have the VM: another's `holds` exclude it, or one with a `claim`
    waits for it, which nothing newer overtakes. None where it may."""
    if not (holds or claim):
        return None
    ended = {job for job, entry in plan.recoveries.items() if entry.ended}
    tests = {job for job in ended if plan.recoveries[job].mode == "test"}
    job = claim or excluding_job(holds, wanted=mode, ended_tests=tests)
    if not job:
        return None
    action = "wait for it to end"
    if job in tests:
        action = f"`seawall cleanup {job}` first"
    elif job in ended:
        action = f"`seawall commit {job}` or `seawall rollback {job}` first"
    return Problem(
        code="busy", message=f"VM {vm!r} is held by {job}", remedy=f"{action}, then try again"
    )


def _enrolments(
    m: said.Recover, header: said.PlanHeader, members: Mapping[str, ProtectedVm]
) -> tuple[Send, ...]:
    on_error = m.on_error or header.recovery.on_error
    return tuple(
        Send(
            to="recovery",
            key=m.plan,
            message=EnrolVm(
                job=m.job,
                plan=m.plan,
                mode=m.mode,
                definition=state.setup.definition,
                header=header,
                checkpoint=m.checkpoint,
                skip_scripts=m.skip_scripts,
                on_error=on_error,
            ),
        )
        for state in members.values()
        if state.setup is not None
    )


def _named_sources(m: said.Recover, members: Mapping[str, ProtectedVm]) -> tuple[Send, ...]:
    """What VMs run as whose sources are to be shut down, where that is no VM of a site's own."""
    if m.mode == "test":
        return ()
    return tuple(
        Send(to="recovery", key=m.plan, message=NameSources(job=m.job, sources=part))
        for part in in_parts(sources_of(members))
    )


def _start(
    plan: Plan, header: said.PlanHeader, members: Mapping[str, ProtectedVm], asked: _Asked
) -> Send:
    m = asked.command
    roster = tuple(
        Member(vm, state.setup.definition.boot_order, state.setup.definition.boot_delay_s)
        for vm, state in members.items()
        if state.setup is not None
    )
    message = StartRecovery(
        job=m.job,
        plan=m.plan,
        plan_version=plan.version,
        mode=m.mode,
        header=header,
        members=roster,
        checkpoint=m.checkpoint,
        skip_scripts=m.skip_scripts,
        on_error=m.on_error or header.recovery.on_error,
        dry_run=m.dry_run,
        # RTO counts from the operator's command, not from the moment it is decided.
        requested_at=asked.at,
        actor=asked.actor,
        last_sync=full_recoveries.syncs_last(m),
        source_gone=m.source_gone,
        auto_rollback=full_recoveries.rolls_back_by_itself(m, header),
        homeward=homeward(m, members),
    )
    return Send(to="recovery", key=m.plan, message=message)


def _give_back(state: ProtectedVm, released: said.HoldReleased, *, at: dt.datetime) -> Decision:
    if "write-copy" not in released.modes or state.iteration:
        return Decision(events=(released,))
    if copy_taken_by(state, but=released.job):
        return Decision(events=(released,))
    follow = start_queued(state, sync=state.sync, now=at)
    return Decision(events=(released, *follow.events), sends=follow.sends, timers=follow.timers)
