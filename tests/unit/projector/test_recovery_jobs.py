"""Recoveries as jobs, folded from what the recovery service's own deciders say."""

from __future__ import annotations

from typing import Any

import pytest

from schemas import recovery as said
from schemas.common import ScriptReport
from schemas.joins import DONE_STEPS, job_now
from schemas.recovery_work import ScriptRan
from schemas.views import ENDED, Job
from tests.unit.projector.history import History
from tests.unit.recovery.world import JOB, World, enrol, header, script, start, vm

CLEANUP = "cleanup:shop:k1"


def begun(*vms: Any, **settings: Any) -> World:
    """A recovery that was just started."""
    world = World()
    for each in vms:
        world.deliver(enrol(each, **settings))
    world.deliver(start(*vms, **settings))
    return world


def jobs(world: World) -> dict[str, Job]:
    """The jobs that follow from what the world's streams said."""
    history = History()
    for stream, event, at in world.log:
        history.now = at
        history.say("recovery", stream, event)
    found: dict[str, Job] = history.model().tables["jobs"]
    return found


def children(found: dict[str, Job], parent: str) -> list[Job]:
    return [job for job in found.values() if job.parent_id == parent]


def run_until(world: World, kind: type) -> None:
    """Let everything work out well until the first such event."""
    for _ in range(1_000):
        world.deliver_all()
        if world.events(kind):
            return
        if world.effects:
            world.settle(next(iter(world.effects)))
        else:
            world.fire_next_timer()
    raise AssertionError(f"no {kind.__name__}")


def test_a_completed_recovery_shows_every_step_done() -> None:
    world = begun(vm("db"), vm("web", 2), header=header(pre_script=script(), post_script=script()))
    world.run()
    job = jobs(world)[JOB]
    assert (job.kind, job.state, job.percent) == ("test-recovery", "completed", 100.0)
    assert [(step.name, step.state) for step in job.steps] == [
        ("preflight", "completed"),
        ("pre-script", "completed"),
        ("boot-order-1", "completed"),
        ("boot-order-2", "completed"),
        ("post-script", "completed"),
    ]


def test_vms_and_their_disks_are_jobs_of_their_own() -> None:
    world = begun(vm("db"), vm("web", 2))
    world.run()
    found = jobs(world)
    vms = children(found, JOB)
    assert [(job.vm, job.state, job.boot_order) for job in vms] == [
        ("db", "completed", 1),
        ("web", "completed", 2),
    ]
    disks = children(found, "vm-recovery:shop:r1:db")
    assert [(job.id, job.disk, job.state) for job in disks] == [
        ("vm-recovery:shop:r1:db.sda", "sda", "completed"),
        ("vm-recovery:shop:r1:db.sdb", "sdb", "completed"),
    ]


def test_a_plans_job_tells_the_instances_of_its_vms() -> None:
    world = begun(vm("web", 2), vm("db"))
    world.run()
    found = jobs(world)
    job = job_now(found[JOB], children=children(found, JOB))
    assert job.children == ("vm-recovery:shop:r1:db", "vm-recovery:shop:r1:web")
    assert [(each.vm, each.instance_id, each.ready_at is not None) for each in job.instances] == [
        ("db", "i-db", True),
        ("web", "i-web", True),
    ]
    assert job.vms is not None and (job.vms.total, job.vms.ready, job.vms.ended) == (2, 2, 2)


def test_a_plans_job_tells_the_bytes_of_its_vms_after_the_end_too() -> None:
    world = begun(vm("web", 2), vm("db"))
    world.run()
    found = jobs(world)
    vms = children(found, JOB)
    job = job_now(found[JOB], children=vms)
    assert job.state == "completed"
    assert job.bytes_total == sum(each.bytes_total for each in vms) > 0
    assert job.bytes_done == job.bytes_total
    disks = [disk for each in vms for disk in children(found, each.id)]
    assert job.bytes_done == sum(disk.bytes_done for disk in disks)


def test_a_running_recovery_shows_where_each_vm_is() -> None:
    world = begun(vm("db"), vm("web", 2))
    run_until(world, said.VmPoweredOn)
    found = jobs(world)
    db, web = children(found, JOB)
    states = {step.name: step.state for step in db.steps}
    assert (db.state, states["power-on"], states["wait-ready"]) == (
        "running",
        "completed",
        "running",
    )
    assert web.boot_open is False and not any(step.state == "failed" for step in web.steps)
    assert 0 < db.percent < 100
    assert found[JOB].state == "running" and found[JOB].ended_at is None


