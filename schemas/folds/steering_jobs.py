"""Jobs that people steer: paused, waiting for an answer, going on after their end.

Folds the facts of `schemas.recovery_steering` into the same rows as `recovery_jobs` and
`cleanup_jobs`. Owns the rule of which state such a job shows.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from schemas import recovery_steering as steer
from schemas.common import JobState
from schemas.envelope import Recorded
from schemas.folds import steps
from schemas.folds.base import Route, at, cancelling
from schemas.joins import percent_of
from schemas.views import ENDED, Answer, Job, Step, Waiting

_replace = msgspec.structs.replace
_ORDER_STEP: Final = "boot-order-"
RELEASE: Final = "release-copy"


def standing(job: Job) -> Job:
    """The job with the state it shows: paused before waiting, waiting before running."""
    if job.state in ENDED:
        return job
    return _replace(job, state=_state(job))


def _state(job: Job) -> JobState:
    if job.paused:
        return "paused"
    if job.waiting_for or any(step.waiting is not None for step in job.steps):
        return "waiting"
    return "running" if job.started_at is not None else "queued"


def cancelled(doc: Job | None, event: Any, recorded: Recorded, row: str) -> Job | None:
    """A cancel ends a pause."""
    after = cancelling(doc, event, recorded, row)
    return after and standing(_replace(after, paused=False))


def _paused(doc: Job | None, event: Any, recorded: Recorded, row: str) -> Job | None:
    return doc and standing(_replace(doc, paused=True))


def _resumed(doc: Job | None, event: Any, recorded: Recorded, row: str) -> Job | None:
    return doc and standing(_replace(doc, paused=False))


def _vm_paused(
    doc: Job | None, event: steer.VmPaused | steer.VmResumed, recorded: Recorded, row: str
) -> Job | None:
    """A VM may be paused by itself and with its recovery: it goes on when neither lasts."""
    if doc is None:
        return None
    before = tuple(by for by in doc.facts.get("paused_by", ()) if by != event.by)
    by = (*before, event.by) if isinstance(event, steer.VmPaused) else before
    return standing(_replace(doc, paused=bool(by), facts={**doc.facts, "paused_by": by}))


def _asked(
    doc: Job | None, event: steer.RecoveryAsked | steer.VmAsked, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    asked = event.question
    waiting = Waiting(
        kind=asked.kind,
        text=asked.text,
        owner=asked.owner,
        choices=asked.choices,
        default=asked.default,
        since=asked.at,
        until=asked.until,
    )
    after = doc.steps
    if asked.kind == "manual":
        after = steps.begun(after, asked.step, asked.at)
    after = steps.changed(
        after, asked.step, state="waiting", ended_at=None, waiting=waiting, answer=None
    )
    return standing(_replace(doc, steps=after))


def _answered(
    doc: Job | None,
    event: steer.RecoveryAnswered | steer.VmAnswered,
    recorded: Recorded,
    row: str,
) -> Job | None:
    if doc is None:
        return None
    answer = Answer(choice=event.choice, actor=event.actor, at=event.at)
    after = steps.changed(doc.steps, event.step, waiting=None, answer=answer)
    if event.timing is None:
        after = steps.changed(after, event.step, state="queued")
    else:
        after = steps.ended(after, event.timing)
        if isinstance(event, steer.VmAnswered) and event.timing.state in ("completed", "skipped"):
            after = steps.next_begun(after, event.at)
    return standing(steps.moved(doc, after))


def _member_asked(
    doc: Job | None, event: steer.MemberAsked, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    names = tuple(dict.fromkeys((*doc.waiting_for, event.vm)))
    return standing(_replace(doc, waiting_for=names))


def _member_answered(
    doc: Job | None, event: steer.MemberAnswered, recorded: Recorded, row: str
) -> Job | None:
    return doc and member_over(doc, event.vm)


def member_over(doc: Job, vm: str) -> Job:
    """A VM asks nothing (any more)."""
    if vm not in doc.waiting_for:
        return doc
    left = tuple(each for each in doc.waiting_for if each != vm)
    return standing(_replace(doc, waiting_for=left))


# ── Going on after the end ───────────────────────────────────────────────────────────────────


def _again(step: Step) -> Step:
    """A step that is to be done again: what is known of its tries stays."""
    return Step(name=step.name, attempts=step.attempts, started_at=step.started_at)


def _going_on(doc: Job, again: set[str]) -> Job:
    """Steps that the end had passed over are to come again, too."""
    after = tuple(
        _again(step) if step.name in again or (step.state == "skipped" and step.answer is None)
        else step
        for step in doc.steps
    )  # fmt: skip
    going = _replace(
        doc,
        steps=after,
        state="running",
        ended_at=None,
        error=None,
        percent=percent_of(after),
        cancelling=False,
        note="",
    )
    return standing(going)


def _member_retried(
    doc: Job | None, event: steer.MemberRetried, recorded: Recorded, row: str
) -> Job | None:
    """A recovery counts a VM that goes on as one that has not ended; who was ready, stays so."""
    if doc is None or doc.vms is None:
        return doc
    counts = _replace(doc.vms, ended=max(doc.vms.ended - 1, 0))
    return _replace(doc, vms=counts)


def _reopened(
    doc: Job | None, event: steer.RecoveryReopened, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    orders = {
        step.name
        for step in doc.steps
        if step.name.startswith(_ORDER_STEP) and step.state in ("failed", "cancelled")
    }
    going = _going_on(doc, {*event.steps, *orders})
    after = going.steps
    for name in orders:
        after = steps.begun(after, name, event.at)
    if event.skip:
        after = steps.changed(after, event.skip, state="skipped", error=None)
    counts = going.vms and _replace(going.vms, failed=0)
    return _replace(going, steps=after, vms=counts, awaits_cleanup=False, awaits_commit=False)


def _vm_retried(
    doc: Job | None, event: steer.VmRetried, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    # Letting the copy go comes last: what is before it is to be shown as it begins.
    going = _going_on(doc, {*event.steps, RELEASE})
    after = going.steps
    if event.timing is not None:
        after = steps.ended(after, event.timing)
    going = _replace(going, boot_open=going.boot_open or event.boot)
    if going.started_at is not None:
        after = steps.next_begun(after, at(recorded))
    return _replace(going, steps=after, rto_s=None)


ROUTES: dict[type, tuple[Route, ...]] = {
    steer.RecoveryPaused: (Route(_paused),),
    steer.RecoveryResumed: (Route(_resumed),),
    steer.RecoveryAsked: (Route(_asked),),
    steer.RecoveryAnswered: (Route(_answered),),
    steer.MemberAsked: (Route(_member_asked),),
    steer.MemberAnswered: (Route(_member_answered),),
    steer.MemberRetried: (Route(_member_retried),),
    steer.RecoveryReopened: (Route(_reopened),),
    steer.VmPaused: (Route(_vm_paused),),
    steer.VmResumed: (Route(_vm_paused),),
    steer.VmAsked: (Route(_asked),),
    steer.VmAnswered: (Route(_answered),),
    steer.VmRetried: (Route(_vm_retried),),
    steer.CleanupPaused: (Route(_paused),),
    steer.CleanupResumed: (Route(_resumed),),
}
