"""How the replicator's deciders ask for work: budgets of every call, timings of every end.

Owns the table of quotas that calls spend, under the names all platforms map theirs to. A site's
budgets, open ones for quotas it does not limit included, are defined when it is first opened.
"""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from typing import Final

import msgspec

from schemas.common import Problem, StepState, StepTiming
from shared.decider import Effect, EffectOutcome, Need

NODE_DISKS: Final = "disks"
"""What a replication node has 40 of: its budget is `node:<site>`."""

QUOTAS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "open-snapshot": (("rate", "CreateSnapshots"),),
    "close-snapshot": (("rate", "DeleteSnapshot"),),
    "transfer": (
        ("hold", NODE_DISKS),
        ("rate", "StartSnapshot"),
        ("hold", "snapshot-writes"),
        ("hold", "snapshot-writes:replication"),
    ),
    "finalize": (("rate", "CompleteSnapshot"),),
    "discard": (("rate", "DeleteSnapshot"),),
    "create-checkpoint": (("rate", "CopySnapshot"), ("hold", "snapshot-writes")),
    "delete-checkpoint": (("rate", "DeleteSnapshot"),),
    "verify-deleted": (("rate", "DescribeSnapshots"),),
}
"""Call → (mode, quota) of the site it goes to. Of a provider's 100 snapshot writes replication
gets 80, its own share beside the whole: 20 stay for recoveries and checkpoints."""


def node_budget(site: str) -> str:
    """The budget of disks that a site's replication node copies at once."""
    return f"node:{site}"


@lru_cache(maxsize=4096)
def needs(call: str, site: str) -> tuple[Need, ...]:
    """The budgets that a call to a site needs."""
    return tuple(
        Need(
            budget=node_budget(site) if quota == NODE_DISKS else f"{site}/{quota}",
            mode=mode,
        )
        for mode, quota in QUOTAS[call]
    )


AGAIN_AFTER: Final = dt.timedelta(minutes=10)
"""Work that must be done in the end has no last failure: where its retries end all the same (a
bug in a handler), it is asked for again after so long."""


def again(effect: Effect, ended: EffectOutcome) -> Effect:
    """The same effect once more, later."""
    return msgspec.structs.replace(effect, not_before=ended.at + AGAIN_AFTER)


def step_of(outcome: EffectOutcome, step: str) -> StepTiming:
    """The finished step of an effect's end."""
    state: StepState = "completed"
    if not outcome.ok:
        state = "cancelled" if outcome.code == "cancelled" else "failed"
    return StepTiming(
        name=step,
        state=state,
        attempts=max(outcome.attempts, 1),
        started_at=outcome.started_at,
        ended_at=outcome.at,
        error=outcome.error,
        remedy=outcome.remedy,
    )


def problem_of(outcome: EffectOutcome, what: str) -> Problem:
    """Why an effect failed; `what` it was about comes first."""
    return Problem(
        code=outcome.code or "step-failed",
        message=f"{what}: {outcome.error}",
        remedy=outcome.remedy,
    )


def merged(*groups: tuple[StepTiming, ...]) -> tuple[StepTiming, ...]:
    """One timing per step name, in order of first appearance; a later word replaces an earlier."""
    by_name: dict[str, StepTiming] = {}
    for group in groups:
        for timing in group:
            by_name[timing.name] = timing
    return tuple(by_name.values())
