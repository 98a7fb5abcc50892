"""What past recoveries of a plan took: medians of their steps, and which VMs are Windows. Pure."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from schemas.views import Job, Step
from shared.forecast import plan as forecast
from shared.forecast.plan import BEGIN, BOOT

BOOT_STEPS: Final = "boot-order-"
SOURCE_STEPS: Final = ("fence-sources", "shut-down-sources", "last-sync")
"""What a full recovery does before it builds anything."""


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """Medians of what past recoveries of a plan took, in seconds: by step, and each VM's boot.

    `plan_steps` are those of the plan's own steps. `samples`: how many VMs they are of. `windows`
    are the VMs that were seen to be one, by their steps or by a dry run, each with whether it is
    validated: a plan does not say it, only a copy does.
    """

    steps: Mapping[str, float] = {}
    boots: Mapping[str, float] = {}
    plan_steps: Mapping[str, float] = {}
    windows: Mapping[str, bool] = {}
    samples: int = 0


def timings_of(jobs: Iterable[Job]) -> Timings:
    """The medians over finished jobs of recoveries, newest first: the plan's, and each VM's."""
    steps: dict[str, list[float]] = defaultdict(list)
    boots: dict[str, list[float]] = defaultdict(list)
    plan_steps: dict[str, list[float]] = defaultdict(list)
    nodes: dict[str, list[float]] = defaultdict(list)
    windows: dict[str, bool] = {}
    samples = 0
    for job in jobs:
        if job.disk is None:
            _add_windows(job, windows)
        if job.dry_run:
            continue
        if job.vm is None:
            _add_plan(job, plan_steps)
        elif job.disk is None and (taken := _taken(job.steps)):
            samples += 1
            for name, seconds in taken.items():
                steps[name].append(seconds)
            if BOOT in taken:
                boots[job.vm].append(taken[BOOT])
            if (waited_s := _waited_for_node(job.steps)) is not None:
                nodes[job.parent_id or ""].append(waited_s)
    if nodes:
        # Whoever came first waited for the nodes, and all others for their seats, too.
        steps[forecast.PREP_NODE] = [min(waited) for waited in nodes.values()]
    return Timings(
        steps=_medians(steps),
        boots=_medians(boots),
        plan_steps=_medians(plan_steps),
        windows=windows,
        samples=samples,
    )


def _add_windows(job: Job, found: dict[str, bool]) -> None:
    """The newest word on each VM counts: a job's own steps, or the calls that a dry run lists."""
    if job.vm is not None:
        names = {step.name for step in job.steps}
        if forecast.PREPARE in names:
            found.setdefault(job.vm, forecast.VALIDATE in names)
    elif job.dry_run:
        calls = job.facts.get("calls", ())
        validated = {c["vm"] for c in calls if c["call"] == "validate_windows"}
        for call in calls:
            if call["call"] == "prepare_windows":
                found.setdefault(call["vm"], call["vm"] in validated)


def _waited_for_node(steps: Sequence[Step]) -> float | None:
    """From when it was known to be a Windows until it had a seat: at least until nodes were on."""
    held = next((s.ended_at for s in steps if s.name == forecast.HOLD), None)
    begun = next((s.started_at for s in steps if s.name == forecast.PREPARE), None)
    return max((begun - held).total_seconds(), 0.0) if held and begun else None


def _add_plan(job: Job, found: dict[str, list[float]]) -> None:
    """The plan's scripts, what was done about its sources, and how long it was from the command
    until the first order opened beside them."""
    taken = _taken(job.steps)
    for name in (forecast.PRE, forecast.POST, *SOURCE_STEPS):
        if name in taken:
            found[name].append(taken[name])
    opened = [s.started_at for s in job.steps if s.name.startswith(BOOT_STEPS) and s.started_at]
    if opened:
        apart_s = sum(taken.get(name, 0.0) for name in (forecast.PRE, *SOURCE_STEPS))
        begin_s = (min(opened) - job.created_at).total_seconds() - apart_s
        found[BEGIN].append(max(begin_s, 0.0))


def _taken(steps: Sequence[Step]) -> dict[str, float]:
    return {
        step.name: max((step.ended_at - step.started_at).total_seconds(), 0.0)
        for step in steps
        if step.state == "completed" and step.started_at and step.ended_at
    }


def _medians(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in found.items()}
