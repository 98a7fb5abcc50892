"""Joins of stored documents at the moment of asking: ages, derived states, children, progress.

Pure: rows and the moment come in, the document that is served goes out. Owns every rule that
needs more than one stream family or the time of day; what one family says is folded beforehand.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from schemas.views import (
    ENDED,
    Checkpoint,
    CheckpointMark,
    Instance,
    Job,
    Plan,
    PlanState,
    Progress,
    Rpo,
    Step,
    Vm,
)

STEP_WEIGHTS: dict[str, float] = {"transfer": 20.0, "rebuild-disks": 10.0, "wait-ready": 4.0}
"""How much a step counts towards a job's percent, 1 for those not named: bytes take the time."""

MOVING_STEPS = ("find-changes", "transfer", "verify")
"""What goes on side by side while an iteration's bytes move."""

RATE_S_MAX = 5.0
"""How long a rate counts without news: progress is told twice a second while bytes move."""

DONE_STEPS = frozenset({"completed", "failed", "unknown", "skipped", "cancelled"})

_replace = msgspec.structs.replace


def vm_now(vm: Vm, *, now: dt.datetime) -> Vm:
    """A VM with the age of its newest copy."""
    if vm.last_checkpoint_at is None:
        return vm
    return _replace(vm, rpo_s=max((now - vm.last_checkpoint_at).total_seconds(), 0.0))


def plan_now(plan: Plan, vms: Sequence[Vm], *, now: dt.datetime) -> Plan:
    """A plan with its VMs in the plan's order, its state and its achieved RPO.

    The RPO is that of the VM whose copy is oldest, and null while a VM has none.
    """
    order = {name: place for place, name in enumerate(plan.vm_names)}
    members = sorted((vm_now(vm, now=now) for vm in vms), key=lambda vm: order.get(vm.name, 0))
    ages = [vm.rpo_s for vm in members]
    whole = [age for age in ages if age is not None]
    achieved = max(whole) if whole and len(whole) == len(ages) else None
    late = achieved is not None and plan.rpo.target_s is not None and achieved > plan.rpo.target_s
    breached = late or any(vm.rpo_breached for vm in members)
    rpo = Rpo(target_s=plan.rpo.target_s, achieved_s=achieved, breached=breached)
    return _replace(
        plan,
        vms=tuple(members),
        rpo=rpo,
        state=plan_state(members),
        direction=plan_direction(members),
    )


def plan_direction(vms: Sequence[Vm]) -> Literal["original", "reverse", "mixed"]:
    """Which way the plan's VMs are replicated, once they have turned."""
    ways = {vm.direction for vm in vms}
    return "mixed" if len(ways) > 1 else next(iter(ways), "original")


def plan_state(vms: Sequence[Vm]) -> PlanState:
    """The plan's state from its VMs: all on, some on, none; initializing before first copies.

    Once none is replicated any more, VMs that run at the other site say why. A plan that runs the
    other way is *reversed*.
    """
    on = sum(vm.replicating for vm in vms)
    if not on:
        moved = {vm.moved for vm in vms}
        if "failed-over" in moved:
            return "failed-over"
        return "migrated" if "migrated" in moved else "stopped"
    if on < len(vms):
        return "partial"
    if any(vm.last_checkpoint_at is None for vm in vms):
        return "initializing"
    return "reversed" if plan_direction(vms) == "reverse" else "running"


def copies_at(vm: Vm) -> str:
    """The site that has the VM's newest copies: that to which it is replicated.

    While a reversal is under way `last_checkpoint_at` is of the direction that it marked.
    """
    way = vm.marked_direction or vm.direction
    return vm.protected_site if way == "reverse" else vm.recovery_site


def checkpoint_now(checkpoint: Checkpoint, mark: CheckpointMark | None) -> Checkpoint:
    """A checkpoint with the scheduler's word on whether it is preserved, and its verdict."""
    if mark is None:
        return checkpoint
    return _replace(checkpoint, preserved=mark.preserved, verdict=mark.verdict)


