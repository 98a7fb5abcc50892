"""The event simulation of a recovery: closed forms, bounds nothing gets below, what binds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.decider import OPEN_FROM
from shared.forecast.limits import Limit
from shared.forecast.plan import (
    BOOT,
    CREATE,
    HOLD,
    POST,
    POWER_ON,
    PRE,
    PREP_NODE,
    PREP_NODES,
    PREPARE,
    REBUILD,
    STEPS,
    VALIDATE,
    WINDOWS_PER_PREP_NODE,
    WORKERS,
    Machine,
    Plan,
)
from shared.forecast.simulation import floor_of, simulate

RUN = Limit(name="RunInstances", burst=5, per_second=2)
START = Limit(name="StartInstances", burst=5, per_second=2)


def fleet(count: int, *, boot_order: int = 1, **seconds: float) -> tuple[Machine, ...]:
    """VMs alike; seconds by step, with `_` for `-`."""
    taken = {name.replace("_", "-"): value for name, value in seconds.items()}
    return tuple(
        Machine(name=f"vm-{boot_order}-{number}", boot_order=boot_order, seconds=taken)
        for number in range(count)
    )


# ── Closed forms ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("count", "seconds"), [(5, 0.0), (500, 247.5), (2000, 997.5)])
def test_a_queue_at_a_bucket_takes_what_the_bucket_takes(count: int, seconds: float) -> None:
    found = simulate(Plan(machines=fleet(count)), [RUN, START])
    assert found.total_s == pytest.approx(seconds)


def test_separate_volumes_take_their_own_time() -> None:
    volumes = Limit(name="CreateVolume", burst=100, per_second=5)
    found = simulate(Plan(machines=fleet(1500)), [volumes])
    assert found.total_s == pytest.approx(280)
    assert found.binds == "CreateVolume"


def test_the_steps_of_one_vm_follow_each_other() -> None:
    steps = {
        PRE: 1, HOLD: 2, REBUILD: 4, PREPARE: 8, CREATE: 16, POWER_ON: 32, BOOT: 64, VALIDATE: 3,
        POST: 9,
    }  # fmt: skip
    vm = Machine(name="db", windows=True, pre_script=True, post_script=True, seconds=steps)
    found = simulate(Plan(machines=(vm,), begin_s=0.5, pre_script_s=3, post_script_s=5))
    assert found.ready_s == pytest.approx(0.5 + 3 + 127)
    assert found.total_s == pytest.approx(found.ready_s + 3 + 9 + 5)
    assert [call.step for call in found.calls] == [*list(steps)[:6], VALIDATE, POST]


def test_a_bucket_that_is_not_full_costs_its_missing_tokens() -> None:
    empty = msgspec.structs.replace(RUN, tokens=0.0)
    assert simulate(Plan(machines=fleet(5)), [empty]).total_s == pytest.approx(2.5)


def test_a_bucket_fills_up_to_its_burst_however_long_nobody_calls() -> None:
    machines = (*fleet(1, wait_ready=1000), *fleet(25, boot_order=2))
    found = simulate(Plan(machines=machines), [START])
    assert found.total_s == pytest.approx(1000 + 10)


def test_disks_of_a_vm_are_rebuilt_side_by_side_and_each_costs_a_token() -> None:
    vm = Machine(name="db", disks=6, seconds={REBUILD: 10})
    volumes = Limit(name="CreateVolume", burst=2, per_second=1)
    assert simulate(Plan(machines=(vm,))).total_s == pytest.approx(10)
    assert simulate(Plan(machines=(vm,)), [volumes]).total_s == pytest.approx(14)


# ── Boot orders ──────────────────────────────────────────────────────────────────────────────


def test_the_next_order_opens_when_the_last_is_ready_and_past_its_delay() -> None:
    db = Machine(name="db", boot_delay_s=20, seconds={POWER_ON: 1, BOOT: 5})
    app = Machine(name="app", boot_order=2, boot_delay_s=3, seconds={POWER_ON: 1, BOOT: 5})
    web = Machine(name="web", boot_order=7, seconds={POWER_ON: 1, BOOT: 5})
    found = simulate(Plan(machines=(web, app, db)))
    assert [(o.boot_order, o.opens_s, o.ready_s) for o in found.orders] == [
        (1, 0, 6), (2, 21, 27), (7, 27, 33),
    ]  # fmt: skip
    assert [order.binds for order in found.orders] == ["boot-delay", BOOT, BOOT]
    assert (found.binds, found.binds_s) == ("boot-delay", 15)


def test_what_can_be_built_ahead_is_unless_a_script_or_the_plan_forbids_it() -> None:
    slow = {REBUILD: 100.0, CREATE: 10.0, BOOT: 30.0}
    first = Machine(name="db", seconds={BOOT: 200})
    later = Machine(name="app", boot_order=2, seconds=slow)
    scripted = msgspec.structs.replace(later, pre_script=True)

    def total(*machines: Machine, **options: bool) -> float:
        return simulate(Plan(machines=machines, **options)).total_s

    assert total(first, later) == pytest.approx(230)
    assert total(first, later, early=False) == pytest.approx(240)
    assert total(first, later, build_ahead=False) == pytest.approx(340)
    assert total(first, scripted) == pytest.approx(340)


def test_a_limit_serves_lower_boot_orders_first() -> None:
    machines = (*fleet(4, boot_order=2), *fleet(4, boot_order=1, rebuild_disks=1.5))
    one_a_second = Limit(name="RunInstances", burst=1, per_second=1)
    found = simulate(Plan(machines=machines), [one_a_second])
    created = [call.vm for call in found.calls if call.step == CREATE]
    assert [name[3] for name in created] == [*"22", *"1111", *"22"]
    assert [order.ready_s for order in found.orders] == [pytest.approx(5), pytest.approx(7)]


# ── Limits ───────────────────────────────────────────────────────────────────────────────────


def test_a_prep_node_prepares_so_many_windows_vms_at_once() -> None:
    machines = tuple(
        Machine(name=f"win-{n}", windows=True, seconds={PREPARE: 60})
        for n in range(2 * WINDOWS_PER_PREP_NODE + 1)
    )
    node = Limit(name=PREP_NODES, concurrent=WINDOWS_PER_PREP_NODE)
    found = simulate(Plan(machines=machines), [node])
    assert found.total_s == pytest.approx(180)
    assert found.binds == PREP_NODES


def test_slots_that_others_hold_are_not_ours() -> None:
    workers = Limit(name=WORKERS, concurrent=4, in_use=3)
    assert simulate(Plan(machines=fleet(3, create_instance=2)), [workers]).total_s >= 6


def test_a_limit_that_lets_nothing_pass_never_ends() -> None:
    shut = Limit(name="RunInstances", burst=5, per_second=0)
    found = simulate(Plan(machines=fleet(6)), [shut])
    assert math.isinf(found.total_s) and math.isinf(found.ready_s)
    assert math.isinf(
        simulate(Plan(machines=fleet(1)), [Limit(name=WORKERS, concurrent=0)]).total_s
    )


def test_a_limit_that_is_open_is_none() -> None:
    free = Limit(name="RunInstances", burst=1, per_second=OPEN_FROM)
    assert simulate(Plan(machines=fleet(9)), [free]).total_s == 0


def test_no_vms_take_no_time() -> None:
    assert simulate(Plan(machines=(), begin_s=1, post_script_s=2)).total_s == 3


# ── The floor ────────────────────────────────────────────────────────────────────────────────


def test_the_floor_is_the_plan_without_what_calls_and_the_engine_take() -> None:
    vm = Machine(
        name="db", pre_script=True, seconds={PRE: 7, HOLD: 1, REBUILD: 9, CREATE: 2, BOOT: 30}
    )
    plan = Plan(machines=(vm,), begin_s=4, post_script_s=2)
    assert simulate(plan).total_s == pytest.approx(4 + 7 + 1 + 9 + 2 + 30 + 2)
    assert floor_of(plan).total_s == pytest.approx(7 + 30 + 2)


def test_our_own_workers_are_no_part_of_the_floor() -> None:
    workers = Limit(name=WORKERS, concurrent=1)
    machines = tuple(Machine(name=f"vm-{n}", pre_script=True, seconds={PRE: 5}) for n in range(4))
    assert floor_of(Plan(machines=machines), [workers]).total_s == pytest.approx(5)


# ── Properties ───────────────────────────────────────────────────────────────────────────────

seconds = st.floats(0, 30, allow_nan=False)
steps = st.fixed_dictionaries(dict.fromkeys((HOLD, REBUILD, CREATE, POWER_ON, BOOT), seconds))
buckets = st.builds(
    Limit,
    name=st.sampled_from(["RunInstances", "StartInstances", "CreateVolume"]),
    burst=st.integers(1, 8).map(float),
    per_second=st.floats(0.1, 20),
)
limit_sets = st.lists(buckets, max_size=3, unique_by=lambda limit: limit.name)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans of few VMs, each its own."""
    machines = [
        Machine(
            name=f"vm-{number}",
            boot_order=draw(st.integers(1, 4)),
            boot_delay_s=draw(st.sampled_from([0.0, 0.0, 10.0])),
            disks=draw(st.integers(0, 3)),
            pre_script=draw(st.booleans()),
            post_script=draw(st.booleans()),
            seconds={**draw(steps), PRE: draw(seconds), POST: draw(seconds)},
        )
        for number in range(draw(st.integers(1, 12)))
    ]
    flags = draw(st.tuples(st.booleans(), st.booleans()))
    return Plan(machines=tuple(machines), build_ahead=flags[0], early=flags[1])


