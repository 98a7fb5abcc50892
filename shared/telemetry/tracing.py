"""Spans of requests, steps and effects: the port, what it is when nobody traces, and the rules.

A span's place is written into `Meta.traceparent` of whatever it leads to, so a trace goes through
topics, timers and effects as causes do. What belongs to no trace is given none, except at a
story's root. The official SDK is behind the port (`otel.py`), and not even imported when off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, Protocol

import msgspec

from schemas import registry
from schemas.envelope import Received
from shared.decider import EffectOutcome, EffectTrouble
from shared.effects.policy import Verdict, result_of
from shared.effects.port import Claimed
from shared.fold import Input

Kind = Literal["server", "consumer", "client"]
Attributes = Mapping[str, str | int]

BAD_RESULTS: Final = frozenset({"failed", "unknown", "retried"})


class Span(Protocol):
    """Something that goes on. One that is never ended is never told: another try will be."""

    traceparent: str

    def link(self, other: Span) -> None:
        """Say that this has to do with another span, perhaps of another trace."""

    def end(self, attributes: Attributes, *, error: str = "") -> None:
        """It is over, and how it went; `error` is a code, never a text that may hold a secret."""


class Tracing(Protocol):
    """Begins the spans of one copy of one service. Calls are cheap, never wait, never raise."""

    on: bool

    def begin(self, name: str, *, kind: Kind, parent: str, attributes: Attributes) -> Span:
        """A span under the traceparent `parent`; without one, the root of a new trace."""


class Traces(Protocol):
    """The traces of one process."""

    def of(self, service: str, copy: str) -> Tracing:
        """The tracing of a copy of a service."""

    async def close(self) -> None:
        """Send what waits, for a moment at most."""


class NoSpan:
    """The span of what is not traced: the place stays where it was."""

    def __init__(self, traceparent: str = "") -> None:
        self.traceparent = traceparent

    def link(self, other: Span) -> None:
        """Nothing is linked."""

    def end(self, attributes: Attributes, *, error: str = "") -> None:
        """Nothing is told."""


UNTRACED: Final = NoSpan()


class NoTracing:
    """Nobody traces."""

    on = False

    def begin(self, name: str, *, kind: Kind, parent: str, attributes: Attributes) -> Span:
        return NoSpan(parent)


class NoTraces:
    """The traces of a process that is not asked for any."""

    def of(self, service: str, copy: str) -> Tracing:
        return OFF

    async def close(self) -> None:
        """Nothing waits."""


OFF: Final = NoTracing()


class StepSpans:
    """The spans of what a stepper decides: one per input, from its coming in to its commit.

    An input's own place replaces its parent's before it is folded, so that everything that is
    decided over it is under it, whatever else is in the same commit. Inputs that meet in a commit
    are linked to the first of them.
    """

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._open: dict[str, Span] = {}

    def begun(self, inputs: Sequence[Input]) -> list[Input]:
        """The inputs, those in a trace at places of their own."""
        if not self._tracing.on:
            return list(inputs)
        return [self._begun(each) for each in inputs]

    def _begun(self, each: Input) -> Input:
        received = each.received
        if received is None:
            return each
        meta = received.meta
        if not meta.traceparent and meta.correlation_id:
            return each  # Its story is not traced.
        span = self._tracing.begin(
            f"decide {_what(received)}",
            kind="consumer",
            parent=meta.traceparent,
            attributes=_about(received),
        )
        if not span.traceparent:
            return each
        self._open[span.traceparent] = span
        meta = msgspec.structs.replace(meta, traceparent=span.traceparent)
        return msgspec.structs.replace(each, received=msgspec.structs.replace(received, meta=meta))

    def committed(self, inputs: Sequence[Input], *, error: str = "") -> None:
        """The inputs are decided, durably."""
        if not self._open:
            return
        spans = self._taken(inputs)
        about = {"seawall.commit.inputs": len(inputs)}
        for span in spans:
            if span is not spans[0]:
                span.link(spans[0])
            span.end(about, error=error)

    def forgotten(self, inputs: Sequence[Input]) -> None:
        """Whatever of the inputs was not committed here is decided by somebody else."""
        if self._open:
            self._taken(inputs)

    def _taken(self, inputs: Sequence[Input]) -> list[Span]:
        places = (each.received.meta.traceparent for each in inputs if each.received is not None)
        found = (self._open.pop(place, None) for place in places)
        return [span for span in found if span is not None]


def _what(received: Received) -> str:
    body = received.body
    if isinstance(body, EffectOutcome | EffectTrouble):
        return f"{'outcome' if isinstance(body, EffectOutcome) else 'trouble'} of {body.kind}"
    return registry.name_of(type(body))


def _about(received: Received) -> dict[str, str | int]:
    about: dict[str, str | int] = {
        "seawall.stream": received.stream,
        "seawall.cause": received.cause,
        "seawall.correlation_id": received.meta.correlation_id or received.cause,
    }
    if isinstance(received.body, EffectOutcome | EffectTrouble):
        about["seawall.effect.id"] = received.body.effect_id
    return about


def begin_effect(tracing: Tracing, claimed: Claimed) -> tuple[Claimed, Span]:
    """The span of one try of an effect, and the effect with its place: its outcome is under it."""
    meta = claimed.meta
    if not tracing.on or not meta.traceparent:
        return claimed, UNTRACED
    span = tracing.begin(
        f"effect {claimed.kind}",
        kind="client",
        parent=meta.traceparent,
        attributes={
            "seawall.effect.id": claimed.effect_id,
            "seawall.effect.kind": claimed.kind,
            "seawall.effect.attempt": claimed.attempt,
            "seawall.stream": claimed.stream,
            "seawall.correlation_id": meta.correlation_id,
        },
    )
    meta = msgspec.structs.replace(meta, traceparent=span.traceparent)
    return msgspec.structs.replace(claimed, meta=meta), span


def end_effect(span: Span, verdict: Verdict) -> None:
    """The try is over."""
    if span is UNTRACED:
        return
    result = result_of(verdict)
    span.end(
        {"seawall.effect.outcome": result},
        error=(verdict.code or result) if result in BAD_RESULTS else "",
    )
