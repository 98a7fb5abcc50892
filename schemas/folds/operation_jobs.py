"""Full recoveries beyond what all recoveries have: their sources, commit and roll back jobs.

The steps about sources are the plan's job's; each VM's source is told by the recovery itself, so
that every row folds one stream family.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from schemas import operations as said
from schemas.common import StepTiming
from schemas.envelope import Recorded
from schemas.folds import steps
from schemas.folds.base import Route, at, error_of
from schemas.views import Job, JobKind, Step

_replace = msgspec.structs.replace
SYNC = "last-sync"
RESTORE = "restore-sources"
NAMED_MAX: Final = 150
"""VMs without a source that a job's facts name, as many as they name discards."""


# ── The sources of a recovery ────────────────────────────────────────────────────────────────


def _securing(
    doc: Job | None,
    event: said.SourcesSecuring | said.SourceSiteLost,
    recorded: Recorded,
    row: str,
) -> Job | None:
    return doc and steps.moved(doc, steps.next_begun(doc.steps, event.at))


def _secured(
    doc: Job | None, event: said.MemberSecured, recorded: Recorded, row: str
) -> Job | None:
    return doc and _counted(doc, f"source_{event.state}")


def _synced(doc: Job | None, event: said.MemberSynced, recorded: Recorded, row: str) -> Job | None:
    name = "synced" if event.checkpoint_at is not None else "not_synced"
    return doc and _counted(doc, name)


def _restored(
    doc: Job | None, event: said.MemberRestored, recorded: Recorded, row: str
) -> Job | None:
    return doc and _counted(doc, f"source_{event.state.replace('-', '_')}")


def _counted(doc: Job, name: str) -> Job:
    """One VM more of a kind, among the job's facts."""
    return _replace(doc, facts={**doc.facts, name: int(doc.facts.get(name, 0)) + 1})


def _sync_asked(
    doc: Job | None, event: said.LastSyncAsked, recorded: Recorded, row: str
) -> Job | None:
    return doc and steps.moved(doc, steps.begun(doc.steps, SYNC, event.at))


def _restoring(
    doc: Job | None, event: said.SourcesRestoring, recorded: Recorded, row: str
) -> Job | None:
    return doc and steps.moved(doc, steps.begun(doc.steps, RESTORE, event.at))


# ── The commit window ────────────────────────────────────────────────────────────────────────


def _committed(
    doc: Job | None, event: said.RecoveryCommitted, recorded: Recorded, row: str
) -> Job | None:
    facts = {**doc.facts, "committed_by": event.commit} if doc else {}
    if event.without:
        facts["committed_without"] = list(event.without)
    return doc and _replace(doc, awaits_commit=False, committed=True, facts=facts)


def _rolled_back(
    doc: Job | None, event: said.RecoveryRolledBack, recorded: Recorded, row: str
) -> Job | None:
    return doc and _replace(
        doc, awaits_commit=False, facts={**doc.facts, "rolled_back_by": event.rollback}
    )


# ── Commit and roll back ─────────────────────────────────────────────────────────────────────


def _job(
    event: said.CommitStarted | said.RollbackStarted,
    recorded: Recorded,
    row: str,
    kind: JobKind,
    **facts: Any,
) -> Job:
    return Job(
        id=row,
        kind=kind,
        plan=event.plan,
        state="running",
        actor=recorded.meta.actor,
        created_at=at(recorded),
        started_at=at(recorded),
        steps=steps.next_begun(steps.listed(event.steps), at(recorded)),
        recovery=event.recovery,
        facts=facts,
    )


def _commit_started(
    doc: Job | None, event: said.CommitStarted, recorded: Recorded, row: str
) -> Job:
    facts: dict[str, Any] = {"instances": len(event.instances)}
    if event.without:
        facts |= {"without": list(event.without), "cleanup": event.cleanup}
    return _job(event, recorded, row, "commit", **facts)


def _rollback_started(
    doc: Job | None, event: said.RollbackStarted, recorded: Recorded, row: str
) -> Job:
    discards = [msgspec.to_builtins(each) for each in event.discards]
    facts: dict[str, Any] = {"discards": discards, "cleanup": event.cleanup}
    if event.automatic:
        facts["automatic"] = True
    if event.leave_off:
        facts["leave_off"] = True
    return _job(event, recorded, row, "rollback", **facts)