def _spent(plan: Plan, limit: Limit) -> int:
    if limit.name == "CreateVolume":
        return sum(machine.disks for machine in plan.machines)
    return len(plan.machines)


@given(plans(), limit_sets)
def test_nothing_gets_below_what_a_bucket_a_vm_or_a_delay_takes(
    plan: Plan, limits: Sequence[Limit]
) -> None:
    found = simulate(plan, limits)
    for limit in limits:
        assert limit.per_second is not None
        least = (_spent(plan, limit) - limit.burst) / limit.per_second
        assert found.total_s >= least - 1e-6
    for machine in plan.machines:
        alone = msgspec.structs.replace(plan, machines=(machine,))
        assert found.total_s >= simulate(alone).total_s - 1e-6
    assert simulate(plan).total_s >= floor_of(plan).total_s - 1e-6
    for before, after in zip(found.orders, found.orders[1:], strict=False):
        delays = [m.boot_delay_s for m in plan.machines if m.boot_order == before.boot_order]
        assert after.opens_s >= before.ready_s - 1e-6
        assert after.opens_s >= before.first_on_s + min(delays) - 1e-6


@given(plans(), limit_sets)
def test_every_step_happens_once_in_order_and_no_bucket_is_overdrawn(
    plan: Plan, limits: Sequence[Limit]
) -> None:
    found = simulate(plan, limits)
    assert found.calls == tuple(sorted(found.calls, key=lambda call: call.at_s))
    assert sum(phase.calls for phase in found.phases if phase.step == BOOT) == len(plan.machines)
    step_of = {"RunInstances": CREATE, "StartInstances": POWER_ON, "CreateVolume": REBUILD}
    for limit in limits:
        assert limit.per_second is not None
        at = [call.at_s for call in found.calls if call.step == step_of[limit.name]]
        assert len(at) == _spent(plan, limit)
        for first in range(len(at)):
            for last in range(first, len(at)):
                room = limit.burst + limit.per_second * (at[last] - at[first])
                assert last - first + 1 <= room + 1e-6


