"""The ids by which lines of the log are followed: stream, effect, correlation, trace.

Stream ids are job ids (decision 0012). Given as keywords for a line, or bound as context where a
step, effect or request begins, so that every line within carries them.
"""

from __future__ import annotations

from collections.abc import Sequence

from schemas.envelope import Meta
from shared.effects.port import Claimed
from shared.fold import Input
from shared.telemetry.traceparent import trace_id_of

Ids = dict[str, str | int]


def of_meta(meta: Meta) -> Ids:
    """The story that a fact belongs to; what is not known is left out."""
    found: Ids = {}
    if meta.correlation_id:
        found["correlation_id"] = meta.correlation_id
    if meta.traceparent:
        found["trace_id"] = trace_id_of(meta.traceparent)
    return found


def of_effect(claimed: Claimed) -> Ids:
    """One try of an effect."""
    return {
        "effect_id": claimed.effect_id,
        "kind": claimed.kind,
        "stream": claimed.stream,
        "attempt": claimed.attempt,
        **of_meta(claimed.meta),
    }


def of_input(each: Input) -> Ids:
    """One message, timer or outcome that is decided; nothing where it only moves a cursor."""
    received = each.received
    if received is None:
        return {"effect_id": each.settled.effect_id} if each.settled is not None else {}
    found = {"type": type(received.body).__name__, "stream": received.stream}
    if each.settled is not None:
        found["effect_id"] = each.settled.effect_id
    return {**found, **of_meta(received.meta)}


def of_batch(inputs: Sequence[Input]) -> Ids:
    """What is committed together: the ids of the one, or how many there are."""
    return of_input(inputs[0]) if len(inputs) == 1 else {"inputs": len(inputs)}
