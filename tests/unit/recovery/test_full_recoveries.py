"""Failover and migration: what is done to the sources, when, and what of it is taken back."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from schemas import operations as said_ops
from schemas import recovery as said
from schemas import recovery_work as work
from schemas.scheduler import RecoveryEnded, ReleaseHolds, SiteLost, SyncLast
from shared.errors import Refused
from tests.unit.recovery.site_world import SiteWorld
from tests.unit.recovery.world import JOB, header, script, start, vm

ALL_ON = {"db": True, "app": True, "web": True}


def kinds(world: SiteWorld) -> list[str]:
    return sorted({effect.kind for effect in world.effects.values()})


def past_preflight(world: SiteWorld, **report: Any) -> SiteWorld:
    world.deliver_all()
    world.settle(f"{JOB}/preflight", work.PreflightReport(**report))
    world.deliver_all()
    return world


def refusal(act: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        act()
    return refused.value


# ── The order of work ────────────────────────────────────────────────────────────────────────


def test_nothing_is_built_before_every_source_is_off_and_copied_once_more() -> None:
    world = past_preflight(SiteWorld("failover").begin())
    assert kinds(world) == ["look-at-source"]
    assert len(world.effects) == 3
    for _ in range(6):
        world.act(next(iter(world.effects)))
        world.deliver_all()
    assert not world.effects
    (asked,) = world.to_scheduler(SyncLast)
    assert sorted(asked.vms) == ["app", "db", "web"]
    world.sync()
    world.deliver_all()
    assert kinds(world) == ["hold-copy"]


def test_without_a_last_sync_building_begins_when_the_sources_are_off() -> None:
    world = SiteWorld("failover", last_sync=False).begin().live()
    assert world.end.state == "completed"
    assert not world.to_scheduler(SyncLast)
    assert "last-sync" not in [step.name for step in world.end.steps]


def test_instances_of_a_full_recovery_come_into_production_under_their_own_names() -> None:
    made: list[work.CreateInstance] = []

    class Noting(SiteWorld):
        def asked(self, effect_id: str, effect: Any) -> None:
            if isinstance(effect.payload, work.CreateInstance):
                made.append(effect.payload)

    Noting("failover", header=header()).begin(vm("db")).live()
    assert [(each.name, each.isolated, each.network) for each in made] == [
        ("db", False, "production")
    ]


def test_a_pre_script_that_stops_the_operation_leaves_the_sources_alone() -> None:
    policy = header(pre_script=script(on_failure="stop"))
    world = SiteWorld("failover", header=policy, fail_at=2).begin().live()
    assert world.sites.sources == ALL_ON
    assert not world.events(said_ops.SourcesSecuring)
    assert not world.end.awaits_commit
    (release,) = world.to_scheduler(ReleaseHolds)
    assert release.modes == ("write-copy", "own-instance")


def test_a_dry_run_touches_nothing() -> None:
    world = SiteWorld("migrate", dry_run=True).begin().live()
    assert world.sites.sources == ALL_ON
    assert (world.end.state, world.end.awaits_commit, world.count) == ("completed", False, 1)


# ── Sources that do not do as they are told ──────────────────────────────────────────────────


def test_a_failover_powers_off_a_guest_that_ignores_the_shut_down() -> None:
    world = SiteWorld("failover")
    world.sites.deaf = {"web"}
    world.begin().live()
    assert world.end.state == "completed"
    assert "by force" in world.end.note
    (secured,) = (e for e in world.events(said_ops.MemberSecured) if e.forced)
    assert secured.vm == "web"


def test_a_migration_whose_guest_ignores_the_shut_down_is_taken_back() -> None:
    world = SiteWorld("migrate")
    world.sites.deaf = {"web"}
    world.begin().live()
    assert (world.end.state, world.end.awaits_commit) == ("failed", False)
    assert world.end.problem is not None and world.end.problem.code == "shutdown-timed-out"
    assert world.sites.sources == ALL_ON
    assert "switched on again" in world.end.note
    assert not world.sites.made
    (told,) = world.to_scheduler(RecoveryEnded)
    assert not told.moved


def test_a_source_that_was_off_already_is_not_switched_on_by_an_undo() -> None:
    world = SiteWorld("migrate")
    world.sites.sources["db"] = False
    world.sync_fails = {"web"}
    world.begin().live()
    assert world.end.state == "failed"
    assert world.sites.sources == {"db": False, "app": True, "web": True}


def test_one_vm_that_cannot_be_fenced_is_left_out_and_the_others_are_recovered() -> None:
    world = past_preflight(SiteWorld("failover").begin())
    world.settle("vm-source:shop:r1:web/look-at-source", code="site-gone")
    world.live()
    assert (world.end.state, world.end.ready, world.end.failed) == ("partially-completed", 2, 1)
    assert world.sites.sources == {"db": False, "app": False, "web": True}
    (told,) = world.to_scheduler(RecoveryEnded)
    assert (told.moved, told.stayed) == (True, ("web",))
    kept, alone = world.to_scheduler(ReleaseHolds)
    assert kept.modes == ("write-copy",)
    assert (alone.modes, alone.vms) == (("write-copy", "own-instance"), ("web",))
    assert not world.to_scheduler(SiteLost)


@pytest.mark.parametrize("build_ahead", [True, False])
def test_where_nobody_of_the_first_boot_order_can_be_fenced_the_others_are_recovered(
    build_ahead: bool,
) -> None:
    world = SiteWorld("failover", header=header(build_ahead=build_ahead))
    past_preflight(world.begin())
    world.settle("vm-source:shop:r1:db/look-at-source", code="site-gone")
    world.live()
    assert (world.end.state, world.end.ready, world.end.failed) == ("partially-completed", 2, 1)
    assert world.sites.sources == {"db": True, "app": False, "web": False}


def test_under_stop_one_vm_that_cannot_be_fenced_takes_everything_back() -> None:
    world = past_preflight(SiteWorld("failover", on_error="stop").begin())
    world.settle("vm-source:shop:r1:web/look-at-source", code="site-gone")
    world.live()
    assert (world.end.state, world.end.awaits_commit) == ("failed", False)
    assert world.sites.sources == ALL_ON
    assert not world.sites.made


def test_where_no_vm_can_be_fenced_nothing_is_recovered() -> None:
    world = past_preflight(SiteWorld("failover").begin())
    for name in ALL_ON:
        world.settle(f"vm-source:shop:r1:{name}/look-at-source", code="site-gone")
    world.live()
    assert (world.end.state, world.end.awaits_commit) == ("failed", False)
    assert not world.sites.made


# ── The operator's word ──────────────────────────────────────────────────────────────────────


def test_a_lost_site_with_the_operators_word_is_not_waited_for_and_is_quarantined() -> None:
    world = SiteWorld("failover", source_gone=True)
    world.sites.watching = False  # nobody can know what runs there
    past_preflight(world.begin(), source_lost=True)
    assert kinds(world) == ["hold-copy"]
    (lost,) = world.to_scheduler(SiteLost)
    assert (lost.site, lost.job) == ("east", JOB)
    (asked,) = world.to_scheduler(SyncLast)
    assert asked.vms == ()
    world.live()
    assert (world.end.state, world.end.ready) == ("completed", 3)
    assert "quarantined" in world.end.note
    world.roll_back()
    assert world.sites.sources == ALL_ON
    assert not world.sites.made


def test_a_source_that_vanishes_while_it_is_fenced_is_gone_by_the_operators_word() -> None:
    world = SiteWorld("failover", source_gone=True)
    world.sites.watching = False
    past_preflight(world.begin())
    world.settle("vm-source:shop:r1:web/look-at-source", code="site-gone")
    world.live()
    assert (world.end.state, world.end.ready) == ("completed", 3)
    assert len(world.to_scheduler(SiteLost)) == 1


def test_the_word_does_not_stand_for_a_source_that_is_known_to_run() -> None:
    world = past_preflight(SiteWorld("failover", source_gone=True).begin())
    world.act("vm-source:shop:r1:web/look-at-source")
    world.settle("vm-source:shop:r1:web/shut-down-source", code="shutdown-timed-out")
    world.settle("vm-source:shop:r1:web/power-off-source", code="guest-stuck")
    world.live()
    assert world.end.ready == 2
    assert not world.to_scheduler(SiteLost)


# ── The last sync ────────────────────────────────────────────────────────────────────────────


def test_a_failover_goes_on_without_its_last_sync_and_says_so() -> None:
    world = SiteWorld("failover")
    world.sync_fails = {"db"}
    world.begin().live()
    assert (world.end.state, world.end.ready) == ("partially-completed", 3)
    assert world.end.problem is not None and world.end.problem.message == "no sync"
    states = {step.name: step.state for step in world.end.steps}
    assert states["last-sync"] == "failed"


def test_a_migration_whose_last_sync_fails_is_taken_back() -> None:
    world = SiteWorld("migrate")
    world.sync_fails = {"db"}
    world.begin().live()
    assert (world.end.state, world.end.ready) == ("failed", 0)
    assert world.sites.sources == ALL_ON
    (release,) = world.to_scheduler(ReleaseHolds)
    assert release.modes == ("write-copy", "own-instance")


# ── Commit, roll back, cleanup ───────────────────────────────────────────────────────────────


def test_a_roll_back_names_what_is_lost_and_wants_the_plans_name() -> None:
    world = SiteWorld("failover").begin().live()
    world.now += dt.timedelta(minutes=5)
    for number, typed in enumerate(("", "Shop", "db"), start=7):
        world.roll_back(number, confirm=typed)
        refused = world.answers[-1]
        assert (refused.outcome, refused.code) == ("refused", "confirm")
        assert "12KiB in all" in refused.message
        assert all(f"{name} since" in refused.message for name in ALL_ON)
        assert refused.message.count("(5m, 4KiB)") == 3
        assert "--confirm shop" in refused.remedy
        assert [each["bytes"] for each in refused.details["discards"]] == [4096] * 3
    assert not world.events(said_ops.RollbackStarted)
    assert len(world.answers) == 3
    world.roll_back()
    discards = world.event(said_ops.RollbackStarted).discards
    assert [d.span_s >= 300 for d in discards] == [True] * 3
    measured = world.event(said_ops.RollbackMeasured)
    assert [d.bytes for d in measured.discards] == [4096] * 3
    assert (measured.total, measured.unknown) == (3 * 4096, 0)


def test_what_cannot_be_measured_is_said_to_be_unknown_and_stops_nothing() -> None:
    before = SiteWorld("failover").begin().live().count
    world = SiteWorld("failover", fail_at=before + 1).begin().live()
    world.roll_back(7, confirm="")
    assert "how much is not known" in world.answers[-1].message
    world = SiteWorld("failover", fail_at=before + 2).begin().live().roll_back()
    measured = world.event(said_ops.RollbackMeasured)
    assert (measured.total, measured.unknown, measured.timing.state) == (None, 3, "skipped")
    assert world.event(said_ops.RollbackFinished).state == "completed"


def test_a_roll_back_looks_and_measures_before_it_removes() -> None:
    world = SiteWorld("failover").begin().live()
    world.deliver(
        said_ops.StartRollback(
            command_id="c", job="rollback:shop:b1", recovery=JOB, confirm="shop"
        )
    )
    world.deliver_all()
    assert kinds(world) == ["look-at-sources", "measure-written"]
    # In whichever order they end, nothing is removed before both have.
    world.act("rollback:shop:b1/measure-discards")
    world.deliver_all()
    assert kinds(world) == ["look-at-sources"]
    world.act("rollback:shop:b1/look-at-sources")
    world.deliver_all()
    assert kinds(world) == ["list-owned"]


# ── Automatic roll back ──────────────────────────────────────────────────────────────────────


def ending(mode: str, at: str, *, vms: tuple[Any, ...] = (), **options: Any) -> SiteWorld:
    """A recovery in which the effect whose id contains `at` fails for good."""

    class Failing(SiteWorld):
        def act(self, effect_id: str) -> None:
            if at and at in effect_id:
                self.settle(effect_id, code="broken")
            else:
                super().act(effect_id)

    world = Failing(mode, last_sync=mode != "test", auto_rollback=True, **options)
    world.sites.watching = mode != "test"
    world.begin(*vms).live()
    return world


def test_a_migration_of_which_a_vm_does_not_come_up_is_rolled_back_by_itself() -> None:
    world = ending("migrate", "r1:web/create-instance")
    assert (world.end.state, world.end.undone_by) == (
        "partially-completed",
        "rollback:shop:auto-r1",
    )
    started = world.event(said_ops.RollbackStarted)
    assert started.automatic and started.recovery == JOB
    assert world.event(said_ops.RecoveryRolledBack)
    assert world.sites.sources == ALL_ON and world.sites.made == {}
    world.check_log()


def test_a_test_of_which_a_vm_does_not_come_up_is_cleaned_by_itself() -> None:
    world = ending("test", "r1:web/create-instance")
    assert world.end.undone_by == "cleanup:shop:undo-r1"
    assert world.event(said.CleanupFinished).state == "completed"
    assert world.sites.made == {}


@pytest.mark.parametrize("mode", ["test", "migrate"])
def test_what_went_well_or_nobody_wanted_undone_is_left_alone(mode: str) -> None:
    assert ending(mode, "").end.undone_by == ""
    world = ending(mode, "r1:web/create-instance", on_error="continue")
    assert world.end.undone_by
    world = SiteWorld(mode, last_sync=mode != "test")
    world.sites.watching = mode != "test"
    assert world.begin().live().end.undone_by == ""


def test_a_vm_that_is_usable_but_degraded_is_a_persons_to_judge() -> None:
    degraded = vm("web", post_script=script())
    world = ending("migrate", "r1:web/post-script", vms=(vm("db"), degraded))
    assert (world.end.state, world.end.ready) == ("partially-completed", 2)
    assert world.end.undone_by == "" and not world.events(said_ops.RollbackStarted)


def test_what_another_job_asked_for_is_that_jobs_to_undo() -> None:
    world = ending("test", "r1:web/create-instance", parent="recovery-group:shop:g1")
    assert (world.end.state, world.end.undone_by) == ("partially-completed", "")


def test_a_failover_is_never_rolled_back_by_itself() -> None:
    world = ending("failover", "r1:web/create-instance")
    assert world.end.state == "partially-completed" and world.end.undone_by == ""


def test_a_migration_that_took_itself_back_has_nothing_to_undo() -> None:
    world = ending("migrate", "r1:web/shut-down-source")
    assert (world.end.state, world.end.awaits_commit) == ("failed", False)
    assert world.end.undone_by == "" and world.sites.sources == ALL_ON


def test_a_cancel_is_undone_by_whoever_cancelled() -> None:
    world = SiteWorld("migrate", auto_rollback=True).begin()
    while not world.events(said.VmsLaunched):
        world.deliver_all()
        if world.effects:
            world.act(next(iter(world.effects)))
        else:
            world.sync()
    world.deliver(said.CancelRecoveryJob(command_id="c", job=JOB))
    world.live()
    assert (world.end.state, world.end.undone_by) == ("cancelled", "")


def test_a_person_who_was_faster_is_not_overruled() -> None:
    world = SiteWorld("migrate").begin().live().commit()
    world.deliver(said_ops.BeginRollback(job="rollback:shop:auto-r1", recovery=JOB))
    assert not world.events(said_ops.RollbackStarted)


def test_a_roll_back_switches_no_source_on_while_an_instance_may_be_left() -> None:
    world = SiteWorld("failover").begin().live()
    stuck = ("instance", "i-web")
    world.sites.do = _never_deleting(world.sites.do, stuck)  # type: ignore[method-assign]
    world.roll_back()
    end = world.event(said_ops.RollbackFinished)
    assert (end.state, end.problem.code) == ("failed", "left-over")
    assert not any(world.sites.sources.values())
    assert world.event(said_ops.RecoveryRollbackIncomplete)


def _never_deleting(do: Any, stuck: tuple[str, str]) -> Any:
    def act(effect: Any) -> Any:
        payload = effect.payload
        deleting = isinstance(payload, work.RemoveObject) and payload.action == "delete"
        if deleting and (payload.kind, payload.object_id) == stuck:
            return None
        return do(effect)

    return act


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (said_ops.StartCommit(command_id="c", job="commit:shop:k", recovery=JOB), "no-commit"),
        (
            said_ops.StartRollback(
                command_id="c", job="rollback:shop:b", recovery=JOB, confirm="shop"
            ),
            "no-commit",
        ),
    ],
)
def test_a_test_recovery_has_no_commit_window(act: Any, code: str) -> None:
    world = SiteWorld("test", last_sync=False)
    world.sites.watching = False  # a test runs beside its source, in isolation
    world.begin()
    refused = refusal(lambda: world.deliver(act))
    assert refused.code == "still-running"
    world.live()
    refused = refusal(lambda: world.deliver(act))
    assert refused.code.startswith(code)
    assert "cleanup" in refused.remedy


def test_a_recovery_without_a_usable_vm_can_only_be_rolled_back() -> None:
    world = past_preflight(SiteWorld("failover").begin(vm("db")))
    for _ in range(2):
        world.act(next(iter(world.effects)))
        world.deliver_all()
    world.sync()
    world.deliver_all()
    world.settle("vm-recovery:shop:r1:db/hold-copy", code="broken")
    world.live()
    assert (world.end.state, world.end.awaits_commit) == ("failed", True)
    assert refusal(world.commit).code == "nothing-to-commit"
    world.roll_back()
    assert world.sites.sources["db"]


def clean(world: SiteWorld, confirm: str = "", number: int = 1) -> SiteWorld:
    job = f"cleanup:shop:c{number}"
    world.deliver(said.StartCleanup(command_id="c", job=job, recovery=JOB, confirm=confirm))
    return world.live()


def test_instances_in_production_are_cleaned_only_once_committed_and_by_name() -> None:
    world = SiteWorld("failover").begin().live()
    assert refusal(lambda: clean(world, "shop")).code == "awaits-commit"
    world.commit()
    assert refusal(lambda: clean(world)).code == "confirm"
    assert world.sites.made
    clean(world, "shop")
    assert world.event(said.CleanupFinished).state == "completed"
    assert not world.sites.made


def test_after_a_roll_back_there_is_nothing_to_clean_or_commit() -> None:
    world = SiteWorld("failover").begin().live().roll_back()
    assert refusal(lambda: clean(world, "shop")).code == "already-cleaned"
    assert refusal(lambda: world.commit()).code == "already-rolled-back"
    assert refusal(lambda: world.roll_back(2)).code == "already-rolled-back"


def test_a_window_that_stays_open_is_told_once() -> None:
    world = SiteWorld("failover").begin().live()
    ended = world.now
    assert world.fire_next_timer()
    assert world.event(said_ops.CommitOverdue).since == ended
    assert not world.timers


def test_a_commit_finds_an_instance_that_somebody_deleted() -> None:
    world = SiteWorld("failover").begin().live()
    del world.sites.made["instance", "i-web"]
    world.commit()
    end = world.event(said_ops.CommitFinished)
    assert (end.state, end.problem.code) == ("failed", "instance-missing")
    assert "web" in end.problem.message
    assert not world.events(said_ops.RecoveryCommitted)


def test_the_steps_are_listed_in_the_order_in_which_they_come() -> None:
    world = SiteWorld("migrate").begin()
    assert world.event(said.RecoveryStarted).steps[:3] == (
        "preflight",
        "shut-down-sources",
        "last-sync",
    )
    plain = start(vm("db"), mode="failover")
    assert not plain.last_sync