def _sources_seen(
    doc: Job | None, event: said.RollbackSourcesSeen, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    facts = doc.facts
    if event.missing:
        facts = {**facts, "nothing_to_come_back_to": list(event.missing[:NAMED_MAX])}
        if "leave_off" in facts:
            # They are settled with that: nobody tries to switch them on.
            facts["source_stays_off"] = len(event.missing)
    return steps.moved(doc, _looked_and_measured(doc, event.timing, recorded), facts=facts)


def _looked_and_measured(doc: Job, timing: StepTiming, recorded: Recorded) -> tuple[Step, ...]:
    """Both go on at once. A look that failed is the last step, unless sources may stay off."""
    after = steps.ended(doc.steps, timing)
    if "leave_off" not in doc.facts and any(step.state == "failed" for step in after):
        return after
    return steps.next_begun(after, at(recorded))


def _measured(
    doc: Job | None, event: said.RollbackMeasured, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    facts = {
        **doc.facts,
        "discards": [msgspec.to_builtins(each) for each in event.discards],
        "discarded_bytes": event.total,
        "discarded_unknown": event.unknown,
    }
    return steps.moved(doc, _looked_and_measured(doc, event.timing, recorded), facts=facts)


def _instances_removed(
    doc: Job | None,
    event: said.RollbackInstancesRemoved | said.CommitVmsRemoved,
    recorded: Recorded,
    row: str,
) -> Job | None:
    if doc is None:
        return None
    after = steps.ended(doc.steps, event.timing)
    if not event.remaining:
        after = steps.next_begun(after, at(recorded))
    return steps.moved(doc, after)


def _source_ended(
    doc: Job | None, event: said.RollbackSourceEnded, recorded: Recorded, row: str
) -> Job | None:
    return doc and _counted(doc, f"source_{event.state.replace('-', '_')}")


def _finished(
    doc: Job | None,
    event: said.CommitFinished | said.RollbackFinished,
    recorded: Recorded,
    row: str,
    **changes: Any,
) -> Job | None:
    if doc is None:
        return None
    note = event.note if isinstance(event, said.CommitFinished) else doc.note
    return steps.closed(
        doc,
        state=event.state,
        when=at(recorded),
        timings=event.steps,
        error=error_of(event.problem),
        note=note,
        **changes,
    )


def _rollback_finished(
    doc: Job | None, event: said.RollbackFinished, recorded: Recorded, row: str
) -> Job | None:
    facts: dict[str, Any] = doc.facts if doc is not None else {}
    if event.untouched:
        facts = {**facts, "untouched": True}
    if event.left_off:
        facts = {**facts, "left_off": list(event.left_off)}
    return _finished(doc, event, recorded, row, facts=facts)


ROUTES: dict[type, tuple[Route, ...]] = {
    said.SourcesSecuring: (Route(_securing),),
    said.SourceSiteLost: (Route(_securing),),
    said.MemberSecured: (Route(_secured),),
    said.SourcesSecured: (Route(steps.over),),
    said.LastSyncAsked: (Route(_sync_asked),),
    said.MemberSynced: (Route(_synced),),
    said.LastSyncFinished: (Route(steps.over),),
    said.SourcesRestoring: (Route(_restoring),),
    said.MemberRestored: (Route(_restored),),
    said.SourcesRestored: (Route(steps.over),),
    said.RecoveryCommitted: (Route(_committed),),
    said.RecoveryRolledBack: (Route(_rolled_back),),
    said.CommitStarted: (Route(_commit_started),),
    said.CommitVmsRemoved: (Route(_instances_removed),),
    said.CommitFinished: (Route(_finished),),
    said.RollbackStarted: (Route(_rollback_started),),
    said.RollbackSourcesSeen: (Route(_sources_seen),),
    said.RollbackMeasured: (Route(_measured),),
    said.RollbackInstancesRemoved: (Route(_instances_removed),),
    said.RollbackSourceEnded: (Route(_source_ended),),
    said.RollbackFinished: (Route(_rollback_finished),),
}
