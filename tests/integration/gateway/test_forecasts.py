"""What is predicted of a recovery, and what it takes at a site with latencies and limits."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from shared.forecast.plan import (
    BOOT,
    CREATE,
    DEFAULTS_S,
    HOLD,
    POWER_ON,
    PREP_NODE,
    PREPARE,
    REBUILD,
    VALIDATE,
)
from tests.integration.gateway.desk import Desk, plan_body
from tests.integration.gateway.test_nodes import windows_vm
from tests.windows.images import require_ntfs

pytestmark = pytest.mark.asyncio(loop_scope="module")

SITE = """
latency: {rebuild_disk: 300ms, create_instance: 500ms, power_on: 200ms}
quotas:
  RunInstances: {burst: 2, per_second: 1}
"""
VMS = ("db", "cache", "app-1", "app-2", "web-1", "web-2")
TOLERANCE = 0.2
"""The share by which a prediction of some seven seconds may be off: the engine shares two cores
with the rest of the tests, and what nobody knows yet is assumed."""


def members() -> list[dict[str, Any]]:
    orders = {"db": 1, "cache": 1, "app-1": 2, "app-2": 2, "web-1": 3, "web-2": 3}
    return [
        {
            "name": f"told-{vm}",
            "boot_order": orders[vm],
            "boot_delay": "1s" if vm == "db" else "0s",
        }
        for vm in VMS
    ]


async def recovered(desk: Desk, **fields: Any) -> dict[str, Any]:
    asked = {"mode": "test", **fields}
    return await desk.ended((await desk.command("/v1/plans/told/recover", asked)).body["id"])


def lasted_s(job: dict[str, Any]) -> float:
    ends, begins = (dt.datetime.fromisoformat(job[name]) for name in ("ended_at", "created_at"))
    return (ends - begins).total_seconds()


async def test_a_prediction_holds_before_and_after_the_first_recovery(desk: Desk) -> None:
    east = await desk.site("told-east", *(f"told-{vm}" for vm in VMS))
    for vm in VMS:
        path = east / "vms" / f"told-{vm}" / "vm.yaml"
        path.write_text(path.read_text() + "guest: {boots_in: 1s}\n")
    west = await desk.site("told-west")
    plan = {
        "name": "told",
        "protected_site": "told-east",
        "recovery_site": "told-west",
        "replication": {"interval": "12h"},
        "vms": members(),
    }
    assert (await desk.command("/v1/plans", {"plan": plan, "scripts": {}})).status == 200
    run = await desk.command("/v1/plans/told/run")
    assert (await desk.ended(run.body["id"]))["state"] == "completed"
    (west / "site.yaml").write_text(SITE)
    await desk.limited("told-west/RunInstances")

    first = (await recovered(desk, dry_run=True))["facts"]["forecast"]
    sources = {step: told["from"] for step, told in first["durations"].items()}
    assert sources[CREATE] == sources[POWER_ON] == sources[REBUILD] == "platform"
    assert sources[BOOT] == "platform" and sources[HOLD] == sources["begin"] == "default"
    assert [order["vms"] for order in first["orders"]] == [2, 2, 2]
    # Six creations at two at once and one a second, and three boots: nothing of it is ours.
    assert first["floor_s"] >= 4 + 1
    ended = await recovered(desk)
    assert ended["state"] == "completed", ended
    taken_s = lasted_s(ended)
    assert first["floor_s"] <= taken_s
    assert first["total_s"] == pytest.approx(taken_s, rel=TOLERANCE)

    cleanup = await desk.command(f"/v1/jobs/{ended['id']}/cleanup")
    assert (await desk.ended(cleanup.body["id"]))["state"] == "completed"
    learnt = (await recovered(desk, dry_run=True))["facts"]["forecast"]
    told = learnt["durations"]
    assert {each["from"] for each in told.values()} == {"past-recoveries"}
    assert told[CREATE]["seconds"] == pytest.approx(0.5, abs=0.3)
    assert told["begin"]["seconds"] != DEFAULTS_S["begin"]
    assert learnt["total_s"] == pytest.approx(taken_s, rel=TOLERANCE)
    shown = (await desk.get("/v1/plans/told")).body["rto"]
    assert shown["forecast_s"] == pytest.approx(shown["last_s"], rel=TOLERANCE)


async def test_a_plan_tells_a_forecast_in_its_own_document_alone(desk: Desk) -> None:
    assert (await desk.plan("alone", "alone-db")).status == 200
    shown = (await desk.get("/v1/plans/alone")).body
    assert shown["rto"]["forecast_s"] > DEFAULTS_S[BOOT]
    assert (shown["vms"][0]["boot_delay_s"], shown["vms"][0]["recovery_scripts"]) == (0, [])
    (listed,) = [
        plan for plan in (await desk.get("/v1/plans")).body["items"] if plan["name"] == "alone"
    ]
    assert listed["rto"]["forecast_s"] is None
    now = dt.datetime.now(dt.UTC).isoformat().replace("+00:00", "Z")
    then = (await desk.get(f"/v1/plans/alone?at={now}")).body
    assert then["rto"]["forecast_s"] is None


WINDOWS_SITE = """
prep_nodes: [{name: prep1, seats: 3}]
latency: {power_on_node: 4s, prepare_windows: 2s, validate_windows: 1s, create_instance: 500ms}
"""


async def test_a_windows_is_forecast_with_its_nodes_preparation_and_validation(desk: Desk) -> None:
    """Before anything was recovered by what the platform declares, then by what it took."""
    require_ntfs()
    east, west = await desk.site("wfore-east"), await desk.site("wfore-west")
    windows_vm(east, "wfore-ad")
    (west / "site.yaml").write_text(WINDOWS_SITE)
    assert (await desk.command("/v1/plans", plan_body("wfore", "wfore-ad"))).status == 200
    assert (await desk.command("/v1/sites/wfore-west/check")).status == 200
    await desk.ended((await desk.command("/v1/plans/wfore/run")).body["id"])
    unknown_s = (await desk.get("/v1/plans/wfore")).body["rto"]["forecast_s"]

    async def recover(**fields: Any) -> dict[str, Any]:
        asked = {"mode": "test", **fields}
        return await desk.ended((await desk.command("/v1/plans/wfore/recover", asked)).body["id"])

    facts = (await recover(dry_run=True))["facts"]
    first = facts["forecast"]
    told = first["durations"]
    assert {told[step]["from"] for step in (PREP_NODE, PREPARE, VALIDATE)} == {"platform"}
    assert facts["prep_seats"] == 3
    assert [limit for limit in first["limits"] if limit["name"] == "prep-nodes"]
    known_s = (await desk.get("/v1/plans/wfore")).body["rto"]["forecast_s"]
    assert known_s > unknown_s, "a dry run found out that it is a Windows"

    ended = await recover()
    assert ended["state"] == "completed", ended
    taken_s, rto_s = lasted_s(ended), ended["rto_s"]
    # Nodes come on while disks are rebuilt; reading the disk itself is what nobody declares.
    assert 4 + 2 + 0.5 <= first["ready_s"] <= rto_s * (1 + TOLERANCE)
    assert first["total_s"] >= first["ready_s"] + 1

    cleanup = await desk.command(f"/v1/jobs/{ended['id']}/cleanup")
    assert (await desk.ended(cleanup.body["id"]))["state"] == "completed"
    learnt = (await recover(dry_run=True))["facts"]["forecast"]
    assert learnt["durations"][PREPARE]["from"] == "past-recoveries"
    assert learnt["ready_s"] == pytest.approx(rto_s, rel=TOLERANCE)
    assert learnt["total_s"] == pytest.approx(taken_s, rel=TOLERANCE)
