"""Which way VMs are replicated: what a reversal and a committed failback change, and undo."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from schemas import directions as said_dir
from schemas import scheduler as said
from schemas.common import CommandSettled
from schemas.directions import SourceInstance
from schemas.operations import LastSyncEnded
from schemas.plans import (
    REPLICATION_OPERATIONS,
    CheckpointPolicy,
    RecoveryNetworks,
    RecoveryPolicy,
    ReplicationPolicy,
    ScriptDefinition,
    Targets,
)
from schemas.recovery import EnrolVm, StartRecovery
from schemas.replicator import CancelIteration, MakeCheckpoint, StartIteration, StartRun
from schemas.reversals import ReversalGroup, StartReversal
from tests.unit.scheduler.desk import Desk, at, definition, desk_with

FAILOVER = "recovery:shop:f1"
REVERSAL = "reversal:shop:v1"
FAILBACK = "recovery:shop:b1"
RUN = "replication-run:shop:reverse-v1"


def failed_over(*vms: str, commit: bool = True, **changes: Any) -> Desk:
    """A plan whose VMs run at the recovery site."""
    desk = desk_with(*vms, **changes)
    desk.copied(*vms)
    recover(desk, "failover", FAILOVER)
    ended(desk, FAILOVER, "failover", moved=True)
    desk.tell(said.ReleaseHolds(plan="shop", job=FAILOVER, modes=("write-copy",)))
    if commit:
        release(desk, FAILOVER)
    desk.sent.clear()
    return desk


def recover(desk: Desk, mode: str, job: str, **fields: Any) -> CommandSettled | None:
    return desk.command(said.Recover, plan="shop", job=job, mode=mode, **fields)


def ended(desk: Desk, job: str, mode: Any, **fields: Any) -> None:
    desk.tell(said.RecoveryEnded(plan="shop", job=job, mode=mode, state="completed", **fields))


def release(desk: Desk, job: str) -> None:
    modes: Any = ("write-copy", "own-instance")
    desk.tell(said.ReleaseHolds(plan="shop", job=job, modes=modes, release_checkpoint=True))


def source(vm: str, made_by: str = FAILOVER) -> SourceInstance:
    return SourceInstance(vm, f"i-{vm}", made_by)


def mark(desk: Desk, *vms: str, job: str = REVERSAL, made_by: str = FAILOVER) -> None:
    sources = tuple(source(vm, made_by) for vm in vms)
    desk.tell(said_dir.MarkDirection(plan="shop", job=job, sources=sources))


def resync(desk: Desk, *vms: str, job: str = REVERSAL) -> None:
    desk.tell(said.SyncLast(plan="shop", job=job, vms=vms))
    for vm in vms:
        desk.end(vm)
    desk.settle_checks()


def reversed_plan(*vms: str, **changes: Any) -> Desk:
    """A plan that is replicated in reverse."""
    desk = failed_over(*vms, **changes)
    assert code(recover(desk, "reverse", REVERSAL)) == "done"
    mark(desk, *vms)
    resync(desk, *vms)
    ended(desk, REVERSAL, "reverse", moved=True)
    release(desk, REVERSAL)
    desk.sent.clear()
    return desk


def failed_back(*vms: str) -> Desk:
    """A plan whose failback awaits its commit."""
    desk = reversed_plan(*vms)
    assert code(recover(desk, "failback", FAILBACK)) == "done"
    desk.tell(said.SyncLast(plan="shop", job=FAILBACK, vms=vms))
    for vm in vms:
        desk.end(vm)
    desk.settle_checks()
    ended(desk, FAILBACK, "failback", moved=True)
    desk.tell(said.ReleaseHolds(plan="shop", job=FAILBACK, modes=("write-copy",)))
    desk.sent.clear()
    return desk


def code(answer: CommandSettled | None) -> str:
    assert answer is not None
    return answer.code or answer.outcome


# ── Reversal ─────────────────────────────────────────────────────────────────────────────────


def test_a_reversal_looks_from_where_the_vms_run_to_where_they_came_from() -> None:
    policy = RecoveryPolicy(networks=RecoveryNetworks(production="prod-west"))
    desk = failed_over("db", "web", recovery=policy)
    assert code(recover(desk, "reverse", REVERSAL)) == "done"
    (start,) = desk.take(StartReversal)
    assert (start.header.protected.site, start.header.recovery_site.site) == ("west", "east")
    assert start.groups == (ReversalGroup(FAILOVER, ("db", "web")),)
    # A network of the recovery site means nothing at the other one.
    assert start.header.recovery.networks.production is None
    assert desk.modes("db") == {REVERSAL: ("write-copy", "own-instance")}


def test_its_iterations_read_the_instances_and_copy_to_the_original_site() -> None:
    desk = failed_over("db")
    recover(desk, "reverse", REVERSAL)
    mark(desk, "db")
    assert [m.count for m in desk.take(said_dir.DirectionMarked)] == [1]
    assert desk.vm("db").moved == "failed-over", "nothing has changed roles yet"
    desk.tell(said.SyncLast(plan="shop", job=REVERSAL, vms=("db",)))
    (run,) = desk.take(StartRun)
    assert (run.run, run.operation) == (RUN, "reverse")
    (start,) = desk.take(StartIteration)
    assert (start.protected.site, start.recovery_site.site) == ("west", "east")
    assert (start.instance, start.reverse, start.full) == ("i-db", True, True)
    assert not start.resync, "the original site has no copy that could be made good"
    desk.end("db")
    (news,) = desk.take(LastSyncEnded)
    assert (news.job, news.state) == (REVERSAL, "completed")


def test_vms_that_are_verified_turn_and_are_replicated_on_the_grid() -> None:
    desk = failed_over("db", "web", targets=Targets(rpo_s=1800))
    desk.until(at(61))
    recover(desk, "reverse", REVERSAL)
    mark(desk, "db", "web")
    resync(desk, "db", "web")
    desk.sent.clear()
    ended(desk, REVERSAL, "reverse", moved=True, stayed=("web",))
    release(desk, REVERSAL)
    db, web = desk.vm("db"), desk.vm("web")
    assert (db.moved, db.on, db.direction.reverse, db.direction.instance) == (
        "",
        True,
        True,
        "i-db",
    )
    assert (web.moved, web.on, web.direction.reverse, web.turning) == (
        "failed-over",
        False,
        False,
        None,
    )
    assert db.direction.made_by == FAILOVER
    desk.until(at(75))
    (start,) = desk.take(StartIteration)
    assert not desk.said(said.TicksMissed), "what fell due meanwhile was not missed"
    assert (start.vm, start.instance, start.reverse, start.full) == ("db", "i-db", True, False)
    assert start.operation == "replication"


def test_a_reversal_that_fails_leaves_the_vms_as_they_were() -> None:
    desk = failed_over("db")
    before = desk.vm("db")
    copied_at, sync = before.last_checkpoint_at, before.sync
    recover(desk, "reverse", REVERSAL)
    mark(desk, "db")
    desk.tell(said.SyncLast(plan="shop", job=REVERSAL, vms=("db",)))
    desk.end("db", "failed", copy=False)
    ended(desk, REVERSAL, "reverse")
    release(desk, REVERSAL)
    after = desk.vm("db")
    assert (after.moved, after.turning, after.turning_by) == ("failed-over", None, "")
    assert after.last_checkpoint_at == copied_at and after.sync.has_copy == sync.has_copy
    assert after.holds == {} and not after.direction.reverse
    assert code(recover(desk, "reverse", "reversal:shop:v2")) == "done"


def test_a_copy_that_the_first_try_made_is_compared_by_the_next() -> None:
    desk = failed_over("db")
    recover(desk, "reverse", REVERSAL)
    mark(desk, "db")
    resync(desk, "db")
    copied_at = desk.vm("db").last_checkpoint_at
    ended(desk, REVERSAL, "reverse")
    release(desk, REVERSAL)
    assert desk.vm("db").elsewhere == copied_at
    recover(desk, "reverse", "reversal:shop:v2")
    mark(desk, "db", job="reversal:shop:v2")
    desk.sent.clear()
    desk.tell(said.SyncLast(plan="shop", job="reversal:shop:v2", vms=("db",)))
    (start,) = desk.take(StartIteration)
    assert (start.full, start.resync) == (True, True)


def test_cancelled_iterations_end_before_the_direction_is_dropped() -> None:
    desk = failed_over("db", "web")
    recover(desk, "reverse", REVERSAL)
    mark(desk, "db", "web")
    desk.tell(said.SyncLast(plan="shop", job=REVERSAL, vms=("db", "web")))
    desk.sent.clear()
    desk.tell(said_dir.CancelSync(plan="shop", job=REVERSAL))
    assert {m.iteration for m in desk.take(CancelIteration)} == {
        desk.vm(vm).iteration for vm in ("db", "web")
    }
    for vm in ("db", "web"):
        desk.end(vm, "cancelled")
    assert [m.state for m in desk.take(LastSyncEnded)] == ["cancelled"] * 2


def test_marking_twice_marks_once_and_is_answered_twice() -> None:
    desk = failed_over("db")
    recover(desk, "reverse", REVERSAL)
    mark(desk, "db")
    mark(desk, "db")
    assert len(desk.said(said_dir.VmDirectionMarked)) == 1
    assert len(desk.take(said_dir.DirectionMarked)) == 2


def test_scripts_around_replication_run_around_a_reversal_too() -> None:
    everywhere, ticks_only = (
        ScriptDefinition(run=run, runtime="sh", sha256="0" * 64, size=1, operations=operations)
        for run, operations in (("a.sh", REPLICATION_OPERATIONS), ("b.sh", ("replication",)))
    )
    policy = ReplicationPolicy(
        interval_s=900.0, synchronize=True, pre_script=everywhere, post_script=ticks_only
    )
    desk = failed_over("db", replication=policy)
    recover(desk, "reverse", REVERSAL)
    mark(desk, "db")
    desk.tell(said.SyncLast(plan="shop", job=REVERSAL, vms=("db",)))
    (run,), (start,) = desk.take(StartRun), desk.take(StartIteration)
    assert (run.pre_script, run.post_script) == (everywhere, None)
    assert start.gated and start.operation == "reverse"


def test_a_synchronized_plan_goes_on_by_its_grid() -> None:
    policy = ReplicationPolicy(interval_s=900.0, start_at=at(0), synchronize=True)
    desk = reversed_plan("db", "web", replication=policy)
    desk.until(at(30))
    (run,) = desk.take(StartRun)
    assert (run.vms, run.tick_at) == (("db", "web"), at(15))
    assert {(m.vm, m.reverse) for m in desk.take(StartIteration)} == {("db", True), ("web", True)}


def test_a_dry_run_of_a_reversal_holds_nothing() -> None:
    desk = failed_over("db")
    assert code(recover(desk, "reverse", REVERSAL, dry_run=True)) == "done"
    (start,) = desk.take(StartReversal)
    assert start.dry_run and desk.modes("db") == {}


# ── Orders that make no sense ────────────────────────────────────────────────────────────────


def refusal(desk: Desk, mode: str, **fields: Any) -> str:
    job = "reversal:shop:x" if mode == "reverse" else "recovery:shop:x"
    answer = recover(desk, mode, job, **fields)
    assert answer is not None and answer.remedy
    return code(answer)


def test_nothing_is_reversed_or_brought_back_before_it_moved() -> None:
    desk = desk_with("db")
    desk.copied("db")
    assert refusal(desk, "reverse") == "not-failed-over"
    assert refusal(desk, "failback") == "not-reversed"


def test_a_reversal_waits_for_the_commit() -> None:
    desk = failed_over("db", commit=False)
    assert refusal(desk, "reverse") == "awaits-commit"
    release(desk, FAILOVER)
    assert code(recover(desk, "reverse", REVERSAL)) == "done"


def test_a_failback_waits_for_the_reversal() -> None:
    desk = failed_over("db")
    assert refusal(desk, "failback") == "not-reversed"
    recover(desk, "reverse", REVERSAL)
    mark(desk, "db")
    assert refusal(desk, "failback") == "not-reversed"


def test_what_is_reversed_is_not_reversed_again_nor_migrated() -> None:
    desk = reversed_plan("db")
    assert refusal(desk, "reverse") == "already-reversed"
    assert refusal(desk, "migrate") == "reversed"


@pytest.mark.parametrize(
    ("mode", "fields"),
    [
        ("reverse", {"checkpoint": "checkpoint:shop:a"}),
        ("reverse", {"source_gone": True}),
        ("reverse", {"last_sync": True}),
        ("reverse", {"skip_scripts": ("pre-recovery",)}),
        ("failback", {"checkpoint": "checkpoint:shop:a"}),
        ("failback", {"last_sync": False}),
        ("failback", {"source_gone": True}),
    ],
)
def test_what_a_mode_cannot_be_is_refused(mode: str, fields: dict[str, Any]) -> None:
    desk = failed_over("db") if mode == "reverse" else reversed_plan("db")
    assert refusal(desk, mode, **fields) == "invalid"


def test_vms_of_both_directions_are_not_recovered_together() -> None:
    desk = failed_over("db", "web")
    recover(desk, "reverse", REVERSAL, vms=("db",))
    mark(desk, "db")
    resync(desk, "db")
    ended(desk, REVERSAL, "reverse", moved=True)
    release(desk, REVERSAL)
    assert refusal(desk, "test") == "mixed-directions"
    assert refusal(desk, "failback") == "not-reversed"
    assert code(recover(desk, "test", "recovery:shop:t", vms=("db",))) == "done"


def test_a_quarantined_site_is_neither_source_nor_target() -> None:
    desk = failed_over("db")
    desk.tell(said.SiteLost(site="east", plan="shop", job=FAILOVER))
    assert refusal(desk, "reverse") == "quarantined"


def test_a_plan_keeps_its_sites_while_its_vms_run_at_one_of_them() -> None:
    desk = failed_over("db")
    desk.add_sites(north=("db",))
    answer = desk.apply(definition("db", recovery_site="north"))
    assert answer.code == "failed-over"
    assert "runs at west" in answer.message and "--mode reverse" in answer.remedy
    assert desk.vm("db").moved_by == FAILOVER
    assert code(recover(desk, "reverse", REVERSAL)) == "done"


def test_a_plan_keeps_its_sites_while_it_is_reversed() -> None:
    desk = reversed_plan("db")
    desk.add_sites(north=("db",))
    answer = desk.apply(definition("db", recovery_site="north"))
    assert answer.code == "reversed" and answer.remedy


# ── In reverse ───────────────────────────────────────────────────────────────────────────────


def test_a_test_recovery_in_reverse_uses_the_copies_at_the_original_site() -> None:
    desk = reversed_plan("db")
    assert code(recover(desk, "test", "recovery:shop:t")) == "done"
    (enrol,), (start,) = desk.take(EnrolVm), desk.take(StartRecovery)
    assert enrol.header.recovery_site.site == start.header.recovery_site.site == "east"
    assert not start.homeward and not desk.take(said_dir.NameSources)


def test_a_failback_shuts_the_instances_down_and_finds_originals_at_home() -> None:
    desk = reversed_plan("db")
    assert code(recover(desk, "failback", FAILBACK)) == "done"
    (named,) = desk.take(said_dir.NameSources)
    assert named.sources == (source("db"),)
    (start,) = desk.take(StartRecovery)
    assert (start.mode, start.last_sync, start.homeward) == ("failback", True, True)
    assert (start.header.protected.site, start.header.recovery_site.site) == ("west", "east")


def test_the_site_of_the_instances_may_be_lost_too() -> None:
    desk = reversed_plan("db")
    assert code(recover(desk, "failover", FAILBACK, source_gone=True, last_sync=False)) == "done"
    (start,) = desk.take(StartRecovery)
    assert start.homeward and start.header.recovery_site.site == "east"
    ended(desk, FAILBACK, "failover", moved=True)
    release(desk, FAILBACK)
    # From there a reversal leads back to the original direction.
    assert code(recover(desk, "reverse", "reversal:shop:v2")) == "done"
    mark(desk, "db", job="reversal:shop:v2", made_by=FAILBACK)
    resync(desk, "db", job="reversal:shop:v2")
    ended(desk, "reversal:shop:v2", "reverse", moved=True)
    assert desk.vm("db").direction.reverse is False
    assert desk.vm("db").direction.made_by == FAILBACK


def test_checkpoints_remember_at_which_site_they_are() -> None:
    policy = CheckpointPolicy(every_s=900, keep_last=5)
    desk = failed_over("db", checkpoints=policy)
    old, new = "checkpoint:shop:old", "checkpoint:shop:new"
    made(desk, old)
    assert desk.plan.checkpoints[old].reverse == ()
    recover(desk, "reverse", REVERSAL)
    mark(desk, "db")
    resync(desk, "db")
    ended(desk, REVERSAL, "reverse", moved=True)
    release(desk, REVERSAL)
    desk.sent.clear()
    made(desk, new)
    (message,) = desk.take(MakeCheckpoint)
    assert message.reverse == said_dir.ALL and message.header.protected.site == "east"
    # The older one may be tested where it is, and nothing else.
    assert refusal(desk, "failover", checkpoint=old) == "other-direction"
    assert code(recover(desk, "test", "recovery:shop:t", checkpoint=old)) == "done"
    (start,) = desk.take(StartRecovery)
    assert start.header.recovery_site.site == "west"


def made(desk: Desk, job: str) -> None:
    desk.command(said.CreateCheckpoint, plan="shop", job=job)
    desk.tell(
        said.CheckpointEnded(
            plan="shop", checkpoint=job, state="available", created_at=desk.now, vms=("db",)
        )
    )


# ── Failback ─────────────────────────────────────────────────────────────────────────────────


def test_a_committed_failback_replicates_the_original_way_at_once() -> None:
    desk = failed_back("db")
    assert desk.vm("db").moved == "migrated"
    before = desk.vm("db").elsewhere
    desk.tell(said_dir.TurnVms(plan="shop", job=FAILBACK, sources=(source("db", FAILBACK),)))
    release(desk, FAILBACK)
    db = desk.vm("db")
    assert (db.moved, db.on, db.direction.reverse) == ("", True, False)
    assert (db.direction.instance, db.direction.made_by) == ("i-db", FAILBACK)
    assert db.last_checkpoint_at == before, "what the target has is from before"
    desk.until(desk.now)
    (start,) = desk.take(StartIteration)
    assert (start.protected.site, start.recovery_site.site) == ("east", "west")
    assert (start.instance, start.reverse, start.full, start.resync) == ("i-db", False, True, True)


def test_a_stale_copy_breaches_the_rpo_until_it_is_brought_up_to_date() -> None:
    desk = failed_over("db", targets=Targets(rpo_s=60))
    recover(desk, "reverse", REVERSAL)
    desk.now += dt.timedelta(hours=1)
    mark(desk, "db")
    resync(desk, "db")
    ended(desk, REVERSAL, "reverse", moved=True)
    assert not desk.vm("db").rpo_breached, "the copy in reverse is fresh"
    release(desk, REVERSAL)
    recover(desk, "failback", FAILBACK)
    ended(desk, FAILBACK, "failback", moved=True)
    desk.tell(said.ReleaseHolds(plan="shop", job=FAILBACK, modes=("write-copy",)))
    desk.tell(said_dir.TurnVms(plan="shop", job=FAILBACK, sources=(source("db", FAILBACK),)))
    release(desk, FAILBACK)
    assert desk.vm("db").rpo_breached, "the copy of this direction is an hour old"
    desk.until(desk.now)
    desk.end("db")
    assert not desk.vm("db").rpo_breached


def test_turning_twice_turns_once() -> None:
    desk = failed_back("db")
    turn = said_dir.TurnVms(plan="shop", job=FAILBACK, sources=(source("db", FAILBACK),))
    desk.tell(turn)
    events = len(desk.said(said_dir.VmTurned))
    desk.tell(turn)
    assert len(desk.said(said_dir.VmTurned)) == events


def test_a_failback_that_is_rolled_back_goes_on_in_reverse() -> None:
    desk = failed_back("db")
    desk.tell(said.ReturnVms(plan="shop", job=FAILBACK))
    release(desk, FAILBACK)
    db = desk.vm("db")
    assert (db.moved, db.on, db.direction.reverse) == ("", True, True)
    desk.until(at(30))
    (start,) = desk.take(StartIteration)
    assert (start.protected.site, start.instance, start.full) == ("west", "i-db", False)


def test_vms_that_a_committed_failback_left_behind_stay_reversed() -> None:
    desk = failed_back("db", "web")
    desk.tell(said_dir.TurnVms(plan="shop", job=FAILBACK, sources=(source("db", FAILBACK),)))
    desk.tell(said.ReturnVms(plan="shop", job=FAILBACK))
    release(desk, FAILBACK)
    assert not desk.vm("db").direction.reverse
    assert desk.vm("web").direction.reverse and not desk.vm("web").moved


def test_a_vm_that_leaves_its_plan_in_reverse_comes_back_as_the_vm_of_its_site() -> None:
    desk = reversed_plan("db", "web")
    assert desk.apply(definition("db")).outcome == "done"
    (free,) = desk.take(said_dir.FreeInstances)
    assert (free.recovery, free.vms, free.home) == (FAILOVER, ("web",), False)
    assert desk.apply(definition("db", "web")).outcome == "done"
    assert desk.vm("web").direction.reverse is False
    assert desk.vm("db").direction.reverse is True


def test_another_failover_fences_what_the_failback_brought_up() -> None:
    desk = failed_back("db")
    desk.tell(said_dir.TurnVms(plan="shop", job=FAILBACK, sources=(source("db", FAILBACK),)))
    release(desk, FAILBACK)
    desk.until(desk.now)
    desk.end("db")
    desk.sent.clear()
    assert code(recover(desk, "failover", "recovery:shop:f2")) == "done"
    (named,) = desk.take(said_dir.NameSources)
    assert named.sources == (source("db", FAILBACK),)
    (start,) = desk.take(StartRecovery)
    assert not start.homeward and start.header.protected.site == "east"
