"""Instances that VMs run as and are replicated from: what recoveries know of each other's.

A recovery knows which of its instances are sources (*taken*), and which VMs went back to their
own site since (*freed*); a later recovery of the same VMs knows what it shuts down (*named*).
Rules over a recovery's state; which way a VM is replicated is the scheduler's fact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from schemas import directions as said
from schemas.directions import SourceInstance, in_parts
from schemas.envelope import Received
from schemas.scheduler import ReturnVms
from services.recovery.domain.operations import of
from services.recovery.domain.recovery_state import Recovery, told
from shared.decider import NOTHING, Decision, Send


def name_sources(state: Recovery, received: Received) -> Decision:
    """What VMs run as whose sources this recovery will shut down."""
    m: said.NameSources = received.body
    if state.started is not None or all(each.vm in state.instances for each in m.sources):
        return NOTHING
    return Decision(events=(said.SourcesNamed(sources=m.sources),))


def take(state: Recovery, received: Received) -> Decision:
    """A reversal turned VMs: what this recovery made of them is in production, as their source."""
    m: said.TakeInstances = received.body
    if state.started is None or set(m.vms) <= state.window.taken:
        return NOTHING
    return Decision(events=(said.InstancesTaken(by=m.by, vms=m.vms),))


def free(state: Recovery, received: Received) -> Decision:
    """VMs run elsewhere for good: what this recovery made of them is of no further use."""
    m: said.FreeInstances = received.body
    if state.started is None or not set(m.vms) & state.window.taken:
        return NOTHING
    return Decision(events=(said.InstancesFreed(by=m.by, vms=m.vms, home=m.home),))


def committed(
    state: Recovery, *, commit: str, without: tuple[str, ...] = ()
) -> tuple[tuple[Any, ...], tuple[Send, ...]]:
    """What a commit means for sources, old and new: facts of this recovery, and messages.

    Sent before the recovery gives its holds back. VMs that it leaves out are where they were, and
    replicated from there: of a failback in reverse. What they run as is shut down.
    """
    start = told(state)
    ready = [vm for vm, member in state.members.items() if member.outcome == "ready"]
    events: list[Any] = []
    sends: list[Send] = []
    turns = of(start.mode).turns
    if turns:
        made = (SourceInstance(vm, state.members[vm].instance_id, start.job) for vm in ready)
        for part in in_parts(made):
            turn = said.TurnVms(plan=start.plan, job=start.job, sources=part)
            sends.append(Send(to="scheduler", key=start.plan, message=turn))
            names = tuple(source.vm for source in part)
            events.append(said.InstancesTaken(by=commit, vms=names))
    if turns or without:
        # Said of a failback in any case: a VM that turned is not there to be returned.
        rest = ReturnVms(plan=start.plan, job=start.job, vms=without)
        sends.append(Send(to="scheduler", key=start.plan, message=rest))
    for message in _freed(state, ready, commit=commit, home=turns):
        sends.append(Send(to="recovery", key=start.plan, message=message))
    return tuple(events), tuple(sends)


def _freed(
    state: Recovery, ready: Iterable[str], *, commit: str, home: bool
) -> Iterator[said.FreeInstances]:
    sources = (state.instances[vm] for vm in ready if vm in state.instances)
    for recovery, vms in by_maker(sources):
        yield said.FreeInstances(recovery=recovery, by=commit, vms=vms, home=home)


def by_maker(sources: Iterable[SourceInstance]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The VMs of each recovery that made instances, as many at a time as one message names."""
    made: dict[str, list[SourceInstance]] = {}
    for source in sources:
        made.setdefault(source.made_by, []).append(source)
    for recovery, its in made.items():
        for part in in_parts(its):
            yield recovery, tuple(source.vm for source in part)
