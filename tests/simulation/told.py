"""Judges what recoveries tell of their parts by what the sites and people did.

The outcome rule (`outcomes`) is computed from these tales; here each is held against the world. In
a calm world nothing may fail without a cause that can be seen.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from typing import Any, Final

from schemas import operations as ops
from schemas import recovery as rec
from schemas import recovery_steering as steer
from schemas.envelope import Recorded
from schemas.ids import parts_of
from tests.simulation import operations
from tests.simulation.facts import Facts
from tests.simulation.lives import AWAY, OTHER, SLACK, Lineage, Powered, away, ready_of
from tests.simulation.outcomes import Happened, script_of
from tests.simulation.plane import Plane
from tests.simulation.plans import Temper

PLATFORM_STEPS: Final = {
    "hold-copy": "hold-copy",
    "rebuild-disks": "rebuild",
    "prepare-windows": "prepare-windows",
    "create-instance": "create-instance",
    "power-on": "power-on",
}
SEEN_WITHIN: Final = dt.timedelta(seconds=5)
"""So soon after it is up a guest is noticed where nothing is in the way."""

PAUSING: Final = dt.timedelta(seconds=5)
"""So long after a pause was granted a step may begin that had been handed out before."""

BEGINNINGS: Final = ("hold", "rebuild_disk", "create_instance", "power_on", "prepare_windows")


def judged(world: Plane, facts: Facts, temper: Temper) -> list[str]:
    """Tales that the world does not bear out."""
    found, happened = Powered(world), Happened(world, facts)
    line = Lineage(found, facts)
    lines: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for site in world.sites.values():
        for entry in site.journal:
            if entry["key"]:
                lines[entry["key"]].append(entry)
    broken: list[str] = []
    for stream in facts.streams(rec.VmEnrolled):
        broken += _readiness(world, facts, found, stream, calm=temper.calm)
        if temper.calm:
            broken += _failures(facts, lines, stream)
    broken += _preflights(world, facts, found, line, temper)
    broken += _secured(facts, line, lines)
    broken += _answers(facts, happened)
    broken += _decided(facts, found, line)
    broken += _scripts_in_place(world, facts, found)
    if temper.calm:
        broken += _pauses(facts, lines)
        broken += _stops(facts, found)
    return broken


def _job_of(stream: str) -> tuple[str, str]:
    _, plan, key, vm = parts_of(stream)
    return f"recovery:{plan}:{key}", vm


def _readiness(
    world: Plane, facts: Facts, found: Powered, stream: str, *, calm: bool
) -> list[str]:
    """Who is called ready is up; who is called late has had its time."""
    job, vm = _job_of(stream)
    history = facts.by_stream[stream]
    within = dt.timedelta(seconds=history[0][1].definition.ready.within_s)
    broken: list[str] = []
    waived = False
    for row, body in history:
        match body:
            case steer.VmRetried():
                waived = waived or body.skip == "wait-ready"
            case rec.VmReady() if not any(life.up(body.at) for life in found.of(job, vm)):
                broken.append(f"told: {stream} is ready, and was not up at {body.at}")
            case rec.VmFinished(outcome="ready"):
                broken += _is_usable(found, stream, row, waived=waived)
            case rec.VmStepEnded() if body.timing.name == "wait-ready":
                on = [at for life in found.of(job, vm) for at, _ in life.on if at <= _at(row)]
                boots = [life.boots for life in found.of(job, vm) if life.on]
                if not on or max(on) + within > _at(row) + SLACK:
                    broken.append(f"told: {stream} is late before its time")
                elif any(away(world, site, max(on), _at(row)) for site in world.sites):
                    continue  # Nobody could look.
                elif calm and min(boots) + SEEN_WITHIN < within:
                    broken.append(f"told: {stream} is late, and was up in time")
    return broken


def _at(row: Recorded) -> dt.datetime:
    return row.meta.occurred_at


def _is_usable(found: Powered, stream: str, row: Recorded, *, waived: bool) -> list[str]:
    job, vm = _job_of(stream)
    for life in found.of(job, vm):
        if life.is_on(_at(row)) and (waived or life.up(_at(row))):
            return []
    return [f"told: {stream} is usable, and no instance of it is up"]


def _failures(facts: Facts, lines: dict[str, list[dict[str, Any]]], stream: str) -> list[str]:
    """A step at the platform fails where the platform refused."""
    broken: list[str] = []
    for _, body in facts.by_stream[stream]:
        if not isinstance(body, rec.VmStepEnded) or body.timing.state != "failed":
            continue
        part = PLATFORM_STEPS.get(body.timing.name)
        if part is None:
            continue
        refused = [
            line
            for key, found in lines.items()
            for line in found
            if key.startswith(f"{stream}/{part}") and line["outcome"] == "error"
        ]
        if not refused:
            broken.append(f"told: {body.timing.name} of {stream} failed without a cause")
    return broken


# ── Preflight and sources ────────────────────────────────────────────────────────────────────


def _preflights(
    world: Plane, facts: Facts, found: Powered, line: Lineage, temper: Temper
) -> list[str]:
    """What keeps a recovery from working is found before anything is touched, and is there."""
    broken: list[str] = []
    for row, start in facts.of(rec.RecoveryStarted):
        if operations.of(start.mode).ends_with == "cleanup":
            continue
        first = next(
            (f for f in facts.by_stream[row.stream] if isinstance(f[1], rec.PreflightFinished)),
            None,
        )
        if first is None:
            continue
        at, report = _at(first[0]), first[1]
        codes = {problem.code for problem in report.problems}
        source = line.source(row.stream, start.members[0].vm).site
        spans = world.lost[source]
        lost = away(world, source, _at(row), at)
        whole = any(begin <= _at(row) and (end is None or end >= at) for begin, end in spans)
        if whole and not start.source_gone and not codes:
            broken.append(f"preflight: {row.stream} does not miss its source site")
        if whole and start.source_gone and not codes and not report.source_lost:
            broken.append(f"preflight: {row.stream} reaches a site that is away")
        if not lost and report.source_lost:
            broken.append(f"preflight: {row.stream} gives up a site that is there")
        if not lost and "source-unreachable" in codes and not temper.faults:
            broken.append(f"preflight: {row.stream} misses a site that is there")
        taken = _taken(found, start, OTHER[source], _at(row), at)
        if taken and not codes:
            broken.append(f"preflight: {row.stream} does not see that {taken} are taken")
        on = [
            member.vm
            for member in start.members
            if source == AWAY and all(map(found.sources[member.vm].is_on, (_at(row), at)))
        ]
        if on and not codes:
            broken.append(f"preflight: {row.stream} does not see that originals of {on} run")
    return broken


def _taken(
    found: Powered, start: rec.RecoveryStarted, site: str, since: dt.datetime, at: dt.datetime
) -> list[str]:
    """Names of its VMs that other instances have at the site where it brings them up."""
    names = {member.vm for member in start.members}
    taken = []
    for (where, _), life in found.instances.items():
        stands = life.made is not None and life.made <= since and (not life.gone or life.gone > at)
        if where == site and life.name in names and stands and life.job != start.job:
            taken.append(life.name)
    return sorted(taken)


def _secured(facts: Facts, line: Lineage, lines: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A source that is called off is off."""
    broken: list[str] = []
    for row, body in facts.of(ops.MemberSecured):
        if body.state == "off" and line.source(row.stream, body.vm).is_on(_at(row)):
            broken.append(f"told: the source of {body.vm} in {row.stream} is off, and runs")
        _, plan, key = parts_of(row.stream)
        tried = [k for k in lines if k.startswith(f"vm-source:{plan}:{key}:{body.vm}/")]
        if body.forced and not any("power-off-source" in key for key in tried):
            broken.append(f"told: the source of {body.vm} was forced off, and nobody did")
    return broken


