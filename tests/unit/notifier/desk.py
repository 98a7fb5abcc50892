"""The notifier without an engine: real handlers; its own messages, timers and mails by hand."""

from __future__ import annotations

import datetime as dt
from collections import deque
from typing import Any

from schemas import registry
from schemas.envelope import Received
from schemas.ids import family_of
from schemas.notifier import MailText, SendMail
from services.notifier.handlers import definition
from shared.decider import Decision
from shared.fold import EVENT_BYTES_MAX
from shared.testing.spec import T0, received, restored, stored

ONCALL = ("oncall@example.org",)


class Desk:
    """All streams of the notifier; every event and state takes its stored form on the way."""

    def __init__(self, to: tuple[str, ...] = ONCALL) -> None:
        service = definition(to)
        self._families = {family.name: family for family in service.families}
        self._handlers = {handler.message: handler for handler in service.handlers}
        self.now = T0
        self.states: dict[str, Any] = {}
        self.log: list[tuple[str, Any]] = []
        self.mails: dict[str, MailText] = {}
        self.timers: dict[tuple[str, str], tuple[dt.datetime, Any]] = {}
        self._own: deque[Any] = deque()

    def hear(self, *bodies: Any, stream: str = "recovery:shop:r1") -> None:
        """Messages arrive, each after the other's consequences."""
        for body in bodies:
            self._decide(received(stored(body), at=self.now, stream=stream))
            while self._own:
                self._decide(received(self._own.popleft(), at=self.now))

    def wait(self, seconds: float) -> None:
        """Let time pass and fire what is due."""
        self.now += dt.timedelta(seconds=seconds)
        for key, (due, body) in list(self.timers.items()):
            if due <= self.now:
                del self.timers[key]
                self.hear(body, stream=key[0])

    def state(self, stream: str) -> Any:
        """A stream's state as after a restart."""
        family = self._families[family_of(stream)]
        return restored(family, self.states.get(stream, family.initial()))

    def events(self, kind: type, stream: str = "") -> list[Any]:
        """Events of a type, of one stream if it is named."""
        return [e for s, e in self.log if isinstance(e, kind) and stream in ("", s)]

    def open_alerts(self) -> set[str]:
        """Streams of the alerts that are open."""
        return {s for s in self.states if s.startswith("alert:") and self.state(s).open}

    def end_mail(self, stream: str, outcome: Any) -> None:
        """A mail's effect ended."""
        family = self._families["delivery"]
        assert family.outcome is not None
        self._apply(stream, family.outcome(self.state(stream), received(outcome, at=self.now)))

    def _decide(self, message: Received) -> None:
        handler = self._handlers[type(message.body)]
        states = {name: self.state(name) for name in handler.route(message)}
        for name, decision in handler.decide(states, message).items():
            self._apply(name, decision)

    def _apply(self, stream: str, decision: Decision) -> None:
        family = self._families[family_of(stream)]
        for event in decision.events:
            _fits(event)
            self.states[stream] = family.evolve(self.state(stream), stored(event))
            self.log.append((stream, event))
        for effect in decision.effects:
            _fits(effect.payload)
            payload: SendMail = stored(effect.payload)
            assert stream not in self.mails, f"{stream} is sent twice"
            self.mails[stream] = payload.mail
        for timer in decision.timers:
            self.timers[stream, timer.name] = (timer.due, stored(timer.message))
        for name in decision.cancel_timers:
            self.timers.pop((stream, name), None)
        for send in decision.sends:
            assert send.to == "notifier"
            _fits(send.message)
            self._own.append(stored(send.message))


def _fits(body: Any) -> None:
    """The engine's bound: a longer event or message would end the service."""
    _, _, data = registry.encode(body)
    assert len(data) <= EVENT_BYTES_MAX, f"{type(body).__name__} has {len(data)} bytes"
