"""Which ready effects a claim grants, and which lanes it has to read for that. Pure.

A *lane* is all effects of one service, kind, class, priority, plan and set of budgets: a claim
may treat them alike, so what is blocked is skipped as a whole. Decides the order (class, then
priority, then plans in turn, then due) and the spending of budgets; owns no rows and no clock.

Plans take turns (round robin: the plan served longest ago is next; every effect counts the
same, so this is deficit round robin without a deficit to carry). A plan whose work is blocked
loses its place to nobody and gains nothing.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

PASSES_MAX: Final = 20
"""Passed over so often, work that needs several budgets may keep those that have room …"""

RESERVE_S: Final = 2.0
"""… for at most so long."""

DEPTH_MAX: Final = 256
_ROOM: Final = 1 - 1e-9  # a bucket's token may be a rounding error short of whole

Group = tuple[int, int, str]
"""Class, priority as it counts now, plan: effects of one group go by due."""


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """What all effects of a lane share. `seats` are those of `budgets` that are seats."""

    lane_id: int
    service: str
    kind: str
    work_class: int
    priority: int
    plan: str
    interval_s: float
    budgets: tuple[int, ...]
    seats: frozenset[int]


class Head(NamedTuple):
    """A ready effect at the head of its lane; due in seconds. Stream only where seats matter."""

    due: float
    effect_id: str
    stream: str


class Heads(msgspec.Struct, frozen=True):
    """The first effects of a lane in order of due. `whole`: there are no others behind them."""

    lane: Lane
    mine: bool
    heads: Sequence[Head]
    whole: bool


class Reading(msgspec.Struct, frozen=True):
    """The lanes a claim has to read: open ones, each with how many effects at most; lanes that
    are blocked by nothing but seats, where only streams that sit already can go on; and blocked
    lanes that could keep the room some of their budgets have."""

    lanes: Sequence[tuple[Lane, int]]
    seat_lanes: Sequence[Lane]
    blocked: Sequence[Lane]


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """What to write. `cut`: the order ended before the work did (count or depth reached)."""

    granted: Sequence[tuple[str, Lane]]
    units: Mapping[int, int]
    seats: Sequence[tuple[int, str]]
    turns: Mapping[Group, int]
    passed: frozenset[int]
    cut: bool


NOTHING: Final = Selection(granted=(), units={}, seats=(), turns={}, passed=frozenset(), cut=False)


def choose_lanes(
    lanes: Iterable[Lane],
    rooms: Mapping[int, float],
    *,
    service: str,
    kinds: Collection[str],
    shadows: Collection[tuple[str, str]],
) -> Reading:
    """The lanes that may have something to grant, or that stand before those that may.

    `shadows` are the (service, kind) other living workers wait for: their lanes take part where
    they want a budget of ours, so that a budget goes to whoever is first in the common order.
    Nothing is read where nothing of ours is open.
    """
    full = {budget for budget, room in rooms.items() if room < _ROOM}
    ours: list[Lane] = []
    theirs: list[Lane] = []
    for lane in lanes:
        if lane.service == service and lane.kind in kinds:
            ours.append(lane)
        elif shadows and (lane.service, lane.kind) in shadows:
            theirs.append(lane)
    reading = _sorted_by_state(ours, rooms, full)
    if theirs and (reading.lanes or reading.seat_lanes):
        wanted = {budget for lane in ours for budget in lane.budgets}
        rivals = [lane for lane in theirs if not wanted.isdisjoint(lane.budgets)]
        other = _sorted_by_state(rivals, rooms, full)
        return Reading(
            [*reading.lanes, *other.lanes],
            [*reading.seat_lanes, *other.seat_lanes],
            [*reading.blocked, *other.blocked],
        )
    return reading if reading.lanes or reading.seat_lanes else Reading((), (), ())


def _sorted_by_state(lanes: Iterable[Lane], rooms: Mapping[int, float], full: set[int]) -> Reading:
    open_: list[tuple[Lane, int]] = []
    seats: list[Lane] = []
    partly: list[Lane] = []
    for lane in lanes:
        if full.isdisjoint(lane.budgets):
            open_.append((lane, _most_of(lane, rooms)))
        elif lane.seats and lane.seats.issuperset(full.intersection(lane.budgets)):
            seats.append(lane)
        elif not full.issuperset(lane.budgets):
            partly.append(lane)
    return Reading(open_, seats, partly)


def _most_of(lane: Lane, rooms: Mapping[int, float]) -> int:
    """No more effects can be granted than the narrowest budget has room for. Where seats may run
    out before that, streams without one are passed over, and those that sit may stand behind."""
    most: float = DEPTH_MAX
    for budget in lane.budgets:
        if rooms[budget] < most and budget not in lane.seats:
            most = rooms[budget]
    if any(rooms[budget] < most for budget in lane.seats):
        return DEPTH_MAX
    return math.floor(most + 1 - _ROOM)


def groups_of(reading: Reading) -> list[Group]:
    """The groups whose last turns a claim needs: none where no two plans meet."""
    plans: dict[tuple[int, int], set[str]] = {}
    for lane in [*(lane for lane, _ in reading.lanes), *reading.seat_lanes]:
        plans.setdefault((lane.work_class, lane.priority), set()).add(lane.plan)
        if lane.interval_s > 0:
            plans.setdefault((lane.work_class, lane.priority - 1), set()).add(lane.plan)
    return [
        (work_class, priority, plan)
        for (work_class, priority), names in plans.items()
        if len(names) > 1
        for plan in names
    ]


class _Run:
    """Effects of one lane that cost the same and stand in one group, in order of due.

    `order` is where each stands among all that were read of the lane.
    """

    __slots__ = ("heads", "lane", "mine", "needs", "order", "place", "whole")

    def __init__(
        self,
        lane: Lane,
        mine: bool,
        needs: tuple[int, ...],
        heads: Sequence[Head],
        order: Sequence[int],
        whole: bool,
    ) -> None:
        self.lane = lane
        self.mine = mine
        self.needs = needs
        self.heads = heads
        self.order = order
        self.whole = whole
        self.place = 0


_Queue = list[tuple[float, int, int, int, _Run]]
"""Due, lane, place in the lane, a number of the run's own, run."""

