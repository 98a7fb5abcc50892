"""The plan language: what a document means, and what is said about one that is wrong."""

import base64
import copy
import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import plans
from schemas.definitions import (
    DefinitionErrors,
    canonical,
    describe,
    describe_change,
    diff,
    parse_plan,
    parse_request,
    resolve,
    script_paths,
    scripts_of,
)

ROOT = Path(__file__).parents[3]
SCRIPTS = {
    "scripts/page.sh": b"echo page\n",
    "scripts/check.py": b"print(1)\n",
    "scripts/db-post.go": b"package main\n",
    "scripts/app-pre.sh": b"true\n",
}

SHOP: dict[str, Any] = {
    "name": "shop",
    "protected_site": "east",
    "recovery_site": "west",
    "replication": {
        "start_at": "2026-11-22T20:00:00Z",
        "interval": "15m",
        "synchronize": True,
        "priority": 2,
        "compression": True,
    },
    "checkpoints": {"every": "4h", "keep_last": 12, "keep_for": "7d"},
    "targets": {"rpo": "30m", "rto": "10m"},
    "recovery": {
        "on_error": "continue",
        "networks": {"test": "isolated", "production": "prod"},
        "pre_script": {"run": "scripts/page.sh", "runtime": "bash", "timeout": "60s"},
        "post_script": {"run": "scripts/check.py", "runtime": "python"},
    },
    "vms": [
        {
            "name": "db",
            "boot_order": 1,
            "boot_delay": "20s",
            "ready": {"tcp": 5432, "within": "3m"},
            "credentials": {"admin": "file:secrets/db-admin"},
            "post_script": {
                "run": "scripts/db-post.go",
                "runtime": "go",
                "on_failure": "fail_vm",
            },
        },
        {
            "name": "app",
            "boot_order": 2,
            "pre_script": {"run": "scripts/app-pre.sh", "runtime": "sh"},
        },
        {"name": "web", "boot_order": 3, "ready": {"http": "/health"}},
    ],
}


def changed(**levels: dict[str, Any] | Any) -> dict[str, Any]:
    """The shop plan with keys of its levels replaced; None takes a key away."""
    document = copy.deepcopy(SHOP)
    for level, value in levels.items():
        if isinstance(value, dict) and isinstance(document.get(level), dict):
            document[level].update(value)
        else:
            document[level] = value
    return document


def with_vm(**keys: Any) -> dict[str, Any]:
    return changed(vms=[{"name": "db", **keys}])


STEP = {"name": "dns", "text": "point the name here", "at": "before-pre-script"}


