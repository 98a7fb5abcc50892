"""One iteration of one VM, from its pre-script to the removal of its snapshot and its outcome.

Saga. Decides the steps and the outcome. Does not decide when an iteration starts (the scheduler),
nor how bytes move (`transfer`). Routine steps carry what they found out in the payloads of the
effects that follow; only what cannot be carried becomes an event (architecture.md §3, Volume).
"""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from typing import Any, Final

import msgspec

from schemas import replicator as said
from schemas.common import Problem, StepState, StepTiming
from schemas.envelope import Received
from schemas.replicator_work import (
    Carried,
    CopySwitched,
    DiskCopied,
    SnapshotClosed,
    SnapshotTaken,
)
from schemas.scheduler import IterationEnded
from services.replicator.domain import iteration_work as effects
from services.replicator.domain import scripts
from services.replicator.domain.iteration_state import (
    DISCARD,
    DISKS_MAX,
    FINALIZE,
    FIND,
    REMOVE,
    SNAPSHOT,
    TRANSFER,
    VERIFY,
    Iteration,
    evolve,
    post_due,
    post_script,
    pre_script,
    read_transfer_part,
    step_list,
    told,
    transfer_parts,
)
from services.replicator.domain.scripts import POST_STEP, PRE_STEP
from services.replicator.domain.work import again, merged, problem_of, step_of
from shared.decider import NOTHING, Decision, Effect, EffectOutcome, Family, Send
from shared.errors import Refused

DEFINITION_VERSION: Final = 1
_NOTHING_CARRIED: Final = Carried()
_step_list = lru_cache(step_list)

# ── Messages ─────────────────────────────────────────────────────────────────────────────────


def start(state: Iteration, received: Received) -> Decision:
    """Begin, or wait for the run's gate. A cancel that came first ends it at once."""
    m: said.StartIteration = received.body
    if state.started is not None:
        return NOTHING
    own = m.definition.replication
    steps = _step_list(
        pre=scripts.runs_here(own.pre_script, m.operation) is not None,
        post=scripts.runs_here(own.post_script, m.operation) is not None,
    )
    event = said.IterationStarted(
        plan=m.plan,
        plan_version=m.plan_version,
        vm=m.vm,
        tick_at=m.tick_at,
        due_at=m.due_at,
        protected=m.protected,
        recovery_site=m.recovery_site,
        definition=m.definition,
        replication=m.replication,
        priority=m.priority,
        full=m.full,
        resync=m.resync,
        run=m.run,
        gated=m.gated,
        steps=steps,
        definition_version=DEFINITION_VERSION,
        operation=m.operation,
        instance=m.instance,
        reverse=m.reverse,
    )
    after = evolve(state, event)
    if after.cancelling:
        return _finish(after, (event,), m.iteration)
    return _past_gate(after, (event,), m.iteration)


def open_gate(state: Iteration, received: Received) -> Decision:
    """The run's pre-script is over. It may be so before the iteration has started."""
    m: said.OpenGate = received.body
    if state.gate or state.finished:
        return NOTHING
    if state.started is not None and not state.started.gated:
        return NOTHING
    event = said.GateOpened(allowed=m.allowed, problem=m.problem)
    after = evolve(state, event)
    if after.started is None:
        return Decision(events=(event,))
    return _past_gate(after, (event,), m.iteration)


def cancel(state: Iteration, received: Received) -> Decision:
    """Stop safely. It may come before the start, which then ends at once."""
    m: said.CancelIteration = received.body
    return _cancel(state, m.iteration, m.reason)


def cancel_job(state: Iteration, received: Received) -> Decision:
    """A person cancels. Raises Refused `unknown-job` or `job-ended`."""
    m: said.CancelJob = received.body
    if state.started is None:
        raise Refused(f"there is no job {m.job}", code="unknown-job", remedy="see `job list`")
    if state.finished:
        raise Refused(f"job {m.job} has ended already", code="job-ended")
    return _cancel(state, m.job, f"cancelled by {received.meta.actor}")


