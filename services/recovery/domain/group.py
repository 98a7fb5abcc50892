"""A group: a plan and all it comes after, recovered in order, each as soon as what it needs is up.

Saga. Decides which plan is asked for next, when the group stops and how it ends. What a plan's
recovery does is `recovery`'s; its holds are the scheduler's; cleaning all up is `group_cleanup`.

| action | forward | undo |
|---|---|---|
| recover a plan | `_ask`: the scheduler is asked for its recovery | `_call_off`; then a cleanup |
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import msgspec

from schemas import recovery_groups as said
from schemas.children import (
    CancelChild,
    ChildEnded,
    ChildRefused,
    ChildStarted,
    ParentEnded,
    RecoverChild,
)
from schemas.common import Problem, StepState, StepTiming
from schemas.envelope import Received
from schemas.ids import parts_of, stream_id
from schemas.recovery import CancelRecoveryJob, RecoveryState
from schemas.scheduler import Recover
from services.recovery.domain import refusals
from services.recovery.domain.draft import Draft
from services.recovery.domain.recovery_state import Recovery
from shared.decider import NOTHING, Decision, Family, Send

# ── Parameters ───────────────────────────────────────────────────────────────────────────────

DEFINITION_VERSION: Final = 1
USABLE: Final = frozenset({"completed", "partially-completed"})

_replace = msgspec.structs.replace


class MemberState(msgspec.Struct, frozen=True, kw_only=True):
    """How far a plan of the group is; `state` None until its recovery ended."""

    job: str
    asked_at: dt.datetime
    started: bool = False
    refused: bool = False
    state: RecoveryState | None = None
    usable: bool = False
    awaits_cleanup: bool = False
    rto_s: float | None = None


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A group; `members` are the plans that were asked for. With a `problem` no more are."""

    started: said.RecoveryGroupStarted | None = None
    members: dict[str, MemberState] = {}
    cancelling: bool = False
    problem: Problem | None = None
    finished: said.RecoveryGroupFinished | None = None
    cleaning: str = ""
    cleaned: bool = False


def told(state: Group) -> said.RecoveryGroupStarted:
    """What the group was started with; asserts that it was."""
    assert state.started is not None, "started before anything else"
    return state.started


def running(state: Group) -> list[str]:
    """The plans whose recoveries were asked for and have not come back."""
    return [
        plan
        for plan, member in state.members.items()
        if member.state is None and not member.refused
    ]


def due(state: Group) -> list[said.GroupMember]:
    """The plans whose turn has come: all they come after is usable."""
    if state.cancelling or state.problem is not None or state.finished is not None:
        return []
    usable = {plan for plan, member in state.members.items() if member.usable}
    return [
        member
        for member in told(state).members
        if member.plan not in state.members and usable.issuperset(member.after)
    ]


def outcome_of(state: Group) -> RecoveryState:
    """The group's outcome, by the rules of product.md §5 over its plans."""
    if state.cancelling:
        return "cancelled"
    ends = [member.state for member in state.members.values()]
    if not any(end in USABLE for end in ends):
        return "failed"
    whole = len(ends) == len(told(state).members) and all(end == "completed" for end in ends)
    return "completed" if whole else "partially-completed"


# ── Actions ──────────────────────────────────────────────────────────────────────────────────


def _ask(draft: _Draft, member: said.GroupMember) -> None:
    """Ask for a plan's recovery, as the operator asked for the group's own plan."""
    start = told(draft.state)
    job = stream_id("recovery", member.plan, parts_of(start.job)[-1])
    draft.say(said.GroupMemberAsked(plan=member.plan, job=job, at=draft.now))
    recover = _asked_of(start, member.plan, job)
    message = RecoverChild(parent=start.job, recover=recover, asked_at=start.requested_at)
    draft.sends.append(Send(to="scheduler", key=member.plan, message=message))


