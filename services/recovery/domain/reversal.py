"""Reversal: the instances that a recovery brought up become the sources of their VMs.

Saga. Forward: preflight, mark the direction, resync, verify; then the VMs whose copies are
verified turn. Undo: what is marked and does not turn is dropped, by the scheduler, in the step
that hears the end; iterations undo themselves. Decides the steps and the outcome. Does not decide
whether VMs may be reversed nor which way that is (the scheduler), nor how bytes move.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal

import msgspec

from schemas import reversals as said
from schemas.common import Problem, RecoveryState, StepState, StepTiming
from schemas.directions import (
    CancelSync,
    DirectionMarked,
    FreeInstances,
    InstancesTaken,
    MarkDirection,
    SourceInstance,
    TakeInstances,
    in_parts,
)
from schemas.envelope import Received
from schemas.operations import LastSyncEnded
from schemas.recovery import CancelRecoveryJob
from schemas.reversals import DROP, MARK, PREFLIGHT, RESYNC, VERIFY
from schemas.scheduler import RecoveryEnded, ReleaseHolds, SyncLast
from schemas.units import some_of
from services.recovery.domain import refusals
from services.recovery.domain.draft import Draft
from services.recovery.domain.instances import by_maker
from services.recovery.domain.recovery_state import Recovery
from services.recovery.domain.work import recovery_effect, refuted, step_of
from shared.decider import NOTHING, Decision, Effect, EffectOutcome, Family, Send

# ── Parameters ───────────────────────────────────────────────────────────────────────────────

DEFINITION_VERSION: Final = 1
STEPS: Final = (PREFLIGHT, MARK, RESYNC, VERIFY)
NAMED_MAX: Final = 10

Phase = Literal["new", "preflight", "mark", "resync", "verify", "closing", "ended"]


class Reversal(msgspec.Struct, frozen=True, kw_only=True):
    """A reversal. `synced` has, per VM whose iteration ended, the moment of the copy it made.

    `refused`: preflight found it impossible. `troubled`: something of a VM did not go well.
    """

    started: said.ReversalStarted | None = None
    sources: dict[str, SourceInstance] = {}
    looked: bool = False
    refused: bool = False
    marking_at: dt.datetime | None = None
    marked: int = 0
    sync_at: dt.datetime | None = None
    synced: dict[str, dt.datetime | None] = {}
    sync_over: bool = False
    verified: bool = False
    missing: frozenset[str] = frozenset()
    cancelling: bool = False
    troubled: bool = False
    problem: Problem | None = None
    steps: tuple[StepTiming, ...] = ()
    finished: said.ReversalFinished | None = None


# ── Actions ──────────────────────────────────────────────────────────────────────────────────


def streams_of_groups(received: Received) -> tuple[str, ...]:
    """The reversal, and the recoveries that know what its VMs run as."""
    m: said.StartReversal = received.body
    return tuple(dict.fromkeys((m.job, *(group.moved_by for group in m.groups))))


def begin(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Begin with preflight; where a VM has no instance, end with that.

    What is to be read is taken in the same step: a cleanup that comes later finds it in use, one
    that is under way leaves no instance to reverse.
    """
    m: said.StartReversal = received.body
    state: Reversal = states[m.job]
    if state.started is not None:
        return {}
    vms = tuple(vm for group in m.groups for vm in group.vms)
    started = said.ReversalStarted(
        job=m.job,
        plan=m.plan,
        plan_version=m.plan_version,
        header=m.header,
        vms=vms,
        dry_run=m.dry_run,
        requested_at=m.requested_at,
        actor=m.actor,
        steps=(PREFLIGHT,) if m.dry_run else STEPS,
        definition_version=DEFINITION_VERSION,
    )
    sources = tuple(_sources(states, m))
    events: list[Any] = [started]
    events += [said.ReversalSources(sources=part) for part in in_parts(sources)]
    without = sorted(set(vms) - {source.vm for source in sources})
    if without:
        events.append(_no_instances(without, received.at))
    begun = {m.job: _proceed(state, tuple(events), received.at)}
    return begun if without or m.dry_run else {**begun, **dict(_taking(m.job, sources))}


def direction_marked(state: Reversal, received: Received) -> Decision:
    """The scheduler marked the direction of some of the VMs."""
    m: DirectionMarked = received.body
    if phase_of(state) != "mark":
        return NOTHING
    last = state.marked + m.count >= len(state.sources)
    timing = _timing(MARK, state.marking_at, received.at, "completed") if last else None
    event = said.ReversalDirectionMarked(count=m.count, timing=timing)
    return _proceed(state, (event,), received.at)