def percent_of(steps: Sequence[Step]) -> float:
    """How much of the steps is done, by weight; 0 without steps."""
    done = total = 0.0
    for step in steps:
        weight = STEP_WEIGHTS.get(step.name, 1.0)
        total += weight
        done += weight if step.state in DONE_STEPS else weight * step.percent / 100
    return round(100 * done / total, 1) if total else 0.0


def job_now(
    job: Job,
    *,
    children: Sequence[Job] = (),
    progress: Mapping[str, Progress] | None = None,
    now: dt.datetime | None = None,
) -> Job:
    """A job with its children, their instances and bytes, and what is known at this moment.

    `progress` is keyed by job id; of a job that has none itself the children's add up. What was
    told longer than RATE_S_MAX before `now` still stands, but moves no more. A job that ended has
    the bytes its own facts tell or, where those tell none, its children's.
    """
    if children:
        ordered = sorted(children, key=lambda child: (child.boot_order or 0, child.id))
        job = _replace(
            job,
            children=tuple(child.id for child in ordered),
            instances=job.instances or _instances(ordered),
        )
    if job.state in ENDED:
        return _summed(job, children)
    told = {} if progress is None else progress
    if now is not None:
        told = {key: _as_of(moment, now) for key, moment in told.items()}
    return _moving(job, children, told)


def _as_of(moment: Progress, now: dt.datetime) -> Progress:
    fresh = now - moment.at <= dt.timedelta(seconds=RATE_S_MAX)
    return moment if fresh else _replace(moment, rate=0.0)


def _instances(children: Sequence[Job]) -> tuple[Instance, ...]:
    return tuple(
        _replace(instance, boot_order=child.boot_order)
        for child in children
        for instance in child.instances
    )


def _summed(job: Job, children: Sequence[Job]) -> Job:
    """An ended job with at least its children's bytes. One level is enough: what a VM's job moved
    is told by its own facts."""
    done = max(job.bytes_done, sum(child.bytes_done for child in children))
    total = max(job.bytes_total, sum(child.bytes_total for child in children))
    if (done, total) == (job.bytes_done, job.bytes_total):
        return job
    return _replace(job, bytes_done=done, bytes_total=total)


def _moving(job: Job, children: Sequence[Job], progress: Mapping[str, Progress]) -> Job:
    own = progress.get(job.id)
    if own is not None:
        parts = [(own.bytes_done, own.bytes_total, own.rate)]
    else:
        parts = [_part(child, progress.get(child.id)) for child in children]
    done, total = sum(part[0] for part in parts), sum(part[1] for part in parts)
    done, total = max(job.bytes_done, done), max(job.bytes_total, total)
    if not total:
        return job
    share = min(100.0 * done / total, 100.0)
    told = job.steps if own is None else _under_way(job.steps)
    steps = tuple(
        _replace(step, percent=round(max(step.percent, share), 1))
        if step.name in STEP_WEIGHTS and step.state == "running"
        else step
        for step in told
    )
    rate = round(sum(part[2] for part in parts), 1)
    return _replace(
        job,
        bytes_done=done,
        bytes_total=total,
        rate=rate,
        eta_s=round(max(total - done, 0) / rate, 1) if rate > 0 else None,
        steps=steps,
        percent=max(job.percent, percent_of(steps) if steps else round(share, 1)),
    )


def _under_way(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps of an iteration whose bytes move: a routine one says nothing until its end, but
    then its snapshot is there."""
    names = [step.name for step in steps]
    if "transfer" not in names:
        return tuple(steps)
    begins = min(names.index(name) for name in MOVING_STEPS if name in names)
    return tuple(
        _replace(step, state="completed", percent=100.0)
        if place < begins and step.state == "running"
        else _replace(step, state="running")
        if step.name in MOVING_STEPS and step.state == "pending"
        else step
        for place, step in enumerate(steps)
    )


def _part(child: Job, moment: Progress | None) -> tuple[int, int, float]:
    if moment is None or child.state in ENDED:
        return child.bytes_done, child.bytes_total, 0.0
    return moment.bytes_done, moment.bytes_total, moment.rate
