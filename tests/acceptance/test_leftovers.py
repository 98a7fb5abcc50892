"""`seawall doctor --leftovers`: what sites hold that no job will remove; and what they refuse."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.platforms.lab.manifest import open_platform
from shared.platforms.ports import Call
from tests.acceptance.operator import ControlPlane, Sites
from tests.failures import failure_mode
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("plane")) as started:
        yield started


def left(plane: ControlPlane, *, code: int) -> dict[str, Any]:
    answer = plane.say("doctor", "--leftovers", "-o", "json")
    assert answer.code == code, answer
    document: dict[str, Any] = json.loads(answer.out)
    return document


async def _abandon(sites: Sites, job: str) -> None:
    """A snapshot and a staged generation under a job's tag."""
    call = Call(
        key=f"{job}/left",
        plan=sites.name,
        vm="db",
        job=job,
        # Of the last claim: the next one that finalizes removes what it left.
        lease=json.loads(next(sites.west.rglob("leases.json")).read_text())["sda"],
    )
    east = open_platform({"path": str(sites.east)})
    west = open_platform({"path": str(sites.west)})
    try:
        await east.source.open_snapshot(call, vm="db")
        await west.target.open_generation(call, disk="sda", size=1 << 20)
    finally:
        await east.close()
        await west.close()


def test_what_no_job_will_remove_is_listed_and_what_is_kept_is_not(
    plane: ControlPlane, tmp_path: Path
) -> None:
    sites = Sites(plane, tmp_path, "left")
    sites.vm("db")
    sites.add()
    assert sites.apply("db").status == 200
    copied = sites.replicate()
    recovered = sites.recover()
    assert recovered["state"] == "completed"
    # A recovery that awaits its cleanup is kept: its instances are no left-overs.
    assert left(plane, code=0)["items"] == []
    assert "nothing is left over" in plane.say("doctor", "--leftovers").out

    asyncio.run(_abandon(sites, f"iteration:{sites.name}:db:lost"))
    asyncio.run(_abandon(sites, copied["id"]))
    found = left(plane, code=5)
    assert {(each["kind"], each["code"], each["vm"], each["by"]) for each in found["items"]} == {
        ("snapshot", "unknown-job", "db", "operator"),
        ("snapshot", "left-over", "db", "operator"),
        ("generation", "unknown-job", "db", "seawall"),
        ("generation", "left-over", "db", "seawall"),
    }
    known = [each for each in found["items"] if each["code"] == "left-over"]
    assert all(each["age_s"] >= 0 and each["command"] for each in known)
    listed = {site["name"]: site["objects"] for site in found["sites"]}
    assert listed[f"{sites.name}-east"] == 2
    assert listed[f"{sites.name}-west"] > 2

    text = plane.say("doctor", "--leftovers")
    assert text.code == 5
    assert "delete the snapshot at the site" in text.out
    assert sites.replicate()["state"] == "completed"
    after = left(plane, code=5)["items"]
    assert {each["kind"] for each in after} == {"snapshot"}


def test_a_site_that_cannot_be_listed_is_told_and_is_no_empty_one(
    plane: ControlPlane, tmp_path: Path
) -> None:
    sites = Sites(plane, tmp_path, "away")
    sites.vm("db")
    sites.add()
    sites.west.rename(tmp_path / "hidden")
    answer = plane.say("doctor", "--leftovers")
    (tmp_path / "hidden").rename(sites.west)
    assert f"site {sites.name}-west could not be listed" in answer.err
    assert answer.code in (5, 7)


@failure_mode(
    "Recovery site",
    "slow",
    sees="It refuses calls that it was said to allow: the budget is lowered for all copies, "
    "`seawall queue` shows it, and after ten minutes it is an alert.",
    does="Tell the real limit (`limit.<quota>`), ask for more, or find who else uses it.",
)
def test_what_a_site_refuses_is_shown_with_what_it_was_said_to_allow(
    plane: ControlPlane, tmp_path: Path
) -> None:
    sites = Sites(plane, tmp_path, "busy")
    sites.settings(sites.west, quotas={"CompleteSnapshot": {"burst": 1, "per_second": 0.5}})
    for name in ("db", "web", "app"):
        sites.vm(name)
    for side, *settings in (
        ("east", f"path={sites.east}"),
        ("west", f"path={sites.west}", "limit.CompleteSnapshot=10,10/s"),
    ):
        told = [each for setting in settings for each in ("--set", setting)]
        assert plane.say("site", "add", f"{sites.name}-{side}", *told).code == 0
    assert sites.apply("db", "web", "app").status == 200
    assert sites.replicate()["state"] == "completed"

    def budget() -> dict[str, Any]:
        page = json.loads(plane.say("queue", "-o", "json").out)
        name = f"{sites.name}-west/CompleteSnapshot"
        (found,) = [each for each in page["budgets"] if each["name"] == name]
        return dict(found)

    wait_until(lambda: budget()["lowered"], "the budget to be lowered")
    found = budget()
    assert found["cap"] == 10
    assert 0 < found["limit"] < 10
    assert found["throttled"] >= 1
    assert "(lowered)" in plane.say("queue").out
    assert f"{sites.name}-west/CompleteSnapshot lowered to" in plane.say("doctor").out
