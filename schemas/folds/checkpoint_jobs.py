"""Jobs that make and delete PIT checkpoints.

A VM's row is `<checkpoint>.<vm>`, that of the deletion `<checkpoint>.delete`: both are folded from
the checkpoint's stream.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

import msgspec

from schemas import replicator as said
from schemas.common import JobState
from schemas.envelope import Recorded
from schemas.folds import steps
from schemas.folds.base import Route, at, cancelling, error_of
from schemas.ids import key_of
from schemas.views import Counts, Job, JobKind

_replace = msgspec.structs.replace

COPIES = "copies"
DELETE = "delete"


def _checkpoint_job(
    recorded: Recorded, row: str, *, kind: JobKind, plan: str, when: dt.datetime
) -> Job:
    return Job(
        id=row,
        kind=kind,
        plan=plan,
        state="running",
        actor=recorded.meta.actor,
        created_at=when,
        started_at=at(recorded),
        checkpoint=recorded.stream,
    )


def _checkpoint_started(
    doc: Job | None, event: said.CheckpointStarted, recorded: Recorded, row: str
) -> Job:
    job = _checkpoint_job(
        recorded, row, kind="checkpoint", plan=event.plan, when=event.requested_at
    )
    return _replace(
        job,
        steps=steps.begun(steps.listed((COPIES,)), COPIES, at(recorded)),
        vms=Counts(total=len(event.vms)),
    )


def _vm_checkpointed(
    doc: Job | None, event: said.VmCheckpointed, recorded: Recorded, row: str
) -> Job | None:
    if doc is None or doc.vms is None:
        return doc
    failed = event.problem is not None
    counts = _replace(
        doc.vms,
        ended=doc.vms.ended + 1,
        ready=doc.vms.ready + (not failed),
        failed=doc.vms.failed + failed,
    )
    share = round(100.0 * counts.ended / max(counts.total, 1), 1)
    return steps.moved(doc, steps.changed(doc.steps, COPIES, percent=share), vms=counts)


def _checkpoint_finished(
    doc: Job | None, event: said.CheckpointFinished, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    after = steps.changed(
        doc.steps,
        COPIES,
        state="completed" if event.state == "completed" else _step_state(event.state),
        ended_at=at(recorded),
        error=error_of(event.problem),
    )
    return steps.closed(
        _replace(doc, steps=after),
        state=event.state,
        when=at(recorded),
        error=error_of(event.problem),
    )


def _step_state(state: said.IterationState) -> Any:
    return "cancelled" if state == "cancelled" else "failed"


def _checkpointed_vm(event: said.VmCheckpointed, recorded: Recorded) -> Iterable[str]:
    return (f"{recorded.stream}.{event.vm}",)


def _vm_copied(doc: Job | None, event: said.VmCheckpointed, recorded: Recorded, row: str) -> Job:
    job = _checkpoint_job(
        recorded, row, kind="checkpoint", plan=key_of(recorded.stream), when=at(recorded)
    )
    state: JobState = "completed" if event.problem is None else "failed"
    return _replace(
        job,
        vm=event.vm,
        parent_id=recorded.stream,
        state=state,
        ended_at=at(recorded),
        percent=100.0 if state == "completed" else 0.0,
        error=error_of(event.problem),
    )


def _deletion_row(event: Any, recorded: Recorded) -> Iterable[str]:
    return (f"{recorded.stream}.{DELETE}",)


def _deletion_started(
    doc: Job | None, event: said.CheckpointDeletionStarted, recorded: Recorded, row: str
) -> Job:
    job = _checkpoint_job(
        recorded, row, kind="checkpoint-delete", plan=event.plan, when=at(recorded)
    )
    return _replace(job, steps=steps.begun(steps.listed((DELETE,)), DELETE, at(recorded)))


def _vm_deleted(
    doc: Job | None, event: said.VmCheckpointDeleted, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    counts = doc.vms or Counts()
    return _replace(doc, vms=_replace(counts, ended=counts.ended + 1))


def _removal_troubled(
    doc: Job | None, event: said.CheckpointRemovalTroubled, recorded: Recorded, row: str
) -> Job | None:
    """Of the deletion, or of a cancelled creation: whichever still runs."""
    if doc is None or doc.ended_at is not None:
        return doc
    return _replace(doc, error=error_of(event.problem))


def _deletion_ended(
    doc: Job | None, event: said.CheckpointDeleted, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    after = steps.changed(
        doc.steps, DELETE, state="completed", ended_at=at(recorded), percent=100.0
    )
    return steps.closed(_replace(doc, steps=after), state="completed", when=at(recorded))


ROUTES: dict[type, tuple[Route, ...]] = {
    said.CheckpointStarted: (Route(_checkpoint_started),),
    said.VmCheckpointed: (Route(_vm_checkpointed), Route(_vm_copied, _checkpointed_vm)),
    said.CheckpointCancelRequested: (Route(cancelling),),
    said.CheckpointFinished: (Route(_checkpoint_finished),),
    said.CheckpointDeletionStarted: (Route(_deletion_started, _deletion_row),),
    said.CheckpointRemovalTroubled: (
        Route(_removal_troubled),
        Route(_removal_troubled, _deletion_row),
    ),
    said.VmCheckpointDeleted: (Route(_vm_deleted, _deletion_row),),
    said.CheckpointDeleted: (Route(_deletion_ended, _deletion_row),),
}
