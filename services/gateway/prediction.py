"""What a recovery will take: from what past ones took, the plan, and limits as they stand. Pure.

Owns where each duration comes from: the median of past steps, else what the platform declares,
else a default that is named as one. The simulation is `shared.forecast`'s.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from schemas.plans import ScriptDefinition
from schemas.scheduler import PlanHeader
from schemas.views import Vm
from services.gateway.timings import Timings
from shared.effects.port import BudgetState
from shared.forecast import plan as forecast
from shared.forecast.limits import Limit
from shared.forecast.plan import (
    BEGIN,
    BOOT,
    DEFAULTS_S,
    NEEDS,
    PREP_NODES,
    WINDOWS_CALLS,
    WORKERS,
    Forecast,
    Machine,
    Plan,
)
from shared.forecast.simulation import floor_of, simulate

HAND_OVER_S: Final = 0.02
"""What our own engine takes between the end of a step and the start of the next, nothing waited
for: a commit, a claim and their ways (`bench steps`)."""

CALLS: Final[Mapping[str, str]] = {call: step for step, call in forecast.CALLS.items()}
DECLARED: Final[Mapping[str, str]] = {
    **CALLS, **{call: step for step, call in WINDOWS_CALLS.items()}
}  # fmt: skip
"""The calls that a platform may declare a latency of, Windows' included; each with its step."""

HOOKS: Final[Mapping[str, str]] = {hook: step for step, hook in forecast.HOOKS.items()}
QUOTAS: Final = frozenset(name for names in NEEDS.values() for name in names)


# ── Durations, each with its source ──────────────────────────────────────────────────────────


class Durations:
    """Seconds per step; `told` says of every step that was asked for where they come from."""

    def __init__(self, timings: Timings, declared: Mapping[str, float]) -> None:
        self._timings = timings
        self._declared = declared
        self.told: dict[str, dict[str, Any]] = {}

    @property
    def windows(self) -> Mapping[str, bool]:
        """The VMs that are known to be Windows, each with whether it is validated."""
        return self._timings.windows

    def of(self, step: str) -> float:
        """The step of any VM."""
        return self._tell(step, step, self._timings.steps.get(step), self._declared.get(step))

    def of_plan(self, step: str) -> float:
        """A step of the plan itself."""
        name = step if step == BEGIN else f"plan-{step}"
        return self._tell(name, step, self._timings.plan_steps.get(step), None)

    def past_of_plan(self, step: str) -> float | None:
        """What a step of the plan itself took in the past; None where none had it."""
        return self._timings.plan_steps.get(step)

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
        machine_of(
            durations,
            name=vm.name,
            boot_order=vm.boot_order,
            boot_delay_s=vm.boot_delay_s,
            scripts=frozenset(HOOKS[hook] for hook in vm.recovery_scripts),
            windows=durations.windows.get(vm.name),
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
    windows: dict[str, bool] = {}
    for call in calls:
        vm = call["vm"]
        if call["call"] == "rebuild_disk":
            disks[vm] += 1
        elif call["call"] == "run_script":
            scripts[vm].add(HOOKS[call["hook"]])
        elif call["call"] == "power_on":
            ons[vm] = call
        elif call["call"] == "prepare_windows":
            windows.setdefault(vm, False)
        elif call["call"] == "validate_windows":
            windows[vm] = True
    machines = tuple(
        machine_of(
            durations,
            name=vm,
            boot_order=call["boot_order"],
            boot_delay_s=call["boot_delay_s"],
            boots_in_s=call.get("boots_in_s"),
            disks=disks[vm],
            scripts=frozenset(scripts[vm]),
            windows=windows.get(vm),
        )
        for vm, call in ons.items()
    )
    return _whole(header, machines, durations, build_ahead=build_ahead, early=early)


def machine_of(
    durations: Durations,
    *,
    name: str,
    boot_order: int,
    boot_delay_s: float,
    scripts: frozenset[str],
    disks: int = 1,
    boots_in_s: float | None = None,
    windows: bool | None = None,
    done: frozenset[str] = frozenset(),
    begun_s: float | None = None,
    on_s: float | None = None,
) -> Machine:
    """A VM to simulate. `windows`: whether it is validated; None: it is no Windows, as far as
    anybody knows. `done`, `begun_s` and `on_s` are of one that is under way."""
    ours = (*sorted(scripts), *CALLS.values(), *_windows_steps(windows))
    seconds = {step: durations.of(step) + HAND_OVER_S for step in ours}
    seconds[BOOT] = durations.boot(name, boots_in_s)
    return Machine(
        name=name,
        boot_order=boot_order,
        boot_delay_s=boot_delay_s,
        disks=disks,
        pre_script=forecast.PRE in scripts,
        post_script=forecast.POST in scripts,
        windows=windows is not None,
        validate=bool(windows),
        seconds=seconds,
        done=done,
        begun_s=begun_s,
        on_s=on_s,
    )


def _windows_steps(windows: bool | None) -> tuple[str, ...]:
    if windows is None:
        return ()
    steps = (forecast.PREP_NODE, forecast.PREPARE)
    return (*steps, forecast.VALIDATE) if windows else steps


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


def limits_of(
    site: str, budgets: Iterable[BudgetState], *, workers: int, seats: int | None = None
) -> tuple[Limit, ...]:
    """A site's limits as they stand at this moment, and our own effects under way at once.

    `seats`: Windows that its prep nodes prepare at once; None where nobody has counted them.
    """
    found = [Limit(name=WORKERS, concurrent=workers)]
    if seats is not None:
        found.append(Limit(name=PREP_NODES, concurrent=seats))
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
