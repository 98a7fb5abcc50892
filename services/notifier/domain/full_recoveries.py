"""Alerts of full recoveries: a site given up unreached, a commit window open for long. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from schemas.envelope import Received
from schemas.ids import parts_of
from schemas.operations import (
    CommitOverdue,
    RecoveryCommitted,
    RecoveryRolledBack,
    RollbackFinished,
)
from schemas.scheduler_operations import PlanQuarantined, PlanQuarantineEnded
from services.notifier.domain.finding import Finding, job_ended


def _quarantined(received: Received) -> tuple[Finding, ...]:
    body: PlanQuarantined = received.body
    return (
        Finding(
            plan=body.plan,
            condition="site-quarantined",
            subject=body.site,
            holds=True,
            severity="critical",
            title=f"site {body.site} is quarantined: {body.plan} replicates nothing",
            text="a failover gave up VMs that could not be reached there; when the site returns, "
            "their originals may run beside the recovered instances",
            remedy=f"watched for; once it is back: seawall site power-off {body.site}, then: "
            f"seawall site release {body.site}",
            job=body.job,
        ),
    )


def _released(received: Received) -> tuple[Finding, ...]:
    body: PlanQuarantineEnded = received.body
    return (Finding(plan=body.plan, condition="site-quarantined", subject=body.site, holds=False),)


def _undecided(received: Received) -> tuple[Finding, ...]:
    body: CommitOverdue = received.body
    return (
        Finding(
            plan=body.plan,
            condition="commit-window-open",
            subject=parts_of(received.stream)[-1],
            holds=True,
            severity="minor",
            title=f"a full recovery of {body.plan} awaits commit or roll back",
            text=f"since {body.since:%Y-%m-%d %H:%M %Z}; the longer, the more a roll back "
            "discards",
            remedy=f"seawall commit {received.stream}, or: seawall rollback {received.stream}",
            job=received.stream,
        ),
    )


def _decided(received: Received) -> tuple[Finding, ...]:
    body: RecoveryCommitted | RecoveryRolledBack = received.body
    subject = parts_of(received.stream)[-1]
    return (Finding(plan=body.plan, condition="commit-window-open", subject=subject, holds=False),)


def _rolled_back(received: Received) -> tuple[Finding, ...]:
    """A roll back that could not end what it began leaves VMs that run nowhere, or instances.

    One that touched nothing leaves all as it was; one that left VMs off by word is not repeated.
    """
    body: RollbackFinished = received.body
    problem = body.problem
    remedy = problem.remedy if problem is not None else ""
    settled = body.untouched or bool(body.left_off)
    if not settled:
        remedy = (
            f"{remedy}; see `seawall job show {received.stream}`, then: seawall rollback "
            f"{body.recovery}".removeprefix("; ")
        )
    return job_ended(
        received,
        plan=body.plan,
        subject="rollback",
        severity="major" if settled else "critical",
        title=f"the roll back of a recovery of {body.plan} {body.state.replace('-', ' ')}",
        text=problem.message if problem is not None else "",
        remedy=remedy,
    )


FINDERS: Final[dict[type, Callable[[Received], tuple[Finding, ...]]]] = {
    PlanQuarantined: _quarantined,
    PlanQuarantineEnded: _released,
    CommitOverdue: _undecided,
    RecoveryCommitted: _decided,
    RecoveryRolledBack: _decided,
    RollbackFinished: _rolled_back,
}
