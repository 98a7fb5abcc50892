"""Whether a site's quota has been refused for long: said once when it begins, once when it ends.

A reconciler: any copy may tell what it sees, any number of times. Decides nothing about budgets.
"""

from __future__ import annotations

from typing import Final

import msgspec

from schemas.envelope import Received
from schemas.ids import stream_id
from schemas.replicator import NoteThrottling, ThrottledForLong, ThrottlingEased
from shared.decider import NOTHING, Decision, Family

NAME: Final = "throttling"


class Throttling(msgspec.Struct, frozen=True, kw_only=True):
    """Whether it was said to be refused for long."""

    told: bool = False


def throttling_stream(m: NoteThrottling) -> str:
    """The stream of a site's quota; a class's share of it is one of its own."""
    return stream_id(NAME, m.site, m.quota.replace(":", "-").replace("/", "-"))


def note(state: Throttling, received: Received) -> Decision:
    """What was seen is said where it is news."""
    m: NoteThrottling = received.body
    if m.holds == state.told:
        return NOTHING
    if not m.holds:
        return Decision(events=(ThrottlingEased(site=m.site, quota=m.quota),))
    told = ThrottledForLong(
        site=m.site,
        quota=m.quota,
        mode=m.mode,
        limit=m.limit,
        cap=m.cap,
        throttled=m.throttled,
        since=m.since,
    )
    return Decision(events=(told,))


def evolve(state: Throttling, event: ThrottledForLong | ThrottlingEased) -> Throttling:
    """Apply one fact."""
    return Throttling(told=isinstance(event, ThrottledForLong))


FAMILY = Family(
    name=NAME,
    state=Throttling,
    initial=Throttling,
    evolve=evolve,
    # It may begin again as long as the site is there.
    is_terminal=lambda state: False,
)
