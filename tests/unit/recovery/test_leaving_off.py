"""Roll backs of VMs that have nothing to come back to: said before anything is undone, and done
all the same by the operator's word."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from schemas import operations as said_ops
from schemas import recovery as said
from schemas.directions import NameSources, SourceInstance
from schemas.scheduler import ReleaseHolds, ReturnVms
from services.recovery import source_work
from services.recovery.domain import rollback
from shared.errors import Transient
from shared.platforms.memory import MemoryPlatform, MemorySite, MemoryVm
from shared.testing.virtual import run_virtual
from tests.failures import failure_mode
from tests.unit.recovery.site_world import SiteWorld
from tests.unit.recovery.test_full_recoveries import ending
from tests.unit.recovery.test_sagas import ALL_ON
from tests.unit.recovery.world import JOB, SITE

LOOK = "look-at-sources"


class Away(SiteWorld):
    """`fails`: parts of effects' ids, and the code with which those fail for good."""

    def __init__(self, mode: Any = "failover", **options: Any) -> None:
        super().__init__(mode, **options)
        self.fails: dict[str, str] = {}
        self.asked_for: list[str] = []

    def act(self, effect_id: str) -> None:
        self.asked_for.append(effect_id)
        for part, code in self.fails.items():
            if part in effect_id:
                self.settle(effect_id, code=code)
                return
        super().act(effect_id)

    def powered_on(self) -> list[str]:
        """The VMs whose sources were asked to come back."""
        return [each.split(":")[3].split("/")[0] for each in self.asked_for if "power-on-" in each]


def moved(mode: Any = "failover", **options: Any) -> Away:
    world = Away(mode, **options)
    world.begin().live()
    return world


def end_of(world: SiteWorld) -> said_ops.RollbackFinished:
    end: said_ops.RollbackFinished = world.events(said_ops.RollbackFinished)[-1]
    return end


def check_as_it_was(world: Away, made: dict[Any, Any]) -> None:
    """Nothing was done, nobody was told that anything was, and all may still be decided."""
    end = end_of(world)
    assert (end.state, end.untouched) == ("failed", True)
    assert end.problem is not None and end.problem.code == "nothing-to-come-back-to"
    assert world.sites.made == made and not any(world.sites.sources.values())
    assert world.events(said_ops.RecoveryRollbackIncomplete)[-1].untouched
    assert not world.to_scheduler(ReturnVms) and not world.powered_on()
    assert [m.modes for m in world.to_scheduler(ReleaseHolds)] == [("write-copy",)]
    assert not world.events(said.CleanupStarted)
    world.check_log()


def check_done(world: Away, *, off: tuple[str, ...]) -> None:
    """All of it is undone that can be; the VMs are replicated again and may be had anew."""
    end = end_of(world)
    assert (end.state, end.left_off, end.untouched) == ("partially-completed", off, False)
    assert end.problem is not None and all(vm in end.problem.message for vm in off)
    assert world.sites.made == {}
    assert world.sites.sources == {vm: vm not in off for vm in world.sites.sources}
    assert len(world.events(said_ops.RecoveryRolledBack)) == 1
    assert len(world.to_scheduler(ReturnVms)) == 1
    assert "own-instance" in world.to_scheduler(ReleaseHolds)[-1].modes
    world.check_log()


# ── Nothing is touched ───────────────────────────────────────────────────────────────────────


@failure_mode(
    "Protected site",
    "dead",
    sees="A roll back finds it away, or an original deleted there: it ends *failed* before it has "
    "touched anything, and names the VMs that would have run nowhere.",
    does="Bring the site back and roll back again. Where that will never be: `seawall rollback "
    "JOB --confirm PLAN --leave-off`, then recover those VMs from their copies.",
)
@pytest.mark.parametrize("code", ["site-gone", "timed-out", "denied"])
@pytest.mark.parametrize("mode", ["failover", "migrate", "failback"])
def test_a_roll_back_whose_source_site_is_away_touches_nothing(mode: str, code: str) -> None:
    world = moved(mode)
    made = dict(world.sites.made)
    world.fails = {LOOK: code}
    world.roll_back()
    check_as_it_was(world, made)
    problem = end_of(world).problem
    assert problem is not None and "db, app, web" in problem.message
    assert "--confirm shop --leave-off" in problem.remedy and "roll back again" in problem.remedy
    # As it was: it may be committed, or rolled back once the site is there again.
    world.fails = {}
    world.roll_back(2)
    assert end_of(world).state == "completed" and world.sites.sources == ALL_ON


