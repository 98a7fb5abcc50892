"""The event simulation of a recovery: every step of every VM, on one clock, in O(n log n).

Decides what the recovery service and its work queue would do: boot orders open when the one before
is ready and past its boot delays, VMs build ahead, a limit serves lower boot orders first. Where
VMs differ, work done later in one place may end sooner in another, as in any queue: the forecast
is monotone in durations for VMs that are alike. Left out are failures, repeats, and the release of
held copies, for which nobody waits.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from shared.forecast.binding import Served, binding_of, order_binding, phases_of
from shared.forecast.limits import Limit, Resource, needed_of, resources_of
from shared.forecast.plan import (
    BEGIN,
    BOOT,
    CREATE,
    HOLD,
    NEEDS,
    OURS,
    POST,
    POWER_ON,
    PRE,
    PREP_NODE,
    PREPARE,
    REBUILD,
    STEPS,
    VALIDATE,
    WORKERS,
    Forecast,
    Machine,
    OrderForecast,
    Plan,
    PlannedCall,
)

_ROUNDING_S: Final = 1e-9
_WAITS: Final = frozenset({PREP_NODE, BOOT})
"""Steps that nobody calls for: they are waited for."""

_WINDOWS: Final = frozenset({PREP_NODE, PREPARE, VALIDATE})


def simulate(plan: Plan, limits: Iterable[Limit] = ()) -> Forecast:
    """The recovery of a plan within limits, as they stand at its beginning."""
    return _Simulation(plan, limits).run()


def floor_of(plan: Plan, limits: Iterable[Limit] = ()) -> Forecast:
    """The same recovery by an engine and a platform whose calls cost no time: only boot orders,
    delays, boot times, scripts and the site's limits are left. No recovery of it is faster."""
    bare = msgspec.structs.replace(
        plan, begin_s=0.0, machines=tuple(_without_calls(each) for each in plan.machines)
    )
    return simulate(bare, (limit for limit in limits if limit.name != WORKERS))


def _without_calls(machine: Machine) -> Machine:
    kept = {step: seconds for step, seconds in machine.seconds.items() if step not in OURS}
    return msgspec.structs.replace(machine, seconds=kept)


class _Lane:
    """Work that spends the same limits, lower boot orders first, then as it became ready."""

    def __init__(self, needs: tuple[Resource, ...]) -> None:
        self.needs = needs
        self.queue: list[tuple[int, int, _Run, int]] = []
        self.blocked_by = ""
        self.wakes_at = -1.0

    def free_at(self, now: float) -> float:
        """When its first may start; remembers what keeps it from starting now."""
        latest = now
        for need in self.needs:
            free = need.free_at(now)
            if free > latest:
                latest, self.blocked_by = free, need.name
        return latest


class _Run:
    """One VM on its way."""

    __slots__ = (
        "at", "gate", "is_begun", "left", "machine", "open", "rank", "ready_at", "served", "steps",
    )  # fmt: skip

    def __init__(self, machine: Machine, rank: int, plan: Plan) -> None:
        self.machine = machine
        self.rank = rank
        self.steps = _steps_of(machine)
        self.gate = _gate_of(machine, self.steps, plan)
        # Its first step had begun before the simulation did: it has its limits already.
        self.is_begun = machine.begun_s is not None
        self.open = False
        self.at = 0
        self.left = 0
        self.ready_at = 0.0
        self.served: list[Served] = []


def _steps_of(machine: Machine) -> tuple[str, ...]:
    """The steps that it has and that are not over."""
    absent = machine.done if machine.pre_script else machine.done | {PRE}
    if not machine.post_script:
        absent |= {POST}
    if not machine.windows:
        absent |= _WINDOWS
    elif not machine.validate:
        absent |= {VALIDATE}
    return _without(absent)


@functools.cache
def _without(absent: frozenset[str]) -> tuple[str, ...]:
    """The steps but for some; of thousands of VMs few differ."""
    return tuple(step for step in STEPS if step not in absent)


def _gate_of(machine: Machine, steps: Sequence[str], plan: Plan) -> int:
    """The first step that waits for the VM's boot order."""
    if machine.pre_script or not plan.build_ahead:
        return 0
    first = STEPS.index(POWER_ON if plan.early else CREATE)
    return next((n for n, step in enumerate(steps) if STEPS.index(step) >= first), len(steps))


