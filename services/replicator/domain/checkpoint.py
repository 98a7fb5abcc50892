"""A PIT checkpoint: an immutable copy of each VM's latest copy, and its verified deletion.

Saga. Decides creation and deletion. Does not decide when a checkpoint is made or expires (the
scheduler). A checkpoint counts as available as soon as one VM's copy in it is usable.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from schemas import replicator as said
from schemas import replicator_work as work
from schemas.common import Problem
from schemas.directions import ALL, is_reverse
from schemas.envelope import Received
from schemas.ids import parts_of
from schemas.scheduler import CheckpointEnded, SiteRef
from schemas.units import format_moment
from services.replicator.domain.work import again, needs, problem_of
from shared.decider import (
    NOTHING,
    Decision,
    Effect,
    EffectOutcome,
    EffectTrouble,
    Family,
    Send,
    WorkClass,
)
from shared.errors import Refused

CREATE: Final = "create"
UNDO: Final = "undo"
DELETE: Final = "delete"
VERIFY: Final = "verify-deleted"
AWAY: Final = "away"


class Checkpoint(msgspec.Struct, kw_only=True):
    """A checkpoint. `made` says per VM whether its copy exists; changed in place."""

    started: said.CheckpointStarted | None = None
    made: dict[str, bool] = {}
    cancelling: bool = False
    problem: Problem | None = None
    finished: said.IterationState | Literal[""] = ""
    deleting: bool = False
    removed: set[str] = set()
    troubled: bool = False
    deleted: bool = False


def platform_id(checkpoint: str) -> str:
    """What the checkpoint is called at the target: the last part of its stream id."""
    return parts_of(checkpoint)[-1]


# ── Messages ─────────────────────────────────────────────────────────────────────────────────


def make(state: Checkpoint, received: Received) -> Decision:
    """Begin: one copy per VM, side by side."""
    m: said.MakeCheckpoint = received.body
    if state.started is not None:
        return NOTHING
    event = said.CheckpointStarted(
        plan=m.plan,
        plan_version=m.plan_version,
        header=m.header,
        vms=m.vms,
        preserved=m.preserved,
        requested_at=m.requested_at,
        reverse=m.reverse,
    )
    if not m.vms:
        nothing = Problem(
            code="no-copy",
            message=f"no VM of {m.plan} has a copy yet",
            remedy="let a first replication finish",
        )
        return _ended(event, (event,), m.checkpoint, state="failed", vms=(), problem=nothing)
    creates = tuple(_create(event, vm, m.checkpoint) for vm in m.vms)
    return Decision(events=(event,), effects=creates)


def cancel_job(state: Checkpoint, received: Received) -> Decision:
    """A person cancels the creation: what was made is removed again."""
    m: said.CancelJob = received.body
    if state.started is None:
        raise Refused(f"there is no job {m.job}", code="unknown-job", remedy="see `job list`")
    if state.deleting:
        raise Refused(
            f"{m.job} is being deleted, which cannot be undone half-way", code="not-cancellable"
        )
    if state.finished:
        raise Refused(f"job {m.job} has ended already", code="job-ended")
    if state.cancelling:
        return NOTHING
    stop = tuple(f"{CREATE}/{vm}" for vm in state.started.vms if vm not in state.made)
    return Decision(events=(said.CheckpointCancelRequested(),), cancel_effects=stop)


def delete(state: Checkpoint, received: Received) -> Decision:
    """Delete every VM's copy; those that never came to be are looked for, too."""
    m: said.DeleteCheckpoint = received.body
    start = state.started
    if start is None or not state.finished or state.deleting:
        return NOTHING
    event = said.CheckpointDeletionStarted(plan=start.plan)
    if not start.vms:
        return Decision(events=(event,), effects=_verify(start, m.checkpoint, received))
    effects = tuple(_remove(start, vm, m.checkpoint, DELETE, received) for vm in start.vms)
    return Decision(events=(event,), effects=effects)


def outcome(state: Checkpoint, received: Received) -> Decision:
    """A VM's copy was made or removed, or the listing was looked at."""
    ended: EffectOutcome = received.body
    start = state.started
    step, _, vm = ended.part.partition("/")
    if start is None or state.deleted:
        return NOTHING
    if step == CREATE:
        return _vm_made(state, start, vm, received)
    if step == UNDO:
        return _vm_undone(state, start, vm, received)
    if step == DELETE:
        return _vm_removed(state, start, vm, received)
    return _verified(state, start, received)