def _asked_of(start: said.RecoveryGroupStarted, plan: str, job: str) -> Recover:
    own = _replace(start.recover, command_id=job, job=job, expected_version=0, put_off=None)
    if plan == start.plan:
        return own
    return _replace(own, plan=plan, vms=(), checkpoint="latest", skip_scripts=())


def _call_off(draft: _Draft, plan: str) -> None:
    """Undo of a recovery that runs: it ends cancelled. One that is asked for is awaited first."""
    message = CancelChild(job=draft.state.members[plan].job)
    draft.sends.append(Send(to="recovery", key=plan, message=message))


def _finish(draft: _Draft) -> None:
    state, start = draft.state, told(draft.state)
    members = state.members.values()
    end = said.RecoveryGroupFinished(
        plan=start.plan,
        mode=start.recover.mode,
        state=outcome_of(state),
        rto_s=max((m.rto_s for m in members if m.rto_s is not None), default=None),
        problem=None if state.cancelling else state.problem,
        awaits_cleanup=any(member.awaits_cleanup for member in members),
        dry_run=start.recover.dry_run,
    )
    draft.say(end)
    message = ParentEnded(plan=start.plan, job=start.job, state=end.state)
    draft.sends.append(Send(to="scheduler", key=start.plan, message=message))


# ── Definition ───────────────────────────────────────────────────────────────────────────────


class _Draft(Draft[Group]):
    """A decision about a group."""

    def done(self) -> Decision:
        """Ask for every plan whose turn has come; with none left and none running, end."""
        for member in due(self.state):
            _ask(self, member)
        if self.state.finished is None and not running(self.state):
            _finish(self)
        return self.decision()


# ── Implementations: messages ────────────────────────────────────────────────────────────────


def start(state: Group, received: Received) -> Decision:
    """Begin with the plans that come after none."""
    m: said.StartRecoveryGroup = received.body
    if state.started is not None:
        return NOTHING
    fields = {name: getattr(m, name) for name in m.__struct_fields__}
    draft = _Draft(state, now=received.at, evolve=evolve)
    draft.say(said.RecoveryGroupStarted(**fields, definition_version=DEFINITION_VERSION))
    return draft.done()


def child_started(state: Group, received: Received) -> Decision:
    """A plan's recovery runs; called off at once where the group was cancelled."""
    m: ChildStarted = received.body
    plan = _plan_of(state, m.job)
    if not plan or state.members[plan].started:
        return NOTHING
    draft = _Draft(state, now=received.at, evolve=evolve)
    draft.say(said.GroupMemberStarted(plan=plan))
    if state.cancelling:
        _call_off(draft, plan)
    return draft.done()


def child_refused(state: Group, received: Received) -> Decision:
    """A plan could not be recovered: nothing new starts, what runs goes on to its end."""
    m: ChildRefused = received.body
    plan = _plan_of(state, m.job)
    if not plan:
        return NOTHING
    problem = _replace(m.problem, message=f"plan {plan}: {m.problem.message}")
    timing = _timing(state, plan, "failed", received.at, error=m.problem.message)
    draft = _Draft(state, now=received.at, evolve=evolve)
    draft.say(said.GroupMemberRefused(plan=plan, problem=problem, timing=timing))
    return draft.done()


def child_ended(state: Group, child: Recovery, received: Received) -> Decision:
    """A plan's recovery ended: those that come after it start, or the group stops."""
    m: ChildEnded = received.body
    plan = _plan_of(state, m.job)
    if not plan:
        return NOTHING
    end = child.finished
    tolerant = next(each.tolerant for each in told(state).members if each.plan == plan)
    usable = m.state == "completed" or (m.state == "partially-completed" and tolerant)
    why = end.problem.message if end is not None and end.problem is not None else ""
    problem = None
    if not usable:
        problem = Problem(
            code="plan-not-usable",
            message=f"plan {plan} ended {m.state}" + (f": {why}" if why else ""),
            remedy=f"`seawall job show {m.job}`; plans that come after it were not started",
        )
    step: StepState = "cancelled" if m.state == "cancelled" else "failed"
    ended = said.GroupMemberEnded(
        plan=plan,
        state=m.state,
        usable=usable,
        # One that a person retries at this very moment is cleaned up after that.
        awaits_cleanup=end is None or end.awaits_cleanup,
        rto_s=m.rto_s,
        timing=_timing(
            state,
            plan,
            "completed" if m.state == "completed" else step,
            received.at,
            error="" if m.state == "completed" else f"ended {m.state}" + (why and f": {why}"),
        ),
        problem=problem,
    )
    draft = _Draft(state, now=received.at, evolve=evolve)
    draft.say(ended)
    return draft.done()


