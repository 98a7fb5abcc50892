"""What an operator does day by day, through the command line and the API, on real services.

One control plane for all of it; every test has two sites and a plan of its own.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.operator import ControlPlane, Said, Sites
from tests.failures import failure_mode
from tests.folders import let_others_in
from tests.waiting import wait_until

SLOW_S = 4


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    root = tmp_path_factory.mktemp("operating")
    # Scripts run as a user of their own, who must reach the home's scripts folder.
    let_others_in(root)
    with ControlPlane(root) as started:
        yield started


@pytest.fixture
def shop(plane: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest) -> Sites:
    """Sites and a plan of one VM that has a copy; its post-script fails."""
    name = request.node.name.partition("[")[0].removeprefix("test_").replace("_", "-")[:40]
    sites = Sites(plane, tmp_path, name.rstrip("-"))
    sites.vm("db")
    sites.add()
    applied = sites.apply(
        "db",
        scripts={"fail.sh": "exit 3\n"},
        recovery={"post_script": {"run": "fail.sh", "runtime": "sh"}},
    )
    assert applied.status == 200, applied
    sites.replicate()
    return sites


def done(answer: Said) -> Said:
    """The command line ended well."""
    assert answer.code == 0, answer
    return answer


def document(answer: Said) -> Any:
    """What `-o json` printed."""
    return json.loads(done(answer).out)


def alerts(shop: Sites) -> dict[str, dict[str, Any]]:
    """The plan's alerts by their id, as the command line shows them."""
    page = document(shop.plane.say("alert", "list", "--plan", shop.name, "-o", "json"))
    return {alert["id"]: alert for alert in page["items"]}


def test_an_alert_is_acknowledged_snoozed_wakes_up_and_is_resolved(shop: Sites) -> None:
    plane = shop.plane
    job = shop.recover()
    assert job["state"] == "partially-completed"
    alert = f"alert:{shop.name}:job-partially-completed:test"

    def is_in(state: str) -> None:
        wait_until(lambda: alerts(shop).get(alert, {}).get("state") == state, f"it is {state}")

    is_in("open")
    done(plane.say("alert", "ack", alert))
    is_in("acknowledged")
    until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=4)
    done(plane.say("alert", "snooze", alert, until.isoformat()))
    is_in("snoozed")
    is_in("open")
    assert dt.datetime.now(dt.UTC) >= until
    done(plane.say("alert", "resolve", alert))
    is_in("resolved")
    major = document(plane.say("alert", "list", "--severity", "major", "-o", "json"))
    assert alert in {each["id"] for each in major["items"]}
    minor = document(plane.say("alert", "list", "--severity", "minor", "-o", "json"))
    assert alert not in {each["id"] for each in minor["items"]}
    assert plane.say("alert", "ack", alert).code == 3
    assert plane.say("alert", "ack", f"{alert}x").code == 4
    shop.clean(job["id"])


def test_a_dry_run_leaves_alerts_as_they_are(shop: Sites) -> None:
    job = shop.recover()
    alert = f"alert:{shop.name}:job-partially-completed:test"
    wait_until(lambda: alert in alerts(shop), "the alert is open")
    shop.clean(job["id"])
    tried = shop.plane.say("recover", shop.name, "--mode", "test", "--dry-run", "--wait")
    assert tried.code == 0, tried
    count = shop.plane.ask("GET", f"/v1/events?plan={shop.name}&type=seawall.alert.resolved")
    assert count.body["items"] == [] and alerts(shop)[alert]["state"] == "open"


def test_alerts_go_with_the_plan_that_is_deleted(shop: Sites) -> None:
    job = shop.recover()
    wait_until(lambda: bool(alerts(shop)), "an alert is open")
    shop.clean(job["id"])
    done(shop.plane.say("plan", "delete", shop.name))
    wait_until(
        lambda: {each["state"] for each in alerts(shop).values()} == {"resolved"},
        "the plan's alerts are resolved",
    )


