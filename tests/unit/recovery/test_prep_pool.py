"""The prep nodes of a site: on for whoever needs them, seats in order, off when nobody does."""

from __future__ import annotations

import datetime as dt
from typing import Any

from schemas import prep as said
from schemas import recovery_work as work
from schemas.envelope import Meta, Received
from services.recovery.domain import prep_pool
from services.recovery.domain.prep_state import PrepPool, evolve
from shared.decider import Need, Story
from shared.testing.spec import ok, received
from tests.failures import failure_mode
from tests.unit.recovery.world import NODES, SITE, World

POOL = "prep-pool:west"
LOOK = f"{POOL}/look/1"
ONE = NODES[:1]


def stream(name: str) -> str:
    return f"vm-recovery:shop:r1:{name}"


def take(world: World, name: str, *, ready: bool = True, **fields: Any) -> None:
    world.deliver(said.TakeSeat(site=SITE, stream=stream(name), ready=ready, **fields))


def leave(world: World, name: str) -> None:
    world.deliver(said.LeaveSeat(site="west", stream=stream(name)))


def listed(world: World, nodes: Any = ONE) -> None:
    state = world.state(POOL)
    world.settle(f"{POOL}/look/{state.looks}", work.PrepNodesFound(nodes=nodes))


def up(*names: str, nodes: Any = ONE) -> World:
    """A pool whose first node is on for these."""
    world = World()
    for name in names:
        take(world, name)
    listed(world, nodes)
    world.settle(f"{POOL}/on/prep1/1")
    return world


def seated(world: World) -> dict[str, str]:
    return {m.stream.rpartition(":")[2]: m.node for m in world.state(POOL).members.values()}


def told(world: World, kind: type) -> list[Any]:
    return [message for message in world.queues["shop"] if isinstance(message, kind)]


def parts(world: World) -> list[str]:
    return sorted(effect.partition("/")[2] for effect in world.effects)


# ── on and off ───────────────────────────────────────────────────────────────────────────────


def test_nothing_is_asked_of_a_site_until_somebody_needs_a_node() -> None:
    assert prep_pool.FAMILY.initial() == PrepPool()


def test_the_first_who_needs_a_node_has_them_listed_and_one_powered_on() -> None:
    world = World()
    take(world, "win1")
    assert parts(world) == ["look/1"]
    listed(world, NODES)
    assert parts(world) == ["on/prep1/1"]
    assert seated(world) == {"win1": ""}


def test_a_seat_is_given_only_once_the_node_is_on() -> None:
    world = up("win1")
    assert [(m.stream, m.node) for m in told(world, said.SeatGranted)] == [
        (stream("win1"), "prep1")
    ]


def test_a_node_comes_up_while_disks_are_rebuilt_and_no_seat_is_lost_to_who_is_not_ready() -> None:
    world = World()
    take(world, "win1", ready=False)
    listed(world)
    world.settle(f"{POOL}/on/prep1/1")
    assert seated(world) == {"win1": ""} and not told(world, said.SeatGranted)
    take(world, "win1", ready=True)
    assert seated(world) == {"win1": "prep1"}


def test_the_node_goes_off_when_the_last_one_leaves() -> None:
    world = up("win1", "win2")
    leave(world, "win1")
    assert parts(world) == []
    leave(world, "win2")
    assert parts(world) == ["off/prep1/2"]
    world.settle(f"{POOL}/off/prep1/2")
    assert parts(world) == []
    assert world.state(POOL).nodes["prep1"].power == "off"


def test_a_node_that_still_boots_when_nobody_needs_it_is_stopped_and_powered_off() -> None:
    world = World()
    take(world, "win1")
    listed(world)
    leave(world, "win1")
    assert world.asked_to_stop == {f"{POOL}/on/prep1/1"}
    world.settle(f"{POOL}/on/prep1/1", code="cancelled")
    # Whether it came on nobody can say: it is powered off in any case.
    assert parts(world) == ["off/prep1/2"]


def test_a_node_that_goes_off_when_it_is_needed_again_is_powered_on_again() -> None:
    world = up("win1")
    leave(world, "win1")
    take(world, "win2")
    listed(world)
    assert world.asked_to_stop == {f"{POOL}/off/prep1/2"}
    world.settle(f"{POOL}/off/prep1/2", code="cancelled")
    assert parts(world) == ["on/prep1/3"]
    world.settle(f"{POOL}/on/prep1/3")
    assert seated(world) == {"win2": "prep1"}


def test_a_node_that_the_site_shows_as_on_is_used_as_it_is_and_powered_off_after() -> None:
    world = World()
    take(world, "win1")
    listed(world, (said.ListedNode(name="prep1", seats=2, power="on"),))
    assert seated(world) == {"win1": "prep1"} and parts(world) == []
    leave(world, "win1")
    assert parts(world) == ["off/prep1/1"]