def trouble(state: Checkpoint, received: Received) -> Decision:
    """A removal fails and fails: people are told, once per checkpoint."""
    body: EffectTrouble = received.body
    step, _, vm = body.part.partition("/")
    if state.started is None or state.troubled or step == CREATE:
        return NOTHING
    problem = Problem(
        code=body.code or "step-failed",
        message=f"removing {f'the copy of {vm}' if vm else 'the checkpoint'}: {body.error}",
        remedy=body.remedy,
    )
    fact = said.CheckpointRemovalTroubled(
        plan=state.started.plan, vm=vm, attempts=body.attempts, problem=problem
    )
    return Decision(events=(fact,))


# ── Creation ─────────────────────────────────────────────────────────────────────────────────


def _site_of(start: said.CheckpointStarted, vm: str) -> SiteRef:
    """Where a VM's copies are: in reverse at the site that it came from."""
    header = start.header
    return header.protected if is_reverse(start.reverse, vm) else header.recovery_site


def _create(start: said.CheckpointStarted, vm: str, checkpoint: str) -> Effect:
    site = _site_of(start, vm)
    payload = work.CreateVmCheckpoint(
        target=site,
        plan=start.plan,
        vm=vm,
        checkpoint_id=platform_id(checkpoint),
        # The VM's own definition is in the manifest of the copy already; this adds the plan's.
        manifest={
            "checkpoint": checkpoint,
            "plan_version": start.plan_version,
            "requested_at": format_moment(start.requested_at),
            "recovery": msgspec.to_builtins(start.header.recovery),
            "targets": msgspec.to_builtins(start.header.targets),
        },
    )
    return Effect(
        part=f"{CREATE}/{vm}",
        kind="create-checkpoint",
        payload=payload,
        due=start.requested_at,
        work_class=WorkClass.CHECKPOINT,
        priority=start.header.replication.priority,
        plan=start.plan,
        needs=needs("create-checkpoint", site.site),
    )


def _vm_made(
    state: Checkpoint, start: said.CheckpointStarted, vm: str, received: Received
) -> Decision:
    ended: EffectOutcome = received.body
    if vm in state.made or state.finished:
        return NOTHING
    if ended.ok:
        made: work.VmCheckpointCreated = ended.result
        event = said.VmCheckpointed(vm=vm, taken_at=made.taken_at, copy_id=made.copy_id)
    else:
        event = said.VmCheckpointed(vm=vm, problem=problem_of(ended, f"checkpoint of {vm}"))
    if len(state.made) + 1 < len(start.vms):
        return Decision(events=(event,))
    after = _after(state, event)
    checkpoint = received.stream
    if after.cancelling:
        # A cancelled call may have been carried out: every VM's copy is looked for and removed.
        undo = tuple(_remove(start, each, checkpoint, UNDO, received) for each in start.vms)
        return Decision(events=(event,), effects=undo)
    usable = tuple(each for each in start.vms if after.made[each])
    end: said.IterationState = "completed"
    if len(usable) < len(start.vms):
        end = "partially-completed" if usable else "failed"
    return _ended(start, (event,), checkpoint, state=end, vms=usable, problem=after.problem)


def _vm_undone(
    state: Checkpoint, start: said.CheckpointStarted, vm: str, received: Received
) -> Decision:
    """After a cancel: one copy fewer."""
    if vm in state.removed or state.finished:
        return NOTHING
    if not received.body.ok:
        effect = _remove(start, vm, received.stream, UNDO, received)
        return Decision(effects=(again(effect, received.body),))
    event = said.VmCheckpointDeleted(vm=vm)
    if len(state.removed) + 1 < len(start.vms):
        return Decision(events=(event,))
    problem = Problem(code="cancelled", message="the checkpoint was cancelled")
    return _ended(start, (event,), received.stream, state="cancelled", vms=(), problem=problem)


def _ended(
    start: said.CheckpointStarted,
    events: tuple[Any, ...],
    checkpoint: str,
    *,
    state: said.IterationState,
    vms: tuple[str, ...],
    problem: Problem | None,
) -> Decision:
    final = said.CheckpointFinished(plan=start.plan, state=state, vms=vms, problem=problem)
    news = CheckpointEnded(
        plan=start.plan,
        checkpoint=checkpoint,
        state="available" if vms else "failed",
        created_at=start.requested_at,
        vms=vms,
        problem=problem,
    )
    return Decision(
        events=(*events, final), sends=(Send(to="scheduler", key=start.plan, message=news),)
    )


# ── Deletion ─────────────────────────────────────────────────────────────────────────────────


