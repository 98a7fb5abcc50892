"""All jobs in one table, and beside it the jobs that were decided and have not begun.

A job begins when its service says so; until then the scheduler's decision stands for it, so that
a command answered with a job id is never followed by *no such job*.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from schemas import scheduler as said
from schemas import scheduler_operations as said_ops
from schemas.children import ParentJobEnded
from schemas.clean_points import CleanPointSearchRequested
from schemas.envelope import Recorded
from schemas.folds import (
    checkpoint_jobs,
    clean_point_jobs,
    cleanup_jobs,
    group_jobs,
    operation_jobs,
    recovery_jobs,
    replication_jobs,
    site_jobs,
    steering_jobs,
    steps,
)
from schemas.folds.base import Column, Route, View, at
from schemas.ids import key_of
from schemas.recovery_groups import RecoveryGroupRequested
from schemas.views import Counts, Job, JobKind

SERVICES: Mapping[str, str] = {
    "replication-run": "replicator",
    "iteration": "replicator",
    "checkpoint": "replicator",
    "recovery": "recovery",
    "vm-recovery": "recovery",
    "cleanup": "recovery",
    "find-clean-point": "recovery",
    "recovery-group": "recovery",
    "group-cleanup": "recovery",
    "commit": "recovery",
    "rollback": "recovery",
    "site-power-off": "recovery",
}
"""Families of jobs, by the service in whose log they are."""

COLUMNS = (
    Column("kind", "text", lambda job: job.kind),
    Column("plan", "text", lambda job: job.plan),
    Column("vm", "text", lambda job: job.vm),
    Column("disk", "text", lambda job: job.disk),
    Column("parent_id", "text", lambda job: job.parent_id),
    Column("state", "text", lambda job: job.state),
    Column("created_at", "timestamptz", lambda job: job.created_at),
    Column("ended_at", "timestamptz", lambda job: job.ended_at),
)

VIEW = View(
    table="jobs",
    document=Job,
    columns=COLUMNS,
    routes={
        **replication_jobs.ROUTES,
        **checkpoint_jobs.ROUTES,
        **recovery_jobs.ROUTES,
        **cleanup_jobs.ROUTES,
        **clean_point_jobs.ROUTES,
        **group_jobs.ROUTES,
        **operation_jobs.ROUTES,
        **site_jobs.ROUTES,
        **steering_jobs.ROUTES,
    },
)


# ── Requests ─────────────────────────────────────────────────────────────────────────────────


def _job_row(event: Any, recorded: Recorded) -> Iterable[str]:
    return (event.job,)


def _run_row(event: Any, recorded: Recorded) -> Iterable[str]:
    return (event.run,)


def _checkpoint_row(event: Any, recorded: Recorded) -> Iterable[str]:
    return (event.checkpoint,)


def _queued(recorded: Recorded, row: str, kind: JobKind, vms: int, **fields: Any) -> Job:
    return Job(
        id=row,
        kind=kind,
        plan=key_of(recorded.stream),
        state="queued",
        actor=recorded.meta.actor,
        created_at=at(recorded),
        vms=Counts(total=vms),
        **fields,
    )


def _recovery(doc: Job | None, event: said.RecoveryRequested, recorded: Recorded, row: str) -> Job:
    kind = recovery_jobs.KINDS[event.mode]
    return _queued(
        recorded,
        row,
        kind,
        len(event.vms),
        checkpoint=event.checkpoint,
        dry_run=event.dry_run,
        parent_id=event.parent or None,
    )


def _search(
    doc: Job | None, event: CleanPointSearchRequested, recorded: Recorded, row: str
) -> Job:
    return _queued(recorded, row, "find-clean-point", len(event.vms))


def _group(doc: Job | None, event: RecoveryGroupRequested, recorded: Recorded, row: str) -> Job:
    job = _queued(recorded, row, "recovery-group", 0, dry_run=event.dry_run)
    return msgspec.structs.replace(job, vms=None, steps=steps.listed(event.plans))


def _awaited_row(event: said_ops.RecoveryAwaited, recorded: Recorded) -> Iterable[str]:
    return (event.request.job,)


def _awaited(
    doc: Job | None, event: said_ops.RecoveryAwaited, recorded: Recorded, row: str
) -> Job:
    asked = event.request
    kind = recovery_jobs.KINDS[asked.mode]
    note = "waits for running iterations, which are being cancelled"
    return _queued(recorded, row, kind, len(event.vms), checkpoint=asked.checkpoint, note=note)


def _run(doc: Job | None, event: said.GroupTickDispatched, recorded: Recorded, row: str) -> Job:
    return _queued(recorded, row, "replication-run", len(event.vms))


def _checkpoint(
    doc: Job | None, event: said.CheckpointRequested, recorded: Recorded, row: str
) -> Job:
    return _queued(recorded, row, "checkpoint", len(event.vms), checkpoint=row)


def _deletion_row(event: said.CheckpointRecorded, recorded: Recorded) -> Iterable[str]:
    return (f"{event.checkpoint}.{checkpoint_jobs.DELETE}",)


def _deletion(
    doc: Job | None, event: said.CheckpointRecorded, recorded: Recorded, row: str
) -> Job | None:
    if event.state != "expiring":
        return None
    vms = len(event.vms)
    return _queued(recorded, row, "checkpoint-delete", vms, checkpoint=event.checkpoint)


def _over(doc: Job | None, event: Any, recorded: Recorded, row: str) -> None:
    return None


REQUESTS = View(
    table="job_requests",
    document=Job,
    columns=COLUMNS,
    routes={
        said.RecoveryRequested: (Route(_recovery, _job_row),),
        said.RecoveryRecorded: (Route(_over, _job_row),),
        CleanPointSearchRequested: (Route(_search, _job_row),),
        RecoveryGroupRequested: (Route(_group, _job_row),),
        ParentJobEnded: (Route(_over, _job_row),),
        said_ops.RecoveryAwaited: (Route(_awaited, _awaited_row),),
        said_ops.RecoveryNotStarted: (Route(_over, _job_row),),
        said.GroupTickDispatched: (Route(_run, _run_row),),
        said.GroupTickEnded: (Route(_over, _run_row),),
        said.CheckpointRequested: (Route(_checkpoint, _checkpoint_row),),
        said.CheckpointRecorded: (
            Route(_over, _checkpoint_row),
            Route(_deletion, _deletion_row),
        ),
    },
)