@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0.0, 5.0])), min_size=1, max_size=20),
    steps,
    st.sampled_from([HOLD, REBUILD, CREATE, POWER_ON, BOOT]),
    st.floats(0, 10),
    limit_sets,
)
def test_vms_that_are_alike_are_never_sooner_ready_for_a_longer_step(
    members: list[tuple[int, float]],
    taken: dict[str, float],
    step: str,
    longer_s: float,
    limits: Sequence[Limit],
) -> None:
    def total(durations: dict[str, float]) -> float:
        machines = tuple(
            Machine(name=str(n), boot_order=order, boot_delay_s=delay, seconds=durations)
            for n, (order, delay) in enumerate(sorted(members))
        )
        return simulate(Plan(machines=machines), limits).total_s

    assert total({**taken, step: taken[step] + longer_s}) >= total(taken) - 1e-6


@given(plans(), limit_sets)
def test_the_same_plan_gives_the_same_forecast(plan: Plan, limits: Sequence[Limit]) -> None:
    assert simulate(plan, limits) == simulate(plan, limits)


def test_two_thousand_vms_come_up_at_the_rate_of_their_limits() -> None:
    machines = (
        *fleet(100, boot_order=1, wait_ready=2),
        *fleet(400, boot_order=2),
        *fleet(1500, boot_order=3),
    )
    limits = [
        msgspec.structs.replace(each, burst=50, per_second=20, name=name)
        for each, name in ((RUN, "RunInstances"), (START, "StartInstances"))
    ]
    found = simulate(Plan(machines=machines), [*limits, Limit(name=WORKERS, concurrent=256)])
    assert found.total_s == pytest.approx((2000 - 50) / 20)


