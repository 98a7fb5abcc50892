"""PIT checkpoints as the replicator tells them, and beside them the scheduler's marks on them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from schemas import replicator as said
from schemas import scheduler
from schemas.clean_points import CheckpointJudged
from schemas.envelope import Recorded
from schemas.folds.base import Column, Route, View, at, error_of
from schemas.ids import key_of
from schemas.views import Checkpoint, CheckpointCopy, CheckpointMark, CheckpointVerdict

_replace = msgspec.structs.replace


def _started(
    doc: Checkpoint | None, event: said.CheckpointStarted, recorded: Recorded, row: str
) -> Checkpoint:
    return Checkpoint(
        id=row,
        plan=event.plan,
        plan_version=event.plan_version,
        state="creating",
        preserved=event.preserved,
        created_at=event.requested_at,
        vms=event.vms,
        reverse=event.reverse,
    )


def _copied(
    doc: Checkpoint | None, event: said.VmCheckpointed, recorded: Recorded, row: str
) -> Checkpoint | None:
    if doc is None:
        return None
    copy = CheckpointCopy(
        vm=event.vm,
        taken_at=event.taken_at,
        copy_id=event.copy_id,
        error=error_of(event.problem),
    )
    return _replace(doc, copies=(*doc.copies, copy))


def _finished(
    doc: Checkpoint | None, event: said.CheckpointFinished, recorded: Recorded, row: str
) -> Checkpoint | None:
    if doc is None:
        return None
    usable = event.state in ("completed", "partially-completed")
    return _replace(
        doc,
        state="available" if usable else "failed",
        ended_at=at(recorded),
        error=error_of(event.problem),
    )


def _copy_deleted(
    doc: Checkpoint | None, event: said.VmCheckpointDeleted, recorded: Recorded, row: str
) -> Checkpoint | None:
    if doc is None:
        return None
    return _replace(doc, copies=tuple(copy for copy in doc.copies if copy.vm != event.vm))


def _expiring(
    doc: Checkpoint | None, event: Any, recorded: Recorded, row: str
) -> Checkpoint | None:
    return None if doc is None else _replace(doc, state="expiring")


def _deleted(
    doc: Checkpoint | None, event: Any, recorded: Recorded, row: str
) -> Checkpoint | None:
    return None if doc is None else _replace(doc, state="deleted", copies=())


VIEW = View(
    table="checkpoints",
    document=Checkpoint,
    columns=(
        Column("plan", "text", lambda checkpoint: checkpoint.plan),
        Column("state", "text", lambda checkpoint: checkpoint.state),
        Column("created_at", "timestamptz", lambda checkpoint: checkpoint.created_at),
    ),
    routes={
        said.CheckpointStarted: (Route(_started),),
        said.VmCheckpointed: (Route(_copied),),
        said.CheckpointFinished: (Route(_finished),),
        said.VmCheckpointDeleted: (Route(_copy_deleted),),
        said.CheckpointDeletionStarted: (Route(_expiring),),
        said.CheckpointDeleted: (Route(_deleted),),
    },
)


# ── Marks ────────────────────────────────────────────────────────────────────────────────────


def _marked_row(event: Any, recorded: Recorded) -> Iterable[str]:
    return (event.checkpoint,)


def _marked(
    doc: CheckpointMark | None,
    event: scheduler.CheckpointRequested | scheduler.CheckpointPreservationChanged,
    recorded: Recorded,
    row: str,
) -> CheckpointMark:
    verdict = None if doc is None else doc.verdict
    return CheckpointMark(
        id=row, plan=key_of(recorded.stream), preserved=event.preserved, verdict=verdict
    )


def _judged(
    doc: CheckpointMark | None, event: CheckpointJudged, recorded: Recorded, row: str
) -> CheckpointMark | None:
    if doc is None:
        return None
    verdict = CheckpointVerdict(
        verdict=event.verdict,
        job=event.job,
        at=event.at,
        script_sha256=event.script_sha256,
        reason=event.reason,
    )
    return _replace(doc, verdict=verdict)


def _mark_recorded(
    doc: CheckpointMark | None,
    event: scheduler.CheckpointRecorded,
    recorded: Recorded,
    row: str,
) -> CheckpointMark | None:
    return None if event.state in ("deleted", "failed") else doc


MARKS = View(
    table="checkpoint_marks",
    document=CheckpointMark,
    columns=(Column("plan", "text", lambda mark: mark.plan),),
    routes={
        scheduler.CheckpointRequested: (Route(_marked, _marked_row),),
        scheduler.CheckpointPreservationChanged: (Route(_marked, _marked_row),),
        scheduler.CheckpointRecorded: (Route(_mark_recorded, _marked_row),),
        CheckpointJudged: (Route(_judged, _marked_row),),
    },
)
