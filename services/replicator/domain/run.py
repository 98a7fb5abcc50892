"""The parent job of a synchronized tick or a `plan run`: plan scripts around its iterations.

Saga. Decides when the iterations' gate opens and how the run ends. Does not start iterations (the
scheduler does) and does not decide their steps (`iteration`). An iteration's news may come before
the run's own start: nothing here rests on that order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from schemas import replicator as said
from schemas.common import Problem, StepTiming
from schemas.envelope import Received
from schemas.ids import parts_of, stream_id
from schemas.plans import ScriptDefinition
from schemas.replicator_work import RunScript
from schemas.units import format_moment
from services.replicator.domain import scripts
from services.replicator.domain.scripts import POST_STEP, PRE_STEP, RUN_SCRIPT, ScriptRun
from services.replicator.domain.work import merged
from shared.decider import NOTHING, Decision, Effect, EffectOutcome, Family, Send, WorkClass
from shared.errors import Refused

DEFINITION_VERSION: Final = 1
VMS_STEP: Final = "iterations"
_PRIORITY: Final = 3


class Run(msgspec.Struct, kw_only=True):
    """A run. `members` are the VMs that have ended; changed in place, there may be thousands."""

    started: said.RunStarted | None = None
    members: dict[str, said.IterationState] = {}
    cancelling: bool = False
    pre: ScriptRun = ScriptRun()
    post: ScriptRun = ScriptRun()
    troubled: bool = False
    problem: Problem | None = None
    steps: tuple[StepTiming, ...] = ()
    finished: bool = False


def iteration_of(run: str, vm: str) -> str:
    """The iteration of a run's member: the scheduler names it after the run."""
    _, plan, tick = parts_of(run)
    return stream_id("iteration", plan, vm, tick)


# ── Messages ─────────────────────────────────────────────────────────────────────────────────


def start(state: Run, received: Received) -> Decision:
    """Open the run; without a pre-script its iterations have no gate."""
    m: said.StartRun = received.body
    if state.started is not None:
        return NOTHING
    pre = scripts.runs_here(m.pre_script, m.operation)
    post = scripts.runs_here(m.post_script, m.operation)
    event = said.RunStarted(
        plan=m.plan,
        tick_at=m.tick_at,
        vms=m.vms,
        # They follow from the run's id: two thousand names would not fit into one event.
        iterations=(),
        pre_script=pre,
        post_script=post,
        steps=(*((PRE_STEP,) if pre else ()), VMS_STEP, *((POST_STEP,) if post else ())),
        definition_version=DEFINITION_VERSION,
        operation=m.operation,
    )
    after = _after(state, event)
    if pre is not None:
        effect = _script_effect(after, PRE_STEP, m.run, received)
        return Decision(events=(event,), effects=(effect,))
    if not _open_members(after):
        return _wind_up(after, (event,), m.run, received)
    return Decision(events=(event,))


def member_ended(state: Run, received: Received) -> Decision:
    """An iteration ended; after the last one the post-script, then the end."""
    m: said.RunMemberEnded = received.body
    if state.finished or m.vm in state.members:
        return NOTHING
    event = said.RunMemberRecorded(vm=m.vm, state=m.state)
    if state.started is None:
        return Decision(events=(event,))
    # Counted before the state is changed: copying thousands of members per message is too slow.
    left = len(state.started.vms) - len(state.members) - 1
    if left > 0 or not _pre_over(state):
        return Decision(events=(event,))
    return _wind_up(_after(state, event), (event,), m.run, received)


