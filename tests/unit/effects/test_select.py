"""Properties of the choice a claim makes: in the one order, never past a budget."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.effects.select import (
    DEPTH_MAX,
    PASSES_MAX,
    Head,
    Heads,
    Lane,
    Patience,
    Selection,
    choose_lanes,
    groups_of,
    select,
)

NOW = 1_000.0
BUDGETS = 5
MANY = settings(max_examples=150, deadline=None)  # few examples hold a meaningful clash
SEAT = 4  # the last budget is for seats


class Work(msgspec.Struct, frozen=True):
    """All ready effects of some lanes, and how the budgets stand."""

    lanes: dict[Lane, list[Head]]
    rooms: dict[int, float]
    held: dict[str, frozenset[int]]
    theirs: frozenset[int]


@st.composite
def works(draw: st.DrawFn) -> Work:
    rooms = {budget: draw(st.integers(-1, 4)) for budget in range(BUDGETS)}
    theirs = frozenset(draw(st.sets(st.integers(0, 5), max_size=2)))
    lanes: dict[Lane, list[Head]] = {}
    for lane_id in range(draw(st.integers(1, 6))):
        budgets = tuple(sorted(draw(st.sets(st.integers(0, BUDGETS - 1), max_size=3))))
        lane = Lane(
            lane_id=lane_id, service="ours", kind="copy", work_class=draw(st.integers(0, 2)),
            priority=draw(st.integers(1, 3)), plan=draw(st.sampled_from("ab")),
            interval_s=draw(st.sampled_from([0, 60])), budgets=budgets,
            seats=frozenset({SEAT} & set(budgets)),
        )  # fmt: skip
        dues = draw(st.lists(st.integers(880, 1000), max_size=8))
        streams = "uvw" if lane_id in theirs else "xyz"  # a stream is one service's
        lanes[lane] = [
            Head(float(due), f"{lane_id}.{n}", draw(st.sampled_from(streams)))
            for n, due in enumerate(sorted(dues))
        ]
    held = {stream: frozenset({SEAT}) for stream in draw(st.sets(st.sampled_from("xyz")))}
    return Work(lanes, {b: float(room) for b, room in rooms.items()}, held, theirs)


def run(work: Work, *, count_max: int = 99, depth: int = 99, **given_: Any) -> Selection:
    """Select as a claim does, reading every lane to `depth`."""
    heads = [
        Heads(lane, lane.lane_id not in work.theirs, all_[:depth], len(all_) <= depth)
        for lane, all_ in work.lanes.items()
        if all_
    ]
    arguments: dict[str, Any] = {"turns": {}, "reserved": frozenset(), **given_}
    return select(heads, work.rooms, held=work.held, now=NOW, count_max=count_max, **arguments)


def needs(work: Work, lane: Lane, stream: str) -> set[int]:
    return set(lane.budgets) - work.held.get(stream, frozenset())


def counts_as(lane: Lane, due: float) -> tuple[int, int]:
    risen = lane.interval_s > 0 and due < NOW - lane.interval_s
    return lane.work_class, lane.priority - risen


@MANY
@given(works())
def test_no_budget_is_ever_passed(work: Work) -> None:
    chosen = run(work)
    assert all(units <= work.rooms[budget] for budget, units in chosen.units.items())
    paid: Counter[int] = Counter()
    seated: set[str] = set()
    by_id = {head.effect_id: head for heads in work.lanes.values() for head in heads}
    for effect_id, lane in chosen.granted:
        stream = by_id[effect_id].stream
        wanted = needs(work, lane, stream) - ({SEAT} if stream in seated else set())
        seated |= {stream} if SEAT in wanted else set()
        paid.update(wanted)
    assert dict(paid) == dict(chosen.units)
    assert {stream for _, stream in chosen.seats} == seated


@MANY
@given(works(), st.integers(1, 5))
def test_nothing_is_granted_twice_nor_more_than_asked(work: Work, count_max: int) -> None:
    ids = [effect_id for effect_id, _ in run(work, count_max=count_max).granted]
    assert len(ids) == len(set(ids)) <= count_max


@MANY
@given(works())
def test_class_and_priority_come_in_order(work: Work) -> None:
    dues = {head.effect_id: head.due for heads in work.lanes.values() for head in heads}
    order = [counts_as(lane, dues[effect_id]) for effect_id, lane in run(work).granted]
    assert order == sorted(order)


@MANY
@given(works())
def test_a_lanes_work_is_granted_by_due(work: Work) -> None:
    dues = {head.effect_id: head.due for heads in work.lanes.values() for head in heads}
    seen: dict[tuple[object, ...], float] = {}
    streams = {head.effect_id: head.stream for heads in work.lanes.values() for head in heads}
    for effect_id, lane in run(work).granted:
        key = (lane.lane_id, frozenset(needs(work, lane, streams[effect_id])))
        assert dues[effect_id] >= seen.get(key, 0)
        seen[key] = dues[effect_id]


@MANY
@given(works())
def test_no_ready_work_waits_behind_blocked_work(work: Work) -> None:
    """Without others' work in front, whatever was not granted lacks room after all grants."""
    work = msgspec.structs.replace(work, theirs=frozenset())
    chosen = run(work)
    left = {b: room - chosen.units.get(b, 0) for b, room in work.rooms.items()}
    granted = {effect_id for effect_id, _ in chosen.granted}
    assert not chosen.cut
    for lane, heads in work.lanes.items():
        for head in heads:
            if head.effect_id not in granted:
                assert any(left[budget] < 1 for budget in needs(work, lane, head.stream))


