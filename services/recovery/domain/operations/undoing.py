"""Automatic roll back: whether a recovery that has ended is undone by itself, and by which job.

Rules. Only where its plan, or who asked for it, wants that, and only at the moment of its end:
what guests write afterwards is never discarded by a clock. A failover is never undone by itself:
its sources may be gone.
"""

from __future__ import annotations

from schemas.ids import parts_of, stream_id
from schemas.operations import BeginRollback
from schemas.recovery import BeginCleanup, RecoveryFinished
from services.recovery.domain.operations import of
from services.recovery.domain.recovery_state import Recovery, told


def undone_by(state: Recovery, end: RecoveryFinished) -> str:
    """The job that undoes it, or "".

    The trigger: it ended *failed* or *partially completed* after something was made or moved, and
    a VM of it is not usable. VMs that are usable but degraded are a person's to judge, and so is
    what a person cancelled. What another job asked for is that job's to undo.
    """
    start = told(state)
    if not (start.auto_rollback and of(start.mode).undoes_itself) or start.parent:
        return ""
    if end.state not in ("failed", "partially-completed") or state.ready == len(state.roster):
        return ""
    _, plan, key = parts_of(start.job)
    if end.awaits_commit:
        return stream_id("rollback", plan, f"auto-{key}")
    # Another id than that of `auto_cleanup_after`: a retry may come between the two.
    return stream_id("cleanup", plan, f"undo-{key}") if end.awaits_cleanup else ""


def begin(recovery: str, job: str) -> BeginRollback | BeginCleanup:
    """What is sent, so that the job begins; a person who was faster is not overruled."""
    if job.startswith("rollback:"):
        return BeginRollback(job=job, recovery=recovery)
    return BeginCleanup(job=job, recovery=recovery)
