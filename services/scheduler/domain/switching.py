"""What the operator changes at once: start, stop, priority, reset. All VMs asked for, or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas import scheduler as said
from schemas.envelope import Received
from services.scheduler.domain.grid import grid_for, next_tick
from services.scheduler.domain.membership import cancel_running, drop_queued, group_timer
from services.scheduler.domain.moves import at_home, check_quarantine
from services.scheduler.domain.names import plan_stream, vm_stream
from services.scheduler.domain.plan import Plan, chosen_vms, standing
from services.scheduler.domain.protected_vm import ProtectedVm, has_own_priority
from services.scheduler.domain.ticks import TICK_TIMER, check_timer, tick_timer
from shared.decider import Decision, Timer
from shared.errors import Refused


def start_plan(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Turn replication on. Ticks missed while it was off are caught up once, at once."""
    m: said.StartPlan = received.body
    stream = plan_stream(m.plan)
    plan: Plan = states[stream]
    header = standing(plan, m.plan, expected_version=m.expected_version)
    check_quarantine(plan, m.plan)
    now = received.at
    decisions = {}
    for vm in at_home(states, m.plan, chosen_vms(plan, m.plan, m.vms), named=bool(m.vms)):
        key = vm_stream(m.plan, vm)
        state: ProtectedVm = states[key]
        if state.on or state.setup is None:
            continue
        due = next_tick(grid_for(state.setup.replication, vm=vm), now)
        # The tick's own rule decides what was missed: it is asked right away.
        timers = () if header.replication.synchronize else (tick_timer(now),)
        decisions[key] = Decision(events=(said.VmStarted(next_due_at=due),), timers=timers)
    if decisions and header.replication.synchronize:
        decisions[stream] = Decision(timers=(group_timer(now),))
    return decisions


def stop_plan(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Turn replication off; running iterations end by themselves, or are cancelled if asked."""
    m: said.StopPlan = received.body
    stream = plan_stream(m.plan)
    plan: Plan = states[stream]
    standing(plan, m.plan, expected_version=m.expected_version)
    decisions: dict[str, Decision] = {}
    checks: list[Timer] = []
    for vm in chosen_vms(plan, m.plan, m.vms):
        key = vm_stream(m.plan, vm)
        state: ProtectedVm = states[key]
        sends = drop_queued(state, m.plan, vm)
        if m.cancel:
            sends += cancel_running(state, m.plan, reason="replication was stopped")
        if state.queued_run:
            checks.append(check_timer(state.queued_run, received.at))
        # Also one that is off already may have a run waiting for its turn.
        if state.on or state.queued_at is not None:
            decisions[key] = Decision(
                events=(said.VmStopped(),), cancel_timers=(TICK_TIMER,), sends=sends
            )
        elif sends:
            decisions[key] = Decision(sends=sends)
    if checks:
        decisions[stream] = Decision(timers=tuple(checks))
    return decisions


def prioritise_plan(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Set the priority of the plan, or of some of its VMs. Work that is queued keeps its own."""
    m: said.PrioritisePlan = received.body
    stream = plan_stream(m.plan)
    plan: Plan = states[stream]
    standing(plan, m.plan, expected_version=m.expected_version)
    if not 1 <= m.priority <= 5:
        raise Refused(
            f"priority {m.priority} does not exist",
            code="invalid",
            remedy="choose 1 (highest) to 5",
        )
    of_plan = not m.vms
    decisions = {}
    if of_plan:
        decisions[stream] = Decision(events=(said.PlanPrioritised(priority=m.priority),))
    for vm in chosen_vms(plan, m.plan, m.vms):
        key = vm_stream(m.plan, vm)
        if of_plan and has_own_priority(states[key]):
            continue
        event = said.VmPrioritised(priority=m.priority, of_plan=of_plan)
        decisions[key] = Decision(events=(event,))
    return decisions


def reset_vm(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """The copy counts as invalid: the next iteration copies everything."""
    m: said.ResetVm = received.body
    plan: Plan = states[plan_stream(m.plan)]
    standing(plan, m.plan, expected_version=m.expected_version)
    (vm,) = chosen_vms(plan, m.plan, (m.vm,))
    return {vm_stream(m.plan, vm): Decision(events=(said.VmReset(),))}