class _Order:
    """One boot order; `left` VMs of it are not ready yet."""

    def __init__(self, number: int, runs: list[_Run]) -> None:
        self.number = number
        self.runs = runs
        self.left = sum(BOOT in run.steps for run in runs)
        self.opens_s = math.inf
        self.first_on_s = math.inf
        self.last_on_s = 0.0
        self.not_before_s = 0.0
        self.ready_s = math.inf
        self.last: _Run | None = None


class _Simulation:
    def __init__(self, plan: Plan, limits: Iterable[Limit]) -> None:
        self._plan = plan
        resources = resources_of(limits)
        self._lanes: dict[tuple[str, ...], _Lane] = {}
        self._lane_of: dict[str, _Lane | None] = {}
        for step, names in NEEDS.items():
            needs = needed_of(names, resources)
            key = tuple(need.name for need in needs)
            self._lane_of[step] = self._lanes.setdefault(key, _Lane(needs)) if needs else None
        self._events: list[tuple[float, int, _Run | None, bool]] = []
        self._number = 0
        self._calls: list[PlannedCall] = []
        ranks = {n: rank for rank, n in enumerate(sorted({m.boot_order for m in plan.machines}))}
        runs = [_Run(machine, ranks[machine.boot_order], plan) for machine in plan.machines]
        by_rank: list[list[_Run]] = [[] for _ in ranks]
        for run in runs:
            by_rank[run.rank].append(run)
        self._orders = [_Order(number, by_rank[rank]) for number, rank in ranks.items()]
        self._next = 0
        self._ended = 0
        self._nodes_on_s = math.inf

    def run(self) -> Forecast:
        """Play all events; ends when nothing can happen any more."""
        begin_s = self._plan.begin_s + self._plan.pre_script_s
        self._resume(begin_s)
        for order in self._orders:
            for run in order.runs:
                self._advance(run, begin_s)
        self._open_next(begin_s)
        self._grant(begin_s)
        last_s = begin_s
        while self._events:
            now = self._events[0][0]
            while self._events and self._events[0][0] <= now:
                _, _, whose, opens = heapq.heappop(self._events)
                if whose is not None:
                    self._part_ended(whose, now)
                    last_s = now
                elif opens:
                    self._open_next(now)
            self._grant(now)
        return self._found(last_s)

    # -- boot orders --------------------------------------------------------------------------

    def _open_next(self, now: float) -> None:
        if self._next == len(self._orders):
            return
        order = self._orders[self._next]
        self._next += 1
        order.opens_s = now
        for run in order.runs:
            waits = run.at == run.gate and not run.left
            run.open = True
            if waits:
                self._advance(run, now)
        if not order.left:  # all its VMs were up before the simulation began
            self._order_ready(order, now)

    def _resume(self, now: float) -> None:
        """What has happened already to VMs that are under way."""
        for order in self._orders:
            for run in order.runs:
                machine = run.machine
                if machine.on_s is not None:
                    self._powered_on(run, now - machine.on_s)
                if machine.windows and HOLD in machine.done:
                    self._need_nodes(run, now)

    def _need_nodes(self, run: _Run, now: float) -> None:
        """The prep nodes are on so long after the first Windows is known to be one."""
        if self._nodes_on_s == math.inf:
            self._nodes_on_s = now + run.machine.seconds.get(PREP_NODE, 0.0)

    def _powered_on(self, run: _Run, now: float) -> None:
        order = self._orders[run.rank]
        order.first_on_s = min(order.first_on_s, now)
        order.last_on_s = max(order.last_on_s, now)
        order.not_before_s = max(order.not_before_s, now + run.machine.boot_delay_s)

    def _is_ready(self, run: _Run, now: float) -> None:
        order = self._orders[run.rank]
        order.left -= 1
        order.last = run
        if not order.left and order.opens_s <= now:
            self._order_ready(order, now)

    def _order_ready(self, order: _Order, now: float) -> None:
        order.ready_s = now
        if self._next < len(self._orders):
            self._at(max(now, order.not_before_s), None, opens=True)

    # -- VMs ----------------------------------------------------------------------------------

    def _advance(self, run: _Run, now: float) -> None:
        """Have the VM's next step wait for its limits, unless it waits for its boot order."""
        if run.at == len(run.steps):
            self._ended += 1
            return
        if run.at >= run.gate and not run.open:
            return
        step = run.steps[run.at]
        run.ready_at = now
        run.left = run.machine.disks if step == REBUILD else 1
        if not run.left:  # a VM without disks
            self._step_ended(run, now)
            return
        lane = None if run.is_begun else self._lane_of.get(step)
        for part in range(run.left):
            if lane is None:
                self._start(run, part, now, "")
            else:
                self._number += 1
                heapq.heappush(lane.queue, (run.rank, self._number, run, part))

    def _start(self, run: _Run, part: int, now: float, waited_for: str) -> None:
        step = run.steps[run.at]
        ends_s = now + run.machine.seconds.get(step, 0.0)
        if step == PREP_NODE:
            ends_s = max(now, self._nodes_on_s)
        elif run.is_begun:
            ends_s = max(ends_s - (run.machine.begun_s or 0.0), now)
        run.served.append(Served(step, run.ready_at, now, ends_s, waited_for))
        if step not in _WAITS:
            self._calls.append(PlannedCall(at_s=now, step=step, vm=run.machine.name, part=part))
        self._at(ends_s, run)

    def _part_ended(self, run: _Run, now: float) -> None:
        lane = None if run.is_begun else self._lane_of.get(run.steps[run.at])
        for need in lane.needs if lane is not None else ():
            need.give_back()
        run.left -= 1
        if not run.left:
            self._step_ended(run, now)

    def _step_ended(self, run: _Run, now: float) -> None:
        step = run.steps[run.at]
        run.at += 1
        run.is_begun = False
        if step == HOLD and run.machine.windows:
            self._need_nodes(run, now)
        elif step == POWER_ON:
            self._powered_on(run, now)
        elif step == BOOT:
            self._is_ready(run, now)
        self._advance(run, now)

    # -- limits -------------------------------------------------------------------------------

    def _grant(self, now: float) -> None:
        """Start everything that may start now, lower boot orders first; wake when more may."""
        while True:
            chosen: _Lane | None = None
            for lane in self._lanes.values():
                if not lane.queue:
                    continue
                if (free_s := lane.free_at(now)) > now + _ROUNDING_S:
                    if free_s < math.inf and lane.wakes_at != free_s:
                        lane.wakes_at = free_s
                        self._at(free_s, None)
                elif chosen is None or lane.queue[0] < chosen.queue[0]:
                    chosen = lane
            if chosen is None:
                return
            _, _, run, part = heapq.heappop(chosen.queue)
            for need in chosen.needs:
                need.take(now)
            self._start(run, part, now, chosen.blocked_by if now > run.ready_at else "")

    def _at(self, when: float, run: _Run | None, *, opens: bool = False) -> None:
        """Something happens then: a part of the run ends, a boot order opens, or limits allow."""
        self._number += 1
        heapq.heappush(self._events, (when, self._number, run, opens))

    # -- what was found -----------------------------------------------------------------------

    def _found(self, last_s: float) -> Forecast:
        stuck = self._ended < len(self._plan.machines)
        ready_s = max((order.ready_s for order in self._orders), default=last_s)
        total_s = math.inf if stuck else last_s + self._plan.post_script_s
        orders = tuple(self._order(rank) for rank in range(len(self._orders)))
        served = [each for order in self._orders for run in order.runs for each in run.served]
        binds, binds_s = binding_of(
            orders, begin_s=self._plan.begin_s,
            scripts_s=self._plan.pre_script_s + self._plan.post_script_s,
        )  # fmt: skip
        return Forecast(
            total_s=total_s,
            ready_s=ready_s,
            orders=orders,
            phases=phases_of(served),
            calls=tuple(self._calls),
            binds=binds if self._plan.machines else BEGIN,
            binds_s=binds_s,
        )

    def _order(self, rank: int) -> OrderForecast:
        order = self._orders[rank]
        following = self._orders[rank + 1].opens_s if rank + 1 < len(self._orders) else None
        held_s = 0.0 if following is None else following - order.ready_s
        last = order.last or order.runs[-1]
        binds, binds_s = order_binding(last.served, opens_s=order.opens_s, held_s=held_s)
        return OrderForecast(
            boot_order=order.number,
            vms=len(order.runs),
            opens_s=order.opens_s,
            first_on_s=order.first_on_s,
            last_on_s=order.last_on_s,
            ready_s=order.ready_s,
            binds=binds,
            binds_s=binds_s,
        )
