"""Jobs that remove what a recovery made: what was listed, removed and proven gone."""

from __future__ import annotations

from typing import Any

import msgspec

from schemas import recovery as said
from schemas.envelope import Recorded
from schemas.folds import steps
from schemas.folds.base import Route, at, error_of
from schemas.folds.steering_jobs import cancelled
from schemas.views import Job, Step

_replace = msgspec.structs.replace


def _started(doc: Job | None, event: said.CleanupStarted, recorded: Recorded, row: str) -> Job:
    return Job(
        id=row,
        kind="cleanup",
        plan=event.plan,
        parent_id=event.parent or None,
        state="running",
        actor=recorded.meta.actor,
        created_at=at(recorded),
        started_at=at(recorded),
        steps=steps.next_begun(steps.listed(event.steps), at(recorded)),
        recovery=event.recovery,
        facts={"vms": list(event.vms)} if event.vms else {},
    )


def _listed(
    doc: Job | None, event: said.CleanupListed, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    after = doc.steps if event.timing is None else steps.ended(doc.steps, event.timing)
    if event.verifying:
        return steps.moved(doc, after)
    facts = {**doc.facts, "found": event.total or len(event.objects)}
    return steps.moved(doc, after, facts=facts)


def _object_ended(
    doc: Job | None, event: said.CleanupObjectEnded, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    after = steps.ended(doc.steps, _summed(doc, event))
    return steps.moved(doc, after)


def _summed(doc: Job, event: said.CleanupObjectEnded) -> Any:
    """One step stands for many objects: it began with the first, and failed if one did."""
    timing = event.timing
    before = next((step for step in doc.steps if step.name == timing.name), None)
    if before is None or before.started_at is None or before.ended_at is None:
        return timing
    failed = _failed(before)
    return _replace(
        timing,
        state="failed" if failed else timing.state,
        started_at=before.started_at,
        error=before.error.message if failed and before.error else timing.error,
        remedy=before.error.remedy if failed and before.error else timing.remedy,
    )


def _failed(step: Step) -> bool:
    return step.state == "failed"


def _troubled(
    doc: Job | None, event: said.CleanupTroubled, recorded: Recorded, row: str
) -> Job | None:
    return doc and _replace(doc, error=error_of(event.problem))


def _finished(
    doc: Job | None, event: said.CleanupFinished, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    return steps.closed(
        doc,
        state=event.state,
        when=at(recorded),
        timings=event.steps,
        error=error_of(event.problem),
        facts={**doc.facts, "removed": event.removed},
        remaining=event.remaining,
        paused=False,
    )


ROUTES: dict[type, tuple[Route, ...]] = {
    said.CleanupStarted: (Route(_started),),
    said.CleanupListed: (Route(_listed),),
    said.CleanupObjectEnded: (Route(_object_ended),),
    said.CleanupTroubled: (Route(_troubled),),
    said.CleanupCancelRequested: (Route(cancelled),),
    said.CleanupFinished: (Route(_finished),),
}
