"""Judges a world of the control plane by the sites' own journals and by the histories.

Owns the rules of product.md as seen from outside: what a platform was asked to do, in which
order, and what is left of it. Nothing here reads a decider's state.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from schemas import recovery as rec
from schemas import recovery_steering as steer
from schemas import replicator as rep
from schemas import scheduler as sch
from schemas.common import CommandSettled, ScriptReport, StepTiming
from schemas.directions import VmTurned
from schemas.ids import parts_of
from schemas.steps import MANUAL
from services.replicator.budgets import budgets_of
from shared.effects.port import Budget
from shared.platforms.lab.limits import LabLimits
from shared.platforms.ports import Instance
from shared.testing.scripts import Run
from shared.testing.sites import Shot
from tests.simulation import (
    commits,
    issued,
    journeys,
    machines,
    outcomes,
    reversed_ends,
    strangers,
    told,
)
from tests.simulation.contract import contract_kept
from tests.simulation.facts import Facts
from tests.simulation.lives import HOME, OTHER, unprepared
from tests.simulation.plane import DEFINITIONS, NOTIFIER, Plane
from tests.simulation.plans import PREPARED, Temper
from tests.simulation.verdict import consumed, dense, nothing_left, rates_kept, settled_once

MADE_BY: Final = ("create_instance", "rebuild_disk", "hold", "open_snapshot", "power_on")
SCRIPT_STEPS: Final = ("pre-script", "post-script")


async def judge(world: Plane, facts: Facts, temper: Temper) -> list[str]:
    """Everything that is not as it must be."""
    await facts.refresh()
    broken = [f"crashed: {crash}" for crash in world.crashes]
    history = await world.history()
    broken += dense(history)
    broken += contract_kept(history)
    for definition in DEFINITIONS:
        if world.shape.telling or definition is not NOTIFIER:
            broken += await consumed(world, definition)
    broken += await nothing_left(world)
    answers = [body for _, body in facts.of(CommandSettled)]
    broken += settled_once([asked.body.command_id for asked in world.asked], answers)[1]
    broken += _once(world)
    broken += machines.judged(world, facts)
    broken += outcomes.judged(world, facts, temper)
    broken += told.judged(world, facts, temper)
    broken += commits.judged(world, facts)
    broken += journeys.judged(world, facts, temper)
    broken += reversed_ends.judged(world, facts, temper)
    broken += issued.judged(world, calm=temper.calm)
    broken += _run_outcomes(facts)
    broken += _scripts(world, facts)
    broken += _left_behind(world, facts)
    broken += contents(world)
    broken += _one_iteration_at_a_time(facts)
    broken += _on_the_grid(facts)
    broken += rates_kept(_budgets(world), world.grants)
    if not temper.faults and not any(world.lost.values()):
        broken += _attempts(facts)
    if world.shape.telling:
        broken += await _read_model(world)
        broken += _mails(world, facts)
    return broken


# ── By the sites' journals ───────────────────────────────────────────────────────────────────


def _done(world: Plane, site: str, *calls: str) -> list[dict[str, Any]]:
    lines = world.sites[site].journal
    return [line for line in lines if line["call"] in calls and line["outcome"] == "ok"]


def _once(world: Plane) -> list[str]:
    """No effect made two things."""
    broken: list[str] = []
    for site in world.sites:
        made = Counter((line["call"], line["key"]) for line in _done(world, site, *MADE_BY))
        broken += [f"once: {call} {key} {n} times" for (call, key), n in made.items() if n > 1]
    return broken


def _left_behind(world: Plane, facts: Facts) -> list[str]:
    """Every snapshot closed, nothing staged or held; of recoveries what was committed is left."""
    broken: list[str] = []
    kept = facts.committed()
    deleted = {row.stream for row, _ in facts.of(rep.CheckpointDeleted)}
    for name, site in world.sites.items():
        broken += [f"left: snapshot {s} at {name}" for s in site.snapshots]
        broken += [f"left: generation {g} of {s.owned.job}" for g, s in site.staged.items()]
        broken += [f"left: hold {h} of {c.owned.job}" for h, c in site.held.items()]
        owned = [each.owned for each in site.disks.values()]
        owned += [each.owned for each in site.instances.values()]
        broken += [
            f"left: {each.kind} {each.object_id} of {each.job}"
            for each in owned
            if each.job not in (*kept, strangers.STRANGER)
        ]
        broken += [f"left: prep node {node} of {name} is on" for node in site.nodes_on]
        broken += [
            f"left: checkpoint {checkpoint} of {plan}/{vm} was deleted"
            for plan, vm, checkpoint in site.checkpoints
            if checkpoint in deleted
        ]
    broken += [f"left: {recovery} was never cleaned" for recovery in facts.unclean()]
    return broken


def contents(world: Plane) -> list[str]:
    """Copies, checkpoints and instances hold the bytes of one moment of their VM's disks."""
    broken: list[str] = []
    for name, site in world.sites.items():
        shots = {shot.mark: shot for shot in world.sites[OTHER[name]].every_snapshot}
        for copy in (*site.current.values(), *site.checkpoints.values()):
            shot = shots.get(copy.facts.mark)
            if shot is None or (shot.vm, shot.disks) != (copy.facts.vm, copy.content):
                broken.append(f"bytes: copy {copy.facts.copy_id} of {copy.facts.vm} at {name}")
        for made in site.every_instance:
            if made.facts.job != strangers.STRANGER:
                broken += _born_of(world, name, made.facts, list(shots.values()))
    return broken


