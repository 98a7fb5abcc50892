"""Commit: the instances of a full recovery are the VMs from now on.

Saga of one action and no undo. Decides, by listing the platform, whether what is to be committed
is there; then the recovery gives its holds back and the sources stay off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from schemas import operations as said
from schemas.common import Problem, StepTiming
from schemas.envelope import Received
from schemas.ids import family_of
from schemas.recovery_work import ListOwned, OwnedListed
from schemas.units import some_of
from services.recovery.domain import commit_window
from services.recovery.domain.recovery_state import Recovery, told
from services.recovery.domain.work import recovery_effect, refuted, step_of
from shared.decider import NOTHING, Decision, Effect, EffectOutcome, Family, Send
from shared.errors import Refused

# ── Parameters ───────────────────────────────────────────────────────────────────────────────

DEFINITION_VERSION: Final = 1
VERIFY: Final = "verify-instances"
STEPS: Final = (VERIFY,)
OBJECTS_MAX: Final = 10_000
"""Objects of the listing; it is compared and not kept, so that its size is no event's."""

NAMED_MAX: Final = 10


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """A commit."""

    started: said.CommitStarted | None = None
    finished: bool = False


# ── Actions ──────────────────────────────────────────────────────────────────────────────────


def begin(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Commit a recovery. Decides over the commit and the recovery together.

    Raises Refused as `commit_window.check_open`, and `nothing-to-commit`.
    """
    m: said.StartCommit = received.body
    if family_of(m.recovery) != "recovery" or family_of(m.job) != "commit":
        raise Refused(f"{m.recovery} is no recovery", code="unknown-job", remedy="see `job list`")
    state: Commit = states[m.job]
    parent: Recovery = states[m.recovery]
    if state.started is not None:
        return {}
    commit_window.check_open(parent, m.recovery, verb="commit")
    if not parent.ready:
        raise Refused(
            f"no VM of {m.recovery} is usable",
            code="nothing-to-commit",
            remedy=f"`seawall rollback {m.recovery}` brings the sources back",
        )
    start = told(parent)
    event = said.CommitStarted(
        job=m.job,
        plan=start.plan,
        recovery=m.recovery,
        site=start.header.recovery_site,
        instances=tuple(
            (vm, member.instance_id)
            for vm, member in parent.members.items()
            if member.outcome == "ready"
        ),
        steps=STEPS,
        definition_version=DEFINITION_VERSION,
    )
    marked = Decision(events=(said.RecoveryCommitting(commit=m.job),))
    verify = _verify(event, received)
    return {m.job: Decision(events=(event,), effects=(verify,)), m.recovery: marked}


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
    return _finish(start, timing, problem)


# ── Definition ───────────────────────────────────────────────────────────────────────────────


def evolve(state: Commit, event: Any) -> Commit:
    """Apply one fact."""
    match event:
        case said.CommitStarted():
            return Commit(started=event)
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
)

# ── Implementations ──────────────────────────────────────────────────────────────────────────


def _verify(start: said.CommitStarted, received: Received) -> Effect:
    payload = ListOwned(
        site=start.site, plan=start.plan, job=start.recovery, count_max=OBJECTS_MAX
    )
    return recovery_effect(
        VERIFY,
        "list-owned",
        payload,
        site=start.site.site,
        plan=start.plan,
        due=received.at,
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


def _finish(start: said.CommitStarted, timing: StepTiming, problem: Problem | None) -> Decision:
    end = said.CommitFinished(
        plan=start.plan,
        recovery=start.recovery,
        state="completed" if problem is None else "failed",
        steps=(timing,),
        problem=problem,
    )
    told_parent = said.CommitEnded(recovery=start.recovery, commit=start.job, done=problem is None)
    send = Send(to="recovery", key=start.plan, message=told_parent)
    return Decision(events=(end,), sends=(send,))
