"""The watcher of a quarantined site: when it looks, what is news, when it ends."""

from __future__ import annotations

import datetime as dt

import msgspec

from schemas import lost_sites as said
from services.recovery.domain import commit_window
from tests.unit.recovery.lost_world import EAST, LOOK, WATCH, LostWorld
from tests.unit.recovery.world import JOB


def pause_s(world: LostWorld) -> float:
    return (world.timers[LOOK][0] - world.now).total_seconds()


def seen(world: LostWorld) -> said.OriginalsSeen:
    found: said.OriginalsSeen = world.events(said.OriginalsSeen)[-1]
    return found


def test_a_dead_site_is_asked_more_and_more_rarely_and_leaves_no_event() -> None:
    world = LostWorld().lost()
    before = len(world.log)
    pauses = [pause_s(world)]
    for _ in range(5):
        world.look()
        pauses.append(pause_s(world))
    assert pauses == [30, 30, 60, 120, 120, 120]
    assert len(world.log) == before
    assert not world.to_scheduler(said.OriginalsFound)


def test_a_site_that_is_back_is_looked_at_every_half_minute_and_said_to_run_once() -> None:
    world = LostWorld().lost()
    world.look()
    world.returns()
    assert pause_s(world) == 30
    found = seen(world).found
    assert (found.recovery, found.given_up, found.running, found.doubled) == (JOB, 3, 3, 3)
    assert [each.vm for each in found.originals] == ["db", "app", "web"]
    assert "BESIDE its recovered instance i-db" in said.in_words(found.originals[0])
    (told,) = world.to_scheduler(said.OriginalsFound)
    assert (told.running, told.doubled, told.vms) == (3, 3, ("db", "app", "web"))
    before = len(world.log)
    world.look()
    assert len(world.log) == before and len(world.to_scheduler(said.OriginalsFound)) == 1


def test_what_changes_at_the_site_is_news_and_what_it_hides_when_it_goes_again_is_not() -> None:
    world = LostWorld().lost().returns()
    world.sites.sources["db"] = False
    world.look()
    assert seen(world).found.running == 2
    world.back = False
    world.look()
    assert pause_s(world) == 30 and seen(world).found.running == 2
    world.back = True
    world.look()
    assert len(world.events(said.OriginalsSeen)) == 2


def test_a_look_at_once_stands_for_the_one_that_was_to_come() -> None:
    world = LostWorld().lost()
    world.back = True
    world.deliver(said.LookAtLostSite(site="east"))
    assert LOOK not in world.timers
    (under_way,) = world.effects
    world.deliver(said.LookAtLostSite(site="east"))
    world.settle(under_way, said.OriginalsListed(found=()))
    assert LOOK not in world.timers, "an old chain's look sets no clock"
    world.live()
    assert seen(world).found.running == 3
    assert pause_s(world) == 30


def test_a_timer_of_an_old_chain_looks_no_more() -> None:
    world = LostWorld().lost()
    _, old = world.timers[LOOK]
    world.back = True
    world.deliver(said.LookAtLostSite(site="east"))
    world.live()
    world.deliver(old, stream=WATCH)
    assert not world.effects


def test_a_second_recovery_is_watched_for_by_the_same_looks() -> None:
    world = LostWorld().lost()
    due = world.timers[LOOK]
    for _ in range(2):
        world.deliver(said.WatchLostSite(site=EAST, plan="shop", recovery="recovery:shop:r2"))
    assert len(world.events(said.LostSiteWatched)) == 2
    assert world.timers[LOOK] == due
    world.back = True
    world.look()
    news = [each.found for each in world.events(said.OriginalsSeen)]
    assert {each.recovery: each.given_up for each in news} == {JOB: 3, "recovery:shop:r2": 0}


def test_a_release_ends_the_watch_whatever_is_under_way() -> None:
    world = LostWorld().lost().returns()
    world.timers.pop(LOOK)
    world.deliver(said.LookAtLostSite(site="east"))
    (under_way,) = world.effects
    world.deliver(said.SiteReleased(site="east"))
    assert world.event(said.OriginalsSettled).recovery == JOB
    before = len(world.log)
    world.settle(under_way, said.OriginalsListed(found=()))
    assert len(world.log) == before and LOOK not in world.timers
    world.deliver(said.SiteReleased(site="east"))
    world.deliver(said.LookAtLostSite(site="east"))
    assert len(world.log) == before and not world.effects


def test_a_site_that_is_lost_again_is_watched_again() -> None:
    world = LostWorld().lost().returns()
    world.deliver(said.SiteReleased(site="east"))
    world.watch()
    world.look()
    assert len(world.events(said.OriginalsSeen)) == 2
    assert world.timers[LOOK][0] > world.now + dt.timedelta(seconds=1)


def test_what_is_rolled_back_was_not_given_up() -> None:
    world = LostWorld().lost().returns()
    world.roll_back()
    # The watcher looked at once: nobody waits for a beat to hear that it is settled.
    assert (seen(world).found.given_up, seen(world).found.running) == (0, 0)
    world.check_log()


def test_what_ended_without_having_made_anything_was_not_given_up() -> None:
    world = LostWorld().lost()
    state = world.state(JOB)
    assert len(commit_window.given_up(state)) == 3
    end = msgspec.structs.replace(state.finished, awaits_commit=False)
    assert commit_window.given_up(msgspec.structs.replace(state, finished=end)) == ()
    running = msgspec.structs.replace(state, finished=None)
    assert len(commit_window.given_up(running)) == 3