def sync_ended(state: Reversal, received: Received) -> Decision:
    """The iteration of a VM ended."""
    m: LastSyncEnded = received.body
    if phase_of(state) != "resync" or m.vm in state.synced or m.vm not in state.sources:
        return NOTHING
    event = said.ReversalMemberSynced(
        vm=m.vm,
        at=received.at,
        state=m.state,
        checkpoint_at=m.checkpoint_at,
        problem=m.problem,
    )
    return _proceed(state, (event,), received.at)


def cancel(state: Reversal, received: Received) -> Decision:
    """Stop safely: no VM turns. Raises Refused `unknown-job` or `job-ended`."""
    m: CancelRecoveryJob = received.body
    begun, over = state.started is not None, state.finished is not None
    refusals.check_goes_on(m.job, begun=begun, over=over)
    if state.cancelling:
        return NOTHING
    decision = _proceed(state, (said.ReversalCancelRequested(at=received.at),), received.at)
    running = running_of(state)
    sends: tuple[Send, ...] = ()
    if phase_of(state) == "resync" and state.sync_at is not None:
        start = told(state)
        stop = CancelSync(plan=start.plan, job=start.job)
        sends = (Send(to="scheduler", key=start.plan, message=stop),)
    return msgspec.structs.replace(
        decision,
        sends=(*sends, *decision.sends),
        cancel_effects=(running,) if running else (),
    )


def outcome(state: Reversal, received: Received) -> Decision:
    """Preflight or the verification ended."""
    ended: EffectOutcome = received.body
    if not ended.part or ended.part != running_of(state):
        return NOTHING
    end = _looked(ended) if ended.part == PREFLIGHT else _verified(state, ended)
    return _proceed(state, (end,), received.at)


# ── Rules ────────────────────────────────────────────────────────────────────────────────────


def told(state: Reversal) -> said.ReversalStarted:
    """What the reversal was started with; asserts that it was."""
    assert state.started is not None, "started before anything else"
    return state.started


def phase_of(state: Reversal) -> Phase:
    """Where the reversal stands; follows from the facts alone.

    Whatever was asked of others is waited for, also by one that is cancelled: an iteration that
    ends after its direction was dropped would be taken for one of the other direction.
    """
    if state.started is None:
        return "new"
    if state.finished is not None:
        return "ended"
    if not state.looked:
        return "preflight"
    if state.refused or state.started.dry_run or (state.cancelling and state.marking_at is None):
        return "closing"
    if state.marked < len(state.sources):
        return "mark"
    if not state.sync_over and not (state.cancelling and state.sync_at is None):
        return "resync"
    if not state.verified and not state.cancelling and any(state.synced.values()):
        return "verify"
    return "closing"


def running_of(state: Reversal) -> str:
    """The effect part under way, or ""."""
    phase = phase_of(state)
    return {"preflight": PREFLIGHT, "verify": VERIFY}.get(phase, "")


def turned_of(state: Reversal) -> tuple[str, ...]:
    """The VMs that turn: copied, verified, and not cancelled."""
    if state.cancelling or not state.verified:
        return ()
    return tuple(
        vm
        for vm in told(state).vms
        if state.synced.get(vm) is not None and vm not in state.missing
    )


def outcome_of(state: Reversal) -> RecoveryState:
    """The reversal's outcome: the first rule of product.md §5 that fits."""
    if state.cancelling:
        return "cancelled"
    if state.refused or not (told(state).dry_run or turned_of(state)):
        return "failed"
    return "partially-completed" if state.troubled else "completed"


# ── Definition ───────────────────────────────────────────────────────────────────────────────


def evolve(state: Reversal, event: Any) -> Reversal:
    """Apply one fact."""
    replace = msgspec.structs.replace
    match event:
        case said.ReversalStarted():
            return replace(state, started=event)
        case said.ReversalSources():
            named = {source.vm: source for source in event.sources}
            return replace(state, sources={**state.sources, **named})
        case said.ReversalPreflightFinished():
            first = event.problems[0] if event.problems else None
            steps = (*state.steps, event.timing)
            return replace(
                state, looked=True, refused=first is not None, problem=first, steps=steps
            )
        case said.ReversalDirectionMarking():
            return replace(state, marking_at=event.at)
        case said.ReversalDirectionMarked():
            steps = (*state.steps, *((event.timing,) if event.timing is not None else ()))
            return replace(state, marked=state.marked + event.count, steps=steps)
        case said.ReversalResyncAsked():
            return replace(state, sync_at=event.at)
        case said.ReversalMemberSynced():
            return replace(
                state,
                synced={**state.synced, event.vm: event.checkpoint_at},
                troubled=state.troubled or event.state != "completed",
                problem=state.problem or event.problem,
            )
        case said.ReversalResyncFinished():
            return replace(state, sync_over=True, steps=(*state.steps, event.timing))
        case said.ReversalVerified():
            return replace(
                state,
                verified=True,
                missing=frozenset(event.missing),
                troubled=state.troubled or event.problem is not None,
                problem=state.problem or event.problem,
                steps=(*state.steps, event.timing),
            )
        case said.ReversalCancelRequested():
            return replace(state, cancelling=True)
        case said.ReversalFinished():
            return replace(state, finished=event)
    raise AssertionError(f"{type(event).__name__} is no event of a reversal")