def _born_of(world: Plane, name: str, facts: Instance, shots: Sequence[Shot]) -> list[str]:
    """An instance begins as its VM was at one moment, but for what a Windows needs to boot."""
    disks = world.sites[name].born.get(facts.instance_id)
    if disks is None:
        return [f"bytes: instance {facts.instance_id} of {facts.vm} at {name} was never made"]
    os = world.sites[HOME].vms[facts.vm].os
    broken: list[str] = []
    if os == "windows" and not disks["sda"].startswith(PREPARED):
        broken.append(f"windows: {facts.vm} was not prepared")
    moments = (unprepared(shot.disks, os=os) for shot in shots if shot.vm == facts.vm)
    if unprepared(disks, os=os) not in moments:
        broken.append(f"bytes: instance {facts.instance_id} of {facts.vm} at {name}")
    return broken


def _budgets(world: Plane) -> list[Budget]:
    found: list[Budget] = []
    for name, site in world.sites.items():
        limits = LabLimits(lambda settings=site.settings: settings)  # type: ignore[misc]
        found += budgets_of(name, limits.budgets())
    return found


# ── By the histories ─────────────────────────────────────────────────────────────────────────


def _run_outcomes(facts: Facts) -> list[str]:
    members: dict[str, list[rep.IterationFinished]] = defaultdict(list)
    for _, member in facts.of(rep.IterationFinished):
        if member.run:
            members[member.run].append(member)
    cancelled = set(facts.streams(rep.RunCancelRequested))
    broken: list[str] = []
    for row, end in facts.of(rep.RunFinished):
        usable = [each for each in members[row.stream] if each.checkpoint_at is not None]
        if row.stream in cancelled or _all_cancelled(end, members[row.stream]):
            continue
        if end.state == "completed" and any(e.state != "completed" for e in members[row.stream]):
            broken.append(f"outcome: {row.stream} is completed, its members are not")
        if (end.state == "failed") != (not usable) and members[row.stream]:
            broken.append(f"outcome: {row.stream} is {end.state} with {len(usable)} usable")
    return broken


def _all_cancelled(end: rep.RunFinished, members: Sequence[rep.IterationFinished]) -> bool:
    """A plan that is stopped cancels the members of its run one by one."""
    return end.state == "cancelled" and any(each.state == "cancelled" for each in members)


def _scripts(world: Plane, facts: Facts) -> list[str]:
    """No script is started twice under one effect; what is told of its end is what happened."""
    runs: dict[str, Run] = {}
    broken: list[str] = []
    for run in world.machine.runs:
        if run.effect_id in runs:
            broken.append(f"script: {run.effect_id} was started twice")
        runs[run.effect_id] = run
    kinds: Iterable[type[Any]] = (
        rec.VmScriptEnded,
        rec.PlanScriptEnded,
        rep.ScriptEnded,
        rep.RunScriptEnded,
    )
    for kind in kinds:
        for row, end in facts.of(kind):
            part = end.step if end.run == 1 else f"{end.step}/{end.run}"
            broken += _told_truly(f"{row.stream}/{part}", end.report, runs)
    return broken


