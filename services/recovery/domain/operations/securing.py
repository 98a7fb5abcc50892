"""The sources of a recovery at a moment: shut down, copied once more, or switched on again.

Saga, the part of `recovery` before anything is built. Owns the state, its folding and the rules
read from it; what is asked for when a phase begins is `driving`'s, one VM's source is `source`'s.
Forward: fence, last sync. Undo, while nothing is built: restore.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final, Literal

import msgspec

from schemas import operations as said
from schemas.common import Problem, StepTiming
from schemas.recovery import RecoveryStarted
from services.recovery.domain.operations import of

SYNC: Final = "last-sync"
RESTORE: Final = "restore-sources"

SourcePhase = Literal["fence", "last-sync", "restore"]

_BACK: Final = ("on", "untouched")


class SourceSide(msgspec.Struct, frozen=True, kw_only=True):
    """How far the sources are; one entry per VM in each dictionary, once it is settled.

    `lost`: the whole site was given up. `failed`: the operation cannot go on; `problem` says why.
    """

    begun_at: dt.datetime | None = None
    lost: bool = False
    states: dict[str, said.Secured] = {}
    forced: int = 0
    secured: bool = False
    sync_at: dt.datetime | None = None
    syncing: int = 0
    synced: dict[str, str] = {}
    sync_over: bool = False
    restoring_at: dt.datetime | None = None
    returned: dict[str, said.Returned] = {}
    restored: bool = False
    failed: bool = False
    troubled: bool = False
    problem: Problem | None = None
    steps: tuple[StepTiming, ...] = ()


# ── Rules ────────────────────────────────────────────────────────────────────────────────────


def phase(start: RecoveryStarted, side: SourceSide, *, halted: bool) -> SourcePhase | None:
    """What is done about the sources now; None: nothing, or nothing more.

    Asked only while nothing is built: afterwards only a roll back takes anything back.
    """
    if not of(start.mode).source_step:
        return None
    if side.restoring_at is not None or (halted and side.begun_at is not None):
        return None if side.restored else "restore"
    if halted:
        return None
    if not side.secured:
        return "fence"
    return "last-sync" if start.last_sync and not side.sync_over else None


def steps_of(start: RecoveryStarted) -> tuple[str, ...]:
    """The steps that come before the first boot order."""
    step = of(start.mode).source_step
    if not step:
        return ()
    return (step, SYNC) if start.last_sync else (step,)


def to_sync(side: SourceSide) -> tuple[str, ...]:
    """The VMs that can be copied once more: those whose source was reached."""
    return tuple(vm for vm, state in side.states.items() if state == "off")


def left_off(side: SourceSide) -> tuple[str, ...]:
    """The VMs whose source was switched off, or may have been, and is not on again."""
    return tuple(
        vm
        for vm, state in side.states.items()
        if (state == "off" and side.returned.get(vm) not in _BACK)
        or side.returned.get(vm) == "stays-off"
    )


def runs_still(side: SourceSide, vm: str) -> bool:
    """Whether a VM's source could not be fenced: the VM was left out."""
    return side.states.get(vm) == "failed"


def coming_back(side: SourceSide) -> bool:
    """Whether a source that could not be fenced is still being switched on, as far as it is off.
    Its VM is held until then: whoever comes next must not meet that."""
    return any(state == "failed" and vm not in side.returned for vm, state in side.states.items())


def stayed(side: SourceSide) -> tuple[str, ...]:
    """The VMs that are what they were, for they could not be fenced or everything was taken back:
    nothing that was done to them is left."""
    undone = side.restoring_at is not None
    return tuple(
        vm
        for vm, state in side.states.items()
        if (undone or state == "failed") and side.returned.get(vm) in _BACK
    )


def seen_off(side: SourceSide, vm: str) -> bool:
    """Whether this recovery saw a VM's source off; else it is known by a person's word at most."""
    return side.states.get(vm) == "off"


def gives_up_unreached(side: SourceSide) -> bool:
    """Whether VMs are recovered whose originals may still run somewhere."""
    return side.lost or "gone" in side.states.values()


def note(side: SourceSide) -> str:
    """In what state the sources were left, for people."""
    off, back = len(left_off(side)), sum(each == "on" for each in side.returned.values())
    told = []
    if side.lost:
        told.append("the source site could not be reached and is quarantined")
    if off:
        forced = f", {side.forced} of them by force" if side.forced else ""
        told.append(f"{off} source(s) switched off{forced}")
    if back:
        told.append(f"{back} source(s) switched on again")
    if gone := sum(state == "gone" for state in side.states.values()):
        told.append(f"{gone} source(s) not reached, gone by the operator's word")
    return "; ".join(told)


def _stops(start: RecoveryStarted) -> bool:
    return of(start.mode).together or start.on_error == "stop"


# ── Folding ──────────────────────────────────────────────────────────────────────────────────


def fold(start: RecoveryStarted, side: SourceSide, event: Any) -> SourceSide:
    """Apply one fact about the sources."""
    replace = msgspec.structs.replace
    match event:
        case said.SourcesSecuring():
            return replace(side, begun_at=event.at)
        case said.SourceSiteLost():
            return replace(side, begun_at=event.at, lost=True)
        case said.MemberSecured():
            return _secured(start, side, event)
        case said.SourcesSecured():
            return _all_secured(side, event)
        case said.LastSyncAsked():
            return replace(side, sync_at=event.at, syncing=event.count)
        case said.MemberSynced():
            return _synced(start, side, event)
        case said.LastSyncFinished():
            return replace(side, sync_over=True, steps=(*side.steps, event.timing))
        case said.SourcesRestoring():
            return replace(side, restoring_at=event.at)
        case said.MemberRestored():
            return replace(
                side,
                returned={**side.returned, event.vm: event.state},
                problem=side.problem or event.problem,
            )
        case said.SourcesRestored():
            return replace(side, restored=True, steps=(*side.steps, event.timing))
    raise AssertionError(f"{type(event).__name__} is no event about sources")


def _secured(start: RecoveryStarted, side: SourceSide, event: said.MemberSecured) -> SourceSide:
    side = msgspec.structs.replace(
        side,
        states={**side.states, event.vm: event.state},
        forced=side.forced + (1 if event.forced else 0),
    )
    if event.state != "failed" or side.restoring_at is not None:
        return side
    return msgspec.structs.replace(
        side,
        failed=side.failed or _stops(start),
        troubled=True,
        problem=side.problem or event.problem,
    )


def _all_secured(side: SourceSide, event: said.SourcesSecured) -> SourceSide:
    states = set(side.states.values())
    none = not side.lost and states == {"failed"}
    return msgspec.structs.replace(
        side, secured=True, failed=side.failed or none, steps=(*side.steps, event.timing)
    )


def _synced(start: RecoveryStarted, side: SourceSide, event: said.MemberSynced) -> SourceSide:
    side = msgspec.structs.replace(side, synced={**side.synced, event.vm: event.state})
    if event.state == "completed":
        return side
    # A copy that was finalized although a script failed is the newest there can be.
    failed = event.checkpoint_at is None and of(start.mode).together
    return msgspec.structs.replace(
        side,
        failed=side.failed or failed,
        troubled=True,
        problem=side.problem or event.problem,
    )
