"""A look at a quarantined site and a measurement, as their effects ask and answer."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from schemas import lost_sites as said
from schemas import operations as said_ops
from schemas.directions import NameSources, SourceInstance
from schemas.recovery_work import ListOwned
from services.recovery import lost_sites, platform_work
from shared.errors import Permanent, Throttled, Transient
from shared.platforms.ports import Instance, Owned, RunningVm
from shared.testing.spec import T0
from tests.unit.recovery.lost_world import EAST, WATCH, LostWorld
from tests.unit.recovery.world import JOB, SITE

OTHER = "recovery:shop:never-was"


def instance(vm: str, *, job: str = JOB, power: str = "on") -> Instance:
    return Instance(
        instance_id=f"i-{vm}",
        name=vm,
        plan="shop",
        vm=vm,
        job=job,
        key="k",
        power=power,
        powered_on_at=T0,
        network="prod",
        addresses=(),
        disks=(),
        heartbeat=True,
    )


class Platforms:
    """Two sites: what runs at east, what was made at west; `raises` stands for an answer."""

    def __init__(self, world: LostWorld) -> None:
        self.world = world
        self.running: dict[str, dt.datetime | None] = {"db": T0, "app": None, "home": T0}
        self.made: list[Instance] = [instance("db"), instance("app", power="off")]
        self.raises: dict[str, list[Exception]] = {"east": [], "west": []}
        self.asked: list[str] = []
        self.instances: dict[str, str] = {}

    async def list_running(
        self, vms: Sequence[str], *, instances: Mapping[str, str]
    ) -> tuple[RunningVm, ...]:
        self._answer("east")
        self.instances = dict(instances)
        on = self.running
        return tuple(RunningVm(name=vm, since=on[vm]) for vm in vms if vm in on)

    async def list_instances(self) -> tuple[Instance, ...]:
        self._answer("west")
        return tuple(self.made)

    async def list_written(self, instance_ids: Sequence[str]) -> dict[str, int | None]:
        told = {"i-db": 4096, "i-app": None}
        return {each: told[each] for each in instance_ids if each in told}

    def _answer(self, site: str) -> None:
        self.asked.append(site)
        if self.raises[site]:
            raise self.raises[site].pop(0)

    @property
    def tools(self) -> Any:
        async def read_states(streams: Sequence[str]) -> dict[str, Any]:
            return {stream: self.world.state(stream) for stream in streams}

        return SimpleNamespace(
            open_site=lambda ref: SimpleNamespace(power=self, compute=self),
            read_states=read_states,
        )


def effect(*recoveries: str, vms: tuple[str, ...] = (), count_max: int = 10) -> Any:
    payload = said.LookAtOriginals(
        site=EAST, plan="", job=WATCH, recoveries=recoveries, count_max=count_max, vms=vms
    )
    return SimpleNamespace(payload=payload)


@pytest.fixture
def platforms() -> Platforms:
    return Platforms(LostWorld().lost())


async def test_what_was_given_up_and_runs_is_found_with_what_runs_beside_it(
    platforms: Platforms,
) -> None:
    platforms.made.append(instance("app", job="recovery:shop:a-test"))
    listed = await lost_sites.look(platforms.tools, effect(JOB))
    (found,) = listed.found
    assert (found.plan, found.given_up, found.running, found.doubled) == ("shop", 3, 2, 1)
    assert [(o.vm, o.since, o.instance, o.doubled) for o in found.originals] == [
        ("db", T0, "i-db", True),
        ("app", None, "i-app", False),
    ]
    assert listed.unknown == ()


async def test_what_ran_as_an_instance_there_is_looked_for_as_that_instance() -> None:
    """The site was lost while its instances were replicated home."""
    world = LostWorld()
    sources = (SourceInstance("db", "i-old", "recovery:shop:before"),)
    world.deliver(NameSources(job=JOB, sources=sources))
    platforms = Platforms(world.lost())
    listed = await lost_sites.look(platforms.tools, effect(JOB))
    assert platforms.instances == {"db": "i-old"}
    (found,) = listed.found
    assert [(o.vm, o.runs_as, o.instance) for o in found.originals] == [
        ("db", "i-old", "i-db"),
        ("app", "", "i-app"),
    ]
    world.returns().power_off()
    asked = {
        sent.vm: sent.instance for sent in world.events(said_ops.SourceAsked) if sent.job != JOB
    }
    assert (asked["db"], asked["app"]) == ("i-old", "")


async def test_where_nothing_runs_the_recovery_site_is_not_asked(platforms: Platforms) -> None:
    platforms.running = {"home": T0}
    (found,) = (await lost_sites.look(platforms.tools, effect(JOB))).found
    assert (found.given_up, found.running, found.originals) == (3, 0, ())
    assert platforms.asked == ["east"]


async def test_a_recovery_site_that_does_not_answer_hides_nothing(platforms: Platforms) -> None:
    platforms.raises["west"] = [Transient("away", code="site-gone")]
    (found,) = (await lost_sites.look(platforms.tools, effect(JOB))).found
    assert (found.running, found.doubled) == (2, 0)
    assert [o.doubled for o in found.originals] == [None, None]


async def test_a_site_that_asks_for_fewer_calls_is_waited_for(platforms: Platforms) -> None:
    platforms.raises["east"] = [Throttled("slow down", retry_after_s=0.001)]
    assert (await lost_sites.look(platforms.tools, effect(JOB))).found[0].running == 2


async def test_a_site_that_is_gone_fails_the_look(platforms: Platforms) -> None:
    platforms.raises["east"] = [Transient("it is gone", code="site-gone")]
    with pytest.raises(Transient):
        await lost_sites.look(platforms.tools, effect(JOB))
    platforms.raises["east"] = [Permanent("no right to look", code="denied")]
    with pytest.raises(Permanent):
        await lost_sites.look(platforms.tools, effect(JOB))


async def test_only_so_many_are_named_and_all_are_counted(platforms: Platforms) -> None:
    platforms.running = dict.fromkeys(("db", "app", "web"), T0)
    whole, few = [
        (await lost_sites.look(platforms.tools, effect(JOB, OTHER, count_max=count))).found[0]
        for count in (10, 2)
    ]
    assert (few.running, len(few.originals)) == (3, 2)
    assert few.digest == whole.digest


async def test_the_digest_changes_with_whatever_a_person_would_be_told(
    platforms: Platforms,
) -> None:
    digests = set()

    async def look() -> None:
        digests.add((await lost_sites.look(platforms.tools, effect(JOB))).found[0].digest)

    await look()
    await look()
    assert len(digests) == 1
    platforms.running["app"] = T0
    await look()
    platforms.made[1] = instance("app")
    await look()
    del platforms.running["app"]
    await look()
    platforms.world.roll_back(leave_off=True)
    await look()
    assert len(digests) == 5


async def test_what_is_being_rolled_back_is_not_given_up_any_more(platforms: Platforms) -> None:
    undo = said_ops.StartRollback(
        command_id="c", job="rollback:shop:b1", recovery=JOB, confirm="shop"
    )
    platforms.world.deliver(undo)
    (found,) = (await lost_sites.look(platforms.tools, effect(JOB))).found
    assert (found.given_up, found.running) == (0, 0)


async def test_names_that_nobody_gave_up_are_said(platforms: Platforms) -> None:
    listed = await lost_sites.look(platforms.tools, effect(JOB, OTHER, vms=("db", "home")))
    assert listed.unknown == ("home",)
    assert [found.running for found in listed.found] == [1, 0]


async def test_what_instances_wrote_is_summed_and_named(platforms: Platforms) -> None:
    platforms.made.append(instance("db", job="recovery:shop:another"))
    platforms.made.insert(0, instance("web", job="recovery:shop:another"))
    platforms.made = [m for m in platforms.made if not (m.job != JOB and m.vm == "db")]
    work = said_ops.MeasureWritten(site=SITE, plan="shop", job=JOB, vms=("db", "app", "web"))
    measured = await platform_work.measure_written(
        platforms.tools,
        SimpleNamespace(payload=work),  # type: ignore[arg-type]
    )
    assert measured.written == (("db", 4096), ("app", None), ("web", None))
    assert (measured.total, measured.unknown) == (4096, 1)


@pytest.mark.parametrize(
    ("vms", "shown", "total"),
    [((), ["i-app"], 3), (("web",), ["i-web"], 1), (("db", "web"), ["i-db"], 2)],
)
async def test_some_vms_are_chosen_before_a_listing_is_cut(
    vms: tuple[str, ...], shown: list[str], total: int
) -> None:
    """Else what was cut away would count as gone."""

    async def list_owned() -> tuple[Owned, ...]:
        names = ("db", "app", "web")
        made = [("instance", f"i-{name}", name, JOB) for name in names]
        made.append(("instance", "i-other", "web", "recovery:shop:another"))
        return tuple(
            Owned(kind=kind, object_id=object_id, plan="shop", vm=name, job=job, key="k")
            for kind, object_id, name, job in made
        )

    async def nothing() -> tuple[Owned, ...]:
        return ()

    site = SimpleNamespace(
        compute=SimpleNamespace(list_owned=list_owned),
        target=SimpleNamespace(list_generations=nothing),
    )
    asked = ListOwned(site=SITE, plan="shop", job=JOB, count_max=1, vms=vms)
    listed = await platform_work.list_owned(
        SimpleNamespace(open_site=lambda ref: site),  # type: ignore[arg-type]
        SimpleNamespace(payload=asked),  # type: ignore[arg-type]
    )
    assert [object_id for _, object_id, _ in listed.objects] == shown
    assert listed.total == total