def by_hand(*more: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """The shop plan with manual steps."""
    return changed(recovery={"manual_steps": [{**STEP, **keys}, *more]})


def parse(document: object) -> plans.PlanDefinition:
    return parse_plan(document, scripts=SCRIPTS)


def problems(document: object, **options: Any) -> list[str]:
    with pytest.raises(DefinitionErrors) as caught:
        parse_plan(document, scripts=SCRIPTS, **options)
    return [describe(problem) for problem in caught.value.problems]


def test_the_published_example_reads_as_it_says() -> None:
    plan = parse(SHOP)
    assert plan.replication.interval_s == 900.0
    assert plan.replication.synchronize
    assert plan.checkpoints == plans.CheckpointPolicy(
        every_s=14_400.0, keep_last=12, keep_for_s=604_800.0
    )
    assert plan.targets == plans.Targets(rpo_s=1_800.0, rto_s=600.0)
    db, app, web = plan.vms
    assert db.ready == plans.ReadyProbe(kind="tcp", port=5432, within_s=180.0)
    assert db.credentials == {"admin": "file:secrets/db-admin"}
    assert db.boot_delay_s == 20.0
    assert web.ready == plans.ReadyProbe(kind="http", path="/health")
    assert app.pre_script is not None
    assert app.pre_script.sha256 == hashlib.sha256(b"true\n").hexdigest()
    assert app.pre_script.operations == plans.RECOVERY_OPERATIONS
    assert [script.run for script in scripts_of(plan)] == [
        "scripts/page.sh",
        "scripts/check.py",
        "scripts/db-post.go",
        "scripts/app-pre.sh",
    ]


def test_a_definition_survives_being_stored() -> None:
    plan = parse(SHOP)
    stored = msgspec.json.decode(msgspec.json.encode(plan), type=plans.PlanDefinition)
    assert stored == plan
    assert canonical(stored) == canonical(plan)


def test_a_vm_of_which_nothing_is_said_is_stored_as_its_name() -> None:
    said = {**SHOP, "vms": ["db", {"name": "web", "boot_order": 2}]}
    stored = msgspec.json.encode(parse_plan(said, scripts=SCRIPTS).vms)
    assert stored == b'[{"name":"db"},{"name":"web","boot_order":2}]'


def test_writing_out_a_default_changes_nothing() -> None:
    written = changed(replication={"quiesce": False, "spread": "0s", "blackouts": []})
    written["vms"][2] |= {"ready": {"http": "/health", "within": "300s"}, "boot_delay": 0}
    written["vms"].reverse()
    assert canonical(parse(written)) == canonical(parse(SHOP))
    assert diff(parse(SHOP), parse(written)) == []


def test_a_script_with_other_content_is_a_change() -> None:
    after = parse_plan(SHOP, scripts={**SCRIPTS, "scripts/page.sh": b"echo other\n"})
    (change, size) = diff(parse(SHOP), after)
    assert change.path == ("recovery", "pre_script", "sha256")
    assert size.path == ("recovery", "pre_script", "size")
    assert canonical(after) != canonical(parse(SHOP))


def test_a_diff_names_vms_and_fields() -> None:
    document = changed(replication={"interval": "5m"}, checkpoints=None)
    document["vms"][1]["boot_order"] = 7
    document["vms"][2]["name"] = "web2"
    lines = [describe_change(change) for change in diff(parse(SHOP), parse(document))]
    assert "~ replication.interval: 15m → 5m" in lines
    assert "~ vms.app.boot_order: 2 → 7" in lines
    assert "- vms.web" in lines
    assert "+ vms.web2" in lines
    assert "- checkpoints.keep_last: 12" in lines
    assert len(diff(None, parse(SHOP))) > 20


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (changed(name="-shop"), "name"),
        (changed(name=7), "name"),
        (changed(name="s" * 64), "name"),
        (changed(recovery_site="east"), "recovery_site"),
        (changed(replication=None), "replication"),
        (changed(vms=[]), "vms"),
        (changed(vms=7), "vms"),
        (changed(vms=None), "vms"),
        (changed(replication={"interval": None}), "replication.interval"),
        (changed(replication={"interval": "59s"}), "replication.interval"),
        (changed(replication={"interval": "31d"}), "replication.interval"),
        (changed(replication={"interval": 15}), "replication.interval"),
        (changed(replication={"start_at": "2026-11-22T20:00:00"}), "replication.start_at"),
        (changed(replication={"priority": 0}), "replication.priority"),
        (changed(replication={"priority": 6}), "replication.priority"),
        (changed(replication={"synchronize": "yes"}), "replication.synchronize"),
        (changed(replication={"spread": "1m"}), "replication.spread"),
        (changed(replication={"spread": "8m", "synchronize": False}), "replication.spread"),
        (changed(replication={"blackouts": [{"from": "08:00"}]}), "replication.blackouts[0].to"),
        (
            changed(replication={"blackouts": [{"from": "08:00", "to": "08:00"}]}),
            "replication.blackouts[0].to",
        ),
        (
            changed(replication={"blackouts": [{"from": "08:00", "to": "2026-11-22T20:00:00Z"}]}),
            "replication.blackouts[0].to",
        ),
        (
            changed(replication={"blackouts": [{"from": "08:00", "to": "09:00", "days": ["mo"]}]}),
            "replication.blackouts[0].days[0]",
        ),
        (changed(checkpoints={"cron": "0 * * * *"}), "checkpoints.cron"),
        (changed(checkpoints={"every": None}), "checkpoints.every"),
        (changed(checkpoints={"keep_last": None, "keep_for": None}), "checkpoints.keep_last"),
        (changed(checkpoints={"keep_last": 0}), "checkpoints.keep_last"),
        (changed(checkpoints={"time_zone": "UTC"}), "checkpoints.time_zone"),
        (changed(checkpoints={"every": None, "cron": "61 * * * *"}), "checkpoints.cron"),
        (changed(checkpoints={"every": None, "cron": "* * * * * *"}), "checkpoints.cron"),
        (changed(checkpoints={"every": None, "cron": "0 0 30 2 *"}), "checkpoints.cron"),
        (changed(targets={"rpo": "soon"}), "targets.rpo"),
        (changed(recovery={"on_error": "contine"}), "recovery.on_error"),
        (
            changed(recovery={"networks": {"production": "isolated"}}),
            "recovery.networks.production",
        ),
        (changed(recovery={"after": ["dns"]}), "recovery.after"),
        (changed(after="dns"), "after"),
        (changed(after=["a b"]), "after[0]"),
        (changed(after=["shop"]), "after[0]"),
        (changed(after=["dns", "dns"]), "after[1]"),
        (changed(after=[f"p{number}" for number in range(51)]), "after[50]"),
        (changed(manual_steps=[]), "manual_steps"),
        (changed(recovery={"manual_steps": {}}), "recovery.manual_steps"),
        (by_hand(at="before-boot"), "recovery.manual_steps[0].at"),
        (by_hand(at="before-boot-order"), "recovery.manual_steps[0].boot_order"),
        (by_hand(boot_order=1), "recovery.manual_steps[0].boot_order"),
        (by_hand(at="before-boot-order", boot_order=9), "recovery.manual_steps[0].boot_order"),
        (by_hand(name="a b"), "recovery.manual_steps[0].name"),
        (by_hand(text=""), "recovery.manual_steps[0].text"),
        (by_hand(owner=7), "recovery.manual_steps[0].owner"),
        (by_hand(timeout="0s"), "recovery.manual_steps[0].timeout"),
        (by_hand(on_timeout="stop"), "recovery.manual_steps[0].on_timeout"),
        (by_hand(operations=["reverse"]), "recovery.manual_steps[0].operations[0]"),
        (by_hand(who="me"), "recovery.manual_steps[0].who"),
        (by_hand({"name": "dns"}), "recovery.manual_steps[1].name"),
        (with_vm(manual_steps=[{**STEP, "at": "before-pre-script"}]), "vms[0].manual_steps[0].at"),
        (changed(recovery={"build_ahead": 1}), "recovery.build_ahead"),
        (with_vm(boot_order=0), "vms[0].boot_order"),
        (with_vm(boot_order=True), "vms[0].boot_order"),
        (with_vm(boot_delay="25h"), "vms[0].boot_delay"),
        (with_vm(ready={"tcp": 0}), "vms[0].ready.tcp"),
        (with_vm(ready={"http": "health"}), "vms[0].ready.http"),
        (with_vm(ready={"http": "70000/health"}), "vms[0].ready.http"),
        (with_vm(ready={"tcp": 1, "http": "/"}), "vms[0].ready"),
        (with_vm(after="app"), "vms[0].after"),
        (with_vm(bootorder=1), "vms[0].bootorder"),
        (with_vm(credentials={"admin": "vault:x"}), "vms[0].credentials.admin"),
        (with_vm(credentials={"a b": "env:X"}), "vms[0].credentials.a b"),
        (with_vm(post_script={"run": "scripts/none.sh"}), "vms[0].post_script.run"),
        (with_vm(post_script={"run": "scripts/page"}), "vms[0].post_script.runtime"),
        (
            with_vm(post_script={"run": "scripts/page.sh", "runtime": "perl"}),
            "vms[0].post_script.runtime",
        ),
        (
            with_vm(post_script={"run": "scripts/page.sh", "always": True}),
            "vms[0].post_script.always",
        ),
        (
            with_vm(post_script={"run": "scripts/page.sh", "operations": ["reverse"]}),
            "vms[0].post_script.operations[0]",
        ),
        (
            changed(recovery={"pre_script": {"run": "scripts/page.sh", "on_failure": "fail_vm"}}),
            "recovery.pre_script.on_failure",
        ),
        (
            changed(replication={"synchronize": False, "pre_script": "scripts/page.sh"}),
            "replication.pre_script",
        ),
        (changed(vms={"overrides": []}), "vms.match"),
    ],
)
def test_a_wrong_field_is_named_by_its_path(document: object, path: str) -> None:
    assert path in [line.split(": found")[0] for line in problems(document)]


