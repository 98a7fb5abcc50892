"""Mails: what goes into one, and that it is delivered.

`recovery-news` collects a recovery's VMs and speaks once, when it ends. `digest` collects alerts
of a plan that open within COLLECT_S, so that an outage of 500 VMs is one mail. `delivery` is a
saga of one step: it sends a mail until it is sent or 72 h are over.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

import msgspec

from schemas.common import Problem
from schemas.envelope import Received
from schemas.ids import StreamId, key_of, parts_of, stream_id
from schemas.notifier import (
    AlertNoted,
    Deliver,
    DeliveryDelivered,
    DeliveryFailed,
    DeliveryRequested,
    DigestDue,
    DigestSent,
    MailText,
    NewsReopened,
    NoteAlert,
    RecoveryNoted,
    SendMail,
    VmNoted,
)
from schemas.recovery import RecoveryFinished, RecoveryStarted, VmFinished
from services.notifier.domain import texts
from shared.decider import NOTHING, Decision, Effect, EffectOutcome, Family, Send, Timer, WorkClass

OWN: Final = "notifier"
COLLECT_S: Final = 5.0
MESSAGE_ID_DOMAIN: Final = "seawall"

# ── A recovery's news ────────────────────────────────────────────────────────────────────────


class RecoveryNews(msgspec.Struct):
    """The VMs of a recovery that have ended, and whether its mail was asked for.

    `mail` numbers its mails: a recovery that was retried ends again.
    """

    vms: list[VmNoted] = []
    mail: int = 1
    noted: bool = False
    rto_target_s: float | None = None
    told: bool = False


def evolve_news(state: RecoveryNews, event: object) -> RecoveryNews:
    """Apply one fact."""
    if isinstance(event, RecoveryNoted):
        state.noted, state.rto_target_s = True, event.rto_target_s
    elif isinstance(event, VmNoted):
        # A VM that was retried ended again: its last end counts.
        state.vms = [*(each for each in state.vms if each.vm != event.vm), event]
    elif isinstance(event, DigestSent):
        state.told = True
    elif isinstance(event, NewsReopened):
        state.told, state.mail = False, event.mail
    return state


NEWS = Family(
    name="recovery-news",
    state=RecoveryNews,
    initial=RecoveryNews,
    evolve=evolve_news,
    is_terminal=lambda state: state.told,
    schema=2,
)


def news_of(job: str) -> StreamId:
    """The news stream of a recovery."""
    return stream_id("recovery-news", *parts_of(job)[1:3])


def note_recovery(state: RecoveryNews, received: Received) -> Decision:
    """A recovery began: its plan's target is known now. Of a dry run nobody is told."""
    body: RecoveryStarted = received.body
    target_s = body.header.targets.rto_s
    if state.noted or state.told or target_s is None or body.dry_run:
        return NOTHING
    return Decision(events=(RecoveryNoted(rto_target_s=target_s),))


def note_vm(state: RecoveryNews, received: Received) -> Decision:
    """A VM of a recovery ended."""
    body: VmFinished = received.body
    if state.told:
        return NOTHING
    problems = [
        Problem(code="step-failed", message=f"{step.name}: {step.error}", remedy=step.remedy)
        for step in body.steps
        if step.state in ("failed", "unknown")
    ]
    if body.problem is not None and not problems:
        problems.append(body.problem)
    noted = VmNoted(
        vm=body.vm,
        outcome=body.outcome,
        state=body.state,
        rto_s=body.rto_s,
        addresses=body.addresses,
        problems=tuple(problems),
    )
    return NOTHING if noted in state.vms else Decision(events=(noted,))


def reopen(state: RecoveryNews, received: Received) -> Decision:
    """A recovery that had ended goes on: of its next end people hear, too."""
    if not state.told:
        return NOTHING
    return Decision(events=(NewsReopened(mail=state.mail + 1),))


