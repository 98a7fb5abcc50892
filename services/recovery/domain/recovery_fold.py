"""What each fact of a recovery does to its state, but for those of steering (`recovery_steered`).

Saga. Work per message does not grow with the number of VMs, but for one shallow copy of a
dictionary.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import msgspec

from schemas import operations as said_ops
from schemas import recovery as said
from schemas.common import Problem
from schemas.directions import InstancesFreed, InstancesTaken, SourcesNamed
from schemas.plans import ScriptDefinition
from services.recovery.domain import prompts, scripts
from services.recovery.domain.operations import securing, window
from services.recovery.domain.recovery_state import (
    MemberState,
    OrderState,
    Recovery,
    plan_script,
    told,
)
from services.recovery.domain.scripts import POST_STEP, PRE_STEP, ScriptRun
from services.recovery.domain.waits import Waits


def evolve(state: Recovery, event: Any) -> Recovery:
    """Apply one fact of bringing up; facts of steering are folded by `recovery_steered`."""
    replace = msgspec.structs.replace
    match event:
        case said.RecoveryStarted():
            return _started(state, event)
        case said.PreflightFinished():
            return _preflight(state, event)
        case said.PlanScriptStarted():
            return _with_script(state, event.step, started=True)
        case said.PlanScriptEnded():
            return _script_ended(state, event)
        case said.VmsLaunched():
            return replace(state, launched=state.launched + event.count)
        case said.BootOrderOpened():
            if state.by_order[event.boot_order].opened_at is not None:
                return with_order(state, event.boot_order, held=())
            state = with_order(state, event.boot_order, opened_at=event.at)
            return replace(state, opened=state.opened + 1)
        case said.MemberPoweredOn():
            return _powered_on(state, event)
        case said.MemberReady():
            return _ready(state, event)
        case said.MemberEnded():
            return _ended(state, event)
        case said.RecoveryCancelRequested():
            return _cancelled(state, event)
        case said.RecoveryFinished():
            waits = Waits(total_s=event.waited_s)
            return replace(state, finished=event, waits=waits, question=None, paused=False)
        case said.RecoveryCleaning():
            return replace(state, cleaning=event.cleanup)
        case said.RecoveryCleanupIncomplete():
            return replace(state, cleaning="")
        case said.RecoveryCleaned():
            return replace(state, cleaning="", cleaned=True)
        case SourcesNamed():
            named = {source.vm: source for source in event.sources}
            return replace(state, instances={**state.instances, **named})
        case _ if type(event) in _ABOUT_SOURCES:
            return _about_sources(state, event)
        case _ if type(event) in _ABOUT_WINDOW:
            state = _left_out(state, event)
            return replace(state, window=window.fold(state.window, event))
    raise AssertionError(f"{type(event).__name__} is no event of a recovery")


_ABOUT_SOURCES: Final = frozenset(
    {
        said_ops.SourcesSecuring,
        said_ops.SourceSiteLost,
        said_ops.MemberSecured,
        said_ops.SourcesSecured,
        said_ops.LastSyncAsked,
        said_ops.MemberSynced,
        said_ops.LastSyncFinished,
        said_ops.SourcesRestoring,
        said_ops.MemberRestored,
        said_ops.SourcesRestored,
    }
)
_ABOUT_WINDOW: Final = frozenset(
    {
        said_ops.RecoveryCommitting,
        said_ops.RecoveryCommitRefuted,
        said_ops.RecoveryCommitted,
        said_ops.RecoveryRollingBack,
        said_ops.RecoveryRollbackIncomplete,
        said_ops.RecoveryRolledBack,
        said_ops.CommitOverdue,
        InstancesTaken,
        InstancesFreed,
    }
)


def _left_out(state: Recovery, event: Any) -> Recovery:
    """What a commit means for the VMs that it leaves out: in the end nothing is made of them."""
    match event:
        case said_ops.RecoveryCommitting() if event.without:
            without = state.without.union(event.without)
            return msgspec.structs.replace(state, without=without)
        case said_ops.RecoveryCommitted() if event.without:
            members = state.members.copy()
            for vm in event.without:
                gone = members.get(vm, MemberState())
                members[vm] = msgspec.structs.replace(gone, made=False)
            return msgspec.structs.replace(state, members=members)
    return state


def _about_sources(state: Recovery, event: Any) -> Recovery:
    side = securing.fold(told(state), state.source, event)
    return msgspec.structs.replace(
        state,
        source=side,
        stopping=state.stopping or side.failed,
        problems=with_problem(state, "sources", side.problem),
    )


def _started(state: Recovery, event: said.RecoveryStarted) -> Recovery:
    by_order: dict[int, OrderState] = {}
    for member in event.members:
        before = by_order.get(member.boot_order, OrderState())
        count = before.total + 1
        by_order[member.boot_order] = OrderState(total=count, unsettled=count)
    return msgspec.structs.replace(
        state,
        started=event,
        roster={member.vm: member for member in event.members},
        orders=tuple(sorted(by_order)),
        by_order=by_order,
    )


def _preflight(state: Recovery, event: said.PreflightFinished) -> Recovery:
    first = event.problems[0] if event.problems else None
    return msgspec.structs.replace(
        state,
        # Facts are for people who read the job: the state need not carry them.
        preflight=msgspec.structs.replace(event, facts={}),
        problems=with_problem(state, "preflight", first),
        steps=(*state.steps, event.timing),
    )


PROBLEMS_MAX: Final = 100
"""Problems kept with a recovery; of more than these the VMs' own jobs tell."""