FAMILY = Family(
    name="reversal",
    state=Reversal,
    initial=Reversal,
    evolve=evolve,
    is_terminal=lambda state: state.finished is not None,
    outcome=outcome,
)

# ── Implementations ──────────────────────────────────────────────────────────────────────────


class _Draft(Draft[Reversal]):
    """A decision about a reversal."""

    def ask_scheduler(self, message: Any) -> None:
        self.sends.append(Send(to="scheduler", key=told(self.state).plan, message=message))


def _proceed(state: Reversal, events: tuple[Any, ...], now: dt.datetime) -> Decision:
    """The decision that goes with `events`: whatever the new phase asks for, or the end."""
    draft = _Draft(state, now=now, evolve=evolve)
    for event in events:
        draft.say(event)
    if phase_of(draft.state) == "mark" and draft.state.marking_at is None:
        _mark(draft)
    if phase_of(draft.state) == "resync":
        _resync(draft)
    part = running_of(draft.state)
    if part and part != running_of(state):
        draft.effects.append(_effect(draft.state, part))
    if phase_of(draft.state) == "closing":
        _close(draft)
    return draft.decision()


def _sources(states: Mapping[str, Any], m: said.StartReversal) -> Iterator[SourceInstance]:
    """What the VMs run as, as far as the recoveries that moved them brought them up."""
    for group in m.groups:
        parent: Recovery = states[group.moved_by]
        for vm in group.vms:
            member = parent.members.get(vm)
            gone = parent.cleaned or parent.cleaning
            if member is not None and member.outcome == "ready" and not gone:
                yield SourceInstance(vm, member.instance_id, group.moved_by)


def _no_instances(vms: list[str], now: dt.datetime) -> said.ReversalPreflightFinished:
    problem = Problem(
        code="no-instance",
        message=f"no recovery left a usable instance of VM {some_of(vms, NAMED_MAX)}",
        remedy="leave it out: choose the others with --vm",
    )
    timing = _timing(PREFLIGHT, now, now, "failed", problem)
    return said.ReversalPreflightFinished(timing=timing, problems=(problem,))


def _looked(ended: EffectOutcome) -> said.ReversalPreflightFinished:
    timing = step_of(ended, PREFLIGHT)
    if not ended.ok:
        problem = Problem(
            code=ended.code or "preflight-failed",
            message=ended.error,
            remedy=ended.remedy or "look at both sites with `seawall site check`",
        )
        return said.ReversalPreflightFinished(timing=timing, problems=(problem,))
    seen: said.InstancesSeen = ended.result
    if seen.problems:
        timing = refuted(timing, seen.problems[0])
    return said.ReversalPreflightFinished(timing=timing, problems=seen.problems, facts=seen.facts)


def _verified(state: Reversal, ended: EffectOutcome) -> said.ReversalVerified:
    """What was not seen at the target is not there: nothing turns on an unverified copy."""
    timing = step_of(ended, VERIFY)
    site = told(state).header.recovery_site.site
    if not ended.ok:
        problem = Problem(
            code=ended.code or "step-failed",
            message=f"the copies at {site} could not be verified: {ended.error}",
            remedy=ended.remedy or f"see `seawall site check {site}`",
        )
        copied = tuple(vm for vm, moment in state.synced.items() if moment is not None)
        return said.ReversalVerified(timing=timing, missing=copied, problem=problem)
    found: said.CopiesVerified = ended.result
    if not found.missing:
        return said.ReversalVerified(timing=timing)
    problem = Problem(
        code="copy-missing",
        message=f"{site} does not list the copy that was just made of VM "
        f"{some_of(found.missing, NAMED_MAX)}",
        remedy="somebody removed it: reverse again",
    )
    timing = refuted(timing, problem)
    return said.ReversalVerified(timing=timing, missing=found.missing, problem=problem)


def _mark(draft: _Draft) -> None:
    start = told(draft.state)
    draft.say(said.ReversalDirectionMarking(at=draft.now))
    for part in in_parts(draft.state.sources.values()):
        draft.ask_scheduler(MarkDirection(plan=start.plan, job=start.job, sources=part))


