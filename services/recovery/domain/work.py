"""How the deciders ask for work: class, order and budgets of every effect of a recovery.

Owns the table of quotas a call spends, under the names all platforms map theirs to. A budget
that a site does not define counts as unlimited.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import msgspec

from schemas.common import Problem, StepState, StepTiming
from schemas.scheduler import RecoveryMode
from services.recovery.domain.scripts import POST_STEP, PRE_STEP
from shared.decider import Effect, EffectOutcome, Need, WorkClass

QUOTAS: Final[dict[str, str]] = {
    "rebuild-disk": "CreateVolume",
    "create-instance": "RunInstances",
    "power-on": "StartInstances",
    "power-off": "StopInstances",
    "delete-instance": "TerminateInstances",
    "delete-disk": "DeleteVolume",
    "poll-site": "DescribeInstances",
    "list-prep-nodes": "DescribeInstances",
    "power-on-node": "StartInstances",
    "power-off-node": "StopInstances",
    "list-owned": "DescribeTags",
    "look-at-source": "DescribeInstances",
    "look-at-sources": "DescribeInstances",
    "shut-down-source": "StopInstances",
    "power-off-source": "StopInstances",
    "power-on-source": "StartInstances",
    "measure-written": "DescribeInstances",
    "look-at-lost-site": "DescribeInstances",
    "look-at-originals": "DescribeInstances",
    "look-at-instances": "DescribeInstances",
    "verify-copies": "DescribeSnapshots",
}
"""Call → rate quota. Holding and releasing a copy spend none."""

CLEANUP_PRIORITY: Final = 5
"""Cleaning up never goes before bringing up."""


def recovery_effect(
    part: str,
    kind: str,
    payload: Any,
    *,
    site: str,
    plan: str,
    due: dt.datetime,
    priority: int,
    call: str = "",
) -> Effect:
    """An effect of class RECOVERY; `call` names the platform call whose quota it spends."""
    return Effect(
        part=part,
        kind=kind,
        payload=payload,
        due=due,
        work_class=WorkClass.RECOVERY,
        priority=priority,
        plan=plan,
        needs=rate(site, call or kind),
    )


def rate(site: str, call: str) -> tuple[Need, ...]:
    """What a call at a site spends."""
    quota = QUOTAS.get(call)
    return (Need(budget=f"{site}/{quota}", mode="rate"),) if quota else ()


def step_of(outcome: EffectOutcome, step: str) -> StepTiming:
    """The finished step of an effect's end."""
    state: StepState = "completed"
    if not outcome.ok:
        state = "cancelled" if outcome.code == "cancelled" else "failed"
    return StepTiming(
        name=step,
        state=state,
        attempts=max(outcome.attempts, 1),
        started_at=outcome.started_at,
        ended_at=outcome.at,
        error=outcome.error,
        remedy=outcome.remedy,
    )


def refuted(timing: StepTiming, problem: Problem) -> StepTiming:
    """The step of an effect that ended well and found that something is wrong."""
    return msgspec.structs.replace(
        timing, state="failed", error=problem.message, remedy=problem.remedy
    )


_WORST: Final = {"completed": 0, "skipped": 1, "cancelled": 2, "unknown": 3, "failed": 4}


def merged_steps(steps: tuple[StepTiming, ...]) -> tuple[StepTiming, ...]:
    """One timing per step name, in order: disks of a step, and runs of a script, as one."""
    merged: dict[str, StepTiming] = {}
    for step in steps:
        before = merged.get(step.name)
        merged[step.name] = step if before is None else _both(before, step)
    return tuple(merged.values())


def _both(one: StepTiming, two: StepTiming) -> StepTiming:
    # A later run of a script replaces what the earlier one said; disks of one step add up.
    again = two.name in (PRE_STEP, POST_STEP)
    starts = [step.started_at for step in (one, two) if step.started_at is not None]
    ends = [step.ended_at for step in (one, two) if step.ended_at is not None]
    return msgspec.structs.replace(
        two if again else max(one, two, key=lambda step: _WORST.get(step.state, 0)),
        attempts=max(one.attempts, two.attempts),
        started_at=min(starts, default=None),
        ended_at=max(ends, default=None),
    )


def instance_name(vm: str, *, job: str, mode: RecoveryMode) -> str:
    """What the instance is called: a test's carries the end of its job id, so that it is free."""
    return f"{vm}-test-{job.rpartition(':')[2][-8:].lower()}" if mode == "test" else vm
