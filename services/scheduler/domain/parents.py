"""Recoveries that a search or a group asks for: decided like an operator's, answered by message.

Owns what a parent hears of its children, and the start of groups. Whether a recovery may start is
`recoveries`'; nothing here knows its rules.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from schemas import scheduler as said
from schemas.children import (
    ChildEnded,
    ChildRefused,
    ChildStarted,
    ParentEnded,
    ParentJobEnded,
    RecoverChild,
)
from schemas.common import Problem
from schemas.envelope import Received
from schemas.ids import family_of
from schemas.recovery import StartRecovery
from schemas.recovery_groups import (
    GroupMember,
    RecoverGroup,
    RecoveryGroupRequested,
    StartRecoveryGroup,
)
from schemas.scheduler_operations import RecoveryNotStarted
from services.scheduler.domain import prerequisites, recoveries
from services.scheduler.domain.checkpoints import tidy
from services.scheduler.domain.copies import LATEST, check_checkpoint
from services.scheduler.domain.names import plan_stream
from services.scheduler.domain.patience import PATIENCE_S, asked_at, patient
from services.scheduler.domain.plan import Plan, chosen_vms, standing
from shared.decider import NOTHING, Decision, Send, Timer
from shared.errors import Refused

SEARCH: Final = "find-clean-point"

_replace = msgspec.structs.replace
_recover: Final = patient(recoveries.recover)

# ── Children ─────────────────────────────────────────────────────────────────────────────────


def recover_child(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Start a recovery for its parent; a refusal is told to the parent, not raised."""
    m: RecoverChild = received.body
    recover = _replace(m.recover, parent=m.parent)
    if m.asked_at is not None and recover.put_off is None:
        until = received.at + dt.timedelta(seconds=PATIENCE_S)
        recover = _replace(recover, put_off=said.PutOff(asked_at=m.asked_at, until=until))
    try:
        decisions = dict(_recover(states, _replace(received, body=recover)))
    except Refused as refused:
        problem = Problem(code=refused.code, message=refused.message, remedy=refused.remedy)
        news = ChildRefused(parent=m.parent, job=recover.job, problem=problem)
        return {plan_stream(recover.plan): Decision(sends=(_to_parent(recover.plan, news),))}
    return _told(decisions, recover)


