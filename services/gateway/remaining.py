"""How long a recovery that runs still takes: the simulation of what is left of it. Pure.

What is done counts as it was, what is under way for as long as it has been going on; the rest as
in every forecast. People's answers, repeats of what fails and pauses are not foretold.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final

from schemas.joins import DONE_STEPS
from schemas.scheduler import PlanHeader
from schemas.views import ENDED, Job, Step
from services.gateway.prediction import Durations, machine_of
from services.gateway.timings import BOOT_STEPS, SOURCE_STEPS
from shared.forecast import plan as forecast
from shared.forecast.plan import BEGIN, Machine, Plan

_ALL: Final = frozenset(forecast.STEPS)


def plan_of_running(
    header: PlanHeader,
    job: Job,
    parts: Sequence[Job],
    durations: Durations,
    *,
    delays: Mapping[str, float],
    now: dt.datetime,
) -> Plan | None:
    """What is left of a recovery; `delays` are boot delays by VM. None where nobody can tell: it
    is paused, or shuts its sources down and none of the past did."""
    if job.paused or job.cancelling or not parts:
        return None
    begin_s = _begin_s(job, durations, now=now)
    if begin_s is None:
        return None
    early = all(part.facts.get("early", True) for part in parts)
    return Plan(
        machines=tuple(_machine(part, durations, delays=delays, now=now) for part in parts),
        build_ahead=header.recovery.build_ahead,
        early=early,
        begin_s=begin_s,
        pre_script_s=_left_of(job, forecast.PRE, durations, now=now),
        post_script_s=_left_of(job, forecast.POST, durations, now=now),
    )


def _begin_s(job: Job, durations: Durations, *, now: dt.datetime) -> float | None:
    """Until the first boot order opens, the plan's script aside."""
    if any(s.name.startswith(BOOT_STEPS) and s.state != "pending" for s in job.steps):
        return 0.0
    left_s = max(durations.of_plan(BEGIN) - (now - job.created_at).total_seconds(), 0.0)
    for step in job.steps:
        if step.name not in SOURCE_STEPS or step.state in DONE_STEPS:
            continue
        past_s = durations.past_of_plan(step.name)
        if past_s is None:
            return None
        left_s += max(past_s - _going_s(step, now), 0.0)
    return left_s


def _left_of(job: Job, name: str, durations: Durations, *, now: dt.datetime) -> float:
    """Seconds of a script of the plan itself that are still to come."""
    step = next((each for each in job.steps if each.name == name), None)
    if step is None or step.state in DONE_STEPS:
        return 0.0
    return max(durations.of_plan(name) - _going_s(step, now), 0.0)


def _going_s(step: Step, now: dt.datetime) -> float:
    if step.state != "running" or step.started_at is None:
        return 0.0
    return max((now - step.started_at).total_seconds(), 0.0)


def _machine(
    part: Job, durations: Durations, *, delays: Mapping[str, float], now: dt.datetime
) -> Machine:
    vm = part.vm or ""
    steps = {step.name: step for step in part.steps}
    on_at = next((i.powered_on_at for i in part.instances if i.powered_on_at), None)
    done = _done(part, steps)
    following = next((name for name in forecast.STEPS if name not in done and name in steps), "")
    begun = following in steps and steps[following].state == "running"
    # Disks are counted one by one: those that are under way begin anew here.
    begun = begun and following != forecast.REBUILD
    return machine_of(
        durations,
        name=vm,
        boot_order=part.boot_order or 0,
        boot_delay_s=delays.get(vm, 0.0),
        scripts=frozenset({forecast.PRE, forecast.POST} & set(steps)),
        disks=max(part.disks.total - part.disks.ready, 0) if part.disks is not None else 1,
        windows=(forecast.VALIDATE in steps) if forecast.PREPARE in steps else None,
        done=done,
        begun_s=_going_s(steps[following], now) if begun else None,
        on_s=max((now - on_at).total_seconds(), 0.0) if on_at is not None else None,
    )


def _done(part: Job, steps: Mapping[str, Step]) -> frozenset[str]:
    """The steps that are over; of a VM that has ended all of them, whatever became of it."""
    if part.state in ENDED:
        return _ALL
    done = {name for name, step in steps.items() if step.state in DONE_STEPS}
    if forecast.PREPARE in steps and steps[forecast.PREPARE].state not in ("pending", "waiting"):
        done.add(forecast.PREP_NODE)
    return frozenset(done & _ALL)
