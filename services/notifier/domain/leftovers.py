"""Alerts about what should be gone and is not: what failed to be removed three times and more.

Snapshots, staged generations, held copies, checkpoints, what a recovery made, and prep nodes that
stay on (their alerts are kept under their site, where others are under their plan). Each closes by
itself when the removal, which goes on, succeeds. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from schemas.envelope import Received
from schemas.ids import key_of, parts_of
from schemas.notifier import Severity
from schemas.prep import PrepNodeSettled, PrepNodeTroubled
from schemas.recovery import CleanupTroubled, VmFinished, VmReleaseTroubled
from schemas.replicator import (
    CheckpointDeleted,
    CheckpointRemovalTroubled,
    IterationFinished,
    Leftover,
    LeftoverRemoved,
)
from services.notifier.domain.finding import Finding

_LEFT: Final[dict[Leftover, tuple[str, Severity, str, str]]] = {
    "snapshot": (
        "snapshot-left",
        "major",
        "a source snapshot of {vm} is not removed",
        "it grows with every write at the source; look at the site, removal goes on",
    ),
    "generations": (
        "staging-left",
        "minor",
        "what was staged for {vm} is not removed",
        "it takes room at the target; look at the site, removal goes on",
    ),
}
"""Leftover → condition, severity, title, remedy."""


def left_by(received: Received) -> tuple[Finding, ...]:
    """What an iteration could not remove in its own time, whatever its outcome."""
    body: IterationFinished = received.body
    return tuple(
        Finding(
            plan=body.plan,
            condition=_LEFT[what][0],
            subject=body.vm,
            holds=True,
            severity=_LEFT[what][1],
            title=_LEFT[what][2].format(vm=body.vm),
            text=_failure_of(body, what),
            remedy=_LEFT[what][3],
            job=received.stream,
            thing=_last_part(received),
        )
        for what in body.leftovers
    )


def _failure_of(body: IterationFinished, what: Leftover) -> str:
    step = "remove-snapshot" if what == "snapshot" else "discard"
    return next((timing.error for timing in body.steps if timing.name == step), "")


def _last_part(received: Received) -> str:
    return parts_of(received.stream)[-1]


def _removed(received: Received) -> tuple[Finding, ...]:
    body: LeftoverRemoved = received.body
    _, plan, vm, *_ = parts_of(received.stream)
    condition = _LEFT[body.what][0]
    thing = _last_part(received)
    return (Finding(plan=plan, condition=condition, subject=vm, holds=False, thing=thing),)


def _checkpoint_stays(received: Received) -> tuple[Finding, ...]:
    body: CheckpointRemovalTroubled = received.body
    return (
        Finding(
            plan=body.plan,
            condition="checkpoint-left",
            subject=_last_part(received),
            holds=True,
            severity="minor",
            title=f"checkpoint {received.stream} is not removed",
            text=body.problem.message,
            remedy=body.problem.remedy or "look at the recovery site; removal goes on",
            job=received.stream,
        ),
    )


def checkpoint_gone(received: Received) -> tuple[Finding, ...]:
    """A checkpoint is gone."""
    subject = _last_part(received)
    plan: str = received.body.plan
    return (Finding(plan=plan, condition="checkpoint-left", subject=subject, holds=False),)


def _copy_held(received: Received) -> tuple[Finding, ...]:
    body: VmReleaseTroubled = received.body
    return (
        _held(
            body,
            holds=True,
            title=f"a recovery of {body.vm} cannot let its copy go",
            text=body.problem.message,
            remedy=body.problem.remedy or "look at the recovery site; the recovery waits for it",
        ),
    )


def _copy_let_go(received: Received) -> tuple[Finding, ...]:
    return (_held(received.body, holds=False),)


def _held(
    body: VmReleaseTroubled | VmFinished,
    *,
    holds: bool,
    title: str = "",
    text: str = "",
    remedy: str = "",
) -> Finding:
    return Finding(
        plan=body.plan,
        condition="copy-held",
        subject=body.vm,
        holds=holds,
        title=title,
        text=text,
        remedy=remedy,
        job=body.job,
        thing=parts_of(body.job)[-1],
    )


def _cleanup_stuck(received: Received) -> tuple[Finding, ...]:
    """Something a recovery made is still there; the cleanup that completes clears it."""
    body: CleanupTroubled = received.body
    see = f"look at the recovery site, then: seawall cleanup {body.recovery}"
    return (
        Finding(
            plan=body.plan,
            condition="cleanup-incomplete",
            subject=parts_of(body.recovery)[-1],
            holds=True,
            title=f"cleanup in {body.plan} is stuck at {body.kind} {body.object_id}".rstrip(),
            text=body.problem.message,
            remedy=body.problem.remedy or see,
            job=received.stream,
        ),
    )


def _node_stays_on(received: Received) -> tuple[Finding, ...]:
    body: PrepNodeTroubled = received.body
    return (
        Finding(
            plan=body.site,
            condition="prep-node-left",
            subject=body.node,
            holds=True,
            severity="minor",
            title=f"prep node {body.node} of {body.site} does not go off",
            text=body.problem.message,
            remedy=body.problem.remedy or "power it off on the platform; trying goes on",
        ),
    )


def _node_settled(received: Received) -> tuple[Finding, ...]:
    """It is off, or somebody needs it again; where neither is sure, nothing is said."""
    body: PrepNodeSettled = received.body
    if body.power == "unknown":
        return ()
    site = key_of(received.stream)
    return (Finding(plan=site, condition="prep-node-left", subject=body.node, holds=False),)


FINDERS: Final[dict[type, Callable[[Received], tuple[Finding, ...]]]] = {
    LeftoverRemoved: _removed,
    CheckpointRemovalTroubled: _checkpoint_stays,
    CheckpointDeleted: checkpoint_gone,
    VmReleaseTroubled: _copy_held,
    VmFinished: _copy_let_go,
    CleanupTroubled: _cleanup_stuck,
    PrepNodeTroubled: _node_stays_on,
    PrepNodeSettled: _node_settled,
}