def with_problem(state: Recovery, key: str, problem: Problem | None) -> dict[str, Problem]:
    """The problems with one more, of a step or VM that has none yet."""
    if problem is None or key in state.problems or len(state.problems) >= PROBLEMS_MAX:
        return state.problems
    return {**state.problems, key: problem}


def _cancelled(state: Recovery, event: said.RecoveryCancelRequested) -> Recovery:
    """Nobody is asked any more, and no pause lasts. An end that was to be judged counts as bad."""
    open_waits = state.paused + (state.question is not None)
    state = msgspec.structs.replace(
        state,
        cancelling=True,
        paused=False,
        question=None,
        waits=state.waits.over(event.at, count=open_waits),
    )
    for step, run in ((PRE_STEP, state.pre), (POST_STEP, state.post)):
        if run.asks:
            state = with_run(state, step, run.answered("failed"))
    return state


def with_run(state: Recovery, step: str, run: ScriptRun) -> Recovery:
    """The state with another run of one of the plan's scripts."""
    return msgspec.structs.replace(state, **{"pre" if step == PRE_STEP else "post": run})


def _with_script(state: Recovery, step: str, **changes: Any) -> Recovery:
    field = "pre" if step == PRE_STEP else "post"
    changed = msgspec.structs.replace(getattr(state, field), **changes)
    return msgspec.structs.replace(state, **{field: changed})


def _script_ended(state: Recovery, event: said.PlanScriptEnded) -> Recovery:
    state = msgspec.structs.replace(state, steps=(*state.steps, event.timing))
    script = plan_script(state, event.step)
    assert script is not None, "a script that ended was chosen"
    run = state.pre if event.step == PRE_STEP else state.post
    after = run.ended(
        event.report,
        again=event.again,
        cancelled=event.timing.state == "cancelled",
        asks=prompts.asks(script, event.report) and not state.cancelling,
    )
    state = with_run(state, event.step, after)
    if after.over and event.report.outputs:
        outputs = {**state.plan_outputs, event.step: event.report.outputs}
        state = msgspec.structs.replace(state, plan_outputs=outputs)
    if not after.failed:
        return state
    problem = Problem(
        code=f"script-{event.report.outcome}",
        message=f"plan {event.step} {script.run}: {event.report.error}",
        remedy=event.report.remedy or "mend the script, then `seawall job retry`",
    )
    return script_failed(state, event.step, script, problem)


