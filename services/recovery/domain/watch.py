"""The watcher of a site: one look at all watched instances at a time, until each is ready or late.

Reconciler. Decides when to look again. Does not decide how long a VM may take (`vm_recovery`)
nor how a guest is probed (effects). A look without news leaves no event.

Late is what a look has found so that began after the instance's time: a look may wait for its
turn at a site that throttles, and a guest that nobody could look at is not late.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import msgspec

from schemas import recovery as said
from schemas.envelope import Received
from schemas.ids import key_of, stream_id
from schemas.recovery_work import PollSite, SitePolled, Watched
from schemas.scheduler import SiteRef
from services.recovery.domain.work import recovery_effect
from shared.decider import NOTHING, Decision, Effect, EffectOutcome, Family, Send, Story, Timer

POLL_EVERY_S: Final = 0.25
POLL_AFTER_FAILURE_S: Final = 2.0
PATIENCE_S: Final = 60.0
"""How long past its time an instance is waited for while every look at its site fails."""

_TIMER: Final = "poll"


class SiteWatch(msgspec.Struct, frozen=True, kw_only=True):
    """Who waits for what. A `chain` is one unbroken run of looks; only the newest counts.

    `stories` say what each of them waits in: the looks are for several recoveries at once, the
    news is for one.
    """

    site: SiteRef | None = None
    watched: dict[str, Watched] = {}
    stories: dict[str, Story] = {}
    chain: int = 0


def watch_stream(site: str) -> str:
    """The stream of a site's watcher."""
    return stream_id("site-watch", site)


def watch(state: SiteWatch, received: Received) -> Decision:
    """Watch one more instance; the first one starts the looking."""
    m: said.WatchInstance = received.body
    if m.stream in state.watched:
        return NOTHING
    event = said.InstanceWatched(
        site=m.site,
        stream=m.stream,
        instance_id=m.instance_id,
        kind=m.kind,
        until=m.until,
        port=m.port,
        path=m.path,
        correlation_id=received.meta.correlation_id,
        traceparent=received.meta.traceparent,
    )
    effects = () if state.watched else (_look(evolve(state, event), received.at),)
    return Decision(events=(event,), effects=effects)


def unwatch(state: SiteWatch, received: Received) -> Decision:
    """Nobody waits for it any more."""
    m: said.UnwatchInstance = received.body
    if m.stream not in state.watched:
        return NOTHING
    return Decision(events=(said.InstanceUnwatched(stream=m.stream),))


def poll_due(state: SiteWatch, received: Received) -> Decision:
    """Look again, if anybody still waits."""
    m: said.PollDue = received.body
    if not state.watched or m.chain != state.chain:
        return NOTHING
    return Decision(effects=(_look(state, received.at),))


def outcome(state: SiteWatch, received: Received) -> Decision:
    """A look ended: tell who is ready or late, and look again later while anybody waits."""
    ended: EffectOutcome = received.body
    if not state.watched or ended.part != _part(state):
        return NOTHING
    news = _found(state, ended.result) if ended.ok else _given_up(state, ended)
    timers: tuple[Timer, ...] = ()
    if len(news) < len(state.watched):
        pause_s = POLL_EVERY_S if ended.ok else POLL_AFTER_FAILURE_S
        due = received.at + dt.timedelta(seconds=pause_s)
        message = said.PollDue(chain=state.chain)
        # Looks every quarter of a second would drown a recovery's trace: they are in none.
        aside = Story(correlation_id=received.stream)
        timers = (Timer(name=_TIMER, due=due, message=message, story=aside),)
    return Decision(
        events=tuple(said.InstanceUnwatched(stream=told.stream) for told in news),
        sends=tuple(
            Send(
                to="recovery",
                key=key_of(told.stream),
                message=told,
                story=state.stories.get(told.stream),
            )
            for told in news
        ),
        timers=timers,
    )


def _found(state: SiteWatch, answer: SitePolled) -> list[said.InstanceReady | said.InstanceLate]:
    ready = (
        said.InstanceReady(stream=guest.stream, at=guest.at, addresses=guest.addresses)
        for guest in answer.ready
        if guest.stream in state.watched
    )
    late = (
        said.InstanceLate(stream=stream, until=state.watched[stream].until)
        for stream in answer.late
        if stream in state.watched
    )
    return [*ready, *late]


def _given_up(state: SiteWatch, ended: EffectOutcome) -> list[said.InstanceLate]:
    """Who would be waited for without end if the site never could be asked again."""
    patience = dt.timedelta(seconds=PATIENCE_S)
    return [
        said.InstanceLate(stream=stream, until=entry.until, error=ended.error)
        for stream, entry in state.watched.items()
        if entry.until + patience <= ended.at
    ]


def evolve(state: SiteWatch, event: Any) -> SiteWatch:
    """Apply one fact."""
    match event:
        case said.InstanceWatched():
            entry = Watched(
                stream=event.stream,
                instance_id=event.instance_id,
                kind=event.kind,
                until=event.until,
                port=event.port,
                path=event.path,
            )
            story = Story(correlation_id=event.correlation_id, traceparent=event.traceparent)
            return SiteWatch(
                site=event.site,
                watched={**state.watched, event.stream: entry},
                stories={**state.stories, event.stream: story},
                chain=state.chain if state.watched else state.chain + 1,
            )
        case said.InstanceUnwatched():
            left = {s: entry for s, entry in state.watched.items() if s != event.stream}
            stories = {s: story for s, story in state.stories.items() if s in left}
            return msgspec.structs.replace(state, watched=left, stories=stories)
    raise AssertionError(f"{type(event).__name__} is no event of a site's watcher")


def _part(state: SiteWatch) -> str:
    return f"poll/{state.chain}"


def _look(state: SiteWatch, now: dt.datetime) -> Effect:
    assert state.site is not None, "somebody watches an instance of it"
    return recovery_effect(
        _part(state),
        "poll-site",
        PollSite(site=state.site, watched=tuple(state.watched.values())),
        site=state.site.site,
        plan="",
        due=now,
        priority=1,
    )


FAMILY = Family(
    name="site-watch",
    state=SiteWatch,
    initial=SiteWatch,
    evolve=evolve,
    is_terminal=lambda state: False,
    outcome=outcome,
    schema=2,
)
