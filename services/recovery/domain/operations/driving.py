"""What a recovery asks for about its sources when a phase of `securing` begins or ends.

Saga. Decides nothing that `securing` has not decided: it turns phases into facts and messages.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from schemas import operations as said
from schemas.common import Problem, StepState, StepTiming
from schemas.recovery import AbandonVm, MemberEnded
from schemas.scheduler import SiteLost, SyncLast
from services.recovery.domain.operations import of, securing
from services.recovery.domain.operations.securing import SYNC
from services.recovery.domain.operations.source import source_stream
from services.recovery.domain.recovery_draft import RecoveryDraft
from services.recovery.domain.recovery_state import Recovery, phase_of, told
from services.recovery.domain.vm_state import vm_stream
from shared.decider import Send

LOST_FOR_S: Final = 60.0
"""How long a site that preflight did not reach counts as lost without another look."""

SHUT_DOWN_WITHIN_S: Final = 120.0
"""How long a guest may take to shut down before it is powered off, or the migration is off."""


def drive(draft: RecoveryDraft) -> None:
    """Bring the sources as far as they can be brought in this step."""
    if phase_of(draft.state) == "fence":
        _fence(draft)
    if phase_of(draft.state) == "last-sync":
        _sync(draft)
    if phase_of(draft.state) == "restore":
        _restore(draft)


# ── News ─────────────────────────────────────────────────────────────────────────────────────


def about_source(state: Recovery, m: said.SourceNews) -> Any:
    """The fact that news of a VM's source is; None for what is known already."""
    side, start = state.source, told(state)
    if m.vm not in state.roster:
        return None
    if m.news in ("on", "untouched", "stays-off"):
        if m.vm in side.returned:
            return None
        return said.MemberRestored(vm=m.vm, at=m.at, state=m.news, problem=m.problem)
    if m.vm in side.states:
        return None
    word = m.unreachable and start.source_gone and of(start.mode).trusts_word
    secured: said.Secured = "off" if m.news == "off" else "gone" if word else "failed"
    return said.MemberSecured(vm=m.vm, at=m.at, state=secured, forced=m.forced, problem=m.problem)


def about_sync(state: Recovery, m: said.LastSyncEnded, *, at: dt.datetime) -> Any:
    """The fact that the end of a VM's last iteration is; None where nobody waits for it."""
    if phase_of(state) != "last-sync" or m.vm in state.source.synced:
        return None
    return said.MemberSynced(
        vm=m.vm, at=at, state=m.state, checkpoint_at=m.checkpoint_at, problem=m.problem
    )


# ── Forward ──────────────────────────────────────────────────────────────────────────────────


def _fence(draft: RecoveryDraft) -> None:
    state = draft.state
    if state.source.begun_at is None:
        _begin_fence(draft)
    side = draft.state.source
    if not side.lost and len(side.states) < len(state.roster):
        return
    for vm, secured in side.states.items():
        if secured == "failed" and not side.failed:
            _leave_out(draft, vm)
    if securing.gives_up_unreached(side):
        start = told(state)
        lost = SiteLost(site=start.header.protected.site, plan=start.plan, job=start.job)
        draft.sends.append(Send(to="scheduler", key=start.plan, message=lost))
    step = of(told(state).mode).source_step
    outcome: StepState = "failed" if side.failed or side.troubled else "completed"
    draft.say(said.SourcesSecured(timing=_timing(draft, step, side.begun_at, outcome)))


def _begin_fence(draft: RecoveryDraft) -> None:
    state, start = draft.state, told(draft.state)
    if _is_lost(draft):
        draft.say(said.SourceSiteLost(site=start.header.protected.site, at=draft.now))
        return
    draft.say(said.SourcesSecuring(at=draft.now))
    for vm in state.roster:
        message = said.SecureSource(
            stream=source_stream(start.job, vm),
            job=start.job,
            plan=start.plan,
            vm=vm,
            site=start.header.protected,
            force=of(start.mode).forces,
            within_s=SHUT_DOWN_WITHIN_S,
            requested_at=start.requested_at,
            priority=start.header.replication.priority,
            instance=_instance(state, vm),
        )
        draft.sends.append(Send(to="recovery", key=start.plan, message=message))


