"""What a simulated recovery spends its time on: the limit, step or delay that binds. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from shared.forecast.plan import BEGIN, BOOT_DELAY, STEPS, OrderForecast, PhaseForecast

SCRIPTS = "plan-scripts"


class Served(NamedTuple):
    """A part of a step: when it could start, started and ended, and which limit it waited for."""

    step: str
    ready_s: float
    starts_s: float
    ends_s: float
    waited_for: str


def order_binding(served: Sequence[Served], *, opens_s: float, held_s: float) -> tuple[str, float]:
    """What the last VM of a boot order spends most on after the order opened.

    `held_s` is the wait for boot delays before the next order opens. Of the parts of one step
    that run side by side only the one that ends last counts.
    """
    spent: dict[str, float] = defaultdict(float)
    last: dict[str, Served] = {}
    for each in served:
        if each.step not in last or each.ends_s >= last[each.step].ends_s:
            last[each.step] = each
    for each in last.values():
        waited_s = each.starts_s - max(each.ready_s, opens_s)
        if waited_s > 0 and each.waited_for:
            spent[each.waited_for] += waited_s
        spent[each.step] += max(each.ends_s - max(each.starts_s, opens_s), 0.0)
    if 0 < held_s < math.inf:
        spent[BOOT_DELAY] += held_s
    return _largest(spent)


def phases_of(served: Sequence[Served]) -> tuple[PhaseForecast, ...]:
    """One line per kind of step that happened, in the order of steps."""
    by_step: dict[str, list[Served]] = defaultdict(list)
    for each in served:
        by_step[each.step].append(each)
    return tuple(_phase(step, by_step[step]) for step in STEPS if step in by_step)


def _phase(step: str, served: Sequence[Served]) -> PhaseForecast:
    waited: dict[str, float] = defaultdict(float)
    for each in served:
        if each.waited_for:
            waited[each.waited_for] += each.starts_s - each.ready_s
    worked_s = sum(each.ends_s - each.starts_s for each in served)
    binds, waited_s = _largest(waited)
    return PhaseForecast(
        step=step,
        calls=len(served),
        starts_s=min(each.starts_s for each in served),
        ends_s=max(each.ends_s for each in served),
        waited_s_max=max(each.starts_s - each.ready_s for each in served),
        binds=binds if waited_s > worked_s else step,
    )


def binding_of(
    orders: Sequence[OrderForecast], *, begin_s: float, scripts_s: float
) -> tuple[str, float]:
    """What binds the recovery as a whole: what its orders spend most on, one after the other."""
    spent: dict[str, float] = defaultdict(float)
    spent[BEGIN] += begin_s
    spent[SCRIPTS] += scripts_s
    for order in orders:
        spent[order.binds] += order.binds_s
    return _largest(spent)


def _largest(spent: Mapping[str, float]) -> tuple[str, float]:
    """The largest entry, the first of equals by name; nothing where there is none."""
    if not spent:
        return "", 0.0
    name = min(spent, key=lambda each: (-spent[each], each))
    return name, spent[name]
