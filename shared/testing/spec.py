"""given(events).when(message).then(decision), for deciders of any service.

Owns the folding of the given events and the envelope around a message; no clock, no store.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from schemas import registry
from schemas.envelope import Meta, Received
from shared.decider import Decision, EffectOutcome, EffectTrouble, Family

T0 = dt.datetime(2026, 11, 22, 20, 0, tzinfo=dt.UTC)


def received(body: Any, *, at: dt.datetime = T0, stream: str = "") -> Received:
    """A message as a decider sees it."""
    return Received(body=body, meta=Meta(occurred_at=at), at=at, stream=stream)


class Given(msgspec.Struct, frozen=True):
    """A stream in a known state. Folding goes through the stored form, as after a restart."""

    family: Family
    state: Any

    def when(
        self,
        decide: Callable[[Any, Received], Decision],
        body: Any,
        *,
        at: dt.datetime = T0,
        stream: str = "",
    ) -> Decision:
        """What the decider answers to `body`."""
        return decide(self.state, received(body, at=at, stream=stream))

    def ended(self, outcome: EffectOutcome) -> Decision:
        """What the family decides about the end of an effect."""
        assert self.family.outcome is not None, "the family has effects"
        return self.family.outcome(self.state, received(outcome, at=outcome.at))

    def troubled(self, trouble: EffectTrouble, *, at: dt.datetime = T0) -> Decision:
        """What the family decides about an effect that goes on and keeps failing."""
        assert self.family.trouble is not None, "the family tells of trouble"
        stream = trouble.effect_id.partition("/")[0]
        return self.family.trouble(self.state, received(trouble, at=at, stream=stream))

    def and_then(self, *events: Any) -> Given:
        """The same stream some facts later."""
        state = self.state
        for event in events:
            state = self.family.evolve(state, stored(event))
        return Given(self.family, state)


def given(family: Family, *events: Any) -> Given:
    """A stream of the family that consists of `events`."""
    return Given(family, family.initial()).and_then(*events)


def stored(body: Any) -> Any:
    """A published struct after a round trip through its stored form."""
    return registry.decode(*registry.encode(body))


def restored(family: Family, state: Any) -> Any:
    """A state after a round trip through its snapshot."""
    return msgspec.json.decode(msgspec.json.encode(state), type=family.state)


def ok(
    effect_id: str, result: Any, *, kind: str = "", at: dt.datetime = T0, attempts: int = 1
) -> EffectOutcome:
    """An effect that ended well."""
    return _outcome(effect_id, kind=kind, at=at, attempts=attempts, ok=True, result=result)


def failed(
    effect_id: str,
    *,
    code: str = "broken",
    error: str = "it broke",
    remedy: str = "mend it",
    kind: str = "",
    at: dt.datetime = T0,
    unknown: bool = False,
) -> EffectOutcome:
    """An effect that ended for good without success; code `cancelled` for a cancelled one."""
    return _outcome(
        effect_id,
        kind=kind,
        at=at,
        attempts=1,
        ok=False,
        code=code,
        error=error,
        remedy=remedy,
        unknown=unknown,
    )


def trouble(effect_id: str, *, kind: str = "", code: str = "broken") -> EffectTrouble:
    """An effect that failed three times and goes on."""
    return EffectTrouble(
        effect_id=effect_id,
        part=effect_id.partition("/")[2],
        kind=kind,
        attempts=3,
        code=code,
        error="it broke",
        remedy="mend it",
    )


def _outcome(effect_id: str, *, at: dt.datetime, **fields: Any) -> EffectOutcome:
    return EffectOutcome(
        effect_id=effect_id,
        part=effect_id.partition("/")[2],
        at=at,
        started_at=at,
        **fields,
    )


def parts(decision: Decision) -> list[str]:
    """The parts of the effects that a decision asks for."""
    return [effect.part for effect in decision.effects]


def messages(decision: Decision, kind: type) -> list[Any]:
    """The messages of one type that a decision sends."""
    return [send.message for send in decision.sends if isinstance(send.message, kind)]


def events(decision: Decision, kind: type) -> list[Any]:
    """The events of one type in a decision."""
    return [event for event in decision.events if isinstance(event, kind)]


def merged(decisions: Mapping[str, Decision], stream: str) -> Decision:
    """The part of an all-or-none decision that concerns one stream."""
    return decisions.get(stream, Decision())