def script_started(state: Iteration, received: Received) -> Decision:
    """A script's process is about to exist. Committed under its claim; Refused: do not start."""
    m: said.ScriptStarted = received.body
    script = state.pre if m.step == PRE_STEP else state.post
    if state.started is None or state.finished or state.cancelling or script.over:
        raise Refused(f"{m.step} is not wanted any more", code="cancelled")
    if m.run != script.run:
        raise Refused(f"run {m.run} of {m.step} is over", code="cancelled")
    return NOTHING if script.started else Decision(events=(m,))


def transfer_marked(state: Iteration, received: Received) -> Decision:
    """A resume position. Refused once the iteration is to stop, which ends the transfer."""
    m: said.TransferMarked = received.body
    if state.started is None or state.finished or state.cancelling:
        raise Refused("the iteration is to stop", code="cancelled")
    return Decision(events=(m,))


def trouble_noted(state: Iteration, received: Received) -> Decision:
    """An effect met an error and says what it was carrying, which its failure could not."""
    if state.started is None or state.finished:
        return NOTHING
    match received.body:
        case said.SnapshotOpened() as event:
            known = state.snapshot is not None
        case said.DiskTransferred() as event:
            known = event.index in state.disks
        case said.CopyFinalized() as event:
            known = state.finalized is not None
        case other:
            raise AssertionError(f"{type(other).__name__} is nothing an effect notes")
    return NOTHING if known else Decision(events=(event,))


def outcome(state: Iteration, received: Received) -> Decision:
    """An effect of the iteration ended."""
    ended: EffectOutcome = received.body
    if state.started is None:
        return NOTHING
    step, _, rest = ended.part.partition("/")
    if state.finished or rest == "left":
        return _leftover_ended(state, ended, step, received.stream)
    stream = received.stream
    match step:
        case "pre-script" | "post-script":
            return _script_ended(state, ended, step, stream)
        case "snapshot":
            return _snapshot_ended(state, ended, stream)
        case "transfer":
            return _transfer_ended(state, ended, stream)
        case "finalize":
            return _finalize_ended(state, ended, stream)
        case "remove-snapshot" | "discard":
            return _undone(state, ended, step, stream)
    return NOTHING


# ── Steps, in their order ────────────────────────────────────────────────────────────────────


def _past_gate(state: Iteration, events: tuple[Any, ...], stream: str) -> Decision:
    if told(state).gated and state.gate != "open":
        return Decision(events=events) if not state.gate else _finish(state, events, stream)
    if pre_script(state) is not None:
        first = effects.script(state, PRE_STEP, iteration=stream)
    else:
        first = effects.open_snapshot(state)
    return Decision(events=events, effects=(first,))


def _script_ended(state: Iteration, ended: EffectOutcome, step: str, stream: str) -> Decision:
    before = state.pre if step == PRE_STEP else state.post
    script = pre_script(state) if step == PRE_STEP else post_script(state)
    if before.over or script is None or ended.part != scripts.part_of_run(step, before.run):
        return NOTHING
    report = scripts.report_of(ended)
    repeats = not state.cancelling and scripts.goes_again(script, report, run=before.run)
    event = said.ScriptEnded(
        step=step,
        report=report,
        timing=scripts.timing_of(step, report, ended, run=before.run),
        run=before.run,
        again=repeats,
    )
    after = evolve(state, event)
    if repeats:
        at = after.finalized.checkpoint_at if after.finalized is not None else None
        repeat = effects.script(after, step, iteration=stream, checkpoint_at=at)
        return Decision(events=(event,), effects=(repeat,))
    if step == POST_STEP or after.failed or after.cancelling:
        return _finish(after, (event,), stream)
    return Decision(events=(event,), effects=(effects.open_snapshot(after),))


def _snapshot_ended(state: Iteration, ended: EffectOutcome, stream: str) -> Decision:
    if _is_recorded(state, SNAPSHOT):
        return NOTHING
    timing = step_of(ended, SNAPSHOT)
    if not ended.ok:
        return _undo(
            state, (), timing, _problem(state, ended, f"snapshot of {told(state).vm}"), stream
        )
    taken: SnapshotTaken = ended.result
    disk_count = len(taken.snapshot.disks)
    if state.cancelling or not 1 <= disk_count <= DISKS_MAX:
        opened = said.SnapshotOpened(snapshot=taken.snapshot, steps=(timing,))
        problem = None
        if not state.cancelling:
            problem = _disk_count_problem(told(state).vm, disk_count)
            timing = msgspec.structs.replace(
                timing, state="failed", error=problem.message, remedy=problem.remedy
            )
        return _undo(state, (opened,), timing, problem, stream)
    carried = Carried(steps=(timing,), snapshot=taken.snapshot, configuration=taken.configuration)
    return Decision(effects=effects.transfers(state, carried))


