"""The cleanup of a group: one cleanup per plan's recovery, side by side, and what they add up to.

Saga. Removes nothing itself: each recovery's cleanup does, and proves it (`cleanup`). Repeating it
is safe: what is clean already counts as clean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from schemas import recovery_groups as said
from schemas.children import CancelChild, ChildCleaned, CleanupGroup
from schemas.common import Problem, StepTiming
from schemas.envelope import Received
from schemas.ids import family_of, parts_of, stream_id
from schemas.recovery import BeginCleanup, CancelRecoveryJob, RecoveryState
from services.recovery.domain import group, refusals
from services.recovery.domain.group import Group
from shared.decider import NOTHING, Decision, Family, Send
from shared.errors import Refused

DEFINITION_VERSION: Final = 1

_replace = msgspec.structs.replace


class GroupCleanup(msgspec.Struct, frozen=True, kw_only=True):
    """A cleanup of a group; `remaining` is what each plan's cleanup that ended left."""

    started: said.GroupCleanupStarted | None = None
    remaining: dict[str, int] = {}
    cancelling: bool = False
    problem: Problem | None = None
    finished: bool = False


def begin(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Clean up every recovery of the group that made something.

    Raises Refused: `unknown-job`, `still-running`, `already-cleaned`, `nothing-to-clean`,
    `being-cleaned`.
    """
    m: CleanupGroup = received.body
    if family_of(m.group) != "recovery-group" or family_of(m.job) != "group-cleanup":
        raise Refused(f"{m.group} is no group", code="unknown-job", remedy="see `job list`")
    state: GroupCleanup = states[m.job]
    parent: Group = states[m.group]
    if state.started is not None:
        return {}
    marked = group.begin_cleanup(parent, group=m.group, cleanup=m.job)
    recoveries = {
        plan: member.job for plan, member in parent.members.items() if member.awaits_cleanup
    }
    event = said.GroupCleanupStarted(
        job=m.job,
        plan=group.told(parent).plan,
        group=m.group,
        recoveries=recoveries,
        definition_version=DEFINITION_VERSION,
    )
    sends = tuple(
        _to(plan, BeginCleanup(job=_cleanup_of(m.job, plan), recovery=job, parent=m.job))
        for plan, job in recoveries.items()
    )
    return {m.job: Decision(events=(event,), sends=sends), m.group: marked}


def group_of(state: GroupCleanup) -> str:
    """The group that is cleaned up; empty before it began."""
    return "" if state.started is None else state.started.group


def child_cleaned(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """One plan's cleanup came back; with the last of them this one ends, and its group knows."""
    m: ChildCleaned = received.body
    state: GroupCleanup = states[m.parent]
    plan = _plan_of(state, m.recovery)
    if state.finished or not plan or plan in state.remaining:
        return {}
    timing = StepTiming(
        name=plan,
        state="failed" if m.remaining else "completed",
        ended_at=received.at,
        error="" if m.problem is None else m.problem.message,
        remedy="" if m.problem is None else m.problem.remedy,
    )
    ended = said.GroupCleanupMemberEnded(
        plan=plan, remaining=m.remaining, timing=timing, problem=m.problem
    )
    after = evolve(state, ended)
    start = _told(after)
    if len(after.remaining) < len(start.recoveries):
        return {m.parent: Decision(events=(ended,))}
    remaining = sum(after.remaining.values())
    finished = said.GroupCleanupFinished(
        plan=start.plan,
        group=start.group,
        state=_outcome(after),
        remaining=remaining,
        problem=None if after.cancelling else after.problem,
    )
    told = said.RecoveryGroupCleaned(cleanup=start.job, remaining=remaining)
    return {
        m.parent: Decision(events=(ended, finished)),
        start.group: Decision(events=(told,)),
    }


def cancel(state: GroupCleanup, received: Received) -> Decision:
    """Stop removing. Raises Refused `unknown-job` or `job-ended`."""
    m: CancelRecoveryJob = received.body
    start = state.started
    refusals.check_goes_on(m.job, begun=start is not None, over=state.finished)
    assert start is not None, "checked"
    if state.cancelling:
        return NOTHING
    sends = tuple(
        _to(plan, CancelChild(job=_cleanup_of(start.job, plan)))
        for plan in start.recoveries
        if plan not in state.remaining
    )
    return Decision(events=(said.GroupCleanupCancelRequested(),), sends=sends)


def _to(plan: str, message: Any) -> Send:
    return Send(to="recovery", key=plan, message=message)


def _cleanup_of(job: str, plan: str) -> str:
    return stream_id("cleanup", plan, parts_of(job)[-1])


def _plan_of(state: GroupCleanup, recovery: str) -> str:
    if state.started is None:
        return ""
    return next((p for p, job in state.started.recoveries.items() if job == recovery), "")


def _told(state: GroupCleanup) -> said.GroupCleanupStarted:
    assert state.started is not None, "started before anything else"
    return state.started


def _outcome(state: GroupCleanup) -> RecoveryState:
    if state.cancelling:
        return "cancelled"
    left = [each for each in state.remaining.values() if each]
    if not left:
        return "completed"
    return "failed" if len(left) == len(state.remaining) else "partially-completed"


def evolve(state: GroupCleanup, event: Any) -> GroupCleanup:
    """Apply one fact."""
    match event:
        case said.GroupCleanupStarted():
            return _replace(state, started=event)
        case said.GroupCleanupMemberEnded():
            remaining = {**state.remaining, event.plan: event.remaining}
            problem = state.problem or (event.problem if event.remaining else None)
            return _replace(state, remaining=remaining, problem=problem)
        case said.GroupCleanupCancelRequested():
            return _replace(state, cancelling=True)
        case said.GroupCleanupFinished():
            return _replace(state, finished=True)
    raise AssertionError(f"{type(event).__name__} is no event of a group's cleanup")


FAMILY = Family(
    name="group-cleanup",
    state=GroupCleanup,
    initial=GroupCleanup,
    evolve=evolve,
    is_terminal=lambda state: state.finished,
)
