"""Reversals: one job per plan. Its VMs' iterations are children of the run that `facts` names."""

from __future__ import annotations

import msgspec

from schemas import reversals as said
from schemas.envelope import Recorded
from schemas.folds import steps
from schemas.folds.base import Route, at, cancelling, error_of
from schemas.ids import parts_of, stream_id
from schemas.views import Counts, Job

_replace = msgspec.structs.replace


def _started(doc: Job | None, event: said.ReversalStarted, recorded: Recorded, row: str) -> Job:
    return Job(
        id=row,
        kind="reverse",
        plan=event.plan,
        state="running",
        actor=event.actor or recorded.meta.actor,
        created_at=event.requested_at,
        started_at=at(recorded),
        steps=steps.next_begun(steps.listed(event.steps), at(recorded)),
        vms=Counts(total=len(event.vms)),
        dry_run=event.dry_run,
        facts={
            "from": event.header.protected.site,
            "to": event.header.recovery_site.site,
        },
    )


def _preflight(
    doc: Job | None, event: said.ReversalPreflightFinished, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    facts = {**doc.facts, **event.facts}
    return steps.moved(doc, steps.ended(doc.steps, event.timing), facts=facts)


def _marking(
    doc: Job | None, event: said.ReversalDirectionMarking, recorded: Recorded, row: str
) -> Job | None:
    return doc and steps.moved(doc, steps.begun(doc.steps, said.MARK, event.at))


def _marked(
    doc: Job | None, event: said.ReversalDirectionMarked, recorded: Recorded, row: str
) -> Job | None:
    if doc is None or event.timing is None:
        return doc
    return steps.moved(doc, steps.ended(doc.steps, event.timing))


def _resync_asked(
    doc: Job | None, event: said.ReversalResyncAsked, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    _, plan, key = parts_of(row)
    facts = {**doc.facts, "run": stream_id("replication-run", plan, f"reverse-{key}")}
    return steps.moved(doc, steps.begun(doc.steps, said.RESYNC, event.at), facts=facts)


def _synced(
    doc: Job | None, event: said.ReversalMemberSynced, recorded: Recorded, row: str
) -> Job | None:
    if doc is None or doc.vms is None:
        return doc
    copied = event.checkpoint_at is not None
    counts = _replace(
        doc.vms,
        ended=doc.vms.ended + 1,
        ready=doc.vms.ready + copied,
        failed=doc.vms.failed + (event.state == "failed"),
    )
    share = round(100.0 * counts.ended / max(counts.total, 1), 1)
    return steps.moved(doc, steps.changed(doc.steps, said.RESYNC, percent=share), vms=counts)


def _resynced(
    doc: Job | None, event: said.ReversalResyncFinished, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    after = steps.ended(doc.steps, event.timing)
    if event.timing.state == "completed":
        after = steps.next_begun(after, at(recorded))
    return steps.moved(doc, after)


def _finished(
    doc: Job | None, event: said.ReversalFinished, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    return steps.closed(
        doc,
        state=event.state,
        when=at(recorded),
        timings=event.steps,
        error=error_of(event.problem),
        left=event.left,
        facts={**doc.facts, "turned": event.turned},
    )


ROUTES: dict[type, tuple[Route, ...]] = {
    said.ReversalStarted: (Route(_started),),
    said.ReversalPreflightFinished: (Route(_preflight),),
    said.ReversalDirectionMarking: (Route(_marking),),
    said.ReversalDirectionMarked: (Route(_marked),),
    said.ReversalResyncAsked: (Route(_resync_asked),),
    said.ReversalMemberSynced: (Route(_synced),),
    said.ReversalResyncFinished: (Route(_resynced),),
    said.ReversalVerified: (Route(steps.over),),
    said.ReversalCancelRequested: (Route(cancelling),),
    said.ReversalFinished: (Route(_finished),),
}