def test_nodes_are_listed_anew_when_the_pool_begins_anew() -> None:
    world = up("win1")
    leave(world, "win1")
    world.settle(f"{POOL}/off/prep1/2")
    take(world, "win2")
    assert parts(world) == ["look/2"]
    listed(world, (said.ListedNode(name="new", seats=1),))
    assert parts(world) == ["on/new/1"]


def test_powering_spends_the_quotas_of_instances() -> None:
    world = World()
    take(world, "win1")
    assert world.effects[LOOK].needs == (Need(budget="west/DescribeInstances", mode="rate"),)
    listed(world)
    on = world.effects[f"{POOL}/on/prep1/1"]
    assert on.needs == (Need(budget="west/StartInstances", mode="rate"),)
    assert (on.kind, on.payload.node) == ("power-on-node", "prep1")


# ── seats ────────────────────────────────────────────────────────────────────────────────────


def test_as_many_nodes_are_on_as_those_who_need_them_fill() -> None:
    world = World()
    for number in range(3):
        take(world, f"win{number}")
    listed(world, NODES)
    assert parts(world) == ["on/prep1/1", "on/prep2/1"]


def test_more_than_all_seats_wait_and_each_that_becomes_free_goes_to_the_next() -> None:
    world = up("win1", "win2", "win3")
    assert seated(world) == {"win1": "prep1", "win2": "prep1", "win3": ""}
    leave(world, "win1")
    assert seated(world) == {"win2": "prep1", "win3": "prep1"}


def test_seats_go_by_priority_then_boot_order_then_by_who_asked_first() -> None:
    world = World()
    one = (said.ListedNode(name="prep1", seats=1),)
    take(world, "late", boot_order=2)
    take(world, "early", boot_order=1)
    take(world, "second", boot_order=1)
    take(world, "urgent", boot_order=9, priority=1)
    listed(world, one)
    world.settle(f"{POOL}/on/prep1/1")
    order = []
    while names := [name for name, node in seated(world).items() if node]:
        order += names
        leave(world, names[0])
    assert order == ["urgent", "early", "second", "late"]


def test_a_second_node_goes_off_while_the_first_still_works() -> None:
    world = World()
    for number in range(3):
        take(world, f"win{number}")
    listed(world, NODES)
    world.settle(f"{POOL}/on/prep1/1")
    world.settle(f"{POOL}/on/prep2/1")
    assert seated(world) == {"win0": "prep1", "win1": "prep1", "win2": "prep2"}
    leave(world, "win2")
    assert parts(world) == ["off/prep2/2"]


def test_recoveries_of_several_plans_share_the_nodes_and_each_hears_in_its_own_story() -> None:
    state = PrepPool()
    now = World().now
    for plan in ("a", "b"):
        body = said.TakeSeat(site=SITE, stream=f"vm-recovery:{plan}:r:win", ready=True)
        meta = Meta(occurred_at=now, correlation_id=f"command-{plan}", traceparent=f"t-{plan}")
        for event in prep_pool.take(state, Received(body=body, meta=meta, at=now)).events:
            state = evolve(state, event)
    node = said.ListedNode(name="prep1", seats=2, power="on")
    found = said.PrepNodesListed(look=1, nodes=(node,))
    sends = prep_pool._step(state, found, now).sends
    assert [(send.key, send.story) for send in sends] == [
        ("a", Story(correlation_id="command-a", traceparent="t-a")),
        ("b", Story(correlation_id="command-b", traceparent="t-b")),
    ]


def test_asking_or_leaving_twice_changes_nothing() -> None:
    world = up("win1")
    before = len(world.log)
    take(world, "win1")
    leave(world, "win9")
    assert len(world.log) == before


# ── what fails ───────────────────────────────────────────────────────────────────────────────


@failure_mode(
    "Prep node",
    "dead",
    sees="`prepare-windows` of each Windows VM fails with the site's own reason, and the VM with "
    "it; the node is powered off all the same; another node takes its work where there is one",
    does="give the site a node that comes on; `seawall node undrain NAME` or the next recovery "
    "tries it again",
)
def test_when_no_node_comes_on_whoever_waits_is_refused_and_the_node_is_powered_off() -> None:
    world = World()
    take(world, "win1")
    listed(world)
    world.settle(f"{POOL}/on/prep1/1", code="no-capacity", remedy="free a host")
    (refused,) = told(world, said.SeatRefused)
    assert (refused.problem.code, refused.problem.remedy) == ("no-capacity", "free a host")
    assert seated(world) == {} and parts(world) == ["off/prep1/2"]


def test_a_node_that_does_not_come_on_is_replaced_by_one_that_does() -> None:
    world = World()
    take(world, "win1")
    listed(world, NODES)
    world.settle(f"{POOL}/on/prep1/1", code="no-capacity")
    assert parts(world) == ["off/prep1/2", "on/prep2/1"]
    world.settle(f"{POOL}/on/prep2/1")
    assert seated(world) == {"win1": "prep2"}


