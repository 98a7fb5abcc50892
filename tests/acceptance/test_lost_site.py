"""A site that was given up comes back with its VMs running, on real services, bytes and mail.

Two VMs of three were failed over while their site could not be reached; the third stayed at home.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.platforms.lab import tools
from shared.platforms.lab.writer import LabWriter
from tests.acceptance.operator import ControlPlane, Said, Sites
from tests.failures import failure_mode
from tests.integration.notifier.mailbox import Mailbox, mailbox
from tests.waiting import wait_until

LOST, HOME = ("app", "db"), "web"
WRITTEN = 64 * 1024


@pytest.fixture(scope="module")
def box() -> Iterator[Mailbox]:
    with mailbox() as opened:
        yield opened


@pytest.fixture(scope="module")
def plane(box: Mailbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    root = tmp_path_factory.mktemp("lost")
    root.chmod(0o755)
    mail = {"SEAWALL_SMTP": box.address, "SEAWALL_MAIL_TO": "oncall@example.org"}
    with ControlPlane(root, **mail) as started:
        yield started


@pytest.fixture
def shop(plane: ControlPlane, tmp_path: Path) -> Iterator[Sites]:
    sites = prepared(plane, tmp_path)
    yield sites
    for folder in [*(sites.east / "vms").iterdir(), *sites.instances()]:
        tools.stop(folder, grace_s=0)


def prepared(plane: ControlPlane, root: Path) -> Sites:
    """Three VMs that run and have a copy."""
    sites = Sites(plane, root, "shop")
    for vm in (*LOST, HOME):
        sites.vm(vm)
    sites.add()
    assert sites.apply(*LOST, HOME).status == 200
    tools.start(sites.east)
    sites.replicate()
    return sites


def say(shop: Sites, *arguments: str) -> Said:
    return shop.plane.say(*arguments, "--wait", "-o", "json")


def job_of(said: Said) -> dict[str, Any]:
    assert said.code == 0, said
    found: dict[str, Any] = json.loads(said.out)
    return found


def power(shop: Sites) -> dict[str, str]:
    return {machine.name: machine.power for machine in tools.status(shop.east)}


def alert(shop: Sites, condition: str) -> dict[str, Any]:
    page = shop.plane.ask("GET", "/v1/alerts?plan=shop").body
    return next((each for each in page["items"] if each["condition"] == condition), {})


def fail_over_unreached(shop: Sites) -> str:
    """The site is away, two of its VMs are failed over, and it comes back as it was."""
    away = shop.east.rename(shop.east.with_name("away"))
    try:
        chosen = [word for vm in LOST for word in ("--vm", vm)]
        said = say(
            shop, "recover", "shop", "--mode", "failover", "--source-gone", "--yes", *chosen
        )
        job: str = job_of(said)["id"]
        site = "/v1/sites/shop-east"
        wait_until(
            lambda: shop.plane.ask("GET", site).body["quarantined"], "the site is quarantined"
        )
    finally:
        away.rename(shop.east)
    return job


def calls_of(shop: Sites, name: str) -> list[str]:
    lines = (shop.east / "calls.jsonl").read_text().splitlines()
    calls = [json.loads(line) for line in lines]
    return sorted(call["vm"] for call in calls if call["call"] == name and call["outcome"] == "ok")


@failure_mode(
    "Protected site",
    "lying",
    sees=(
        "It comes back after a failover gave it up, its VMs running: a critical alert and a mail "
        "name each original, since when it runs, and the recovered instance that runs beside it."
    ),
    does=(
        "`seawall site power-off`, which shuts them down and looks whether they are off, then "
        "`seawall site release`. Nothing replicates before."
    ),
)
def test_a_lost_site_that_returns_is_told_powered_off_and_released(
    shop: Sites, box: Mailbox
) -> None:
    job = fail_over_unreached(shop)
    check_it_is_told(shop, box)
    check_nothing_goes_on(shop)
    done = job_of(say(shop, "site", "power-off", "shop-east", "--confirm", "shop-east"))
    assert (done["kind"], done["state"]) == ("site-power-off", "completed")
    assert [(step["name"], step["state"]) for step in done["steps"]] == [
        ("look", "completed"),
        ("power-off app", "completed"),
        ("power-off db", "completed"),
        ("verify", "completed"),
    ]
    assert power(shop) == {"app": "off", "db": "off", HOME: "on"}
    assert calls_of(shop, "shut_down_source") == list(LOST)
    wait_until(lambda: alert(shop, "originals-running")["state"] == "resolved", "the alert closes")
    released = shop.plane.say("site", "release", "shop-east", "--confirm", "shop-east")
    assert released.code == 0, released
    wait_until(lambda: not plan_of(shop)["quarantined"], "the plan may go on")
    assert shop.plane.say("plan", "start", "shop").code == 0
    on = {vm["name"]: vm["sync_state"] for vm in plan_of(shop)["vms"]}
    assert on[HOME] == "in-sync"
    check_roll_back(shop, job)


def plan_of(shop: Sites) -> dict[str, Any]:
    return shop.plane.ask("GET", "/v1/plans/shop").body


def check_it_is_told(shop: Sites, box: Mailbox) -> None:
    # A person who looks at the site need not wait for the next beat.
    assert shop.plane.say("site", "check", "shop-east").code == 0
    wait_until(lambda: alert(shop, "originals-running").get("state") == "open", "the alert")
    found = alert(shop, "originals-running")
    assert found["severity"] == "critical"
    ids = [folder.name for folder in shop.instances()]
    assert len(ids) == 2 and all(
        f"BESIDE its recovered instance {i}" in found["text"] for i in ids
    )
    assert all(f"{vm} runs since 20" in found["text"] for vm in LOST)
    assert HOME not in found["text"].replace("shop-", "")
    assert "seawall site power-off shop-east" in found["remedy"]

    def mailed() -> bool:
        texts = [str(mail.get_body(("plain",))) for mail in box.mails]
        return any(all(f"{vm} runs since" in text for vm in LOST) for text in texts)

    wait_until(mailed, "the mail names them", within_s=60)
    site = shop.plane.ask("GET", "/v1/sites/shop-east").body
    assert (site["originals"], site["doubled"]) == (2, 2)


def check_nothing_goes_on(shop: Sites) -> None:
    for refused in (
        shop.plane.say("plan", "start", "shop"),
        shop.plane.say("plan", "run", "shop"),
    ):
        assert refused.code == 3 and "quarantined" in refused.err
    early = shop.plane.say("site", "release", "shop-east", "--confirm", "shop-east")
    assert early.code == 3 and "2 original(s) were seen to run" in early.err
    assert "--originals-running" in early.err
    unconfirmed = shop.plane.say("site", "power-off", "shop-east")
    assert unconfirmed.code == 3 and unconfirmed.err.count("BESIDE") == 2
    assert power(shop) == {"app": "on", "db": "on", HOME: "on"}


def check_roll_back(shop: Sites, job: str) -> None:
    """It says in bytes what is lost, and switches on what Seawall had switched off."""
    (written,) = [f for f in shop.instances() if "vm: db" in (f / "instance.yaml").read_text()]
    LabWriter(written).write("sda.raw", 4096, b"x" * WRITTEN)
    told = shop.plane.say("rollback", job)
    assert told.code == 3 and "64KiB in all" in told.err, told
    undone = job_of(say(shop, "rollback", job, "--confirm", "shop"))
    assert [step["name"] for step in undone["steps"]][:2] == [
        "look-at-sources",
        "measure-discards",
    ]
    assert undone["facts"]["discarded_bytes"] == WRITTEN
    assert {d["vm"]: d["bytes"] for d in undone["facts"]["discards"]} == {"app": 0, "db": WRITTEN}
    assert power(shop) == {"app": "on", "db": "on", HOME: "on"}
    assert shop.instances() == []


def test_a_watch_outlives_the_death_of_the_control_plane(tmp_path: Path) -> None:
    """Killed while the site is away: the next one finds it back by itself, at the watch's beat."""
    home = tmp_path / "plane"
    home.mkdir()
    for folder in (tmp_path, home):
        folder.chmod(0o755)
    plane = ControlPlane(home)
    with plane:
        shop = prepared(plane, tmp_path / "sites")
        away = shop.east.rename(shop.east.with_name("away"))
        said = say(shop, "recover", "shop", "--mode", "failover", "--source-gone", "--yes")
        assert said.code == 0, said
        wait_until(lambda: plan_of(shop)["quarantined"], "the site is quarantined")
        assert plane.process is not None
        plane.process.kill()
        plane.process.wait()
    with plane:
        away.rename(shop.east)
        wait_until(
            lambda: alert(shop, "originals-running").get("state") == "open",
            "the next one looked",
            within_s=120,
        )
        assert "3 of 3 run, 3 BESIDE" in alert(shop, "originals-running")["text"]
        for folder in shop.instances():
            tools.stop(folder, grace_s=0)
