"""Protected VMs: how fresh the copy is, what is due, what runs, who holds the VM."""

from __future__ import annotations

from typing import Any

import msgspec

from schemas import directions
from schemas import scheduler as said
from schemas import scheduler_operations as said_ops
from schemas.common import HoldMode
from schemas.envelope import Recorded
from schemas.folds.base import Column, Fold, Route, View, at, error_of
from schemas.plans import RecoveryHook, ScriptDefinition, VmDefinition
from schemas.sync_state import NEW, fold_sync, sync_state
from schemas.views import Vm, VmHold

_replace = msgspec.structs.replace
_ORIGINAL: dict[str, Any] = {
    "direction": "original",
    "instance": "",
    "marked_direction": "",
    "marked_instance": "",
}


def _protected(doc: Vm | None, event: said.VmProtected, recorded: Recorded, row: str) -> Vm:
    definition = event.definition
    changes: dict[str, Any] = {
        "boot_order": definition.boot_order,
        "boot_delay_s": definition.boot_delay_s,
        "recovery_scripts": _recovery_scripts(definition),
        "defined_priority": definition.priority,
        "protected_site": event.protected.site,
        "recovery_site": event.recovery_site.site,
        "rpo_target_s": event.rpo_s,
    }
    # The operator's priority stands until the definition names another (as in the scheduler).
    by_operator = doc is not None and doc.priority_from == "operator"
    if doc is None or not by_operator or doc.defined_priority != definition.priority:
        own = definition.priority
        changes["priority"] = event.replication.priority if own is None else own
        changes["priority_from"] = "plan" if own is None else "definition"
    if doc is not None:
        return _replace(doc, **changes)
    since = event.protected_at or at(recorded)
    return Vm(
        name=event.vm, plan=event.plan, sync_state=sync_state(NEW), protected_at=since, **changes
    )


def _recovery_scripts(definition: VmDefinition) -> tuple[RecoveryHook, ...]:
    own: dict[RecoveryHook, ScriptDefinition | None] = {
        "pre-recovery": definition.pre_script,
        "post-recovery": definition.post_script,
    }
    return tuple(hook for hook, script in own.items() if script is not None)


def _started(doc: Vm, event: said.VmStarted, recorded: Recorded) -> Vm:
    return _replace(doc, replicating=True, next_due_at=event.next_due_at)


def _stopped(doc: Vm, event: said.VmStopped, recorded: Recorded) -> Vm:
    return _replace(doc, replicating=False, next_due_at=None, queued=False)


def _prioritised(doc: Vm, event: said.VmPrioritised, recorded: Recorded) -> Vm:
    if not event.of_plan:
        return _replace(doc, priority=event.priority, priority_from="operator")
    return _replace(doc, priority=event.priority) if doc.priority_from == "plan" else doc


def _reset(doc: Vm, event: said.VmReset, recorded: Recorded) -> Vm:
    # Without a copy at its sites it is no longer what a recovery moved there either.
    if not event.lost:
        return doc
    return _replace(doc, last_checkpoint_at=None, moved="", moved_by="", **_ORIGINAL)


def _dispatched(doc: Vm, event: said.IterationDispatched, recorded: Recorded) -> Vm:
    return _replace(
        doc,
        iteration=event.iteration,
        queued=False,
        next_due_at=event.next_due_at or doc.next_due_at,
    )


def _queued(doc: Vm, event: said.TickQueued, recorded: Recorded) -> Vm:
    return _replace(doc, queued=True, next_due_at=event.next_due_at or doc.next_due_at)


def _recorded(doc: Vm, event: said.IterationRecorded, recorded: Recorded) -> Vm:
    changes: dict[str, Any] = {
        "iteration": "" if doc.iteration == event.iteration else doc.iteration,
        "last_state": event.state,
        "last_ended_at": at(recorded),
    }
    if event.checkpoint_at is not None:
        changes |= {"last_checkpoint_at": event.checkpoint_at, "missed": 0}
    if event.checkpoint_at is not None or event.problem is not None:
        changes["error"] = error_of(event.problem)
    return _replace(doc, **changes)


def _missed(doc: Vm, event: said.TicksMissed, recorded: Recorded) -> Vm:
    return _replace(doc, missed=doc.missed + event.count)


