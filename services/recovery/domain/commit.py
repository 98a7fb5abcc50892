"""Commit: the instances of a full recovery are the VMs from now on.

Saga without undo. By word it leaves out VMs that did not come up: what was made of them is removed
by a cleanup of them alone, before anything is decided. Then it decides, by listing the platform,
whether what is to be committed is there; the recovery gives its holds back, and the sources stay
off. A removal that leaves something leaves the window open; another commit goes on from there.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from schemas import operations as said
from schemas.children import ChildCleaned
from schemas.common import Problem, StepTiming
from schemas.envelope import Received
from schemas.ids import family_of, parts_of, stream_id
from schemas.recovery import BeginCleanup
from schemas.recovery_work import ListOwned, OwnedListed
from schemas.units import some_of
from services.recovery.domain import commit_window, stranded
from services.recovery.domain.recovery_state import Recovery, told
from services.recovery.domain.work import recovery_effect, refuted, step_of
from shared.decider import NOTHING, Decision, Effect, EffectOutcome, Family, Send
from shared.errors import Refused

# ── Parameters ───────────────────────────────────────────────────────────────────────────────

DEFINITION_VERSION: Final = 2
"""2: may remove what was made of VMs that it leaves out; a list of steps without that goes on."""

REMOVE: Final = "remove-failed"
VERIFY: Final = "verify-instances"
OBJECTS_MAX: Final = 10_000
"""Objects of the listing; it is compared and not kept, so that its size is no event's."""

NAMED_MAX: Final = 10


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """A commit. `removed`: what was made of the VMs that it leaves out, as far as it could be."""

    started: said.CommitStarted | None = None
    removed: said.CommitVmsRemoved | None = None
    finished: bool = False


# ── Actions ──────────────────────────────────────────────────────────────────────────────────


