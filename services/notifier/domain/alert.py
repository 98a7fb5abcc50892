"""One alert: opened once per condition and subject, counted, closed when the condition clears.

A reconciler: it has no end, and opens again when its condition comes back.
"""

from __future__ import annotations

import datetime as dt

import msgspec

from schemas.envelope import Received
from schemas.ids import key_of
from schemas.notifier import (
    AlertAcknowledged,
    AlertOpened,
    AlertRepeated,
    AlertResolved,
    AlertSnoozed,
    ChangeAlert,
    NoteAlert,
)
from services.notifier.domain.findings import Finding
from shared.decider import NOTHING, Decision, Family, Send
from shared.errors import Refused

OWN = "notifier"


class Alert(msgspec.Struct):
    """Whether the alert is open, and until when nobody wants to hear of it."""

    open: bool = False
    acknowledged: bool = False
    count: int = 0
    silent_until: dt.datetime | None = None


def evolve(state: Alert, event: object) -> Alert:
    """Apply one fact."""
    match event:
        case AlertOpened():
            state.open, state.acknowledged, state.count = True, False, 1
        case AlertRepeated():
            state.count += 1
        case AlertAcknowledged():
            state.acknowledged = True
        case AlertSnoozed(until=until):
            state.silent_until = until
        case AlertResolved():
            state.open, state.silent_until = False, None
    return state


FAMILY = Family(
    name="alert", state=Alert, initial=Alert, evolve=evolve, is_terminal=lambda state: False
)


def see(state: Alert, finding: Finding) -> Decision:
    """A condition was seen, or cleared."""
    if not finding.holds:
        return Decision(events=(AlertResolved(by="condition"),)) if state.open else NOTHING
    if state.open:
        return Decision(events=(AlertRepeated(job=finding.job, text=finding.text),))
    opened = AlertOpened(
        condition=finding.condition,
        subject=finding.subject,
        severity=finding.severity,
        plan=finding.plan,
        job=finding.job,
        title=finding.title,
        text=finding.text,
        remedy=finding.remedy,
    )
    return Decision(events=(opened,), sends=() if finding.mailed else (_note(finding),))


def _note(finding: Finding) -> Send:
    note = NoteAlert(
        plan=finding.plan,
        severity=finding.severity,
        title=finding.title,
        text=finding.text,
        remedy=finding.remedy,
    )
    return Send(to=OWN, key=finding.plan, message=note)


def change(state: Alert, received: Received) -> Decision:
    """A person acknowledges, snoozes or resolves. Raises Refused where nothing is open."""
    command: ChangeAlert = received.body
    if not state.count:
        raise Refused(
            f"no alert has the id {command.alert!r}",
            code="unknown-alert",
            remedy="see `seawall alert list`",
        )
    if not state.open:
        raise Refused(
            f"{command.alert} is resolved already", code="alert-resolved", remedy="nothing to do"
        )
    if command.action == "resolve":
        return Decision(events=(AlertResolved(by="person"),))
    if command.action == "ack":
        return NOTHING if state.acknowledged else Decision(events=(AlertAcknowledged(),))
    if command.until is None or command.until <= received.at:
        raise Refused(
            "the moment to snooze until is not in the future",
            code="invalid",
            remedy="give a later time with a zone",
        )
    return Decision(events=(AlertSnoozed(until=command.until),))


def route_change(received: Received) -> str:
    """The alert's own stream; an id that names none names the empty alert of its plan."""
    alert: str = received.body.alert
    well_formed = alert.count(":") >= 3 and alert.startswith("alert:")
    return alert if well_formed else f"alert:{_key(alert)}:none:none"


def _key(alert: str) -> str:
    return key_of(alert) or "none" if ":" in alert else "none"