def _disk_count_problem(vm: str, disk_count: int) -> Problem:
    if not disk_count:
        return Problem(
            code="no-disks",
            message=f"VM {vm} has no disk to replicate",
            remedy="give it a disk, or take it out of the plan",
        )
    return Problem(
        code="too-many-disks",
        message=f"VM {vm} has {disk_count} disks; at most {DISKS_MAX} are replicated",
        remedy="take the VM out of the plan, or split it",
    )


def _transfer_ended(state: Iteration, ended: EffectOutcome, stream: str) -> Decision:
    index, last = read_transfer_part(ended.part)
    if index in state.disks or _is_recorded(state, TRANSFER):
        return NOTHING
    copied = ended.result if ended.ok else None
    result = _disk_result(state, ended, index)
    carried = copied.carried if isinstance(copied, DiskCopied) else _NOTHING_CARRIED
    event = said.DiskTransferred(
        result=result,
        index=index,
        last=last,
        snapshot=carried.snapshot if state.snapshot is None else None,
        steps=carried.steps if state.snapshot is None else (),
    )
    after = evolve(state, event)
    if len(after.disks) != after.disk_count:
        return Decision(events=(event,))
    results = tuple(after.disks[number] for number in sorted(after.disks))
    timing = _transfer_timing(results)
    if timing.state == "completed" and not state.cancelling:
        # The last disk's result travels on with the others' instead of being recorded.
        carried = msgspec.structs.replace(
            carried,
            steps=merged(state.steps, carried.steps, (timing, *_within(timing, results))),
            disks=results,
        )
        return Decision(effects=(effects.finalize(state, carried, iteration=stream),))
    return _undo(state, (event,), timing, None, stream)


def _disk_result(state: Iteration, ended: EffectOutcome, index: int) -> said.DiskResult:
    if ended.ok:
        copied: DiskCopied = ended.result
        return msgspec.structs.replace(copied.result, attempts=max(ended.attempts, 1))
    disks = state.snapshot.disks if state.snapshot is not None else ()
    name = disks[index - 1].name if index <= len(disks) else f"disk-{index}"
    return said.DiskResult(
        disk=name,
        state="cancelled" if ended.code == "cancelled" else "failed",
        size=disks[index - 1].size if index <= len(disks) else 0,
        started_at=ended.started_at,
        ended_at=ended.at,
        attempts=max(ended.attempts, 1),
        problem=_problem(state, ended, f"disk {name}"),
    )


def _transfer_timing(results: tuple[said.DiskResult, ...]) -> StepTiming:
    """The step over all disks: from the first start to the last end, as bad as the worst."""
    states = {result.state for result in results}
    worst: StepState = "completed"
    if states != {"completed"}:
        worst = "failed" if "failed" in states else "cancelled"
    problem = next((r.problem for r in results if r.problem is not None), None)
    return StepTiming(
        name=TRANSFER,
        state=worst,
        attempts=max(result.attempts for result in results),
        started_at=min((r.started_at for r in results if r.started_at), default=None),
        ended_at=max((r.ended_at for r in results if r.ended_at), default=None),
        error=problem.message if problem is not None else "",
        remedy=problem.remedy if problem is not None else "",
    )


