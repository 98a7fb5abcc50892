"""One VM's recovery: the order of its steps, the end of each, abandonment, its scripts."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest

from schemas import recovery as said
from schemas import recovery_work as work
from schemas.common import ScriptReport
from schemas.plans import ReadyProbe
from shared.decider import Need
from shared.testing.spec import T0
from tests.failures import failure_mode
from tests.unit.recovery.world import JOB, World, enrol, header, script, vm

STREAM = f"vm-{JOB}:db"
STEPS = ("hold-copy", "rebuild/sda", "rebuild/sdb", "create-instance", "power-on")
FAILED = work.ScriptRan(report=ScriptReport(outcome="failed", exit_code=1, error="exit 1"))


def begun(*, boot: bool = True, definition: Any = None, **options: Any) -> World:
    world = World()
    definition = definition or vm("db")
    world.deliver(enrol(definition, **options))
    stream = f"vm-{JOB}:{definition.name}"
    world.deliver(said.LaunchVm(stream=stream, boot=boot, requested_at=T0))
    return world


def under_way(world: World) -> list[str]:
    return [effect.removeprefix(f"{STREAM}/") for effect in world.effects if STREAM in effect]


def go_to(world: World, part: str) -> World:
    for _ in range(100):
        world.deliver_all()
        if part in under_way(world):
            return world
        if world.effects:
            world.settle(next(iter(world.effects)))
    raise AssertionError(f"{part} never comes")


def end(world: World) -> said.VmFinished:
    world.run()
    finished: said.VmFinished = world.event(said.VmFinished)
    return finished


# ── order ────────────────────────────────────────────────────────────────────────────────────


def test_steps_follow_one_another_and_disks_are_rebuilt_side_by_side() -> None:
    world = begun()
    assert under_way(world) == ["hold-copy"]
    world.settle(f"{STREAM}/hold-copy")
    assert under_way(world) == ["rebuild/sda", "rebuild/sdb"]
    world.settle(f"{STREAM}/rebuild/sda")
    assert under_way(world) == ["rebuild/sdb"]
    world.settle(f"{STREAM}/rebuild/sdb")
    assert under_way(world) == ["create-instance"]
    world.settle(f"{STREAM}/create-instance")
    assert under_way(world) == ["power-on"]
    world.settle(f"{STREAM}/power-on")
    assert under_way(world) == ["release-copy"]


def test_a_vm_that_builds_ahead_powers_on_only_when_its_boot_order_opens() -> None:
    world = begun(boot=False)
    for _ in range(4):
        world.settle(next(iter(world.effects)))
    assert under_way(world) == []
    world.deliver(said.BootVm(stream=STREAM))
    assert under_way(world) == ["power-on"]


def test_where_instances_start_when_created_creating_waits_for_the_boot_order() -> None:
    world = begun(boot=False)
    disks = (work.CopyDisk(name="sda", size=1),)
    held = work.CopyHeld(copy_id="c", taken_at=T0, disks=disks, early=False)
    world.settle(f"{STREAM}/hold-copy", held)
    world.settle(f"{STREAM}/rebuild/sda")
    assert under_way(world) == []
    world.deliver(said.BootVm(stream=STREAM))
    assert under_way(world) == ["create-instance"]


def test_an_instance_gets_its_disks_in_the_copys_order_in_the_isolated_network() -> None:
    world = go_to(begun(), "rebuild/sda")
    world.settle(f"{STREAM}/rebuild/sdb")
    world.settle(f"{STREAM}/rebuild/sda")
    payload = world.effects[f"{STREAM}/create-instance"].payload
    assert [disk.name for disk in payload.disks] == ["sda", "sdb"]
    assert (payload.network, payload.isolated, payload.name) == ("isolated", True, "db-test-r1")


def test_every_platform_step_names_the_budget_its_call_spends() -> None:
    world = go_to(begun(), "power-on")
    needs = world.effects[f"{STREAM}/power-on"].needs
    assert needs == (Need(budget="west/StartInstances", mode="rate"),)


def test_lower_boot_orders_are_served_first_and_in_one_the_vm_that_is_furthest() -> None:
    parts = ("hold-copy", "rebuild/sda", "create-instance", "power-on", "release-copy")

    def dues(order: int) -> list[dt.datetime]:
        world = begun(definition=vm("db", order))
        return [go_to(world, part).effects[f"{STREAM}/{part}"].due for part in parts]

    hold, rebuild, create, power_on, release = dues(1)
    assert power_on < create < rebuild < hold < release < min(dues(2))


def test_the_held_copy_goes_while_the_guest_boots_and_readiness_does_not_wait_for_it() -> None:
    world = go_to(begun(), "release-copy")
    world.deliver(said.InstanceReady(stream=STREAM, at=world.now))
    assert world.event(said.VmReady)
    assert not world.events(said.VmFinished)
    world.settle(f"{STREAM}/release-copy")
    assert world.event(said.VmFinished).outcome == "ready"


def test_a_checkpoint_is_read_without_hold_or_release() -> None:
    world = begun(checkpoint="checkpoint:shop:c1")
    assert "release-copy" not in world.event(said.VmEnrolled).steps
    assert end(world).state == "completed"
    assert all(step.name != "release-copy" for step in world.event(said.VmFinished).steps)


def test_boot_delay_counts_from_power_on_as_far_as_the_platforms_clock_can_be_right() -> None:
    world = go_to(begun(), "power-on")
    wrong = work.InstanceState(instance_id="i-db", powered_on_at=world.now + dt.timedelta(hours=1))
    world.settle(f"{STREAM}/power-on", wrong)
    assert world.event(said.VmPoweredOn).at == world.now


def test_rto_counts_from_the_command_to_readiness() -> None:
    world = go_to(begun(), "release-copy")
    world.now += dt.timedelta(seconds=42)
    world.deliver(said.InstanceReady(stream=STREAM, at=world.now))
    assert end(world).rto_s == 42


# ── ends ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("part", STEPS)
def test_a_step_that_fails_for_good_fails_the_vm_and_lets_the_copy_go(part: str) -> None:
    world = go_to(begun(), part)
    world.settle(f"{STREAM}/{part}", code="x", remedy="mend it")
    finished = end(world)
    assert (finished.outcome, finished.state) == ("failed", "failed")
    assert finished.problem is not None and finished.problem.remedy == "mend it"
    assert finished.steps[-1].name == "release-copy"


def test_a_disk_that_fails_stops_the_other_disks() -> None:
    world = go_to(begun(), "rebuild/sda")
    world.settle(f"{STREAM}/rebuild/sda", code="x")
    assert world.asked_to_stop == {f"{STREAM}/rebuild/sdb"}
    assert "release-copy" not in under_way(world), "the other disk still reads"
    step = {step.name: step for step in end(world).steps}["rebuild-disks"]
    assert step.state == "failed"


@failure_mode(
    "Guest",
    "slow",
    sees=(
        "The VM fails at its readiness deadline with what was waited for; others go on, "
        "as *on error* says."
    ),
    does="Give it more time in the plan, or repeat the recovery with this VM alone.",
)
def test_a_guest_that_never_answers_fails_at_its_deadline_and_is_not_watched_any_more() -> None:
    world = go_to(begun(), "release-copy")
    world.late(STREAM)
    finished = end(world)
    assert finished.outcome == "failed"
    assert finished.problem is not None and finished.problem.code == "not-ready"
    assert world.state("site-watch:west").watched == {}


@pytest.mark.parametrize(("asked", "expected"), [(None, 8000), (9000, 9000)])
def test_a_probe_without_a_port_asks_the_one_the_guest_itself_names(
    asked: int | None, expected: int
) -> None:
    probe = ReadyProbe(kind="http", port=asked, path="/health")
    world = begun(definition=vm("web", ready=probe))
    held = work.CopyHeld(
        copy_id="c", taken_at=T0, disks=(), configuration={"guest": {"port": 8000}}
    )
    world.settle(f"{STREAM[:-2]}web/hold-copy", held)
    for _ in range(2):
        world.settle(next(iter(world.effects)))
    (watch,) = world.queues["west"]
    assert (watch.kind, watch.port, watch.path) == ("http", expected, "/health")


def test_the_deadline_counts_from_power_on() -> None:
    world = go_to(begun(), "release-copy")
    (watched,) = world.effects["site-watch:west/poll/1"].payload.watched
    assert watched.until == world.now + dt.timedelta(seconds=60)


def test_a_guest_that_nobody_could_ask_fails_with_what_its_site_said() -> None:
    world = go_to(begun(), "release-copy")
    world.late(STREAM, error="no route to west")
    problem = end(world).problem
    assert problem is not None and "no route to west" in problem.message
    assert "seawall site show" in problem.remedy


def test_that_a_guest_was_late_before_it_was_powered_on_again_says_nothing() -> None:
    world = go_to(begun(), "release-copy")
    world.deliver(said.InstanceLate(stream=STREAM, until=world.now))
    assert end(world).outcome == "ready"


@pytest.mark.parametrize("part", STEPS)
def test_a_cancel_stops_what_runs_and_the_job_ends_only_when_it_has_stopped(part: str) -> None:
    world = go_to(begun(), part)
    world.deliver(said.AbandonVm(stream=STREAM, reason="cancel"))
    assert f"{STREAM}/{part}" in world.asked_to_stop
    assert not world.events(said.VmFinished)
    finished = end(world)
    assert (finished.outcome, finished.state) == ("cancelled", "cancelled")


def test_what_ends_well_in_spite_of_a_cancel_is_known_to_cleanup() -> None:
    world = go_to(begun(), "create-instance")
    world.deliver(said.AbandonVm(stream=STREAM, reason="cancel"))
    world.settle(f"{STREAM}/create-instance")
    assert end(world).instance_id == "i-db"


def test_a_copy_whose_hold_was_cancelled_is_looked_up_and_let_go() -> None:
    world = begun()
    world.deliver(said.AbandonVm(stream=STREAM, reason="cancel"))
    world.settle(f"{STREAM}/hold-copy", code="cancelled")
    payload = world.effects[f"{STREAM}/release-copy"].payload
    assert (payload.copy_id, payload.held_under) == ("", f"{STREAM}/hold-copy")


def test_a_stop_leaves_a_guest_alone_that_is_about_to_be_on() -> None:
    world = go_to(begun(), "power-on")
    world.deliver(said.AbandonVm(stream=STREAM, reason="stop"))
    assert end(world).outcome == "ready"


def test_a_stop_lets_a_running_script_end_and_a_cancel_after_it_does_not() -> None:
    world = begun(definition=vm("db", pre_script=script()))
    world.deliver(said.AbandonVm(stream=STREAM, reason="stop"))
    assert not world.asked_to_stop
    world.deliver(said.AbandonVm(stream=STREAM, reason="cancel"))
    assert world.asked_to_stop == {f"{STREAM}/pre-script"}


def test_a_vm_that_never_began_is_skipped_with_no_step() -> None:
    world = World()
    world.deliver(enrol(vm("db")))
    world.deliver(said.AbandonVm(stream=STREAM, reason="stop"))
    assert (end(world).outcome, end(world).steps) == ("skipped", ())


@pytest.mark.parametrize("moment", [*STEPS, "release-copy"])
def test_every_message_twice_and_every_late_one_changes_nothing(moment: str) -> None:
    world = go_to(begun(), moment)
    before = len(world.log)
    world.deliver(enrol(vm("db")))
    world.deliver(said.LaunchVm(stream=STREAM, boot=True))
    world.deliver(said.BootVm(stream=STREAM))
    if moment != "release-copy":
        world.deliver(said.InstanceReady(stream=STREAM, at=T0))
        world.deliver(said.InstanceLate(stream=STREAM, until=T0))
    assert len(world.log) == before


# ── scripts ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("on_failure", "policy", "outcome", "state", "stop"),
    [
        ("continue", "stop", "ready", "partially-completed", False),
        ("fail_vm", "continue", "failed", "failed", False),
        ("stop", "continue", "ready", "partially-completed", True),
        (None, "continue", "ready", "partially-completed", False),
        (None, "stop", "ready", "partially-completed", True),
    ],
)
def test_a_failed_post_script_does_what_it_declares_else_what_the_operation_says(
    on_failure: Any, policy: Any, outcome: str, state: str, stop: bool
) -> None:
    definition = vm("db", post_script=script(on_failure=on_failure))
    world = go_to(begun(definition=definition, on_error=policy), "post-script")
    world.settle(f"{STREAM}/post-script", FAILED)
    finished = end(world)
    assert (finished.outcome, finished.state) == (outcome, state)
    assert world.state(STREAM).stop is stop


@pytest.mark.parametrize(
    ("on_failure", "outcome"), [("continue", "ready"), ("fail_vm", "failed"), ("stop", "failed")]
)
def test_a_failed_pre_script_fails_the_vm_unless_it_may_fail(
    on_failure: Any, outcome: str
) -> None:
    world = begun(definition=vm("db", pre_script=script(on_failure=on_failure)))
    world.settle(f"{STREAM}/pre-script", FAILED)
    assert end(world).outcome == outcome


def test_a_declared_retry_is_another_effect_and_may_succeed() -> None:
    world = begun(definition=vm("db", pre_script=script(retries=1, on_failure="fail_vm")))
    world.settle(f"{STREAM}/pre-script", FAILED)
    assert under_way(world) == ["pre-script/2"]
    finished = end(world)
    assert finished.state == "completed"
    assert finished.steps[0].attempts == 2


def test_a_script_without_retries_runs_once() -> None:
    world = begun(definition=vm("db", pre_script=script(on_failure="fail_vm")))
    world.settle(f"{STREAM}/pre-script", FAILED)
    assert under_way(world) == []


def test_a_scripts_start_is_recorded_once_and_not_after_its_end() -> None:
    world = begun(definition=vm("db", pre_script=script()))
    begin = said.VmScriptStarted(step="pre-script")
    world.deliver(begin, stream=STREAM)
    assert world.event(said.VmScriptStarted) == begin
    world.settle(f"{STREAM}/pre-script")
    world.deliver(begin, stream=STREAM)
    assert len(world.events(said.VmScriptStarted)) == 1


def test_the_post_script_reads_the_instance_and_earlier_outputs_and_only_references() -> None:
    definition = vm(
        "db",
        pre_script=script(),
        post_script=script(),
        credentials={"admin": "file:secrets/db-admin"},
    )
    world = begun(definition=definition)
    outputs = {"lun": 7}
    world.settle(
        f"{STREAM}/pre-script",
        work.ScriptRan(report=ScriptReport(outcome="done", outputs=outputs)),
    )
    world = go_to(world, "post-script")
    told = world.effects[f"{STREAM}/post-script"].payload.work
    assert told.credentials == {"admin": "file:secrets/db-admin"}
    assert told.context["instance"]["id"] == "i-db"
    assert told.context["instance"]["addresses"] == ["127.0.0.9"]
    assert told.context["outputs"]["vm"] == {"pre-script": outputs}


def test_the_pre_script_gets_no_credentials() -> None:
    definition = vm("db", pre_script=script(), credentials={"admin": "file:a"})
    payload = begun(definition=definition).effects[f"{STREAM}/pre-script"].payload
    assert payload.work.credentials == {}


def test_a_deselected_script_is_no_step() -> None:
    definition = vm("db", pre_script=script(), post_script=script())
    world = begun(definition=definition, skip_scripts=("post-recovery:db", "pre-recovery"))
    steps = world.event(said.VmEnrolled).steps
    assert "pre-script" in steps and "post-script" not in steps


def test_a_script_not_declared_for_tests_does_not_run_in_one() -> None:
    only = msgspec.structs.replace(script(), operations=("failover",))
    world = begun(definition=vm("db", pre_script=only), header=header())
    assert under_way(world) == ["hold-copy"]


def test_a_copy_that_cannot_be_let_go_is_told_once_and_the_vm_ends_when_it_is() -> None:
    world = go_to(begun(), "release-copy")
    world.trouble(f"{STREAM}/release-copy")
    world.trouble(f"{STREAM}/release-copy")
    told = world.event(said.VmReleaseTroubled)
    assert (told.vm, told.job, told.attempts, told.problem.code) == ("db", JOB, 3, "away")
    assert not world.events(said.VmFinished)
    assert end(world).state == "completed"