def test_a_vm_that_is_reset_is_copied_anew(shop: Sites) -> None:
    done(shop.plane.say("vm", "reset", shop.name, "db"))
    assert shop.replicate()["note"] == "resync"
    assert shop.plane.say("vm", "reset", shop.name, "nobody").code == 4
    listed = document(shop.plane.say("vm", "list", "--plan", shop.name, "-o", "json"))
    assert [vm["name"] for vm in listed["items"]] == ["db"]
    assert listed["as_of"]["position"] > 0


def test_the_queue_shows_what_runs_and_what_it_spends(shop: Sites) -> None:
    started = slow_recovery(shop)
    found: list[dict[str, Any]] = []

    def is_shown() -> bool:
        page = document(shop.plane.say("queue", "-o", "json"))
        found[:] = [item for item in page["items"] if item["plan"] == shop.name]
        return any(item["kind"] == "create-instance" and item["worker"] for item in found)

    wait_until(is_shown, "the instance's creation is in the queue")
    item = next(each for each in found if each["kind"] == "create-instance")
    assert (item["service"], item["class"], item["position"]) == ("recovery", "recovery", 1)
    assert item["effect_id"].endswith("/create-instance") and item["attempt"] == 0
    assert item["needs"] == [f"rate {shop.name}-west/RunInstances"]
    shop.plane.ended(started)
    shop.clean(started)


def slow_recovery(shop: Sites) -> str:
    """A test recovery that takes some seconds to create its instance."""
    # A change of a site's file is seen at the next call.
    shop.settings(shop.west, latency={"create_instance": f"{SLOW_S}s"})
    job = done(shop.plane.say("recover", shop.name, "--mode", "test")).out.strip()
    assert job.startswith(f"recovery:{shop.name}:")
    return job


def test_a_job_is_cancelled_and_what_it_made_is_cleaned(shop: Sites) -> None:
    job = slow_recovery(shop)
    told = done(shop.plane.say("job", "cancel", job))
    assert job in told.out
    assert shop.plane.ended(job)["state"] == "cancelled"
    assert shop.plane.say("job", "watch", job).code == 5
    assert shop.plane.say("job", "cancel", job).code == 3
    assert shop.plane.say("job", "cancel", "recovery:none:x").code == 4
    shown = document(shop.plane.say("job", "show", job, "-o", "json"))
    if shown["awaits_cleanup"]:
        shop.clean(job)
    assert shop.left_behind() == []


def checkpoints(shop: Sites) -> dict[str, tuple[str, bool]]:
    """State and mark of the plan's checkpoints."""
    page = document(shop.plane.say("checkpoint", "list", shop.name, "-o", "json"))
    return {each["id"]: (each["state"], each["preserved"]) for each in page["items"]}


def test_a_checkpoint_is_preserved_let_go_and_deleted(shop: Sites) -> None:
    plane = shop.plane
    made = done(plane.say("checkpoint", "create", shop.name, "--wait", "-o", "json"))
    checkpoint = json.loads(made.out)["id"]
    assert checkpoints(shop) == {checkpoint: ("available", False)}
    done(plane.say("checkpoint", "preserve", checkpoint))
    assert checkpoints(shop) == {checkpoint: ("available", True)}
    refused = plane.say("checkpoint", "delete", checkpoint)
    assert refused.code == 3 and "preserved" in refused.err
    assert list((shop.west / "checkpoints").glob("*/*")) != []
    done(plane.say("checkpoint", "unpreserve", checkpoint))
    done(plane.say("checkpoint", "delete", checkpoint))
    wait_until(lambda: checkpoints(shop)[checkpoint][0] == "deleted", "it is deleted")
    assert plane.say("checkpoint", "delete", f"checkpoint:{shop.name}:none").code == 4


def open_alert(shop: Sites, alert: str, *, is_open: bool) -> None:
    """Wait until the alert is open, or over."""
    wait_until(
        lambda: alerts(shop).get(alert, {}).get("state") == ("open" if is_open else "resolved"),
        f"{alert} is {'open' if is_open else 'over'}",
        within_s=40.0,
    )