def tell_recovery(state: RecoveryNews, received: Received, to: tuple[str, ...]) -> Decision:
    """The recovery ended: one mail about all of it, none about a dry run."""
    finished: RecoveryFinished = received.body
    if state.told:
        return NOTHING
    told = Decision(events=(DigestSent(number=state.mail),))
    if finished.dry_run or not to:
        return told
    lines = texts.recovery_lines(
        finished, state.vms, job=received.stream, rto_target_s=state.rto_target_s
    )
    _, plan, number = parts_of(received.stream)[:3]
    if state.mail > 1:
        number = f"{number}-{state.mail}"
    deliver = Deliver(
        stream=stream_id("delivery", plan, number),
        about=received.stream,
        subject=texts.recovery_subject(finished),
        text="\n".join(lines),
        html=texts.as_html(lines),
        to=to,
    )
    return msgspec.structs.replace(told, sends=(Send(to=OWN, key=plan, message=deliver),))


# ── Alerts that open together ────────────────────────────────────────────────────────────────


class Digest(msgspec.Struct):
    """Alerts that wait for the plan's next mail, and how many mails there were."""

    notes: list[NoteAlert] = []
    sent: int = 0


def evolve_digest(state: Digest, event: object) -> Digest:
    """Apply one fact."""
    if isinstance(event, AlertNoted):
        state.notes.append(event.note)
    elif isinstance(event, DigestSent):
        state.notes, state.sent = [], event.number
    return state


DIGEST = Family(
    name="digest",
    state=Digest,
    initial=Digest,
    evolve=evolve_digest,
    is_terminal=lambda state: False,
)


def note_alert(state: Digest, received: Received, to: tuple[str, ...]) -> Decision:
    """An alert opened; the first one starts the clock."""
    if not to:
        return NOTHING
    noted = AlertNoted(note=received.body)
    if state.notes:
        return Decision(events=(noted,))
    due = received.at + dt.timedelta(seconds=COLLECT_S)
    return Decision(events=(noted,), timers=(Timer(name="digest", due=due, message=DigestDue()),))


def send_digest(state: Digest, received: Received, to: tuple[str, ...]) -> Decision:
    """The time to collect is over: one mail."""
    if not state.notes:
        return NOTHING
    plan = key_of(received.stream)
    number = state.sent + 1
    lines = texts.digest_lines(state.notes)
    deliver = Deliver(
        stream=stream_id("delivery", plan, f"digest-{number}"),
        about=received.stream,
        subject=texts.digest_subject(plan, state.notes),
        text="\n".join(lines),
        html=texts.as_html(lines),
        to=to,
    )
    return Decision(
        events=(DigestSent(number=number),), sends=(Send(to=OWN, key=plan, message=deliver),)
    )


# ── One mail ─────────────────────────────────────────────────────────────────────────────────


class Delivery(msgspec.Struct):
    """A mail: asked for, and over."""

    requested: bool = False
    over: bool = False


def evolve_delivery(state: Delivery, event: object) -> Delivery:
    """Apply one fact."""
    if isinstance(event, DeliveryRequested):
        state.requested = True
    elif isinstance(event, DeliveryDelivered | DeliveryFailed):
        state.over = True
    return state


def deliver(state: Delivery, received: Received) -> Decision:
    """Send a mail, once per stream; its Message-ID follows from the stream."""
    body: Deliver = received.body
    if state.requested:
        return NOTHING
    mail = MailText(
        message_id=f"<{body.stream.replace(':', '.')}@{MESSAGE_ID_DOMAIN}>",
        to=body.to,
        subject=body.subject,
        text=body.text,
        html=body.html,
    )
    effect = Effect(
        part="send",
        kind="send-mail",
        payload=SendMail(mail=mail),
        due=received.at,
        work_class=WorkClass.RECOVERY,
        plan=key_of(body.stream),
    )
    return Decision(events=(DeliveryRequested(mail=mail, about=body.about),), effects=(effect,))


def delivered(state: Delivery, received: Received) -> Decision:
    """The mail server took it, or never will."""
    outcome: EffectOutcome = received.body
    if state.over:
        return NOTHING
    if outcome.ok:
        return Decision(events=(DeliveryDelivered(attempts=outcome.attempts),))
    problem = Problem(code=outcome.code, message=outcome.error, remedy=outcome.remedy)
    return Decision(events=(DeliveryFailed(problem=problem),))


DELIVERY = Family(
    name="delivery",
    state=Delivery,
    initial=Delivery,
    evolve=evolve_delivery,
    is_terminal=lambda state: state.over,
    outcome=delivered,
)
