"""Reads what `site.yaml` and `vm.yaml` say about Windows: prep nodes, drivers, the guest agent.

Owns which fields are allowed there; the files themselves are `settings`'.
"""

from __future__ import annotations

from typing import Final

import msgspec

from schemas import rules
from schemas.documents import Fields
from shared.windows.drivers import TARGETS, DriverTarget, driver_target

_SETTLES_S_MAX: Final = 3600.0
_NODES_ALLOWED: Final = "a list of {name, seats}"
_DRIVERS_ALLOWED: Final = "the name of a target of docs/windows.md, or {storage, network}"
SEATS_DEFAULT: Final = 25
"""Windows VMs that one prep node works on at once."""


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A prep node of the site."""

    name: str
    seats: int = SEATS_DEFAULT


class AgentSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What the guest agent of a Windows finds wrong, until `settles_in_s` after power-on (None:
    for good). `offline` are names of disks; `silent`: it does not answer at all."""

    stopped: tuple[str, ...] = ()
    offline: tuple[str, ...] = ()
    network_up: bool = True
    silent: bool = False
    settles_in_s: float | None = None


def read_prep_nodes(fields: Fields) -> tuple[NodeSpec, ...]:
    """The prep nodes of a site, in their order; none where it has none."""
    nodes: list[NodeSpec] = []
    for node in fields.items("prep_nodes", _NODES_ALLOWED):
        inner = node.fields("{name, seats}")
        spec = NodeSpec(
            name=inner.need("name", rules.name(), fallback=""),
            seats=inner.take("seats", rules.whole(minimum=1, maximum=1000), default=SEATS_DEFAULT),
        )
        inner.close()
        if spec.name and any(spec.name == other.name for other in nodes):
            node.problem(found=f'a second node "{spec.name}"', allowed="each name once")
        nodes.append(spec)
    return tuple(nodes)


def read_drivers(fields: Fields) -> DriverTarget:
    """The name of a target of docs/windows.md, or the drivers themselves."""
    node = fields.node("drivers")
    if node is None:
        return TARGETS["lab"]
    if isinstance(node.value, str):
        return TARGETS[node.read(rules.one_of(tuple(TARGETS)), fallback="lab")]
    inner = node.fields(_DRIVERS_ALLOWED)
    word = rules.text(chars_max=200)
    storage, network = (
        [each.read(word, fallback="") for each in inner.items(key, "a list of drivers")]
        for key in ("storage", "network")
    )
    inner.close()
    return driver_target("site", storage, network)


def read_agent(fields: Fields) -> AgentSpec:
    """What the guest agent will say; all well by default."""
    found = fields.fields("agent", "{stopped, offline, network, silent, settles_in}")
    if found is None:
        return AgentSpec()
    stopped = tuple(
        node.read(rules.text(), fallback="") for node in found.items("stopped", "services")
    )
    agent = AgentSpec(
        stopped=stopped,
        offline=tuple(n.read(rules.name(), fallback="") for n in found.items("offline")),
        network_up=found.take("network", rules.one_of(("up", "down")), default="up") == "up",
        silent=found.take("silent", rules.flag(), default=False),
        settles_in_s=found.take("settles_in", rules.duration(max_s=_SETTLES_S_MAX), default=None),
    )
    found.close()
    return agent