def test_all_problems_come_at_once() -> None:
    document = changed(name="?", targets={"rpo": 1}, vms=["db", "db", {"boot_order": 0}])
    paths = {line.split(": found")[0] for line in problems(document)}
    assert paths >= {"name", "targets.rpo", "vms[1].name", "vms[2].name", "vms[2].boot_order"}


def test_a_duplicate_vm_points_at_the_first() -> None:
    lines = problems(changed(vms=["db", "web", "db"]))
    assert lines == [
        'vms[2].name: found "db" a second time, first in vms[0]; allowed: each VM once'
    ]


def test_a_secret_written_by_mistake_is_not_repeated() -> None:
    for document in (
        with_vm(credentials={"admin": "hunter2"}),
        with_vm(credentials={"admin": "hunter2:x"}),
        with_vm(credentials={"admin": ["hunter2"]}),
        with_vm(credentials="hunter2"),
    ):
        assert not any("hunter2" in line for line in problems(document))


def test_the_shortest_interval_is_the_callers_setting() -> None:
    document = changed(replication={"interval": "2s"})
    assert parse_plan(document, scripts=SCRIPTS, interval_min_s=1).replication.interval_s == 2.0
    assert "from 1m to 30d" in problems(document)[0]


def test_without_a_start_ticks_fall_on_whole_multiples() -> None:
    plan = parse(changed(replication={"start_at": None}))
    assert plan.replication.start_at == plans.START_AT_DEFAULT