def _told_truly(effect_id: str, report: ScriptReport, runs: dict[str, Run]) -> list[str]:
    run = runs.get(effect_id)
    if report.outcome in ("done", "timed-out") and (run is None or run.outcome != report.outcome):
        return [f"script: {effect_id} is told {report.outcome}, it was {run and run.outcome}"]
    return []


def _one_iteration_at_a_time(facts: Facts) -> list[str]:
    """A VM's iterations follow one another."""
    broken: list[str] = []
    open_now: dict[str, str] = {}
    moves: list[tuple[int, str, Any]] = []
    for kind in (sch.IterationDispatched, sch.IterationRecorded):
        moves += [(row.version, row.stream, event) for row, event in facts.of(kind)]
    for _, stream, event in sorted(moves, key=lambda move: (move[1], move[0])):
        if isinstance(event, sch.IterationDispatched):
            if stream in open_now:
                broken.append(f"hold: {stream} starts {event.iteration} in {open_now[stream]}")
            open_now[stream] = event.iteration
        else:
            open_now.pop(stream, None)
    return broken


def _on_the_grid(facts: Facts) -> list[str]:
    """Ticks of the schedule lie on the grid of a version of their plan.

    A VM that has turned is brought up to date at once.
    """
    turned = {(row.stream, row.meta.occurred_at) for row, _ in facts.of(VmTurned)}
    grids: dict[str, set[tuple[dt.datetime, float]]] = defaultdict(set)
    for _, applied in facts.of(sch.PlanApplied):
        policy = applied.header.replication
        grids[applied.plan].add((policy.start_at, policy.interval_s))
    broken: list[str] = []
    for row, tick in facts.of(sch.IterationDispatched):
        offsets = [
            (tick.tick_at - start).total_seconds() % interval_s
            for start, interval_s in grids[parts_of(row.stream)[1]]
        ]
        at_once = (row.stream, row.meta.occurred_at) in turned
        if not (tick.run or at_once or any(offset == 0 for offset in offsets)):
            broken.append(f"grid: {row.stream} ticks at {tick.tick_at}")
    return broken


def _attempts(facts: Facts) -> list[str]:
    """Where nothing fails no attempt is used: throttles, deaths and pauses cost none.

    A person's retry is one, and people are asked again.
    """
    again = Counter(row.stream for row, _ in facts.of(steer.VmRetried))
    again += Counter(row.stream for row, _ in facts.of(steer.RecoveryReopened))
    broken: list[str] = []
    for found in facts.by_type.values():
        for row, body in found:
            for step in _timings(body):
                by_hand = step.name in SCRIPT_STEPS or step.name.startswith(MANUAL)
                if step.attempts > 1 + again[row.stream] and not by_hand:
                    broken.append(f"attempts: {row.stream} {step.name} took {step.attempts}")
    return broken


def _timings(body: Any) -> list[StepTiming]:
    found = list(getattr(body, "steps", ()))
    timing = getattr(body, "timing", None)
    found += [timing] if timing is not None else []
    return [each for each in found if isinstance(each, StepTiming)]


async def _read_model(world: Plane) -> list[str]:
    """What was projected live is what a rebuild gives."""
    again = await world.rebuilt()
    broken: list[str] = []
    for table, rows in again.tables.items():
        live = world.model.tables[table]
        for key in sorted(live.keys() ^ rows.keys()):
            broken.append(
                f"read model: {table} {key} is only {'live' if key in live else 'rebuilt'}"
            )
        for key, document in rows.items():
            if key in live and _bytes(live[key]) != _bytes(document):
                broken.append(f"read model: {table} {key} differs")
    if sorted(map(_bytes, again.events)) != sorted(map(_bytes, world.model.events)):
        broken.append("read model: events differ")
    return broken


def _bytes(document: Any) -> bytes:
    return msgspec.json.encode(document)


def _mails(world: Plane, facts: Facts) -> list[str]:
    """A mail for every recovery that ended, and none for a dry run."""
    sent = set(world.mails)
    dry = {row.stream for row, start in facts.of(rec.RecoveryStarted) if start.dry_run}
    broken: list[str] = []
    for row, _ in facts.of(rec.RecoveryFinished):
        _, plan, ident = parts_of(row.stream)
        mailed = f"<delivery.{plan}.{ident}@seawall>" in sent
        if mailed == (row.stream in dry):
            broken.append(f"mail: {'one' if mailed else 'none'} for {row.stream}")
    return broken
