"""Which plans come before a plan: the transitive closure of `after`, in an order that works.

Pure. Refuses, with names, plans that do not exist, circles, and groups too large for one job.
Asked when a plan is applied and again when it is recovered: plans go and change in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from schemas.plans import PlanDefinition
from services.scheduler.domain.names import plan_stream
from services.scheduler.domain.plan import Plan
from shared.errors import Refused

PLANS_MAX: Final = 200
"""Plans of one group: with names of 63 letters and a few prerequisites each they fit a message."""


def plans_named(states: Mapping[str, Any]) -> tuple[str, ...]:
    """The streams of the plans that the plans among `states` come after."""
    plans = [state for state in states.values() if isinstance(state, Plan)]
    if len(plans) > PLANS_MAX:
        # Enough to refuse: what is not read counts as one too many.
        return ()
    after = (name for plan in plans if plan.header is not None for name in plan.header.after)
    return tuple(dict.fromkeys(map(plan_stream, after)))


def order_of(
    states: Mapping[str, Any], plan: str, *, after: tuple[str, ...] | None = None, code: str
) -> tuple[str, ...]:
    """The plan and everything it comes after, each behind all that it needs itself.

    `after` stands for the plan's own where a definition is not applied yet. Depth first, in the
    order written: the same plans always give the same order. Raises Refused with `code`.
    """
    done: dict[str, None] = {}
    path: list[str] = []
    # Iterative, so that a long chain of plans is no deep recursion.
    todo: list[tuple[str, bool]] = [(plan, False)]
    while todo:
        name, left = todo.pop()
        if left:
            path.pop()
            done[name] = None
            continue
        if name in done:
            continue
        if name in path:
            raise _circle([*path[path.index(name) :], name], code)
        path.append(name)
        todo.append((name, True))
        own = after if name == plan and after is not None else _after_of(states, path, code)
        todo += [(other, False) for other in reversed(own)]
        if len(done) + len(path) > PLANS_MAX:
            raise _too_many(plan, code)
    return tuple(done)


def check_after(states: Mapping[str, Any], definition: PlanDefinition) -> None:
    """Refuse a definition whose `after` names plans that are not there, or closes a circle."""
    if definition.after:
        order_of(states, definition.name, after=definition.after, code="invalid")


def _after_of(states: Mapping[str, Any], path: list[str], code: str) -> tuple[str, ...]:
    name = path[-1]
    state: Plan | None = states.get(plan_stream(name))
    if state is None:
        raise _too_many(path[0], code)
    if state.header is None:
        by = f"{path[-2]!r} comes after {name!r}" if len(path) > 1 else repr(name)
        raise Refused(
            f"no plan is named {name!r}: {by}",
            code=code,
            remedy="apply that plan first, or take it out of `after`",
        )
    return state.header.after


def _too_many(plan: str, code: str) -> Refused:
    return Refused(
        f"more than {PLANS_MAX} plans come before {plan!r}",
        code=code,
        remedy="recover them in parts",
    )


def _circle(names: list[str], code: str) -> Refused:
    shown = " after ".join(names[:20]) + (" …" if len(names) > 20 else "")
    return Refused(
        f"plans come after one another in a circle: {shown}",
        code=code,
        remedy="take one of them out of the other's `after`",
    )
