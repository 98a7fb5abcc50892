"""Each judge of VMs that travel can fail: a good world's record is doctored, one lie a test."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest

from schemas import directions, lost_sites, reversals
from schemas import operations as ops
from schemas import recovery as rec
from schemas import recovery_steering as steer
from schemas import replicator as rep
from schemas import scheduler as sch
from schemas import scheduler_operations as sch_ops
from schemas.ids import family_of, parts_of
from tests.simulation import lives
from tests.simulation.doctored import SECOND, Doctor, forget, is_seen, tell, turn
from tests.simulation.drills import Lived

SEEDS: Final = (3, 5, 6, 8, 13, 27, 205, 206, 208)
"""Worlds in which VMs travel, there and back again, and sites are lost."""

LONG_AGO: Final = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
replace = msgspec.structs.replace


def turned(life: Lived) -> Iterator[tuple[str, str, lives.Life]]:
    """What reversals turned: job, VM, and the machine that it was then."""
    line = lives.Lineage(lives.Powered(life.world), life.facts)
    for row, body in life.facts.of(directions.VmTurned):
        if family_of(body.job) == "reversal":
            vm = parts_of(row.stream)[-1]
            yield body.job, vm, line.source(body.job, vm)


# ── Bytes ────────────────────────────────────────────────────────────────────────────────────


def an_original_was_overwritten(life: Lived) -> bool:
    vm = life.world.sites["east"].vms["vm0"]
    disk = sorted(vm.disks)[0]
    # The disk is as its guest left it; by the record the guest left something else.
    first = bytes(each ^ 255 for each in life.world.first["vm0"][disk])
    life.world.first["vm0"] = {**life.world.first["vm0"], disk: first}
    return True


def an_instance_was_overwritten(life: Lived) -> bool:
    for _, _, machine in turned(life):
        born = life.world.sites[machine.site].born
        born[machine.machine] = {d: bytes(len(x)) for d, x in born[machine.machine].items()}
        return True
    return False


# ── Direction ────────────────────────────────────────────────────────────────────────────────


def the_original_is_read_in_reverse(life: Lived) -> bool:
    for _, vm, machine in turned(life):
        shots = life.world.sites[machine.site].every_snapshot
        for number, shot in enumerate(shots):
            if shot.machine == machine.machine:
                shots[number] = replace(shot, machine=vm)
        return True
    return False


def the_instance_is_read_after_a_failback(life: Lived) -> bool:
    """What came home is copied from where it came from."""
    for row, _ in life.facts.of(ops.RecoveryCommitted):
        start: rec.RecoveryStarted = life.facts.by_stream[row.stream][0][1]
        shots = life.world.sites["east"].every_snapshot
        late = [shot for shot in shots if shot.at > row.meta.occurred_at]
        if start.mode == "failback" and late:
            vm = late[0].vm
            line = lives.Lineage(lives.Powered(life.world), life.facts)
            before = line.source(row.stream, vm)
            shots.remove(late[0])
            wrong = replace(late[0], machine=before.machine)
            life.world.sites[before.site].every_snapshot.append(wrong)
            return True
    return False


def nothing_ever_turned(life: Lived) -> bool:
    return tell(life, directions.VmTurned, lambda _: None) and any(
        start.reverse and start.operation == "replication"
        for _, start in life.facts.of(rep.IterationStarted)
    )


def no_copy_was_made(life: Lived) -> bool:
    for site in life.world.sites.values():
        site.every_copy.clear()
    return any(True for _ in turned(life))


def the_copy_was_of_before(life: Lived) -> bool:
    for site in life.world.sites.values():
        site.every_snapshot[:] = [replace(shot, at=LONG_AGO) for shot in site.every_snapshot]
    return any(True for _ in turned(life))


def one_more_is_said_to_have_turned(life: Lived) -> bool:
    return tell(life, reversals.ReversalFinished, lambda end: replace(end, turned=end.turned + 1))


def the_quarantine_was_never_over(life: Lived) -> bool:
    return tell(life, sch_ops.PlanQuarantineEnded, lambda _: None)


# ── What is left ─────────────────────────────────────────────────────────────────────────────


def a_source_was_deleted(life: Lived) -> bool:
    for row, body in life.facts.of(directions.VmTurned):
        for job, _, machine in turned(life):
            if job == body.job and machine.job and machine.gone is None:
                at = row.meta.occurred_at + SECOND / 1000
                turn(life, machine.site, machine.machine, "gone", at)
                return True
    return False


def the_last_copy_is_another(life: Lived) -> bool:
    changed = False
    for run, vms in life.world.last_runs.items():
        for vm in vms:
            original = life.world.sites["east"].vms[vm]
            line = lives.Lineage(lives.Powered(life.world), life.facts)
            _, machine = line.now(vm)
            if machine.job and machine.gone is None:
                # By the record the VM is its original still.
                history = life.facts.of(ops.RecoveryCommitted)
                kept = [e for e in history if e[0].stream != machine.job]
                life.facts.by_type = {**life.facts.by_type, ops.RecoveryCommitted: kept}
                changed = changed or bool(original and run)
    return changed


def nobody_was_copied_at_the_end(life: Lived) -> bool:
    tell(life, rep.IterationFinished, lambda end: replace(end, run=""))
    return not life.temper.scripts and bool(life.world.last_runs)


# ── Ends ─────────────────────────────────────────────────────────────────────────────────────


def another_end_of_a_reversal_is_told(life: Lived) -> bool:
    return tell(
        life,
        reversals.ReversalFinished,
        lambda end: replace(end, state="failed" if end.state == "completed" else "completed"),
    )


def a_power_off_had_no_effect(life: Lived) -> bool:
    forget(life, "east", "off")
    ends = [end.state for _, end in life.facts.of(lost_sites.SitePowerOffFinished)]
    return "completed" in ends


def it_was_undone_without_need(life: Lived) -> bool:
    undone = any(end.undone_by for _, end in life.facts.of(rec.RecoveryFinished))
    tell(life, rec.RecoveryFinished, lambda end: replace(end, state="completed"))
    return undone


def it_was_not_undone(life: Lived) -> bool:
    undone = any(end.undone_by for _, end in life.facts.of(rec.RecoveryFinished))
    for kind in (
        ops.RollbackStarted,
        rec.CleanupStarted,
        ops.RecoveryRollingBack,
        rec.RecoveryCleaning,
        ops.RecoveryCommitting,
        steer.RecoveryReopened,
        steer.MemberRetried,
    ):
        tell(life, kind, lambda _: None)
    return undone


def the_original_ran_when_it_came_home(life: Lived) -> bool:
    for row, start in life.facts.of(rec.RecoveryStarted):
        if start.mode == "failback" and life.facts.of(sch.VmStarted):
            looks = [
                body
                for _, body in life.facts.by_stream[row.stream]
                if isinstance(body, rec.PreflightFinished)
            ]
            if looks and not looks[0].problems:
                turn(life, "east", start.members[0].vm, "on", start.requested_at - SECOND)
                return True
    return False


def two_run_after_a_failback(life: Lived) -> bool:
    for machine in lives.Powered(life.world).instances.values():
        if machine.site == "east" and machine.on and not machine.isolated:
            line = lives.Lineage(lives.Powered(life.world), life.facts)
            source = line.source(machine.job, machine.vm)
            turn(life, source.site, source.machine, "on", machine.on[0][0])
            return True
    return False


def what_came_home_is_off(life: Lived) -> bool:
    for row, _ in life.facts.of(ops.RecoveryCommitted):
        start: Any = life.facts.by_stream[row.stream][0][1]
        if start.mode == "failback":
            for machine in lives.Powered(life.world).of(row.stream):
                if machine.gone is None and machine.on and machine.on[-1][1] is None:
                    late = max(each.at for each in life.world.sites["east"].turns)
                    turn(life, "east", machine.machine, "off", late + SECOND)
                    return True
    return False


@pytest.mark.parametrize(
    ("doctor", "what"),
    [
        (an_original_was_overwritten, "written: disks of the original"),
        (an_instance_was_overwritten, "written: disks of i-"),
        (the_original_is_read_in_reverse, "direction: "),
        (the_instance_is_read_after_a_failback, "direction: "),
        (nothing_ever_turned, "direction: "),
        (no_copy_was_made, "turned: "),
        (the_copy_was_of_before, "turned: "),
        (one_more_is_said_to_have_turned, "turned: "),
        (the_quarantine_was_never_over, "quarantine: "),
        (a_source_was_deleted, "cleanup: "),
        (the_last_copy_is_another, "fresh: the copy"),
        (nobody_was_copied_at_the_end, "fresh: "),
        (another_end_of_a_reversal_is_told, "outcome: reversal:"),
        (a_power_off_had_no_effect, "power-off: "),
        (it_was_undone_without_need, "undone: "),
        (it_was_not_undone, "undone: "),
        (the_original_ran_when_it_came_home, "preflight: "),
        (two_run_after_a_failback, "twice: "),
        (what_came_home_is_off, "source: "),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_doctored_journey_is_seen(doctor: Doctor, what: str) -> None:
    assert is_seen(SEEDS, doctor, what), "no judge sees it; or there was nothing to change"
