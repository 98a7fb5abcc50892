"""Prep nodes over the API, and a Windows recovered through the whole control plane."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.gateway.desk import Desk, plan_body
from tests.waiting import eventually
from tests.windows.guests import usual_volume
from tests.windows.images import gpt_disk, require_ntfs

pytestmark = pytest.mark.asyncio(loop_scope="module")

NODES = "prep_nodes: [{name: prep1, seats: 3}, {name: prep2}]\n"


def windows_vm(folder: Path, name: str) -> None:
    """A source VM with a real NTFS disk of a Windows."""
    home = folder / "vms" / name
    home.mkdir(parents=True)
    document = {"name": name, "os": "windows", "disks": [{"name": "sda", "file": "sda.raw"}]}
    (home / "vm.yaml").write_text(yaml.safe_dump(document))
    gpt_disk(home / "sda.raw", [usual_volume()])


async def prep_nodes(desk: Desk, site: str) -> dict[str, Any]:
    answer = await desk.get("/v1/nodes?limit=1000")
    assert answer.status == 200, answer
    return {
        node["name"]: node
        for node in answer.body["items"]
        if node["site"] == site and node["kind"] == "prep"
    }


async def test_a_sites_prep_nodes_are_listed_before_anybody_used_one_and_drained(
    desk: Desk,
) -> None:
    folder = await desk.site("drained")
    (folder / "site.yaml").write_text(NODES)
    assert (await desk.command("/v1/sites/drained/check")).status == 200
    found = await prep_nodes(desk, "drained")
    assert {(n["name"], n["state"], n["capacity"]) for n in found.values()} == {
        ("drained-prep1", "off", 3),
        ("drained-prep2", "off", 25),
    }
    for action, drained in (("drain", True), ("drain", True), ("undrain", False)):
        answer = await desk.command(f"/v1/nodes/drained-prep1/{action}")
        assert answer.status == 200, answer
        at = {"Seawall_Position": answer.headers["Seawall-Position"]}
        nodes = (await desk.get("/v1/nodes?limit=1000", **at)).body["items"]
        (node,) = [n for n in nodes if n["name"] == "drained-prep1"]
        assert node["drained"] is drained


async def test_what_is_no_prep_node_cannot_be_drained(desk: Desk) -> None:
    await desk.site("plain")
    assert (await desk.command("/v1/nodes/plain-prep9/drain")).status == 404
    refused = await desk.command("/v1/nodes/plain-replication/drain")
    assert refused.status == 422 and refused.body["remedy"]


async def test_a_windows_is_recovered_through_the_whole_control_plane(desk: Desk) -> None:
    require_ntfs()
    east, west = await desk.site("win-east"), await desk.site("win-west")
    windows_vm(east, "ad")
    (west / "site.yaml").write_text(NODES)
    assert (await desk.command("/v1/plans", plan_body("win", "ad"))).status == 200
    await desk.ended((await desk.command("/v1/plans/win/run")).body["id"])
    dry = await desk.command("/v1/plans/win/recover", {"mode": "test", "dry_run": True})
    facts = (await desk.ended(dry.body["id"]))["facts"]
    assert [warning["code"] for warning in facts["warnings"]] == ["driver-not-boot-start"]
    assert "prepare_windows" in [call["call"] for call in facts["calls"]]
    job = (await desk.command("/v1/plans/win/recover", {"mode": "test"})).body["id"]
    assert (await desk.ended(job))["state"] == "completed"
    (child,) = (await desk.get(f"/v1/jobs?parent_id={job}&vm=ad")).body["items"]
    shown = {step["name"]: step for step in child["steps"]}
    assert [name for name in shown if "windows" in name] == ["prepare-windows", "validate-windows"]
    assert {step["state"] for step in shown.values()} == {"completed"}
    assert "viostor: Start 3 → 0" in shown["prepare-windows"]["output"]

    async def off() -> bool:
        found = await prep_nodes(desk, "win-west")
        return {(n["state"], n["in_use"]) for n in found.values()} == {("off", 0)}

    await eventually(off, "the nodes to be off")
