"""Manual steps: which of them an operation has, which comes next at a point, what is asked.

Owns their step names. Does not own when a point is reached (`recovery_state`, `vm_state`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Final, Literal

from schemas.plans import ManualPoint, ManualStep
from schemas.recovery_steering import Question
from schemas.scheduler import RecoveryMode
from schemas.steps import MANUAL

Result = Literal["done", "failed", "skipped"]
"""How a manual step ended."""

CHOICES: Final = ("done", "failed", "skip")


def step_name(step: ManualStep) -> str:
    """The step's name in its job."""
    return f"{MANUAL}{step.name}"


def chosen(
    steps: Sequence[ManualStep],
    at: ManualPoint,
    *,
    mode: RecoveryMode,
    boot_order: int | None = None,
) -> tuple[ManualStep, ...]:
    """The steps of an operation that stand at a point, in the plan's order."""
    return tuple(
        step
        for step in steps
        if step.at == at and step.boot_order == boot_order and mode in step.operations
    )


def names(
    steps: Sequence[ManualStep],
    at: ManualPoint,
    *,
    mode: RecoveryMode,
    boot_order: int | None = None,
) -> tuple[str, ...]:
    """Step names of what stands at a point."""
    return tuple(map(step_name, chosen(steps, at, mode=mode, boot_order=boot_order)))


def next_of(steps: Sequence[ManualStep], over: Collection[str]) -> ManualStep | None:
    """The first of these steps that is not over; None where all are."""
    return next((step for step in steps if step_name(step) not in over), None)


def question(step: ManualStep, *, number: int, at: dt.datetime) -> Question:
    """What the step's person is asked."""
    return Question(
        step=step_name(step),
        number=number,
        kind="manual",
        text=step.text,
        owner=step.owner,
        choices=CHOICES,
        default="failed" if step.on_timeout == "fail" else "skip",
        at=at,
        until=at + dt.timedelta(seconds=step.timeout_s),
    )