@MANY
@given(works(), st.integers(1, 4))
def test_reading_less_grants_a_beginning_of_the_same_order(work: Work, depth: int) -> None:
    # Who sits already and stands behind the depth is only found by the next claim.
    work = msgspec.structs.replace(work, held={})
    whole, part = run(work).granted, run(work, depth=depth).granted
    assert list(part) == list(whole)[: len(part)]


@MANY
@given(works(), st.integers(1, 4))
def test_asking_for_fewer_grants_a_beginning_of_the_same_order(work: Work, count_max: int) -> None:
    few = run(work, count_max=count_max).granted
    assert list(few) == list(run(work).granted)[:count_max]


@MANY
@given(works())
def test_others_work_is_counted_but_not_granted(work: Work) -> None:
    together = run(msgspec.structs.replace(work, theirs=frozenset())).granted
    chosen = run(work)
    expected = [each for each in together if each[1].lane_id not in work.theirs]
    assert list(chosen.granted) == expected


@MANY
@given(works())
def test_reading_open_lanes_only_grants_the_same(work: Work) -> None:
    """What `choose_lanes` leaves out could not have been granted."""
    mine = [lane for lane in work.lanes if lane.lane_id not in work.theirs]
    work = msgspec.structs.replace(work, theirs=frozenset())
    only = {lane: work.lanes[lane] for lane in mine}
    reading = choose_lanes(
        mine, work.rooms, service="ours", kinds={"copy"}, shadows=()
    )  # fmt: skip
    read: dict[Lane, list[Head]] = {lane: only[lane][:depth] for lane, depth in reading.lanes}
    for lane in reading.seat_lanes:
        read[lane] = [head for head in only[lane] if head.stream in work.held]
    everything = run(msgspec.structs.replace(work, lanes=only)).granted
    assert run(msgspec.structs.replace(work, lanes=read)).granted == everything


def test_of_equal_due_they_go_as_they_stand_in_their_lane_whoever_sits() -> None:
    only = msgspec.structs.replace(lane(0, 0, 1), seats=frozenset({1}))
    heads = [Head(880.0, str(n), stream) for n, stream in enumerate("xxyx")]
    work = Work({only: heads}, {0: 3.0, 1: 1.0}, {"x": frozenset({1})}, frozenset())
    assert [effect_id for effect_id, _ in run(work).granted] == ["0", "1", "2"]
    assert run(work, depth=3).granted == run(work).granted


def test_who_sits_is_read_behind_those_for_whom_no_seat_is_left() -> None:
    only = msgspec.structs.replace(lane(0, 0, 1), seats=frozenset({1}))
    (found,) = choose_lanes(
        [only], {0: 3.0, 1: 1.0}, service="ours", kinds={"copy"}, shadows=()
    ).lanes
    assert found == (only, DEPTH_MAX)
    (found,) = choose_lanes(
        [only], {0: 3.0, 1: 3.0}, service="ours", kinds={"copy"}, shadows=()
    ).lanes
    assert found == (only, 3)


def lane(
    lane_id: int, *budgets: int, plan: str = "a", service: str = "ours", priority: int = 3
) -> Lane:
    return Lane(
        lane_id=lane_id, service=service, kind="copy", work_class=2, priority=priority, plan=plan,
        interval_s=0, budgets=budgets, seats=frozenset(),
    )  # fmt: skip