def cancel(state: Group, received: Received) -> Decision:
    """Stop safely: no plan is begun, those that run are cancelled. Raises Refused."""
    m: CancelRecoveryJob = received.body
    begun, over = state.started is not None, state.finished is not None
    refusals.check_goes_on(m.job, begun=begun, over=over)
    if state.cancelling:
        return NOTHING
    draft = _Draft(state, now=received.at, evolve=evolve)
    draft.say(said.RecoveryGroupCancelRequested())
    for plan in running(state):
        if state.members[plan].started:
            _call_off(draft, plan)
    return draft.done()


def begin_cleanup(state: Group, *, group: str, cleanup: str) -> Decision:
    """A cleanup of all its recoveries begins. Raises Refused where there is nothing to clean."""
    end = state.finished
    refusals.check_made_something(
        group,
        "group",
        begun=state.started is not None,
        over=end is not None,
        cleaned=state.cleaned,
        made=end is not None and end.awaits_cleanup,
    )
    refusals.check_not_being_cleaned(group, state.cleaning)
    return Decision(events=(said.RecoveryGroupCleaning(cleanup=cleanup),))


def _plan_of(state: Group, job: str) -> str:
    """The plan of a recovery that has not come back yet; empty for any other job."""
    return next((plan for plan in running(state) if state.members[plan].job == job), "")


def _timing(
    state: Group, plan: str, outcome: StepState, now: dt.datetime, *, error: str
) -> StepTiming:
    return StepTiming(
        name=plan,
        state=outcome,
        started_at=state.members[plan].asked_at,
        ended_at=now,
        error=error,
    )


# ── Implementations: folding ─────────────────────────────────────────────────────────────────


def evolve(state: Group, event: Any) -> Group:
    """Apply one fact."""
    match event:
        case said.RecoveryGroupStarted():
            return _replace(state, started=event)
        case said.GroupMemberAsked():
            member = MemberState(job=event.job, asked_at=event.at)
            return _replace(state, members={**state.members, event.plan: member})
        case said.GroupMemberStarted():
            return _changed(state, event.plan, started=True)
        case said.GroupMemberRefused():
            state = _changed(state, event.plan, refused=True)
            return _replace(state, problem=state.problem or event.problem)
        case said.GroupMemberEnded():
            state = _changed(
                state,
                event.plan,
                state=event.state,
                usable=event.usable,
                awaits_cleanup=event.awaits_cleanup,
                rto_s=event.rto_s,
            )
            return _replace(state, problem=state.problem or event.problem)
        case said.RecoveryGroupCancelRequested():
            return _replace(state, cancelling=True)
        case said.RecoveryGroupFinished():
            return _replace(state, finished=event)
        case said.RecoveryGroupCleaning():
            return _replace(state, cleaning=event.cleanup)
        case said.RecoveryGroupCleaned():
            return _replace(state, cleaning="", cleaned=not event.remaining)
    raise AssertionError(f"{type(event).__name__} is no event of a group")


def _changed(group: Group, plan: str, /, **changes: Any) -> Group:
    member = _replace(group.members[plan], **changes)
    return _replace(group, members={**group.members, plan: member})


FAMILY = Family(
    name="recovery-group",
    state=Group,
    initial=Group,
    evolve=evolve,
    is_terminal=lambda state: (
        state.finished is not None and (state.cleaned or not state.finished.awaits_cleanup)
    ),
)
