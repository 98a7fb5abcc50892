"""Power off what runs again at a quarantined site: originals whose instances took their place.

Saga. Forward: look what runs, ask each original's source (`operations.source`) to end, look again;
only what is not seen to run counts as off. It has no undo of its own: a roll back of the recovery
that gave a VM up switches its source on again, as after any fencing. Repeating it is safe.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from schemas import lost_sites as said
from schemas.common import Problem, StepState, StepTiming
from schemas.envelope import Received
from schemas.ids import family_of, key_of
from schemas.operations import SecureSource, SourceNews
from schemas.recovery import RecoveryState
from schemas.units import some_of
from services.recovery.domain import lost_site
from services.recovery.domain.lost_site import LostSite, lost_site_stream
from services.recovery.domain.operations.driving import SHUT_DOWN_WITHIN_S
from services.recovery.domain.operations.source import source_stream
from services.recovery.domain.work import refuted, step_of
from shared.decider import NOTHING, Decision, Effect, EffectOutcome, Family, Send
from shared.errors import Refused

# ── Parameters ───────────────────────────────────────────────────────────────────────────────

DEFINITION_VERSION: Final = 1
LOOK: Final = "look"
VERIFY: Final = "verify"
STEPS: Final = (LOOK, VERIFY)
ROUND_MAX: Final = 250
"""Originals of one look: its event stays below 64 KiB. Looks go on while they bring new ones."""

NAMED_MAX: Final = 10


class SitePowerOff(msgspec.Struct, frozen=True, kw_only=True):
    """A power-off. `asked` are the originals that were asked to end, with the moment; `settled`
    how each of them took it. `looking` is the number of the look under way, 0: none."""

    started: said.SitePowerOffStarted | None = None
    looks: int = 0
    looking: int = 0
    asked: dict[str, dt.datetime] = {}
    settled: dict[str, str] = {}
    last: said.SitePowerOffLooked | None = None
    problem: Problem | None = None
    steps: tuple[StepTiming, ...] = ()
    finished: bool = False


def told(state: SitePowerOff) -> said.SitePowerOffStarted:
    """What the power-off was started with; asserts that it was."""
    assert state.started is not None, "started before anything else"
    return state.started


def step_name(vm: str) -> str:
    """The step of one original."""
    return f"power-off {vm}"


# ── Actions ──────────────────────────────────────────────────────────────────────────────────


def begin(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Power originals off. Decides over the power-off and the site's watcher together.

    Raises Refused as `lost_site.check_may_power_off`.
    """
    m: said.PowerOffOriginals = received.body
    if family_of(m.job) != "site-power-off" or key_of(m.job) != m.site:
        raise Refused(
            f"{m.job} is no power-off of {m.site}",
            code="unknown-job",
            remedy=f"its id is site-power-off:{m.site}:KEY",
        )
    state: SitePowerOff = states[m.job]
    watcher: LostSite = states[lost_site_stream(m.site)]
    if state.started is not None:
        return {}
    site = lost_site.check_may_power_off(watcher, m)
    event = said.SitePowerOffStarted(
        job=m.job,
        site=site,
        recoveries=tuple(watcher.recoveries),
        at=received.at,
        vms=m.vms,
        steps=STEPS,
        definition_version=DEFINITION_VERSION,
    )
    marked = Decision(events=(said.LostSitePoweringOff(job=m.job),))
    return {m.job: _step(state, (event,), received.at), lost_site_stream(m.site): marked}


def outcome(state: SitePowerOff, received: Received) -> Decision:
    """A look ended."""
    ended: EffectOutcome = received.body
    if not state.looking or ended.part != _part(state.looking):
        return NOTHING
    return _step(state, (_looked(state, ended),), received.at)


def source_news(state: SitePowerOff, received: Received) -> Decision:
    """An original is off, or could not be."""
    m: SourceNews = received.body
    if state.finished or m.vm not in state.asked or m.vm in state.settled:
        return NOTHING
    if m.news not in ("off", "failed"):
        return NOTHING
    failed = m.news == "failed"
    timing = StepTiming(
        name=step_name(m.vm),
        state="failed" if failed else "completed",
        started_at=state.asked[m.vm],
        ended_at=m.at,
        error=m.problem.message if m.problem is not None else "",
        remedy=m.problem.remedy if m.problem is not None else "",
    )
    event = said.OriginalPoweredOff(
        vm=m.vm,
        state="failed" if failed else "off",
        timing=timing,
        forced=m.forced,
        problem=m.problem,
    )
    return _step(state, (event,), received.at)


# ── Definition ───────────────────────────────────────────────────────────────────────────────


def _look_due(state: SitePowerOff) -> bool:
    """Whether the next look is to begin: nobody is waited for, and the last was not the proof."""
    if state.started is None or state.finished or state.looking:
        return False
    return len(state.settled) == len(state.asked) and not _is_proof(state)


def _is_proof(state: SitePowerOff) -> bool:
    """Whether nothing more is to be asked for: the last look failed, or brought none anew."""
    last = state.last
    return last is not None and not last.originals


def evolve(state: SitePowerOff, event: Any) -> SitePowerOff:
    """Apply one fact."""
    state = _applied(state, event)
    if not _look_due(state):
        return state
    return msgspec.structs.replace(state, looks=state.looks + 1, looking=state.looks + 1)


