"""Cleanup: list what a recovery made, remove it, and prove by listing that it is gone.

Saga. Decides what is removed in which order and when to list again. Removes only what carries the
recovery's own tag; for a commit, of some of its VMs alone, which does not clean the recovery. Does
not decide whether a recovery may be cleaned (`recovery`, `stranded`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from schemas import recovery as said
from schemas import recovery_steering as steer
from schemas.children import ChildCleaned
from schemas.common import Problem, StepTiming
from schemas.envelope import Received
from schemas.ids import family_of, key_of
from schemas.recovery_work import ListOwned, OwnedListed, RemoveObject
from services.recovery.domain import recovery, refusals, stranded
from services.recovery.domain.recovery_state import Recovery, told
from services.recovery.domain.work import (
    CLEANUP_PRIORITY,
    merged_steps,
    recovery_effect,
    step_of,
)
from shared.decider import NOTHING, Decision, Effect, EffectOutcome, EffectTrouble, Family, Send
from shared.errors import Refused

DEFINITION_VERSION: Final = 1
OBJECTS_MAX: Final = 400
"""Objects of one listing: its event stays below 64 KiB, whatever the recovery's size."""

STEPS: Final = (
    "list",
    "power-off",
    "delete-instances",
    "delete-disks",
    "delete-networks",
    "release-copies",
    "verify",
)
_STEP_OF_KIND: Final = {
    "instance": "delete-instances",
    "disk": "delete-disks",
    "network": "delete-networks",
}

Listed = tuple[str, str, str]


class Cleanup(msgspec.Struct, frozen=True, kw_only=True):
    """A cleanup.

    `left` is what the last listing showed and has not been removed since; `todo` that of it
    which has not been tried yet. `settled` are ids that were tried, `fresh` whether the last
    listing brought any new one, `blind` that the platform could not be listed.
    """

    started: said.CleanupStarted | None = None
    listings: int = 0
    left: tuple[Listed, ...] = ()
    todo: tuple[Listed, ...] = ()
    fresh: bool = True
    off: frozenset[str] = frozenset()
    settled: frozenset[str] = frozenset()
    running: tuple[str, ...] = ()
    removed: int = 0
    cancelling: bool = False
    paused: bool = False
    blind: bool = False
    troubled: bool = False
    problem: Problem | None = None
    steps: tuple[StepTiming, ...] = ()
    finished: bool = False


# ── Messages ─────────────────────────────────────────────────────────────────────────────────


