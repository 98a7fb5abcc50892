"""The watcher of a site: one chain of looks while anybody waits, news only when there is some."""

from __future__ import annotations

import datetime as dt

from schemas import recovery as said
from schemas import recovery_work as work
from schemas.envelope import Meta, Received
from services.recovery.domain import watch as watcher
from shared.decider import EffectOutcome, Story
from shared.testing.spec import T0
from tests.unit.recovery.world import SITE, World

WATCH = "site-watch:west"
POLL = f"{WATCH}/poll/1"
STREAM = "vm-recovery:shop:r1:db"
UNTIL = T0 + dt.timedelta(seconds=60)


def watched(*streams: str) -> World:
    world = World()
    for stream in streams or (STREAM,):
        world.deliver(asked(stream))
    return world


def asked(stream: str = STREAM) -> said.WatchInstance:
    """To watch an instance for a minute."""
    return said.WatchInstance(
        site=SITE, stream=stream, instance_id="i1", kind="heartbeat", until=UNTIL
    )


def test_the_first_watched_instance_is_looked_at_at_once() -> None:
    world = watched()
    assert [each.stream for each in world.effects[POLL].payload.watched] == [STREAM]


def test_a_second_one_joins_the_looks_that_go_on() -> None:
    world = watched(STREAM, "vm-recovery:shop:r1:app")
    assert list(world.effects) == [POLL]
    world.settle(POLL, work.SitePolled())
    world.fire_next_timer()
    assert len(world.effects[POLL].payload.watched) == 2


def test_a_look_without_news_leaves_no_event_and_the_next_comes_in_a_quarter_second() -> None:
    world = watched()
    before = len(world.log)
    world.settle(POLL, work.SitePolled())
    assert len(world.log) == before
    assert world.timers[WATCH, "poll"][0] == world.now + dt.timedelta(seconds=0.25)


def test_a_look_that_fails_is_repeated_after_a_pause() -> None:
    world = watched()
    world.settle(POLL, code="unreachable")
    assert world.timers[WATCH, "poll"][0] == world.now + dt.timedelta(seconds=2)


def test_who_is_ready_is_told_and_watched_no_more() -> None:
    world = watched()
    world.settle(POLL)
    (message,) = world.queues["shop"]
    assert (message.stream, message.at) == (STREAM, world.now)
    assert not world.timers
    assert world.event(said.InstanceUnwatched).stream == STREAM


def test_who_is_late_is_told_and_watched_no_more() -> None:
    world = watched(STREAM, "vm-recovery:shop:r1:app")
    world.settle(POLL, work.SitePolled(late=(STREAM,)))
    (message,) = world.queues["shop"]
    assert message == said.InstanceLate(stream=STREAM, until=UNTIL)
    assert list(world.state(WATCH).watched) == ["vm-recovery:shop:r1:app"]
    assert world.timers, "the other is still waited for"


def test_a_look_asked_for_before_somebody_joined_makes_nobody_late() -> None:
    world = watched()
    world.deliver(asked("vm-recovery:shop:r1:app"))
    world.now = UNTIL + dt.timedelta(seconds=30)  # the site throttled it
    world.settle(POLL, work.SitePolled())
    assert not world.queues["shop"]


def test_a_site_that_cannot_be_asked_makes_nobody_late_for_a_minute() -> None:
    world = watched()
    world.now = UNTIL + dt.timedelta(seconds=59)
    world.settle(POLL, code="unreachable")
    assert not world.queues["shop"]
    world.fire_next_timer()
    world.settle(POLL, code="unreachable")
    (message,) = world.queues["shop"]
    assert (message.stream, message.error) == (STREAM, "it broke")
    assert not world.timers


def test_nothing_is_looked_at_once_nobody_waits() -> None:
    world = watched()
    world.deliver(said.UnwatchInstance(site="west", stream=STREAM))
    world.settle(POLL)
    assert not world.timers and not world.queues["shop"]


def test_a_chain_that_ran_out_does_not_disturb_a_new_one() -> None:
    world = watched()
    world.settle(POLL, work.SitePolled())
    world.deliver(said.UnwatchInstance(site="west", stream=STREAM))
    world.deliver(asked())
    assert list(world.effects) == [f"{WATCH}/poll/2"]
    world.fire_next_timer()
    assert list(world.effects) == [f"{WATCH}/poll/2"]


def test_watching_twice_is_watching_once() -> None:
    world = watched(STREAM, STREAM)
    assert len(world.events(said.InstanceWatched)) == 1


def test_news_belongs_to_the_recovery_that_waits_and_the_looks_to_none() -> None:
    now = World().now
    state = watcher.SiteWatch()
    for number in (1, 2):
        message = asked(f"vm-recovery:shop:r{number}:db")
        meta = Meta(occurred_at=now, correlation_id=f"command-{number}", traceparent=f"t-{number}")
        (event,) = watcher.watch(state, Received(body=message, meta=meta, at=now)).events
        state = watcher.evolve(state, event)
    ready = work.ReadyGuest(stream="vm-recovery:shop:r2:db", at=now)
    ended = EffectOutcome(
        effect_id=POLL, part="poll/1", kind="poll-site", ok=True, at=now, started_at=now,
        attempts=1, result=work.SitePolled(ready=(ready,)),
    )  # fmt: skip
    meta = Meta(occurred_at=now, correlation_id="command-1", traceparent="t-1")
    decision = watcher.outcome(state, Received(body=ended, meta=meta, at=now, stream=WATCH))
    (send,), (timer,) = decision.sends, decision.timers
    assert send.story == Story(correlation_id="command-2", traceparent="t-2")
    assert timer.story == Story(correlation_id=WATCH)