def claim_due(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """A recovery that waited for its holds starts or is refused; its parent hears which."""
    plan: Plan = states[received.stream]
    awaited = plan.awaited.get(received.body.job)
    decisions = recoveries.claim_due(states, received)
    if awaited is None or not awaited.request.parent:
        return decisions
    return _told(decisions, awaited.request)


def recovery_ended(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """A recovery ended: recorded as any, and told to the job that asked for it."""
    m: said.RecoveryEnded = received.body
    stream = plan_stream(m.plan)
    decisions = dict(recoveries.recovery_ended(states, received))
    entry = states[stream].recoveries.get(m.job)
    if entry is None or not entry.parent or stream not in decisions:
        return decisions
    news = ChildEnded(parent=entry.parent, job=m.job, mode=m.mode, state=m.state, rto_s=m.rto_s)
    own = decisions[stream]
    decisions[stream] = _replace(own, sends=(*own.sends, _to_parent(m.plan, news)))
    return decisions


def parent_ended(state: Plan, received: Received) -> Decision:
    """A search or group ended: checkpoints that were kept for it may expire."""
    m: ParentEnded = received.body
    if m.job not in state.parents:
        return NOTHING
    tidied = tidy(state, state.checkpoints, now=received.at, released=m.job)
    ended = ParentJobEnded(job=m.job, state=m.state)
    return _replace(tidied, events=(ended, *tidied.events))


def _to_parent(plan: str, news: Any) -> Send:
    # Under the child's plan, not the parent's: behind the messages that start the child.
    return Send(to="recovery", key=plan, message=news)


def _told(decisions: Mapping[str, Decision], m: said.Recover) -> Mapping[str, Decision]:
    """The decisions over a child, with its parent written into the plan's and told of it."""
    stream = plan_stream(m.plan)
    if stream not in decisions:
        return decisions
    return {**decisions, stream: _as_child(decisions[stream], m)}


def _as_child(decision: Decision, m: said.Recover) -> Decision:
    """A plan's decision over a child. One that is put off stays a child's; nobody is answered:
    no command was given."""
    news = tuple(_news_of(decision, m))
    return _replace(
        decision,
        events=tuple(_with_parent(event, m.parent) for event in decision.events),
        sends=(
            *(_replace(send, message=_of_parent(send.message, m)) for send in decision.sends),
            *(_to_parent(m.plan, each) for each in news),
        ),
        timers=tuple(_of_child(timer, m) for timer in decision.timers),
        answers=(),
    )


def _news_of(decision: Decision, m: said.Recover) -> Iterator[Any]:
    if any(isinstance(send.message, StartRecovery) for send in decision.sends):
        yield ChildStarted(parent=m.parent, job=m.job)
    for event in decision.events:
        if isinstance(event, RecoveryNotStarted):
            yield ChildRefused(parent=m.parent, job=m.job, problem=event.problem)


def _of_parent(message: Any, m: said.Recover) -> Any:
    """The start of a recovery with its parent in it. A search cleans its tests up itself: the
    plan's `auto_cleanup_after` would take them away under the verdict script."""
    if not isinstance(message, StartRecovery):
        return message
    header = message.header
    if family_of(m.parent) == SEARCH:
        recovery = _replace(header.recovery, auto_cleanup_after_s=None)
        header = _replace(header, recovery=recovery)
    return _replace(message, parent=m.parent, header=header)


def _with_parent(event: Any, parent: str) -> Any:
    return _replace(event, parent=parent) if isinstance(event, said.RecoveryRequested) else event


def _of_child(timer: Timer, m: said.Recover) -> Timer:
    if not isinstance(timer.message, said.Recover):
        return timer
    return _replace(timer, message=RecoverChild(parent=m.parent, recover=timer.message))


# ── Groups ───────────────────────────────────────────────────────────────────────────────────


def recover_group(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Start the recovery of a plan and all it comes after.

    Holds are taken plan by plan, when its turn comes, but the checkpoint that the plan is to be
    recovered from is kept from now on. Raises Refused: `unknown-plan`, `version`, `unknown-vm`;
    `invalid` for a reversal, `prerequisites` for plans that are not there or come after one
    another in a circle, and as `check_checkpoint`.
    """
    m: RecoverGroup = received.body
    stream = plan_stream(m.plan)
    plan: Plan = states[stream]
    standing(plan, m.plan, expected_version=m.expected_version)
    if m.recover.mode == "reverse":
        raise Refused(
            "a reversal brings nothing up, so that no plan comes after another",
            code="invalid",
            remedy="reverse the plans one by one, without --with-prerequisites",
        )
    if m.job in plan.parents:
        return {}
    vms = chosen_vms(plan, m.plan, m.recover.vms)
    if m.recover.checkpoint != LATEST:
        check_checkpoint(plan, m.plan, checkpoint=m.recover.checkpoint, vms=vms)
    order = prerequisites.order_of(states, m.plan, code="prerequisites")
    start = StartRecoveryGroup(
        job=m.job,
        plan=m.plan,
        members=tuple(_member(states, name, m.recover) for name in order),
        recover=m.recover,
        requested_at=asked_at(received),
        actor=received.meta.actor,
    )
    requested = RecoveryGroupRequested(
        job=m.job,
        mode=m.recover.mode,
        plans=order,
        dry_run=m.recover.dry_run,
        checkpoint=m.recover.checkpoint,
    )
    sends = (Send(to="recovery", key=m.plan, message=start),)
    return {stream: Decision(events=(requested,), sends=sends)}


def _member(states: Mapping[str, Any], name: str, recover: said.Recover) -> GroupMember:
    plan: Plan = states[plan_stream(name)]
    assert plan.header is not None, "the order has only plans that stand"
    on_error = recover.on_error or plan.header.recovery.on_error
    return GroupMember(plan=name, after=plan.header.after, tolerant=on_error == "continue")
