"""Jobs of a site: originals powered off that run at a quarantined one."""

from __future__ import annotations

from schemas import lost_sites as said
from schemas.envelope import Recorded
from schemas.folds import steps
from schemas.folds.base import Route, at, error_of
from schemas.views import Job

VERIFY = "verify"
POWER_OFF = "power-off "


def _started(
    doc: Job | None, event: said.SitePowerOffStarted, recorded: Recorded, row: str
) -> Job:
    return Job(
        id=row,
        kind="site-power-off",
        plan="",
        state="running",
        actor=recorded.meta.actor,
        created_at=at(recorded),
        started_at=at(recorded),
        steps=steps.next_begun(steps.listed(event.steps), at(recorded)),
        facts={"site": event.site.site, "recoveries": list(event.recoveries)},
    )


def _looked(
    doc: Job | None, event: said.SitePowerOffLooked, recorded: Recorded, row: str
) -> Job | None:
    """The originals that were found are steps of their own, before the proof."""
    if doc is None:
        return None
    after = steps.ended(doc.steps, event.timing)
    for _, vm in event.originals:
        after = steps.begun(after, f"{POWER_OFF}{vm}", event.at)
    proof = [step for step in after if step.name == VERIFY]
    return steps.moved(doc, (*(step for step in after if step.name != VERIFY), *proof))


def _powered_off(
    doc: Job | None, event: said.OriginalPoweredOff, recorded: Recorded, row: str
) -> Job | None:
    if doc is None:
        return None
    facts = doc.facts
    if event.forced:
        facts = {**facts, "forced": int(facts.get("forced", 0)) + 1}
    after = steps.ended(doc.steps, event.timing)
    if not any(step.name.startswith(POWER_OFF) and step.state == "running" for step in after):
        after = steps.begun(after, VERIFY, at(recorded))
    return steps.moved(doc, after, facts=facts)


def _finished(
    doc: Job | None, event: said.SitePowerOffFinished, recorded: Recorded, row: str
) -> Job | None:
    return doc and steps.closed(
        doc,
        state=event.state,
        when=at(recorded),
        timings=event.steps,
        error=error_of(event.problem),
        facts={**doc.facts, "off": event.off, "running": event.running},
    )


ROUTES: dict[type, tuple[Route, ...]] = {
    said.SitePowerOffStarted: (Route(_started),),
    said.SitePowerOffLooked: (Route(_looked),),
    said.OriginalPoweredOff: (Route(_powered_off),),
    said.SitePowerOffFinished: (Route(_finished),),
}
