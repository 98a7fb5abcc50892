"""An iteration's steps and outcome, one rule at a time."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from schemas import replicator as said
from schemas import replicator_work as work
from schemas.common import Problem, ScriptReport
from shared.decider import WorkClass
from shared.errors import Refused
from shared.testing.spec import T0
from tests.unit.replicator.world import World, iteration, outcome_of, script, start

DB = iteration()


def begun(*, disk_count: int = 1, **fields: Any) -> World:
    world = World(disk_count=disk_count)
    world.deliver(start(**fields))
    return world


def steps_of(world: World) -> dict[str, str]:
    return {step.name: step.state for step in world.event(said.IterationFinished).steps}


# ── The routine way ──────────────────────────────────────────────────────────────────────────


def test_a_routine_iteration_of_one_disk_is_two_events_and_one_message() -> None:
    world = begun()
    world.run()
    assert [type(event) for _, event in world.log] == [
        said.IterationStarted,
        said.IterationFinished,
    ]
    assert world.rows() == 3
    assert outcome_of(world).state == "completed"


@pytest.mark.parametrize("disk_count", [2, 3, 7])
def test_every_further_disk_is_one_row_more(disk_count: int) -> None:
    world = begun(disk_count=disk_count)
    world.run()
    assert world.rows() == 3 + disk_count - 1
    assert len(world.event(said.IterationFinished).disks) == disk_count


def test_steps_run_in_their_order() -> None:
    world = begun(pre=script("pre.sh"), post=script("post.sh"))
    order = []
    while world.effects:
        (effect_id,) = world.effects
        order.append(world.effects[effect_id].part)
        world.settle(effect_id)
    assert order == [
        "pre-script",
        "snapshot",
        "transfer/1-last",
        "finalize",
        "remove-snapshot",
        "post-script",
    ]
    started = world.event(said.IterationStarted)
    assert [step.name for step in world.event(said.IterationFinished).steps] == list(started.steps)


def test_finding_changes_and_verifying_are_timed_as_the_disks_tell() -> None:
    world = begun(disk_count=2)
    world.run()
    finished = world.event(said.IterationFinished)
    timings = {timing.name: timing for timing in finished.steps}
    first = finished.disks[0]
    assert first.started_at is not None and first.changes_known_at is not None
    assert timings["find-changes"].started_at == timings["transfer"].started_at
    assert timings["find-changes"].ended_at == finished.disks[1].changes_known_at
    assert timings["verify"].started_at == first.verified_from
    assert timings["verify"].ended_at == timings["transfer"].ended_at


def test_disks_of_a_vm_are_transferred_side_by_side() -> None:
    world = begun(disk_count=3)
    world.settle(f"{DB}/snapshot")
    assert world.parts() == ["transfer/1", "transfer/2", "transfer/3-last"]


def test_the_checkpoint_is_of_the_moment_of_the_snapshot() -> None:
    world = begun()
    world.run()
    assert outcome_of(world).checkpoint_at == T0 + dt.timedelta(seconds=1)


def test_the_manifest_tells_all_that_a_recovery_without_our_log_needs() -> None:
    world = begun(disk_count=2)
    taken = work.SnapshotTaken(snapshot=world._snapshot("db"), configuration={"cpus": 2})
    world.settle(f"{DB}/snapshot", result=taken)
    world.settle(f"{DB}/transfer/2-last")
    world.settle(f"{DB}/transfer/1")
    manifest = world.effects[f"{DB}/finalize"].payload.manifest
    assert manifest["plan_version"] == 1
    assert manifest["iteration"] == DB
    assert manifest["mark"] == "t:1"
    assert manifest["taken_at"] == "2026-11-22T20:00:01Z"
    assert manifest["configuration"] == {"cpus": 2}
    assert manifest["definition"]["name"] == "db"
    assert [disk["name"] for disk in manifest["disks"]] == ["sda", "sdb"]


def test_finalize_gets_the_generation_of_every_disk_whatever_order_they_ended_in() -> None:
    world = begun(disk_count=3)
    world.settle(f"{DB}/snapshot")
    for part in ("transfer/3-last", "transfer/1", "transfer/2"):
        world.settle(f"{DB}/{part}")
    carried = world.effects[f"{DB}/finalize"].payload.carried
    assert [disk.generation.generation_id for disk in carried.disks] == ["g-sda", "g-sdb", "g-sdc"]


def test_the_event_of_the_end_carries_no_generations() -> None:
    world = begun(disk_count=2)
    world.run()
    assert all(disk.generation is None for disk in world.event(said.IterationFinished).disks)


def test_a_transfer_needs_a_place_on_the_node_and_a_snapshot_write() -> None:
    world = begun()
    world.settle(f"{DB}/snapshot")
    effect = world.effects[f"{DB}/transfer/1-last"]
    assert {(need.mode, need.budget) for need in effect.needs} == {
        ("hold", "node:west"),
        ("hold", "west/snapshot-writes"),
        ("hold", "west/snapshot-writes:replication"),
        ("rate", "west/StartSnapshot"),
    }
    assert effect.work_class is WorkClass.REPLICATION
    assert effect.interval_s == 900


def test_the_same_start_twice_gives_nothing_the_second_time() -> None:
    world = begun()
    world.deliver(start())
    assert len(world.log) == 1


# ── Failures ─────────────────────────────────────────────────────────────────────────────────


def test_a_snapshot_that_fails_is_looked_for_and_removed_all_the_same() -> None:
    world = begun()
    world.settle(f"{DB}/snapshot", code="broken", done=True)
    assert world.parts() == ["remove-snapshot"]
    world.run()
    assert not world.snapshots
    assert outcome_of(world).state == "failed"


def test_a_failing_disk_fails_its_vm_after_the_others_finished() -> None:
    world = begun(disk_count=3)
    world.settle(f"{DB}/snapshot")
    world.settle(f"{DB}/transfer/2", code="disk-shrank")
    assert world.parts() == ["transfer/1", "transfer/3-last"]
    assert not world.asked_to_stop
    world.run()
    ended = outcome_of(world)
    assert ended.state == "failed"
    assert ended.problem is not None
    assert ended.problem.code == "disk-shrank"
    assert ended.problem.remedy == "mend it"
    disks = {disk.disk: disk.state for disk in world.event(said.IterationFinished).disks}
    assert sorted(disks.values()) == ["completed", "completed", "failed"]
    assert not world.copies


def test_after_a_failed_transfer_snapshot_and_staged_generations_are_removed() -> None:
    world = begun(disk_count=2)
    world.settle(f"{DB}/snapshot")
    world.settle(f"{DB}/transfer/1")
    world.settle(f"{DB}/transfer/2-last", code="target-full", done=True)
    assert sorted(world.parts()) == ["discard", "remove-snapshot"]
    world.run()
    assert not world.staged
    assert not world.snapshots


def test_a_failed_disk_has_its_name_where_its_transfer_could_note_its_trouble() -> None:
    world = begun()
    world.settle(f"{DB}/snapshot")
    carried = world.effects[f"{DB}/transfer/1-last"].payload.carried
    note = said.SnapshotOpened(snapshot=carried.snapshot, steps=carried.steps)
    world.deliver(note, stream=DB)
    world.deliver(note, stream=DB)
    world.settle(f"{DB}/transfer/1-last", code="site-gone")
    world.run()
    (disk,) = world.event(said.IterationFinished).disks
    assert (disk.disk, disk.size, disk.state) == ("sda", 4096, "failed")
    assert steps_of(world) == {
        "snapshot": "completed",
        "transfer": "failed",
        "remove-snapshot": "completed",
    }


def test_disks_that_ended_before_their_names_were_known_have_them_in_the_end() -> None:
    world = begun(disk_count=2)
    world.settle(f"{DB}/snapshot")
    world.settle(f"{DB}/transfer/1", code="worker-lost")
    world.settle(f"{DB}/transfer/2-last")
    world.run()
    disks = {disk.disk: disk.state for disk in world.event(said.IterationFinished).disks}
    assert disks == {"sda": "failed", "sdb": "completed"}


def test_a_failed_switch_leaves_no_generation_and_no_snapshot() -> None:
    world = begun()
    world.settle(f"{DB}/snapshot")
    world.settle(f"{DB}/transfer/1-last")
    world.settle(f"{DB}/finalize", code="stale-lease")
    world.run()
    assert outcome_of(world).state == "failed"
    assert not world.staged
    assert not world.snapshots


def test_a_snapshot_that_cannot_be_removed_does_not_hold_the_iteration_up() -> None:
    world = begun()
    for part in ("snapshot", "transfer/1-last", "finalize"):
        world.settle(f"{DB}/{part}")
    carried = world.effects[f"{DB}/remove-snapshot"].payload.carried
    note = said.CopyFinalized(
        checkpoint_at=carried.checkpoint_at, steps=carried.steps, disks=carried.disks
    )
    world.deliver(note, stream=DB)
    world.settle(f"{DB}/remove-snapshot", code="site-gone")
    final = world.event(said.IterationFinished)
    assert final.state == "partially-completed"
    assert final.checkpoint_at is not None
    assert final.leftovers == ("snapshot",)
    assert steps_of(world)["remove-snapshot"] == "failed"
    assert world.parts() == ["remove-snapshot/left"]
    world.settle(f"{DB}/remove-snapshot/left", code="bug")
    world.settle(f"{DB}/remove-snapshot/left")
    assert not world.snapshots
    assert world.event(said.LeftoverRemoved).what == "snapshot"


@pytest.mark.parametrize(("disk_count", "code"), [(0, "no-disks"), (65, "too-many-disks")])
def test_a_vm_with_no_or_too_many_disks_is_not_begun(disk_count: int, code: str) -> None:
    world = begun(disk_count=disk_count)
    world.run()
    ended = outcome_of(world)
    assert ended.problem is not None
    assert (ended.state, ended.problem.code) == ("failed", code)
    assert not world.snapshots


# ── Scripts ──────────────────────────────────────────────────────────────────────────────────


def failing(world: World, part: str, **fields: Any) -> None:
    report = ScriptReport(outcome="failed", exit_code=1, error="exit code 1", **fields)
    world.settle(f"{DB}/{part}", result=work.ScriptRan(report=report))


@pytest.mark.parametrize("on_failure", ["stop", "fail_vm"])
def test_a_pre_script_that_stops_fails_the_iteration_before_its_snapshot(on_failure: Any) -> None:
    world = begun(pre=script(on_failure=on_failure), post=script("post.sh"))
    failing(world, "pre-script")
    assert not world.effects
    ended = outcome_of(world)
    assert ended.state == "failed"
    assert ended.problem is not None
    assert ended.problem.code == "script-failed"


@pytest.mark.parametrize("on_failure", ["continue", None])
def test_a_pre_script_that_may_fail_makes_the_iteration_partially_completed(
    on_failure: Any,
) -> None:
    world = begun(pre=script(on_failure=on_failure))
    failing(world, "pre-script")
    world.run()
    assert outcome_of(world).state == "partially-completed"
    assert outcome_of(world).checkpoint_at is not None


@pytest.mark.parametrize("on_failure", ["stop", "fail_vm", "continue"])
def test_a_failing_post_script_leaves_the_copy_usable(on_failure: Any) -> None:
    world = begun(post=script(on_failure=on_failure))
    for part in ("snapshot", "transfer/1-last", "finalize", "remove-snapshot"):
        world.settle(f"{DB}/{part}")
    failing(world, "post-script")
    assert outcome_of(world).state == "partially-completed"
    assert outcome_of(world).checkpoint_at is not None


def test_the_post_script_runs_after_a_failed_iteration_and_is_told() -> None:
    world = begun(pre=script("freeze.sh"), post=script("thaw.sh"))
    world.settle(f"{DB}/pre-script")
    world.settle(f"{DB}/snapshot", code="broken")
    world.settle(f"{DB}/remove-snapshot")
    context = world.effects[f"{DB}/post-script"].payload.work.context
    assert context["outcome"] == "failed"
    assert "it broke" in context["error"]
    world.run()
    assert outcome_of(world).state == "failed"


def test_a_script_not_declared_for_replication_does_not_run() -> None:
    other = script()
    world = begun(pre=type(other)(**{**_fields(other), "operations": ("failover",)}))
    assert world.parts() == ["snapshot"]
    assert "pre-script" not in world.event(said.IterationStarted).steps


def _fields(struct: Any) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def test_declared_retries_are_further_effects() -> None:
    world = begun(pre=script(retries=2, on_failure="stop"))
    failing(world, "pre-script")
    failing(world, "pre-script/2")
    assert world.parts() == ["pre-script/3"]
    world.run()
    assert outcome_of(world).state == "completed"


def test_an_unknown_end_fails_now_unless_the_script_may_be_run_again() -> None:
    world = begun(pre=script(on_unknown="prompt", on_failure="stop"))
    world.settle(f"{DB}/pre-script", code="unknown", unknown=True)
    assert outcome_of(world).state == "failed"
    assert steps_of(world) == {"pre-script": "unknown"}
    again = begun(pre=script(on_unknown="rerun", on_failure="stop"))
    again.settle(f"{DB}/pre-script", code="unknown", unknown=True)
    assert again.parts() == ["pre-script/2"]


def test_a_script_of_a_cancelled_iteration_must_not_start() -> None:
    world = begun(pre=script())
    world.deliver(said.CancelIteration(iteration=DB))
    with pytest.raises(Refused) as refused:
        world.deliver(said.ScriptStarted(step="pre-script"), stream=DB)
    assert refused.value.code == "cancelled"


def test_a_script_start_is_recorded_once() -> None:
    world = begun(pre=script())
    world.deliver(said.ScriptStarted(step="pre-script"), stream=DB)
    world.deliver(said.ScriptStarted(step="pre-script"), stream=DB)
    assert len(world.events(said.ScriptStarted)) == 1


# ── Cancel ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 4, 5])
def test_a_cancel_at_any_step_leaves_nothing_behind(steps: int) -> None:
    world = begun(pre=script(), post=script())
    parts = ("pre-script", "snapshot", "transfer/1-last", "finalize", "remove-snapshot")
    for part in parts[:steps]:
        world.settle(f"{DB}/{part}")
    world.deliver(said.CancelIteration(iteration=DB))
    world.run()
    ended = outcome_of(world)
    assert ended.state == "cancelled"
    assert (ended.checkpoint_at is not None) == (steps > 3)
    assert not world.snapshots
    assert not world.staged


def test_a_cancel_does_not_stop_the_removal_of_the_snapshot() -> None:
    world = begun()
    for part in ("snapshot", "transfer/1-last", "finalize"):
        world.settle(f"{DB}/{part}")
    world.deliver(said.CancelIteration(iteration=DB))
    assert not world.asked_to_stop


def test_a_cancel_stops_every_transfer_though_no_event_says_how_many_there_are() -> None:
    world = begun(disk_count=64)
    world.settle(f"{DB}/snapshot")
    world.deliver(said.CancelIteration(iteration=DB))
    assert len(world.asked_to_stop) == 64
    world.run()
    assert outcome_of(world).state == "cancelled"


def test_a_cancelled_call_that_was_carried_out_is_undone() -> None:
    world = begun()
    world.deliver(said.CancelIteration(iteration=DB))
    world.settle(f"{DB}/snapshot", code="cancelled", done=True)
    world.run()
    assert not world.snapshots


def test_a_cancel_before_the_start_ends_the_iteration_at_its_start() -> None:
    world = World()
    world.deliver(said.CancelIteration(iteration=DB))
    world.deliver(start())
    assert not world.effects
    assert outcome_of(world).state == "cancelled"


def test_a_person_cannot_cancel_what_is_unknown_or_over() -> None:
    world = World()
    with pytest.raises(Refused) as unknown:
        world.deliver(said.CancelJob(command_id="c", job=DB))
    assert unknown.value.code == "unknown-job"
    with pytest.raises(Refused) as foreign:
        world.deliver(said.CancelJob(command_id="c", job="recovery:shop:1"))
    assert foreign.value.code == "unknown-job"
    world.deliver(start())
    world.run()
    with pytest.raises(Refused) as over:
        world.deliver(said.CancelJob(command_id="c", job=DB))
    assert over.value.code == "job-ended"


def test_a_mark_is_refused_once_the_iteration_is_to_stop() -> None:
    world = begun()
    world.settle(f"{DB}/snapshot")
    mark = said.TransferMarked(disk="sda", generation_id="g", offset=500_000_000)
    world.deliver(mark, stream=DB)
    world.deliver(said.CancelIteration(iteration=DB))
    with pytest.raises(Refused):
        world.deliver(mark, stream=DB)
    assert world.state(DB).marks["sda"].offset == 500_000_000


# ── The run's gate ───────────────────────────────────────────────────────────────────────────


def test_a_gated_iteration_waits_for_its_gate() -> None:
    world = begun(run="replication-run:shop:t1", gated=True)
    assert not world.effects
    world.deliver(said.OpenGate(iteration=DB))
    assert world.parts() == ["snapshot"]


def test_a_gate_may_open_before_the_iteration_starts() -> None:
    world = World()
    world.deliver(said.OpenGate(iteration=DB))
    world.deliver(start(run="replication-run:shop:t1", gated=True))
    assert world.parts() == ["snapshot"]


@pytest.mark.parametrize("gate_first", [True, False])
def test_a_shut_gate_fails_the_iteration_with_the_reason(gate_first: bool) -> None:
    world = World()
    shut = said.OpenGate(
        iteration=DB, allowed=False, problem=Problem(code="script-failed", message="no")
    )
    messages = [shut, start(run="replication-run:shop:t1", gated=True, post=script())]
    for message in messages if gate_first else reversed(messages):
        world.deliver(message)
    assert not world.effects
    assert outcome_of(world).state == "failed"
    assert outcome_of(world).problem == shut.problem


def test_an_iteration_of_a_run_tells_its_run() -> None:
    world = begun(run="replication-run:shop:t1")
    while world.effects:
        world.settle(next(iter(world.effects)))
    (news,) = world.queues["shop"]
    assert news == said.RunMemberEnded(run="replication-run:shop:t1", vm="db", state="completed")


# ── Cost ─────────────────────────────────────────────────────────────────────────────────────


def test_a_tick_of_thousands_is_cheap_to_decide() -> None:
    """A bound that only an accident can break; the figure itself is measured by the benchmark."""
    import time

    from services.replicator.domain import iteration as decider
    from services.replicator.domain.iteration_state import Iteration
    from shared.testing.spec import received

    message, state = received(start()), Iteration()
    began = time.perf_counter()
    for _ in range(2_000):
        decider.start(state, message)
    assert (time.perf_counter() - began) / 2_000 < 200e-6