def _within(transfer: StepTiming, results: tuple[said.DiskResult, ...]) -> tuple[StepTiming, ...]:
    """The steps that a transfer of all disks does on its way, timed as its disks tell.

    They overlap with it: changes are found page by page, and blocks verified as they are written;
    the last flush belongs to *verify*. Disks of an older build tell nothing.
    """
    known = [result.changes_known_at for result in results]
    found = [at for at in known if at is not None]
    if len(found) != len(known):
        return ()
    began = [result.verified_from for result in results if result.verified_from is not None]
    return (
        StepTiming(
            name=FIND, state="completed", started_at=transfer.started_at, ended_at=max(found)
        ),
        StepTiming(
            name=VERIFY,
            state="completed",
            started_at=min(began, default=transfer.ended_at),
            ended_at=transfer.ended_at,
        ),
    )


def _finalize_ended(state: Iteration, ended: EffectOutcome, stream: str) -> Decision:
    if _is_recorded(state, FINALIZE) or state.finalized is not None:
        return NOTHING
    timing = step_of(ended, FINALIZE)
    if not ended.ok:
        return _undo(
            state, (), timing, _problem(state, ended, f"copy of {told(state).vm}"), stream
        )
    switched: CopySwitched = ended.result
    carried = msgspec.structs.replace(
        switched.carried,
        steps=merged(switched.carried.steps, (timing,)),
        checkpoint_at=switched.checkpoint_at,
    )
    return Decision(effects=(effects.close_snapshot(state, iteration=stream, carried=carried),))


def _undo(
    state: Iteration,
    events: tuple[Any, ...],
    timing: StepTiming,
    problem: Problem | None,
    stream: str,
) -> Decision:
    """A step did not go well, or the iteration is cancelled: remove what was made."""
    events = (*events, said.StepEnded(timing=timing, problem=problem))
    after = state
    for event in events:
        after = evolve(after, event)
    undoing = [effects.close_snapshot(after, iteration=stream)]
    if DISCARD in after.closing:
        undoing.append(effects.discard(after))
    return Decision(events=events, effects=tuple(undoing))


def _undone(state: Iteration, ended: EffectOutcome, step: str, stream: str) -> Decision:
    """The snapshot or the staged generations are gone, or could not be removed for now."""
    routine = not state.closing
    done_before = state.finalized is not None and REMOVE in {t.name for t in state.finalized.steps}
    if _is_recorded(state, step) or (routine and done_before):
        return NOTHING
    timing = step_of(ended, step)
    what = "the source snapshot" if step == REMOVE else "what was staged"
    problem = None if ended.ok else _problem(state, ended, f"removing {what}")
    if routine and ended.ok:
        closed: SnapshotClosed = ended.result
        carried = msgspec.structs.replace(
            closed.carried, steps=merged(closed.carried.steps, (timing,))
        )
        return _wind_up(state, (), stream, carried)
    event = said.StepEnded(timing=timing, problem=problem)
    after = evolve(state, event)
    if after.closing:
        return Decision(events=(event,))
    return _wind_up(after, (event,), stream)


def _wind_up(
    state: Iteration,
    events: tuple[Any, ...],
    stream: str,
    carried: Carried = _NOTHING_CARRIED,
) -> Decision:
    """Nothing is left open: the post-script, or the end."""
    if not post_due(state):
        return _finish(state, events, stream, carried)
    at = carried.checkpoint_at
    if at is not None and state.finalized is None:
        stands = said.CopyFinalized(checkpoint_at=at, steps=carried.steps, disks=carried.disks)
        events, state = (*events, stands), evolve(state, stands)
    elif state.finalized is not None:
        at = state.finalized.checkpoint_at
    last = effects.script(state, POST_STEP, iteration=stream, checkpoint_at=at)
    return Decision(events=events, effects=(last,))


def _leftover_ended(state: Iteration, ended: EffectOutcome, step: str, stream: str) -> Decision:
    what: said.Leftover = "snapshot" if step == REMOVE else "generations"
    if what not in state.leftovers or not ended.part.endswith("/left"):
        return NOTHING
    if not ended.ok:
        effect = _leftover_effect(state, what, stream)
        return Decision(effects=(again(effect, ended),))
    return Decision(events=(said.LeftoverRemoved(what=what),))


# ── Cancel and end ───────────────────────────────────────────────────────────────────────────