def test_a_checkpoint_that_cannot_be_deleted_is_an_alert_until_it_is(shop: Sites) -> None:
    plane = shop.plane
    made = done(plane.say("checkpoint", "create", shop.name, "--wait", "-o", "json"))
    checkpoint = json.loads(made.out)["id"]
    shop.settings(shop.west, faults={"delete_checkpoint": 1.0})
    done(plane.say("checkpoint", "delete", checkpoint))
    alert = f"alert:{shop.name}:checkpoint-left:{checkpoint.rpartition(':')[2]}"
    open_alert(shop, alert, is_open=True)
    assert checkpoints(shop)[checkpoint][0] == "expiring"
    assert plane.job(f"{checkpoint}.delete")["error"]["message"]
    shop.settings(shop.west)
    open_alert(shop, alert, is_open=False)
    assert checkpoints(shop)[checkpoint][0] == "deleted"


@failure_mode(
    "Recovery site",
    "cut off",
    sees=(
        "Something cannot be removed: the alert names it, and the removal is tried again "
        "until it is done."
    ),
    does="Mend what the alert says. It resolves by itself.",
)
def test_a_cleanup_that_is_stuck_is_an_alert_until_it_is_done(shop: Sites) -> None:
    job = shop.recover()
    shop.settings(shop.west, faults={"delete_instance": 1.0})
    cleanup = done(shop.plane.say("cleanup", job["id"])).out.strip()
    alert = f"alert:{shop.name}:cleanup-incomplete:{job['id'].rpartition(':')[2]}"
    open_alert(shop, alert, is_open=True)
    assert shop.plane.job(cleanup)["state"] == "running"
    shop.settings(shop.west)
    assert shop.plane.ended(cleanup, within_s=60.0)["state"] == "completed"
    open_alert(shop, alert, is_open=False)
    assert shop.left_behind() == []


def test_a_plans_life_through_the_command_line(shop: Sites, tmp_path: Path) -> None:
    plane, file = shop.plane, tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(shop.plan("db", targets={"rpo": "1h"})))
    done(plane.say("plan", "apply", "-f", str(file)))
    history = document(plane.say("plan", "history", shop.name, "-o", "json"))
    assert [event["data"]["plan_version"] for event in history["items"]] == [1, 2]
    assert history["next"] is None and history["as_of"]["position"] > 0
    done(plane.say("plan", "prioritise", shop.name, "1"))
    done(plane.say("plan", "stop", shop.name))
    shown = document(plane.say("plan", "show", shop.name, "-o", "json"))
    assert (shown["priority"], shown["state"]) == (1, "stopped")
    assert plane.say("plan", "prioritise", shop.name, "9").code in (2, 3)
    done(plane.say("plan", "start", shop.name, "--vm", "db"))
    assert document(plane.say("plan", "show", shop.name, "-o", "json"))["state"] == "running"
    here = document(
        plane.say("plan", "list", "--recovery-site", f"{shop.name}-west", "-o", "json")
    )
    assert [plan["name"] for plan in here["items"]] == [shop.name]
    done(plane.say("plan", "delete", shop.name))
    assert plane.say("plan", "show", shop.name).code == 4
    assert plane.say("plan", "delete", shop.name).code == 4
    assert list((shop.west / "replicas").glob("*")) != [], "copies at the recovery site stay"


def test_a_script_that_is_not_there_is_not_skipped(shop: Sites) -> None:
    for skip, code, named in (
        ("pre_script", 2, "'pre_script'"),
        ("post-recovery:dbb", 4, "'dbb'"),
        ("pre-recovery", 3, "pre-recovery"),
    ):
        answer = shop.plane.say("recover", shop.name, "--mode", "test", "--skip-script", skip)
        assert answer.code == code, answer
        assert named in answer.err and "this recovery has post-recovery" in answer.err
    jobs = shop.plane.ask("GET", f"/v1/jobs?plan={shop.name}&kind=test-recovery")
    assert jobs.body["items"] == []


@pytest.mark.parametrize("job", ["UNKNOWN", "recovery", "recovery:none:x", "iteration:a:b:c"])
def test_a_cleanup_of_what_is_none_is_not_found(plane: ControlPlane, job: str) -> None:
    answer = plane.say("cleanup", job)
    assert answer.code == 4 and job in answer.err, answer
