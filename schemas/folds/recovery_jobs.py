"""Jobs of the recovery service that bring VMs up: the plan's recovery, each VM's, each disk's.

A disk's row is `<vm's stream>.<disk>`. The plan's job counts its VMs; their instances are in the
VMs' own rows and are joined at query time, so that an event costs the same with 2,000 VMs.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Any

import msgspec

from schemas import recovery as said
from schemas.common import JobState
from schemas.envelope import Recorded
from schemas.folds import steps
from schemas.folds.base import Route, at, error_of
from schemas.folds.steering_jobs import cancelled, member_over, standing
from schemas.prep import VmSeated
from schemas.scheduler import RecoveryMode
from schemas.views import Counts, Instance, Job, JobKind, Step

_replace = msgspec.structs.replace

KINDS: dict[RecoveryMode, JobKind] = {
    "test": "test-recovery",
    "failover": "failover",
    "migrate": "migration",
    "reverse": "reverse",
    "failback": "failback",
}
ORDER_STEP = "boot-order-"
PREFLIGHT = "preflight"
HOLD = "hold-copy"
REBUILD = "rebuild-disks"
CREATE = "create-instance"
POWER_ON = "power-on"
WAIT = "wait-ready"
PREPARE = "prepare-windows"
VALIDATE = "validate-windows"

_ABANDONED = {
    "stop": "the operation stopped",
    "cancel": "cancelled",
    "dry-run": "dry run: nothing was done",
}


# ── The plan's recovery ──────────────────────────────────────────────────────────────────────


def _started(doc: Job | None, event: said.RecoveryStarted, recorded: Recorded, row: str) -> Job:
    return Job(
        id=row,
        kind=KINDS[event.mode],
        plan=event.plan,
        parent_id=event.parent or None,
        state="running",
        actor=event.actor or recorded.meta.actor,
        created_at=event.requested_at,
        started_at=at(recorded),
        steps=steps.next_begun(steps.listed(event.steps), at(recorded)),
        vms=Counts(total=len(event.members)),
        checkpoint=event.checkpoint,
        dry_run=event.dry_run,
    )


def _preflight(
    doc: Job | None, event: said.PreflightFinished, recorded: Recorded, row: str
) -> Job | None:
    return doc and steps.moved(doc, steps.ended(doc.steps, event.timing), facts=event.facts)


def _script_started(
    doc: Job | None,
    event: said.PlanScriptStarted | said.VmScriptStarted,
    recorded: Recorded,
    row: str,
) -> Job | None:
    return doc and steps.moved(
        doc, steps.script_begun(doc.steps, event.step, at(recorded), run=event.run)
    )


def _plan_script_ended(
    doc: Job | None, event: said.PlanScriptEnded, recorded: Recorded, row: str
) -> Job | None:
    return doc and steps.moved(doc, _after_script(doc, event))


def _after_script(doc: Job, event: said.PlanScriptEnded | said.VmScriptEnded) -> tuple[Step, ...]:
    after = steps.script_ended(doc.steps, event.step, event.report, timing=event.timing)
    # A script that runs again has not ended yet.
    return steps.changed(after, event.step, state="running") if event.again else after


def _order_opened(
    doc: Job | None, event: said.BootOrderOpened, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    before = tuple(
        _replace(step, state="completed", ended_at=event.at, percent=100.0)
        if step.name.startswith(ORDER_STEP) and step.state == "running"
        else step
        for step in doc.steps
    )
    return steps.moved(doc, steps.begun(before, f"{ORDER_STEP}{event.boot_order}", event.at))


def _powered_on(
    doc: Job | None, event: said.MemberPoweredOn, recorded: Recorded, row: str
) -> Job | None:
    if doc is None or doc.vms is None:
        return doc
    return _replace(doc, vms=_replace(doc.vms, powered_on=doc.vms.powered_on + 1))


def _ready(doc: Job | None, event: said.MemberReady, recorded: Recorded, row: str) -> Job | None:
    if doc is None or doc.vms is None:
        return doc
    return _counted(doc, _replace(doc.vms, ready=doc.vms.ready + 1))


def _member_ended(
    doc: Job | None, event: said.MemberEnded, recorded: Recorded, row: str
) -> Job | None:
    if doc is None or doc.vms is None:
        return doc
    doc = member_over(doc, event.vm)
    assert doc.vms is not None, "a recovery counts its VMs"
    failed = doc.vms.failed + (event.outcome == "failed")
    return _counted(doc, _replace(doc.vms, ended=doc.vms.ended + 1, failed=failed))


def _counted(doc: Job, counts: Counts) -> Job:
    """The running boot order's step shows the share of all VMs that are up: they are what takes
    the time, whichever order they belong to."""
    share = 100.0 * max(counts.ready, counts.ended) / max(counts.total, 1)
    after = tuple(
        _replace(step, percent=round(min(share, 100.0), 1))
        if step.state == "running" and step.name.startswith(ORDER_STEP)
        else step
        for step in doc.steps
    )
    return steps.moved(doc, after, vms=counts)


def _finished(
    doc: Job | None, event: said.RecoveryFinished, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    counts = doc.vms or Counts()
    undone = {"undone_by": event.undone_by} if event.undone_by else {}
    return steps.closed(
        doc,
        state=event.state,
        when=at(recorded),
        timings=event.steps,
        error=error_of(event.problem),
        rto_s=event.rto_s,
        vms=_replace(counts, ready=event.ready, failed=event.failed),
        awaits_cleanup=event.awaits_cleanup,
        awaits_commit=event.awaits_commit,
        note=event.note or doc.note,
        waited_s=event.waited_s,
        left=event.left,
        paused=False,
        waiting_for=(),
        facts={**doc.facts, **undone},
    )


def _cleaned(
    doc: Job | None, event: said.RecoveryCleaned, recorded: Recorded, row: str
) -> Job | None:
    return doc and _replace(doc, awaits_cleanup=False, committed=False)


# ── A VM's recovery ──────────────────────────────────────────────────────────────────────────


def _enrolled(doc: Job | None, event: said.VmEnrolled, recorded: Recorded, row: str) -> Job:
    return Job(
        id=row,
        kind=KINDS[event.mode],
        plan=event.plan,
        vm=event.definition.name,
        parent_id=event.job,
        state="queued",
        actor=recorded.meta.actor,
        created_at=at(recorded),
        steps=steps.listed(event.steps),
        boot_order=event.definition.boot_order,
        checkpoint=event.checkpoint,
    )


def _waits(doc: Job, *, early: bool = True) -> frozenset[str]:
    """Steps that do not begin before the VM's boot order is open, or a prep node is free."""
    seat = set() if doc.facts.get("prep_node") else {PREPARE}
    if doc.boot_open:
        return frozenset(seat)
    return frozenset({"pre-script", POWER_ON} | seat | (set() if early else {CREATE}))


