"""A migration and a test of which one VM never comes up: undone by themselves, if wanted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from shared.platforms.lab import tools
from tests.acceptance.operator import ControlPlane, Said, Sites
from tests.waiting import wait_until

VMS = ("db", "web")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """A plan that wants it, of which `web` is never ready: nobody listens at its port."""
    root = tmp_path_factory.mktemp("auto")
    root.chmod(0o755)
    with ControlPlane(root) as plane:
        sites = Sites(plane, root / "sites", "shop")
        for vm in VMS:
            sites.vm(vm)
        sites.add()
        document = sites.plan(recovery={"auto_rollback": True})
        document["vms"] = [{"name": "db"}, {"name": "web", "ready": {"tcp": 9, "within": "2s"}}]
        applied = plane.command("/v1/plans", {"plan": document, "scripts": {}})
        assert applied.status == 200, applied
        tools.start(sites.east)
        sites.replicate()
        yield sites
        for folder in [*(sites.east / "vms").iterdir(), *sites.instances()]:
            tools.stop(folder, grace_s=0)


def recover(shop: Sites, mode: str, *options: str) -> tuple[Said, dict[str, Any]]:
    said = shop.plane.say(
        "recover", "shop", "--mode", mode, "--yes", "--wait", "-o", "json", *options
    )
    assert said.code == 6, said
    return said, json.loads(said.out)


def holds(shop: Sites) -> list[Any]:
    vms = shop.plane.ask("GET", "/v1/plans/shop").body["vms"]
    return [hold for vm in vms for hold in vm["holds"]]


def power(shop: Sites) -> dict[str, str]:
    return {machine.name: machine.power for machine in tools.status(shop.east)}


def test_a_migration_is_rolled_back_and_replicated_again(shop: Sites) -> None:
    _, job = recover(shop, "migrate")
    undoing = shop.plane.ended(job["facts"]["undone_by"])
    assert (undoing["kind"], undoing["state"]) == ("rollback", "completed")
    assert undoing["facts"]["automatic"] is True
    assert [each["bytes"] for each in undoing["facts"]["discards"]] == [0, 0]
    assert shop.instances() == []
    assert power(shop) == dict.fromkeys(VMS, "on")
    wait_until(lambda: not holds(shop), "the holds are given back")
    shop.replicate()


def test_a_test_is_cleaned_and_a_failover_is_left_to_a_person(shop: Sites) -> None:
    _, job = recover(shop, "test")
    undoing = shop.plane.ended(job["facts"]["undone_by"])
    assert (undoing["kind"], undoing["state"]) == ("cleanup", "completed")
    assert shop.instances() == []
    wait_until(lambda: not holds(shop), "the holds are given back")
    _, kept = recover(shop, "test", "--no-auto-rollback")
    assert "undone_by" not in kept["facts"] and len(shop.instances()) == 2
    assert shop.clean(kept["id"])["state"] == "completed"
    wait_until(lambda: not holds(shop), "the holds are given back")
    refused = shop.plane.say("recover", "shop", "--mode", "failover", "--yes", "--auto-rollback")
    assert refused.code in (2, 3) and "never rolled back by itself" in refused.err
    _, failed_over = recover(shop, "failover")
    assert failed_over["awaits_commit"] and len(shop.instances()) == 2
    assert "undone_by" not in failed_over["facts"]
    back = shop.plane.say("rollback", failed_over["id"], "--confirm", "shop", "--wait")
    assert back.code == 0, back
    wait_until(lambda: not holds(shop), "the holds are given back")
    shop.replicate()