def _resync(draft: _Draft) -> None:
    start = told(draft.state)
    if draft.state.sync_at is None:
        draft.say(said.ReversalResyncAsked(at=draft.now))
        draft.ask_scheduler(SyncLast(plan=start.plan, job=start.job, vms=start.vms))
    state = draft.state
    if len(state.synced) < len(start.vms):
        return
    outcome: StepState = "completed" if all(state.synced.values()) else "failed"
    if state.cancelling:
        outcome = "cancelled"
    timing = _timing(RESYNC, state.sync_at, draft.now, outcome, state.problem)
    draft.say(said.ReversalResyncFinished(timing=timing))


def _close(draft: _Draft) -> None:
    """End: those that turn, those that do not, and the holds."""
    state, start = draft.state, told(draft.state)
    turned = turned_of(state)
    stayed = tuple(vm for vm in start.vms if vm not in set(turned))
    end = said.ReversalFinished(
        plan=start.plan,
        state=outcome_of(state),
        turned=len(turned),
        steps=_all_steps(state, stayed, draft.now),
        problem=state.problem,
        dry_run=start.dry_run,
        left=_left(state, stayed),
    )
    draft.say(end)
    draft.ask_scheduler(
        RecoveryEnded(
            plan=start.plan,
            job=start.job,
            mode="reverse",
            state=end.state,
            moved=bool(turned),
            stayed=stayed if turned else (),
        )
    )
    # Which way the VMs go is said first: with the holds a tick that waits would start.
    draft.ask_scheduler(
        ReleaseHolds(plan=start.plan, job=start.job, modes=("write-copy", "own-instance"))
    )
    for message in _told_makers(state, turned):
        draft.sends.append(Send(to="recovery", key=start.plan, message=message))


def _taking(job: str, sources: Iterable[SourceInstance]) -> Iterator[tuple[str, Decision]]:
    """The recoveries that made them know from now on that these instances are sources."""
    events: dict[str, list[Any]] = {}
    for recovery, vms in by_maker(sources):
        events.setdefault(recovery, []).append(InstancesTaken(by=job, vms=vms))
    return ((recovery, Decision(events=tuple(told_now))) for recovery, told_now in events.items())


def _told_makers(
    state: Reversal, turned: tuple[str, ...]
) -> Iterator[TakeInstances | FreeInstances]:
    """Tell the recoveries that made them what became of instances; told already, that is nothing.

    Those that turned were not taken yet where a build before began the reversal.
    """
    job, sources, stay = told(state).job, state.sources.values(), set(turned)
    for recovery, vms in by_maker(each for each in sources if each.vm in stay):
        yield TakeInstances(recovery=recovery, by=job, vms=vms)
    if told(state).dry_run:
        return
    for recovery, vms in by_maker(each for each in sources if each.vm not in stay):
        yield FreeInstances(recovery=recovery, by=job, vms=vms)


def _all_steps(
    state: Reversal, stayed: tuple[str, ...], now: dt.datetime
) -> tuple[StepTiming, ...]:
    """Its steps, with the undo where anything marked did not turn."""
    if state.marking_at is None or not stayed:
        return state.steps
    return (*state.steps, _timing(DROP, now, now, "completed"))


def _left(state: Reversal, stayed: tuple[str, ...]) -> str:
    if told(state).dry_run or not stayed:
        return ""
    return (
        f"{len(stayed)} VM(s) run where they ran and are not replicated: "
        f"{some_of(stayed, NAMED_MAX)}"
    )


def _effect(state: Reversal, part: str) -> Effect:
    start = told(state)
    source, target = start.header.protected, start.header.recovery_site
    tags: dict[str, Any] = {"plan": start.plan, "job": start.job}
    payload: said.LookAtInstances | said.VerifyCopies
    if part == PREFLIGHT:
        kind, site = "look-at-instances", source
        payload = said.LookAtInstances(
            site=site, target=target, sources=tuple(state.sources.values()), **tags
        )
    else:
        kind, site = "verify-copies", target
        copies = tuple((vm, moment) for vm, moment in state.synced.items() if moment is not None)
        payload = said.VerifyCopies(site=site, copies=copies, **tags)
    return recovery_effect(
        part,
        kind,
        payload,
        site=site.site,
        plan=start.plan,
        due=start.requested_at,
        priority=start.header.replication.priority,
    )


def _timing(
    step: str,
    since: dt.datetime | None,
    now: dt.datetime,
    state: StepState,
    problem: Problem | None = None,
) -> StepTiming:
    problem = problem if state == "failed" else None
    return StepTiming(
        name=step,
        state=state,
        started_at=since,
        ended_at=now,
        error=problem.message if problem is not None else "",
        remedy=problem.remedy if problem is not None else "",
    )
