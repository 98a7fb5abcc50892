"""The W3C `traceparent` of a message: what it says, and which of them count.

Version 00 is `00-<trace id>-<span id>-<flags>`, lower-case hex. What a caller sends is checked
before it reaches a fact; what stands in a fact is ours.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

HEADER: Final = "traceparent"
_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Place(NamedTuple):
    """A span within a trace, by numbers; `flags` bit 0 is *sampled*."""

    trace_id: int
    span_id: int
    flags: int


def parse(text: str) -> Place | None:
    """Where a traceparent points, or None for what is none. Later versions are read as 00."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        return None
    version, trace, span, flags, more = found.groups()
    if version == "ff" or (version == "00" and more):
        return None
    place = Place(int(trace, 16), int(span, 16), int(flags, 16))
    return place if place.trace_id and place.span_id else None


def written(place: Place) -> str:
    """The traceparent, version 00."""
    return f"00-{place.trace_id:032x}-{place.span_id:016x}-{place.flags:02x}"


def accepted(text: str) -> str:
    """A caller's traceparent as it may stand in a fact; empty for none, or one that is wrong."""
    place = parse(text) if text else None
    return written(place) if place else ""


def trace_id_of(traceparent: str) -> str:
    """The trace's id, or nothing."""
    return traceparent[3:35]
