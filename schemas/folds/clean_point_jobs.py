"""Jobs that look for a clean point: one step per checkpoint that was tried, named as it.

`facts` hold the verdicts so far; `checkpoint` is the clean one that is offered, once there is one.
"""

from __future__ import annotations

import msgspec

from schemas import clean_points as said
from schemas.envelope import Recorded
from schemas.folds import steps
from schemas.folds.base import Route, at, cancelling, error_of
from schemas.views import Job

_replace = msgspec.structs.replace


def _started(
    doc: Job | None, event: said.CleanPointSearchStarted, recorded: Recorded, row: str
) -> Job:
    return Job(
        id=row,
        kind="find-clean-point",
        plan=event.plan,
        state="running",
        actor=event.actor or recorded.meta.actor,
        created_at=event.requested_at,
        started_at=at(recorded),
        facts={
            "order": event.order,
            "candidates": len(event.candidates),
            "script_sha256": event.verdict.sha256,
            "verdicts": {},
        },
    )


def _asked(
    doc: Job | None, event: said.CleanPointTestAsked, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    # How many tries it takes is not known: the share of candidates is the most that can be said.
    tried = len(doc.facts.get("verdicts", {}))
    share = round(100.0 * tried / max(int(doc.facts.get("candidates", 1)), 1), 1)
    begun = steps.begun(doc.steps, event.checkpoint, event.at)
    return _replace(doc, steps=begun, percent=max(doc.percent, share))


def _judged(
    doc: Job | None, event: said.CleanPointJudged, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    verdicts = dict(doc.facts.get("verdicts", {}))
    if event.timing.state != "cancelled":
        verdicts[event.checkpoint] = event.verdict
    facts = {**doc.facts, "verdicts": verdicts}
    return _replace(doc, steps=steps.ended(doc.steps, event.timing), facts=facts)


def _cleaned(
    doc: Job | None, event: said.CleanPointTestCleaned, recorded: Recorded, row: str
) -> Job | None:
    return doc and (_replace(doc, error=error_of(event.problem)) if event.problem else doc)


def _finished(
    doc: Job | None, event: said.CleanPointSearchFinished, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    return steps.closed(
        doc,
        state=event.state,
        when=at(recorded),
        error=error_of(event.problem),
        checkpoint=event.clean_point or None,
        recovery=event.kept or event.left or None,
        facts={**doc.facts, "verdicts": {each.checkpoint: each.verdict for each in event.judged}},
        note=_note(event),
    )


def _note(event: said.CleanPointSearchFinished) -> str:
    if event.kept:
        return f"the test recovery {event.kept} of the clean checkpoint stays up"
    return f"the test recovery {event.left} could not be cleaned up" if event.left else ""


ROUTES: dict[type, tuple[Route, ...]] = {
    said.CleanPointSearchStarted: (Route(_started),),
    said.CleanPointTestAsked: (Route(_asked),),
    said.CleanPointJudged: (Route(_judged),),
    said.CleanPointTestCleaned: (Route(_cleaned),),
    said.CleanPointSearchCancelRequested: (Route(cancelling),),
    said.CleanPointSearchFinished: (Route(_finished),),
}
