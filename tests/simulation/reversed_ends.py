"""The ends of reversals, of power-offs at lost sites, and of what undoes itself, held to the rule.

A second computation, by no code of the product: from the commands that were granted, from the
iterations that were made, and from which machine was on when.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from schemas import directions, lost_sites, reversals
from schemas import operations as ops
from schemas import recovery as rec
from schemas import recovery_steering as steer
from schemas import replicator as rep
from schemas import scheduler as sch
from schemas.envelope import Recorded
from schemas.ids import parts_of
from tests.simulation import operations
from tests.simulation.facts import Facts
from tests.simulation.lives import Lineage, Powered, ready_of
from tests.simulation.outcomes import Happened
from tests.simulation.plane import Plane
from tests.simulation.plans import Temper

FASTER: Final = dt.timedelta(seconds=10)
"""So soon after an end a person may have decided before it undid itself, in a calm world."""

FASTER_ROUGH: Final = dt.timedelta(seconds=900)
"""The same where processes die, and nothing goes on for a while."""

MADE_BY: Final = ("rebuild_disk", "create_instance")


def judged(world: Plane, facts: Facts, temper: Temper) -> list[str]:
    """Ends that are not what the rule makes of what happened."""
    happened = Happened(world, facts)
    broken: list[str] = []
    for row, end in facts.of(reversals.ReversalFinished):
        expected, why = _reversal(happened, row)
        if end.state != expected:
            broken.append(f"outcome: {row.stream} is {end.state}, not {expected}: {why}")
    broken += _powered_off(world, facts)
    return broken + _undone(world, facts, temper)


# ── Reversals ────────────────────────────────────────────────────────────────────────────────


def _reversal(happened: Happened, row: Recorded) -> tuple[str, str]:
    """The first rule that fits, and what made it fit."""
    facts, job = happened.facts, row.stream
    history = facts.by_stream[job]
    start: reversals.ReversalStarted = history[0][1]
    if happened.asked(rec.CancelRecoveryJob, {job}, row.meta.occurred_at):
        return "cancelled", "somebody cancelled it"
    looks = [b for _, b in history if isinstance(b, reversals.ReversalPreflightFinished)]
    if not looks or looks[-1].problems:
        return "failed", "preflight found problems"
    if start.dry_run:
        return "completed", "it was a dry run"
    turned = {
        parts_of(other.stream)[-1]
        for other, body in facts.of(directions.VmTurned)
        if body.job == job
    }
    if not turned:
        return "failed", "no VM turned"
    _, plan, key = parts_of(job)
    run = f"replication-run:{plan}:reverse-{key}"
    bad = [f"{vm} did not turn" for vm in start.vms if vm not in turned]
    bad += [
        f"the iteration of {end.vm} is {end.state}"
        for _, end in facts.of(rep.IterationFinished)
        if end.run == run and end.state != "completed"
    ]
    return ("partially-completed", ", ".join(bad)) if bad else ("completed", "nothing failed")


# ── Lost sites ───────────────────────────────────────────────────────────────────────────────


def _powered_off(world: Plane, facts: Facts) -> list[str]:
    """Where a power-off is called complete nothing runs any more that had been given up."""
    line = Lineage(Powered(world), facts)
    broken: list[str] = []
    for row, end in facts.of(lost_sites.SitePowerOffFinished):
        start: lost_sites.SitePowerOffStarted = facts.by_stream[row.stream][0][1]
        seen = _last_look(facts, row.stream)
        if end.state != "completed":
            continue
        for job in start.recoveries:
            for vm in _given_up(facts, job, seen):
                if (not start.vms or vm in start.vms) and line.source(job, vm).is_on(seen):
                    broken.append(f"power-off: {vm} runs on after {row.stream}")
    return broken


def _last_look(facts: Facts, job: str) -> dt.datetime:
    looks = [b for _, b in facts.by_stream[job] if isinstance(b, lost_sites.SitePowerOffLooked)]
    ended = looks[-1].timing.started_at or looks[-1].at
    return ended


def _given_up(facts: Facts, job: str, at: dt.datetime) -> list[str]:
    """VMs that a recovery replaced unreached, and was not taken back until then."""
    found: list[str] = []
    for row, body in facts.by_stream[job]:
        if row.meta.occurred_at > at:
            break
        match body:
            case ops.SourceSiteLost():
                found = [member.vm for member in facts.by_stream[job][0][1].members]
            case ops.MemberSecured(state="gone"):
                found.append(body.vm)
            case ops.RecoveryRollingBack() | ops.RecoveryRolledBack():
                return []
            case ops.RecoveryCommitted():
                # Who was left out is its original again.
                found = [vm for vm in found if vm in ready_of(facts, job)]
    return found


# ── What undoes itself ───────────────────────────────────────────────────────────────────────


def _undone(world: Plane, facts: Facts, temper: Temper) -> list[str]:
    """A test or migration of which a VM did not come up is undone by itself where that is
    wanted; nothing else ever is."""
    by_itself = _begun_by_itself(facts)
    asked = {a.body.job: a.body for a in world.asked if isinstance(a.body, sch.Recover)}
    broken: list[str] = []
    for job in facts.streams(rec.RecoveryStarted):
        start: rec.RecoveryStarted = facts.by_stream[job][0][1]
        command = asked[job]
        wanted = command.auto_rollback
        if wanted is None:
            wanted = start.header.recovery.auto_rollback
        wanted = wanted and operations.of(start.mode).undoes_itself
        ends = [
            (row.meta.occurred_at, end)
            for row, end in facts.by_stream[job]
            if isinstance(end, rec.RecoveryFinished)
        ]
        short = [at for at, end in ends if wanted and _fell_short(start, end)]
        if by_itself.get(job) and not short:
            broken.append(f"undone: {job} was, by itself")
        for at in (at for at in short if _made_something(world, job, at)):
            until = at + (FASTER if temper.calm else FASTER_ROUGH)
            if not by_itself.get(job) and not _decided(facts, job, at, until):
                broken.append(f"undone: {job} was not, though a VM did not come up")
    return broken


def _begun_by_itself(facts: Facts) -> dict[str, list[dt.datetime]]:
    found: dict[str, list[dt.datetime]] = {}
    for row, back in facts.of(ops.RollbackStarted):
        if back.automatic:
            found.setdefault(back.recovery, []).append(row.meta.occurred_at)
    for row, clean in facts.of(rec.CleanupStarted):
        if parts_of(row.stream)[-1].startswith("undo-"):
            found.setdefault(clean.recovery, []).append(row.meta.occurred_at)
    return found


def _fell_short(start: rec.RecoveryStarted, end: rec.RecoveryFinished) -> bool:
    """Whether it ended without having brought up all of its VMs."""
    bad = end.state in ("failed", "partially-completed") and not start.dry_run
    return bad and end.ready < len(start.members)


def _made_something(world: Plane, job: str, at: dt.datetime) -> bool:
    lines = (line for site in world.sites.values() for line in site.journal)
    return any(
        (line["job"], line["outcome"]) == (job, "ok")
        and line["call"] in MADE_BY
        and dt.datetime.fromisoformat(line["at"]) <= at
        for line in lines
    )


def _decided(facts: Facts, job: str, since: dt.datetime, until: dt.datetime) -> bool:
    """Whether somebody was faster: committed it, undid it, or had it go on."""
    kinds: tuple[type[Any], ...] = (
        ops.RecoveryCommitting,
        ops.RecoveryRollingBack,
        rec.RecoveryCleaning,
        steer.RecoveryReopened,
        steer.MemberRetried,
    )
    return any(
        isinstance(body, kinds) and since <= row.meta.occurred_at <= until
        for row, body in facts.by_stream[job]
    )
