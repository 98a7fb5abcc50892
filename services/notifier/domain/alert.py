"""One alert: opened once per condition and subject, counted, closed when the condition clears.

A reconciler: it has no end, and opens again when its condition comes back. Open, acknowledged
and snoozed exclude each other; a snooze ends by a timer, and people are told again.
"""

from __future__ import annotations

import datetime as dt
from typing import Literal

import msgspec

from schemas.envelope import Received
from schemas.ids import key_of
from schemas.notifier import (
    AlertAcknowledged,
    AlertEased,
    AlertOpened,
    AlertReinstated,
    AlertRepeated,
    AlertResolved,
    AlertSnoozed,
    AlertSnoozeEnded,
    AlertWithdrawn,
    ChangeAlert,
    NoteAlert,
    SnoozeDue,
)
from services.notifier.domain.finding import Finding
from shared.decider import NOTHING, Decision, Family, Send, Timer
from shared.errors import Refused

OWN = "notifier"
_SNOOZE_TIMER = "snooze"


class Alert(msgspec.Struct):
    """Whether the alert is open, until when nobody wants to hear of it, and what it says.

    `gone`: what it is about is protected no more. `things` are those it is about, where it
    tells several apart.
    """

    open: bool = False
    acknowledged: bool = False
    count: int = 0
    silent_until: dt.datetime | None = None
    note: NoteAlert | None = None
    gone: bool = False
    things: tuple[str, ...] = ()


def evolve(state: Alert, event: object) -> Alert:
    """Apply one fact."""
    match event:
        case AlertOpened():
            state.open, state.acknowledged, state.count = True, False, 1
            state.note = _note(event)
            state.things = _with(state.things, event.thing)
        case AlertRepeated():
            state.count += 1
            state.things = _with(state.things, event.thing)
            if event.text and state.note is not None:
                state.note = msgspec.structs.replace(state.note, text=event.text)
        case AlertAcknowledged():
            state.acknowledged, state.silent_until = True, None
        case AlertSnoozed(until=until):
            state.acknowledged, state.silent_until = False, until
        case AlertSnoozeEnded():
            state.silent_until = None
        case AlertResolved():
            state.open, state.silent_until, state.things = False, None, ()
        case AlertEased():
            state.things = tuple(thing for thing in state.things if thing != event.thing)
        case AlertWithdrawn():
            state.gone = True
        case AlertReinstated():
            state.gone = False
    return state


def _with(things: tuple[str, ...], thing: str) -> tuple[str, ...]:
    return things if not thing or thing in things else (*things, thing)


FAMILY = Family(
    name="alert",
    state=Alert,
    initial=Alert,
    evolve=evolve,
    is_terminal=lambda state: False,
    schema=2,
)


def see(state: Alert, finding: Finding) -> Decision:
    """A condition was seen, or cleared."""
    if not finding.holds:
        return _ease(state, finding.thing)
    if state.gone:
        return NOTHING
    if state.open:
        again = AlertRepeated(job=finding.job, text=finding.text, thing=finding.thing)
        return Decision(events=(again,), sends=_retold(state, finding))
    opened = AlertOpened(
        condition=finding.condition,
        subject=finding.subject,
        severity=finding.severity,
        plan=finding.plan,
        job=finding.job,
        title=finding.title,
        text=finding.text,
        remedy=finding.remedy,
        thing=finding.thing,
    )
    return Decision(events=(opened,), sends=() if finding.mailed else (_tell(_note(opened)),))


def _retold(state: Alert, finding: Finding) -> tuple[Send, ...]:
    """To people who know of the alert, where it is another thing by now."""
    if not finding.retold or state.silent_until is not None:
        return ()
    note = NoteAlert(
        plan=finding.plan,
        severity=finding.severity,
        title=finding.title,
        text=finding.text,
        remedy=finding.remedy,
    )
    return (_tell(note),)


def _ease(state: Alert, thing: str) -> Decision:
    """The condition is over, or over for one of the things it was seen of."""
    if not thing:
        return close(state)
    if thing not in state.things:
        return NOTHING
    return (
        close(state) if state.things == (thing,) else Decision(events=(AlertEased(thing=thing),))
    )


def close(state: Alert) -> Decision:
    """The condition is over."""
    return _resolved(state, "condition") if state.open else NOTHING


def withdraw(state: Alert) -> Decision:
    """What the alert is about is gone: it closes, and a failure heard late does not open it."""
    if state.gone:
        return NOTHING
    closed = close(state)
    return msgspec.structs.replace(closed, events=(*closed.events, AlertWithdrawn()))


def reinstate(state: Alert) -> Decision:
    """What the alert is about is back."""
    return Decision(events=(AlertReinstated(),)) if state.gone else NOTHING


def _note(opened: AlertOpened) -> NoteAlert:
    return NoteAlert(
        plan=opened.plan,
        severity=opened.severity,
        title=opened.title,
        text=opened.text,
        remedy=opened.remedy,
    )


def _tell(note: NoteAlert) -> Send:
    return Send(to=OWN, key=note.plan, message=note)


def _resolved(state: Alert, by: Literal["condition", "person"]) -> Decision:
    return Decision(events=(AlertResolved(by=by),), cancel_timers=_waiting(state))


def _waiting(state: Alert) -> tuple[str, ...]:
    """The timer that a change of the alert makes void."""
    return (_SNOOZE_TIMER,) if state.silent_until is not None else ()


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
        return _resolved(state, "person")
    if command.action == "ack":
        if state.acknowledged:
            return NOTHING
        return Decision(events=(AlertAcknowledged(),), cancel_timers=_waiting(state))
    return _snooze(command, received.at)


def _snooze(command: ChangeAlert, now: dt.datetime) -> Decision:
    if command.until is None or command.until <= now:
        raise Refused(
            "the moment to snooze until is not in the future",
            code="invalid",
            remedy="give a later time with a zone",
        )
    due = SnoozeDue(until=command.until)
    return Decision(
        events=(AlertSnoozed(until=command.until),),
        timers=(Timer(name=_SNOOZE_TIMER, due=command.until, message=due),),
    )


def snooze_due(state: Alert, received: Received) -> Decision:
    """The time to be silent is over: what is still wrong is open again, and told again."""
    message: SnoozeDue = received.body
    if not state.open or state.silent_until != message.until:
        return NOTHING
    sends = () if state.note is None else (_tell(state.note),)
    return Decision(events=(AlertSnoozeEnded(),), sends=sends)


def route_change(received: Received) -> str:
    """The alert's own stream; an id that names none names the empty alert of its plan."""
    alert: str = received.body.alert
    well_formed = alert.count(":") >= 3 and alert.startswith("alert:")
    return alert if well_formed else f"alert:{_key(alert)}:none:none"


def _key(alert: str) -> str:
    return key_of(alert) or "none" if ":" in alert else "none"
