"""Makes the structs of platforms safe to decode on threads."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec


def prepare_structs(package: str = "shared.platforms") -> None:
    """Have msgspec look at every struct of a package now, in the thread that calls.

    It looks at a struct when the first document is read as one, and two threads that do so at the
    same moment bring the process down (msgspec 0.22). Platforms read theirs on threads, so this
    is called where a platform is imported. It costs some milliseconds.
    """
    for struct in _below(msgspec.Struct):
        if struct.__module__.startswith(f"{package}."):
            msgspec.json.Decoder(struct)


def _below(struct: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for each in struct.__subclasses__():
        yield each
        yield from _below(each)
