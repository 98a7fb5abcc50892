"""An ended recovery wants to go on: may it hold its VMs again?

The one arbiter of who touches a VM decides about a retry as about a new recovery: what has begun
meanwhile, a copy that is gone, a VM that left its plan keep it from going on. All holds or none;
the answer is a message, for the recovery service is what was asked by a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas import scheduler as said
from schemas.common import Problem
from schemas.envelope import Received
from schemas.recovery_steering import HoldAgain, HoldsAnswered, RecoveryHeldAgain
from services.scheduler.domain.copies import LATEST, usable
from services.scheduler.domain.holds import MODES
from services.scheduler.domain.names import plan_stream, vm_stream, vm_streams
from services.scheduler.domain.plan import Plan
from services.scheduler.domain.protected_vm import ProtectedVm, holders
from services.scheduler.domain.recoveries import held_elsewhere
from shared.decider import Decision, Send


def streams_to_hold(states: Mapping[str, Any], received: Received) -> tuple[str, ...]:
    """The VMs that are to be held."""
    m: HoldAgain = received.body
    return vm_streams(m.plan, m.vms)


def hold_again(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Grant all that a job of its mode holds, on every VM, or say why not."""
    m: HoldAgain = received.body
    stream = plan_stream(m.plan)
    plan: Plan = states[stream]
    members: dict[str, ProtectedVm] = {vm: states[vm_stream(m.plan, vm)] for vm in m.vms}
    problem = _in_the_way(plan, m, members)
    answer = HoldsAnswered(job=m.job, command_id=m.command_id, problem=problem)
    send = Send(to="recovery", key=m.plan, message=answer)
    if problem is not None:
        return {stream: Decision(sends=(send,))}
    modes = MODES[m.mode]
    again = RecoveryHeldAgain(
        job=m.job, mode=m.mode, checkpoint=m.checkpoint, vms=m.vms, modes=modes
    )
    decisions = {stream: Decision(events=(again,), sends=(send,))}
    held = said.Held(job=m.job, modes=modes)
    return decisions | {vm_stream(m.plan, vm): Decision(events=(held,)) for vm in m.vms}


def _in_the_way(plan: Plan, m: HoldAgain, members: Mapping[str, ProtectedVm]) -> Problem | None:
    """The first reason why the recovery cannot go on."""
    if plan.header is None:
        return Problem(
            code="unknown-plan", message=f"plan {m.plan!r} is gone", remedy="start anew"
        )
    if m.checkpoint != LATEST:
        entry = plan.checkpoints.get(m.checkpoint)
        if entry is None or entry.state != "available":
            return Problem(
                code="unknown-checkpoint",
                message=f"checkpoint {m.checkpoint!r} is not available any more",
                remedy="start a recovery from another one",
            )
    for vm, state in members.items():
        if (problem := _vm_in_the_way(plan, m, vm, state)) is not None:
            return problem
    return None


def _vm_in_the_way(plan: Plan, m: HoldAgain, vm: str, state: ProtectedVm) -> Problem | None:
    if not state.protected:
        return Problem(
            code="unknown-vm",
            message=f"VM {vm!r} is in the plan no more",
            remedy="start a recovery of the VMs that are",
        )
    if m.checkpoint == LATEST and not usable(state.sync):
        return Problem(
            code="no-copy", message=f"no finished copy of VM {vm}", remedy="replicate it first"
        )
    others = {job: modes for job, modes in holders(state).items() if job != m.job}
    return held_elsewhere(plan, vm, others, claim=state.claim, mode=m.mode)
