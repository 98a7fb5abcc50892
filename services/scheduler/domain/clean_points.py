"""Find clean point, as the scheduler sees it: may a search start, over which checkpoints.

Keeps them from expiring until the search ends, and records verdicts. Which one is tried next, and
what a verdict means, is the recovery service's (`clean_point`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.clean_points import (
    CANDIDATES_MAX,
    Candidate,
    CheckpointJudged,
    CleanPointSearchRequested,
    FindCleanPoint,
    RecordVerdict,
    StartCleanPointSearch,
)
from schemas.envelope import Received
from schemas.ids import family_of
from services.scheduler.domain.names import plan_stream, vm_stream
from services.scheduler.domain.parents import SEARCH
from services.scheduler.domain.patience import NotYet, asked_at
from services.scheduler.domain.plan import Plan, chosen_vms, standing
from services.scheduler.domain.skipping import check_skipped
from shared.decider import NOTHING, Decision, Send
from shared.errors import Refused


def find_clean_point(states: Mapping[str, Any], received: Received) -> Mapping[str, Decision]:
    """Start a search over the newest available checkpoints that hold all chosen VMs.

    Raises Refused: `unknown-plan`, `unknown-vm`, `version`, `invalid` (keep with bisection; a
    script to skip that is none), `no-checkpoint`, and `busy` while another search runs.
    """
    m: FindCleanPoint = received.body
    stream = plan_stream(m.plan)
    plan: Plan = states[stream]
    header = standing(plan, m.plan, expected_version=m.expected_version)
    vms = chosen_vms(plan, m.plan, m.vms)
    if m.job in plan.parents:
        return {}
    check_skipped(m.skip_scripts, header, {vm: states[vm_stream(m.plan, vm)] for vm in vms})
    _check(plan, m)
    found = _candidates(plan, m, vms)
    start = StartCleanPointSearch(
        job=m.job,
        plan=m.plan,
        plan_version=plan.version,
        header=header,
        verdict=m.verdict,
        order=m.order,
        vms=vms if m.vms else (),
        candidates=found,
        tries_max=m.tries_max,
        keep=m.keep,
        skip_scripts=m.skip_scripts,
        requested_at=asked_at(received),
        actor=received.meta.actor,
    )
    requested = CleanPointSearchRequested(
        job=m.job, checkpoints=tuple(each.checkpoint for each in found), vms=m.vms
    )
    sends = (Send(to="recovery", key=m.plan, message=start),)
    return {stream: Decision(events=(requested,), sends=sends)}


def record_verdict(state: Plan, received: Received) -> Decision:
    """Keep a verdict with its checkpoint, if that is still there."""
    m: RecordVerdict = received.body
    if m.checkpoint not in state.checkpoints:
        return NOTHING
    judged = CheckpointJudged(
        checkpoint=m.checkpoint,
        verdict=m.verdict,
        job=m.job,
        at=m.at,
        script_sha256=m.script_sha256,
        reason=m.reason,
    )
    return Decision(events=(judged,))


def _check(plan: Plan, m: FindCleanPoint) -> None:
    if m.keep and m.order == "bisect":
        raise Refused(
            "the clean test cannot be kept when bisecting: each test makes room for the next",
            code="invalid",
            remedy="search newest-first, or recover the clean checkpoint afterwards",
        )
    running = next((job for job in plan.parents if family_of(job) == SEARCH), "")
    if running:
        # Both would want the same VMs' instances, and take turns in being refused.
        raise NotYet(
            f"plan {m.plan!r} is being searched by {running}",
            code="busy",
            remedy=f"wait for it to end, or `seawall job cancel {running}`",
        )


def _candidates(plan: Plan, m: FindCleanPoint, vms: tuple[str, ...]) -> tuple[Candidate, ...]:
    available = [
        Candidate(checkpoint=key, created_at=entry.created_at)
        for key, entry in plan.checkpoints.items()
        if entry.state == "available" and set(vms) <= set(entry.vms)
    ]
    if available:
        available.sort(key=lambda each: (each.created_at, each.checkpoint), reverse=True)
        return tuple(available[:CANDIDATES_MAX])
    coming = any(entry.state == "creating" for entry in plan.checkpoints.values())
    whose = "all its VMs" if not m.vms else "all chosen VMs"
    raise (NotYet if coming else Refused)(
        f"no available checkpoint of plan {m.plan!r} holds {whose}",
        code="no-checkpoint",
        remedy=f"`seawall checkpoint list {m.plan}` shows what there is",
    )