def test_replication_scripts_stand_at_the_plan_and_at_the_vm() -> None:
    document = changed(
        replication={"post_script": "scripts/page.sh"},
        vms=[{"name": "db", "replication": {"pre_script": {"run": "scripts/check.py"}}}],
    )
    plan = parse(document)
    assert plan.replication.post_script is not None
    assert plan.replication.post_script.operations == plans.REPLICATION_OPERATIONS
    around = plan.vms[0].replication.pre_script
    assert around is not None
    assert around.runtime == "python"
    assert (("vms", 0, "replication", "pre_script", "run"), "scripts/check.py") in script_paths(
        document
    )


def test_selectors_take_the_sites_vms_and_keep_overrides() -> None:
    document = changed(
        vms={"match": "shop-*", "overrides": [{"name": "shop-db", "boot_order": 1}, "gone"]}
    )
    resolution = resolve(parse(document), ["shop-web", "shop-db", "other", "shop-app"])
    assert [vm.name for vm in resolution.vms] == ["shop-db", "gone", "shop-app", "shop-web"]
    assert resolution.missing == ("gone",)
    everything = resolve(parse(changed(vms="all")), ["b", "a"])
    assert [vm.name for vm in everything.vms] == ["a", "b"]
    written = resolve(parse(SHOP), ["db", "app"])
    assert written.missing == ("web",)


def test_a_request_carries_the_scripts_and_only_those_named() -> None:
    sent = {**SCRIPTS, "extra": b"unused"}
    encoded = {path: base64.b64encode(content).decode() for path, content in sent.items()}
    parsed = parse_request({"plan": SHOP, "scripts": encoded})
    assert parsed.definition == parse(SHOP)
    assert set(parsed.blobs.values()) == set(SCRIPTS.values())
    assert all(hashlib.sha256(blob).hexdigest() == key for key, blob in parsed.blobs.items())


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"plan": SHOP, "scripts": {"scripts/page.sh": "no base64!"}},
        {"plan": SHOP, "scripts": []},
        {"plan": SHOP, "scripts": {}, "other": 1},
        {"plan": SHOP},
    ],
)
def test_a_bad_request_is_refused_with_problems(body: object) -> None:
    with pytest.raises(DefinitionErrors):
        parse_request(body)


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["all", "15m", "0 0 L/2 * *", "1#2/3 * * * *", "* * LW,3 * *", "9" * 50]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [path]
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, (*path, key))
    if isinstance(value, list):
        for index, item in enumerate(value):
            found += places(item, (*path, index))
    return found


CRON = changed(
    checkpoints={"every": None, "cron": "0 * * * *", "time_zone": "UTC"},
    replication={"blackouts": [{"from": "08:00", "to": "09:00", "days": ["mon"]}]},
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(places(CRON)), JUNK)
def test_junk_anywhere_gives_a_plan_or_problems_never_another_error(
    path: tuple[str | int, ...], junk: object
) -> None:
    document: Any = copy.deepcopy(CRON)
    if path:
        level = document
        for part in path[:-1]:
            level = level[part]
        level[path[-1]] = junk
    else:
        document = junk
    try:
        plan = parse(document)
    except DefinitionErrors as errors:
        assert errors.problems
        msgspec.json.encode(errors.problems)
    else:
        assert msgspec.json.decode(canonical(plan))


CRON_PART = st.text(alphabet="0123456789*/-,#LWSUNMON", min_size=1, max_size=8)


@settings(max_examples=400, deadline=None)
@given(st.lists(CRON_PART, min_size=5, max_size=5))
def test_any_cron_line_reads_or_is_refused(parts: list[str]) -> None:
    document = changed(checkpoints={"every": None, "cron": " ".join(parts)})
    try:
        parse(document)
    except DefinitionErrors as errors:
        assert {problem.path for problem in errors.problems} == {("checkpoints", "cron")}


