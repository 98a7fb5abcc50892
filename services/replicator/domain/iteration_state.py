"""What one VM's iteration is at a moment, as its few events tell.

Saga. Owns the state, its folding and the rules read from it. A routine iteration has no event
between its start and its end, so the state does not say which of its effects is under way: that
one of them is follows from the iteration not being finished.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from schemas import replicator as said
from schemas.common import Problem, StepTiming
from schemas.plans import ScriptDefinition
from services.replicator.domain import scripts
from services.replicator.domain.scripts import POST_STEP, PRE_STEP, ScriptRun
from services.replicator.domain.work import merged

SNAPSHOT: Final = "snapshot"
FIND: Final = "find-changes"
TRANSFER: Final = "transfer"
VERIFY: Final = "verify"
FINALIZE: Final = "finalize"
REMOVE: Final = "remove-snapshot"
DISCARD: Final = "discard"
"""Steps; each is also the part of its effect, but for *find-changes* and *verify*: a transfer
finds changes page by page while it copies, and verifies each block when it is written. *discard*
is shown only where it fails."""

DISKS_MAX: Final = 64
"""Disks of one VM. A cancel names every transfer there may be (see `transfer_parts`)."""

_LEFTOVERS: Final[dict[str, said.Leftover]] = {REMOVE: "snapshot", DISCARD: "generations"}


class Iteration(msgspec.Struct, frozen=True, kw_only=True):
    """One iteration. `disks` are the ended transfers by index; `closing` what is being undone."""

    started: said.IterationStarted | None = None
    gate: Literal["", "open", "shut"] = ""
    gate_problem: Problem | None = None
    cancelling: bool = False
    pre: ScriptRun = ScriptRun()
    post: ScriptRun = ScriptRun()
    snapshot: said.SnapshotFacts | None = None
    disk_count: int = 0
    disks: dict[int, said.DiskResult] = {}
    marks: dict[str, said.TransferMarked] = {}
    finalized: said.CopyFinalized | None = None
    closing: tuple[str, ...] = ()
    leftovers: tuple[said.Leftover, ...] = ()
    failed: bool = False
    halted: bool = False
    degraded: bool = False
    problem: Problem | None = None
    steps: tuple[StepTiming, ...] = ()
    finished: bool = False


def told(state: Iteration) -> said.IterationStarted:
    """What the iteration was started with; asserts that it was."""
    assert state.started is not None, "started before anything else"
    return state.started


# ── Rules ────────────────────────────────────────────────────────────────────────────────────


def pre_script(state: Iteration) -> ScriptDefinition | None:
    """The VM's pre-replication script, if it runs here."""
    start = told(state)
    return scripts.runs_here(start.definition.replication.pre_script, start.operation)


def post_script(state: Iteration) -> ScriptDefinition | None:
    """The VM's post-replication script, if it runs here."""
    start = told(state)
    return scripts.runs_here(start.definition.replication.post_script, start.operation)


def post_due(state: Iteration) -> bool:
    """Whether the post-script is still to run.

    It runs after failures too, because it undoes what the pre-script did to the guest; not after
    a cancel, and not where the pre-script (or the run's gate) let nothing begin.
    """
    if state.post.over or state.cancelling or state.halted:
        return False
    return post_script(state) is not None


def step_list(*, pre: bool, post: bool) -> tuple[str, ...]:
    """The steps of an iteration, in order."""
    first = (PRE_STEP,) if pre else ()
    last = (POST_STEP,) if post else ()
    return (*first, SNAPSHOT, FIND, TRANSFER, VERIFY, FINALIZE, REMOVE, *last)


def transfer_part(index: int, *, last: bool) -> str:
    """The effect part of a disk's transfer; indices count from 1, the highest is marked.

    The mark tells how many there are even where none has succeeded, without an event that says so.
    """
    return f"{TRANSFER}/{index}-last" if last else f"{TRANSFER}/{index}"


def read_transfer_part(part: str) -> tuple[int, bool]:
    """Index and mark of a transfer's part."""
    index, _, last = part.partition("/")[2].partition("-")
    return int(index), last == "last"


_ANY_TRANSFER: Final = tuple(
    transfer_part(index, last=last) for index in range(1, DISKS_MAX + 1) for last in (False, True)
)


def transfer_parts(state: Iteration) -> tuple[str, ...]:
    """Every transfer that may be under way; all there could be while their number is unknown."""
    if not state.disk_count:
        return _ANY_TRANSFER
    return tuple(
        transfer_part(index, last=index == state.disk_count)
        for index in range(1, state.disk_count + 1)
        if index not in state.disks
    )