_BEHIND: Final = 1 << 32
"""Place of effects that were not read: those due at the same moment that were go first."""


def select(
    lanes: Sequence[Heads],
    rooms: Mapping[int, float],
    *,
    held: Mapping[str, frozenset[int]],
    turns: Mapping[Group, int],
    reserved: Collection[int],
    now: float,
    count_max: int,
) -> Selection:
    """Grant at most `count_max` effects in the common order, never past a budget's room.

    `held` are the seats each stream has, `turns` the last turn of the groups where plans meet.
    A blocked lane is passed; a *reserved* one then keeps what room its budgets have. Where a
    lane's further effects were not read, the selection ends when it comes to them.
    """
    selecting = _Selecting(rooms, turns, reserved, now, count_max)
    groups: dict[tuple[int, int], dict[str, list[_Run]]] = {}
    for lane_heads in lanes:
        for priority, run in _runs_of(lane_heads, held, now):
            plans = groups.setdefault((run.lane.work_class, priority), {})
            plans.setdefault(run.lane.plan, []).append(run)
    for (work_class, priority), plans in sorted(groups.items(), key=lambda item: item[0]):
        if not selecting.serve(work_class, priority, plans):
            break
    return selecting.selection()


def _runs_of(
    lane_heads: Heads, held: Mapping[str, frozenset[int]], now: float
) -> Iterable[tuple[int, _Run]]:
    """Split a lane at the age where its effects rise by one priority, and by the seats held."""
    lane = lane_heads.lane
    if not lane.seats and (
        lane.interval_s <= 0 or lane_heads.heads[0].due >= now - lane.interval_s
    ):
        yield (
            lane.priority,
            _Run(
                lane,
                lane_heads.mine,
                lane.budgets,
                lane_heads.heads,
                range(len(lane_heads.heads)),
                lane_heads.whole,
            ),
        )
        return
    parts: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    aged_before = now - lane.interval_s if lane.interval_s > 0 else -math.inf
    for place, head in enumerate(lane_heads.heads):
        needs = lane.budgets
        if lane.seats and (sitting := held.get(head.stream)):
            needs = tuple(budget for budget in needs if budget not in sitting)
        priority = lane.priority - 1 if head.due < aged_before else lane.priority
        parts.setdefault((priority, needs), []).append(place)
    # Effects that were not read are no older than the last one that was: where that one has not
    # risen, all that have are here.
    all_aged_read = bool(lane_heads.heads) and lane_heads.heads[-1].due >= aged_before
    for (priority, needs), order in parts.items():
        whole = lane_heads.whole or (all_aged_read and priority < lane.priority)
        heads = [lane_heads.heads[place] for place in order]
        yield priority, _Run(lane, lane_heads.mine, needs, heads, order, whole)


