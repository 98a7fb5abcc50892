"""What the notifier says: alerts a person must look at, and deliveries to people."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from schemas.common import Command, Fact, Problem
from schemas.registry import published

Severity = Literal["critical", "major", "minor", "info"]


@published("notifier.change-alert")
class ChangeAlert(Command, frozen=True, kw_only=True):
    """Acknowledge, snooze or resolve an open alert."""

    alert: str
    action: Literal["ack", "snooze", "resolve"]
    until: dt.datetime | None = None


@published("alert.opened")
class AlertOpened(Fact, frozen=True, kw_only=True):
    """A condition needs a person. One open alert per condition and subject.

    `thing`: which of several things of the subject it is about; it closes with the last of them.
    """

    condition: str
    subject: str
    severity: Severity
    plan: str
    job: str = ""
    title: str
    text: str = ""
    remedy: str = ""
    thing: str = ""


@published("alert.repeated")
class AlertRepeated(Fact, frozen=True, kw_only=True):
    """The condition was seen again, perhaps of another `thing`."""

    job: str = ""
    text: str = ""
    thing: str = ""


@published("alert.eased")
class AlertEased(Fact, frozen=True, kw_only=True):
    """One of the things that the alert is about is in order; others are not."""

    thing: str


@published("alert.acknowledged")
class AlertAcknowledged(Fact, frozen=True, kw_only=True):
    """A person has seen it."""


@published("alert.snoozed")
class AlertSnoozed(Fact, frozen=True, kw_only=True):
    """Silent until then."""

    until: dt.datetime


@published("alert.snooze-ended")
class AlertSnoozeEnded(Fact, frozen=True, kw_only=True):
    """The time to be silent is over and the condition still holds: open again."""


@published("alert.resolved")
class AlertResolved(Fact, frozen=True, kw_only=True):
    """The condition cleared by itself, or a person said so."""

    by: Literal["condition", "person"]


@published("alert.withdrawn")
class AlertWithdrawn(Fact, frozen=True, kw_only=True):
    """What the alert is about is protected no more: until it is back, nothing opens it."""


@published("alert.reinstated")
class AlertReinstated(Fact, frozen=True, kw_only=True):
    """What the alert is about is back: it may open again."""


@published("notifier.note-alert")
class NoteAlert(Fact, frozen=True, kw_only=True):
    """Alert to its plan's digest: I opened; tell people, together with others."""

    plan: str
    severity: Severity
    title: str
    text: str = ""
    remedy: str = ""


@published("notifier.snooze-due")
class SnoozeDue(Fact, frozen=True, kw_only=True):
    """Timer: the time to be silent is over. Void where another `until` holds by now."""

    until: dt.datetime


@published("notifier.digest-due")
class DigestDue(Fact, frozen=True, kw_only=True):
    """Timer: alerts that opened together go out as one mail."""


@published("digest.alert-noted")
class AlertNoted(Fact, frozen=True, kw_only=True):
    """An alert waits for the next mail of its plan."""

    note: NoteAlert


@published("digest.sent")
class DigestSent(Fact, frozen=True, kw_only=True):
    """The noted alerts went into mail number `number` of this digest."""

    number: int


@published("news.recovery-noted")
class RecoveryNoted(Fact, frozen=True, kw_only=True):
    """A recovery began; what its plan promises is kept for its mail."""

    rto_target_s: float | None = None


@published("news.vm-noted")
class VmNoted(Fact, frozen=True, kw_only=True):
    """How one VM of a recovery ended, kept for the recovery's mail."""

    vm: str
    outcome: str
    state: str
    rto_s: float | None = None
    addresses: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


@published("news.reopened")
class NewsReopened(Fact, frozen=True, kw_only=True):
    """A recovery that had ended goes on: its next end is mail number `mail`."""

    mail: int


@published("notifier.deliver")
class Deliver(Fact, frozen=True, kw_only=True):
    """To a delivery: send this mail."""

    stream: str
    about: str
    subject: str
    text: str
    html: str
    to: tuple[str, ...]


class MailText(Fact, frozen=True, kw_only=True):
    """One mail as it will be sent; also the payload of its effect."""

    message_id: str
    to: tuple[str, ...]
    subject: str
    text: str
    html: str


@published("notifier.send-mail")
class SendMail(Fact, frozen=True, kw_only=True):
    """Payload of the effect that delivers a mail."""

    mail: MailText


@published("delivery.requested")
class DeliveryRequested(Fact, frozen=True, kw_only=True):
    """A mail is to be sent."""

    mail: MailText
    about: str


@published("delivery.delivered")
class DeliveryDelivered(Fact, frozen=True, kw_only=True):
    """The mail server took it."""

    attempts: int


@published("delivery.failed")
class DeliveryFailed(Fact, frozen=True, kw_only=True):
    """The mail could not be delivered within its time."""

    problem: Problem
