"""The prep nodes of a site: on while a Windows VM of any recovery needs one, else off.

Reconciler. Decides when nodes are powered and who has a seat where. Does not decide what is done
on a node nor what a refusal means for a VM (`vm_recovery`). Decision 0040.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import msgspec

from schemas import prep as said
from schemas.common import Problem
from schemas.envelope import Received
from schemas.ids import key_of
from schemas.recovery_work import ListPrepNodes, PowerPrepNode, PrepNodesFound
from services.recovery.domain.prep_state import (
    PrepPool,
    evolve,
    next_move,
    pool_stream,
    wanted,
)
from services.recovery.domain.work import recovery_effect
from shared.decider import (
    NOTHING,
    Decision,
    Effect,
    EffectOutcome,
    EffectTrouble,
    Family,
    Send,
)

PRIORITY: Final = 1
"""A node that is slow to come keeps every VM of a recovery waiting."""

AGAIN_AFTER: Final = dt.timedelta(minutes=10)
"""Powering off has no last failure: where its retries end all the same, it is asked for again."""


# ── Messages ─────────────────────────────────────────────────────────────────────────────────


def take(state: PrepPool, received: Received) -> Decision:
    """A VM's recovery will need a seat soon, or needs it now."""
    m: said.TakeSeat = received.body
    member = state.members.get(m.stream)
    if member is None:
        joined = said.PrepMemberJoined(
            site=m.site,
            stream=m.stream,
            ready=m.ready,
            priority=m.priority,
            boot_order=m.boot_order,
            correlation_id=received.meta.correlation_id,
            traceparent=received.meta.traceparent,
        )
        return _step(state, joined, received.at)
    if m.ready and not member.ready:
        return _step(state, said.PrepMemberReady(stream=m.stream), received.at)
    return NOTHING


def leave(state: PrepPool, received: Received) -> Decision:
    """It needs none any more: prepared, failed, cancelled."""
    m: said.LeaveSeat = received.body
    member = state.members.get(m.stream)
    if member is None:
        return NOTHING
    return _step(state, said.PrepMemberLeft(stream=m.stream, node=member.node), received.at)


def drain(state: PrepPool, received: Received) -> Decision:
    """A person takes a node out of work, once those that sit there are done, or back into it."""
    m: said.DrainNode = received.body
    node = state.nodes.get(m.node)
    failed = node is not None and node.failed is not None and not m.drained
    if m.drained is (m.node in state.drained) and not failed:
        return NOTHING
    return _step(state, said.PrepNodeDrained(node=m.node, drained=m.drained), received.at)


def outcome(state: PrepPool, received: Received) -> Decision:
    """The nodes were listed, or one was powered."""
    ended: EffectOutcome = received.body
    what, _, rest = ended.part.partition("/")
    if what == "look":
        if not state.looking or rest != str(state.looks):
            return NOTHING
        return _step(state, _listed(state, ended), received.at)
    name, _, turn = rest.rpartition("/")
    node = state.nodes.get(name)
    if node is None or not node.doing or (what, turn) != (node.doing, str(node.turn)):
        return NOTHING
    cancelled = ended.code == "cancelled"
    settled = said.PrepNodeSettled(
        node=name,
        turn=node.turn,
        power=node.doing if ended.ok else "unknown",
        problem=None if ended.ok or cancelled else _problem(ended, f"prep node {name}"),
    )
    return _step(state, settled, received.at)


def trouble(state: PrepPool, received: Received) -> Decision:
    """A node does not go off: people are told, and it goes on."""
    body: EffectTrouble = received.body
    what, _, rest = body.part.partition("/")
    name = rest.rpartition("/")[0]
    if what != "off" or name not in state.nodes or state.site is None:
        return NOTHING
    problem = Problem(
        code=body.code or "step-failed",
        message=f"powering off prep node {name}: {body.error}",
        remedy=body.remedy,
    )
    return Decision(
        events=(
            said.PrepNodeTroubled(
                site=state.site.site, node=name, attempts=body.attempts, problem=problem
            ),
        )
    )


