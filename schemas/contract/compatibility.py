"""What is not allowed to change in a type's schema while its version stays.

A new optional field and other words of explanation are; anything else needs the next version and
an upcast (style: facts), since who reads the topics reads old and new documents side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

_WORDS: Final = frozenset({"title", "description", "$id", "$schema"})


def breaks(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Why documents of `old` and `new` cannot share a version; empty where they can.

    Both are whole schemas as `types.json_schema` gives them. Each line names the place.
    """
    return list(_differences(_Side(old), _Side(new)))


class _Side:
    """A schema and what its references lead to."""

    def __init__(self, whole: Mapping[str, Any]) -> None:
        self.whole = whole
        self._defs: Mapping[str, Any] = whole.get("$defs", {})

    def at(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """The schema itself, references followed."""
        while "$ref" in schema:
            target = self._defs[schema["$ref"].rpartition("/")[2]]
            schema = {**target, **{k: v for k, v in schema.items() if k != "$ref"}}
        return schema


def _differences(old: _Side, new: _Side) -> Iterator[str]:
    # A pair of types is compared once, so that types that hold themselves come to an end.
    seen: set[tuple[str, str]] = set()
    waiting = [("", old.whole, new.whole)]
    while waiting:
        place, before, after = waiting.pop()
        pair = (str(before.get("$ref", "")), str(after.get("$ref", "")))
        if all(pair):
            if pair in seen:
                continue
            seen.add(pair)
        before, after = old.at(before), new.at(after)
        yield from _here(place, before, after)
        waiting += _below(place, before, after)


def _here(place: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Differences of one schema, its parts apart."""
    where = place or "the document"
    for key in sorted((set(before) | set(after)) - _WORDS - _PARTS):
        if key == "required":
            continue
        if before.get(key) != after.get(key):
            yield f"{where}: {key} was {before.get(key)!r} and is {after.get(key)!r}"
    needed, needs = set(before.get("required", ())), set(after.get("required", ()))
    for name in sorted(needs - needed):
        yield f"{_dot(place, name)}: must be there now"
    for name in sorted(needed - needs):
        yield f"{_dot(place, name)}: need not be there any more"
    for name in sorted(set(before.get("properties", {})) - set(after.get("properties", {}))):
        yield f"{_dot(place, name)}: is gone"
    for key in ("anyOf", "prefixItems"):
        if len(before.get(key, ())) != len(after.get(key, ())):
            yield f"{where}: {key} has another number of parts"


_PARTS: Final = frozenset({"$defs", "properties", "items", "anyOf", "prefixItems",
                           "additionalProperties"})  # fmt: skip


def _below(
    place: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """The parts that both have, to be compared in turn."""
    olds, news = before.get("properties", {}), after.get("properties", {})
    found = [(_dot(place, name), olds[name], news[name]) for name in olds if name in news]
    for key in ("items", "additionalProperties"):
        one, other = before.get(key), after.get(key)
        if isinstance(one, Mapping) or isinstance(other, Mapping):
            found.append((f"{place}[]", _mapping(one), _mapping(other)))
    for key in ("anyOf", "prefixItems"):
        pairs = zip(before.get(key, ()), after.get(key, ()), strict=False)
        found += [(f"{place}<{n}>", one, other) for n, (one, other) in enumerate(pairs)]
    return found


def _mapping(schema: object) -> Mapping[str, Any]:
    """A schema; `false`, `true` or nothing as one that is unlike any other."""
    return schema if isinstance(schema, Mapping) else {"is": schema}


def _dot(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