def script_failed(
    state: Recovery, step: str, script: ScriptDefinition, problem: Problem
) -> Recovery:
    """A plan script failed for good: what that means for the operation."""
    stops = scripts.on_failure(script, told(state).on_error) == "stop"
    return msgspec.structs.replace(
        state,
        stopping=state.stopping or stops,
        problems=with_problem(state, step, problem),
    )


def with_order(state: Recovery, order: int, **changes: Any) -> Recovery:
    """The state with one boot order changed."""
    changed = msgspec.structs.replace(state.by_order[order], **changes)
    return msgspec.structs.replace(state, by_order={**state.by_order, order: changed})


def with_member(state: Recovery, vm: str, **changes: Any) -> Recovery:
    """The state with one VM changed."""
    changed = msgspec.structs.replace(state.members.get(vm, MemberState()), **changes)
    members = state.members.copy()
    members[vm] = changed
    return msgspec.structs.replace(state, members=members)


def _powered_on(state: Recovery, event: said.MemberPoweredOn) -> Recovery:
    member = state.roster[event.vm]
    order = state.by_order[member.boot_order]
    until = event.at + dt.timedelta(seconds=member.boot_delay_s)
    latest = until if order.not_before is None else max(order.not_before, until)
    state = with_order(state, member.boot_order, not_before=latest)
    return with_member(state, event.vm, powered_on_at=event.at)


def _ready(state: Recovery, event: said.MemberReady) -> Recovery:
    state = _settled(state, event.vm, event.at)
    return with_member(
        state,
        event.vm,
        ready_at=event.at,
        instance_id=event.instance_id,
        addresses=event.addresses,
    )


def _settled(state: Recovery, vm: str, at: dt.datetime) -> Recovery:
    """One VM fewer that its boot order waits for."""
    before = state.members.get(vm, MemberState())
    if before.ready_at is not None or before.ended:
        return state
    order = state.by_order[state.roster[vm].boot_order]
    last = at if order.settled_at is None else max(order.settled_at, at)
    return with_order(
        state, state.roster[vm].boot_order, unsettled=order.unsettled - 1, settled_at=last
    )


def was_launched(state: Recovery, vm: str) -> bool:
    """Whether the VM's recovery was told to begin."""
    if not state.launched:
        return False
    if told(state).header.recovery.build_ahead:
        return True
    return state.by_order[state.roster[vm].boot_order].opened_at is not None


def _ended(state: Recovery, event: said.MemberEnded) -> Recovery:
    launched = was_launched(state, event.vm)
    state = _settled(state, event.vm, event.at)
    failed, ready = event.outcome == "failed", event.outcome == "ready"
    if failed:
        order = state.roster[event.vm].boot_order
        state = with_order(state, order, failed=state.by_order[order].failed + 1)
    asked = state.members.get(event.vm, MemberState()).asks
    state = with_member(
        state,
        event.vm,
        ended=True,
        outcome=event.outcome,
        degraded=event.degraded,
        error=event.problem.message if event.problem is not None else "",
        again=event.again,
        made=event.made,
        failed_step=event.failed_step,
        asks="",
    )
    bad = event.problem if failed or event.degraded else None
    return msgspec.structs.replace(
        state,
        waits=state.waits.over(event.at, count=1 if asked else 0),
        launched_ended=state.launched_ended + (1 if launched else 0),
        attempted=state.attempted + (1 if failed or ready else 0),
        ready=state.ready + (1 if ready else 0),
        failed=state.failed + (1 if failed else 0),
        degraded=state.degraded + (1 if event.degraded else 0),
        stopping=state.stopping or event.stop,
        made=state.made or event.made,
        problems=with_problem(state, event.vm, bad),
    )