def test_a_site_without_nodes_refuses_with_a_remedy() -> None:
    world = World()
    take(world, "win1")
    listed(world, ())
    (refused,) = told(world, said.SeatRefused)
    assert refused.problem.code == "no-prep-node" and refused.problem.remedy


@failure_mode(
    "Prep node",
    "cut off",
    sees="where the site cannot list its prep nodes, after four tries: `prepare-windows` of each "
    "Windows VM that waits fails with the site's reason; VMs that a node works on go on",
    does="`seawall site check`; bring the site back and recover those VMs again: the next VM that "
    "needs a node has them listed anew",
)
def test_a_site_that_does_not_answer_refuses_and_is_asked_again_for_the_next() -> None:
    world = World()
    take(world, "win1")
    world.settle(LOOK, code="site-gone")
    assert [m.problem.code for m in told(world, said.SeatRefused)] == ["site-gone"]
    take(world, "win2")
    listed(world)
    assert parts(world) == ["on/prep1/1"]


@failure_mode(
    "Prep node",
    "lying",
    sees="an alert *prep-node-left* after three tries; powering off goes on, every 10 min at the "
    "least, and recoveries use the node meanwhile",
    does="power it off at the platform; the next try finds it off and closes the alert",
)
def test_a_node_that_does_not_go_off_is_told_to_people_and_tried_without_end() -> None:
    world = up("win1")
    leave(world, "win1")
    off = f"{POOL}/off/prep1/2"
    world.trouble(off)
    troubled = world.event(said.PrepNodeTroubled)
    assert (troubled.site, troubled.node, troubled.attempts) == ("west", "prep1", 3)
    world.settle(off, code="not-permitted")
    again = world.effects[f"{POOL}/off/prep1/3"]
    assert again.not_before == world.now + dt.timedelta(minutes=10)
    world.settle(f"{POOL}/off/prep1/3")
    assert world.state(POOL).nodes["prep1"].power == "off" and parts(world) == []


def test_trouble_with_powering_on_is_not_told_it_ends_by_itself() -> None:
    world = World()
    take(world, "win1")
    listed(world)
    world.trouble(f"{POOL}/on/prep1/1")
    assert not world.events(said.PrepNodeTroubled)


def test_a_node_that_vanished_while_it_was_used_is_powered_off_and_forgotten() -> None:
    world = up("win1")
    leave(world, "win1")
    take(world, "win2")
    listed(world, (said.ListedNode(name="other", seats=1),))
    assert set(world.state(POOL).nodes) == {"prep1", "other"}
    world.settle(f"{POOL}/off/prep1/2")
    leave(world, "win2")
    world.settle(f"{POOL}/on/other/1")
    world.settle(f"{POOL}/off/other/2")
    take(world, "win3")
    listed(world, (said.ListedNode(name="other", seats=1),))
    assert set(world.state(POOL).nodes) == {"other"}


def test_the_end_of_an_earlier_turn_is_not_taken_for_the_present_one() -> None:
    world = up("win1")
    for part in ("on/prep1/7", "look/7", "off/prep1/1"):
        message = received(ok(f"{POOL}/{part}", work.WorkDone()), stream=POOL)
        assert prep_pool.outcome(world.state(POOL), message).events == ()


# ── drain ────────────────────────────────────────────────────────────────────────────────────


def drain(world: World, node: str, *, drained: bool = True) -> None:
    world.deliver(said.DrainNode(command_id="c", site="west", node=node, drained=drained))


def test_a_drained_node_ends_its_work_takes_no_more_and_goes_off() -> None:
    world = up("win1", "win2", nodes=NODES)
    drain(world, "prep1")
    assert parts(world) == []
    take(world, "win3")
    assert parts(world) == ["on/prep2/1"]
    leave(world, "win1")
    leave(world, "win2")
    assert parts(world) == ["off/prep1/2", "on/prep2/1"]


def test_with_every_node_drained_whoever_waits_is_refused_and_told_how_to_go_on() -> None:
    world = World()
    drain(world, "prep1")
    take(world, "win1")
    listed(world)
    (refused,) = told(world, said.SeatRefused)
    assert refused.problem.code == "prep-nodes-drained"
    assert "undrain" in refused.problem.remedy


def test_an_undrained_node_works_again_also_one_that_had_failed() -> None:
    world = up("win1", nodes=NODES)
    for name in ("win2", "win3"):
        take(world, name)
    world.settle(f"{POOL}/on/prep2/1", code="no-capacity")
    world.settle(f"{POOL}/off/prep2/2")
    assert seated(world)["win3"] == ""
    drain(world, "prep2", drained=False)
    assert parts(world) == ["on/prep2/3"]


def test_draining_twice_changes_nothing() -> None:
    world = up("win1")
    drain(world, "prep1")
    drain(world, "prep1")
    assert len(world.events(said.PrepNodeDrained)) == 1