# ── People ───────────────────────────────────────────────────────────────────────────────────


def _answers(facts: Facts, happened: Happened) -> list[str]:
    """What a question came to is what a person said, or what stands when nobody does."""
    said: set[tuple[str, str, str]] = set()
    for _, granted in happened.granted:
        if isinstance(granted, steer.AnswerQuestion):
            said.add((granted.job, granted.step, granted.choice))
        elif isinstance(granted, steer.SkipStep):
            said.add((granted.job, granted.step, "skip"))
    answers: list[tuple[Recorded, Any]] = list(facts.of(steer.RecoveryAnswered))
    answers += facts.of(steer.VmAnswered)
    return [
        f"answer: {row.stream} {answer.step} {why}"
        for row, answer in answers
        if (why := _wrong(answer, row.stream, _question(facts, row, answer.step), said))
    ]


def _wrong(
    answer: Any, stream: str, asked: steer.Question | None, said: set[tuple[str, str, str]]
) -> str:
    if asked is None:
        return "was never asked"
    if answer.actor != steer.TIME_OUT:
        told_so = not answer.actor or (stream, answer.step, answer.choice) in said
        return "" if told_so else f"was never answered {answer.choice}"
    late = answer.at + SLACK >= asked.until
    return "" if late and answer.choice == asked.default else "ends before its time"


def _question(facts: Facts, row: Recorded, step: str) -> steer.Question | None:
    found = None
    for other, body in facts.by_stream[row.stream]:
        if other.version < row.version and isinstance(body, steer.RecoveryAsked | steer.VmAsked):
            found = body.question if body.question.step == step else found
    return found