def test_a_script_runs_only_in_the_operations_it_names() -> None:
    document = with_vm(
        post_script={"run": "scripts/page.sh", "operations": ["failover", "test", "test"]}
    )
    script = parse(document).vms[0].post_script
    assert script is not None
    assert script.operations == ("test", "failover")
    assert script.runtime == "sh"
    assert script.timeout_s == 300.0
    assert script.on_failure is None


def test_manual_steps_stand_at_the_plan_and_at_the_vm() -> None:
    document = by_hand(
        {"name": "vip", "text": "move it", "at": "before-boot-order", "boot_order": 2}, owner="net"
    )
    step = {"name": "look", "text": "look at it", "at": "after-boot", "timeout": "10m"}
    document["vms"][0]["manual_steps"] = [{**step, "on_timeout": "continue"}]
    definition = parse(document)
    first, second = definition.recovery.manual_steps
    assert (first.owner, first.timeout_s, first.on_timeout) == ("net", 86_400.0, "fail")
    assert first.operations == ("test", "failover", "migrate", "failback")
    assert (second.at, second.boot_order) == ("before-boot-order", 2)
    (look,) = definition.vms[0].manual_steps
    assert (look.at, look.timeout_s, look.on_timeout) == ("after-boot", 600.0, "continue")


def test_a_manual_steps_name_is_used_once_per_level() -> None:
    (problem,) = problems(by_hand(STEP))
    assert "recovery.manual_steps[1].name" in problem
    assert "first in recovery.manual_steps[0]" in problem


def test_blackouts_read_as_daily_or_single_windows() -> None:
    windows = [
        {"from": "22:00", "to": "06:00", "days": ["sun", "mon"], "time_zone": "Asia/Kolkata"},
        {"from": "2026-11-22T20:00:00Z", "to": "2026-11-22T23:30:00+01:00"},
        {"from": "12:00", "to": "13:00"},
    ]
    daily, once, lunch = parse(changed(replication={"blackouts": windows})).replication.blackouts
    assert daily == plans.DailyBlackout(
        from_minute=1_320, to_minute=360, days=(0, 6), time_zone="Asia/Kolkata"
    )
    assert isinstance(once, plans.OnceBlackout)
    assert (once.ends_at - once.starts_at).total_seconds() == 9_000
    assert isinstance(lunch, plans.DailyBlackout)
    assert lunch.days == (0, 1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    ("ready", "probe"),
    [
        ("heartbeat", plans.ReadyProbe()),
        ({"heartbeat": True, "within": "1m"}, plans.ReadyProbe(within_s=60.0)),
        ({"within": "1m"}, plans.ReadyProbe(within_s=60.0)),
        ({"http": "8080/a/b?c=1"}, plans.ReadyProbe(kind="http", port=8080, path="/a/b?c=1")),
        ({"http": "/"}, plans.ReadyProbe(kind="http", path="/")),
    ],
)
def test_readiness_reads_in_its_short_and_long_forms(
    ready: object, probe: plans.ReadyProbe
) -> None:
    assert parse(with_vm(ready=ready)).vms[0].ready == probe


def test_the_plans_post_script_may_run_after_cancel() -> None:
    document = changed(recovery={"post_script": {"run": "scripts/check.py", "always": True}})
    script = parse(document).recovery.post_script
    assert script is not None
    assert script.always


def test_cron_replaces_every() -> None:
    checkpoints = {"every": None, "cron": "0  */4 * * *", "time_zone": "Asia/Kolkata"}
    policy = parse(changed(checkpoints=checkpoints)).checkpoints
    assert policy is not None
    assert (policy.cron, policy.time_zone) == ("0 */4 * * *", "Asia/Kolkata")
    assert policy.every_s is None


def test_a_script_has_a_network_only_where_the_plan_says_so() -> None:
    script = {"run": "scripts/page.sh"}
    without = parse(with_vm(post_script=script)).vms[0].post_script
    allowed = parse(with_vm(post_script={**script, "network": True})).vms[0].post_script
    assert without is not None and not without.network
    assert allowed is not None and allowed.network
    (problem,) = problems(with_vm(post_script={**script, "network": "lan"}))
    assert "vms[0].post_script.network" in problem


def test_the_documented_table_of_hooks_is_the_one_in_force() -> None:
    kinds: tuple[plans.HookKind, ...] = (
        "plan-replication",
        "vm-replication",
        "plan-recovery",
        "vm-recovery",
    )
    rows = [
        f"| `{name}` | {' | '.join(row.get(kind, '–') for kind in kinds)} |"
        for name, row in plans.HOOKS.items()
    ]
    assert "\n".join(rows) in (ROOT / "docs" / "plan-file.md").read_text()
