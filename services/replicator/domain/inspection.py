"""Looking at a site for somebody: one effect, one answer.

Reads only. Decides nothing about what was found: whoever asked does.
"""

from __future__ import annotations

from typing import Final

import msgspec

from schemas.common import Problem
from schemas.envelope import Received
from schemas.ids import key_of, stream_id
from schemas.replicator import InspectionEnded, InspectionStarted, InspectSite
from schemas.scheduler import SiteInspected
from shared.decider import NOTHING, Decision, Effect, EffectOutcome, Family, Send, WorkClass

INSPECT: Final = "inspect-site"
_PRIORITY: Final = 1
"""A person waits for the answer."""


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """One look at one site."""

    started: InspectionStarted | None = None
    ended: bool = False


def inspection_stream(m: InspectSite) -> str:
    """The stream of a look: a plan's two sites, and its VMs, are looked at apart."""
    request = m.request.replace(":", "-").replace("/", "-") or "unasked"
    what = "vms" if m.vms or m.match is not None else "site"
    return stream_id("inspection", m.site.site, request, what)


def inspect(state: Inspection, received: Received) -> Decision:
    """Look at the site."""
    m: InspectSite = received.body
    if state.started is not None:
        return NOTHING
    event = InspectionStarted(request=m.request, site=m.site.site, for_stream=m.for_stream)
    # Without needs: it is what defines the site's budgets.
    effect = Effect(
        part=INSPECT,
        kind=INSPECT,
        payload=m,
        due=received.at,
        work_class=WorkClass.RECOVERY,
        priority=_PRIORITY,
    )
    return Decision(events=(event,), effects=(effect,))


def outcome(state: Inspection, received: Received) -> Decision:
    """Answer whoever asked."""
    ended: EffectOutcome = received.body
    asked = state.started
    if asked is None or state.ended:
        return NOTHING
    if ended.ok:
        answer: SiteInspected = ended.result
    else:
        problem = Problem(
            code=ended.code or "site-unreachable",
            message=f"looking at site {asked.site}: {ended.error}",
            remedy=ended.remedy,
        )
        answer = SiteInspected(
            request=asked.request, site=asked.site, for_stream=asked.for_stream, problem=problem
        )
    send = Send(to="scheduler", key=key_of(asked.for_stream), message=answer)
    return Decision(events=(InspectionEnded(problem=answer.problem),), sends=(send,))


def evolve(state: Inspection, event: InspectionStarted | InspectionEnded) -> Inspection:
    """Apply one fact."""
    if isinstance(event, InspectionStarted):
        return Inspection(started=event)
    return msgspec.structs.replace(state, ended=True)


FAMILY = Family(
    name="inspection",
    state=Inspection,
    initial=Inspection,
    evolve=evolve,
    is_terminal=lambda state: state.ended,
    outcome=outcome,
)
