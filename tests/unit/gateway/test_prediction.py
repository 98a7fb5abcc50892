"""Where a forecast's durations come from, and what it says of itself."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec
import pytest

from schemas.plans import RecoveryPolicy, ReplicationPolicy, ScriptDefinition
from schemas.scheduler import PlanHeader, SiteRef
from schemas.views import Job, Step, Vm
from services.gateway.prediction import (
    CALLS,
    DECLARED,
    HAND_OVER_S,
    Durations,
    limits_of,
    plan_of_calls,
    plan_of_vms,
    predicted,
)
from services.gateway.timings import Timings, timings_of
from services.recovery.domain import dryrun
from services.recovery.domain.work import QUOTAS
from shared.effects.port import Budget, BudgetState
from shared.forecast.plan import (
    BEGIN,
    BOOT,
    CREATE,
    DEFAULTS_S,
    HOLD,
    NEEDS,
    POWER_ON,
    PREP_NODE,
    PREP_NODES,
    PREPARE,
    REBUILD,
    VALIDATE,
)
from shared.forecast.plan import WORKERS as WORKERS_LIMIT

AT = dt.datetime(2026, 11, 29, 12, tzinfo=dt.UTC)
WEST = SiteRef(site="west", platform="lab", settings={})


def header(**policy: Any) -> PlanHeader:
    return PlanHeader(
        name="shop",
        protected=WEST,
        recovery_site=WEST,
        replication=ReplicationPolicy(interval_s=900),
        recovery=RecoveryPolicy(**policy),
    )


def step(name: str, seconds: float, *, after_s: float = 0, state: Any = "completed") -> Step:
    begins = AT + dt.timedelta(seconds=after_s)
    ends = begins + dt.timedelta(seconds=seconds)
    return Step(name=name, state=state, started_at=begins, ended_at=ends)


def job(
    *steps: Step, vm: str | None = "db", dry_run: bool = False, disk: str | None = None
) -> Job:
    return Job(
        id=f"vm-recovery:shop:1:{vm}", kind="test-recovery", plan="shop", vm=vm, disk=disk,
        state="completed", created_at=AT, steps=steps, dry_run=dry_run,
    )  # fmt: skip


def calls(**power_on: Any) -> list[dict[str, Any]]:
    about = {"vm": "db", "boot_order": 1}
    return [
        {"call": "run_script", **about, "hook": "pre-recovery"},
        {"call": "hold", **about},
        {"call": "rebuild_disk", **about, "disk": "sda"},
        {"call": "rebuild_disk", **about, "disk": "sdb"},
        {"call": "create_instance", **about},
        {"call": "power_on", **about, "boot_delay_s": 20, **power_on},
    ]


def of_calls(durations: Durations, made: list[dict[str, Any]], **policy: Any) -> Any:
    return plan_of_calls(header(**policy), made, durations, build_ahead=True, early=True)


# ── Past recoveries ──────────────────────────────────────────────────────────────────────────


def test_a_step_takes_the_median_of_what_it_took() -> None:
    past = [job(step(CREATE, seconds), vm=f"vm-{seconds}") for seconds in (1, 2, 60)]
    assert timings_of(past).steps == {CREATE: 2.0}


def test_what_failed_was_skipped_or_only_rehearsed_teaches_nothing() -> None:
    timings = timings_of(
        [
            job(step(CREATE, 9, state="failed"), step(POWER_ON, 1)),
            job(step(CREATE, 9), dry_run=True),
            job(step(CREATE, 9), disk="sda"),
        ]
    )
    assert (timings.steps, timings.samples) == ({POWER_ON: 1.0}, 1)


def test_the_way_to_the_first_boot_order_is_learnt_without_the_plans_script() -> None:
    parent = job(
        step("preflight", 1), step("pre-script", 4, after_s=1), step("boot-order-3", 9, after_s=7),
        step("boot-order-5", 9, after_s=16), vm=None,
    )  # fmt: skip
    assert timings_of([parent]).plan_steps == {"pre-script": 4.0, BEGIN: 3.0}


def test_what_was_done_about_sources_is_learnt_apart_from_the_way_to_the_vms() -> None:
    parent = job(
        step("preflight", 1), step("fence-sources", 20, after_s=1),
        step("last-sync", 30, after_s=21), step("boot-order-1", 9, after_s=52), vm=None,
    )  # fmt: skip
    assert timings_of([parent]).plan_steps == {"fence-sources": 20, "last-sync": 30, BEGIN: 2}


# ── Windows ──────────────────────────────────────────────────────────────────────────────────


def windows_job(vm: str, *, node_s: float, validated: bool = True) -> Job:
    steps = [step(HOLD, 1), step(REBUILD, 2, after_s=1), step(PREPARE, 9, after_s=1 + node_s)]
    return job(*steps, *((step(VALIDATE, 3, after_s=60),) if validated else ()), vm=vm)


def test_windows_are_known_by_their_steps_and_by_what_a_dry_run_lists() -> None:
    about = {"vm": "new", "boot_order": 1}
    listed = [{"call": "prepare_windows", **about}, {"call": "validate_windows", **about}]
    rehearsed = msgspec.structs.replace(job(vm=None, dry_run=True), facts={"calls": listed})
    past = [rehearsed, windows_job("win", node_s=5, validated=False), job(step(HOLD, 1), vm="db")]
    timings = timings_of(past)
    assert timings.windows == {"new": True, "win": False}
    assert timings.steps[PREPARE] == 9


def test_nodes_take_as_long_as_who_came_first_waited_for_them() -> None:
    past = [windows_job("a", node_s=12), windows_job("b", node_s=40)]
    assert timings_of(past).steps[PREP_NODE] == 12


def vm(name: str) -> Vm:
    return Vm(name=name, plan="shop", sync_state="in-sync", protected_at=AT)


def test_the_forecast_of_a_plan_has_the_steps_of_the_windows_it_is_known_to_have() -> None:
    durations = Durations(Timings(windows={"win": True}), {})
    plan = plan_of_vms(header(), [vm("win"), vm("db")], durations)
    win, db = plan.machines
    assert (win.windows, win.validate, db.windows) == (True, True, False)
    assert {PREP_NODE, PREPARE, VALIDATE} <= set(win.seconds)
    assert not {PREP_NODE, PREPARE, VALIDATE} & set(db.seconds)
    assert win.seconds[PREPARE] == pytest.approx(DEFAULTS_S[PREPARE] + HAND_OVER_S)
    assert durations.told[PREPARE] == {"seconds": DEFAULTS_S[PREPARE], "from": "default"}


def test_a_dry_run_of_a_windows_is_forecast_with_what_the_platform_declares() -> None:
    about = {"vm": "db", "boot_order": 1}
    made = [*calls(boots_in_s=5.0)]
    made[4:4] = [{"call": "prepare_windows", **about}]
    durations = Durations(Timings(), {PREPARE: 7.0, PREP_NODE: 30.0})
    plain = of_calls(Durations(Timings(), {}), calls(boots_in_s=5.0))
    plan = of_calls(durations, made)
    limits = limits_of("west", [], workers=9, seats=25)
    longer_s = predicted(plan, limits, durations)["ready_s"]
    longer_s -= predicted(plain, limits, Durations(Timings(), {}))["ready_s"]
    rebuilt_s = DEFAULTS_S[REBUILD] + 2 * HAND_OVER_S
    assert longer_s == pytest.approx(30 - rebuilt_s + 7 + 2 * HAND_OVER_S, abs=0.1)
    assert not plan.machines[0].validate


def test_seats_are_a_limit_where_they_were_counted() -> None:
    assert PREP_NODES not in {limit.name for limit in limits_of("west", [], workers=1)}
    found = {limit.name: limit for limit in limits_of("west", [], workers=1, seats=50)}
    assert found[PREP_NODES].concurrent == 50


# ── Sources ──────────────────────────────────────────────────────────────────────────────────


def test_what_was_seen_goes_before_what_is_declared_and_that_before_a_guess() -> None:
    durations = Durations(Timings(steps={CREATE: 3.0}), {CREATE: 1.0, POWER_ON: 0.3})
    assert durations.of(CREATE) == 3.0
    assert durations.of(POWER_ON) == 0.3
    assert durations.of(REBUILD) == DEFAULTS_S[REBUILD]
    assert {name: told["from"] for name, told in durations.told.items()} == {
        CREATE: "past-recoveries", POWER_ON: "platform", REBUILD: "default",
    }  # fmt: skip


def test_a_vm_boots_as_it_did_else_as_it_says_else_as_others_do() -> None:
    durations = Durations(Timings(steps={BOOT: 30.0}, boots={"db": 50.0}), {})
    assert durations.boot("db", 4.0) == 50.0
    assert durations.boot("app", 4.0) == 4.0
    assert durations.boot("web", None) == 30.0
    assert Durations(Timings(), {}).boot("web", None) == DEFAULTS_S[BOOT]


# ── The plan ─────────────────────────────────────────────────────────────────────────────────


def test_a_dry_runs_calls_are_the_recovery_that_is_simulated() -> None:
    durations = Durations(Timings(), {CREATE: 1.0})
    plan = of_calls(durations, calls(boots_in_s=6.0))
    (machine,) = plan.machines
    assert (machine.name, machine.disks, machine.boot_delay_s) == ("db", 2, 20)
    assert (machine.pre_script, machine.post_script) == (True, False)
    assert machine.seconds[BOOT] == 6.0
    assert machine.seconds[CREATE] == pytest.approx(1.0 + HAND_OVER_S)


def test_the_plans_own_scripts_count_where_a_test_runs_them() -> None:
    script = ScriptDefinition(
        run="a.sh", runtime="sh", sha256="ab", size=1, operations=("failover",)
    )
    ours = msgspec.structs.replace(script, operations=("test",))
    plan = of_calls(Durations(Timings(), {}), calls(), pre_script=script, post_script=ours)
    assert (plan.pre_script_s, plan.post_script_s) == (0.0, DEFAULTS_S["post-script"])


# ── Limits and the answer ────────────────────────────────────────────────────────────────────


def budget(name: str, *, tokens: float = 5, per_second: float = 2, mode: str = "rate") -> Any:
    made = Budget(name=name, mode=mode, burst=5, per_second=per_second)
    return BudgetState(budget=made, in_use=0, tokens=tokens)


def test_limits_are_the_sites_own_as_they_stand() -> None:
    states = [
        budget("west/RunInstances", tokens=1.5),
        budget("west/StartInstances", per_second=1e9),
        budget("west/PutBlock"),
        budget("east/RunInstances"),
    ]
    found = {limit.name: limit for limit in limits_of("west", states, workers=256)}
    assert set(found) == {WORKERS_LIMIT, "RunInstances"}
    assert (found["RunInstances"].tokens, found[WORKERS_LIMIT].concurrent) == (1.5, 256)


def test_a_prediction_says_what_binds_and_what_it_is_made_of() -> None:
    durations = Durations(Timings(), {CREATE: 1.0})
    plan = of_calls(durations, calls(boots_in_s=60.0))
    told = predicted(plan, limits_of("west", [budget("west/RunInstances")], workers=2), durations)
    assert told["total_s"] >= told["floor_s"] >= 60
    assert (told["binds"], told["orders"][0]["binds"]) == (BOOT, BOOT)
    assert told["durations"][CREATE] == {"seconds": 1.0, "from": "platform"}
    assert told["durations"][HOLD]["from"] == "default"
    assert msgspec.json.encode(told)


def test_a_budget_that_lets_nothing_pass_predicts_no_end() -> None:
    durations = Durations(Timings(), {})
    shut = budget("west/RunInstances", tokens=0, per_second=0)
    told = predicted(of_calls(durations, calls()), limits_of("west", [shut], workers=2), durations)
    assert (told["total_s"], told["ready_s"]) == (None, None)


def test_all_tables_of_calls_and_quotas_say_the_same() -> None:
    assert {step: call for call, step in CALLS.items()} == dryrun.CALLS
    assert {step: call for call, step in DECLARED.items()} == dryrun.STEP_CALLS
    spent = {step: names for step, names in NEEDS.items() if step in (REBUILD, CREATE, POWER_ON)}
    ours = {REBUILD: "rebuild-disk", CREATE: "create-instance", POWER_ON: "power-on"}
    for step_name, names in spent.items():
        assert names[0] == QUOTAS[ours[step_name]]
