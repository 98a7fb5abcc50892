"""The ids by which lines of the log are followed: stream, effect, correlation, trace.

Stream ids are job ids (decision 0012). What a step or effect is about is bound as context where it
begins, as it stands, and its ids are read only when there is a line to write: of a million effects
that go well nobody reads any.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from structlog.contextvars import bind_contextvars, bound_contextvars

from schemas.envelope import Meta
from shared.effects.port import Claimed
from shared.fold import Input
from shared.telemetry.traceparent import trace_id_of

Ids = dict[str, str | int]
About = Claimed | Sequence[Input]

_ABOUT = "about"


def bind(about: About) -> None:
    """Let every line of the task that runs, and of those it begins, say what it is about."""
    bind_contextvars(**{_ABOUT: about})


def bound(about: About) -> AbstractContextManager[None]:
    """The same within a block."""
    return bound_contextvars(**{_ABOUT: about})


def written_out(
    logger: object, method: str, line: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """The processor that puts the ids of what is bound into a line; the line's own words win."""
    about: About | None = line.pop(_ABOUT, None)
    if about is not None:
        found = of_effect(about) if isinstance(about, Claimed) else of_batch(about)
        for name, value in found.items():
            line.setdefault(name, value)
    return line


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
