"""Identifiers and the one rule that maps a stream to its logical partition.

A stream id is `family:key[:rest…]`. `key` is the plan or site the stream belongs to and alone
decides the partition, so that everything about one plan stays in order. Job ids are stream
ids; an effect id is `stream/step/part`; a disk job's id is `stream.disk`.
"""

from __future__ import annotations

import zlib
from typing import NewType

StreamId = NewType("StreamId", str)
EffectId = NewType("EffectId", str)
CommandId = NewType("CommandId", str)
EventId = NewType("EventId", str)

PARTITIONS = 64
"""Logical partitions, fixed at install: raising it would move keys between partitions."""


def stream_id(family: str, key: str, *rest: str) -> StreamId:
    """Build `family:key[:rest…]`. No part may hold a colon or a slash."""
    parts = (family, key, *rest)
    for part in parts:
        if not part or ":" in part or "/" in part:
            raise ValueError(f"stream id part {part!r} is empty or holds ':' or '/'")
    return StreamId(":".join(parts))


def family_of(stream: str) -> str:
    """The stream's family, the part before the first colon."""
    return stream.partition(":")[0]


def key_of(stream: str) -> str:
    """The partition key of a stream: its second part."""
    return stream.split(":", 2)[1]


def parts_of(stream: str) -> tuple[str, ...]:
    """All parts of a stream id, family first."""
    return tuple(stream.split(":"))


def partition_of(key: str) -> int:
    """The logical partition of a key: CRC-32, stable over processes, versions and machines."""
    return zlib.crc32(key.encode()) % PARTITIONS


def stream_of_effect(effect: str) -> StreamId:
    """The stream that owns an effect."""
    return StreamId(effect.partition("/")[0])


def part_of_effect(effect: str) -> str:
    """The `step/part` of an effect id, as its owner named it."""
    return effect.partition("/")[2]
