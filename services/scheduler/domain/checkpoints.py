"""PIT checkpoints of a plan: made by schedule or by hand, kept by rules, deleted when none keeps.

Reconciler: every news about a checkpoint looks at all of them again. No hold is written per VM:
a checkpoint's read-copy excludes nothing, and what it reads is held at the target meanwhile.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from schemas import scheduler as said
from schemas.directions import in_short
from schemas.envelope import Received
from schemas.plans import CheckpointPolicy
from schemas.replicator import DeleteCheckpoint, MakeCheckpoint
from services.scheduler.domain.names import checkpoint_id, plan_stream, vm_stream
from services.scheduler.domain.patience import NotYet, asked_at
from services.scheduler.domain.plan import CheckpointEntry, Plan, jobs_using, standing, uses
from services.scheduler.domain.protected_vm import ProtectedVm, copy_is_coming, heading
from services.scheduler.domain.retention import CheckpointFacts, expired, next_checkpoint
from shared.decider import NEW_STORY, NOTHING, Decision, Send, Timer
from shared.errors import Refused

CHECKPOINT_TIMER: Final = "checkpoint"
RETENTION_TIMER: Final = "retention"


def checkpoint_due(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """A scheduled checkpoint: made if there is a copy and the one before is done."""
    m: said.CheckpointDue = received.body
    plan: Plan = states[received.stream]
    header = plan.header
    if header is None or header.checkpoints is None:
        return {}
    timers = _next_timer(header, header.checkpoints, after=max(received.at, m.due_at))
    # Copies of VMs that run elsewhere stand still: one more of them would only push out others.
    copied = _with_copy(states, plan, header.name)
    vms = tuple(vm for vm in copied if not states[vm_stream(header.name, vm)].moved)
    job = checkpoint_id(header.name, m.due_at)
    being_made = any(entry.state == "creating" for entry in plan.checkpoints.values())
    if not vms or being_made or job in plan.checkpoints:
        return {received.stream: Decision(timers=timers)}
    reverse = _in_reverse(states, header.name, vms)
    decision = _make(
        plan, header, job=job, vms=vms, reverse=reverse, preserved=False, at=received.at
    )
    return {received.stream: Decision(events=decision.events, sends=decision.sends, timers=timers)}


def create_checkpoint(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """A checkpoint by hand, now."""
    m: said.CreateCheckpoint = received.body
    stream = plan_stream(m.plan)
    plan: Plan = states[stream]
    header = standing(plan, m.plan, expected_version=m.expected_version)
    if m.job in plan.checkpoints:
        return {}
    vms = _with_copy(states, plan, m.plan)
    if not vms:
        coming = any(copy_is_coming(states[vm_stream(m.plan, vm)]) for vm in plan.vms)
        raise (NotYet if coming else Refused)(
            f"no VM of plan {m.plan!r} has a finished copy yet",
            code="no-copy",
            remedy=f"`seawall plan run {m.plan}` makes the first copies",
        )
    at = asked_at(received)
    reverse = _in_reverse(states, m.plan, vms)
    made = _make(plan, header, job=m.job, vms=vms, reverse=reverse, preserved=m.preserved, at=at)
    return {stream: made}


def _in_reverse(states: Mapping[str, Any], plan: str, vms: tuple[str, ...]) -> tuple[str, ...]:
    """Those whose copies are at the protected site, as a checkpoint remembers it."""
    return in_short(vms, {vm for vm in vms if heading(states[vm_stream(plan, vm)]).reverse})


def checkpoint_ended(state: Plan, received: Received) -> Decision:
    """The replicator made a checkpoint, could not, or has deleted one."""
    m: said.CheckpointEnded = received.body
    entry = state.checkpoints.get(m.checkpoint)
    if entry is None or (m.state != "deleted" and entry.state != "creating"):
        return NOTHING
    recorded = said.CheckpointRecorded(
        checkpoint=m.checkpoint, state=m.state, created_at=m.created_at, vms=m.vms
    )
    if m.state != "available":
        return Decision(events=(recorded,))
    finished = CheckpointEntry(
        created_at=m.created_at, state="available", preserved=entry.preserved, vms=m.vms
    )
    tidied = tidy(state, {**state.checkpoints, m.checkpoint: finished}, now=received.at)
    return Decision(events=(recorded, *tidied.events), sends=tidied.sends, timers=tidied.timers)


def retention_due(state: Plan, received: Received) -> Decision:
    """A checkpoint may have outlived `keep_for`."""
    return tidy(state, state.checkpoints, now=received.at)


def change_checkpoint(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Preserve, unpreserve or delete by hand."""
    ((stream, state),) = states.items()
    return {stream: _change(state, received)}


def _change(state: Plan, received: Received) -> Decision:
    m: said.ChangeCheckpoint = received.body
    entry = state.checkpoints.get(m.checkpoint)
    if entry is None:
        raise Refused(
            f"plan {m.plan!r} has no checkpoint {m.checkpoint!r}",
            code="unknown-checkpoint",
            remedy=f"`seawall checkpoint list {m.plan}` shows them",
        )
    if m.action == "delete":
        return _delete(state, m, entry)
    if entry.state == "expiring":
        raise Refused(
            f"{m.checkpoint} is being deleted",
            code="expiring",
            remedy="make a new checkpoint",
        )
    preserved = m.action == "preserve"
    if entry.preserved == preserved:
        return NOTHING
    changed = said.CheckpointPreservationChanged(checkpoint=m.checkpoint, preserved=preserved)
    after = CheckpointEntry(
        created_at=entry.created_at, state=entry.state, preserved=preserved, vms=entry.vms
    )
    tidied = tidy(state, {**state.checkpoints, m.checkpoint: after}, now=received.at)
    return Decision(events=(changed, *tidied.events), sends=tidied.sends, timers=tidied.timers)


