"""A Windows in the read models: its steps in its job, prep nodes as the pool says they are."""

from __future__ import annotations

from typing import Any

from schemas import prep as said
from schemas import recovery
from schemas.common import Problem
from schemas.views import PrepNode
from tests.unit.projector.history import History
from tests.unit.projector.test_recovery_jobs import begun, jobs
from tests.unit.recovery.world import JOB, World, script, vm

WIN = f"vm-{JOB}:win"
POOL = "prep-pool:west"
PREP1 = said.ListedNode(name="prep1", seats=2)


def until(world: World, effect_id: str) -> World:
    for _ in range(100):
        world.deliver_all()
        if effect_id in world.effects:
            return world
        world.settle(next(iter(world.effects)))
    raise AssertionError(f"{effect_id} never comes")


def states(world: World) -> dict[str, str]:
    return {step.name: step.state for step in jobs(world)[WIN].steps}


# ── the job ──────────────────────────────────────────────────────────────────────────────────


def test_a_job_shows_the_steps_of_a_windows_in_their_places_once_its_copy_is_held() -> None:
    world = until(begun(vm("win", post_script=script())), f"{WIN}/rebuild/sda")
    assert list(states(world)) == [
        *("hold-copy", "rebuild-disks", "prepare-windows", "create-instance", "power-on"),
        *("wait-ready", "validate-windows", "post-script", "release-copy"),
    ]
    assert states(world)["rebuild-disks"] == "running"


def test_it_waits_for_a_seat_and_says_on_which_node_it_has_one() -> None:
    world = until(begun(vm("win")), f"{POOL}/on/prep1/1")
    while rest := [effect for effect in world.effects if effect.startswith(WIN)]:
        world.settle(rest[0])
        world.deliver_all()
    assert states(world)["prepare-windows"] == "waiting"
    until(world, f"{WIN}/prepare-windows")
    assert states(world)["prepare-windows"] == "running"
    assert jobs(world)[WIN].facts["prep_node"] == "prep1"
    world.settle(f"{WIN}/prepare-windows")
    assert (states(world)["prepare-windows"], states(world)["create-instance"]) == (
        "completed",
        "running",
    )
    (step,) = [s for s in jobs(world)[WIN].steps if s.name == "prepare-windows"]
    assert "viostor" in step.output


def test_an_open_boot_order_does_not_begin_a_preparation_that_waits_for_its_seat() -> None:
    world = until(begun(vm("db"), vm("win", 2)), f"{POOL}/on/prep1/1")
    while rest := [effect for effect in world.effects if not effect.startswith(POOL)]:
        world.settle(rest[0])
        world.deliver_all()
    assert jobs(world)[WIN].boot_open
    assert states(world)["prepare-windows"] == "waiting"


def test_a_failed_validation_is_shown_and_the_job_is_partially_completed() -> None:
    world = until(begun(vm("win")), f"{WIN}/validate-windows")
    assert states(world)["validate-windows"] == "running"
    world.settle(f"{WIN}/validate-windows", code="network-down", remedy="look for the driver")
    world.run()
    job = jobs(world)[WIN]
    assert job.state == "partially-completed"
    (step,) = [s for s in job.steps if s.name == "validate-windows"]
    assert (step.state, step.error and step.error.remedy) == ("failed", "look for the driver")


def test_whole_recoveries_end_with_every_step_ended() -> None:
    world = begun(vm("win"), vm("db", 2))
    world.run()
    found = jobs(world)
    assert {step.state for step in found[WIN].steps} == {"completed"}
    assert not [step.name for step in found[f"vm-{JOB}:db"].steps if "windows" in step.name]


# ── prep nodes ───────────────────────────────────────────────────────────────────────────────


def node(*events: Any) -> PrepNode:
    history = History().say("recovery", POOL, *events)
    found: PrepNode = history.document("prep_nodes", "west/prep1")
    return found


LISTED = said.PrepNodesListed(look=1, nodes=(PREP1,))
ON = said.PrepNodeTurned(node="prep1", to="on", turn=1)
IS_ON = said.PrepNodeSettled(node="prep1", turn=1, power="on")


def test_a_node_is_known_once_it_was_listed() -> None:
    assert node(LISTED) == PrepNode(site="west", node="prep1", seats=2)


def test_a_node_starts_and_stops() -> None:
    assert node(LISTED, ON).power == "starting"
    assert node(LISTED, ON, IS_ON).power == "on"
    off = said.PrepNodeTurned(node="prep1", to="off", turn=2)
    assert node(LISTED, ON, IS_ON, off).power == "stopping"
    # A listing looked before the node was off: the pool knows better.
    assert node(LISTED, ON, IS_ON, off, LISTED).power == "stopping"


def test_seats_in_use_are_counted() -> None:
    given = [said.PrepSeatGiven(stream=f"s{n}", node="prep1") for n in range(2)]
    left = said.PrepMemberLeft(stream="s0", node="prep1")
    unseated = said.PrepMemberLeft(stream="s9")
    assert node(LISTED, *given).in_use == 2
    assert node(LISTED, *given, left, unseated).in_use == 1


def test_why_a_node_does_not_come_on_is_shown_until_it_does_or_is_undrained() -> None:
    problem = Problem(code="no-capacity", message="no host", remedy="free one")
    failed = said.PrepNodeSettled(node="prep1", turn=1, power="unknown", problem=problem)
    shown = node(LISTED, ON, failed)
    assert shown.error is not None and shown.error.code == "no-capacity"
    assert node(LISTED, ON, failed, IS_ON).error is None
    undrained = said.PrepNodeDrained(node="prep1", drained=False)
    assert node(LISTED, ON, failed, undrained).error is None


def test_a_drained_node_is_shown_as_such_also_before_it_was_ever_listed() -> None:
    drained = said.PrepNodeDrained(node="prep1", drained=True)
    assert node(drained).drained and node(drained, LISTED).drained


def test_the_pools_own_story_ends_with_every_node_off_and_empty() -> None:
    world = begun(*(vm(f"win{n}") for n in range(5)))
    world.run()
    history = History()
    for stream, event, at in world.log:
        history.now = at
        history.say("recovery", stream, event)
    nodes = history.model().tables["prep_nodes"].values()
    assert {(n.node, n.power, n.in_use) for n in nodes} == {
        ("prep1", "off", 0),
        ("prep2", "off", 0),
    }
    assert world.event(recovery.RecoveryFinished).ready == 5
