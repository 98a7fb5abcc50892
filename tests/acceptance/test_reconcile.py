"""`seawall log reconcile`: a restored log against sites that went on without it."""

from __future__ import annotations

import asyncio
import json
import urllib.parse
from pathlib import Path
from typing import Any

from shared.clock import SystemClock
from shared.platforms.lab.manifest import open_platform
from shared.platforms.ports import Call
from tests.acceptance.operator import ControlPlane, Sites
from tests.failures import failure_mode
from tests.waiting import wait_until


def reconciled(plane: ControlPlane, *, code: int) -> set[tuple[str, ...]]:
    """(difference, kind, VM, who acts) of every difference."""
    answer = plane.say("log", "reconcile", "-o", "json")
    assert answer.code == code, answer
    document = json.loads(answer.out)
    assert document["same"] is (code == 0)
    return {(each["code"], each["kind"], each["vm"], each["by"]) for each in document["items"]}


def checkpoint(sites: Sites) -> str:
    """A checkpoint of the plan that is available."""
    made = sites.plane.command(f"/v1/plans/{sites.name}/checkpoints").body["id"]
    assert sites.plane.ended(made)["state"] == "completed"
    return str(made)


def delete(sites: Sites, checkpoint_id: str) -> None:
    path = f"/v1/checkpoints/{urllib.parse.quote(checkpoint_id, safe='')}"
    answer = sites.plane.command(path, method="DELETE")
    assert sites.plane.ended(answer.body["id"])["state"] == "completed"


async def _abandon(sites: Sites) -> None:
    """A snapshot and a staged generation of an iteration that no log has."""
    call = Call(
        key="lost/snapshot",
        plan=sites.name,
        vm="db",
        job=f"iteration:{sites.name}:db:x",
        # As high as claims of that moment are, which begin at the milliseconds since 1970.
        lease=int(SystemClock().now().timestamp() * 1000),
    )
    east = open_platform({"path": str(sites.east)})
    west = open_platform({"path": str(sites.west)})
    try:
        await east.source.open_snapshot(call, vm="db")
        await west.target.open_generation(call, disk="sda", size=1 << 20)
    finally:
        await east.close()
        await west.close()


def work_on(sites: Sites, recovery: str, old: str) -> None:
    """What happens after the export and is lost with its log."""
    assert sites.clean(recovery)["state"] == "completed"
    assert sites.replicate()["state"] == "completed"
    checkpoint(sites)
    delete(sites, old)
    assert sites.recover()["state"] == "completed"
    asyncio.run(_abandon(sites))


LOST = {
    ("copy-newer", "copy", "db", "seawall"),
    ("copy-newer", "copy", "web", "seawall"),
    ("checkpoint-unknown", "checkpoint", "db", "operator"),
    ("checkpoint-unknown", "checkpoint", "web", "operator"),
    ("checkpoint-missing", "checkpoint", "db", "operator"),
    ("checkpoint-missing", "checkpoint", "web", "operator"),
    ("unknown-job", "instance", "db", "operator"),
    ("unknown-job", "instance", "web", "operator"),
    ("gone", "instance", "db", "operator"),
    ("gone", "instance", "web", "operator"),
    ("unknown-job", "snapshot", "db", "operator"),
    ("unknown-job", "generation", "db", "seawall"),
}


def tree(root: Path) -> dict[str, Any]:
    """Every file of the sites but the journals of calls."""
    return {
        str(path): path.stat().st_mtime_ns
        for path in root.rglob("*")
        if path.is_file() and path.name != "calls.jsonl" and ".lab" not in path.parts
    }


@failure_mode(
    "Log and read models",
    "lying",
    sees="After an import the log knows nothing of what happened since its export: copies at the "
    "sites are newer, checkpoints and instances belong to nobody.",
    does="`seawall log reconcile` before the services are started: each difference with what "
    "follows or what to do.",
)
def test_a_restored_log_is_told_apart_from_what_the_sites_have_since(tmp_path: Path) -> None:
    for name in ("plane", "other", "sites"):
        (tmp_path / name).mkdir(mode=0o755)
    folder = str(tmp_path / "export")
    with ControlPlane(tmp_path / "plane") as plane:
        sites = Sites(plane, tmp_path / "sites", "shop")
        for vm in ("db", "web"):
            sites.vm(vm)
        sites.add()
        assert sites.apply("db", "web").status == 200
        assert reconciled(plane, code=0) == set()
        assert sites.replicate()["state"] == "completed"
        # Nor is there one while jobs are at work.
        sites.settings(sites.west, latency={"finalize": "3s"})
        run = plane.command(f"/v1/plans/{sites.name}/run").body["id"]
        wait_until(lambda: bool(sites.staged()), "generations are staged")
        assert reconciled(plane, code=0) == set()
        assert plane.ended(run)["state"] == "completed"
        sites.settings(sites.west)
        recovery, old = sites.recover()["id"], checkpoint(sites)
        assert reconciled(plane, code=0) == set()
        assert plane.say("log", "export", folder).code == 0
        work_on(sites, recovery, old)
    other = ControlPlane(tmp_path / "other")
    assert other.say("log", "import", folder).code == 0
    before = tree(tmp_path / "sites")
    assert reconciled(other, code=5) == LOST
    shown = other.say("log", "reconcile")
    assert shown.code == 5
    assert f"you: `seawall cleanup {recovery}`" in shown.out
    assert f"you: `seawall checkpoint delete {old}`" in shown.out
    assert tree(tmp_path / "sites") == before
    with other:
        sites.plane = other
        path = f"/v1/checkpoints/{urllib.parse.quote(old, safe='')}"
        wait_until(lambda: other.ask("GET", path).status == 200, "the read models are folded")
        # As it was told: two commands, and an iteration does the rest of Seawall's part.
        assert sites.clean(recovery)["state"] == "completed"
        delete(sites, old)
        assert sites.replicate()["state"] == "completed"
        assert reconciled(other, code=5) == {
            told for told in LOST if told[0] in ("checkpoint-unknown", "unknown-job")
        } - {("unknown-job", "generation", "db", "seawall")}


def test_a_site_that_cannot_be_listed_is_never_taken_for_an_empty_one(tmp_path: Path) -> None:
    for name in ("plane", "sites"):
        (tmp_path / name).mkdir(mode=0o755)
    with ControlPlane(tmp_path / "plane") as plane:
        sites = Sites(plane, tmp_path / "sites", "shop")
        sites.vm("db")
        sites.add()
        assert sites.apply("db").status == 200
        assert sites.replicate()["state"] == "completed"
    sites.west.rename(tmp_path / "away")
    assert reconciled(plane, code=5) == {("not-listed", "site", "", "operator")}
    (tmp_path / "away").rename(sites.west)
    assert reconciled(plane, code=0) == set()
