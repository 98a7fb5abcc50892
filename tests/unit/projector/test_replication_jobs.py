"""Runs, iterations, disks and checkpoints as jobs, from what the replicator's deciders say."""

from __future__ import annotations

from typing import Any

from schemas import replicator as said
from schemas.joins import DONE_STEPS, job_now
from schemas.views import ENDED, Checkpoint, Job, Progress
from services.projector.model import MemoryReadModel
from tests.unit.projector.history import T0, History
from tests.unit.replicator.world import RUN, World, header, iteration, script, start

CHECKPOINT = "checkpoint:shop:k1"


def model(world: World) -> MemoryReadModel:
    """What follows from what the world's streams said."""
    history = History()
    for stream, event in world.log:
        history.say("replicator", stream, event)
    return history.model()


def jobs(world: World) -> dict[str, Job]:
    found: dict[str, Job] = model(world).tables["jobs"]
    return found


def settled(world: World, *parts: str) -> World:
    """Some effects of the only iteration ended well."""
    for part in parts:
        world.settle(f"{iteration()}/{part}")
        world.deliver_all()
    return world


def started(*, disk_count: int = 1, **fields: Any) -> World:
    world = World(disk_count=disk_count)
    world.deliver(start(**fields))
    return world


# ── Iterations ───────────────────────────────────────────────────────────────────────────────


def test_a_routine_iteration_is_a_job_with_steps_and_a_disk() -> None:
    world = started(full=True)
    world.run()
    found = jobs(world)
    job, disk = found[iteration()], found[f"{iteration()}.sda"]
    assert (job.kind, job.vm, job.state, job.percent) == ("iteration", "db", "completed", 100.0)
    assert [step.state for step in job.steps] == ["completed"] * 6
    assert (job.note, job.bytes_done) == ("first copy", 1024)
    assert (disk.disk, disk.parent_id, disk.state) == ("sda", iteration(), "completed")
    assert (disk.bytes_done, disk.bytes_total) == (1024, 4096)


def test_an_iteration_that_waits_for_its_runs_script_is_queued() -> None:
    world = started(run=RUN, gated=True)
    assert (jobs(world)[iteration()].state, jobs(world)[iteration()].parent_id) == ("queued", RUN)
    world.deliver(said.OpenGate(iteration=iteration()))
    assert jobs(world)[iteration()].state == "running"


def test_disks_that_are_done_move_the_percent() -> None:
    world = settled(started(disk_count=3), "snapshot")
    before = jobs(world)[iteration()]
    transfers = [effect for effect in world.effects if "/transfer/" in effect]
    world.settle(transfers[0])
    found = jobs(world)
    job = found[iteration()]
    assert job.disks is not None and (job.disks.total, job.disks.ended) == (3, 1)
    assert job.percent > before.percent
    assert {found[f"{iteration()}.{name}"].state for name in ("sdb", "sdc")} == {"running"}


def test_a_failed_disk_fails_the_iteration_with_its_remedy() -> None:
    world = settled(started(disk_count=2), "snapshot")
    failing = next(effect for effect in world.effects if "/transfer/" in effect)
    world.settle(failing, code="disk-shrank")
    world.run()
    job = jobs(world)[iteration()]
    assert (job.state, job.error is not None and job.error.remedy) == ("failed", "mend it")
    states = {step.name: step.state for step in job.steps}
    assert (states["transfer"], states["finalize"]) == ("failed", "skipped")


def test_a_cancelled_iteration_leaves_nothing_running() -> None:
    world = settled(started(disk_count=2), "snapshot")
    world.deliver(said.CancelIteration(iteration=iteration()))
    world.run()
    found = jobs(world)
    assert found[iteration()].state == "cancelled"
    assert all(step.state in DONE_STEPS for job in found.values() for step in job.steps)


def test_progress_shows_in_a_running_job_and_not_in_an_ended_one() -> None:
    moment = Progress(
        job=f"{iteration()}.sda", bytes_done=1024, bytes_total=4096, percent=25.0, rate=9.5, at=T0
    )
    world = started()
    told = jobs(world)
    disk = Job(
        id=moment.job, kind="iteration", plan="shop", state="running", created_at=T0, disk="sda"
    )
    job = job_now(told[iteration()], children=[disk], progress={moment.job: moment})
    assert (job.bytes_done, job.bytes_total, job.rate) == (1024, 4096, 9.5)
    assert job.percent >= told[iteration()].percent
    world.run()
    found = jobs(world)
    ended = found[iteration()]
    assert job_now(ended, progress={iteration(): moment}) == ended
    disks = [each for each in found.values() if each.parent_id == ended.id]
    whole = job_now(ended, children=disks)
    assert (whole.bytes_done, whole.bytes_total) == (ended.bytes_done, ended.bytes_total)