def _is_lost(draft: RecoveryDraft) -> bool:
    """Whether the site was not reached just now. What preflight saw before people were waited for
    is old: each source is looked at then, and is gone by their word where it is not reached."""
    preflight = draft.state.preflight
    if preflight is None or not preflight.source_lost:
        return False
    seen = preflight.timing.ended_at
    return seen is None or draft.now - seen <= dt.timedelta(seconds=LOST_FOR_S)


def _instance(state: Recovery, vm: str) -> str:
    """What a VM runs as, where that is no VM of its site's own."""
    source = state.instances.get(vm)
    return source.instance if source is not None else ""


def _leave_out(draft: RecoveryDraft, vm: str) -> None:
    """One VM cannot be fenced, the others go on: two of it must not run."""
    start = told(draft.state)
    problem = draft.state.source.problem or Problem(code="not-fenced", message=f"{vm} still runs")
    draft.say(
        MemberEnded(vm=vm, at=draft.now, outcome="failed", problem=problem),
    )
    for message in (
        AbandonVm(stream=vm_stream(start.job, vm), reason="stop"),
        # It may have been asked to end and do so late: it is switched on if it did.
        said.RestoreSource(stream=source_stream(start.job, vm), by=start.job),
    ):
        draft.sends.append(Send(to="recovery", key=start.plan, message=message))


def _sync(draft: RecoveryDraft) -> None:
    start = told(draft.state)
    if draft.state.source.sync_at is None:
        vms = securing.to_sync(draft.state.source)
        draft.say(said.LastSyncAsked(at=draft.now, count=len(vms)))
        message = SyncLast(plan=start.plan, job=start.job, vms=vms)
        draft.sends.append(Send(to="scheduler", key=start.plan, message=message))
    side = draft.state.source
    if len(side.synced) < side.syncing:
        return
    outcome: StepState = "completed" if side.syncing else "skipped"
    if any(state != "completed" for state in side.synced.values()):
        outcome = "failed"
    draft.say(said.LastSyncFinished(timing=_timing(draft, SYNC, side.sync_at, outcome)))


# ── Undo ─────────────────────────────────────────────────────────────────────────────────────


def _restore(draft: RecoveryDraft) -> None:
    state, start = draft.state, told(draft.state)
    if state.source.restoring_at is None:
        _break_off(draft)
        draft.say(said.SourcesRestoring(at=draft.now))
        # One of a lost site that nobody touched answers at once, without a call there.
        for vm in state.roster:
            message = said.RestoreSource(stream=source_stream(start.job, vm), by=start.job)
            draft.sends.append(Send(to="recovery", key=start.plan, message=message))
    side = draft.state.source
    if len(side.returned) < len(state.roster):
        return
    stays = "stays-off" in side.returned.values()
    outcome: StepState = "failed" if stays else "completed"
    timing = _timing(draft, securing.RESTORE, side.restoring_at, outcome)
    draft.say(said.SourcesRestored(timing=timing))


def _break_off(draft: RecoveryDraft) -> None:
    """The step under way is not waited for any more: it failed, or was cancelled."""
    side, start = draft.state.source, told(draft.state)
    outcome: StepState = "failed" if side.failed else "cancelled"
    if not side.secured:
        timing = _timing(draft, of(start.mode).source_step, side.begun_at, outcome)
        draft.say(said.SourcesSecured(timing=timing))
    elif side.sync_at is not None and not side.sync_over:
        draft.say(said.LastSyncFinished(timing=_timing(draft, SYNC, side.sync_at, outcome)))


def _timing(
    draft: RecoveryDraft, step: str, since: dt.datetime | None, state: StepState
) -> StepTiming:
    problem = draft.state.source.problem if state == "failed" else None
    return StepTiming(
        name=step,
        state=state,
        started_at=since,
        ended_at=draft.now,
        error=problem.message if problem is not None else "",
        remedy=problem.remedy if problem is not None else "",
    )
