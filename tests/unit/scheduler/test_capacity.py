"""What sites sustain: plans that cannot hold their interval are refused, with the numbers."""

from __future__ import annotations

from typing import Any

import pytest

from schemas import scheduler as said
from schemas.common import CommandSettled
from schemas.plans import PlanDefinition, ReplicationPolicy, VmDefinition
from schemas.replicator import InspectSite
from schemas.scheduler import SiteLimit
from services.scheduler.domain import capacity
from tests.unit.scheduler.desk import START, Desk, definition

QUARTER_S = 900.0
STARTS = SiteLimit(name="StartSnapshot", per_second=10.0)
WRITES = SiteLimit(name="snapshot-writes", concurrent=100)
FEW_STARTS = SiteLimit(name="StartSnapshot", per_second=0.01)


def load(disks: int, *, interval_s: float = QUARTER_S, vms: int = 1) -> said.SiteLoad:
    return said.SiteLoad(role="recovery", vms=vms, disks=disks, interval_s=interval_s)


def refused(
    asked: said.SiteLoad, *limits: SiteLimit, loads: dict[str, said.SiteLoad] | None = None
) -> str:
    """Why the plan `shop` with this load is refused at west, or nothing."""
    found = capacity.uses("west", "shop", asked, limits=limits, loads=loads or {})
    problem = capacity.refusal(tuple(found))
    return "" if problem is None else problem.message


@pytest.mark.parametrize(
    ("limit", "most", "unit"),
    # The two of limits.md, and the node of 40 disks.
    [
        pytest.param(STARTS, 9_000, "StartSnapshot calls", id="calls"),
        pytest.param(WRITES, 1_200, "snapshot writes", id="writes"),
        pytest.param(
            SiteLimit(name="node", concurrent=40),
            36_000,
            "disk copies on its replication node",
            id="node",
        ),
    ],
)
def test_a_site_sustains_what_its_limit_allows_per_interval_and_not_one_more(
    limit: SiteLimit, most: int, unit: str
) -> None:
    assert refused(load(most), limit) == ""
    message = refused(load(most + 1), limit)
    assert f"west sustains {most:,} {unit} per 15m" in message
    assert f"need {most + 1:,}" in message


def test_the_binding_limit_comes_first() -> None:
    message = refused(load(20_000), STARTS, WRITES)
    assert message.index("snapshot writes") < message.index("StartSnapshot")
    assert "80 at once, 60 s each" in message


def test_all_plans_of_a_site_count_by_their_own_intervals() -> None:
    often = load(3_000, interval_s=QUARTER_S / 3)
    assert refused(load(1), STARTS, loads={"other": load(8_999)}) == ""
    assert "need 9,001, this one 1" in refused(load(1), STARTS, loads={"other": often})


def test_a_limit_that_replication_does_not_spend_binds_nothing() -> None:
    assert refused(load(1_000_000), SiteLimit(name="RunInstances", per_second=0.1)) == ""


def test_a_site_that_is_full_takes_changes_that_ask_for_no_more() -> None:
    loads = {"shop": load(5_000), "other": load(9_000)}
    assert refused(load(5_000), STARTS, loads=loads) == ""
    assert refused(load(4_000), STARTS, loads=loads) == ""
    assert refused(load(5_001), STARTS, loads=loads) != ""


# ── At the desk ──────────────────────────────────────────────────────────────────────────────


def with_limits(desk: Desk, plan: PlanDefinition, disks: int, **fields: Any) -> CommandSettled:
    """Apply a plan whose VMs have so many disks, at a site with few StartSnapshot calls."""
    assert desk.command(said.ApplyPlan, definition=plan, **fields) is None
    for message in desk.take(InspectSite):
        asked = bool(message.vms)
        desk.tell(
            desk.inspection(message, disks=disks if asked else 0, limits=(FEW_STARTS,)),
        )
    desk.settle_names()
    return desk.answers[f"c{len(desk.answers)}"]


def with_sites(*vms: str) -> Desk:
    desk = Desk()
    desk.add_sites(east=vms, west=())
    return desk


def test_a_plan_that_cannot_hold_its_interval_is_refused() -> None:
    desk = with_sites("db")
    answer = with_limits(desk, definition("db"), 10)
    assert (answer.outcome, answer.code) == ("refused", "over-capacity")
    assert (
        "west sustains 9 StartSnapshot calls per 15m (0.01/s); its plans need 10" in answer.message
    )
    assert "--over-capacity" in answer.remedy
    assert desk.plan.header is None
    assert not desk.names


def test_a_dry_run_is_refused_alike_and_shows_what_there_is() -> None:
    desk = with_sites("db")
    assert with_limits(desk, definition("db"), 10, dry_run=True).code == "over-capacity"
    answer = with_limits(desk, definition("db"), 9, dry_run=True)
    assert not answer.details["over_capacity"]
    (use,) = answer.details["capacity"]
    assert (use["limit"], use["sustained"], use["needed"], use["over"]) == (
        "StartSnapshot",
        9.0,
        9.0,
        False,
    )


@pytest.mark.parametrize("how", ["flag", "file"])
def test_it_is_applied_knowingly(how: str) -> None:
    desk = with_sites("db")
    policy = {"over_capacity": True} if how == "file" else {}
    answer = with_limits(desk, definition("db", policy=policy), 10, over_capacity=how == "flag")
    assert answer.outcome == "done"
    assert answer.details["over_capacity"]
    assert desk.plan.version == 1


def test_another_plan_of_the_site_is_counted_until_it_is_deleted() -> None:
    desk = with_sites("db", "web")
    assert with_limits(desk, definition("db"), 6).outcome == "done"
    other = definition("web", name="other")
    assert with_limits(desk, other, 4).code == "over-capacity"
    assert with_limits(desk, other, 3).outcome == "done"
    desk.command(said.DeletePlan, plan="shop")
    assert with_limits(desk, definition("web", name="other", policy={"priority": 1}), 9).code == ""


def test_a_longer_interval_makes_room() -> None:
    desk = with_sites("db")
    hour = ReplicationPolicy(interval_s=3600.0, start_at=START)
    assert with_limits(desk, definition("db", replication=hour), 36).outcome == "done"
    assert with_limits(desk, definition("db"), 36).code == "over-capacity"


def test_the_sites_are_told_a_load_only_where_it_changed() -> None:
    desk = with_sites("db", "web")
    with_limits(desk, definition("db", "web"), 2)
    with_limits(desk, definition("db", VmDefinition(name="web", boot_order=2)), 2)
    assert len(desk.said(said.SiteLoadChanged)) == 2
    # The same document again, after a disk was added: no new version, but a new load.
    with_limits(desk, definition("db", VmDefinition(name="web", boot_order=2)), 3)
    assert desk.plan.version == 2
    (*_, told) = desk.said(said.SiteLoadChanged, "site:west")
    assert (told.load.vms, told.load.disks, told.load.role) == (2, 3, "recovery")
