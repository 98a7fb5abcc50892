"""What a recovery will take: from what past ones took, the plan, and limits as they stand. Pure.

Owns where each duration comes from: the median of past steps, else what the platform declares,
else a default that is named as one. The simulation is `shared.forecast`'s.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from schemas.plans import ScriptDefinition
from schemas.scheduler import PlanHeader
from schemas.views import Job, Step, Vm
from shared.effects.port import BudgetState
from shared.forecast import plan as forecast
from shared.forecast.limits import Limit
from shared.forecast.plan import BEGIN, BOOT, DEFAULTS_S, NEEDS, WORKERS, Forecast, Machine, Plan
from shared.forecast.simulation import floor_of, simulate

BOOT_STEPS: Final = "boot-order-"
PREFLIGHT: Final = "preflight"
HAND_OVER_S: Final = 0.02
"""What our own engine takes between the end of a step and the start of the next, nothing waited
for: a commit, a claim and their ways (`bench steps`)."""

CALLS: Final[Mapping[str, str]] = {call: step for step, call in forecast.CALLS.items()}
HOOKS: Final[Mapping[str, str]] = {hook: step for step, hook in forecast.HOOKS.items()}
QUOTAS: Final = frozenset(name for names in NEEDS.values() for name in names)


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Medians of what past recoveries of a plan took, in seconds: by step, and each VM's boot.

    `plan_steps` are those of the plan's own steps. `samples`: how many VMs they are of.
    """

    steps: Mapping[str, float] = {}
    boots: Mapping[str, float] = {}
    plan_steps: Mapping[str, float] = {}
    samples: int = 0


def timings_of(jobs: Iterable[Job]) -> Timings:
    """The medians over finished jobs of recoveries: the plan's, and each VM's."""
    steps: dict[str, list[float]] = defaultdict(list)
    boots: dict[str, list[float]] = defaultdict(list)
    plan_steps: dict[str, list[float]] = defaultdict(list)
    samples = 0
    for job in jobs:
        if job.dry_run:
            continue
        if job.vm is None:
            _add_plan(job, plan_steps)
        elif job.disk is None and (taken := _taken(job.steps)):
            samples += 1
            for name, seconds in taken.items():
                steps[name].append(seconds)
            if BOOT in taken:
                boots[job.vm].append(taken[BOOT])
    return Timings(
        steps=_medians(steps),
        boots=_medians(boots),
        plan_steps=_medians(plan_steps),
        samples=samples,
    )


def _add_plan(job: Job, found: dict[str, list[float]]) -> None:
    """The plan's scripts, and how long it was from the command until the first order opened."""
    taken = _taken(job.steps)
    for name in (forecast.PRE, forecast.POST):
        if name in taken:
            found[name].append(taken[name])
    opened = [s.started_at for s in job.steps if s.name.startswith(BOOT_STEPS) and s.started_at]
    if opened:
        begin_s = (min(opened) - job.created_at).total_seconds() - taken.get(forecast.PRE, 0.0)
        found[BEGIN].append(max(begin_s, 0.0))


def _taken(steps: Sequence[Step]) -> dict[str, float]:
    return {
        step.name: max((step.ended_at - step.started_at).total_seconds(), 0.0)
        for step in steps
        if step.state == "completed" and step.started_at and step.ended_at
    }


def _medians(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in found.items()}


# ── Durations, each with its source ──────────────────────────────────────────────────────────


class Durations:
    """Seconds per step; `told` says of every step that was asked for where they come from."""

    def __init__(self, timings: Timings, declared: Mapping[str, float]) -> None:
        self._timings = timings
        self._declared = declared
        self.told: dict[str, dict[str, Any]] = {}

    def of(self, step: str) -> float:
        """The step of any VM."""
        return self._tell(step, step, self._timings.steps.get(step), self._declared.get(step))

    def of_plan(self, step: str) -> float:
        """A step of the plan itself."""
        name = step if step == BEGIN else f"plan-{step}"
        return self._tell(name, step, self._timings.plan_steps.get(step), None)

    def boot(self, vm: str, declared_s: float | None) -> float:
        """How long a VM's guest boots: its own past, what it declares, others' past, a guess."""
        own = self._timings.boots.get(vm)
        if own is not None or declared_s is None:
            return own if own is not None else self.of(BOOT)
        return self._tell(BOOT, BOOT, self._timings.steps.get(BOOT), declared_s, declared_s)

    def _tell(
        self,
        name: str,
        step: str,
        measured: float | None,
        declared: float | None,
        use: float | None = None,
    ) -> float:
        if measured is not None:
            seconds, source = measured, "past-recoveries"
        elif declared is not None:
            seconds, source = declared, "platform"
        else:
            seconds, source = DEFAULTS_S[step], "default"
        self.told.setdefault(name, {"seconds": round(seconds, 3), "from": source})
        return seconds if use is None else use


# ── The plan that is simulated ───────────────────────────────────────────────────────────────


