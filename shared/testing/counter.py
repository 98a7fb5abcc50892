"""A saga of no field at all, on which the engine is proven: it counts up in durable steps.

`counter:<key>:<id>` runs `steps` effects one after the other, then is done. Commands, messages
between streams, timers, effects and refusals all occur in it.
"""

from __future__ import annotations

import datetime as dt

import msgspec

from schemas.common import Command, Fact
from schemas.envelope import Received, commands_topic
from schemas.registry import published
from shared.decider import NOTHING, Decision, Effect, EffectOutcome, Family, Need, Send, Timer, on
from shared.errors import Refused
from shared.fold import ServiceDefinition

SERVICE = "counter"


@published("counter.start")
class StartCounter(Command, frozen=True, kw_only=True):
    """Count `steps` up, beginning at once or `delay_s` later."""

    counter: str
    steps: int
    delay_s: float = 0
    needs: tuple[str, ...] = ()


@published("counter.begin")
class Begin(Fact, frozen=True, kw_only=True):
    """Timer: the delay is over."""


@published("counter.started")
class CounterStarted(Fact, frozen=True, kw_only=True):
    """A counter exists."""

    steps: int
    needs: tuple[str, ...] = ()


@published("counter.counted")
class Counted(Fact, frozen=True, kw_only=True):
    """One step is done."""

    number: int


@published("counter.step-failed")
class StepFailed(Fact, frozen=True, kw_only=True):
    """A step failed for good."""

    code: str


@published("counter.tally")
class Tally(Fact, frozen=True, kw_only=True):
    """Message to the tally of the counter's key: one counter is done."""

    counter: str


@published("counter.tallied")
class Tallied(Fact, frozen=True, kw_only=True):
    """The tally counted a finished counter."""

    counter: str


@published("counter.work")
class Work(Fact, frozen=True, kw_only=True):
    """Payload of a step's effect, and its result."""

    number: int


class CounterState(msgspec.Struct):
    """A counter: how far it is."""

    steps: int = 0
    done: int = 0
    needs: tuple[str, ...] = ()
    failed: str = ""


class TallyState(msgspec.Struct):
    """A tally: the counters that finished under its key."""

    counters: list[str] = []


def _evolve(state: CounterState, event: object) -> CounterState:
    match event:
        case CounterStarted(steps=steps, needs=needs):
            return CounterState(steps=steps, needs=needs)
        case Counted(number=number):
            assert number == state.done + 1, "steps are counted once each, in order"
            state.done = number
        case StepFailed(code=code):
            state.failed = code
    return state


def _step(number: int, needs: tuple[str, ...], due: dt.datetime) -> Effect:
    return Effect(
        part=f"count/{number}",
        kind="count",
        payload=Work(number=number),
        due=due,
        needs=tuple(Need(budget=name, mode=mode) for mode, _, name in map(_split, needs)),
    )


def _seats(needs: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for mode, _, name in map(_split, needs) if mode == "seat")


def _split(need: str) -> tuple[str, str, str]:
    return need.partition(" ")


def decide_start(state: CounterState, received: Received) -> Decision:
    """Start a counter; one that exists is refused."""
    command: StartCounter = received.body
    if state.steps:
        raise Refused(f"{command.counter} counts already", code="exists")
    started = CounterStarted(steps=command.steps, needs=command.needs)
    if command.delay_s:
        due = received.at + dt.timedelta(seconds=command.delay_s)
        return Decision(events=(started,), timers=(Timer(name="begin", due=due, message=Begin()),))
    return Decision(events=(started,), effects=(_step(1, command.needs, received.at),))


def decide_begin(state: CounterState, received: Received) -> Decision:
    """The delay is over: the first step."""
    return Decision(effects=(_step(1, state.needs, received.at),)) if not state.done else NOTHING


def decide_outcome(state: CounterState, received: Received) -> Decision:
    """A step ended: the next one, or the end."""
    outcome: EffectOutcome = received.body
    if not outcome.ok:
        return Decision(events=(StepFailed(code=outcome.code),), release_seats=_seats(state.needs))
    number = outcome.result.number
    if number != state.done + 1:
        return NOTHING
    counted = Counted(number=number)
    if number < state.steps:
        return Decision(events=(counted,), effects=(_step(number + 1, state.needs, received.at),))
    _, key, *_ = received.stream.split(":")
    tally = Send(to=SERVICE, key=key, message=Tally(counter=received.stream))
    return Decision(events=(counted,), sends=(tally,), release_seats=_seats(state.needs))


def decide_tally(state: TallyState, received: Received) -> Decision:
    """Count a finished counter once."""
    message: Tally = received.body
    if message.counter in state.counters:
        return NOTHING
    return Decision(events=(Tallied(counter=message.counter),))


def _evolve_tally(state: TallyState, event: object) -> TallyState:
    if isinstance(event, Tallied):
        state.counters.append(event.counter)
    return state


def _tally_of(received: Received) -> str:
    return f"tally:{received.body.counter.split(':')[1]}"


COUNTER = Family(
    name="counter",
    state=CounterState,
    initial=CounterState,
    evolve=_evolve,
    is_terminal=lambda s: bool(s.failed) or (s.steps > 0 and s.done == s.steps),
    outcome=decide_outcome,
)
TALLY = Family(
    name="tally",
    state=TallyState,
    initial=TallyState,
    evolve=_evolve_tally,
    is_terminal=lambda s: False,
)

DEFINITION = ServiceDefinition(
    name=SERVICE,
    families=(COUNTER, TALLY),
    handlers=(
        on(StartCounter, route=lambda r: r.body.counter, decide=decide_start),
        on(Begin, route=lambda r: r.stream, decide=decide_begin),
        on(Tally, route=_tally_of, decide=decide_tally),
    ),
    subscriptions=(
        ("gateway", commands_topic(SERVICE)),
        (SERVICE, commands_topic(SERVICE)),
    ),
)
