"""What sites hold of ours that no job will remove: the listing, and when something is left over.

Pure, for whoever compares: the read models (`seawall doctor --leftovers`) or the logs themselves
(`seawall log reconcile`). An object is expected while its job runs, awaits its cleanup or a
commit, has unsettled work, or was committed: then it is in production.
"""

from __future__ import annotations

import datetime as dt
from typing import Final, Literal

import msgspec

from schemas.views import ENDED, Document, Job

Code = Literal["unknown-job", "left-over"]

FACT: Final = "owned"
"""Where a site's facts say what was listed: `sha256`, `at`, `total`, `kept`, as Listed."""


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """Where a listing is: a blob of the replicator's, with the first `kept` of `total` objects."""

    sha256: str
    at: dt.datetime
    total: int
    kept: int


class OwnedObject(msgspec.Struct, frozen=True, kw_only=True):
    """One object with our tag: an instance, disk, hold, snapshot or generation."""

    kind: str
    object_id: str
    plan: str = ""
    vm: str = ""
    job: str = ""


class LeftOver(Document, frozen=True, kw_only=True):
    """An object that nobody will remove. `by`: who acts, Seawall in its own time or the operator.

    `age_s` counts from the end of its job; None where the job is not known. `remedy` is what to
    do, `command` the command to begin with, where there is one.
    """

    site: str
    kind: str
    id: str
    plan: str = ""
    vm: str = ""
    job: str = ""
    code: Code
    age_s: float | None = None
    why: str
    remedy: str
    command: str = ""
    by: Literal["seawall", "operator"] = "operator"


WHY: Final[dict[Code, str]] = {
    "unknown-job": "carries our tag and belongs to no job that is known",
    "left-over": "its job has ended and will not remove it",
}

DELETE: Final = {
    "snapshot": "delete the snapshot at the site: it grows, and no job removes it",
    "generation": "delete it at the site: no plan replicates that VM",
    "hold": "release it at the site: until then that copy's content takes space",
    "disk": "delete the disk at the site: no cleanup lists it",
    "instance": "power it off and delete it at the site once nobody needs it: no cleanup lists it",
}
REMOVED_BY_NEXT: Final = "it is removed when the VM's next iteration is finalized"


def code_of(job: Job | None, *, known: bool, working: bool) -> Code | None:
    """Why an object is left over; None where its job still has to do with it.

    `job` is the job of its tag, `known` whether that exists at all, `working` whether work of it
    is unsettled.
    """
    if not known:
        return "unknown-job"
    if job is None or job.state not in ENDED or working:
        return None
    wanted = job.awaits_cleanup or job.awaits_commit or job.committed
    return None if wanted else "left-over"


def remedy_of(kind: str, *, replicating: bool) -> tuple[str, Literal["seawall", "operator"]]:
    """What is to be done about it, and who does it. `replicating`: its VM's replication is on."""
    if kind == "generation" and replicating:
        return REMOVED_BY_NEXT, "seawall"
    return DELETE.get(kind, "look at the site"), "operator"


def left_over(
    site: str,
    owned: OwnedObject,
    *,
    job: Job | None,
    working: bool,
    replicating: bool,
    now: dt.datetime,
) -> LeftOver | None:
    """What there is to say of a listed object; None where it is expected."""
    code = code_of(job, known=job is not None, working=working)
    if code is None:
        return None
    remedy, by = remedy_of(owned.kind, replicating=replicating)
    ended = None if job is None else job.ended_at
    command = f"seawall job show {job.id}" if job is not None else ""
    if by == "seawall":
        command = f"seawall plan run {owned.plan}"
    return LeftOver(
        site=site,
        kind=owned.kind,
        id=owned.object_id,
        plan=owned.plan,
        vm=owned.vm,
        job=owned.job,
        code=code,
        age_s=None if ended is None else round(max((now - ended).total_seconds(), 0.0), 1),
        why=WHY[code],
        remedy=remedy,
        command=command,
        by=by,
    )
