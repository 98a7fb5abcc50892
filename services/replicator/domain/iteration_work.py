"""The work of one iteration as data: its effects, the copy's manifest, what its scripts read.

Decides nothing about order: `iteration` says what is due, this says what that is.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from schemas import replicator_work as work
from schemas.ids import parts_of
from schemas.units import format_moment
from services.replicator.domain import scripts
from services.replicator.domain.iteration_state import (
    DISCARD,
    FINALIZE,
    REMOVE,
    SNAPSHOT,
    Iteration,
    post_script,
    pre_script,
    told,
    transfer_part,
)
from services.replicator.domain.scripts import PRE_STEP, RUN_SCRIPT
from services.replicator.domain.work import needs
from shared.decider import Effect, Need, WorkClass

MANIFEST_VERSION = 1


def _effect(
    state: Iteration, part: str, kind: str, payload: Any, needed: tuple[Need, ...] = ()
) -> Effect:
    start = told(state)
    return Effect(
        part=part,
        kind=kind,
        payload=payload,
        due=start.due_at,
        # The last sync of a recovery is part of that: it goes before routine replication.
        work_class=(
            WorkClass.REPLICATION if start.operation == "replication" else WorkClass.RECOVERY
        ),
        priority=start.priority,
        plan=start.plan,
        interval_s=start.replication.interval_s,
        needs=needed,
    )


def open_snapshot(state: Iteration) -> Effect:
    """Open the source snapshot."""
    start = told(state)
    asked = start.definition.quiesce
    payload = work.OpenSnapshot(
        site=start.protected,
        plan=start.plan,
        vm=start.vm,
        quiesce=start.replication.quiesce if asked is None else asked,
        instance=start.instance,
    )
    needed = needs("open-snapshot", start.protected.site)
    return _effect(state, SNAPSHOT, "open-snapshot", payload, needed)


def transfers(state: Iteration, carried: work.Carried) -> tuple[Effect, ...]:
    """One transfer per disk of the carried snapshot, side by side."""
    start = told(state)
    assert carried.snapshot is not None, "transfers follow a snapshot"
    disks = carried.snapshot.disks
    needed = needs("transfer", start.recovery_site.site)
    return tuple(
        _effect(
            state,
            transfer_part(index, last=index == len(disks)),
            "transfer",
            work.TransferDisk(
                source=start.protected,
                target=start.recovery_site,
                plan=start.plan,
                vm=start.vm,
                disk=disk.name,
                carried=carried,
                full=start.full or start.resync,
            ),
            needed,
        )
        for index, disk in enumerate(disks, start=1)
    )


def finalize(state: Iteration, carried: work.Carried, *, iteration: str) -> Effect:
    """Switch the VM's copy to the carried generations."""
    start = told(state)
    payload = work.FinalizeCopy(
        target=start.recovery_site,
        plan=start.plan,
        vm=start.vm,
        manifest=_manifest(state, carried, iteration=iteration),
        carried=carried,
    )
    needed = needs("finalize", start.recovery_site.site)
    return _effect(state, FINALIZE, "finalize", payload, needed)


def _manifest(state: Iteration, carried: work.Carried, *, iteration: str) -> dict[str, Any]:
    """All that a recovery without our log would need to know about the copy."""
    start = told(state)
    assert carried.snapshot is not None, "a copy has a moment"
    return {
        "manifest_version": MANIFEST_VERSION,
        "plan": start.plan,
        "plan_version": start.plan_version,
        "vm": start.vm,
        "iteration": iteration,
        "protected_site": start.protected.site,
        "recovery_site": start.recovery_site.site,
        "instance": start.instance,
        "taken_at": format_moment(carried.snapshot.taken_at),
        "mark": carried.snapshot.mark,
        "configuration": carried.configuration,
        "definition": msgspec.to_builtins(start.definition),
        "disks": [
            {"name": disk.disk, "size": disk.size, "written": disk.digest}
            for disk in carried.disks
        ],
    }


def close_snapshot(
    state: Iteration, *, iteration: str, carried: work.Carried | None = None, left: bool = False
) -> Effect:
    """Remove the source snapshot; `left`: until it is gone, however long that takes."""
    start = told(state)
    carried = carried or work.Carried()
    snapshot = carried.snapshot or state.snapshot
    payload = work.CloseSnapshot(
        site=start.protected,
        plan=start.plan,
        vm=start.vm,
        opened_under=f"{iteration}/{SNAPSHOT}",
        snapshot_id=snapshot.snapshot_id if snapshot is not None else "",
        carried=_light(carried),
    )
    part, kind = _undo(REMOVE, "close-snapshot", left=left)
    return _effect(state, part, kind, payload, needs("close-snapshot", start.protected.site))


def discard(state: Iteration, *, left: bool = False) -> Effect:
    """Remove staged generations; `left`: until they are gone, however long that takes."""
    start = told(state)
    payload = work.DiscardStaged(target=start.recovery_site, plan=start.plan, vm=start.vm)
    part, kind = _undo(DISCARD, "discard", left=left)
    return _effect(state, part, kind, payload, needs("discard", start.recovery_site.site))


def _undo(step: str, kind: str, *, left: bool) -> tuple[str, str]:
    return (f"{step}/left", f"{kind}-left") if left else (step, kind)


def _light(carried: work.Carried) -> work.Carried:
    """Without what only *finalize* needs."""
    replace = msgspec.structs.replace
    disks = tuple(replace(disk, generation=None) for disk in carried.disks)
    return replace(carried, configuration={}, disks=disks)


def script(
    state: Iteration, step: str, *, iteration: str, checkpoint_at: dt.datetime | None = None
) -> Effect:
    """Run the script of a step."""
    start = told(state)
    chosen = pre_script(state) if step == PRE_STEP else post_script(state)
    run = (state.pre if step == PRE_STEP else state.post).run
    assert chosen is not None, "a script that is due was chosen"
    context: dict[str, Any] = {
        "hook": "pre-replication" if step == PRE_STEP else "post-replication",
        "operation": start.operation,
        "direction": "reverse" if start.reverse else "original",
        "job": iteration,
        "tick_at": format_moment(start.tick_at),
        "plan": {
            "name": start.plan,
            "version": start.plan_version,
            "protected_site": start.protected.site,
            "recovery_site": start.recovery_site.site,
        },
        "vm": {"name": start.vm, "boot_order": start.definition.boot_order},
        "run": parts_of(start.run)[-1] if start.run else None,
    }
    if step != PRE_STEP:
        context["outcome"] = "completed" if checkpoint_at is not None else "failed"
        context["checkpoint_at"] = format_moment(checkpoint_at) if checkpoint_at else None
        context["error"] = state.problem.message if state.problem is not None else None
    told_work = scripts.script_work(chosen, step=step, plan=start.plan, context=context)
    payload = work.RunScript(work=told_work, vm=start.vm, run=run)
    return _effect(state, scripts.part_of_run(step, run), RUN_SCRIPT, payload)
