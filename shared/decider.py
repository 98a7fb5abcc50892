"""The write model: pure deciders and process managers, and what they may ask for.

A decider is `decide(state, message) -> Decision | raise Refused` and `evolve(state, event)`.
Everything a decision wants from the world (effects, timers, messages) is returned as data and
becomes durable in the same transaction as its events. No I/O, clock, randomness or new ids.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from schemas.envelope import Received


class WorkClass(enum.IntEnum):
    """Order of classes at a shared budget: lower goes first."""

    RECOVERY = 0
    CHECKPOINT = 1
    REPLICATION = 2


class Need(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One budget an effect needs before it may start.

    mode `hold`: one unit of a concurrency budget while the effect runs. `seat`: one unit taken
    by the effect's *stream* until the decision releases it. `rate`: one token of a bucket,
    spent at the start.
    """

    budget: str
    mode: str


OPEN_FROM: Final = 1e9
"""A budget's limit from here on is none: how one is kept that nobody knows a limit of."""


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """Durable work for the outside world. Its id is `<stream>/<part>` and its platform token.

    `payload` is a published struct. `due` orders work of equal class and priority;
    `interval_s` > 0 lets work older than that rise by one priority.
    """

    part: str
    kind: str
    payload: Any
    due: dt.datetime
    work_class: WorkClass = WorkClass.REPLICATION
    priority: int = 3
    plan: str = ""
    not_before: dt.datetime | None = None
    interval_s: float = 0
    needs: tuple[Need, ...] = ()


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """What a fact belongs to: the request or tick at its root, and the place in its trace.

    With neither, what follows is the root of a story of its own.
    """

    correlation_id: str = ""
    traceparent: str = ""


NEW_STORY = Story()
"""For what recurs for ever: a tick is not part of the request that once set its clock going."""


class Timer(msgspec.Struct, frozen=True, kw_only=True):
    """Deliver `message` (a published struct) to this stream at `due`.

    Setting a name again replaces it. The handler of the message's type receives it with
    `Received.stream` set to the stream and `Received.at` the moment it fired. It belongs to the
    story of the message that is decided, unless `story` names another.
    """

    name: str
    due: dt.datetime
    message: Any
    story: Story | None = None


class Send(msgspec.Struct, frozen=True, kw_only=True):
    """A message to another service (or our own), in order per `key` (the plan or site).

    `story` as a timer's.
    """

    to: str
    key: str
    message: Any
    story: Story | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What one message does to one stream. Empty is a normal answer.

    `reserve` are unique names taken for this stream (a taken one refuses the message with
    `code` name-taken), `release` gives them back. `cancel_effects` removes effects of this
    stream by part if they are not yet claimed; claimed ones are asked to stop, and their
    outcome arrives with code `cancelled`. A command is answered `done` in the step that decides
    it, unless `defer` says that a later message's decision does, through `answers`
    (`CommandSettled` facts).
    """

    events: tuple[Any, ...] = ()
    effects: tuple[Effect, ...] = ()
    timers: tuple[Timer, ...] = ()
    cancel_timers: tuple[str, ...] = ()
    cancel_effects: tuple[str, ...] = ()
    release_seats: tuple[str, ...] = ()
    sends: tuple[Send, ...] = ()
    reserve: tuple[str, ...] = ()
    release: tuple[str, ...] = ()
    answers: tuple[Any, ...] = ()
    defer: bool = False


NOTHING = Decision()


class EffectOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How an effect ended for good, as its owner's decider receives it.

    `ok` with the handler's published result, or not ok with `code`, `error`, `remedy`.
    `unknown` is True where the effect had started something that must not run twice and its
    end is not known. `attempts` counts committed failures plus the last try.
    """

    effect_id: str
    part: str
    kind: str
    ok: bool
    at: dt.datetime
    started_at: dt.datetime
    attempts: int
    result: Any = None
    code: str = ""
    error: str = ""
    remedy: str = ""
    unknown: bool = False


class EffectTrouble(msgspec.Struct, frozen=True, kw_only=True):
    """An effect that goes on has failed as often as its policy bears in silence.

    Heard once per effect, in the step that puts it back; the owner says what people should know.
    """

    effect_id: str
    part: str
    kind: str
    attempts: int
    code: str
    error: str
    remedy: str = ""


Evolve = Callable[[Any, Any], Any]
Decide = Callable[[Any, Received], Decision]
DecideMany = Callable[[Mapping[str, Any], Received], Mapping[str, Decision]]
Route = Callable[[Received], str]
RouteMany = Callable[[Received], tuple[str, ...]]
Expand = Callable[[Mapping[str, Any], Received], tuple[str, ...]]


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of stream: how its state begins, folds and ends. `state` is a msgspec struct.

    `schema` is raised whenever the shape of the state changes: older snapshots are ignored.
    `outcome` decides over the end of an effect of the stream; its message body is an
    `EffectOutcome`. `trouble` decides over an `EffectTrouble`; without it trouble is not told.
    """

    name: str
    state: type[msgspec.Struct]
    initial: Callable[[], Any]
    evolve: Evolve
    is_terminal: Callable[[Any], bool]
    outcome: Decide | None = None
    trouble: Decide | None = None
    schema: int = 1


class Handler(msgspec.Struct, frozen=True, kw_only=True):
    """What a service does with one message type: the streams it concerns and the decision.

    `expand` names further streams once the routed ones are known (a plan's VMs). `follow` is asked
    again and again, until it names none that is not there yet (plans that name other plans): it
    must come to an end. The decision sees all of them at once and answers for all or none.
    """

    message: type
    route: RouteMany
    decide: DecideMany
    expand: Expand | None = None
    follow: Expand | None = None


def on(message: type, *, route: Route, decide: Decide) -> Handler:
    """A handler for the common case: one message, one stream."""

    def decide_one(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
        ((stream, state),) = states.items()
        return {stream: decide(state, received)}

    return Handler(message=message, route=lambda m: (route(m),), decide=decide_one)


def on_many(
    message: type,
    *,
    route: RouteMany,
    decide: DecideMany,
    expand: Expand | None = None,
    follow: Expand | None = None,
) -> Handler:
    """A handler that decides over several streams in one step, all or none."""
    return Handler(message=message, route=route, decide=decide, expand=expand, follow=follow)
