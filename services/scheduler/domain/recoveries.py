"""Recoveries as the scheduler sees them: may it start, who holds what, what it gives back.

Takes all holds or none in one step, and sends the recovery service everything it needs. Steps of
a recovery are the recovery service's.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from schemas import scheduler as said
from schemas.envelope import Received
from schemas.recovery import EnrolVm, Member, StartRecovery
from schemas.sync_state import SyncFacts
from services.scheduler.domain.checkpoints import tidy
from services.scheduler.domain.holds import MODES, excluding_job, without
from services.scheduler.domain.names import plan_stream, vm_stream, vm_streams
from services.scheduler.domain.patience import NotYet, asked_at
from services.scheduler.domain.plan import Plan, chosen_vms, standing
from services.scheduler.domain.protected_vm import ProtectedVm, copy_is_coming, holders
from services.scheduler.domain.skipping import check_skipped
from services.scheduler.domain.ticks import start_queued
from shared.decider import NOTHING, Decision, Send
from shared.errors import Refused

LATEST = "latest"


def recover(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Start a test recovery: every VM has a copy, no hold excludes it, then all in one step.

    A dry run checks the same but for holds: it touches nothing. `NotYet` where a job that goes on
    is in the way.
    """
    m: said.Recover = received.body
    stream = plan_stream(m.plan)
    plan: Plan = states[stream]
    header = standing(plan, m.plan, expected_version=m.expected_version)
    if m.mode != "test":
        raise Refused(
            f"recovery in mode {m.mode!r} is not available in this version",
            code="not-available",
            remedy="`--mode test` recovers into an isolated network",
        )
    vms = chosen_vms(plan, m.plan, m.vms)
    if m.job in plan.recoveries:
        return {}
    members: dict[str, ProtectedVm] = {vm: states[vm_stream(m.plan, vm)] for vm in vms}
    check_skipped(m.skip_scripts, header, members)
    _check_copies(plan, m, members)
    requested = said.RecoveryRequested(
        job=m.job, mode=m.mode, checkpoint=m.checkpoint, vms=vms, dry_run=m.dry_run
    )
    # All messages are the plan's: the VMs enrol before the recovery starts.
    sends = (*_enrolments(m, header, members), _start(m, plan, header, members, received))
    decisions = {stream: Decision(events=(requested,), sends=sends)}
    if m.dry_run:
        return decisions
    _check_holds(plan, m, members)
    held = said.Held(job=m.job, modes=MODES["test"])
    for vm in vms:
        decisions[vm_stream(m.plan, vm)] = Decision(events=(held,))
    return decisions


def streams_to_release(states: Mapping[str, Any], received: Received) -> tuple[str, ...]:
    """The VMs that a recovery may hold."""
    m: said.ReleaseHolds = received.body
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


def recovery_ended(state: Plan, received: Received) -> Decision:
    """A recovery ended; a test keeps its instances, and their hold, until its cleanup."""
    m: said.RecoveryEnded = received.body
    entry = state.recoveries.get(m.job)
    if entry is None or entry.ended:
        return NOTHING
    recorded = said.RecoveryRecorded(
        job=m.job, mode=m.mode, state=m.state, rto_s=m.rto_s, dry_run=entry.dry_run
    )
    return Decision(events=(recorded,))


def _check_copies(plan: Plan, m: said.Recover, members: Mapping[str, ProtectedVm]) -> None:
    if m.checkpoint == LATEST:
        without_copy = [vm for vm, s in members.items() if not usable(s.sync)]
    else:
        entry = plan.checkpoints.get(m.checkpoint)
        if entry is None or entry.state != "available":
            found = "is not available" if entry is not None else "does not exist"
            refusal = NotYet if entry is not None and entry.state == "creating" else Refused
            raise refusal(
                f"checkpoint {m.checkpoint!r} of plan {m.plan!r} {found}",
                code="unknown-checkpoint",
                remedy=f"`seawall checkpoint list {m.plan}` shows those that are available",
            )
        without_copy = sorted(set(members) - set(entry.vms))
    if without_copy:
        shown = ", ".join(without_copy[:10])
        more = f" and {len(without_copy) - 10} more" if len(without_copy) > 10 else ""
        coming = m.checkpoint == LATEST and all(copy_is_coming(members[vm]) for vm in without_copy)
        raise (NotYet if coming else Refused)(
            f"no finished copy of VM {shown}{more}",
            code="no-copy",
            remedy="let replication finish first, or choose other VMs with --vm",
        )


def usable(sync: SyncFacts) -> bool:
    """Whether there is a copy to recover from. One to be made anew is still the last good one."""
    return sync.has_copy


def _check_holds(plan: Plan, m: said.Recover, members: Mapping[str, ProtectedVm]) -> None:
    ended = {job for job, entry in plan.recoveries.items() if entry.ended and entry.mode == "test"}
    for vm, state in members.items():
        if not state.holds:
            continue
        job = excluding_job(holders(state), wanted="test", ended_tests=ended)
        if job:
            action = f"`seawall cleanup {job}` first" if job in ended else "wait for it to end"
            raise NotYet(
                f"VM {vm!r} is held by {job}", code="busy", remedy=f"{action}, then try again"
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


def _start(
    m: said.Recover,
    plan: Plan,
    header: said.PlanHeader,
    members: Mapping[str, ProtectedVm],
    received: Received,
) -> Send:
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
        requested_at=asked_at(received),
        actor=received.meta.actor,
    )
    return Send(to="recovery", key=m.plan, message=message)


def _give_back(state: ProtectedVm, released: said.HoldReleased, *, at: dt.datetime) -> Decision:
    if "write-copy" not in released.modes or state.iteration:
        return Decision(events=(released,))
    others = {job: modes for job, modes in state.holds.items() if job != released.job}
    if any("write-copy" in modes for modes in others.values()):
        return Decision(events=(released,))
    follow = start_queued(state, sync=state.sync, now=at)
    return Decision(events=(released, *follow.events), sends=follow.sends, timers=follow.timers)
