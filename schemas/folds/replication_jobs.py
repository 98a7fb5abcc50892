"""Jobs that copy VMs: runs, iterations, and the disks of an iteration.

A disk's row is `<iteration>.<disk>`, folded from the iteration's stream.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import msgspec

from schemas import replicator as said
from schemas.common import StepTiming
from schemas.envelope import Recorded
from schemas.folds import steps
from schemas.folds.base import Route, at, cancelling, error_of
from schemas.joins import MOVING_STEPS
from schemas.views import Counts, Job, Step

_replace = msgspec.structs.replace

ITERATIONS = "iterations"
TRANSFER = "transfer"


# ── Runs ─────────────────────────────────────────────────────────────────────────────────────


def _run_started(doc: Job | None, event: said.RunStarted, recorded: Recorded, row: str) -> Job:
    listed = steps.listed(event.steps or (ITERATIONS,))
    return Job(
        id=row,
        kind="replication-run",
        plan=event.plan,
        state="running",
        actor=recorded.meta.actor,
        created_at=at(recorded),
        started_at=at(recorded),
        steps=steps.next_begun(listed, at(recorded)),
        vms=Counts(total=len(event.vms)),
    )


def _run_script_started(
    doc: Job | None, event: said.RunScriptStarted, recorded: Recorded, row: str
) -> Job | None:
    return doc and steps.moved(
        doc, steps.script_begun(doc.steps, event.step, at(recorded), run=event.run)
    )


def _run_script_ended(
    doc: Job | None, event: said.RunScriptEnded, recorded: Recorded, row: str
) -> Job | None:
    return doc and steps.moved(doc, _after_script(doc, event, recorded))


def _after_script(
    doc: Job, event: said.RunScriptEnded | said.ScriptEnded, recorded: Recorded
) -> tuple[Step, ...]:
    after = steps.script_ended(doc.steps, event.step, event.report, timing=event.timing)
    # A script that runs again has not ended yet.
    if event.again:
        return steps.changed(after, event.step, state="running")
    # What follows a failure is not known yet: the next facts say it.
    return steps.next_begun(after, at(recorded)) if event.report.outcome == "done" else after


def _members_step(doc: Job) -> str:
    """The step around the members: the one that is no script."""
    return next((step.name for step in doc.steps if "script" not in step.name), ITERATIONS)


def _member_recorded(
    doc: Job | None, event: said.RunMemberRecorded, recorded: Recorded, row: str
) -> Job | None:
    if doc is None or doc.vms is None:
        return doc
    usable = event.state in ("completed", "partially-completed")
    counts = _replace(
        doc.vms,
        ended=doc.vms.ended + 1,
        ready=doc.vms.ready + usable,
        failed=doc.vms.failed + (event.state == "failed"),
    )
    share = 100.0 * counts.ended / max(counts.total, 1)
    name = _members_step(doc)
    after = steps.changed(doc.steps, name, percent=round(share, 1), state="running")
    if counts.ended >= counts.total:
        after = steps.changed(after, name, state="completed", ended_at=at(recorded))
    return steps.moved(doc, after, vms=counts)


def _run_finished(
    doc: Job | None, event: said.RunFinished, recorded: Recorded, row: str
) -> Job | None:
    return doc and steps.closed(
        doc,
        state=event.state,
        when=at(recorded),
        timings=event.steps,
        error=error_of(event.problem),
    )


# ── Iterations ───────────────────────────────────────────────────────────────────────────────


def _iteration_started(
    doc: Job | None, event: said.IterationStarted, recorded: Recorded, row: str
) -> Job:
    listed = steps.listed(event.steps)
    return Job(
        id=row,
        kind="iteration",
        plan=event.plan,
        vm=event.vm,
        parent_id=event.run or None,
        state="queued" if event.gated else "running",
        actor=recorded.meta.actor,
        created_at=at(recorded),
        started_at=None if event.gated else at(recorded),
        steps=listed if event.gated else steps.next_begun(listed, at(recorded)),
        note="resync" if event.resync else "first copy" if event.full else "",
    )


def _gate_opened(
    doc: Job | None, event: said.GateOpened, recorded: Recorded, row: str
) -> Job | None:
    if doc is None or not event.allowed:
        return doc
    return _replace(
        doc,
        state="running",
        started_at=at(recorded),
        steps=steps.next_begun(doc.steps, at(recorded)),
    )


def _script_started(
    doc: Job | None, event: said.ScriptStarted, recorded: Recorded, row: str
) -> Job | None:
    return doc and steps.moved(
        doc, steps.script_begun(doc.steps, event.step, at(recorded), run=event.run)
    )


def _script_ended(
    doc: Job | None, event: said.ScriptEnded, recorded: Recorded, row: str
) -> Job | None:
    return doc and steps.moved(doc, _after_script(doc, event, recorded))


def _snapshot_opened(
    doc: Job | None, event: said.SnapshotOpened, recorded: Recorded, row: str
) -> Job | None:
    return doc and _transferring(doc, event.snapshot, event.steps, recorded)


def _transferring(
    doc: Job,
    snapshot: said.SnapshotFacts | None,
    timings: tuple[StepTiming, ...],
    recorded: Recorded,
) -> Job:
    """The steps before the transfers are over, and which disks there are is known."""
    after = doc.steps
    for timing in timings:
        after = steps.ended(after, timing)
    after = steps.next_begun(after, at(recorded))
    if any(step.name == TRANSFER and step.state == "pending" for step in after):
        # A transfer finds changes and verifies on its way: the three go on side by side.
        for name in [s.name for s in after if s.name in MOVING_STEPS and s.state == "pending"]:
            after = steps.begun(after, name, at(recorded))
    if snapshot is None:
        return steps.moved(doc, after)
    counts = _replace(doc.disks or Counts(), total=len(snapshot.disks))
    size = sum(disk.size for disk in snapshot.disks)
    return steps.moved(doc, after, bytes_total=size, disks=counts)


def _disk_transferred(
    doc: Job | None, event: said.DiskTransferred, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    doc = _transferring(doc, event.snapshot, event.steps, recorded)
    counts = doc.disks or Counts()
    counts = _replace(
        counts,
        ended=counts.ended + 1,
        ready=counts.ready + (event.result.state == "completed"),
        failed=counts.failed + (event.result.state == "failed"),
    )
    share = 100.0 * counts.ended / max(counts.total, counts.ended)
    after = steps.changed(doc.steps, TRANSFER, state="running", percent=round(share, 1))
    return steps.moved(
        doc, after, disks=counts, bytes_done=doc.bytes_done + event.result.bytes_sent
    )


def _step_ended(
    doc: Job | None, event: said.StepEnded, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    after = steps.ended(doc.steps, event.timing)
    if event.timing.state == "completed":
        after = steps.next_begun(after, at(recorded))
    return steps.moved(doc, after, error=doc.error or error_of(event.problem))


def _copy_finalized(
    doc: Job | None, event: said.CopyFinalized, recorded: Recorded, row: str
) -> Job | None:
    return doc and _transferring(doc, None, event.steps, recorded)


def _iteration_finished(
    doc: Job | None, event: said.IterationFinished, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    states = [disk.state for disk in event.disks]
    counts = Counts(
        total=len(states),
        ended=len(states),
        ready=states.count("completed"),
        failed=states.count("failed"),
    )
    return steps.closed(
        doc,
        state=event.state,
        when=at(recorded),
        timings=event.steps,
        error=error_of(event.problem),
        bytes_done=event.bytes_sent,
        bytes_total=event.bytes_total,
        disks=counts,
    )


# ── Disks of an iteration ────────────────────────────────────────────────────────────────────


def _rows_of(recorded: Recorded, names: Iterable[str]) -> Iterable[str]:
    return [f"{recorded.stream}.{name}" for name in names]


def _name_of(recorded: Recorded, row: str) -> str:
    return row[len(recorded.stream) + 1 :]


def _snapshot_disks(event: said.SnapshotOpened, recorded: Recorded) -> Iterable[str]:
    return _rows_of(recorded, (disk.name for disk in event.snapshot.disks))


def _marked_disk(event: said.TransferMarked, recorded: Recorded) -> Iterable[str]:
    return _rows_of(recorded, (event.disk,))


def _transferred_disk(event: said.DiskTransferred, recorded: Recorded) -> Iterable[str]:
    others = () if event.snapshot is None else (disk.name for disk in event.snapshot.disks)
    return dict.fromkeys(_rows_of(recorded, (*others, event.result.disk)))


def _ended_disks(
    event: said.IterationFinished | said.CopyFinalized, recorded: Recorded
) -> Iterable[str]:
    return _rows_of(recorded, (result.disk for result in event.disks))


def _disk_job(recorded: Recorded, row: str, started_at: dt.datetime) -> Job:
    _, plan, vm, *_ = recorded.stream.split(":")
    return Job(
        id=row,
        kind="iteration",
        plan=plan,
        vm=vm,
        disk=_name_of(recorded, row),
        parent_id=recorded.stream,
        state="running",
        actor=recorded.meta.actor,
        created_at=started_at,
        started_at=started_at,
    )


def _disk_listed(
    doc: Job | None, snapshot: said.SnapshotFacts, recorded: Recorded, row: str
) -> Job:
    job = doc or _disk_job(recorded, row, at(recorded))
    sizes = {disk.name: disk.size for disk in snapshot.disks}
    return _replace(job, bytes_total=sizes.get(job.disk or "", job.bytes_total))


def _disk_begun(doc: Job | None, event: said.SnapshotOpened, recorded: Recorded, row: str) -> Job:
    return _disk_listed(doc, event.snapshot, recorded, row)


def _disk_marked(doc: Job | None, event: said.TransferMarked, recorded: Recorded, row: str) -> Job:
    job = doc or _disk_job(recorded, row, at(recorded))
    share = 100.0 * event.offset / job.bytes_total if job.bytes_total else job.percent
    return _replace(job, percent=round(min(share, 100.0), 1))


def _disk_ended(doc: Job | None, result: said.DiskResult, recorded: Recorded, row: str) -> Job:
    started_at = result.started_at or at(recorded)
    job = doc or _disk_job(recorded, row, started_at)
    if job.ended_at is not None:
        return job
    return _replace(
        job,
        state=result.state,
        started_at=started_at,
        ended_at=result.ended_at or at(recorded),
        percent=100.0 if result.state == "completed" else job.percent,
        bytes_done=result.bytes_sent,
        bytes_total=result.size,
        error=error_of(result.problem),
        note=result.reason,
        facts={
            "bytes_read": result.bytes_read,
            "bytes_zeroed": result.bytes_zeroed,
            "compared": result.compared,
        },
    )


def _disk_transfer_ended(
    doc: Job | None, event: said.DiskTransferred, recorded: Recorded, row: str
) -> Job:
    if event.result.disk == _name_of(recorded, row):
        return _disk_ended(doc, event.result, recorded, row)
    assert event.snapshot is not None, "other disks are known from the snapshot"
    return _disk_listed(doc, event.snapshot, recorded, row)


def _disk_finished(
    doc: Job | None,
    event: said.IterationFinished | said.CopyFinalized,
    recorded: Recorded,
    row: str,
) -> Job | None:
    name = _name_of(recorded, row)
    result = next((disk for disk in event.disks if disk.disk == name), None)
    return doc if result is None else _disk_ended(doc, result, recorded, row)


ROUTES: dict[type, tuple[Route, ...]] = {
    said.RunStarted: (Route(_run_started),),
    said.RunScriptStarted: (Route(_run_script_started),),
    said.RunScriptEnded: (Route(_run_script_ended),),
    said.RunMemberRecorded: (Route(_member_recorded),),
    said.RunCancelRequested: (Route(cancelling),),
    said.RunFinished: (Route(_run_finished),),
    said.IterationStarted: (Route(_iteration_started),),
    said.GateOpened: (Route(_gate_opened),),
    said.ScriptStarted: (Route(_script_started),),
    said.ScriptEnded: (Route(_script_ended),),
    said.SnapshotOpened: (Route(_snapshot_opened), Route(_disk_begun, _snapshot_disks)),
    said.TransferMarked: (Route(_disk_marked, _marked_disk),),
    said.DiskTransferred: (
        Route(_disk_transferred),
        Route(_disk_transfer_ended, _transferred_disk),
    ),
    said.StepEnded: (Route(_step_ended),),
    said.CopyFinalized: (Route(_copy_finalized), Route(_disk_finished, _ended_disks)),
    said.IterationCancelRequested: (Route(cancelling),),
    said.IterationFinished: (
        Route(_iteration_finished),
        Route(_disk_finished, _ended_disks),
    ),
}