def _launched(doc: Job | None, event: said.VmLaunched, recorded: Recorded, row: str) -> Job | None:
    if doc is None:
        return None
    doc = standing(_replace(doc, started_at=at(recorded), boot_open=event.boot))
    return _replace(doc, steps=steps.next_begun(doc.steps, at(recorded), waits=_waits(doc)))


def _boot_allowed(
    doc: Job | None, event: said.VmBootAllowed, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    waited = next((s.name for s in doc.steps if s.state == "waiting" and s.name != PREPARE), None)
    after = doc.steps if waited is None else steps.begun(doc.steps, waited, at(recorded))
    return _replace(doc, boot_open=True, steps=after)


def _seated(doc: Job | None, event: VmSeated, recorded: Recorded, row: str) -> Job | None:
    if doc is None:
        return None
    after = steps.begun(doc.steps, PREPARE, at(recorded))
    return steps.moved(doc, after, facts={**doc.facts, "prep_node": event.node})


def _step_ended(
    doc: Job | None, event: said.VmStepEnded, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    if event.timing.name == REBUILD:
        return _disk_of(doc, event, at(recorded))
    listed = steps.relisted(doc.steps, event.steps) if event.steps else doc.steps
    after = steps.ended(listed, event.timing)
    changes: dict[str, Any] = {}
    early = True
    if event.timing.name == HOLD and event.made:
        sizes = _held_disks(event)
        early = bool(event.made.get("early", True))
        changes |= _disks_to_come(doc, event, total=len(sizes))
        changes["bytes_total"] = sum(sizes.values())
        changes["facts"] = {"copy_taken_at": event.made.get("taken_at"), "early": early}
    elif event.timing.name == CREATE and event.made:
        changes["instances"] = (_instance(doc, event.made),)
    return steps.moved(doc, _next(doc, after, event, at(recorded), early=early), **changes)


def _disks_to_come(doc: Job, event: said.VmStepEnded, *, total: int) -> dict[str, Any]:
    """Disks that were made before a retry stand, if they are of the same moment."""
    before = doc.disks
    if before is None or doc.facts.get("copy_taken_at") != event.made.get("taken_at"):
        return {"disks": Counts(total=total), "bytes_done": 0}
    return {"disks": Counts(total=total, ready=before.ready, ended=before.ready)}


def _next(
    doc: Job,
    after: tuple[Step, ...],
    event: said.VmStepEnded,
    when: dt.datetime,
    *,
    early: bool = True,
) -> tuple[Step, ...]:
    if event.timing.state != "completed":
        return after
    return steps.next_begun(after, when, waits=_waits(doc, early=early))


def _disk_of(doc: Job, event: said.VmStepEnded, when: dt.datetime) -> Job:
    """The step of all disks ends with the last of them, or shows how many are done."""
    counts = doc.disks or Counts(total=1)
    done = event.timing.state == "completed"
    counts = _replace(
        counts,
        ended=counts.ended + 1,
        ready=counts.ready + done,
        failed=counts.failed + (event.timing.state == "failed"),
    )
    size = int(event.made.get("size", 0)) if done else 0
    bytes_done = doc.bytes_done + size
    if not done or counts.ready >= counts.total:
        before = next((s.started_at for s in doc.steps if s.name == REBUILD), None)
        after = steps.ended(doc.steps, event.timing)
        if before is not None:
            after = steps.changed(after, REBUILD, started_at=before)
        early = bool(doc.facts.get("early", True))
        after = _next(doc, after, event, when, early=early)
    else:
        share = round(100.0 * counts.ready / counts.total, 1)
        after = steps.changed(doc.steps, REBUILD, percent=share)
    return steps.moved(doc, after, disks=counts, bytes_done=bytes_done)


def _instance(doc: Job, made: dict[str, Any]) -> Instance:
    return Instance(
        vm=doc.vm or "",
        instance_id=str(made.get("instance_id", "")),
        addresses=tuple(made.get("addresses", ())),
        boot_order=doc.boot_order,
    )


def _vm_script_ended(
    doc: Job | None, event: said.VmScriptEnded, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    after = _after_script(doc, event)
    if event.report.outcome == "done":
        after = steps.next_begun(after, at(recorded), waits=_waits(doc))
    return steps.moved(doc, after)


def _vm_powered_on(
    doc: Job | None, event: said.VmPoweredOn, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    instance = Instance(
        vm=doc.vm or "",
        instance_id=event.instance_id,
        addresses=event.addresses,
        powered_on_at=event.at,
        boot_order=doc.boot_order,
    )
    after = steps.begun(steps.ended(doc.steps, event.timing), WAIT, event.at)
    return steps.moved(doc, after, instances=(instance,))


def _vm_ready(doc: Job | None, event: said.VmReady, recorded: Recorded, row: str) -> Job | None:
    if doc is None:
        return None
    instances = tuple(
        _replace(each, ready_at=event.at, addresses=event.addresses or each.addresses)
        for each in doc.instances
    )
    after = steps.changed(doc.steps, WAIT, state="completed", ended_at=event.at, percent=100.0)
    if any(step.name == VALIDATE for step in after):
        # The held copy may have been let go before it, which is the last step of the list.
        after = steps.begun(after, VALIDATE, at(recorded))
    else:
        after = steps.next_begun(after, at(recorded))
    return steps.moved(doc, after, instances=instances)


def _abandoned(
    doc: Job | None, event: said.VmAbandoned, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    facts = _unpaused(doc.facts)
    doc = _replace(doc, cancelling=True, note=_ABANDONED[event.reason], paused=False, facts=facts)
    return standing(doc)


def _release_troubled(
    doc: Job | None, event: said.VmReleaseTroubled, recorded: Recorded, row: str
) -> Job | None:
    return doc and _replace(doc, error=doc.error or error_of(event.problem))


def _vm_finished(
    doc: Job | None, event: said.VmFinished, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    return steps.closed(
        doc,
        state=event.state,
        when=at(recorded),
        timings=event.steps,
        error=error_of(event.problem),
        rto_s=event.rto_s,
        facts={**_unpaused(doc.facts), "outcome": event.outcome},
        waited_s=event.waited_s,
        left=event.left,
        paused=False,
    )


def _unpaused(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key != "paused_by"}


# ── Disks of a VM's recovery ─────────────────────────────────────────────────────────────────


def _held_disks(event: said.VmStepEnded) -> dict[str, int]:
    """Disk name → size of the copy that is now held."""
    found = event.made.get("disks", ())
    return {str(disk.get("name", "")): int(disk.get("size", 0)) for disk in found}


def _disk_rows(event: said.VmStepEnded, recorded: Recorded) -> Iterable[str]:
    if event.timing.name == HOLD:
        return [f"{recorded.stream}.{disk}" for disk in _held_disks(event)]
    return (f"{recorded.stream}.{event.disk}",) if event.disk else ()


def _disk_changed(
    doc: Job | None, event: said.VmStepEnded, recorded: Recorded, row: str
) -> Job | None:
    name = row[len(recorded.stream) + 1 :]
    if event.timing.name == HOLD:
        size = _held_disks(event).get(name, 0)
        return doc or _disk_job(recorded, row, name, size, kind=KINDS[event.mode])
    job = doc or _disk_job(recorded, row, name, 0, kind=KINDS[event.mode])
    done = event.timing.state == "completed"
    state: JobState = "completed" if done else "failed"
    return _replace(
        job,
        state="cancelled" if event.timing.state == "cancelled" else state,
        started_at=event.timing.started_at or job.started_at,
        ended_at=event.timing.ended_at or at(recorded),
        percent=100.0 if done else job.percent,
        bytes_done=int(event.made.get("size", job.bytes_total)) if done else 0,
        error=error_of(event.problem),
    )


def _disk_job(recorded: Recorded, row: str, disk: str, size: int, *, kind: JobKind) -> Job:
    _, plan, _, vm = recorded.stream.split(":", 3)
    return Job(
        id=row,
        kind=kind,
        plan=plan,
        vm=vm,
        disk=disk,
        parent_id=recorded.stream,
        state="running",
        actor=recorded.meta.actor,
        created_at=at(recorded),
        started_at=at(recorded),
        bytes_total=size,
    )


ROUTES: dict[type, tuple[Route, ...]] = {
    said.RecoveryStarted: (Route(_started),),
    said.PreflightFinished: (Route(_preflight),),
    said.PlanScriptStarted: (Route(_script_started),),
    said.PlanScriptEnded: (Route(_plan_script_ended),),
    said.BootOrderOpened: (Route(_order_opened),),
    said.MemberPoweredOn: (Route(_powered_on),),
    said.MemberReady: (Route(_ready),),
    said.MemberEnded: (Route(_member_ended),),
    said.RecoveryCancelRequested: (Route(cancelled),),
    said.RecoveryFinished: (Route(_finished),),
    said.RecoveryCleaned: (Route(_cleaned),),
    said.VmEnrolled: (Route(_enrolled),),
    said.VmLaunched: (Route(_launched),),
    said.VmBootAllowed: (Route(_boot_allowed),),
    said.VmStepEnded: (Route(_step_ended), Route(_disk_changed, _disk_rows)),
    said.VmScriptStarted: (Route(_script_started),),
    said.VmScriptEnded: (Route(_vm_script_ended),),
    VmSeated: (Route(_seated),),
    said.VmPoweredOn: (Route(_vm_powered_on),),
    said.VmReady: (Route(_vm_ready),),
    said.VmAbandoned: (Route(_abandoned),),
    said.VmReleaseTroubled: (Route(_release_troubled),),
    said.VmFinished: (Route(_vm_finished),),
}
