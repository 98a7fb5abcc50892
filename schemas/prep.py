"""What the recovery service says about prep nodes: seats asked for and given, nodes powered.

A VM's recovery asks the pool of its recovery site; the pool (`prep-pool:<site>`) powers nodes.
"""

from __future__ import annotations

from typing import Literal

from schemas.common import Command, Fact, Problem
from schemas.registry import published
from schemas.scheduler import SiteRef


class ListedNode(Fact, frozen=True, kw_only=True):
    """A prep node of a site, as listed."""

    name: str
    seats: int
    power: Literal["on", "off"] = "off"


# ── Messages ─────────────────────────────────────────────────────────────────────────────────


@published("recovery.take-seat")
class TakeSeat(Fact, frozen=True, kw_only=True):
    """Child to the site's prep pool: a Windows VM will need a seat soon or, `ready`, needs it now.

    Seats go by priority, then by boot order, then by who asked first.
    """

    site: SiteRef
    stream: str
    ready: bool
    priority: int = 3
    boot_order: int = 1


@published("recovery.leave-seat")
class LeaveSeat(Fact, frozen=True, kw_only=True):
    """Child to the site's prep pool: it needs no seat any more, whether it had one or not."""

    site: str
    stream: str


@published("recovery.seat-granted")
class SeatGranted(Fact, frozen=True, kw_only=True):
    """Pool to child: it has a seat on this node, which is on."""

    stream: str
    node: str


@published("recovery.seat-refused")
class SeatRefused(Fact, frozen=True, kw_only=True):
    """Pool to child: no node can serve it, for this reason. It waits no more."""

    stream: str
    problem: Problem


@published("recovery.drain-node")
class DrainNode(Command, frozen=True, kw_only=True):
    """A person keeps a prep node from new work, or lets it have some again (`drained` False)."""

    site: str
    node: str
    drained: bool = True


# ── Events of a VM's recovery ────────────────────────────────────────────────────────────────


@published("recovery.vm-seated")
class VmSeated(Fact, frozen=True, kw_only=True):
    """A prep node works on the VM's disks from now on."""

    node: str


# ── Events of a site's prep pool ─────────────────────────────────────────────────────────────


@published("recovery.prep-member-joined")
class PrepMemberJoined(Fact, frozen=True, kw_only=True):
    """A VM's recovery needs a seat soon, or now; the rest says in which story it waits."""

    site: SiteRef
    stream: str
    ready: bool
    priority: int = 3
    boot_order: int = 1
    correlation_id: str = ""
    traceparent: str = ""


@published("recovery.prep-member-ready")
class PrepMemberReady(Fact, frozen=True, kw_only=True):
    """Its disks are rebuilt: it needs its seat now."""

    stream: str


@published("recovery.prep-seat-given")
class PrepSeatGiven(Fact, frozen=True, kw_only=True):
    """A node works for it from now on."""

    stream: str
    node: str


@published("recovery.prep-member-left")
class PrepMemberLeft(Fact, frozen=True, kw_only=True):
    """It needs no seat any more; `node` is where it had one. With a `problem` it was refused."""

    stream: str
    node: str = ""
    problem: Problem | None = None


@published("recovery.prep-nodes-listed")
class PrepNodesListed(Fact, frozen=True, kw_only=True):
    """What the site has for prep nodes, or why it could not say."""

    look: int
    nodes: tuple[ListedNode, ...] = ()
    problem: Problem | None = None


@published("recovery.prep-node-turned")
class PrepNodeTurned(Fact, frozen=True, kw_only=True):
    """A node is being powered on, or off, for the `turn`-th time."""

    node: str
    to: Literal["on", "off"]
    turn: int


@published("recovery.prep-node-settled")
class PrepNodeSettled(Fact, frozen=True, kw_only=True):
    """Powering a node ended; *unknown* where it may be either. A `problem` that is not of our own
    making keeps it from work until the pool begins anew, or somebody drains and undrains it."""

    node: str
    turn: int
    power: Literal["on", "off", "unknown"]
    problem: Problem | None = None


@published("recovery.prep-node-drained")
class PrepNodeDrained(Fact, frozen=True, kw_only=True):
    """A person took a node out of work, or (`drained` False) back into it."""

    node: str
    drained: bool


@published("recovery.prep-node-troubled")
class PrepNodeTroubled(Fact, frozen=True, kw_only=True):
    """Powering a node off has failed `attempts` times; it goes on until it is off."""

    site: str
    node: str
    attempts: int
    problem: Problem