def _held(doc: Vm, event: said.Held, recorded: Recorded) -> Vm:
    return _with_modes(doc, event.job, (*_modes(doc, event.job), *event.modes))


def _hold_released(doc: Vm, event: said.HoldReleased, recorded: Recorded) -> Vm:
    kept = tuple(mode for mode in _modes(doc, event.job) if mode not in event.modes)
    return _with_modes(doc, event.job, kept)


def _modes(doc: Vm, job: str) -> tuple[HoldMode, ...]:
    return next((hold.modes for hold in doc.holds if hold.job == job), ())


def _with_modes(doc: Vm, job: str, modes: tuple[HoldMode, ...]) -> Vm:
    others = tuple(hold for hold in doc.holds if hold.job != job)
    own = (VmHold(job=job, modes=tuple(dict.fromkeys(modes))),) if modes else ()
    return _replace(doc, holds=(*others, *own))


def _breached(doc: Vm, event: said.RpoBreached, recorded: Recorded) -> Vm:
    return _replace(doc, rpo_breached=True)


def _restored(doc: Vm, event: said.RpoRestored, recorded: Recorded) -> Vm:
    return _replace(doc, rpo_breached=False)


def _moved(doc: Vm, event: said_ops.VmMoved, recorded: Recorded) -> Vm:
    return _replace(doc, moved=event.to, moved_by=event.job)


def _marked(doc: Vm, event: directions.VmDirectionMarked, recorded: Recorded) -> Vm:
    # What is marked comes to stand, or is dropped: until then the document keeps both.
    return _replace(
        doc,
        last_checkpoint_at=event.copy_at,
        marked_direction="reverse" if event.reverse else "original",
        marked_instance=event.instance,
    )


def _dropped(doc: Vm, event: directions.VmDirectionDropped, recorded: Recorded) -> Vm:
    return _replace(doc, last_checkpoint_at=event.copy_at, marked_direction="", marked_instance="")


def _turned(doc: Vm, event: directions.VmTurned, recorded: Recorded) -> Vm:
    return _replace(
        doc,
        direction=doc.marked_direction or doc.direction,
        instance=doc.marked_instance,
        marked_direction="",
        marked_instance="",
        moved="",
        moved_by="",
    )


def _returned(doc: Vm, event: said_ops.VmReturned, recorded: Recorded) -> Vm:
    return _replace(doc, moved="", moved_by="")


def _released(doc: Vm | None, event: said.VmReleased, recorded: Recorded, row: str) -> None:
    return None


def _known(fold: Any) -> Fold:
    """A fold of a VM that is there, with the sync state that follows from the event."""

    def folded(doc: Vm | None, event: Any, recorded: Recorded, row: str) -> Vm | None:
        if doc is None:
            return None
        doc = fold(doc, event, recorded)
        facts = fold_sync(doc.sync, event)
        if facts is doc.sync:
            return doc
        return _replace(doc, sync=facts, sync_state=sync_state(facts))

    return folded


_CHANGES: dict[type, Any] = {
    said.VmStarted: _started,
    said.VmStopped: _stopped,
    said.VmPrioritised: _prioritised,
    said.VmReset: _reset,
    said.IterationDispatched: _dispatched,
    said.TickQueued: _queued,
    said.IterationRecorded: _recorded,
    said.TicksMissed: _missed,
    said.Held: _held,
    said.HoldReleased: _hold_released,
    said.RpoBreached: _breached,
    said.RpoRestored: _restored,
    said_ops.VmMoved: _moved,
    said_ops.VmReturned: _returned,
    directions.VmDirectionMarked: _marked,
    directions.VmDirectionDropped: _dropped,
    directions.VmTurned: _turned,
}

VIEW = View(
    table="vms",
    document=Vm,
    columns=(
        Column("plan", "text", lambda vm: vm.plan),
        Column("vm", "text", lambda vm: vm.name),
        Column("sync_state", "text", lambda vm: vm.sync_state),
    ),
    routes={
        said.VmProtected: (Route(_protected),),
        said.VmReleased: (Route(_released),),
        **{event: (Route(_known(fold)),) for event, fold in _CHANGES.items()},
    },
)