def test_a_roll_back_names_the_originals_that_somebody_deleted() -> None:
    world = moved()
    made = dict(world.sites.made)
    del world.sites.sources["web"]
    world.roll_back()
    check_as_it_was(world, made)
    problem = end_of(world).problem
    assert problem is not None and "east does not have VM web any more" in problem.message
    assert "db" not in problem.message
    world.commit()
    assert world.event(said_ops.RecoveryCommitted)


def test_an_automatic_roll_back_looks_as_well_and_leaves_what_came_up() -> None:
    came_up = ending("migrate", "r1:web/create-instance")
    assert came_up.event(said_ops.RollbackStarted).steps[0] == LOOK

    world = Away("migrate", auto_rollback=True)
    world.fails = dict.fromkeys(("r1:web/create-instance", LOOK), "site-gone")
    world.begin().live()
    assert (end_of(world).state, end_of(world).untouched) == ("failed", True)
    assert ("instance", "i-db") in world.sites.made
    assert not world.events(said_ops.RecoveryRolledBack)


def test_a_roll_back_that_removes_nothing_need_not_look() -> None:
    world = moved()
    world.fails = {"r1:web/power-on-source": "broken"}
    world.roll_back()
    looked = [event.steps for event in world.events(said_ops.RollbackStarted)]
    world.roll_back(2)
    again = world.events(said_ops.RollbackStarted)[-1].steps
    assert looked[0][0] == LOOK and LOOK not in again


def test_what_a_vm_runs_as_is_looked_for_as_that_instance() -> None:
    world = Away("failback")
    sources = (SourceInstance("db", "i-old", "recovery:shop:before"),)
    world.deliver(NameSources(job=JOB, sources=sources))
    world.begin().live()
    world.deliver(
        said_ops.StartRollback(
            command_id="c", job="rollback:shop:b1", recovery=JOB, confirm="shop"
        )
    )
    asked = world.effects[f"rollback:shop:b1/{LOOK}"]
    assert asked.payload.vms == ("db", "app", "web")
    assert asked.payload.instances == {"db": "i-old"}
    assert asked.payload.site.site == "east"


# ── By the operator's word ───────────────────────────────────────────────────────────────────


def test_by_the_word_what_can_come_back_does_and_the_rest_is_left_off() -> None:
    world = moved()
    del world.sites.sources["web"]
    world.roll_back(leave_off=True)
    check_done(world, off=("web",))
    assert sorted(world.powered_on()) == ["app", "db"]
    problem = end_of(world).problem
    assert problem is not None and "seawall recover shop --vm" in problem.remedy


def test_by_the_word_a_site_that_is_away_is_not_asked_for_each_of_its_vms() -> None:
    world = moved()
    world.fails = {LOOK: "site-gone"}
    world.roll_back(leave_off=True)
    check_done(world, off=("db", "app", "web"))
    assert world.powered_on() == []


def test_by_the_word_each_is_tried_where_the_site_answers_and_cannot_list_them() -> None:
    """As a lab does where a disk of one of them is missing."""
    world = moved()
    world.fails = {LOOK: "disk-missing", "r1:web/power-on-source": "disk-missing"}
    world.roll_back(leave_off=True)
    check_done(world, off=("web",))
    assert sorted(world.powered_on()) == ["app", "db", "web"]


def test_with_the_word_for_nothing_it_completes_as_without() -> None:
    world = moved()
    world.fails = {LOOK: "disk-missing"}
    world.roll_back(leave_off=True)
    end = end_of(world)
    assert (end.state, end.problem, end.left_off) == ("completed", None, ())
    assert world.sites.sources == ALL_ON


@pytest.mark.parametrize("how", ["broken", "deleted"])
def test_a_source_that_does_not_come_back_locks_the_others_no_longer(how: str) -> None:
    world = moved()
    world.fails = {"r1:web/power-on-source": "broken"}
    world.roll_back()
    end = end_of(world)
    assert (end.state, end.untouched, end.left_off) == ("partially-completed", False, ())
    assert end.problem is not None and "VM web runs nowhere now" in end.problem.message
    assert "--confirm shop --leave-off" in end.problem.remedy
    assert not world.event(said_ops.RecoveryRollbackIncomplete).untouched
    assert not world.to_scheduler(ReturnVms)
    if how == "deleted":
        world.fails = {}
        del world.sites.sources["web"]
    world.roll_back(2, leave_off=True)
    check_done(world, off=("web",))


