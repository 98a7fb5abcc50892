"""Alerts of what is no longer protected: which ones leave with a VM or a plan, and come back.

Events of other services come in any order: a failure that happened before its VM left may be
heard after it. So an alert whose opener is another service than the scheduler is *withdrawn*, and
opens no more until its subject is back; others are only closed. Alerts about things that are
still there although their VM or plan is not (`cleanup-incomplete`, `snapshot-left`, …) stay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, get_args

from schemas.envelope import Received
from schemas.ids import stream_id
from schemas.scheduler import PlanApplied, PlanDeleted, RecoveryMode, VmProtected, VmReleased

PLAN: Final = "plan"
"""The subject of what concerns a plan's schedule as a whole."""


def _of_vm(body: VmReleased | VmProtected) -> tuple[str, ...]:
    return (stream_id("alert", body.plan, "iteration-failed", body.vm),)


def _of_vm_scheduled(body: VmReleased) -> tuple[str, ...]:
    conditions = ("rpo-breached", "schedule-missed")
    return tuple(stream_id("alert", body.plan, each, body.vm) for each in conditions)


def _of_plan(body: PlanDeleted | PlanApplied) -> tuple[str, ...]:
    ends = ("job-failed", "job-partially-completed")
    kinds = (*get_args(RecoveryMode), "find-clean-point", "recovery-group", "rollback")
    jobs = ((end, kind) for kind in kinds for end in ends)
    return tuple(
        stream_id("alert", body.plan, condition, subject)
        for condition, subject in (*jobs, ("checkpoint-failed", "schedule"))
    )


def _of_plan_scheduled(body: PlanDeleted) -> tuple[str, ...]:
    return (stream_id("alert", body.plan, "schedule-missed", PLAN),)


_WITHDRAWN: Final[dict[type, Callable[[Any], tuple[str, ...]]]] = {
    VmReleased: _of_vm,
    PlanDeleted: _of_plan,
}
_CLOSED: Final[dict[type, Callable[[Any], tuple[str, ...]]]] = {
    VmReleased: _of_vm_scheduled,
    PlanDeleted: _of_plan_scheduled,
}
_BACK: Final[dict[type, Callable[[Any], tuple[str, ...]]]] = {
    VmProtected: _of_vm,
    PlanApplied: _of_plan,
}

LEAVING: Final = tuple(_WITHDRAWN)
RETURNING: Final = tuple(_BACK)


def withdrawn(received: Received) -> tuple[str, ...]:
    """Alerts to close that must not open again until their subject is back."""
    return _WITHDRAWN[type(received.body)](received.body)


def closed(received: Received) -> tuple[str, ...]:
    """Alerts to close whose opener is the very service that says so."""
    return _CLOSED[type(received.body)](received.body)


def back(received: Received) -> tuple[str, ...]:
    """Alerts that may open again."""
    return _BACK[type(received.body)](received.body)