def tidy(
    state: Plan,
    checkpoints: Mapping[str, CheckpointEntry],
    *,
    now: dt.datetime,
    released: str = "",
) -> Decision:
    """Let go of what no rule keeps, and look again when `keep_for` of the next is over.

    `checkpoints` is what stands after the decision in hand, `released` a job that no longer needs
    any of them. Without a plan, or without a policy, nothing expires.
    """
    header = state.header
    if header is None or header.checkpoints is None:
        return NOTHING
    policy = header.checkpoints
    used = {checkpoint for job, checkpoint in uses(state) if job != released}
    facts = [
        CheckpointFacts(
            id=key, created_at=entry.created_at, preserved=entry.preserved, in_use=key in used
        )
        for key, entry in checkpoints.items()
        if entry.state == "available"
    ]
    gone = expired(facts, keep_last=policy.keep_last, keep_for_s=policy.keep_for_s, now=now)
    events = tuple(_expiring(key, checkpoints[key]) for key in gone)
    sends = tuple(_deletion(header.name, key) for key in gone)
    left = [each for each in facts if each.id not in gone]
    return Decision(events=events, sends=sends, timers=_retention_timer(policy, left, now=now))


def policy_timers(
    state: Plan, header: said.PlanHeader, *, now: dt.datetime
) -> tuple[tuple[Timer, ...], tuple[str, ...]]:
    """Timers to set and to cancel when `header` takes effect."""
    policy = header.checkpoints
    if policy is None:
        return (), (CHECKPOINT_TIMER, RETENTION_TIMER)
    before = state.header
    if (
        before is not None
        and before.checkpoints == policy
        and before.replication.start_at == header.replication.start_at
    ):
        return (), ()
    timers = _next_timer(header, policy, after=now)
    cancelled = () if timers else (CHECKPOINT_TIMER,)
    return (*timers, _look(now)), cancelled


def _make(
    plan: Plan,
    header: said.PlanHeader,
    *,
    job: str,
    vms: tuple[str, ...],
    reverse: tuple[str, ...],
    preserved: bool,
    at: dt.datetime,
) -> Decision:
    requested = said.CheckpointRequested(
        checkpoint=job, vms=vms, preserved=preserved, requested_at=at, reverse=reverse
    )
    message = MakeCheckpoint(
        checkpoint=job,
        plan=header.name,
        plan_version=plan.version,
        header=header,
        vms=vms,
        preserved=preserved,
        requested_at=at,
        reverse=reverse,
    )
    return Decision(
        events=(requested,), sends=(Send(to="replicator", key=header.name, message=message),)
    )


def _delete(state: Plan, m: said.ChangeCheckpoint, entry: CheckpointEntry) -> Decision:
    if entry.state == "expiring":
        return NOTHING
    users = jobs_using(state, m.checkpoint)
    if users:
        raise NotYet(
            f"{m.checkpoint} is in use by {users[0]}",
            code="in-use",
            remedy="let the job end and clean it up first",
        )
    if entry.preserved:
        raise Refused(
            f"{m.checkpoint} is preserved",
            code="preserved",
            remedy=f"`seawall checkpoint unpreserve {m.checkpoint}` first",
        )
    if entry.state == "creating":
        raise NotYet(
            f"{m.checkpoint} is still being made",
            code="busy",
            remedy="wait until it is available, or cancel its job",
        )
    return Decision(
        events=(_expiring(m.checkpoint, entry),), sends=(_deletion(m.plan, m.checkpoint),)
    )


def _expiring(checkpoint: str, entry: CheckpointEntry) -> said.CheckpointRecorded:
    return said.CheckpointRecorded(
        checkpoint=checkpoint, state="expiring", created_at=entry.created_at, vms=entry.vms
    )


def _deletion(plan: str, checkpoint: str) -> Send:
    message = DeleteCheckpoint(checkpoint=checkpoint, plan=plan)
    return Send(to="replicator", key=plan, message=message)


def _with_copy(states: Mapping[str, Any], plan: Plan, name: str) -> tuple[str, ...]:
    """The VMs that have something to make a checkpoint of."""
    members: Mapping[str, ProtectedVm] = {vm: states[vm_stream(name, vm)] for vm in plan.vms}
    return tuple(vm for vm, member in members.items() if member.last_checkpoint_at is not None)


def _next_timer(
    header: said.PlanHeader, policy: CheckpointPolicy, *, after: dt.datetime
) -> tuple[Timer, ...]:
    due = next_checkpoint(policy, start_at=header.replication.start_at, after=after)
    if due is None:
        return ()
    message = said.CheckpointDue(due_at=due)
    return (Timer(name=CHECKPOINT_TIMER, due=due, message=message, story=NEW_STORY),)


def _retention_timer(
    policy: CheckpointPolicy, left: list[CheckpointFacts], *, now: dt.datetime
) -> tuple[Timer, ...]:
    """When the next one's `keep_for` is over; one in use is looked at when it is released."""
    if policy.keep_for_s is None:
        return ()
    rotating = sorted(
        (each for each in left if not each.preserved), key=lambda each: each.created_at
    )
    kept_by_count = policy.keep_last or 0
    ageing = rotating[: max(len(rotating) - kept_by_count, 0)]
    free = [each.created_at for each in ageing if not each.in_use]
    if not free:
        return ()
    over = free[0] + dt.timedelta(seconds=policy.keep_for_s, milliseconds=1)
    return (_look(max(over, now)),)


def _look(due: dt.datetime) -> Timer:
    return Timer(name=RETENTION_TIMER, due=due, message=said.RetentionDue(), story=NEW_STORY)