def test_the_plan_served_longest_ago_goes_first() -> None:
    lanes = {lane(n, 0, plan=plan): [Head(float(n), plan, "")] for n, plan in enumerate("abc")}
    turns = {(2, 3, "a"): 30, (2, 3, "b"): 10, (2, 3, "c"): 20}
    work = Work(lanes, {0: 2.0}, {}, frozenset())
    chosen = run(work, turns=turns)
    assert [effect_id for effect_id, _ in chosen.granted] == ["b", "c"]
    assert chosen.turns[2, 3, "b"] < chosen.turns[2, 3, "c"]
    assert min(chosen.turns.values()) > NOW * 1e6


def test_others_work_takes_no_turn() -> None:
    lanes = {lane(n, 0, plan=plan): [Head(float(n), plan, "")] for n, plan in enumerate("ab")}
    chosen = run(Work(lanes, {0: 2.0}, {}, frozenset({0})), turns={(2, 3, "a"): 0, (2, 3, "b"): 0})
    assert chosen.turns.keys() == {(2, 3, "b")}


def test_turns_are_read_only_where_plans_meet() -> None:
    reading = choose_lanes(
        [lane(0, plan="a"), lane(1, plan="b"), lane(2, plan="a", priority=1)], {},
        service="ours", kinds={"copy"}, shadows=(),
    )  # fmt: skip
    assert sorted(groups_of(reading)) == [(2, 3, "a"), (2, 3, "b")]


def test_reserved_work_keeps_the_room_its_budgets_have() -> None:
    both, single = lane(0, 0, 1), lane(1, 0)
    work = Work(
        {both: [Head(0.0, "both", "")], single: [Head(1.0, "single", "")]},
        {0: 1.0, 1: 0.0}, {}, frozenset(),
    )  # fmt: skip
    assert [id_ for id_, _ in run(work).granted] == ["single"]
    assert run(work).passed == {0}
    reserved = run(work, reserved=frozenset({0}))
    assert (reserved.granted, reserved.units) == ([], {})


def test_a_reservation_holds_up_nothing_in_front_of_it() -> None:
    both, first = lane(0, 0, 1), lane(1, 0, priority=1)
    work = Work(
        {both: [Head(0.0, "both", "")], first: [Head(9.0, "first", "")]},
        {0: 1.0, 1: 0.0}, {}, frozenset(),
    )  # fmt: skip
    assert [id_ for id_, _ in run(work, reserved=frozenset({0})).granted] == ["first"]


def test_patience_ends_after_twenty_passes_and_begins_again() -> None:
    patience = Patience()
    passed = Selection(granted=(), units={}, seats=(), turns={}, passed=frozenset({7}), cut=False)
    noted = [patience.note(passed) for _ in range(2 * PASSES_MAX)]
    assert [n + 1 for n, lanes in enumerate(noted) if lanes] == [PASSES_MAX, 2 * PASSES_MAX]


def test_being_granted_ends_the_count() -> None:
    patience, waiting = Patience(), lane(7, 0, 1)
    passed = Selection(granted=(), units={}, seats=(), turns={}, passed=frozenset({7}), cut=False)
    for _ in range(PASSES_MAX - 1):
        patience.note(passed)
    patience.note(msgspec.structs.replace(passed, granted=[("x", waiting)], passed=frozenset()))
    assert patience.note(passed) == []


def test_only_others_that_want_a_budget_of_ours_take_part() -> None:
    rivals = lane(1, 0, service="theirs")
    stranger = lane(2, 3, service="theirs")
    reading = choose_lanes(
        [lane(0, 0), rivals, stranger], {0: 1.0, 3: 1.0}, service="ours", kinds={"copy"},
        shadows={("theirs", "copy")},
    )  # fmt: skip
    assert [each.lane_id for each, _ in reading.lanes] == [0, 1]


def test_nothing_is_read_where_nothing_of_ours_is_open() -> None:
    reading = choose_lanes(
        [lane(0, 0), lane(1, 0, 1), lane(2, 1, service="theirs")], {0: 0.0, 1: 5.0},
        service="ours", kinds={"copy"}, shadows={("theirs", "copy")},
    )  # fmt: skip
    assert (list(reading.lanes), list(reading.seat_lanes), list(reading.blocked)) == ([], [], [])
