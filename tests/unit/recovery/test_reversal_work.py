"""What a reversal asks of its sites before and after, and what a homecoming asks of originals."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any

import msgspec

from schemas import recovery as said
from schemas import reversals as work
from schemas.directions import SourceInstance
from schemas.recovery_work import Preflight
from schemas.scheduler import SiteRef
from services.recovery import reversal_work, source_checks
from shared.platforms.memory import MemoryPlatform, MemorySite, MemoryVm
from shared.platforms.ports import Call, InstanceSpec
from shared.testing.virtual import run_virtual
from tests.unit.recovery.world import JOB

WEST = SiteRef(site="west", platform="memory", settings={})
EAST = SiteRef(site="east", platform="memory", settings={})
CALL = Call(key="k", plan="shop", vm="db", job=JOB, lease=1)


class Sites:
    """East with the original of `db`, west with an instance of it that was made from a copy."""

    def __init__(self, *, able: bool = True) -> None:
        self.east_site = MemorySite("east")
        self.original = self.east_site.add_vm(MemoryVm("db", {"sda": bytes(4096)}))
        self.east: Any = MemoryPlatform(self.east_site)
        self.west: Any = MemoryPlatform(MemorySite("west"))
        self.west.capabilities = msgspec.structs.replace(
            self.west.capabilities, instance_sources=able
        )

    def tools(self) -> Any:
        sites = {"east": self.east, "west": self.west}
        return SimpleNamespace(open_site=lambda ref: sites[ref.site])

    async def copy_to(self, site: Any, moment: dt.datetime) -> None:
        made = await site.target.open_generation(CALL, disk="sda", size=4096)
        manifest = {"taken_at": moment.isoformat(), "mark": "m", "configuration": {}}
        call = msgspec.structs.replace(CALL, key=f"f-{moment.isoformat()}")
        await site.target.finalize(call, generations=[made], manifest=manifest)

    async def instance(self) -> str:
        await self.copy_to(self.west, T0)
        held = await self.west.target.hold(CALL)
        disk = await self.west.compute.rebuild_disk(CALL, copy_id=held.copy_id, disk="sda")
        spec = InstanceSpec(
            name="db", network="prod", disks=(disk,), configuration={}, isolated=False
        )
        made = await self.west.compute.create_instance(CALL, spec=spec)
        return str(made.instance_id)


T0 = dt.datetime(2026, 11, 22, 20, 0, tzinfo=dt.UTC)


async def seen(sites: Sites, *instances: str) -> work.InstancesSeen:
    payload = work.LookAtInstances(
        site=WEST,
        target=EAST,
        plan="shop",
        job="reversal:shop:v1",
        sources=tuple(SourceInstance("db", each, JOB) for each in instances),
    )
    effect: Any = SimpleNamespace(payload=payload)
    return await reversal_work.look(sites.tools(), effect)


def test_an_instance_that_is_there_can_be_reversed() -> None:
    async def scene() -> tuple[work.InstancesSeen, work.InstancesSeen]:
        sites = Sites()
        made = await sites.instance()
        first = await seen(sites, made)
        await sites.copy_to(sites.east, T0)
        return first, await seen(sites, made)

    first, second = run_virtual(scene())
    assert not first.problems
    assert (first.facts["vms"], first.facts["full"], first.facts["differential"]) == (1, 1, 0)
    assert (second.facts["full"], second.facts["differential"]) == (0, 1)


def test_one_that_was_deleted_is_named() -> None:
    found = run_virtual(seen(Sites(), "i-nobody"))
    assert [problem.code for problem in found.problems] == ["instance-missing"]
    assert "db" in found.problems[0].message and found.problems[0].remedy


def test_a_platform_that_cannot_replicate_from_instances_says_so() -> None:
    found = run_virtual(seen(Sites(able=False), "i-1"))
    assert [problem.code for problem in found.problems] == ["no-instance-sources"]
    assert "memory" in found.problems[0].message and found.problems[0].remedy


def test_a_copy_of_another_moment_is_not_the_one_that_was_made() -> None:
    async def missing(moment: dt.datetime, *, copied: bool = True) -> tuple[str, ...]:
        sites = Sites()
        if copied:
            await sites.copy_to(sites.east, T0)
        payload = work.VerifyCopies(
            site=EAST, plan="shop", job="reversal:shop:v1", copies=(("db", moment),)
        )
        effect: Any = SimpleNamespace(payload=payload)
        return (await reversal_work.verify(sites.tools(), effect)).missing

    assert run_virtual(missing(T0)) == ()
    assert run_virtual(missing(T0 + dt.timedelta(seconds=1))) == ("db",)
    assert run_virtual(missing(T0, copied=False)) == ("db",)


# ── Failback ─────────────────────────────────────────────────────────────────────────────────


def preflight(**fields: Any) -> Preflight:
    return Preflight(
        site=EAST,
        plan="shop",
        job=JOB,
        mode="failback",
        members=(said.Member("db", 1, 0.0),),
        checkpoint="latest",
        network="",
        isolated=False,
        source=WEST,
        **fields,
    )


def test_an_original_that_is_on_keeps_its_vm_from_coming_home() -> None:
    sites = Sites()

    def codes(*, homeward: bool) -> list[str]:
        found = run_virtual(source_checks.originals(sites.east, preflight(homeward=homeward)))
        return [problem.code for problem in found]

    assert codes(homeward=True) == ["original-runs"]
    assert codes(homeward=False) == []
    sites.original.power = "off"
    assert codes(homeward=True) == []


def test_sources_that_are_instances_are_looked_for_as_such() -> None:
    async def problems(sites: Sites, instance: str) -> list[str]:
        made = instance or await sites.instance()
        asked = preflight(instances={"db": made})
        return [p.code for p in (await source_checks.look(sites.tools(), asked))[1]]

    assert run_virtual(problems(Sites(), "")) == []
    assert run_virtual(problems(Sites(), "i-nobody")) == ["source-missing"]
    assert run_virtual(problems(Sites(able=False), "i-1")) == ["no-instance-sources"]
