"""A version that copies of the build before do not know is read, and not written yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from schemas import registry

NAME = "test.moved"
V1 = b'{"vm":"db","to":"west"}'
V3 = b'{"vm":"db","target":"west","by":"nobody"}'


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """Version 2 renamed a field, version 3 asks for another."""

    vm: str
    target: str
    by: str


@pytest.fixture
def written(request: pytest.FixtureRequest) -> Iterator[int]:
    """The type as a build knows it that writes the version given."""
    registry.published(NAME, 3, written=request.param)(Moved)
    registry.upcast(NAME, from_version=1)(lambda d: {"vm": d["vm"], "target": d["to"]})
    registry.upcast(NAME, from_version=2)(lambda d: {**d, "by": "nobody"})
    registry.downcast(NAME, to_version=2)(_without_by)
    registry.downcast(NAME, to_version=1)(lambda d: {"vm": d["vm"], "to": d["target"]})
    yield request.param
    del registry._by_name[NAME], registry._by_struct[Moved]
    for casts in (registry._upcasts, registry._downcasts):
        for key in [key for key in casts if key[0] == NAME]:
            del casts[key]


def _without_by(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != "by"}


@pytest.mark.parametrize("written", [1, 2, 3], indirect=True)
def test_every_version_is_read_whichever_is_written(written: int) -> None:
    for version, data in ((1, V1), (3, V3)):
        assert registry.decode(NAME, version, data) == Moved(vm="db", target="west", by="nobody")


@pytest.mark.parametrize(
    ("written", "data"), [(1, V1), (2, b'{"vm":"db","target":"west"}'), (3, V3)],
    indirect=["written"],
)  # fmt: skip
def test_the_written_version_is_stored_through_every_step_down(written: int, data: bytes) -> None:
    moved = Moved(vm="db", target="west", by="nobody")
    assert registry.encode(moved) == (NAME, written, data)
    assert registry.version_of(Moved) == 3
    assert registry.written_version_of(Moved) == written


@pytest.mark.parametrize("written", [1], indirect=True)
def test_a_version_without_a_way_down_is_not_written_as_another(written: int) -> None:
    del registry._downcasts[NAME, 1]
    with pytest.raises(registry.UnknownType, match="no downcast"):
        registry.encode(Moved(vm="db", target="west", by="nobody"))