def begin(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Commit a recovery. Decides over the commit and the recovery together.

    Raises Refused as `commit_window.check_open` and `check_whole`, `nothing-to-commit`, and
    `not-ready` where VMs would be left out and nobody said so.
    """
    m: said.StartCommit = received.body
    if family_of(m.recovery) != "recovery" or family_of(m.job) != "commit":
        raise Refused(f"{m.recovery} is no recovery", code="unknown-job", remedy="see `job list`")
    state: Commit = states[m.job]
    parent: Recovery = states[m.recovery]
    if state.started is not None:
        return {}
    commit_window.check_open(parent, m.recovery, verb="commit")
    commit_window.check_whole(parent, m.recovery)
    if not parent.ready:
        raise Refused(
            f"no VM of {m.recovery} is usable",
            code="nothing-to-commit",
            remedy=f"`seawall rollback {m.recovery}` brings the sources back",
        )
    without = stranded.check_commit(parent, m.recovery, without_failed=m.without_failed)
    event = _started(m, parent, without, received.at)
    marked = Decision(events=(said.RecoveryCommitting(commit=m.job, without=without),))
    begun = Decision(events=(event,), effects=() if without else (_verify(event, received.at),))
    if without:
        clean = BeginCleanup(job=event.cleanup, recovery=m.recovery, parent=m.job, vms=without)
        send = Send(to="recovery", key=event.plan, message=clean)
        begun = msgspec.structs.replace(begun, sends=(send,))
    return {m.job: begun, m.recovery: marked}


def cleaned(state: Commit, received: Received) -> Decision:
    """The cleanup of the VMs that are left out ended, or never began."""
    m: ChildCleaned = received.body
    start = state.started
    if start is None or state.finished or state.removed is not None or m.cleanup != start.cleanup:
        return NOTHING
    problem = _left_over(start, m) if m.remaining else None
    timing = StepTiming(name=REMOVE, state="completed", started_at=start.at, ended_at=received.at)
    if problem is not None:
        timing = refuted(timing, problem)
    event = said.CommitVmsRemoved(remaining=m.remaining, timing=timing, problem=problem)
    if problem is None:
        return Decision(events=(event,), effects=(_verify(start, received.at),))
    end = _finish(start, (timing,), problem)
    return msgspec.structs.replace(end, events=(event, *end.events))


def outcome(state: Commit, received: Received) -> Decision:
    """The platform was listed."""
    ended: EffectOutcome = received.body
    if state.started is None or state.finished or ended.part != VERIFY:
        return NOTHING
    start = state.started
    problem = _missing(start, ended.result) if ended.ok else _not_listed(ended)
    timing = step_of(ended, VERIFY)
    if ended.ok and problem is not None:
        timing = refuted(timing, problem)
    before = (state.removed.timing,) if state.removed is not None else ()
    return _finish(start, (*before, timing), problem)


# ── Definition ───────────────────────────────────────────────────────────────────────────────


def evolve(state: Commit, event: Any) -> Commit:
    """Apply one fact."""
    match event:
        case said.CommitStarted():
            return Commit(started=event)
        case said.CommitVmsRemoved():
            return msgspec.structs.replace(state, removed=event)
        case said.CommitFinished():
            return msgspec.structs.replace(state, finished=True)
    raise AssertionError(f"{type(event).__name__} is no event of a commit")


FAMILY = Family(
    name="commit",
    state=Commit,
    initial=Commit,
    evolve=evolve,
    is_terminal=lambda state: state.finished,
    outcome=outcome,
    schema=2,
)

# ── Implementations ──────────────────────────────────────────────────────────────────────────


def _started(
    m: said.StartCommit, parent: Recovery, without: tuple[str, ...], now: dt.datetime
) -> said.CommitStarted:
    start = told(parent)
    _, plan, key = parts_of(m.job)
    return said.CommitStarted(
        job=m.job,
        plan=start.plan,
        recovery=m.recovery,
        site=start.header.recovery_site,
        instances=tuple(
            (vm, member.instance_id)
            for vm, member in parent.members.items()
            if member.outcome == "ready"
        ),
        steps=(REMOVE, VERIFY) if without else (VERIFY,),
        definition_version=DEFINITION_VERSION,
        without=without,
        cleanup=stream_id("cleanup", plan, f"commit-{key}") if without else "",
        note=stranded.note(parent, without),
        at=now,
    )


def _left_over(start: said.CommitStarted, m: ChildCleaned) -> Problem:
    why = f": {m.problem.message}" if m.problem is not None else ""
    return Problem(
        code="left-over",
        message=f"what was made of {some_of(start.without, NAMED_MAX)} is not proven gone, so "
        f"nothing is committed{why}",
        remedy=f"see `seawall job show {m.cleanup}`, then "
        f"`seawall commit {start.recovery} --without-failed` again, or roll back",
    )


def _verify(start: said.CommitStarted, now: dt.datetime) -> Effect:
    payload = ListOwned(
        site=start.site, plan=start.plan, job=start.recovery, count_max=OBJECTS_MAX
    )
    return recovery_effect(
        VERIFY,
        "list-owned",
        payload,
        site=start.site.site,
        plan=start.plan,
        due=now,
        priority=1,
    )


def _missing(start: said.CommitStarted, listed: OwnedListed) -> Problem | None:
    there = {object_id for kind, object_id, _ in listed.objects if kind == "instance"}
    gone = [vm for vm, instance_id in start.instances if instance_id not in there]
    if not gone:
        return None
    return Problem(
        code="instance-missing",
        message=f"{start.site.site} does not list the instances of "
        f"{some_of(gone, NAMED_MAX)}: somebody deleted them",
        remedy=f"`seawall rollback {start.recovery}` brings the sources back",
    )


def _not_listed(ended: EffectOutcome) -> Problem:
    return Problem(
        code=ended.code or "step-failed",
        message=f"the instances could not be listed: {ended.error}",
        remedy=ended.remedy or "look at the recovery site, then commit again",
    )


def _finish(
    start: said.CommitStarted, steps: tuple[StepTiming, ...], problem: Problem | None
) -> Decision:
    end = said.CommitFinished(
        plan=start.plan,
        recovery=start.recovery,
        state="completed" if problem is None else "failed",
        steps=steps,
        problem=problem,
        note=start.note if problem is None else "",
    )
    told_parent = said.CommitEnded(recovery=start.recovery, commit=start.job, done=problem is None)
    send = Send(to="recovery", key=start.plan, message=told_parent)
    return Decision(events=(end,), sends=(send,))
