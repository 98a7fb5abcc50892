"""What the events of other services mean for alerts: conditions seen, conditions cleared. Pure.

A cancelled job says nothing, nor does a dry run: what was wrong before it still is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from schemas.clean_points import CleanPointSearchFinished
from schemas.envelope import Received
from schemas.recovery import CleanupFinished, RecoveryFinished, VmFinished
from schemas.recovery_groups import RecoveryGroupFinished
from schemas.replicator import (
    CheckpointFinished,
    IterationFinished,
    ThrottledForLong,
    ThrottlingEased,
)
from schemas.reversals import ReversalFinished
from schemas.scheduler import RpoBreached, RpoRestored, TicksMissed
from schemas.units import format_duration, some_of
from services.notifier.domain import full_recoveries, leftovers, lost_sites, questions
from services.notifier.domain.finding import Finding, job_ended
from shared.decider import OPEN_FROM


def _problem_text(body: Any) -> tuple[str, str]:
    problem = body.problem
    return (problem.message, problem.remedy) if problem is not None else ("", "")


def _recovery(received: Received) -> tuple[Finding, ...]:
    body: RecoveryFinished = received.body
    if body.state == "cancelled" or body.dry_run:
        return ()
    text, remedy = _problem_text(body)
    return job_ended(
        received,
        plan=body.plan,
        subject=body.mode,
        title=f"{body.mode} recovery of {body.plan} {body.state.replace('-', ' ')}",
        text=text or f"{body.ready} VMs ready, {body.failed} failed",
        remedy=remedy,
        mailed=True,
    )


def _search(received: Received) -> tuple[Finding, ...]:
    body: CleanPointSearchFinished = received.body
    title = f"search for a clean point of {body.plan} {body.state.replace('-', ' ')}"
    return _job_ended(received, body, subject="find-clean-point", title=title)


def _reversal(received: Received) -> tuple[Finding, ...]:
    body: ReversalFinished = received.body
    if body.dry_run:
        return ()
    title = f"reversal of {body.plan} {body.state.replace('-', ' ')}"
    return _job_ended(received, body, subject="reverse", title=title)


def _group(received: Received) -> tuple[Finding, ...]:
    body: RecoveryGroupFinished = received.body
    if body.dry_run:
        return ()
    ended = body.state.replace("-", " ")
    title = f"{body.mode} recovery of {body.plan} with what it comes after {ended}"
    return _job_ended(received, body, subject="recovery-group", title=title)


def _job_ended(
    received: Received,
    body: CleanPointSearchFinished | RecoveryGroupFinished | ReversalFinished,
    *,
    subject: str,
    title: str,
) -> tuple[Finding, ...]:
    if body.state == "cancelled":
        return ()
    text, remedy = _problem_text(body)
    return job_ended(
        received, plan=body.plan, subject=subject, title=title, text=text, remedy=remedy
    )


def _iteration(received: Received) -> tuple[Finding, ...]:
    body: IterationFinished = received.body
    left = leftovers.left_by(received)
    if body.state == "cancelled":
        return left
    text, remedy = _problem_text(body)
    caught_up = Finding(plan=body.plan, condition="schedule-missed", subject=body.vm, holds=False)
    return (
        *left,
        *((caught_up,) if body.state == "completed" else ()),
        Finding(
            plan=body.plan,
            condition="iteration-failed",
            subject=body.vm,
            holds=body.state == "failed",
            severity="major",
            title=f"replication of {body.vm} failed",
            text=text,
            remedy=remedy,
            job=received.stream,
        ),
    )


def _checkpoint(received: Received) -> tuple[Finding, ...]:
    body: CheckpointFinished = received.body
    if body.state == "cancelled":
        # What was made of it is removed again, and gone.
        return leftovers.checkpoint_gone(received)
    text, remedy = _problem_text(body)
    return (
        Finding(
            plan=body.plan,
            condition="checkpoint-failed",
            subject="schedule",
            holds=body.state in ("failed", "partially-completed"),
            severity="major",
            title=f"checkpoint of {body.plan} {body.state.replace('-', ' ')}",
            text=text,
            remedy=remedy,
            job=received.stream,
        ),
    )


def _cleanup(received: Received) -> tuple[Finding, ...]:
    body: CleanupFinished = received.body
    text, remedy = _problem_text(body)
    return (
        Finding(
            plan=body.plan,
            condition="cleanup-incomplete",
            subject=body.recovery.rpartition(":")[2],
            holds=body.state != "completed",
            severity="major",
            title=f"cleanup in {body.plan} left {len(body.remaining)} object(s) behind",
            text=text,
            remedy=remedy or f"seawall cleanup {body.recovery}",
            job=received.stream,
        ),
        _instances_left(received),
    )


def _instances_left(received: Received) -> Finding:
    """A cleanup lists the site at its end: what still runs there costs money, and may answer."""
    body: CleanupFinished = received.body
    left = [object_id for kind, object_id, _ in body.remaining if kind == "instance"]
    return Finding(
        plan=body.plan,
        condition="instance-left-over",
        subject=body.recovery.rpartition(":")[2],
        holds=bool(left),
        severity="major",
        title=f"{len(left)} instance(s) of a recovery of {body.plan} are left over",
        text=some_of(left, 3),
        remedy=f"seawall cleanup {body.recovery}; what else is left: seawall doctor --leftovers",
        job=received.stream,
    )


def _breached(received: Received) -> tuple[Finding, ...]:
    body: RpoBreached = received.body
    return (
        Finding(
            plan=body.plan,
            condition="rpo-breached",
            subject=body.vm,
            holds=True,
            severity="critical",
            title=f"RPO of {body.vm} is breached",
            text=f"the newest copy is older than {format_duration(body.target_s)}",
            remedy=f"seawall vm list --plan {body.plan}",
        ),
    )


def _restored(received: Received) -> tuple[Finding, ...]:
    body: RpoRestored = received.body
    return (Finding(plan=body.plan, condition="rpo-breached", subject=body.vm, holds=False),)


def _missed(received: Received) -> tuple[Finding, ...]:
    body: TicksMissed = received.body
    _, plan, *rest = received.stream.split(":")
    subject = rest[0] if rest else "plan"
    return (
        Finding(
            plan=plan,
            condition="schedule-missed",
            subject=subject,
            holds=True,
            severity="minor",
            title=f"{body.count} scheduled replication(s) of {subject} did not run in time",
            text=f"from {body.first_at:%Y-%m-%d %H:%M:%S %Z} to {body.last_at:%H:%M:%S %Z}",
            remedy="one catch-up runs at once; see whether the control plane was down",
        ),
    )


def _throttled(received: Received) -> tuple[Finding, ...]:
    body: ThrottledForLong = received.body
    unit = "/s" if body.mode == "rate" else " at once"
    known = f", of {body.cap:g}{unit} that it is said to allow" if body.cap < OPEN_FROM else ""
    since = f" since {body.since:%Y-%m-%d %H:%M %Z}" if body.since is not None else ""
    return (
        Finding(
            plan=body.site,
            condition="throttled-for-long",
            subject=_subject(body.quota),
            holds=True,
            severity="minor",
            title=f"site {body.site} keeps refusing {body.quota}",
            text=f"{body.throttled} calls refused so far{since}; "
            f"about {body.limit:.3g}{unit} are asked for now{known}",
            remedy=f"see `seawall queue`; ask the platform for more, let fewer VMs replicate at "
            f"once, or tell the real limit: limit.{body.quota.partition(':')[0]} of the site",
        ),
    )


def _eased(received: Received) -> tuple[Finding, ...]:
    body: ThrottlingEased = received.body
    return (
        Finding(
            plan=body.site,
            condition="throttled-for-long",
            subject=_subject(body.quota),
            holds=False,
        ),
    )


def _subject(quota: str) -> str:
    return quota.replace(":", "-").replace("/", "-")


FINDERS: dict[type, Callable[[Received], tuple[Finding, ...]]] = {
    RecoveryFinished: _recovery,
    CleanPointSearchFinished: _search,
    RecoveryGroupFinished: _group,
    ReversalFinished: _reversal,
    IterationFinished: _iteration,
    CheckpointFinished: _checkpoint,
    CleanupFinished: _cleanup,
    RpoBreached: _breached,
    RpoRestored: _restored,
    TicksMissed: _missed,
    ThrottledForLong: _throttled,
    ThrottlingEased: _eased,
    **leftovers.FINDERS,
    **full_recoveries.FINDERS,
    **lost_sites.FINDERS,
    **questions.FINDERS,
}

ENDS: tuple[type, ...] = (RecoveryFinished, VmFinished)
"""After which nobody is asked any more."""


def findings(received: Received) -> tuple[Finding, ...]:
    """What an event says about alert conditions."""
    found = FINDERS[type(received.body)](received)
    return (*found, *questions.over(received)) if isinstance(received.body, ENDS) else found
