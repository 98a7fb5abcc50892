"""What a person sees of recoveries and their VMs at a moment, folded from what was told.

For the people of a world, who must know what can be asked for. Judges do not look here.
"""

from __future__ import annotations

from typing import Any

import msgspec

from schemas import directions
from schemas import operations as ops
from schemas import recovery as rec
from schemas import recovery_steering as steer
from schemas import scheduler_operations as sch_ops
from schemas.ids import parts_of
from tests.simulation.facts import Fact, Facts
from tests.simulation.operations import Where


class RecoveryView(msgspec.Struct, kw_only=True):
    """A recovery. `deciding`: a job commits it or rolls it back. `taken`: VMs are replicated
    from its instances. `freed`: they went home since. `incomplete`: a roll back could not end
    what it began, or did not begin."""

    start: rec.RecoveryStarted
    end: rec.RecoveryFinished | None = None
    paused: bool = False
    cancelled: bool = False
    question: steer.Question | None = None
    cleaning: bool = False
    cleaned: bool = False
    deciding: bool = False
    committed: bool = False
    rolled_back: bool = False
    incomplete: bool = False
    taken: frozenset[str] = frozenset()
    freed: bool = False

    @property
    def window(self) -> bool:
        """Whether commit or roll back is to be decided."""
        end = self.end
        decided = self.committed or self.rolled_back or self.deciding
        return end is not None and end.awaits_commit and not decided

    @property
    def to_clean(self) -> bool:
        """Whether a test left something, and nobody cleans."""
        end = self.end
        return end is not None and end.awaits_cleanup and not (self.cleaned or self.cleaning)

    @property
    def to_delete(self) -> bool:
        """Whether committed instances are there to be cleaned up, and no source is among them."""
        return self.committed and not (self.cleaned or self.cleaning or self.taken)


class VmView(msgspec.Struct, kw_only=True):
    """One VM's recovery."""

    stream: str
    paused: bool = False
    question: steer.Question | None = None
    end: rec.VmFinished | None = None


def recoveries(facts: Facts) -> list[RecoveryView]:
    """All of them, in the order of their names."""
    found = []
    for stream in sorted(facts.streams(rec.RecoveryStarted)):
        found.append(_recovery(facts.by_stream[stream]))
    return found


def vms(facts: Facts, view: RecoveryView) -> list[VmView]:
    """The VMs of a recovery that have begun."""
    _, plan, key = view.start.job.split(":")
    streams = [f"vm-recovery:{plan}:{key}:{member.vm}" for member in view.start.members]
    return [
        _vm(stream, facts.by_stream[stream]) for stream in streams if stream in facts.by_stream
    ]


def _recovery(history: list[Fact]) -> RecoveryView:
    (_, start), *_ = history
    view = RecoveryView(start=start)
    for _, body in history:
        _fold(view, body)
    return view


def _fold(view: RecoveryView, body: Any) -> None:
    match body:
        case steer.RecoveryPaused() | steer.RecoveryResumed():
            view.paused = isinstance(body, steer.RecoveryPaused)
        case steer.RecoveryAsked():
            view.question = body.question
        case steer.RecoveryAnswered():
            view.question = None
        case rec.RecoveryCancelRequested():
            view.cancelled, view.paused, view.question = True, False, None
        case rec.RecoveryFinished():
            view.end, view.paused, view.question = body, False, None
        case steer.RecoveryReopened():
            view.end = None
        case rec.RecoveryCleaning() | rec.RecoveryCleanupIncomplete():
            view.cleaning = isinstance(body, rec.RecoveryCleaning)
        case rec.RecoveryCleaned():
            view.cleaning, view.cleaned = False, True
        case ops.RecoveryCommitting() | ops.RecoveryRollingBack():
            view.deciding = True
        case ops.RecoveryCommitRefuted() | ops.RecoveryRollbackIncomplete():
            view.deciding = False
            view.incomplete |= isinstance(body, ops.RecoveryRollbackIncomplete)
        case ops.RecoveryCommitted():
            view.deciding, view.committed = False, True
        case ops.RecoveryRolledBack():
            view.deciding, view.rolled_back = False, True
        case directions.InstancesTaken():
            view.taken = view.taken.union(body.vms)
        case directions.InstancesFreed():
            view.taken, view.freed = view.taken.difference(body.vms), body.home


def _vm(stream: str, history: list[Fact]) -> VmView:
    view = VmView(stream=stream)
    by: set[str] = set()
    for _, body in history:
        match body:
            case steer.VmPaused():
                by.add(body.by)
            case steer.VmResumed():
                by.discard(body.by)
            case steer.VmAsked():
                view.question = body.question
            case steer.VmAnswered() | rec.VmAbandoned():
                view.question = None
            case rec.VmFinished():
                view.end, view.question = body, None
                by.clear()
            case steer.VmRetried():
                view.end = None
    view.paused = "job" in by
    return view


def whereabouts(facts: Facts, plan: str) -> dict[str, Where]:
    """Where the VMs of a plan run that have ever left home."""
    streams = facts.streams(sch_ops.VmMoved)
    return {
        parts_of(stream)[-1]: _where(facts.by_stream[stream])
        for stream in streams
        if parts_of(stream)[1] == plan
    }


def _where(history: list[Fact]) -> Where:
    moved = reverse = marked = False
    for _, body in history:
        match body:
            case sch_ops.VmMoved():
                moved = True
            case sch_ops.VmReturned():
                moved = False
            case directions.VmDirectionMarked():
                marked = body.reverse
            case directions.VmTurned():
                moved, reverse = False, marked
    if moved:
        return "away"
    return "reversed" if reverse else "home"