def cancel_job(state: Run, received: Received) -> Decision:
    """A person cancels the run: its scripts and every iteration that has not ended."""
    m: said.CancelJob = received.body
    if state.started is None:
        raise Refused(f"there is no job {m.job}", code="unknown-job", remedy="see `job list`")
    if state.finished:
        raise Refused(f"job {m.job} has ended already", code="job-ended")
    if state.cancelling:
        return NOTHING
    event = said.RunCancelRequested()
    plan = state.started.plan
    sends = tuple(
        Send(
            to="replicator",
            key=plan,
            message=said.CancelIteration(
                iteration=iteration_of(m.job, vm), reason="its run was cancelled"
            ),
        )
        for vm in _open_members(state)
    )
    return Decision(
        events=(event,),
        sends=sends,
        cancel_effects=(
            scripts.part_of_run(PRE_STEP, state.pre.run),
            scripts.part_of_run(POST_STEP, state.post.run),
        ),
    )


def script_started(state: Run, received: Received) -> Decision:
    """A plan script's process is about to exist. Committed under its claim; Refused: do not."""
    m: said.RunScriptStarted = received.body
    script = state.pre if m.step == PRE_STEP else state.post
    if state.started is None or state.finished or state.cancelling or script.over:
        raise Refused(f"{m.step} is not wanted any more", code="cancelled")
    if m.run != script.run:
        raise Refused(f"run {m.run} of {m.step} is over", code="cancelled")
    return NOTHING if script.started else Decision(events=(m,))


def outcome(state: Run, received: Received) -> Decision:
    """A plan script ended."""
    ended: EffectOutcome = received.body
    step = ended.part.partition("/")[0]
    if state.started is None or state.finished or step not in scripts.SCRIPT_STEPS:
        return NOTHING
    before = state.pre if step == PRE_STEP else state.post
    script = _script(state, step)
    if before.over or script is None or ended.part != scripts.part_of_run(step, before.run):
        return NOTHING
    report = scripts.report_of(ended)
    again = not state.cancelling and scripts.goes_again(script, report, run=before.run)
    event = said.RunScriptEnded(
        step=step,
        report=report,
        timing=scripts.timing_of(step, report, ended, run=before.run),
        run=before.run,
        again=again,
    )
    after = _after(state, event)
    if again:
        repeat = _script_effect(after, step, received.stream, received)
        return Decision(events=(event,), effects=(repeat,))
    if step == POST_STEP or not _open_members(after):
        return _wind_up(after, (event,), received.stream, received)
    if after.cancelling:
        return Decision(events=(event,))
    return Decision(events=(event,), sends=_gates(after, received.stream))


# ── Rules ────────────────────────────────────────────────────────────────────────────────────


def _script(state: Run, step: str) -> ScriptDefinition | None:
    assert state.started is not None, "started before anything else"
    return state.started.pre_script if step == PRE_STEP else state.started.post_script


def _pre_over(state: Run) -> bool:
    return state.pre.over or _script(state, PRE_STEP) is None


def _open_members(state: Run) -> tuple[str, ...]:
    assert state.started is not None, "started before anything else"
    return tuple(vm for vm in state.started.vms if vm not in state.members)


def _gates(state: Run, run: str) -> tuple[Send, ...]:
    """Let the iterations go, or stop them where the pre-script's failure says so."""
    assert state.started is not None, "started before anything else"
    script = _script(state, PRE_STEP)
    allowed = not (state.troubled and script is not None and _stops(script))
    return tuple(
        Send(
            to="replicator",
            key=state.started.plan,
            message=said.OpenGate(
                iteration=iteration_of(run, vm),
                allowed=allowed,
                problem=None if allowed else state.problem,
            ),
        )
        for vm in _open_members(state)
    )


def _stops(script: ScriptDefinition) -> bool:
    return scripts.on_failure(script) != "continue"


def _wind_up(state: Run, events: tuple[Any, ...], run: str, received: Received) -> Decision:
    """Every iteration has ended: the post-script, or the end.

    A run that was cancelled waits for its iterations all the same: they still undo what they did.
    """
    assert state.started is not None, "started before anything else"
    if _open_members(state):
        return Decision(events=events)
    if _script(state, POST_STEP) is not None and not state.post.over and not state.cancelling:
        effect = _script_effect(state, POST_STEP, run, received)
        return Decision(events=events, effects=(effect,))
    final = said.RunFinished(
        plan=state.started.plan,
        state=_outcome_of(state),
        steps=merged(state.steps),
        problem=state.problem,
    )
    return Decision(events=(*events, final))