def _decided(facts: Facts, found: Powered, line: Lineage) -> list[str]:
    """What was committed is there, what was rolled back or cleaned is gone, sources are back."""
    broken: list[str] = []
    clean = [row for row, _ in facts.of(rec.RecoveryCleaned)]
    clean += [row for row, _ in facts.of(ops.RecoveryRolledBack)]
    for row in clean:
        left = [life.vm for life in found.of(row.stream) if life.there(_at(row))]
        if left:
            broken.append(f"left: instances of {left} when {row.stream} was told to be clean")
    for row, _ in facts.of(ops.RecoveryCommitted):
        for vm in ready_of(facts, row.stream):
            if not any(life.there(_at(row)) for life in found.of(row.stream, vm)):
                broken.append(f"told: {row.stream} is committed without {vm}")
    for row, undone in facts.of(ops.RollbackFinished):
        if undone.state == "completed" or undone.left_off:
            broken += _back_again(facts, line, undone, _at(row))
    return broken


def _back_again(
    facts: Facts, line: Lineage, end: ops.RollbackFinished, at: dt.datetime
) -> list[str]:
    """Sources that this recovery switched off are on again, but for those left off by word."""
    job = end.recovery
    off = {
        body.vm
        for _, body in facts.by_stream[job]
        if isinstance(body, ops.MemberSecured) and body.state == "off"
    }.difference(end.left_off)
    _, plan, key = parts_of(job)
    broken: list[str] = []
    for vm in sorted(off):
        seen = facts.by_stream[f"vm-source:{plan}:{key}:{vm}"]
        was_on = any(isinstance(body, ops.SourceSeen) and body.on for _, body in seen)
        if was_on and not line.source(job, vm).is_on(at):
            broken.append(f"source: {vm} is off after the roll back of {job}")
    return broken


def _pauses(facts: Facts, lines: dict[str, list[dict[str, Any]]]) -> list[str]:
    """While a recovery is paused none of its VMs begins a step at the platform."""
    broken: list[str] = []
    for row, paused in facts.of(steer.RecoveryPaused):
        until = next(
            (
                _at(other)
                for other, body in facts.by_stream[row.stream]
                if other.version > row.version
                and isinstance(
                    body,
                    steer.RecoveryResumed | rec.RecoveryCancelRequested | rec.RecoveryFinished,
                )
            ),
            None,
        )
        for key, found in lines.items():
            first = found[0]
            at = dt.datetime.fromisoformat(first["at"])
            begins = first["call"] in BEGINNINGS and first["job"] == row.stream
            if begins and at > paused.at + PAUSING and (until is None or at < until):
                broken.append(f"pause: {key} begins while {row.stream} is paused")
    return broken


def _scripts_in_place(world: Plane, facts: Facts, found: Powered) -> list[str]:
    """A VM's pre-script comes before all that is done for it, its post-script once it is up."""
    first: dict[tuple[str, str], dt.datetime] = {}
    for line in (line for site in world.sites.values() for line in site.journal):
        if line["call"] == "hold" and line["outcome"] == "ok":
            first.setdefault((line["job"], line["vm"]), dt.datetime.fromisoformat(line["at"]))
    broken: list[str] = []
    for run in world.machine.runs:
        stream, step, number = script_of(run.effect_id)
        if not stream.startswith("vm-recovery:") or number > 1:
            continue
        job, vm = _job_of(stream)
        waived = any(isinstance(b, steer.VmRetried) and b.skip for _, b in facts.by_stream[stream])
        if step == "pre-script" and first.get((job, vm), run.started_at) < run.started_at:
            broken.append(f"script: pre-script of {stream} comes late")
        up = waived or any(life.up(run.started_at) for life in found.of(job, vm))
        if step == "post-script" and not up:
            broken.append(f"script: post-script of {stream} comes early")
    return broken


def _stops(facts: Facts, found: Powered) -> list[str]:
    """Where a VM's failure stops the operation no other VM begins to boot."""
    broken: list[str] = []
    for row, start in facts.of(rec.RecoveryStarted):
        history = facts.by_stream[row.stream]
        if any(isinstance(b, steer.MemberRetried) for _, b in history) or start.on_error != "stop":
            continue
        failed = [
            _at(other)
            for other, body in history
            if isinstance(body, rec.MemberEnded) and body.outcome == "failed"
        ]
        for life in found.of(row.stream) if failed else ():
            if life.on and life.on[0][0] > min(failed) + PAUSING:
                broken.append(f"stop: {life.vm} boots though {row.stream} was stopped")
    return broken
