"""Prep nodes: how each is powered and how many sit there, as the pool of its site says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from schemas import prep as said
from schemas.envelope import Recorded
from schemas.folds.base import Column, Route, View, error_of
from schemas.ids import key_of
from schemas.views import PrepNode

_replace = msgspec.structs.replace


def row_of(site: str, node: str) -> str:
    """The id of a node's row."""
    return f"{site}/{node}"


def _row(event: Any, recorded: Recorded) -> Iterable[str]:
    return (row_of(key_of(recorded.stream), event.node),) if event.node else ()


def _rows(event: said.PrepNodesListed, recorded: Recorded) -> Iterable[str]:
    site = key_of(recorded.stream)
    return [row_of(site, node.name) for node in event.nodes]


def _known(doc: PrepNode | None, row: str) -> PrepNode:
    site, _, node = row.partition("/")
    return doc or PrepNode(site=site, node=node)


def _listed(
    doc: PrepNode | None, event: said.PrepNodesListed, recorded: Recorded, row: str
) -> PrepNode:
    known = _known(doc, row)
    found = next(node for node in event.nodes if node.name == known.node)
    turning = known.power in ("starting", "stopping")
    power = known.power if turning else found.power
    return _replace(known, seats=found.seats, power=power, error=None)


def _turned(
    doc: PrepNode | None, event: said.PrepNodeTurned, recorded: Recorded, row: str
) -> PrepNode:
    return _replace(_known(doc, row), power="starting" if event.to == "on" else "stopping")


def _settled(
    doc: PrepNode | None, event: said.PrepNodeSettled, recorded: Recorded, row: str
) -> PrepNode:
    known = _known(doc, row)
    error = error_of(event.problem) if event.problem is not None else known.error
    return _replace(known, power=event.power, error=None if event.power == "on" else error)


def _seated(
    doc: PrepNode | None, event: said.PrepSeatGiven, recorded: Recorded, row: str
) -> PrepNode:
    known = _known(doc, row)
    return _replace(known, in_use=known.in_use + 1)


def _left(
    doc: PrepNode | None, event: said.PrepMemberLeft, recorded: Recorded, row: str
) -> PrepNode:
    known = _known(doc, row)
    return _replace(known, in_use=max(0, known.in_use - 1))


def _drained(
    doc: PrepNode | None, event: said.PrepNodeDrained, recorded: Recorded, row: str
) -> PrepNode:
    known = _known(doc, row)
    return _replace(known, drained=event.drained, error=known.error if event.drained else None)


VIEW = View(
    table="prep_nodes",
    document=PrepNode,
    columns=(Column("site", "text", lambda node: node.site),),
    routes={
        said.PrepNodesListed: (Route(_listed, _rows),),
        said.PrepNodeTurned: (Route(_turned, _row),),
        said.PrepNodeSettled: (Route(_settled, _row),),
        said.PrepSeatGiven: (Route(_seated, _row),),
        said.PrepMemberLeft: (Route(_left, _row),),
        said.PrepNodeDrained: (Route(_drained, _row),),
    },
)
