"""What a decision leads to belongs to its message's story, or the one a decider names."""

from __future__ import annotations

import datetime as dt

import msgspec

from schemas.envelope import Meta, Received
from shared.decider import NEW_STORY, Decision, Family, Send, Story, Timer, on
from shared.eventlog.port import Loaded, Step
from shared.fold import Folder, Input, ServiceDefinition, StateCache
from shared.testing.counter import Begin, Tally

NOW = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = Story(correlation_id="command-2", traceparent=TRACE.replace("b7ad", "aaaa"))


class Nothing(msgspec.Struct):
    """A state nobody needs."""


def step(meta: Meta, *, story: Story | None = None) -> Step:
    """The step of a message that sets a timer and sends a message."""
    family = Family(
        name="x",
        state=Nothing,
        initial=Nothing,
        evolve=lambda state, event: state,
        is_terminal=lambda state: False,
    )
    decision = Decision(
        timers=(Timer(name="t", due=NOW, message=Begin(), story=story),),
        sends=(Send(to="y", key="a", message=Tally(counter="c"), story=story),),
    )
    handler = on(Begin, route=lambda m: m.stream, decide=lambda state, m: decision)
    definition = ServiceDefinition(
        name="x", families=(family,), handlers=(handler,), subscriptions=()
    )
    cache = StateCache(definition)
    cache.absorb({"x:a": Loaded(None, ())})
    received = Received(body=Begin(), meta=meta, at=NOW, cause="timer.x:a.t.1", stream="x:a")
    return Folder(definition, cache, {Begin: handler}).fold([Input(received=received)])


def told(of: Step) -> set[tuple[str, str]]:
    """Correlation and trace of the timer and of the message."""
    metas = (of.timers[0].meta, of.rows[0].meta)
    return {(meta.correlation_id, meta.traceparent) for meta in metas}


def test_what_follows_belongs_to_the_story_of_the_message() -> None:
    meta = Meta(occurred_at=NOW, correlation_id="command-1", traceparent=TRACE)
    assert told(step(meta)) == {("command-1", TRACE)}


def test_a_message_of_no_story_is_the_root_of_what_follows() -> None:
    assert told(step(Meta(occurred_at=NOW))) == {("timer.x:a.t.1", "")}


def test_what_recurs_for_ever_begins_a_story_of_its_own() -> None:
    meta = Meta(occurred_at=NOW, correlation_id="command-1", traceparent=TRACE)
    assert told(step(meta, story=NEW_STORY)) == {("", "")}


def test_a_decider_may_name_the_story_that_news_belong_to() -> None:
    meta = Meta(occurred_at=NOW, correlation_id="command-1", traceparent=TRACE)
    assert told(step(meta, story=OTHER)) == {(OTHER.correlation_id, OTHER.traceparent)}
