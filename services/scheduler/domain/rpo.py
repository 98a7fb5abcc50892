"""The RPO of one VM: when its newest copy gets too old, and when a fresh one ends that.

Reconciler: one timer per VM with a target, set again with every new copy.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from schemas.envelope import Received
from schemas.scheduler import RpoBreached, RpoDue, RpoRestored, VmProtected
from services.scheduler.domain.protected_vm import ProtectedVm
from shared.decider import NEW_STORY, NOTHING, Decision, Timer

RPO_TIMER: Final = "rpo"


def rpo_due(state: ProtectedVm, received: Received) -> Decision:
    """The target's time is over, unless a newer copy came meanwhile."""
    setup = state.setup
    if setup is None or not state.protected or state.rpo_breached or state.moved:
        return NOTHING
    events, timers = judge_rpo(
        setup, newest=state.last_checkpoint_at, breached=False, now=received.at
    )
    return Decision(events=events, timers=timers)


def judge_rpo(
    setup: VmProtected, *, newest: dt.datetime | None, breached: bool, now: dt.datetime
) -> tuple[tuple[Any, ...], tuple[Timer, ...]]:
    """What changes about the breach, and the timer to look again; a breach needs no timer.

    `newest` is the moment of the newest copy's source snapshot. A VM that never had a copy is
    counted from the moment it was protected.
    """
    since = newest if newest is not None else setup.protected_at
    if setup.rpo_s is None or since is None:
        events = (RpoRestored(plan=setup.plan, vm=setup.vm),) if breached else ()
        return events, ()
    due = since + dt.timedelta(seconds=setup.rpo_s)
    if due > now:
        events = (RpoRestored(plan=setup.plan, vm=setup.vm),) if breached else ()
        return events, (Timer(name=RPO_TIMER, due=due, message=_LOOK, story=NEW_STORY),)
    if breached:
        return (), ()
    breach = RpoBreached(
        plan=setup.plan, vm=setup.vm, target_s=setup.rpo_s, last_checkpoint_at=newest
    )
    return (breach,), ()


_LOOK: Final = RpoDue()
