"""What a site's prep pool is at a moment, and what must be done next about it.

Reconciler. Owns the state, its folding, and the rules: which nodes are wanted, who sits where,
what is out of order. What goes out into the world for it is `prep_pool`'s.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from schemas import prep as said
from schemas.common import Problem
from schemas.ids import stream_id
from schemas.scheduler import SiteRef
from shared.decider import Story

Power = Literal["on", "off", "unknown"]

NO_NODE: Final = Problem(
    code="no-prep-node",
    message="the recovery site has no prep node, which a Windows VM needs",
    remedy="declare one at the site (docs/windows.md), then recover the VM again",
)
ALL_DRAINED: Final = Problem(
    code="prep-nodes-drained",
    message="every prep node of the recovery site is drained",
    remedy="seawall node undrain NAME, then recover the VM again",
)


class Sitter(msgspec.Struct, frozen=True, kw_only=True):
    """A VM's recovery that needs a seat; `node` once it has one. `number`: who asked first."""

    stream: str
    ready: bool
    priority: int
    boot_order: int
    number: int
    node: str = ""
    story: Story = Story()


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A prep node. `doing` is what is under way, for the `turn`-th time; a node that `failed` to
    power on gets no work. `stuck`: powering it off failed for good and is asked for again."""

    name: str
    seats: int
    power: Power = "off"
    doing: Literal["", "on", "off"] = ""
    turn: int = 0
    failed: Problem | None = None
    stuck: bool = False

    @property
    def is_up(self) -> bool:
        """Whether it is on or is being powered on."""
        return self.doing == "on" or (self.power == "on" and not self.doing)


class PrepPool(msgspec.Struct, frozen=True, kw_only=True):
    """Who needs the nodes of a site, and how these are.

    `listed`: the nodes were listed since somebody needs them; `looking`: they are being listed
    for the `looks`-th time; `blind`: why they could not be.
    """

    site: SiteRef | None = None
    members: dict[str, Sitter] = {}
    nodes: dict[str, Node] = {}
    drained: tuple[str, ...] = ()
    looks: int = 0
    looking: bool = False
    listed: bool = False
    blind: Problem | None = None
    arrivals: int = 0


def pool_stream(site: str) -> str:
    """The stream of a site's prep pool."""
    return stream_id("prep-pool", site)


# ── Rules ────────────────────────────────────────────────────────────────────────────────────


def next_move(state: PrepPool) -> Any:
    """The next fact that the rules demand, None where all is in order.

    In this order: who cannot be served is refused, who can sits down, nodes follow. Nothing moves
    while the nodes are being listed.
    """
    if state.looking:
        return None
    waiting = [member for member in state.members.values() if not member.node]
    if waiting and (problem := _hopeless(state)) is not None:
        return said.PrepMemberLeft(stream=waiting[0].stream, problem=problem)
    ready = [member for member in waiting if member.ready]
    if ready and (free := _free_node(state)):
        first = min(ready, key=lambda each: (each.priority, each.boot_order, each.number))
        return said.PrepSeatGiven(stream=first.stream, node=free)
    needed = wanted(state)
    for node in state.nodes.values():
        to: Literal["on", "off"] = "on" if node.name in needed else "off"
        if not node.doing and node.power != to:
            return said.PrepNodeTurned(node=node.name, to=to, turn=node.turn + 1)
    return None


def wanted(state: PrepPool) -> frozenset[str]:
    """The nodes that are to be on: those that somebody sits on, and room for all who wait.

    Those that are up already go first. While the nodes are being listed, all stay as they are.
    """
    if state.looking:
        return frozenset(node.name for node in state.nodes.values() if node.is_up)
    needed = {member.node for member in state.members.values() if member.node}
    short = sum(1 for member in state.members.values() if not member.node)
    usable = _usable(state)
    short -= sum(_room(state, node) for node in usable if node.name in needed)
    for node in sorted(usable, key=lambda each: not each.is_up):
        if short <= 0:
            break
        if node.name not in needed:
            needed.add(node.name)
            short -= node.seats
    return frozenset(needed)


def _usable(state: PrepPool) -> list[Node]:
    return [
        node
        for node in state.nodes.values()
        if node.seats > 0 and node.failed is None and node.name not in state.drained
    ]