def test_the_word_does_not_stand_for_instances_that_are_left() -> None:
    world = moved()
    del world.sites.sources["web"]
    world.fails = {"/delete": "broken"}
    world.roll_back(leave_off=True)
    end = end_of(world)
    assert (end.state, end.left_off) == ("failed", ()) and end.problem is not None
    assert end.problem.code == "left-over" and world.powered_on() == []
    assert not world.to_scheduler(ReturnVms)


def test_the_word_wants_the_plans_name_and_the_refusal_says_what_it_means() -> None:
    world = moved()
    world.roll_back(confirm="", leave_off=True)
    refused = world.answers[-1]
    assert (refused.outcome, refused.code) == ("refused", "confirm")
    assert "cannot come back run nowhere then" in refused.message
    assert refused.remedy.endswith(f"`seawall rollback {JOB} --confirm shop --leave-off`")
    world.roll_back(2, confirm="")
    assert "run nowhere" not in world.answers[-1].message
    assert "--leave-off" not in world.answers[-1].remedy
    assert not world.events(said_ops.RollbackStarted)


@pytest.mark.parametrize("done", [False, True])
def test_whichever_step_of_it_fails_it_is_done_at_last(done: bool) -> None:
    before = SiteWorld("failover").begin().live().count

    def world_of(fail_at: int | None) -> SiteWorld:
        world = SiteWorld("failover", fail_at=fail_at, done=done).begin().live()
        del world.sites.sources["web"]
        return world.roll_back(leave_off=True)

    total = world_of(None).count
    assert total > before
    for number in range(before + 1, total + 1):
        world = world_of(number)
        if not world.events(said_ops.RecoveryRolledBack):
            assert end_of(world).problem and not world.to_scheduler(ReturnVms)
            world.roll_back(2, leave_off=True)
        assert world.events(said_ops.RecoveryRolledBack) and world.sites.made == {}
        left = end_of(world).left_off
        assert "web" in left and len(world.to_scheduler(ReturnVms)) == 1
        world.check_log()


# ── The look ─────────────────────────────────────────────────────────────────────────────────


class Site:
    """East with an original, and an instance that a VM runs as."""

    def __init__(self) -> None:
        self.site = MemorySite("east")
        self.site.add_vm(MemoryVm("db", {"sda": bytes(4096)}))
        self.platform: Any = MemoryPlatform(self.site)
        self.calls: list[tuple[str, tuple[str, ...]]] = []
        self.inventory = self

    async def list_vms(self, names: Any) -> Any:
        self.calls.append(("vms", tuple(names)))
        return await self.platform.inventory.list_vms(names)

    async def list_made(self, ids: Any) -> Any:
        self.calls.append(("made", tuple(ids)))
        there = ("i-app",)
        return tuple(SimpleNamespace(name="x", instance=each) for each in ids if each in there)


def looked(site: Site, *vms: str, **instances: str) -> said_ops.SourcesListed:
    tools: Any = SimpleNamespace(open_site=lambda _: site)
    payload = said_ops.LookAtSources(site=SITE, plan="shop", job=JOB, vms=vms, instances=instances)
    effect: Any = SimpleNamespace(payload=payload)
    found: said_ops.SourcesListed = run_virtual(source_work.look_at_all(tools, effect))
    return found


def test_all_sources_are_looked_at_in_one_listing_of_each_kind() -> None:
    site = Site()
    found = looked(site, "db", "web", "app", "mail", app="i-app", mail="i-mail")
    assert found.missing == ("web", "mail")
    assert site.calls == [("vms", ("db", "web")), ("made", ("i-app", "i-mail"))]


def test_a_site_that_does_not_answer_fails_the_look() -> None:
    site = Site()
    site.site.is_there = False
    with pytest.raises(Transient):
        looked(site, "db")


def test_a_roll_back_that_began_in_a_build_without_the_look_goes_on_without_it() -> None:
    world = moved()
    started = said_ops.RollbackStarted(
        job="rollback:shop:b1", plan="shop", recovery=JOB, cleanup="cleanup:shop:rollback-b1",
        vms=("db",), at=world.now, steps=("remove-instances", "power-on-sources"),
        definition_version=2,
    )  # fmt: skip
    stream = "rollback:shop:b1"
    world.states[stream] = rollback.evolve(world.state(stream), started)
    world.deliver(said_ops.RollbackCleaned(job=stream, remaining=0))
    assert [type(each) for each in world.queues["shop"]] == [said_ops.RestoreSource]