def test_a_mark_shows_how_far_a_disk_is() -> None:
    world = settled(started(disk_count=2), "snapshot")
    transfers = [effect for effect in world.effects if "/transfer/" in effect]
    world.settle(transfers[0])
    history = History()
    for stream, event in world.log:
        history.say("replicator", stream, event)
    history.say(
        "replicator",
        iteration(),
        said.TransferMarked(disk="sdb", generation_id="g", offset=2048),
    )
    assert history.document("jobs", f"{iteration()}.sdb").percent == 50.0


# ── Runs ─────────────────────────────────────────────────────────────────────────────────────


def test_a_run_counts_its_members_and_shows_its_scripts() -> None:
    world = World()
    world.deliver(
        said.StartRun(
            run=RUN,
            plan="shop",
            tick_at=T0,
            vms=("db", "web"),
            iterations=(),
            pre_script=script(),
            post_script=script(),
        )
    )
    for vm in ("db", "web"):
        world.deliver(start(vm, run=RUN, gated=True))
    assert jobs(world)[RUN].state == "running"
    world.run()
    found = jobs(world)
    job = found[RUN]
    assert (job.state, [step.state for step in job.steps]) == ("completed", ["completed"] * 3)
    assert job.vms is not None and (job.vms.total, job.vms.ended) == (2, 2)
    members = [each for each in found.values() if each.parent_id == RUN]
    shown = job_now(job, children=members)
    assert shown.children == (iteration("db"), iteration("web"))
    assert shown.bytes_done == sum(each.bytes_done for each in members) > 0
    assert shown.bytes_total == sum(each.bytes_total for each in members) > 0


# ── Checkpoints ──────────────────────────────────────────────────────────────────────────────


def making(*vms: str) -> World:
    world = World()
    world.deliver(
        said.MakeCheckpoint(
            checkpoint=CHECKPOINT,
            plan="shop",
            plan_version=1,
            header=header(),
            vms=vms,
            requested_at=T0,
        )
    )
    return world


def test_a_checkpoint_is_made_by_a_job_of_the_same_id() -> None:
    world = making("db", "web")
    creating = model(world).tables["checkpoints"][CHECKPOINT]
    world.run()
    found = model(world)
    made: Checkpoint = found.tables["checkpoints"][CHECKPOINT]
    job: Job = found.tables["jobs"][CHECKPOINT]
    assert (creating.state, made.state) == ("creating", "available")
    assert [copy.vm for copy in made.copies] == ["db", "web"]
    assert (job.kind, job.state, job.percent) == ("checkpoint", "completed", 100.0)
    assert found.tables["jobs"][f"{CHECKPOINT}.db"].state == "completed"


def test_a_checkpoint_that_misses_a_vm_is_available_and_says_so() -> None:
    world = making("db", "web")
    world.settle(f"{CHECKPOINT}/create/db", code="no-space")
    world.run()
    found = model(world)
    made: Checkpoint = found.tables["checkpoints"][CHECKPOINT]
    assert made.state == "available"
    assert [copy.error is None for copy in made.copies] == [False, True]
    assert found.tables["jobs"][CHECKPOINT].state == "partially-completed"
    assert found.tables["jobs"][f"{CHECKPOINT}.db"].state == "failed"


def test_a_deletion_is_a_job_of_its_own() -> None:
    world = making("db")
    world.run()
    world.deliver(said.DeleteCheckpoint(checkpoint=CHECKPOINT, plan="shop"))
    expiring = model(world)
    assert expiring.tables["checkpoints"][CHECKPOINT].state == "expiring"
    assert expiring.tables["jobs"][f"{CHECKPOINT}.delete"].state == "running"
    world.run()
    gone = model(world)
    assert gone.tables["checkpoints"][CHECKPOINT].state == "deleted"
    assert gone.tables["checkpoints"][CHECKPOINT].copies == ()
    job = gone.tables["jobs"][f"{CHECKPOINT}.delete"]
    assert (job.kind, job.state) == ("checkpoint-delete", "completed")
    assert job.state in ENDED