# ── From facts to decisions ──────────────────────────────────────────────────────────────────


def _listed(state: PrepPool, ended: EffectOutcome) -> said.PrepNodesListed:
    if not ended.ok:
        return said.PrepNodesListed(
            look=state.looks, problem=_problem(ended, "listing the prep nodes of the site")
        )
    found: PrepNodesFound = ended.result
    return said.PrepNodesListed(look=state.looks, nodes=found.nodes)


def _problem(ended: EffectOutcome, what: str) -> Problem:
    return Problem(
        code=ended.code or "step-failed",
        message=f"{what}: {ended.error}",
        remedy=ended.remedy or "look at the recovery site, then recover the VM again",
    )


def _step(state: PrepPool, event: Any, now: dt.datetime) -> Decision:
    """The decision that goes with a fact: all that the rules demand after it."""
    events: list[Any] = []
    effects: list[Effect] = []
    sends: list[Send] = []
    after = state
    move = event
    while move is not None:
        if isinstance(move, said.PrepNodeTurned):
            effects.append(_power(after, move, now))
        sends += _news(after, move)
        events.append(move)
        after = evolve(after, move)
        move = next_move(after)
    if after.looks > state.looks:
        effects.append(_look(after, now))
    return Decision(
        events=tuple(events),
        effects=tuple(effects),
        cancel_effects=tuple(sorted(_contrary(after) - _contrary(state))),
        sends=tuple(sends),
    )


def _contrary(state: PrepPool) -> frozenset[str]:
    """Parts under way that nobody wants any more. Their ends are heard, whatever they were."""
    needed = wanted(state)
    return frozenset(
        _part(node.doing, node.name, node.turn)
        for node in state.nodes.values()
        if node.doing and (node.doing == "on") is not (node.name in needed)
    )


def _news(state: PrepPool, event: Any) -> tuple[Send, ...]:
    """What a VM's recovery is told: in its own story, the steps of a pool are of many."""
    message: Any = None
    if isinstance(event, said.PrepSeatGiven):
        message = said.SeatGranted(stream=event.stream, node=event.node)
    elif isinstance(event, said.PrepMemberLeft) and event.problem is not None:
        message = said.SeatRefused(stream=event.stream, problem=event.problem)
    if message is None:
        return ()
    story = state.members[event.stream].story
    return (Send(to="recovery", key=key_of(event.stream), message=message, story=story),)


def _part(what: str, node: str, turn: int) -> str:
    return f"{what}/{node}/{turn}"


def _look(state: PrepPool, now: dt.datetime) -> Effect:
    part = f"look/{state.looks}"
    return _effect(state, part, "list-prep-nodes", ListPrepNodes, now)


def _power(state: PrepPool, move: said.PrepNodeTurned, now: dt.datetime) -> Effect:
    part = _part(move.to, move.node, move.turn)
    effect = _effect(state, part, f"power-{move.to}-node", PowerPrepNode, now, node=move.node)
    if move.to == "off" and state.nodes[move.node].stuck:
        return msgspec.structs.replace(effect, not_before=now + AGAIN_AFTER)
    return effect


def _effect(
    state: PrepPool, part: str, kind: str, payload: Any, now: dt.datetime, **fields: Any
) -> Effect:
    assert state.site is not None, "somebody asked for a seat at it"
    site = state.site
    return recovery_effect(
        part,
        kind,
        payload(site=site, plan="", job=pool_stream(site.site), **fields),
        site=site.site,
        plan="",
        due=now,
        priority=PRIORITY,
    )


FAMILY = Family(
    name="prep-pool",
    state=PrepPool,
    initial=PrepPool,
    evolve=evolve,
    is_terminal=lambda state: False,
    outcome=outcome,
    trouble=trouble,
)
