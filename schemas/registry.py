"""Stored names of published types, their versions, and how old versions are read.

A type is stored under a name we choose (`replication.iteration-started`), never a Python path.
A new optional field keeps the version; anything else raises it and adds a pure upcast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

T = TypeVar("T", bound=type[msgspec.Struct])
Upcast = Callable[[dict[str, Any]], dict[str, Any]]


class UnknownType(Exception):
    """The stored type or version is not known to this build: park it, never skip it."""


class _Entry(msgspec.Struct):
    name: str
    version: int
    struct: type[msgspec.Struct]
    decoder: Any


_by_name: dict[str, _Entry] = {}
_by_struct: dict[type[msgspec.Struct], _Entry] = {}
_upcasts: dict[tuple[str, int], Upcast] = {}
_encoder = msgspec.json.Encoder()


def published(name: str, version: int = 1) -> Callable[[T], T]:
    """Register a struct under its stored `name`. Two structs of one name are a mistake."""

    def register(struct: T) -> T:
        if name in _by_name:
            raise ValueError(f"two published types are named {name!r}")
        entry = _Entry(name, version, struct, msgspec.json.Decoder(struct))
        _by_name[name] = entry
        _by_struct[struct] = entry
        return struct

    return register


def upcast(name: str, *, from_version: int) -> Callable[[Upcast], Upcast]:
    """Register a pure function from one stored version's document to the next's."""

    def register(function: Upcast) -> Upcast:
        _upcasts[name, from_version] = function
        return function

    return register


def name_of(struct: type[msgspec.Struct]) -> str:
    """The stored name of a published struct type."""
    return _by_struct[struct].name


def version_of(struct: type[msgspec.Struct]) -> int:
    """The schema version this build writes for a published struct type."""
    return _by_struct[struct].version


def names() -> tuple[str, ...]:
    """All stored names this build knows, sorted."""
    return tuple(sorted(_by_name))


def struct_of(name: str) -> type[msgspec.Struct]:
    """The struct this build uses for a stored name."""
    try:
        return _by_name[name].struct
    except KeyError:
        raise UnknownType(f"type {name!r} is not known to this build") from None


def knows(name: str, version: int) -> bool:
    """Whether this build can read documents of a name and version."""
    entry = _by_name.get(name)
    return entry is not None and version <= entry.version


def encode(value: msgspec.Struct) -> tuple[str, int, bytes]:
    """The stored form: name, schema version, JSON bytes."""
    entry = _by_struct[type(value)]
    return entry.name, entry.version, _encoder.encode(value)


def decode(name: str, version: int, data: bytes | str) -> Any:
    """Read a stored document of any version up to this build's.

    Raises UnknownType for a name or a newer version this build does not know.
    """
    entry = _by_name.get(name)
    if entry is None or version > entry.version:
        raise UnknownType(f"type {name!r} version {version} is not known to this build")
    if version == entry.version:
        return entry.decoder.decode(data)
    document = msgspec.json.decode(data)
    for step in range(version, entry.version):
        try:
            document = _upcasts[name, step](document)
        except KeyError:
            raise UnknownType(f"no upcast of {name!r} from version {step}") from None
    return msgspec.convert(document, entry.struct)
