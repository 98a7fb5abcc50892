"""The stored forms that are not published types: rows, their metadata, keys of sets of budgets.

Published types are encoded by `schemas.registry`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from schemas.envelope import Meta, Recorded
from shared.decider import Need

_encoder = msgspec.json.Encoder()
_meta_decoder = msgspec.json.Decoder(Meta)


def encode_meta(meta: Meta) -> bytes:
    """Metadata as a JSON document; fields at their default are left out."""
    return _encoder.encode(meta)


def decode_meta(data: bytes) -> Meta:
    return _meta_decoder.decode(data)


def decode_row(source: str, epoch: int, topic: str, stored: Iterable[Any]) -> Recorded:
    """A row of a log from its columns `partition` to `meta`; `data` stays as it is stored."""
    partition, seq, stream, version, name, schema_version, data, meta = stored
    return Recorded(
        source=source,
        epoch=epoch,
        topic=topic,
        partition=partition,
        seq=seq,
        stream=stream,
        version=version,
        type=name,
        schema_version=schema_version,
        data=data,
        meta=decode_meta(meta),
    )


def needs_key(needs: Iterable[Need]) -> str:
    """One text per distinct set of needs: `mode budget` lines, sorted by budget, then mode."""
    return "\n".join(f"{need.mode} {need.budget}" for need in sorted(needs))


def needs_of(key: str) -> tuple[Need, ...]:
    """The needs that `needs_key` wrote."""
    lines = (line.partition(" ") for line in key.split("\n") if line)
    return tuple(Need(budget=budget, mode=mode) for mode, _, budget in lines)
