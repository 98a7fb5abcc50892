"""Alerts about jobs that wait for a person: opened by a question, closed by its answer. Pure.

One alert per VM, and one for what the recovery itself asks; it closes with the last question, and
with the end of the job whatever is still open in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from schemas.envelope import Received
from schemas.recovery import RecoveryFinished, VmFinished
from schemas.recovery_steering import RecoveryAnswered, RecoveryAsked, VmAnswered, VmAsked
from services.notifier.domain.finding import Finding

CONDITION: Final = "waiting-for-person"
OF_PLAN: Final = "plan"
"""The subject of what a recovery itself asks."""


def _asked(received: Received) -> tuple[Finding, ...]:
    body: RecoveryAsked | VmAsked = received.body
    asked = body.question
    who = f" ({asked.owner})" if asked.owner else ""
    about = f" of VM {body.vm}" if isinstance(body, VmAsked) else ""
    choices = "|".join(asked.choices)
    return (
        Finding(
            plan=body.plan,
            condition=CONDITION,
            subject=_subject(body),
            holds=True,
            severity="major",
            title=f"the recovery of {body.plan} waits for a person{who} at {asked.step}{about}",
            text=f"{asked.text} Without an answer by {asked.until:%Y-%m-%d %H:%M:%S %Z}: "
            f"{asked.default}.",
            remedy=f"seawall job answer {received.stream} {asked.step} {choices}",
            job=received.stream,
            thing=f"{received.stream}/{asked.step}",
        ),
    )


def _answered(received: Received) -> tuple[Finding, ...]:
    body: RecoveryAnswered | VmAnswered = received.body
    thing = f"{received.stream}/{body.step}"
    return (_over(body.plan, _subject(body), thing=thing),)


def over(received: Received) -> tuple[Finding, ...]:
    """Nothing is asked by a job that ended."""
    body: RecoveryFinished | VmFinished = received.body
    return (_over(body.plan, _subject(body)),)


def _over(plan: str, subject: str, *, thing: str = "") -> Finding:
    return Finding(plan=plan, condition=CONDITION, subject=subject, holds=False, thing=thing)


def _subject(body: Any) -> str:
    return body.vm if isinstance(body, VmAsked | VmAnswered | VmFinished) else OF_PLAN


FINDERS: Final[dict[type, Callable[[Received], tuple[Finding, ...]]]] = {
    RecoveryAsked: _asked,
    RecoveryAnswered: _answered,
    VmAsked: _asked,
    VmAnswered: _answered,
}
