"""Which message concerns which streams of the notifier, and who decides it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from schemas.envelope import Received, commands_topic, events_topic
from schemas.ids import stream_id
from schemas.notifier import ChangeAlert, Deliver, DigestDue, NoteAlert, SnoozeDue
from schemas.recovery import RecoveryFinished, RecoveryStarted, VmFinished
from schemas.recovery_steering import RecoveryReopened
from services.notifier.domain import alert, delivery, subjects
from services.notifier.domain.findings import FINDERS, findings
from shared.decider import Decision, Handler, on, on_many
from shared.fold import ServiceDefinition

NAME = "notifier"


def _streams(received: Received) -> tuple[str, ...]:
    streams = tuple(finding.stream for finding in findings(received))
    news = _news_of(received)
    return (*streams, news) if news else streams


def _news_of(received: Received) -> str:
    """The stream that collects a recovery's news, if the event is some."""
    match received.body:
        case RecoveryFinished():
            return delivery.news_of(received.stream)
        case VmFinished():
            return delivery.news_of(received.body.job)
    return ""


def _see(
    states: Mapping[str, Any], received: Received, *, to: tuple[str, ...]
) -> Mapping[str, Decision]:
    decisions: dict[str, Decision] = {
        finding.stream: alert.see(states[finding.stream], finding)
        for finding in findings(received)
    }
    news = _news_of(received)
    if isinstance(received.body, RecoveryFinished):
        decisions[news] = delivery.tell_recovery(states[news], received, to)
    elif isinstance(received.body, VmFinished):
        decisions[news] = delivery.note_vm(states[news], received)
    return decisions


def _leaving(received: Received) -> tuple[str, ...]:
    return (*subjects.withdrawn(received), *subjects.closed(received))


def _leave(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    withdrawn = {s: alert.withdraw(states[s]) for s in subjects.withdrawn(received)}
    return withdrawn | {s: alert.close(states[s]) for s in subjects.closed(received)}


def _return(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    return {s: alert.reinstate(states[s]) for s in subjects.back(received)}


def _handlers(to: tuple[str, ...]) -> tuple[Handler, ...]:
    see = partial(_see, to=to)
    return (
        *(on_many(event, route=_streams, decide=see) for event in FINDERS),
        *(on_many(event, route=_leaving, decide=_leave) for event in subjects.LEAVING),
        *(on_many(event, route=subjects.back, decide=_return) for event in subjects.RETURNING),
        on(
            RecoveryStarted,
            route=lambda r: delivery.news_of(r.body.job),
            decide=delivery.note_recovery,
        ),
        on(
            RecoveryReopened,
            route=lambda r: delivery.news_of(r.stream),
            decide=delivery.reopen,
        ),
        on(ChangeAlert, route=alert.route_change, decide=alert.change),
        on(SnoozeDue, route=lambda r: r.stream, decide=alert.snooze_due),
        on(
            NoteAlert,
            route=lambda r: stream_id("digest", r.body.plan),
            decide=lambda state, r: delivery.note_alert(state, r, to),
        ),
        on(
            DigestDue,
            route=lambda r: r.stream,
            decide=lambda state, r: delivery.send_digest(state, r, to),
        ),
        on(Deliver, route=lambda r: r.body.stream, decide=delivery.deliver),
    )


def definition(to: tuple[str, ...]) -> ServiceDefinition:
    """The notifier that writes to these people; with none it keeps alerts and sends no mail."""
    return ServiceDefinition(
        name=NAME,
        families=(alert.FAMILY, delivery.NEWS, delivery.DIGEST, delivery.DELIVERY),
        handlers=_handlers(to),
        subscriptions=(
            ("gateway", commands_topic(NAME)),
            (NAME, commands_topic(NAME)),
            *((name, events_topic(name)) for name in ("scheduler", "replicator", "recovery")),
        ),
    )