def plan_of_vms(header: PlanHeader, vms: Sequence[Vm], durations: Durations) -> Plan:
    """A test recovery of all VMs of a plan. A VM counts as one disk: its step holds them all."""
    machines = tuple(
        _machine(
            durations,
            name=vm.name,
            boot_order=vm.boot_order,
            boot_delay_s=vm.boot_delay_s,
            scripts=frozenset(HOOKS[hook] for hook in vm.recovery_scripts),
        )
        for vm in vms
    )
    return _whole(header, machines, durations, build_ahead=header.recovery.build_ahead, early=True)


def plan_of_calls(
    header: PlanHeader,
    calls: Sequence[Mapping[str, Any]],
    durations: Durations,
    *,
    build_ahead: bool,
    early: bool,
) -> Plan:
    """The recovery that a dry run's calls are of."""
    disks: dict[str, int] = defaultdict(int)
    scripts: dict[str, set[str]] = defaultdict(set)
    ons: dict[str, Mapping[str, Any]] = {}
    for call in calls:
        vm = call["vm"]
        if call["call"] == "rebuild_disk":
            disks[vm] += 1
        elif call["call"] == "run_script":
            scripts[vm].add(HOOKS[call["hook"]])
        elif call["call"] == "power_on":
            ons[vm] = call
    machines = tuple(
        _machine(
            durations,
            name=vm,
            boot_order=call["boot_order"],
            boot_delay_s=call["boot_delay_s"],
            boots_in_s=call.get("boots_in_s"),
            disks=disks[vm],
            scripts=frozenset(scripts[vm]),
        )
        for vm, call in ons.items()
    )
    return _whole(header, machines, durations, build_ahead=build_ahead, early=early)


def _machine(
    durations: Durations,
    *,
    name: str,
    boot_order: int,
    boot_delay_s: float,
    scripts: frozenset[str],
    disks: int = 1,
    boots_in_s: float | None = None,
) -> Machine:
    ours = (*sorted(scripts), *CALLS.values())
    seconds = {step: durations.of(step) + HAND_OVER_S for step in ours}
    seconds[BOOT] = durations.boot(name, boots_in_s)
    return Machine(
        name=name,
        boot_order=boot_order,
        boot_delay_s=boot_delay_s,
        disks=disks,
        pre_script=forecast.PRE in scripts,
        post_script=forecast.POST in scripts,
        seconds=seconds,
    )


def _whole(
    header: PlanHeader,
    machines: tuple[Machine, ...],
    durations: Durations,
    *,
    build_ahead: bool,
    early: bool,
) -> Plan:
    policy = header.recovery

    def script_s(script: ScriptDefinition | None, step: str) -> float:
        runs = script is not None and "test" in script.operations
        return durations.of_plan(step) if runs else 0.0

    return Plan(
        machines=machines,
        build_ahead=build_ahead,
        early=early,
        begin_s=durations.of_plan(BEGIN),
        pre_script_s=script_s(policy.pre_script, forecast.PRE),
        post_script_s=script_s(policy.post_script, forecast.POST),
    )


# ── Limits and the answer ────────────────────────────────────────────────────────────────────


def limits_of(site: str, budgets: Iterable[BudgetState], *, workers: int) -> tuple[Limit, ...]:
    """A site's limits as they stand at this moment, and our own effects under way at once."""
    found = [Limit(name=WORKERS, concurrent=workers)]
    for state in budgets:
        of, _, name = state.budget.name.rpartition("/")
        if of != site or name not in QUOTAS:
            continue
        budget = state.budget
        if budget.mode == "rate":
            limit = Limit(
                name=name,
                burst=budget.burst,
                per_second=budget.per_second,
                tokens=max(state.tokens, 0.0),
            )
        else:
            limit = Limit(name=name, concurrent=budget.concurrent, in_use=state.in_use)
        if not limit.is_open:
            found.append(limit)
    return tuple(found)


def predicted(plan: Plan, limits: Sequence[Limit], durations: Durations) -> dict[str, Any]:
    """The forecast as a document: the prediction, its floor, what binds, what it is made of.

    Seconds; null for what never happens because a limit lets nothing pass.
    """
    found, floor = simulate(plan, limits), floor_of(plan, limits)
    return {
        "total_s": _rounded(found.total_s),
        "ready_s": _rounded(found.ready_s),
        "floor_s": _rounded(floor.total_s),
        "binds": found.binds,
        "binds_s": _rounded(found.binds_s),
        "orders": [_plain(order) for order in found.orders],
        "phases": [_plain(phase) for phase in found.phases],
        "durations": durations.told,
        "limits": [_plain(limit) for limit in limits],
    }


def seconds_to_ready(plan: Plan, limits: Sequence[Limit]) -> float | None:
    """The RTO forecast alone; None where it never ends."""
    found: Forecast = simulate(plan, limits)
    return _rounded(found.ready_s)


def _plain(struct: msgspec.Struct) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(struct)
    return {
        name: _rounded(value) if isinstance(value, float) else value
        for name, value in fields.items()
    }


def _rounded(seconds: float) -> float | None:
    return round(seconds, 3) if math.isfinite(seconds) else None