def begin(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Start cleaning a recovery. Decides over the cleanup and the recovery together.

    Raises Refused: `unknown-job`, `still-running`, `already-cleaned`, `nothing-to-clean`,
    `being-cleaned`; for a full recovery as `commit_window.check_cleanup`. What a job asked for
    is not refused: the job is told.
    """
    m: said.StartCleanup | said.BeginCleanup = received.body
    if family_of(m.recovery) != "recovery" or family_of(m.job) != "cleanup":
        raise Refused(f"{m.recovery} is no recovery", code="unknown-job", remedy="see `job list`")
    state: Cleanup = states[m.job]
    parent: Recovery = states[m.recovery]
    if state.started is not None:
        return {}
    asker = m.parent if isinstance(m, said.BeginCleanup) else ""
    try:
        marked = _marked(m, parent)
    except Refused as refused:
        if not isinstance(m, said.BeginCleanup):
            raise
        # Nobody asked, or a job did that is told: a person was faster.
        return {m.job: Decision(sends=_not_begun(m, refused))} if asker else {}
    start = told(parent)
    event = said.CleanupStarted(
        job=m.job,
        plan=start.plan,
        recovery=m.recovery,
        site=start.header.recovery_site,
        steps=STEPS,
        definition_version=DEFINITION_VERSION,
        parent=asker,
        vms=m.vms if isinstance(m, said.BeginCleanup) else (),
    )
    return {m.job: _step(state, (event,), received.at), m.recovery: marked}


def _marked(m: said.StartCleanup | said.BeginCleanup, parent: Recovery) -> Decision:
    """The recovery's part. One that is cleaned of some VMs for its commit stays as it is."""
    if isinstance(m, said.BeginCleanup) and m.vms:
        stranded.check_removal(parent, m.recovery, commit=m.parent)
        return NOTHING
    return recovery.begin_cleanup(
        parent,
        job=m.recovery,
        cleanup=m.job,
        confirm=m.confirm if isinstance(m, said.StartCleanup) else "",
        rollback=m.rollback if isinstance(m, said.BeginCleanup) else "",
    )


def _not_begun(m: said.BeginCleanup, refused: Refused) -> tuple[Send, ...]:
    """What a job hears that asked for a cleanup of what is clean, or that others clean now."""
    clean = refused.code in ("already-cleaned", "nothing-to-clean")
    problem = Problem(code=refused.code, message=refused.message, remedy=refused.remedy)
    news = ChildCleaned(
        parent=m.parent,
        recovery=m.recovery,
        cleanup=m.job,
        remaining=0 if clean else 1,
        problem=None if clean else problem,
    )
    return (Send(to="recovery", key=key_of(m.job), message=news),)


def cancel(state: Cleanup, received: Received) -> Decision:
    """Stop removing. Raises Refused `unknown-job` or `job-ended`."""
    _check_goes_on(state, received.body.job)
    if state.cancelling:
        return NOTHING
    decision = _step(state, (said.CleanupCancelRequested(),), received.at)
    return msgspec.structs.replace(decision, cancel_effects=state.running)


def _check_goes_on(state: Cleanup, job: str) -> None:
    refusals.check_goes_on(job, begun=state.started is not None, over=state.finished)


def pause(state: Cleanup, received: Received) -> Decision:
    """Remove nothing more for now. Raises Refused `unknown-job`, `job-ended` or `cancelling`."""
    _check_goes_on(state, received.body.job)
    if state.cancelling:
        job = received.body.job
        raise Refused(f"{job} is being cancelled", code="cancelling", remedy="wait for its end")
    if state.paused:
        return NOTHING
    paused = steer.CleanupPaused(at=received.at, actor=received.meta.actor)
    return _step(state, (paused,), received.at)


def resume(state: Cleanup, received: Received) -> Decision:
    """Go on removing. Raises Refused `unknown-job` or `job-ended`."""
    _check_goes_on(state, received.body.job)
    if not state.paused:
        return NOTHING
    resumed = steer.CleanupResumed(at=received.at, actor=received.meta.actor)
    return _step(state, (resumed,), received.at)


def asks_nothing(state: Cleanup, received: Received) -> Decision:
    """Nothing in a cleanup waits for a person. Raises Refused."""
    job = received.body.job
    raise Refused(f"{job} asks nothing", code="no-question", remedy="see `job show`")


def outcome(state: Cleanup, received: Received) -> Decision:
    """A listing or a removal ended."""
    ended: EffectOutcome = received.body
    if ended.part not in state.running:
        return NOTHING
    if ended.part.startswith("list/"):
        return _step(state, (_listing_end(state, ended),), received.at)
    return _step(state, (_removal_end(state, ended),), received.at)


def trouble(state: Cleanup, received: Received) -> Decision:
    """Something cannot be listed or removed and is still being tried: people are told, once."""
    body: EffectTrouble = received.body
    if state.troubled or body.part not in state.running:
        return NOTHING
    start = _started(state)
    action, _, thing = body.part.partition("/")
    kind, _, object_id = ("listing", "", "") if action == "list" else thing.partition("/")
    problem = Problem(
        code=body.code or "step-failed",
        message=f"{action} {kind} {object_id}: {body.error}" if object_id else body.error,
        remedy=body.remedy,
    )
    fact = said.CleanupTroubled(
        plan=start.plan,
        recovery=start.recovery,
        kind=kind,
        object_id=object_id,
        attempts=body.attempts,
        problem=problem,
    )
    return _step(state, (fact,), received.at)


# ── Facts ────────────────────────────────────────────────────────────────────────────────────


def _listing_end(state: Cleanup, ended: EffectOutcome) -> Any:
    step = "verify" if state.listings else "list"
    timing = step_of(ended, step)
    if ended.ok:
        answer: OwnedListed = ended.result
        return said.CleanupListed(
            objects=answer.objects,
            verifying=state.listings > 0,
            total=answer.total,
            timing=timing,
        )
    return said.CleanupObjectEnded(
        kind="listing", part=ended.part, object_id="", timing=timing, problem=_problem(ended)
    )


def _removal_end(state: Cleanup, ended: EffectOutcome) -> said.CleanupObjectEnded:
    action, kind, object_id = ended.part.split("/", 2)
    step = "power-off" if action == "power-off" else _step_name(kind)
    return said.CleanupObjectEnded(
        kind=kind,
        part=ended.part,
        object_id=object_id,
        timing=step_of(ended, step),
        problem=None if ended.ok else _problem(ended),
    )


def _problem(ended: EffectOutcome) -> Problem:
    return Problem(code=ended.code or "step-failed", message=ended.error, remedy=ended.remedy)


def _step_name(kind: str) -> str:
    return _STEP_OF_KIND.get(kind, "release-copies")


def _finish(state: Cleanup) -> said.CleanupFinished:
    start = _started(state)
    problem = state.problem
    if state.left and problem is None and not state.cancelling:
        commit = f"`seawall commit {start.recovery} --without-failed`"
        again = commit if start.vms else "the cleanup"
        problem = Problem(
            code="left-over",
            message=f"{len(state.left)} objects are still listed by the platform",
            remedy=f"look at them on the platform, then run {again} again",
        )
    done = {step.name: step for step in merged_steps(state.steps)}
    return said.CleanupFinished(
        plan=start.plan,
        recovery=start.recovery,
        state=_outcome(state),
        removed=state.removed,
        remaining=state.left,
        steps=tuple(done[name] for name in start.steps if name in done),
        problem=problem,
    )


def _outcome(state: Cleanup) -> said.RecoveryState:
    if state.cancelling:
        return "cancelled"
    if state.blind and not state.removed:
        return "failed"
    return "partially-completed" if state.left or state.blind else "completed"


def _started(state: Cleanup) -> said.CleanupStarted:
    assert state.started is not None, "started before anything else"
    return state.started


# ── What is due ──────────────────────────────────────────────────────────────────────────────


def _due(state: Cleanup) -> tuple[str, ...]:
    if state.finished or state.cancelling or state.paused or state.blind:
        return ()
    if state.todo:
        return tuple(_part_of(state, item) for item in _ready(state))
    # Once a listing shows nothing that was not tried before, it is the proof.
    return (f"list/{state.listings + 1}",) if state.fresh else ()


def _ready(state: Cleanup) -> tuple[Listed, ...]:
    """Instances and held copies at once; what instances use, once the instances are gone."""
    if any(kind == "instance" for kind, _, _ in state.todo):
        return tuple(item for item in state.todo if item[0] not in ("disk", "network"))
    return state.todo


def _part_of(state: Cleanup, item: Listed) -> str:
    kind, object_id, _ = item
    if kind == "instance" and object_id not in state.off:
        return f"power-off/{kind}/{object_id}"
    return f"delete/{kind}/{object_id}"


def _over(state: Cleanup) -> bool:
    if state.finished or state.running or state.paused:
        return False
    return state.cancelling or state.blind or not (state.todo or state.fresh)


# ── Folding ──────────────────────────────────────────────────────────────────────────────────


def evolve(state: Cleanup, event: Any) -> Cleanup:
    """Apply one fact and bring `running` up to what is due afterwards."""
    state = _applied(state, event)
    running = set(state.running)
    fresh = tuple(part for part in _due(state) if part not in running)
    return msgspec.structs.replace(state, running=state.running + fresh) if fresh else state


def _applied(state: Cleanup, event: Any) -> Cleanup:
    replace = msgspec.structs.replace
    match event:
        case said.CleanupStarted():
            return replace(state, started=event)
        case said.CleanupListed():
            todo = tuple(item for item in event.objects if _id(item) not in state.settled)
            steps = state.steps if event.timing is None else (*state.steps, event.timing)
            return replace(
                state,
                listings=state.listings + 1,
                left=event.objects,
                todo=todo,
                fresh=bool(todo),
                running=(),
                steps=steps,
            )
        case said.CleanupObjectEnded():
            return _object_ended(state, event)
        case said.CleanupTroubled():
            return replace(state, troubled=True)
        case said.CleanupCancelRequested():
            return replace(state, cancelling=True, paused=False)
        case steer.CleanupPaused():
            return replace(state, paused=True)
        case steer.CleanupResumed():
            return replace(state, paused=False)
        case said.CleanupFinished():
            return replace(state, finished=True)
    raise AssertionError(f"{type(event).__name__} is no event of a cleanup")


def _id(item: Listed) -> str:
    return f"{item[0]}/{item[1]}"


def _object_ended(state: Cleanup, event: said.CleanupObjectEnded) -> Cleanup:
    done = event.timing.state == "completed"
    cancelled = event.timing.state == "cancelled" and state.cancelling
    state = msgspec.structs.replace(
        state,
        running=tuple(part for part in state.running if part != event.part),
        steps=merged_steps((*state.steps, event.timing)),
        problem=state.problem or (None if cancelled else event.problem),
    )
    if event.kind == "listing":
        return msgspec.structs.replace(state, blind=not cancelled)
    if done and event.part.startswith("power-off/"):
        return msgspec.structs.replace(state, off=state.off | {event.object_id})
    thing = f"{event.kind}/{event.object_id}"
    left = tuple(item for item in state.left if _id(item) != thing) if done else state.left
    return msgspec.structs.replace(
        state,
        settled=state.settled | {thing},
        todo=tuple(item for item in state.todo if _id(item) != thing),
        left=left,
        removed=state.removed + (1 if done else 0),
    )


# ── From facts to decisions ──────────────────────────────────────────────────────────────────


def _step(state: Cleanup, events: tuple[Any, ...], now: dt.datetime) -> Decision:
    after = state
    for event in events:
        after = evolve(after, event)
    known = set(state.running)
    effects = tuple(_effect(after, part, now) for part in after.running if part not in known)
    sends: tuple[Send, ...] = ()
    if _over(after):
        end = _finish(after)
        events = (*events, end)
        start = _started(after)
        sends = (*_told_recovery(end, start), *_told_parent(end, start))
    return Decision(events=events, effects=effects, sends=sends)


def _unproven(end: said.CleanupFinished) -> int:
    """Objects that may be left: a cleanup that could not look, or was stopped, proves nothing."""
    return 0 if end.state == "completed" else max(1, len(end.remaining))


def _told_recovery(end: said.CleanupFinished, start: said.CleanupStarted) -> tuple[Send, ...]:
    """The news to the recovery: one that was cleaned of some VMs alone is none the cleaner."""
    if start.vms:
        return ()
    news = said.CleanupNews(recovery=start.recovery, cleanup=start.job, remaining=_unproven(end))
    return (Send(to="recovery", key=start.plan, message=news),)


def _told_parent(end: said.CleanupFinished, start: said.CleanupStarted) -> tuple[Send, ...]:
    """The news to the job that asked, behind the recovery's: that gives the holds back first."""
    if not start.parent:
        return ()
    news = ChildCleaned(
        parent=start.parent,
        recovery=start.recovery,
        cleanup=start.job,
        remaining=_unproven(end),
        problem=end.problem,
    )
    return (Send(to="recovery", key=start.plan, message=news),)


def _effect(state: Cleanup, part: str, now: dt.datetime) -> Effect:
    start = _started(state)
    tags: dict[str, Any] = {"site": start.site, "plan": start.plan, "job": start.recovery}
    common: dict[str, Any] = {
        "site": start.site.site,
        "plan": start.plan,
        "due": now,
        "priority": CLEANUP_PRIORITY,
    }
    if part.startswith("list/"):
        payload = ListOwned(count_max=OBJECTS_MAX, vms=start.vms, **tags)
        return recovery_effect(part, "list-owned", payload, **common)
    action, kind, object_id = part.split("/", 2)
    vm = next(vm for listed, other, vm in state.todo if (listed, other) == (kind, object_id))
    verb: Literal["power-off", "delete"] = "power-off" if action == "power-off" else "delete"
    call = verb if verb == "power-off" else f"delete-{kind}"
    remove = RemoveObject(action=verb, kind=kind, object_id=object_id, vm=vm, **tags)
    return recovery_effect(part, "remove-object", remove, call=call, **common)


FAMILY = Family(
    name="cleanup",
    state=Cleanup,
    initial=Cleanup,
    evolve=evolve,
    is_terminal=lambda state: state.finished,
    outcome=outcome,
    trouble=trouble,
    schema=3,
)