# ── Windows ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("rebuild_s", "ready_s"), [(4, 1 + 30 + 8), (50, 1 + 50 + 8)])
def test_prep_nodes_come_on_while_disks_are_rebuilt(rebuild_s: float, ready_s: float) -> None:
    """They are needed once the held copy says that it is of a Windows."""
    seconds = {HOLD: 1.0, REBUILD: rebuild_s, PREP_NODE: 30.0, PREPARE: 8.0}
    found = simulate(Plan(machines=(Machine(name="w", windows=True, seconds=seconds),)))
    assert found.ready_s == pytest.approx(ready_s)


def test_nodes_come_on_once_for_all() -> None:
    seconds = {HOLD: 1.0, PREP_NODE: 30.0, PREPARE: 8.0}
    late = {**seconds, HOLD: 20.0}
    machines = (
        Machine(name="early", windows=True, seconds=seconds),
        Machine(name="late", windows=True, seconds=late),
    )
    found = simulate(Plan(machines=machines))
    assert found.ready_s == pytest.approx(1 + 30 + 8)


def test_a_windows_is_usable_before_it_is_validated_and_the_end_waits_for_it() -> None:
    seconds = {BOOT: 10.0, VALIDATE: 5.0}
    found = simulate(Plan(machines=(Machine(name="w", windows=True, seconds=seconds),)))
    assert (found.ready_s, found.total_s) == (10.0, 15.0)
    plain = Machine(name="w", windows=True, validate=False, seconds=seconds)
    assert simulate(Plan(machines=(plain,))).total_s == 10.0


def test_another_os_has_none_of_these_steps() -> None:
    seconds = dict.fromkeys(STEPS, 1.0)
    found = simulate(Plan(machines=(Machine(name="db", seconds=seconds),)))
    assert {call.step for call in found.calls} == {HOLD, REBUILD, CREATE, POWER_ON}


# ── What is left of a recovery that runs ─────────────────────────────────────────────────────


def test_what_is_done_takes_no_more_time_and_what_is_under_way_only_its_rest() -> None:
    seconds = {HOLD: 1.0, REBUILD: 20.0, CREATE: 5.0, BOOT: 30.0}
    building = Machine(name="db", seconds=seconds, done=frozenset({HOLD, REBUILD}), begun_s=2.0)
    assert simulate(Plan(machines=(building,))).ready_s == pytest.approx(3 + 30)
    late = msgspec.structs.replace(building, begun_s=60.0)
    assert simulate(Plan(machines=(late,))).ready_s == pytest.approx(30)


def test_a_step_under_way_has_its_limits_already_and_gives_none_back() -> None:
    slots = Limit(name="RunInstances", concurrent=1)
    done = frozenset({HOLD, REBUILD})
    begun = Machine(name="db", seconds={CREATE: 10.0}, done=done, begun_s=4.0)
    fresh = Machine(name="web", seconds={CREATE: 10.0}, done=done)
    shut = msgspec.structs.replace(slots, in_use=1)
    assert simulate(Plan(machines=(begun,)), [shut]).ready_s == pytest.approx(6)
    found = simulate(
        Plan(machines=(begun, fresh, msgspec.structs.replace(fresh, name="app"))), [slots]
    )
    assert found.ready_s == pytest.approx(20)


def test_orders_that_are_up_open_the_next_after_what_is_left_of_their_delay() -> None:
    up = Machine(name="db", boot_delay_s=40.0, done=frozenset(STEPS), on_s=25.0)
    web = Machine(name="web", boot_order=2, seconds={BOOT: 10.0})
    found = simulate(Plan(machines=(up, web)))
    assert found.ready_s == pytest.approx(15 + 10)
    assert simulate(Plan(machines=(up,))).ready_s == 0.0


def test_one_that_boots_already_is_waited_for() -> None:
    done = frozenset({HOLD, REBUILD, CREATE, POWER_ON})
    boots = Machine(name="db", seconds={BOOT: 30.0}, done=done, begun_s=10.0, on_s=10.0)
    web = Machine(name="web", boot_order=2, seconds={BOOT: 5.0})
    assert simulate(Plan(machines=(boots, web))).ready_s == pytest.approx(20 + 5)


def test_a_windows_whose_copy_is_held_waits_for_its_nodes_from_now_on() -> None:
    seconds = {PREP_NODE: 30.0, PREPARE: 8.0}
    held = Machine(name="w", windows=True, seconds=seconds, done=frozenset({HOLD, REBUILD}))
    assert simulate(Plan(machines=(held,))).ready_s == pytest.approx(38)
