"""An inspection ends at a site that allows few calls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from schemas.replicator import InspectSite
from schemas.scheduler import SiteInspected, SiteLimit, SiteRef
from services.replicator.budgets import budgets_of
from services.replicator.inspecting import inspect_site
from services.replicator.settings import ReplicatorSettings
from shared.effects.port import Budget
from shared.errors import Transient
from shared.platforms.lab.settings import Quota, SiteSettings
from shared.platforms.lab.windows_settings import NodeSpec
from shared.platforms.memory import MemoryPlatform, MemorySite, MemoryVm
from shared.testing.virtual import run_virtual

EAST = SiteRef(site="east", platform="memory", settings={})
ONE_AT_A_TIME = SiteSettings(quotas={"DescribeInstances": Quota(burst=1, per_second=0.5)})


async def inspected(
    site: MemorySite, payload: InspectSite, *, away: Exception | None = None
) -> SiteInspected:
    """What an inspection of the site answers; `away`: what our own database raises."""

    async def budgets(address: SiteRef) -> list[Budget]:
        if away is not None:
            raise away
        return budgets_of(address.site, MemoryPlatform(site).limits.budgets())

    tools: Any = SimpleNamespace(
        open_site=lambda _: MemoryPlatform(site),
        define_budgets=budgets,
        settings=ReplicatorSettings(),
    )
    effect: Any = SimpleNamespace(payload=payload)
    return await inspect_site(tools, effect)


def test_an_inspection_ends_though_the_site_allows_one_call_at_a_time() -> None:
    site = MemorySite("east", settings=ONE_AT_A_TIME)
    site.add_vm(MemoryVm("db", {"sda": bytes(4096)}))
    asked = InspectSite(request="c1", site=EAST, for_stream="site:east", vms=("db", "app"))
    answer = run_virtual(inspected(site, asked))
    assert (answer.vms, answer.problem) == (("db",), None)
    assert [problem.code for problem in answer.vm_problems] == ["no-such-vm"]


def test_an_inspection_that_takes_too_long_says_so() -> None:
    never = SiteSettings(quotas={"DescribeInstances": Quota(burst=1, per_second=0.001)})
    asked = InspectSite(request="c1", site=EAST, for_stream="site:east", vms=("db",))
    answer = run_virtual(inspected(MemorySite("east", settings=never), asked))
    assert answer.problem is not None
    assert answer.problem.code == "timed-out"


def test_a_database_that_is_away_is_no_answer_of_the_site() -> None:
    away = Transient("could not define budgets", code="database-unavailable")
    asked = InspectSite(request="c1", site=EAST, for_stream="site:east")
    with pytest.raises(Transient, match="could not define budgets"):
        run_virtual(inspected(MemorySite("east"), asked, away=away))


def test_an_inspection_brings_what_the_site_limits_and_how_many_disks_there_are() -> None:
    settings = SiteSettings(
        quotas={
            "StartSnapshot": Quota(burst=5, per_second=0.5),
            "snapshot-writes": Quota(concurrent=100),
        }
    )
    site = MemorySite("east", settings=settings)
    site.add_vm(MemoryVm("db", {"sda": bytes(4096), "sdb": bytes(4096)}))
    asked = InspectSite(request="c1", site=EAST, for_stream="plan:shop", vms=("db",))
    answer = run_virtual(inspected(site, asked))
    assert answer.disks == 2
    # What the site does not limit is not named.
    assert {limit.name: limit for limit in answer.limits} == {
        "StartSnapshot": SiteLimit(name="StartSnapshot", per_second=0.5),
        "snapshot-writes": SiteLimit(name="snapshot-writes", concurrent=100),
        "node": SiteLimit(name="node", concurrent=40),
    }


def test_an_inspection_tells_of_prep_nodes_where_there_are_some() -> None:
    asked = InspectSite(request="c1", site=EAST, for_stream="site:east")
    nodes = SiteSettings(prep_nodes=(NodeSpec(name="prep1"),))
    facts = run_virtual(inspected(MemorySite("east", settings=nodes), asked)).facts
    assert facts["prep_nodes"] == [{"name": "prep1", "seats": 25, "power": "off"}]
    assert "prep_nodes" not in run_virtual(inspected(MemorySite("east"), asked)).facts