def _cancel(state: Iteration, stream: str, reason: str) -> Decision:
    if state.finished or state.cancelling:
        return NOTHING
    event = said.IterationCancelRequested(reason=reason)
    after = evolve(state, event)
    if after.started is None:
        return Decision(events=(event,))
    if after.started.gated and not after.gate:
        return _finish(after, (event,), stream)
    # Removing the snapshot and what was staged is not cancelled: that is what a cancel is for.
    stop = (
        scripts.part_of_run(PRE_STEP, after.pre.run),
        SNAPSHOT,
        *transfer_parts(after),
        FINALIZE,
        scripts.part_of_run(POST_STEP, after.post.run),
    )
    return Decision(events=(event,), cancel_effects=stop)


def _finish(
    state: Iteration,
    events: tuple[Any, ...],
    stream: str,
    carried: Carried = _NOTHING_CARRIED,
) -> Decision:
    """End the iteration: the facts of all its steps, and the news for scheduler and run."""
    start = told(state)
    final = _finished(state, carried)
    sends = [
        Send(
            to="scheduler",
            key=start.plan,
            message=IterationEnded(
                plan=start.plan,
                vm=start.vm,
                iteration=stream,
                state=final.state,
                checkpoint_at=final.checkpoint_at,
                resync=start.resync,
                problem=final.problem,
            ),
        )
    ]
    if start.run:
        member = said.RunMemberEnded(run=start.run, vm=start.vm, state=final.state)
        sends.append(Send(to="replicator", key=start.plan, message=member))
    return Decision(
        events=(*events, final),
        effects=tuple(_leftover_effect(state, what, stream) for what in state.leftovers),
        sends=tuple(sends),
    )


def _leftover_effect(state: Iteration, what: said.Leftover, stream: str) -> Effect:
    if what == "snapshot":
        return effects.close_snapshot(state, iteration=stream, left=True)
    return effects.discard(state, left=True)


def _finished(state: Iteration, carried: Carried) -> said.IterationFinished:
    start = told(state)
    stands = state.finalized
    at = carried.checkpoint_at or (stands.checkpoint_at if stands is not None else None)
    kept = stands.disks if stands is not None else ()
    disks = carried.disks or kept or _named(state)
    before = stands.steps if stands is not None else ()
    timings = {t.name: t for t in merged(before, carried.steps, state.steps)}
    order = (*start.steps, *(name for name in timings if name not in start.steps))
    return said.IterationFinished(
        plan=start.plan,
        vm=start.vm,
        state=_state_of(state, at),
        checkpoint_at=at,
        full=start.full,
        resync=start.resync,
        run=start.run,
        disks=tuple(msgspec.structs.replace(disk, generation=None) for disk in disks),
        steps=tuple(timings[name] for name in order if name in timings),
        bytes_read=sum(disk.bytes_read for disk in disks),
        bytes_sent=sum(disk.bytes_sent for disk in disks),
        bytes_total=sum(disk.size for disk in disks),
        problem=state.gate_problem or state.problem,
        leftovers=state.leftovers,
    )


def _named(state: Iteration) -> tuple[said.DiskResult, ...]:
    """The disks' results by index, with the names that were unknown when some ended."""
    names = [disk.name for disk in state.snapshot.disks] if state.snapshot is not None else []
    return tuple(
        msgspec.structs.replace(result, disk=names[index - 1]) if names else result
        for index, result in sorted(state.disks.items())
    )


def _state_of(state: Iteration, checkpoint_at: dt.datetime | None) -> said.IterationState:
    """The first rule of product.md §5 that fits; usable is what was finalized."""
    if state.cancelling:
        return "cancelled"
    if checkpoint_at is None:
        return "failed"
    return "partially-completed" if state.degraded or state.failed else "completed"


def _is_recorded(state: Iteration, step: str) -> bool:
    return any(timing.name == step for timing in state.steps)


def _problem(state: Iteration, ended: EffectOutcome, what: str) -> Problem | None:
    """Why an effect failed; a step that stopped because it was asked to is no problem."""
    if state.cancelling and ended.code == "cancelled":
        return None
    return problem_of(ended, what)


FAMILY = Family(
    name="iteration",
    state=Iteration,
    initial=Iteration,
    evolve=evolve,
    is_terminal=lambda state: state.finished and not state.leftovers,
    outcome=outcome,
)