class _Selecting:
    """The state of one selection: rooms as they shrink, and what has been granted."""

    def __init__(
        self,
        rooms: Mapping[int, float],
        turns: Mapping[Group, int],
        reserved: Collection[int],
        now: float,
        count_max: int,
    ) -> None:
        self._rooms = dict(rooms)
        self._turns = turns
        self._reserved = reserved
        self._turn = max(int(now * 1e6), *turns.values()) if turns else int(now * 1e6)
        self._count_max = count_max
        self._granted: list[tuple[str, Lane]] = []
        self._units: dict[int, int] = {}
        self._seats: list[tuple[int, str]] = []
        self._seated: set[tuple[int, str]] = set()
        self._supposed: set[tuple[int, str]] = set()
        self._taken_turns: dict[Group, int] = {}
        self._waiting: dict[int, set[int]] = {}
        self._passed: set[int] = set()
        self._cut = False

    def selection(self) -> Selection:
        return Selection(
            granted=self._granted,
            units=self._units,
            seats=self._seats,
            turns=self._taken_turns,
            passed=frozenset(self._passed),
            cut=self._cut,
        )

    def serve(self, work_class: int, priority: int, plans: Mapping[str, Sequence[_Run]]) -> bool:
        """Give the plans their turns until nothing is left; False if the order ends here."""
        queues: dict[str, _Queue] = {}
        ring: list[tuple[int, float, str]] = []
        for plan, runs in plans.items():
            queue = [
                (run.heads[0].due, run.lane.lane_id, run.order[0], number, run)
                for number, run in enumerate(runs)
            ]
            heapq.heapify(queue)
            queues[plan] = queue
            ring.append((self._turns.get((work_class, priority, plan), 0), queue[0][0], plan))
        heapq.heapify(ring)
        while ring:
            turn, due, plan = ring[0]
            queue = queues[plan]
            self._strip(queue)
            if not queue:
                heapq.heappop(ring)
            elif queue[0][0] > due:
                # What made the plan come so early is blocked and counts for nothing.
                heapq.heapreplace(ring, (turn, queue[0][0], plan))
            elif not self._grant_first(run := queue[0][4], queue):
                return False
            else:
                self._turn += 1
                if run.mine and (work_class, priority, plan) in self._turns:
                    self._taken_turns[work_class, priority, plan] = self._turn
                heapq.heapreplace(ring, (self._turn, queue[0][0], plan))
        return True

    def _strip(self, queue: _Queue) -> None:
        """Take away what is blocked or at its end, until the first can be granted."""
        while queue:
            run = queue[0][4]
            if self._blocked(run):
                self._wait(run)
            elif run.place < len(run.heads) or not run.whole:
                return
            heapq.heappop(queue)

    def _grant_first(self, run: _Run, queue: _Queue) -> bool:
        """Grant the plan's first effect; False if it was not read, or enough is granted."""
        _, lane_id, _, number, _ = queue[0]
        if run.place == len(run.heads) or (run.mine and len(self._granted) == self._count_max):
            self._cut = True
            return False
        self._grant(run, run.heads[run.place])
        run.place += 1
        if run.place < len(run.heads):
            due, order = run.heads[run.place].due, run.order[run.place]
        else:
            # Behind the last one read may stand others, due no earlier than it.
            due, order = run.heads[-1].due, _BEHIND
        heapq.heapreplace(queue, (due, lane_id, order, number, run))
        return True

    def _blocked(self, run: _Run) -> bool:
        rooms = self._rooms
        return any(rooms.get(budget, 0) < _ROOM for budget in run.needs)

    def _wait(self, run: _Run) -> None:
        """Remember blocked work that another budget could be kept for, or keep it now."""
        if run.place == len(run.heads):
            return
        rooms = self._rooms
        free = [budget for budget in run.needs if rooms.get(budget, 0) >= _ROOM]
        if not free:
            return
        if run.lane.lane_id in self._reserved:
            for budget in free:
                rooms[budget] -= 1
        else:
            for budget in run.needs:
                self._waiting.setdefault(budget, set()).add(run.lane.lane_id)

    def _grant(self, run: _Run, head: Head) -> None:
        for budget in run.needs:
            if budget in run.lane.seats and not self._sit(budget, head.stream, mine=run.mine):
                continue
            self._rooms[budget] -= 1
            if run.mine:
                self._units[budget] = self._units.get(budget, 0) + 1
                if budget in self._waiting:
                    self._passed |= self._waiting[budget]
        if run.mine:
            self._granted.append((head.effect_id, run.lane))

    def _sit(self, budget: int, stream: str, *, mine: bool) -> bool:
        """Whether the stream has to take a seat. One that is only supposed (a shadow's) does not
        spare our own effect its seat, as nobody writes it."""
        seat = (budget, stream)
        if seat in self._seated or (not mine and seat in self._supposed):
            return False
        if mine:
            self._seated.add(seat)
            self._seats.append(seat)
        else:
            self._supposed.add(seat)
        return True


class Patience:
    """Counts how often blocked lanes were passed over, and says which may reserve now.

    Kept by each claiming process for itself: writing the counts would cost more than the rare
    reservation that comes later because two processes share the passing.
    """

    def __init__(self) -> None:
        self._passes: dict[int, int] = {}

    def note(self, selection: Selection) -> list[int]:
        """Count one claim; gives the lanes that have now waited long enough to reserve."""
        for _, lane in selection.granted:
            self._passes.pop(lane.lane_id, None)
        patient: list[int] = []
        for lane_id in sorted(selection.passed):
            self._passes[lane_id] = self._passes.get(lane_id, 0) + 1
            if self._passes[lane_id] >= PASSES_MAX:
                del self._passes[lane_id]
                patient.append(lane_id)
        return patient
