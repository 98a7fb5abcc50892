"""A decision in the making: facts are said one by one, and the state moves on with each."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from shared.decider import Decision, Effect, Send, Timer

S = TypeVar("S")


class Draft(Generic[S]):
    """What a decision will be; `state` is what its facts lead to so far.

    Actions add to it in place. It lives within one call of a decider, which stays pure.
    """

    def __init__(self, state: S, *, now: dt.datetime, evolve: Callable[[S, Any], S]) -> None:
        self.state = state
        self.now = now
        self._evolve = evolve
        self.events: list[Any] = []
        self.effects: list[Effect] = []
        self.sends: list[Send] = []
        self.timers: list[Timer] = []
        self.cancel_effects: list[str] = []

    def say(self, event: Any) -> None:
        """Add a fact, and move on."""
        self.events.append(event)
        self.state = self._evolve(self.state, event)

    def decision(self, *, cancel_timers: tuple[str, ...] = ()) -> Decision:
        """All of it, as it is now."""
        return Decision(
            events=tuple(self.events),
            effects=tuple(self.effects),
            sends=tuple(self.sends),
            timers=tuple(self.timers),
            cancel_timers=cancel_timers,
            cancel_effects=tuple(self.cancel_effects),
        )