def _hopeless(state: PrepPool) -> Problem | None:
    """Why nobody who waits can ever sit down as things are; None where somebody can."""
    if state.blind is not None:
        return state.blind
    if _usable(state):
        return None
    failures = [node.failed for node in state.nodes.values() if node.failed is not None]
    if failures:
        return failures[0]
    return ALL_DRAINED if any(node.seats for node in state.nodes.values()) else NO_NODE


def _free_node(state: PrepPool) -> str:
    for node in _usable(state):
        if node.power == "on" and not node.doing and _room(state, node) > 0:
            return node.name
    return ""


def _room(state: PrepPool, node: Node) -> int:
    taken = sum(1 for member in state.members.values() if member.node == node.name)
    return max(0, node.seats - taken)


# ── Folding ──────────────────────────────────────────────────────────────────────────────────


def evolve(state: PrepPool, event: Any) -> PrepPool:
    """Apply one fact."""
    replace = msgspec.structs.replace
    match event:
        case said.PrepMemberJoined():
            return _joined(state, event)
        case said.PrepMemberReady():
            return _with_member(state, event.stream, ready=True)
        case said.PrepSeatGiven():
            return _with_member(state, event.stream, node=event.node)
        case said.PrepMemberLeft():
            left = {s: each for s, each in state.members.items() if s != event.stream}
            if left:
                return replace(state, members=left)
            return replace(state, members=left, listed=False, blind=None)
        case said.PrepNodesListed():
            return _listed(state, event)
        case said.PrepNodeTurned():
            return _with_node(state, event.node, doing=event.to, turn=event.turn)
        case said.PrepNodeSettled():
            return _settled(state, event)
        case said.PrepNodeDrained():
            others = tuple(name for name in state.drained if name != event.node)
            if event.drained:
                return replace(state, drained=(*others, event.node))
            state = replace(state, drained=others)
            known = event.node in state.nodes
            return _with_node(state, event.node, failed=None) if known else state
        case said.PrepNodeTroubled():
            return state
    raise AssertionError(f"{type(event).__name__} is no event of a prep pool")


def _joined(state: PrepPool, event: said.PrepMemberJoined) -> PrepPool:
    member = Sitter(
        stream=event.stream,
        ready=event.ready,
        priority=event.priority,
        boot_order=event.boot_order,
        number=state.arrivals,
        story=Story(correlation_id=event.correlation_id, traceparent=event.traceparent),
    )
    look = not state.listed and not state.looking
    return msgspec.structs.replace(
        state,
        site=event.site,
        members={**state.members, event.stream: member},
        arrivals=state.arrivals + 1,
        looks=state.looks + look,
        looking=state.looking or look,
        blind=None if look else state.blind,
    )


def _listed(state: PrepPool, event: said.PrepNodesListed) -> PrepPool:
    """A node that is not listed any more is kept until it is off and nobody sits there."""
    state = msgspec.structs.replace(state, looking=False)
    if event.problem is not None:
        return msgspec.structs.replace(state, blind=event.problem)
    nodes: dict[str, Node] = {}
    for found in event.nodes:
        before = state.nodes.get(found.name, Node(name=found.name, seats=found.seats))
        # Of what is under way we hear ourselves, later than the listing looked.
        power = before.power if before.doing else found.power
        nodes[found.name] = msgspec.structs.replace(
            before, seats=found.seats, power=power, failed=None
        )
    seated = {member.node for member in state.members.values()}
    for name, node in state.nodes.items():
        if name not in nodes and (node.doing or node.power != "off" or name in seated):
            nodes[name] = msgspec.structs.replace(node, seats=0)
    return msgspec.structs.replace(state, nodes=nodes, listed=bool(state.members), blind=None)


def _settled(state: PrepPool, event: said.PrepNodeSettled) -> PrepPool:
    turned_on = state.nodes[event.node].doing == "on"
    return _with_node(
        state,
        event.node,
        doing="",
        power=event.power,
        failed=event.problem if turned_on else state.nodes[event.node].failed,
        stuck=event.problem is not None and not turned_on,
    )


def _with_member(state: PrepPool, stream: str, **changes: Any) -> PrepPool:
    changed = msgspec.structs.replace(state.members[stream], **changes)
    return msgspec.structs.replace(state, members={**state.members, stream: changed})


def _with_node(state: PrepPool, name: str, **changes: Any) -> PrepPool:
    changed = msgspec.structs.replace(state.nodes[name], **changes)
    return msgspec.structs.replace(state, nodes={**state.nodes, name: changed})