def _outcome_of(state: Run) -> said.IterationState:
    """The first rule of product.md §5 that fits; usable is a finalized checkpoint."""
    states = state.members.values()
    if state.cancelling or (states and _all(states, "cancelled")):
        return "cancelled"
    if states and not any(each in ("completed", "partially-completed") for each in states):
        return "failed"
    return (
        "completed" if _all(states, "completed") and not state.troubled else "partially-completed"
    )


def _all(states: Iterable[str], wanted: str) -> bool:
    return all(each == wanted for each in states)


def _script_effect(state: Run, step: str, run: str, received: Received) -> Effect:
    assert state.started is not None, "started before anything else"
    script = _script(state, step)
    assert script is not None, "a script that is due was chosen"
    number = (state.pre if step == PRE_STEP else state.post).run
    context: dict[str, Any] = {
        "hook": "pre-replication" if step == PRE_STEP else "post-replication",
        "operation": state.started.operation,
        "job": run,
        "tick_at": format_moment(state.started.tick_at),
        "plan": {"name": state.started.plan},
        "vms": [_vm(state, vm) for vm in state.started.vms],
    }
    if step == POST_STEP:
        context["outcome"] = _outcome_of(state)
    told = scripts.script_work(script, step=step, plan=state.started.plan, context=context)
    return Effect(
        part=scripts.part_of_run(step, number),
        kind=RUN_SCRIPT,
        payload=RunScript(work=told, run=number),
        due=received.at,
        work_class=WorkClass.REPLICATION,
        priority=_PRIORITY,
        plan=state.started.plan,
    )


def _vm(state: Run, vm: str) -> dict[str, Any]:
    ended = state.members.get(vm)
    return {"name": vm, "outcome": ended} if ended is not None else {"name": vm}


# ── Folding ──────────────────────────────────────────────────────────────────────────────────


def _after(state: Run, event: Any) -> Run:
    """The state after an event, without touching the one given."""
    return evolve(msgspec.structs.replace(state, members=state.members.copy()), event)


def evolve(state: Run, event: Any) -> Run:
    """Apply one fact, in place."""
    match event:
        case said.RunStarted():
            state.started = event
        case said.RunMemberRecorded():
            state.members[event.vm] = event.state
        case said.RunCancelRequested():
            state.cancelling = True
        case said.RunScriptStarted():
            _set_script(state, event.step, run=event.run, started=True)
        case said.RunScriptEnded():
            _script_ended(state, event)
        case said.RunFinished():
            state.finished = True
        case _:
            raise AssertionError(f"{type(event).__name__} is no event of a run")
    return state


def _set_script(state: Run, step: str, **changes: Any) -> None:
    if step == PRE_STEP:
        state.pre = msgspec.structs.replace(state.pre, **changes)
    else:
        state.post = msgspec.structs.replace(state.post, **changes)


def _script_ended(state: Run, event: said.RunScriptEnded) -> None:
    if event.timing is not None:
        state.steps = merged(state.steps, (event.timing,))
    if event.again:
        _set_script(state, event.step, run=event.run + 1, started=False)
        return
    _set_script(state, event.step, over=True)
    cancelled = event.timing is not None and event.timing.state == "cancelled"
    script = _script(state, event.step)
    if event.report.outcome == "done" or cancelled or script is None:
        return
    state.troubled = True
    state.problem = state.problem or scripts.script_problem(script, event.step, event.report)


FAMILY = Family(
    name="replication-run",
    state=Run,
    initial=Run,
    evolve=evolve,
    is_terminal=lambda state: state.finished,
    outcome=outcome,
)