def test_a_vm_whose_boot_order_is_closed_waits_with_power_on() -> None:
    world = begun(vm("db"), vm("web", 2))
    for part in ("hold-copy", "rebuild/sda", "rebuild/sdb", "create-instance"):
        world.deliver_all()
        if world.effects.get(f"{JOB}/preflight"):
            world.settle(f"{JOB}/preflight")
            world.deliver_all()
        world.settle(f"vm-recovery:shop:r1:web/{part}")
    web = jobs(world)["vm-recovery:shop:r1:web"]
    states = {step.name: step.state for step in web.steps}
    assert (states["create-instance"], states["power-on"]) == ("completed", "waiting")


def test_rebuilt_disks_move_the_percent() -> None:
    world = begun(vm("db"))
    world.settle(f"{JOB}/preflight")
    world.deliver_all()
    world.settle("vm-recovery:shop:r1:db/hold-copy")
    before = jobs(world)["vm-recovery:shop:r1:db"]
    world.settle("vm-recovery:shop:r1:db/rebuild/sda")
    job = jobs(world)["vm-recovery:shop:r1:db"]
    (step,) = [step for step in job.steps if step.name == "rebuild-disks"]
    assert (step.state, step.percent, job.bytes_done, job.bytes_total) == ("running", 50.0, 1, 2)
    assert job.percent > before.percent


def test_a_failed_vm_says_why_and_what_to_do() -> None:
    world = begun(vm("db"))
    world.settle(f"{JOB}/preflight")
    world.deliver_all()
    world.settle("vm-recovery:shop:r1:db/hold-copy", code="no-copy", remedy="replicate")
    world.run()
    found = jobs(world)
    child = found["vm-recovery:shop:r1:db"]
    assert (found[JOB].state, child.state) == ("failed", "failed")
    assert child.error is not None and child.error.remedy == "replicate"
    states = {step.name: step.state for step in child.steps}
    assert (states["hold-copy"], states["power-on"]) == ("failed", "skipped")


def test_a_cancelled_recovery_leaves_no_step_running() -> None:
    world = begun(vm("db"), vm("web", 2))
    run_until(world, said.VmPoweredOn)
    world.deliver(said.CancelRecoveryJob(command_id="c1", job=JOB))
    assert jobs(world)[JOB].cancelling
    world.run()
    found = jobs(world)
    assert found[JOB].state == "cancelled"
    assert all(job.state in ENDED for job in found.values())
    assert all(step.state in DONE_STEPS for job in found.values() for step in job.steps)


def test_a_script_that_failed_shows_what_it_printed() -> None:
    world = begun(vm("db", post_script=script(on_failure="continue")))
    run_until(world, said.VmReady)
    failed = ScriptReport(
        outcome="failed", exit_code=1, output="no such table", error="exit code 1"
    )
    effect = "vm-recovery:shop:r1:db/post-script"
    world.settle(effect, ScriptRan(report=failed))
    world.run()
    found = jobs(world)
    assert found[JOB].state == "partially-completed"
    (step,) = [s for s in found["vm-recovery:shop:r1:db"].steps if s.name == "post-script"]
    assert (step.state, step.output) == ("failed", "no such table")


def test_what_a_person_must_know_of_a_script_stays_with_its_step() -> None:
    world = begun(vm("db", post_script=script(on_failure="continue")))
    run_until(world, said.VmReady)
    report = ScriptReport(outcome="done", exit_code=0, warning="not kept from the network")
    world.settle("vm-recovery:shop:r1:db/post-script", ScriptRan(report=report))
    world.run()
    (step,) = [s for s in jobs(world)["vm-recovery:shop:r1:db"].steps if s.name == "post-script"]
    assert (step.state, step.warning) == ("completed", "not kept from the network")


def test_a_cleanup_is_a_job_that_names_what_it_cleans() -> None:
    world = begun(vm("db"))
    world.run()
    assert jobs(world)[JOB].awaits_cleanup
    world.deliver(said.StartCleanup(command_id="c1", job=CLEANUP, recovery=JOB))
    world.run()
    found = jobs(world)
    job = found[CLEANUP]
    assert (job.kind, job.state, job.recovery) == ("cleanup", "completed", JOB)
    assert all(step.state in DONE_STEPS for step in job.steps)
    assert not found[JOB].awaits_cleanup


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_dry_run_is_told_apart(dry_run: bool) -> None:
    world = World()
    world.deliver(enrol(vm("db")))
    world.deliver(start(vm("db"), dry_run=dry_run))
    world.run()
    assert jobs(world)[JOB].dry_run is dry_run
    assert jobs(world)[JOB].state == "completed"
