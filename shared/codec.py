"""The stored forms that are not published types: metadata, and the key of a set of budgets.

Published types are encoded by `schemas.registry`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from schemas.envelope import Meta
from shared.decider import Need

_encoder = msgspec.json.Encoder()
_meta_decoder = msgspec.json.Decoder(Meta)


def encode_meta(meta: Meta) -> bytes:
    """Metadata as a JSON document; fields at their default are left out."""
    return _encoder.encode(meta)


def decode_meta(data: bytes) -> Meta:
    return _meta_decoder.decode(data)


def needs_key(needs: Iterable[Need]) -> str:
    """One text per distinct set of needs: `mode budget` lines, sorted by budget, then mode."""
    return "\n".join(f"{need.mode} {need.budget}" for need in sorted(needs))


def needs_of(key: str) -> tuple[Need, ...]:
    """The needs that `needs_key` wrote."""
    lines = (line.partition(" ") for line in key.split("\n") if line)
    return tuple(Need(budget=budget, mode=mode) for mode, _, budget in lines)
