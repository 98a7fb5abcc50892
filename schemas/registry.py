"""Stored names of published types, their versions, and how other versions are read and written.

A type is stored under a name we choose (`replication.iteration-started`), never a Python path.
A new optional field keeps the version; anything else raises it and adds a pure upcast. The build
that learns a version does not write it yet: copies of the build before may run beside it, or take
over from it again. It writes the version before through a pure downcast; the next build writes
the new one (decision 0031, docs/published-types.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

T = TypeVar("T", bound=type[msgspec.Struct])
Upcast = Callable[[dict[str, Any]], dict[str, Any]]
Downcast = Upcast


class UnknownType(Exception):
    """The stored type or version is not known to this build: park it, never skip it.

    `name` and `version` say what a newer build knows; empty where this one lacks a cast.
    """

    def __init__(self, message: str, *, name: str = "", version: int = 0) -> None:
        super().__init__(message)
        self.name = name
        self.version = version


class _Entry(msgspec.Struct):
    name: str
    version: int
    written: int
    struct: type[msgspec.Struct]
    decoder: Any


_by_name: dict[str, _Entry] = {}
_by_struct: dict[type[msgspec.Struct], _Entry] = {}
_upcasts: dict[tuple[str, int], Upcast] = {}
_downcasts: dict[tuple[str, int], Downcast] = {}
_encoder = msgspec.json.Encoder()


def published(name: str, version: int = 1, *, written: int | None = None) -> Callable[[T], T]:
    """Register a struct under its stored `name`. Two structs of one name are a mistake.

    `version` is what the struct is; `written`, where it is lower, what this build stores.
    """

    def register(struct: T) -> T:
        if name in _by_name:
            raise ValueError(f"two published types are named {name!r}")
        decoder = msgspec.json.Decoder(struct)
        entry = _Entry(name, version, written or version, struct, decoder)
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


def downcast(name: str, *, to_version: int) -> Callable[[Downcast], Downcast]:
    """Register a pure function from the next version's stored document to this one's."""

    def register(function: Downcast) -> Downcast:
        _downcasts[name, to_version] = function
        return function

    return register


def name_of(struct: type[msgspec.Struct]) -> str:
    """The stored name of a published struct type."""
    return _by_struct[struct].name


def version_of(struct: type[msgspec.Struct]) -> int:
    """The schema version that a published struct type is: the newest this build reads."""
    return _by_struct[struct].version


def written_version_of(struct: type[msgspec.Struct]) -> int:
    """The schema version that this build writes a published struct type as."""
    return _by_struct[struct].written


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
    """The stored form: name, schema version, JSON bytes. Raises UnknownType without a downcast."""
    entry = _by_struct[type(value)]
    if entry.written == entry.version:
        return entry.name, entry.version, _encoder.encode(value)
    document = msgspec.to_builtins(value)
    for step in reversed(range(entry.written, entry.version)):
        try:
            document = _downcasts[entry.name, step](document)
        except KeyError:
            raise UnknownType(f"no downcast of {entry.name!r} to version {step}") from None
    return entry.name, entry.written, _encoder.encode(document)


def decode(name: str, version: int, data: bytes | str) -> Any:
    """Read a stored document of any version up to this build's.

    Raises UnknownType for a name or a newer version this build does not know.
    """
    entry = _by_name.get(name)
    if entry is None or version > entry.version:
        raise UnknownType(
            f"type {name!r} version {version} is not known to this build",
            name=name,
            version=version,
        )
    if version == entry.version:
        return entry.decoder.decode(data)
    document = msgspec.json.decode(data)
    for step in range(version, entry.version):
        try:
            document = _upcasts[name, step](document)
        except KeyError:
            raise UnknownType(f"no upcast of {name!r} from version {step}") from None
    return msgspec.convert(document, entry.struct)
