"""How long a recovery that runs still takes, from its own events and the medians of past ones."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from schemas import recovery as said
from schemas import recovery_steering as steer
from schemas.views import Job
from services.gateway.prediction import Durations
from services.gateway.remaining import plan_of_running
from services.gateway.timings import Timings
from shared.forecast.plan import (
    BEGIN,
    BOOT,
    CREATE,
    HOLD,
    POST,
    POWER_ON,
    PREP_NODE,
    PREPARE,
    REBUILD,
    STEPS,
    VALIDATE,
    Plan,
)
from shared.forecast.simulation import simulate
from tests.unit.projector.test_recovery_jobs import begun, jobs
from tests.unit.projector.test_windows import until
from tests.unit.recovery.site_world import SiteWorld
from tests.unit.recovery.test_full_recoveries import past_preflight
from tests.unit.recovery.test_pausing import go_to
from tests.unit.recovery.world import JOB, World, header, script, vm

SECONDS = {HOLD: 1.0, REBUILD: 8.0, CREATE: 4.0, POWER_ON: 1.0, BOOT: 30.0, POST: 5.0}
PAST = Timings(steps={**SECONDS, PREP_NODE: 60.0, PREPARE: 20.0, VALIDATE: 2.0},
               plan_steps={BEGIN: 2.0})  # fmt: skip


def left(
    world: World, *, past: Timings = PAST, later_s: float = 0.0, **delays: float
) -> Plan | None:
    found: dict[str, Job] = jobs(world)
    parts = [job for job in found.values() if job.parent_id == JOB]
    now = world.now + dt.timedelta(seconds=later_s)
    return plan_of_running(
        header(), found[JOB], parts, Durations(past, {}), delays=delays, now=now
    )


def ready_s(world: World, **more: Any) -> float:
    plan = left(world, **more)
    assert plan is not None
    return simulate(plan).ready_s


def test_at_the_beginning_all_of_it_is_left() -> None:
    assert ready_s(begun(vm("db"))) == pytest.approx(2 + 1 + 8 + 4 + 1 + 30, abs=0.2)


def test_what_is_done_is_not_to_come_again_and_what_runs_has_run_for_a_while() -> None:
    world = begun(vm("db"))
    go_to(world, "create-instance")
    assert ready_s(world, later_s=3.0) == pytest.approx(1 + 1 + 30, abs=0.2)


def test_a_part_that_has_ended_keeps_nobody_waiting_and_a_delay_runs_from_power_on() -> None:
    world = begun(vm("db"), vm("web", 2))
    while not world.events(said.MemberReady):
        world.deliver_all()
        if world.effects:
            world.settle(next(iter(world.effects)))
        else:
            world.fire_next_timer()
    first = left(world, db=50.0)
    assert first is not None
    db = next(machine for machine in first.machines if machine.name == "db")
    assert {HOLD, REBUILD, CREATE, POWER_ON, BOOT} <= db.done and db.on_s is not None
    assert simulate(first).ready_s > ready_s(world)


def test_one_that_failed_is_over() -> None:
    world = begun(vm("db"), vm("web"))
    go_to(world, "create-instance")
    world.settle("vm-recovery:shop:r1:db/create-instance", code="broken")
    world.deliver_all()
    while "vm-recovery:shop:r1:db/release-copy" in world.effects:
        world.settle("vm-recovery:shop:r1:db/release-copy")
        world.deliver_all()
    plan = left(world)
    assert plan is not None
    (db,) = [machine for machine in plan.machines if machine.name == "db"]
    assert db.done == frozenset(STEPS)


def test_a_windows_is_known_by_its_copy_and_has_its_steps_ahead() -> None:
    world = until(begun(vm("win")), "vm-recovery:shop:r1:win/rebuild/sda")
    plan = left(world)
    assert plan is not None
    (win,) = plan.machines
    assert win.windows and win.validate and win.done == {HOLD}
    assert simulate(plan).ready_s == pytest.approx(60 + 20 + 4 + 1 + 30, abs=0.3)


def test_sources_take_what_they_took_or_nobody_knows() -> None:
    world = past_preflight(SiteWorld("failover").begin())
    assert left(world) is None
    past = Timings(steps=SECONDS, plan_steps={BEGIN: 2.0, "fence-sources": 20, "last-sync": 10})
    assert ready_s(world, past=past) == pytest.approx(2 + 20 + 10 + 44 + 31, abs=0.3)


def test_the_plans_own_scripts_count_until_they_are_over() -> None:
    world = begun(vm("db"), header=header(post_script=script()))
    plan = left(world)
    assert plan is not None and plan.post_script_s == 5.0


def test_nothing_is_foretold_of_what_is_paused_or_cancelled() -> None:
    world = begun(vm("db"))
    world.steer(steer.PauseJob)
    assert left(world) is None
    world = begun(vm("db"))
    world.steer(said.CancelRecoveryJob)
    assert left(world) is None
