"""What counts as breaking a published type's readers, and what does not."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest

from schemas.contract.compatibility import breaks


class Disk(msgspec.Struct, kw_only=True):
    """A part."""

    name: str
    size: int = 0


class Old(msgspec.Struct, kw_only=True):
    """As it was published."""

    vm: str
    state: Literal["on", "off"]
    note: str = ""
    disks: tuple[Disk, ...] = ()
    tags: dict[str, str] = {}
    parent: Disk | None = None


class SizedDisk(msgspec.Struct, kw_only=True):
    """A part whose field must be there."""

    name: str
    size: int


class Node(msgspec.Struct, kw_only=True):
    """A type that holds itself."""

    name: str
    below: tuple[Node, ...] = ()


FIELDS: dict[str, Any] = {
    "vm": str,
    "state": Literal["on", "off"],
    "note": (str, ""),
    "disks": (tuple[Disk, ...], ()),
    "tags": (dict[str, str], {}),
    "parent": (Disk | None, None),
}


def with_fields(**changes: Any) -> dict[str, Any]:
    """The schema of `Old` with fields replaced, or left out where None is given."""
    fields = {k: v for k, v in {**FIELDS, **changes}.items() if v is not None}
    kinds = [(k, *v) if isinstance(v, tuple) else (k, v) for k, v in fields.items()]
    return schema_of(msgspec.defstruct("Old", kinds, kw_only=True))


def schema_of(struct: type) -> dict[str, Any]:
    """As it is read from a file."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(msgspec.json.schema(struct)))
    return found


OLD = schema_of(Old)


def test_the_same_type_breaks_nothing() -> None:
    assert breaks(OLD, with_fields()) == []
    node = schema_of(Node)
    assert breaks(node, node) == []


def test_a_new_optional_field_breaks_nothing() -> None:
    assert breaks(OLD, with_fields(extra=(int, 0))) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"note": None}, "note: is gone"),
        ({"extra": str}, "extra: must be there now"),
        ({"vm": (str, "")}, "vm: need not be there any more"),
        ({"note": (int, 0)}, "note: type was 'string' and is 'integer'"),
        ({"note": (str, "none")}, "note: default was '' and is 'none'"),
        ({"state": Literal["on", "off", "idle"]}, "state: enum was"),
        ({"disks": (tuple[str, ...], ())}, "disks[]: type was 'object' and is 'string'"),
        ({"disks": (tuple[SizedDisk, ...], ())}, "disks[].size: must be there now"),
        ({"tags": (dict[str, int], {})}, "tags[]: type was 'string' and is 'integer'"),
        ({"parent": (str | None, None)}, "parent<0>: type was 'object' and is 'string'"),
        ({"parent": (Disk | None | str, None)}, "parent: anyOf has another number of parts"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_anything_else_does(changes: dict[str, Any], told: str) -> None:
    assert any(line.startswith(told) for line in breaks(OLD, with_fields(**changes)))