# ── Folding ──────────────────────────────────────────────────────────────────────────────────


def evolve(state: Iteration, event: Any) -> Iteration:
    """Apply one fact."""
    replace = msgspec.structs.replace
    match event:
        case said.IterationStarted():
            return replace(state, started=event)
        case said.GateOpened():
            gate: Literal["open", "shut"] = "open" if event.allowed else "shut"
            halted = state.halted or not event.allowed
            return replace(state, gate=gate, gate_problem=event.problem, halted=halted)
        case said.IterationCancelRequested():
            return replace(state, cancelling=True)
        case said.ScriptStarted():
            return _with_script(state, event.step, run=event.run, started=True)
        case said.ScriptEnded():
            return _script_ended(state, event)
        case said.SnapshotOpened():
            return replace(
                _snapshot(state, event.snapshot), steps=merged(state.steps, event.steps)
            )
        case said.TransferMarked():
            return replace(state, marks={**state.marks, event.disk: event})
        case said.DiskTransferred():
            return _disk_ended(state, event)
        case said.StepEnded():
            return _step_ended(state, event)
        case said.CopyFinalized():
            return replace(state, finalized=event)
        case said.IterationFinished():
            # What follows, if anything, is the removal of leftovers: the rest is not needed.
            return Iteration(started=state.started, finished=True, leftovers=state.leftovers)
        case said.LeftoverRemoved():
            left = tuple(what for what in state.leftovers if what != event.what)
            return replace(state, leftovers=left)
    raise AssertionError(f"{type(event).__name__} is no event of an iteration")


def _with_script(state: Iteration, step: str, **changes: Any) -> Iteration:
    field = "pre" if step == PRE_STEP else "post"
    changed = msgspec.structs.replace(getattr(state, field), **changes)
    return msgspec.structs.replace(state, **{field: changed})


def _script_ended(state: Iteration, event: said.ScriptEnded) -> Iteration:
    timings = (event.timing,) if event.timing is not None else ()
    state = msgspec.structs.replace(state, steps=merged(state.steps, timings))
    if event.again:
        return _with_script(state, event.step, run=event.run + 1, started=False)
    state = _with_script(state, event.step, over=True)
    cancelled = event.timing is not None and event.timing.state == "cancelled"
    if event.report.outcome == "done" or cancelled:
        return state
    script = pre_script(state) if event.step == PRE_STEP else post_script(state)
    assert script is not None, "a script that ended was to run"
    stops = event.step == PRE_STEP and scripts.on_failure(script) != "continue"
    return msgspec.structs.replace(
        state,
        degraded=True,
        failed=state.failed or stops,
        halted=state.halted or stops,
        problem=state.problem or scripts.script_problem(script, event.step, event.report),
    )


def _snapshot(state: Iteration, snapshot: said.SnapshotFacts | None) -> Iteration:
    if snapshot is None or state.snapshot is not None:
        return state
    return msgspec.structs.replace(state, snapshot=snapshot, disk_count=len(snapshot.disks))


def _disk_ended(state: Iteration, event: said.DiskTransferred) -> Iteration:
    state = _snapshot(state, event.snapshot)
    marks = {disk: mark for disk, mark in state.marks.items() if disk != event.result.disk}
    return msgspec.structs.replace(
        state,
        disk_count=event.index if event.last else state.disk_count,
        disks={**state.disks, event.index: event.result},
        marks=marks,
        problem=state.problem or event.result.problem,
        steps=merged(state.steps, event.steps),
    )


def _step_ended(state: Iteration, event: said.StepEnded) -> Iteration:
    name, well = event.timing.name, event.timing.state == "completed"
    shown = () if name == DISCARD and well else (event.timing,)
    state = msgspec.structs.replace(
        state, steps=merged(state.steps, shown), problem=state.problem or event.problem
    )
    if name in _LEFTOVERS:
        left = () if well else (_LEFTOVERS[name],)
        return msgspec.structs.replace(
            state,
            closing=tuple(step for step in state.closing if step != name),
            leftovers=(*state.leftovers, *left),
            degraded=state.degraded or not well,
        )
    # Whatever began is undone, also after a call that was cancelled: it may have been carried out.
    undo = (REMOVE,) if name == SNAPSHOT else (REMOVE, DISCARD)
    failed = state.failed or not (well or state.cancelling)
    return msgspec.structs.replace(state, closing=undo, failed=failed)