def _remove(
    start: said.CheckpointStarted, vm: str, checkpoint: str, step: str, received: Received
) -> Effect:
    site = _site_of(start, vm)
    return Effect(
        part=f"{step}/{vm}",
        kind="delete-checkpoint",
        payload=work.DeleteVmCheckpoint(
            target=site, plan=start.plan, vm=vm, checkpoint_id=platform_id(checkpoint)
        ),
        due=received.at,
        work_class=WorkClass.CHECKPOINT,
        priority=start.header.replication.priority,
        plan=start.plan,
        needs=needs("delete-checkpoint", site.site),
    )


def _vm_removed(
    state: Checkpoint, start: said.CheckpointStarted, vm: str, received: Received
) -> Decision:
    if vm in state.removed or not state.deleting:
        return NOTHING
    if not received.body.ok:
        effect = _remove(start, vm, received.stream, DELETE, received)
        return Decision(effects=(again(effect, received.body),))
    event = said.VmCheckpointDeleted(vm=vm)
    if len(state.removed) + 1 < len(start.vms):
        return Decision(events=(event,))
    return Decision(events=(event,), effects=_verify(start, received.stream, received))


def _verify(
    start: said.CheckpointStarted, checkpoint: str, received: Received, *, away: bool = False
) -> tuple[Effect, ...]:
    """Look at the listing; with VMs of both directions first at the recovery site, then `away`
    at the other one."""
    site = start.header.recovery_site
    if away or start.reverse == ALL:
        site = start.header.protected
    effect = _look(start, checkpoint, received, site, part=f"{VERIFY}/{AWAY}" if away else VERIFY)
    return (effect,)


def _look(
    start: said.CheckpointStarted,
    checkpoint: str,
    received: Received,
    site: SiteRef,
    *,
    part: str,
) -> Effect:
    return Effect(
        part=part,
        kind=VERIFY,
        payload=work.VerifyCheckpointDeleted(
            target=site, plan=start.plan, checkpoint_id=platform_id(checkpoint)
        ),
        due=received.at,
        work_class=WorkClass.CHECKPOINT,
        priority=start.header.replication.priority,
        plan=start.plan,
        needs=needs("verify-deleted", site.site),
    )


def _verified(state: Checkpoint, start: said.CheckpointStarted, received: Received) -> Decision:
    if not state.deleting:
        return NOTHING
    away = received.body.part.endswith(f"/{AWAY}")
    if not received.body.ok:
        (effect,) = _verify(start, received.stream, received, away=away)
        return Decision(effects=(again(effect, received.body),))
    if not away and start.reverse and start.reverse != ALL:
        return Decision(effects=_verify(start, received.stream, received, away=True))
    news = CheckpointEnded(
        plan=start.plan,
        checkpoint=received.stream,
        state="deleted",
        created_at=start.requested_at,
    )
    return Decision(
        events=(said.CheckpointDeleted(plan=start.plan),),
        sends=(Send(to="scheduler", key=start.plan, message=news),),
    )


# ── Folding ──────────────────────────────────────────────────────────────────────────────────


def _after(state: Checkpoint, event: Any) -> Checkpoint:
    """The state after an event, without touching the one given."""
    copy = msgspec.structs.replace(state, made=state.made.copy(), removed=state.removed.copy())
    return evolve(copy, event)


def evolve(state: Checkpoint, event: Any) -> Checkpoint:
    """Apply one fact, in place."""
    match event:
        case said.CheckpointStarted():
            state.started = event
        case said.VmCheckpointed():
            state.made[event.vm] = event.problem is None
            cancelled = state.cancelling and event.problem is not None
            if not cancelled:
                state.problem = state.problem or event.problem
        case said.CheckpointCancelRequested():
            state.cancelling = True
        case said.CheckpointFinished():
            state.finished = event.state
            state.removed, state.troubled = set(), False
        case said.CheckpointDeletionStarted():
            state.deleting = True
        case said.CheckpointRemovalTroubled():
            state.troubled = True
        case said.VmCheckpointDeleted():
            state.removed.add(event.vm)
        case said.CheckpointDeleted():
            state.deleted = True
        case _:
            raise AssertionError(f"{type(event).__name__} is no event of a checkpoint")
    return state


FAMILY = Family(
    name="checkpoint",
    state=Checkpoint,
    initial=Checkpoint,
    evolve=evolve,
    is_terminal=lambda state: state.deleted or state.finished in ("failed", "cancelled"),
    outcome=outcome,
    trouble=trouble,
    schema=2,
)
