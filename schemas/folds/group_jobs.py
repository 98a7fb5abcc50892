"""Jobs of a group of plans, and of its cleanup: one step per plan, named as it."""

from __future__ import annotations

import msgspec

from schemas import recovery_groups as said
from schemas.envelope import Recorded
from schemas.folds import steps
from schemas.folds.base import Route, at, cancelling, error_of
from schemas.views import Job

_replace = msgspec.structs.replace


def _started(
    doc: Job | None, event: said.RecoveryGroupStarted, recorded: Recorded, row: str
) -> Job:
    return Job(
        id=row,
        kind="recovery-group",
        plan=event.plan,
        state="running",
        actor=event.actor or recorded.meta.actor,
        created_at=event.requested_at,
        started_at=at(recorded),
        steps=steps.listed(member.plan for member in event.members),
        checkpoint=event.recover.checkpoint,
        dry_run=event.recover.dry_run,
        facts={
            "mode": event.recover.mode,
            "after": {member.plan: list(member.after) for member in event.members},
        },
    )


def _asked(
    doc: Job | None, event: said.GroupMemberAsked, recorded: Recorded, row: str
) -> Job | None:
    return doc and steps.moved(doc, steps.begun(doc.steps, event.plan, event.at))


def _finished(
    doc: Job | None, event: said.RecoveryGroupFinished, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    return steps.closed(
        doc,
        state=event.state,
        when=at(recorded),
        error=error_of(event.problem),
        rto_s=event.rto_s,
        awaits_cleanup=event.awaits_cleanup,
    )


def _cleaned(
    doc: Job | None, event: said.RecoveryGroupCleaned, recorded: Recorded, row: str
) -> Job | None:
    return doc and _replace(doc, awaits_cleanup=event.remaining > 0)


# ── Its cleanup ──────────────────────────────────────────────────────────────────────────────


def _cleanup_started(
    doc: Job | None, event: said.GroupCleanupStarted, recorded: Recorded, row: str
) -> Job:
    listed = steps.listed(event.recoveries)
    for plan in event.recoveries:
        listed = steps.begun(listed, plan, at(recorded))
    return Job(
        id=row,
        kind="cleanup",
        plan=event.plan,
        state="running",
        actor=recorded.meta.actor,
        created_at=at(recorded),
        started_at=at(recorded),
        steps=listed,
        recovery=event.group,
    )


def _cleanup_finished(
    doc: Job | None, event: said.GroupCleanupFinished, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    return steps.closed(doc, state=event.state, when=at(recorded), error=error_of(event.problem))


ROUTES: dict[type, tuple[Route, ...]] = {
    said.RecoveryGroupStarted: (Route(_started),),
    said.GroupMemberAsked: (Route(_asked),),
    said.GroupMemberRefused: (Route(steps.over),),
    said.GroupMemberEnded: (Route(steps.over),),
    said.RecoveryGroupCancelRequested: (Route(cancelling),),
    said.RecoveryGroupFinished: (Route(_finished),),
    said.RecoveryGroupCleaned: (Route(_cleaned),),
    said.GroupCleanupStarted: (Route(_cleanup_started),),
    said.GroupCleanupMemberEnded: (Route(steps.over),),
    said.GroupCleanupCancelRequested: (Route(cancelling),),
    said.GroupCleanupFinished: (Route(_cleanup_finished),),
}