def _applied(state: SitePowerOff, event: Any) -> SitePowerOff:
    replace = msgspec.structs.replace
    match event:
        case said.SitePowerOffStarted():
            return replace(state, started=event)
        case said.SitePowerOffLooked():
            asked = {**state.asked, **{vm: event.at for _, vm, _ in event.originals}}
            return replace(
                state,
                looking=0,
                asked=asked,
                last=event,
                problem=state.problem or event.problem,
                steps=_with(state.steps, event.timing),
            )
        case said.OriginalPoweredOff():
            return replace(
                state,
                settled={**state.settled, event.vm: event.state},
                problem=state.problem or event.problem,
            )
        case said.SitePowerOffFinished():
            return replace(state, finished=True)
    raise AssertionError(f"{type(event).__name__} is no event of a power-off")


def _with(steps: tuple[StepTiming, ...], timing: StepTiming) -> tuple[StepTiming, ...]:
    """The looks of the job; a later proof stands for an earlier one."""
    return (*(step for step in steps if step.name != timing.name), timing)


FAMILY = Family(
    name="site-power-off",
    state=SitePowerOff,
    initial=SitePowerOff,
    evolve=evolve,
    is_terminal=lambda state: state.finished,
    outcome=outcome,
)

# ── Implementations ──────────────────────────────────────────────────────────────────────────


def _step(state: SitePowerOff, events: tuple[Any, ...], now: dt.datetime) -> Decision:
    """The decision that goes with `events`: who is asked, the next look, or the end."""
    after = state
    for event in events:
        after = evolve(after, event)
    start = told(after)
    if after.looking != state.looking and after.looking:
        return Decision(events=events, effects=(_look(after, now),))
    if _is_proof(after) and not after.finished and len(after.settled) == len(after.asked):
        end = _finish(after)
        over = said.PowerOffEnded(site=start.site.site, job=start.job)
        send = Send(to="recovery", key=start.site.site, message=over)
        return Decision(events=(*events, end), sends=(send,))
    sends = tuple(
        _ask(start, original, now)
        for event in events
        if isinstance(event, said.SitePowerOffLooked)
        for original in event.originals
    )
    return Decision(events=events, sends=sends)


def _ask(
    start: said.SitePowerOffStarted, original: tuple[str, str, str], now: dt.datetime
) -> Send:
    recovery, vm, runs_as = original
    plan = key_of(recovery)
    message = SecureSource(
        stream=source_stream(recovery, vm),
        job=start.job,
        plan=plan,
        vm=vm,
        site=start.site,
        force=True,
        within_s=SHUT_DOWN_WITHIN_S,
        requested_at=now,
        priority=1,
        instance=runs_as,
    )
    return Send(to="recovery", key=plan, message=message)


def _part(look: int) -> str:
    return f"look/{look}"


def _look(state: SitePowerOff, now: dt.datetime) -> Effect:
    start = told(state)
    return lost_site.look_effect(
        _part(state.looking),
        site=start.site,
        job=start.job,
        recoveries=start.recoveries,
        # Those that were asked and run still must not hide the others.
        count_max=ROUND_MAX + len(state.asked),
        now=now,
        priority=1,
        kind="look-at-originals",
        vms=start.vms,
    )


def _looked(state: SitePowerOff, ended: EffectOutcome) -> said.SitePowerOffLooked:
    start = told(state)
    timing = step_of(ended, LOOK if state.looking == 1 else VERIFY)
    if not ended.ok:
        problem = Problem(
            code=ended.code or "not-seen",
            message=f"what runs at {start.site.site} could not be found out: {ended.error}",
            remedy=ended.remedy or f"see `seawall site check {start.site.site}`, then repeat it",
        )
        return said.SitePowerOffLooked(at=ended.at, timing=timing, problem=problem)
    listed: said.OriginalsListed = ended.result
    if listed.unknown:
        problem = Problem(
            code="unknown-vm",
            message=f"no failover gave up VM {some_of(listed.unknown, NAMED_MAX)} at "
            f"{start.site.site}",
            remedy="see `seawall site show` and `seawall alert list` for those that run",
        )
        failed = refuted(timing, problem)
        return said.SitePowerOffLooked(at=ended.at, timing=failed, problem=problem)
    running = [each for found in listed.found for each in found.originals]
    fresh = [
        (each.recovery, each.vm, each.runs_as) for each in running if each.vm not in state.asked
    ]
    return said.SitePowerOffLooked(
        at=ended.at,
        timing=timing,
        originals=tuple(fresh[:ROUND_MAX]),
        running=sum(found.running for found in listed.found),
        vms=tuple(each.vm for each in running[:NAMED_MAX]),
    )


def _finish(state: SitePowerOff) -> said.SitePowerOffFinished:
    start, last = told(state), state.last
    assert last is not None, "it looked before it ends"
    off = sum(each == "off" for each in state.settled.values())
    problem = state.problem
    if problem is None and last.running:
        problem = Problem(
            code="runs-again",
            message=f"{some_of(last.vms, NAMED_MAX)} still run(s) at {start.site.site}",
            remedy="find out what switches it on there (automatic restart?), then repeat it",
        )
    return said.SitePowerOffFinished(
        site=start.site.site,
        state=_outcome(state, off=off),
        off=off,
        running=last.running,
        steps=_all_steps(state),
        problem=problem,
    )


def _outcome(state: SitePowerOff, *, off: int) -> RecoveryState:
    """Nothing is called done that was not seen to be: the last look decides."""
    last = state.last
    assert last is not None, "it looked before it ends"
    gone = last.problem is None and not last.running
    if gone:
        return "completed" if off == len(state.settled) else "partially-completed"
    return "partially-completed" if off else "failed"


def _all_steps(state: SitePowerOff) -> tuple[StepTiming, ...]:
    """The looks. Where the first one found nothing it is the proof as well."""
    if state.looks > 1 or state.last is None or state.last.problem is not None:
        return state.steps
    verified: StepState = "completed"
    return (*state.steps, msgspec.structs.replace(state.steps[-1], name=VERIFY, state=verified))
