"""A run around its iterations: the gate, plan scripts, the outcome."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import registry
from schemas import replicator as said
from schemas.common import ScriptReport
from schemas.replicator_work import ScriptRan
from schemas.scheduler import IterationEnded
from shared.errors import Refused
from shared.fold import EVENT_BYTES_MAX
from shared.testing.spec import T0
from tests.unit.replicator.world import RUN, World, iteration, script, start

VMS = ("db", "app", "web")


def open_run(world: World, *, pre: Any = None, post: Any = None, vms: Any = VMS) -> None:
    world.deliver(
        said.StartRun(
            run=RUN,
            plan="shop",
            tick_at=T0,
            vms=vms,
            iterations=(),
            pre_script=pre,
            post_script=post,
        )
    )


def begun(*, pre: Any = None, post: Any = None) -> World:
    world = World()
    open_run(world, pre=pre, post=post)
    for vm in VMS:
        world.deliver(start(vm, run=RUN, gated=pre is not None))
    return world


def fail_script(world: World, part: str) -> None:
    report = ScriptReport(outcome="failed", exit_code=1, error="exit code 1")
    world.settle(f"{RUN}/{part}", result=ScriptRan(report=report))


def fail_iteration(world: World, vm: str) -> None:
    world.settle(f"{iteration(vm)}/snapshot", code="broken")


def finished(world: World) -> said.RunFinished:
    event = world.event(said.RunFinished)
    assert isinstance(event, said.RunFinished)
    return event


def test_iterations_begin_when_the_plan_script_is_over() -> None:
    world = begun(pre=script())
    assert list(world.effects) == [f"{RUN}/pre-script"]
    world.settle(f"{RUN}/pre-script")
    world.deliver_all()
    assert world.parts() == ["snapshot"] * 3


def test_the_post_script_waits_for_the_slowest_and_knows_every_outcome() -> None:
    world = begun(post=script())
    fail_iteration(world, "app")
    world.settle(f"{iteration('app')}/remove-snapshot")
    while f"{RUN}/post-script" not in world.effects:
        world.deliver_all()
        if f"{RUN}/post-script" not in world.effects:
            world.settle(next(iter(world.effects)))
    context = world.effects[f"{RUN}/post-script"].payload.work.context
    assert {vm["name"]: vm["outcome"] for vm in context["vms"]} == {
        "db": "completed",
        "app": "failed",
        "web": "completed",
    }
    assert context["outcome"] == "partially-completed"


def test_a_run_of_good_iterations_is_completed() -> None:
    world = begun(pre=script(), post=script())
    world.run()
    assert finished(world).state == "completed"
    assert [step.name for step in finished(world).steps] == ["pre-script", "post-script"]


def test_a_run_with_one_failed_iteration_is_partially_completed() -> None:
    world = begun()
    fail_iteration(world, "db")
    world.run()
    assert finished(world).state == "partially-completed"


def test_a_run_without_a_usable_iteration_is_failed() -> None:
    world = begun()
    for vm in VMS:
        fail_iteration(world, vm)
    world.run()
    assert finished(world).state == "failed"


def test_a_pre_script_that_stops_lets_no_iteration_begin() -> None:
    world = begun(pre=script(on_failure="stop"), post=script())
    fail_script(world, "pre-script")
    world.run()
    assert finished(world).state == "failed"
    assert {ended.state for ended in world.told(IterationEnded)} == {"failed"}
    assert not world.copies
    problem = finished(world).problem
    assert problem is not None
    assert problem.code == "script-failed"


def test_a_pre_script_that_may_fail_lets_the_iterations_go() -> None:
    world = begun(pre=script(on_failure="continue"))
    fail_script(world, "pre-script")
    world.run()
    assert finished(world).state == "partially-completed"
    assert len(world.copies) == 3


def test_a_failing_post_script_makes_the_run_partially_completed() -> None:
    world = begun(post=script())
    while f"{RUN}/post-script" not in world.effects:
        world.deliver_all()
        if f"{RUN}/post-script" not in world.effects:
            world.settle(next(iter(world.effects)))
    fail_script(world, "post-script")
    assert finished(world).state == "partially-completed"


def test_a_cancelled_run_cancels_its_iterations_and_waits_for_them() -> None:
    world = begun(post=script())
    world.deliver(said.CancelJob(command_id="c", job=RUN))
    world.run()
    assert finished(world).state == "cancelled"
    assert {ended.state for ended in world.told(IterationEnded)} == {"cancelled"}
    assert not world.snapshots
    assert not world.events(said.RunScriptEnded)


def test_a_run_cancelled_during_its_pre_script_starts_nothing() -> None:
    world = begun(pre=script())
    world.deliver(said.CancelJob(command_id="c", job=RUN))
    world.run()
    assert finished(world).state == "cancelled"
    assert not world.copies


def test_an_iteration_that_starts_after_the_cancel_of_its_run_ends_at_once() -> None:
    world = World()
    open_run(world)
    world.deliver(start("db", run=RUN))
    world.deliver(start("app", run=RUN))
    world.deliver(said.CancelJob(command_id="c", job=RUN))
    world.run()
    assert not world.events(said.RunFinished)
    world.deliver(start("web", run=RUN))
    world.run()
    assert finished(world).state == "cancelled"


def test_news_of_a_member_may_come_before_the_run_and_twice() -> None:
    world = World()
    for vm in ("db", "app", "app"):
        world.deliver(said.RunMemberEnded(run=RUN, vm=vm, state="completed"))
    open_run(world)
    world.deliver(said.RunMemberEnded(run=RUN, vm="web", state="completed"))
    assert finished(world).state == "completed"


def test_a_run_of_nothing_is_over_at_once() -> None:
    world = World()
    open_run(world, vms=())
    assert finished(world).state == "completed"


def test_a_run_is_cancelled_only_while_it_runs() -> None:
    world = World()
    with pytest.raises(Refused) as unknown:
        world.deliver(said.CancelJob(command_id="c", job=RUN))
    assert unknown.value.code == "unknown-job"
    open_run(world, vms=())
    with pytest.raises(Refused) as over:
        world.deliver(said.CancelJob(command_id="c", job=RUN))
    assert over.value.code == "job-ended"


def test_a_run_of_two_thousand_vms_fits_into_its_events() -> None:
    world = World()
    open_run(world, vms=tuple(f"a-vm-with-a-name-{n:04}" for n in range(2_000)))
    for _, event in world.log:
        assert len(registry.encode(event)[2]) < EVENT_BYTES_MAX


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_run_ends_once_whatever_its_iterations_and_scripts_do(data: Any) -> None:
    draw = data.draw
    policy = st.sampled_from(("continue", "stop", None))
    pre = script(on_failure=draw(policy)) if draw(st.booleans()) else None
    world = begun(pre=pre, post=script() if draw(st.booleans()) else None)
    for _ in range(200):
        if draw(st.integers(0, 19)) == 0:
            try:
                world.deliver(said.CancelJob(command_id="c", job=RUN))
            except Refused as refused:
                assert refused.code == "job-ended"
        if draw(st.booleans()):
            world.deliver_all()
        if not world.effects:
            world.deliver_all()
            if not world.effects:
                break
        effect_id = draw(st.sampled_from(sorted(world.effects)))
        if effect_id in world.asked_to_stop and draw(st.booleans()):
            world.settle(effect_id, code="cancelled")
        elif not effect_id.endswith("/left") and draw(st.integers(0, 5)) == 0:
            world.settle(effect_id, code="broken")
        else:
            world.settle(effect_id)
    final = finished(world)
    states = [ended.state for ended in world.told(IterationEnded)]
    assert len(states) == len(VMS)
    usable = [state for state in states if state in ("completed", "partially-completed")]
    if final.state == "completed":
        assert set(states) == {"completed"}
    if final.state == "failed":
        assert not usable
    assert (final.state == "cancelled") == bool(world.events(said.RunCancelRequested))
