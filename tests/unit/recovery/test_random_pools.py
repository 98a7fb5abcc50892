"""Random histories of a prep pool: whatever happens to nodes, calls and members, none stays on.

Every state takes its stored form between two messages, as after a crash, and every message comes
twice at times.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import prep as said
from schemas import recovery_work as work
from shared.decider import Effect
from tests.unit.recovery.world import SITE, World

POOL = "prep-pool:west"
NAMES = ("a", "b", "c")
PLANS = ("shop", "farm")


class Site(World):
    """A pool over nodes whose true power is known here and nowhere else."""

    def __init__(self, seats: dict[str, int]) -> None:
        super().__init__()
        self.seats = seats
        self.on: set[str] = set()
        self.needs: dict[str, str] = {}

    def asked(self, effect_id: str, effect: Effect) -> None:
        if effect.kind == "power-off-node":
            state = self.states[POOL]
            sitting = [m for m in state.members.values() if m.node == effect.payload.node]
            assert not sitting, f"{effect.payload.node} is powered off under {sitting}"

    def take(self, stream: str, need: str) -> said.TakeSeat:
        self.needs[stream] = need
        order = int(stream[-1]) + 1
        return said.TakeSeat(site=SITE, stream=stream, ready=need == "now", boot_order=order)

    def leave(self, stream: str) -> said.LeaveSeat:
        del self.needs[stream]
        return said.LeaveSeat(site="west", stream=stream)

    def hear(self) -> None:
        """What the pool tells the members: a refused one needs nothing more."""
        for queue in self.queues.values():
            while queue:
                message = queue.popleft()
                if isinstance(message, said.SeatRefused):
                    self.needs.pop(message.stream, None)
                    continue
                assert self.needs.get(message.stream) == "now", "only who needs it now gets one"
                assert message.node in self.on, "a seat is on a node that is on"

    def check(self) -> None:
        """At any moment, none has more at work than seats, and who sits needs it."""
        members = self.state(POOL).members
        assert set(members) == set(self.needs)
        for name in NAMES:
            sitting = [m for m in members.values() if m.node == name]
            assert len(sitting) <= self.seats.get(name, 0) or name not in self.seats

    def answer_one(self, effect_id: str, way: str) -> None:
        """End an effect: `way` is ok, failed or cancelled; of the latter the half did its work."""
        effect = self.effects[effect_id]
        if effect.kind == "list-prep-nodes":
            nodes = tuple(
                said.ListedNode(name=n, seats=s, power="on" if n in self.on else "off")
                for n, s in self.seats.items()
            )
            found = work.PrepNodesFound(nodes=nodes)
            self.settle(effect_id, found, code="" if way == "ok" else "site-gone")
            return
        done, code = {
            "ok": (True, ""),
            "failed": (False, "broken"),
            "failed-done": (True, "timed-out"),
            "cancelled": (False, "cancelled"),
            "cancelled-done": (True, "cancelled"),
        }[way]
        if done:
            node = effect.payload.node
            change = self.on.add if effect.kind == "power-on-node" else self.on.discard
            change(node)
        self.settle(effect_id, code=code)


def ways(site: Site, effect_id: str) -> list[str]:
    if effect_id in site.asked_to_stop:
        return ["ok", "cancelled", "cancelled-done"]
    return ["ok", "ok", "ok", "failed", "failed-done"]


def move(draw: Any, site: Site) -> None:
    """One thing that may happen."""
    streams = [f"vm-recovery:{plan}:r:win{n}" for plan in PLANS for n in range(3)]
    soon = [s for s, need in site.needs.items() if need == "soon"]
    choices = ["take", *(["ready"] if soon else []), *(["leave"] if site.needs else [])]
    choices += ["effect"] * (2 if site.effects else 0) + ["drain", "seats"]
    choice = draw(st.sampled_from(choices))
    if choice == "effect":
        effect_id = draw(st.sampled_from(sorted(site.effects)))
        site.answer_one(effect_id, draw(st.sampled_from(ways(site, effect_id))))
        return
    if choice == "seats":
        names = draw(st.sets(st.sampled_from(NAMES)))
        site.seats = {name: site.seats.get(name, 2) for name in sorted(names)}
        return
    message: Any
    if choice == "take":
        free = [s for s in streams if s not in site.needs]
        if not free:
            return
        message = site.take(draw(st.sampled_from(free)), draw(st.sampled_from(("soon", "now"))))
    elif choice == "ready":
        message = site.take(draw(st.sampled_from(soon)), "now")
    elif choice == "leave":
        message = site.leave(draw(st.sampled_from(sorted(site.needs))))
    else:
        node, drained = draw(st.sampled_from(NAMES)), draw(st.booleans())
        message = said.DrainNode(command_id="c", site="west", node=node, drained=drained)
    for _ in range(1 + draw(st.booleans())):
        site.deliver(message)


def all_leave(site: Site) -> None:
    for stream in list(site.needs):
        site.deliver(site.leave(stream))
        site.hear()


def settle_all(site: Site) -> None:
    """Everything works from now on."""
    for _ in range(1_000):
        site.hear()
        if not site.effects:
            return
        effect_id = next(iter(site.effects))
        site.answer_one(effect_id, "ok")
    raise AssertionError("the pool does not come to rest")


@settings(max_examples=100)
@given(st.data(), st.dictionaries(st.sampled_from(NAMES), st.integers(1, 2), max_size=3))
def test_in_every_history_no_node_is_on_once_nobody_needs_one(
    data: Any, seats: dict[str, int]
) -> None:
    site = Site(seats)
    for _ in range(data.draw(st.integers(0, 40))):
        move(data.draw, site)
        site.hear()
        site.check()
    all_leave(site)
    settle_all(site)
    assert site.on == set()
    assert all(node.power == "off" for node in site.state(POOL).nodes.values())


@settings(max_examples=50)
@given(st.data(), st.dictionaries(st.sampled_from(NAMES), st.integers(1, 2), min_size=1))
def test_where_calls_succeed_everybody_gets_a_seat_in_turn(
    data: Any, seats: dict[str, int]
) -> None:
    site = Site(seats)
    for _ in range(data.draw(st.integers(1, 30))):
        move(data.draw, site)
        site.hear()
    site.seats = seats
    all_leave(site)
    for name in NAMES:
        drained = said.DrainNode(command_id="c", site="west", node=name, drained=False)
        site.deliver(drained)
    settle_all(site)
    expected = {f"vm-recovery:shop:r:win{n}" for n in range(5)}
    served: set[str] = set()
    for stream in sorted(expected):
        site.deliver(site.take(stream, "now"))
    while site.needs:
        settle_all(site)
        sitting = [m.stream for m in site.state(POOL).members.values() if m.node]
        assert sitting, "somebody waits for ever"
        served.add(sitting[0])
        site.deliver(site.leave(sitting[0]))
    assert served == expected
