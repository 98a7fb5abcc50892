"""How a budget follows what its platform allows: bounds, one lowering per burst, convergence."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from shared.decider import OPEN_FROM
from shared.effects.adapt import (
    CALM_S,
    FLOOR_PER_S,
    FORGET_S,
    LOWER_MAX,
    LOWER_MIN,
    OPEN_START_PER_S,
    PAUSE_S,
    PAUSE_S_MAX,
    SLOT_STEP_S,
    Adapted,
    Heard,
    Level,
    adapt,
    concerned,
    depth_of,
    limit_of,
)
from shared.effects.port import Budget
from tests.unit.effects.loop import START, Loop, Server, windows

NOW = 1_000_000.0
RATE = Budget(name="west/Run", mode="rate", burst=100, per_second=20)
SLOTS = Budget(name="west/writes", mode="hold", concurrent=100)


def rate(level: Level, heard: Heard, *, now: float = NOW, used_per_s: float = 20) -> Adapted:
    return adapt(level, RATE, heard, now=now, used_per_s=used_per_s, in_use=0)


def slots(level: Level, heard: Heard, *, now: float = NOW, in_use: int = 50) -> Level:
    return adapt(level, SLOTS, heard, now=now, used_per_s=0, in_use=in_use).level


def refused(count: int = 1, *, ended: int = 0, until: float | None = None) -> Heard:
    return Heard(ended=ended, refused=count, fresh=count, until=until)


def test_a_refusal_lowers_the_rate_at_once() -> None:
    adapted = rate(Level(), refused())
    assert adapted.lowered
    assert adapted.level.limit == 20 * LOWER_MAX
    assert adapted.tokens == 0


def test_refusals_of_calls_that_were_sent_before_the_change_lower_no_further() -> None:
    level = rate(Level(), refused(40)).level
    again = rate(level, Heard(refused=40))
    assert again.level.limit == level.limit
    assert not again.lowered
    assert again.level.throttled == 80


def test_few_refusals_lower_less_than_many() -> None:
    level = Level(limit=10, ceiling=10, changed_at=NOW, throttled_at=NOW, throttled_since=NOW)
    few = rate(level, refused(1, ended=99)).level.limit
    many = rate(level, refused(99, ended=1)).level.limit
    assert (few, many) == (10 * LOWER_MIN, 10 * LOWER_MAX)


def test_outcomes_raise_it_by_as_much_each_time() -> None:
    level = rate(Level(), refused()).level
    limits = []
    for second in range(1, 6):
        level = rate(level, Heard(ended=5), now=NOW + second).level
        assert level.limit is not None
        limits.append(level.limit)
    steps = {round(after - before, 9) for before, after in pairwise(limits)}
    assert len(steps) == 1
    assert steps.pop() > 0


def test_nothing_is_in_force_once_the_cap_is_reached() -> None:
    level = Level(limit=19.9999, ceiling=20, changed_at=NOW - 60, throttled_at=NOW - 60)
    assert rate(level, Heard(ended=100)).level.limit is None


def test_outcomes_of_a_budget_at_its_cap_change_nothing() -> None:
    assert rate(Level(), Heard(ended=9)).level == Level()


def test_retry_after_is_obeyed_up_to_a_bound() -> None:
    assert rate(Level(), refused(until=NOW + 8)).level.paused_until == NOW + 8
    far = rate(Level(), refused(until=NOW + 1e9)).level.paused_until
    assert far == NOW + PAUSE_S_MAX


def test_a_pause_is_never_shortened() -> None:
    level = rate(Level(), refused(until=NOW + 8)).level
    assert rate(level, Heard(refused=1, until=NOW + 1)).level.paused_until == NOW + 8
    assert rate(level, Heard(refused=1)).level.paused_until == NOW + 8


def test_a_budget_without_a_known_limit_is_lowered_from_what_was_asked_for() -> None:
    budget = Budget(name="west/Any", mode="rate", burst=OPEN_FROM, per_second=OPEN_FROM)
    busy = adapt(Level(), budget, refused(), now=NOW, used_per_s=100, in_use=0).level
    idle = adapt(Level(), budget, refused(), now=NOW, used_per_s=0, in_use=0).level
    assert (busy.limit, idle.limit) == (200 * LOWER_MAX, OPEN_START_PER_S * LOWER_MAX)


def test_what_was_learned_long_ago_does_not_count() -> None:
    level = rate(Level(), refused()).level
    assert limit_of(level, RATE, now=NOW + FORGET_S - 1) == 10
    assert limit_of(level, RATE, now=NOW + FORGET_S + 1) == 20
    anew = rate(level, refused(), now=NOW + FORGET_S + 1).level
    assert anew.limit == 10


def test_a_lower_cap_holds_at_once_and_a_higher_one_is_found_by_asking() -> None:
    level = rate(Level(), refused()).level
    lower, higher = (
        msgspec.structs.replace(RATE, per_second=5),
        msgspec.structs.replace(RATE, per_second=50),
    )
    assert limit_of(level, lower, now=NOW) == 5
    assert limit_of(level, higher, now=NOW) == 10


def test_a_lowered_bucket_saves_up_little() -> None:
    level = rate(Level(), refused()).level
    assert depth_of(Level(), RATE, now=NOW) == 100
    assert depth_of(level, RATE, now=NOW) == 2.5
    assert depth_of(msgspec.structs.replace(level, limit=0.5), RATE, now=NOW) == 1


def test_troubles_with_a_calm_between_them_are_counted_as_two() -> None:
    level = rate(Level(), refused()).level
    assert level.throttled_since == NOW
    level = rate(level, refused(), now=NOW + CALM_S - 1).level
    assert level.throttled_since == NOW
    later = NOW + 2 * CALM_S + 1
    assert rate(level, refused(), now=later).level.throttled_since == later


def test_no_slot_is_free_before_one_that_is_taken_ends() -> None:
    level = slots(Level(), refused())
    assert level.limit == 50
    assert level.paused_until is None


def test_where_others_have_all_slots_one_is_tried_after_a_pause() -> None:
    level = slots(Level(), refused(), in_use=0)
    assert (level.limit, level.paused_until) == (1, NOW + PAUSE_S)


def test_slots_come_back_one_by_one() -> None:
    level = slots(Level(), refused(), in_use=2)
    early = slots(level, Heard(ended=99), now=NOW + SLOT_STEP_S - 1)
    assert early.limit == 2
    few = slots(level, Heard(ended=7), now=NOW + SLOT_STEP_S)
    assert few.limit == 2
    enough = slots(few, Heard(ended=1), now=NOW + SLOT_STEP_S)
    assert enough.limit == 3


HEARD = st.builds(
    lambda ended, fresh, late, wait: Heard(
        ended=ended,
        refused=fresh + late,
        fresh=fresh,
        until=None if wait is None else NOW + wait,
    ),
    ended=st.integers(0, 500),
    fresh=st.integers(0, 50),
    late=st.integers(0, 50),
    wait=st.none() | st.floats(0, 1e7),
)


@given(
    st.sampled_from(["rate", "hold", "seat"]),
    st.integers(1, 10_000),
    st.lists(
        st.tuples(HEARD, st.floats(0, 100), st.floats(0, 1e5), st.integers(0, 300)), max_size=40
    ),
)
def test_a_limit_stays_between_its_floor_and_its_cap(
    mode: str, cap: int, story: list[tuple[Heard, float, float, int]]
) -> None:
    budget = Budget(name="w/x", mode=mode, concurrent=cap, burst=cap, per_second=cap)
    level, now = Level(), NOW
    for heard, later_s, used_per_s, in_use in story:
        now += later_s
        level = adapt(level, budget, heard, now=now, used_per_s=used_per_s, in_use=in_use).level
        limit = limit_of(level, budget, now=now)
        assert min(FLOOR_PER_S if mode == "rate" else 1, cap) <= limit <= cap
        assert level.paused_until is None or level.paused_until <= now + PAUSE_S_MAX
        assert 1 <= depth_of(level, budget, now=now) <= max(cap, 1)


# ── In a closed loop ─────────────────────────────────────────────────────────────────────────

WARM_UP_S = 100.0


@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    per_second=st.floats(5, 60),
    burst_s=st.floats(0.5, 5),
    told=st.floats(1.2, 20),
    latency_s=st.floats(0.005, 0.3),
    retry_after=st.booleans(),
)
def test_the_rate_converges_to_the_platforms_and_few_calls_are_refused(
    per_second: float, burst_s: float, told: float, latency_s: float, retry_after: bool
) -> None:
    burst = max(5.0, burst_s * per_second)
    server = Server(burst=burst, per_second=per_second, retry_after=retry_after)
    cap = Budget(name="w/x", mode="rate", burst=told * burst, per_second=told * per_second)
    loop = Loop(server, cap, latency_s=latency_s)
    loop.run(WARM_UP_S + 120)
    taken, share = loop.since(WARM_UP_S)
    # What the bucket held at the end of the warm-up comes on top of its rate.
    most = per_second + burst / 120
    assert 0.85 * per_second <= taken <= 1.01 * most
    # Finding out costs what is under way when the first is refused: mostly below a hundredth.
    assert share < 0.02
    assert loop.too_early == 0
    assert max(loop.limits) <= cap.per_second
    assert min(loop.limits) >= FLOOR_PER_S


def test_more_is_found_when_the_platform_gives_more() -> None:
    server = Server(burst=5, per_second=5, retry_after=False)
    loop = Loop(server, RATE)
    loop.run(60)
    assert loop.stock.limit(loop.now) < 8
    server.per_second, server.burst = 50, 50
    loop.run(180)
    assert loop.stock.limit(loop.now) == 20


def test_a_platform_that_refuses_everything_is_asked_at_the_floor() -> None:
    server = Server(burst=0, per_second=1e-9, retry_after=False)
    loop = Loop(server, RATE)
    loop.run(300)
    assert loop.stock.limit(loop.now) == FLOOR_PER_S
    probes = [at for at in loop.refused if at > START + 200]
    assert 8 <= len(probes) <= 12


@settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(per_second=st.floats(0.5, 50), seed=st.integers(0, 99), retry_after=st.booleans())
def test_answers_never_let_more_pass_than_the_cap(
    per_second: float, seed: int, retry_after: bool
) -> None:
    server = Server(burst=3, per_second=per_second, retry_after=retry_after)
    loop = Loop(server, RATE, seed=seed)
    for _ in range(6):
        loop.run(10)
        loop.run(7, busy=False)
    for seconds in (0.5, 5.0):
        assert max(windows(loop.granted, seconds)) <= RATE.burst + RATE.per_second * seconds + 1


# ── Which budgets a refusal is about ─────────────────────────────────────────────────────────

TAKEN = (
    ("node:west", "hold"),
    ("west/Start", "rate"),
    ("west/writes", "hold"),
    ("west/writes:replication", "hold"),
)


@pytest.mark.parametrize(
    ("quota", "busy", "taken", "others"),
    [
        ("", False, {"west/Start"}, set()),
        ("Start", False, {"west/Start"}, set()),
        ("writes", True, {"west/writes", "west/writes:replication"}, set()),
        ("", True, {"west/writes", "west/writes:replication"}, set()),
        ("Describe", False, set(), {"west/Describe"}),
        ("disks", True, set(), {"west/disks"}),
    ],
)
def test_a_refusal_is_about_the_budgets_of_its_quota(
    quota: str, busy: bool, taken: set[str], others: set[str]
) -> None:
    found = concerned(TAKEN, quota=quota, busy=busy)
    assert [set(names) for names in found] == [taken, others]
