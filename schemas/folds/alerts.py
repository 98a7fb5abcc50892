"""Alerts: what needs a person, how often it was seen, and what was done about it."""

from __future__ import annotations

from typing import Any

import msgspec

from schemas import notifier as said
from schemas.envelope import Recorded
from schemas.folds.base import Column, Route, View, at
from schemas.views import Alert

_replace = msgspec.structs.replace


def _opened(doc: Alert | None, event: said.AlertOpened, recorded: Recorded, row: str) -> Alert:
    return Alert(
        id=row,
        condition=event.condition,
        subject=event.subject,
        severity=event.severity,
        state="open",
        plan=event.plan,
        job=event.job,
        title=event.title,
        text=event.text,
        remedy=event.remedy,
        opened_at=at(recorded),
        last_at=at(recorded),
    )


def _repeated(
    doc: Alert | None, event: said.AlertRepeated, recorded: Recorded, row: str
) -> Alert | None:
    if doc is None:
        return None
    return _replace(
        doc,
        count=doc.count + 1,
        last_at=at(recorded),
        job=event.job or doc.job,
        text=event.text or doc.text,
    )


def _changed(doc: Alert | None, recorded: Recorded, **changes: Any) -> Alert | None:
    return None if doc is None else _replace(doc, changed_by=recorded.meta.actor, **changes)


def _acknowledged(doc: Alert | None, event: Any, recorded: Recorded, row: str) -> Alert | None:
    return _changed(
        doc, recorded, state="acknowledged", acknowledged_at=at(recorded), snoozed_until=None
    )


def _snoozed(
    doc: Alert | None, event: said.AlertSnoozed, recorded: Recorded, row: str
) -> Alert | None:
    return _changed(doc, recorded, state="snoozed", snoozed_until=event.until)


def _woken(doc: Alert | None, event: Any, recorded: Recorded, row: str) -> Alert | None:
    # `changed_by` stays whoever snoozed it: nobody did this.
    return None if doc is None else _replace(doc, state="open", snoozed_until=None)


def _resolved(
    doc: Alert | None, event: said.AlertResolved, recorded: Recorded, row: str
) -> Alert | None:
    return _changed(
        doc,
        recorded,
        state="resolved",
        resolved_at=at(recorded),
        resolved_by=event.by,
        snoozed_until=None,
    )


VIEW = View(
    table="alerts",
    document=Alert,
    columns=(
        Column("plan", "text", lambda alert: alert.plan),
        Column("job", "text", lambda alert: alert.job),
        Column("state", "text", lambda alert: alert.state),
        Column("severity", "text", lambda alert: alert.severity),
        Column("last_at", "timestamptz", lambda alert: alert.last_at),
    ),
    routes={
        said.AlertOpened: (Route(_opened),),
        said.AlertRepeated: (Route(_repeated),),
        said.AlertAcknowledged: (Route(_acknowledged),),
        said.AlertSnoozed: (Route(_snoozed),),
        said.AlertSnoozeEnded: (Route(_woken),),
        said.AlertResolved: (Route(_resolved),),
    },
)
