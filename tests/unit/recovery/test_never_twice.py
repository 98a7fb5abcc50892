"""Whatever became of a full recovery: no VM runs twice, none goes off behind anybody's back."""

from __future__ import annotations

import datetime as dt
from types import SimpleNamespace
from typing import Any

import pytest

from schemas import operations as said_ops
from schemas import recovery as said
from schemas import recovery_steering as steer
from schemas import recovery_work as work
from schemas.directions import FreeInstances, TakeInstances
from schemas.plans import ManualStep
from schemas.scheduler import ReleaseHolds
from services.recovery import platform_work
from services.recovery.domain.operations.source import ONCE_MORE
from services.recovery.domain.recovery_steered import evolve
from shared.errors import Permanent, Transient
from tests.unit.recovery.site_world import SiteWorld
from tests.unit.recovery.test_asking import answered
from tests.unit.recovery.test_full_recoveries import ALL_ON, clean, past_preflight, refusal
from tests.unit.recovery.world import JOB, SITE, header

WEB = "vm-source:shop:r1:web"


def left_out() -> SiteWorld:
    """A failover without `web`: its guest ignored the shut-down, its host the power-off."""
    world = past_preflight(SiteWorld("failover").begin())
    world.act(f"{WEB}/look-at-source")
    world.settle(f"{WEB}/shut-down-source", code="shutdown-timed-out")
    world.settle(f"{WEB}/power-off-source", code="guest-stuck")
    world.deliver_all()
    return world


# ── One that was left out ────────────────────────────────────────────────────────────────────


def test_a_vm_that_was_left_out_is_held_until_its_source_is_sure_to_run() -> None:
    world = left_out()
    back = f"{WEB}/power-on-source/1"
    while (rest := [name for name in world.effects if name != back]) or world.sync():
        world.act(rest[0]) if rest else world.deliver_all()
        world.deliver_all()
    assert len(world.events(said.MemberReady)) == 2
    assert not world.events(said.RecoveryFinished)
    world.live()
    assert (world.end.ready, world.end.failed) == (2, 1)


def test_a_roll_back_leaves_alone_what_was_left_out_for_it_may_run_elsewhere_by_now() -> None:
    world = left_out().live()
    world.sites.sources["web"] = False  # another failover took it
    world.roll_back()
    assert world.event(said_ops.RollbackStarted).vms == ("db", "app")
    assert world.event(said_ops.RollbackFinished).state == "completed"
    assert world.sites.sources == {**ALL_ON, "web": False}


def test_what_was_taken_back_is_not_taken_back_again() -> None:
    world = SiteWorld("migrate")
    world.sync_fails = {"web"}
    world.begin().live()
    world.sites.sources["web"] = False  # another migration took it
    world.deliver(said_ops.RestoreSource(stream=WEB, by="rollback:shop:b"))
    world.live()
    assert world.events(said_ops.SourceRestored)[-1].state == "untouched"
    assert not world.sites.sources["web"]


# ── One that goes off late ───────────────────────────────────────────────────────────────────


def late_guest() -> SiteWorld:
    """A migration that is taken back, for the guest of `web` did not shut down in time."""
    world = SiteWorld("migrate")
    world.sites.deaf = {"web"}
    world.begin()
    while f"{WEB}/power-on-source/1" not in world.effects:
        world.deliver_all()
        world.act(next(iter(world.effects)))
        world.deliver_all()
    return world


def test_a_guest_that_goes_off_after_the_migration_gave_up_is_switched_on_once_more() -> None:
    world = late_guest()
    world.act(f"{WEB}/power-on-source/1")
    world.deliver_all()
    assert world.effects[f"{WEB}/power-on-source/1/1"].not_before == world.now + dt.timedelta(
        seconds=120 / ONCE_MORE
    )
    world.sites.sources["web"] = False
    world.live()
    assert (world.end.state, world.end.awaits_commit) == ("failed", False)
    assert world.sites.sources == ALL_ON
    assert len(world.events(said_ops.SourceInDoubt)) == ONCE_MORE


def test_a_source_that_was_seen_off_is_switched_on_once() -> None:
    world = SiteWorld("migrate")
    world.sync_fails = {"web"}
    world.begin().live()
    assert world.sites.sources == ALL_ON and not world.events(said_ops.SourceInDoubt)


# ── One that was undone in part ──────────────────────────────────────────────────────────────


def half_undone(*, made: bool) -> SiteWorld:
    """A roll back that switched all sources on but that of `web`."""
    world = past_preflight(SiteWorld("failover", last_sync=False).begin())
    if not made:
        _fail_every_hold(world)
    world.live()

    class Broken(type(world)):  # type: ignore[misc]  # the world is a class's that tests choose
        def act(self, effect_id: str) -> None:
            if effect_id.startswith(f"{WEB}/power-on-source"):
                self.settle(effect_id, code="broken")
            else:
                super().act(effect_id)

    kind = type(world)
    world.__class__ = Broken
    world.roll_back()
    world.__class__ = kind
    assert world.event(said_ops.RollbackFinished).state == "partially-completed"
    return world


def _fail_every_hold(world: SiteWorld) -> None:
    while world.effects or any(world.queues.values()):
        world.deliver_all()
        for name in list(world.effects):
            if name.endswith("hold-copy"):
                world.settle(name, code="broken")
            else:
                world.act(name)


@pytest.mark.parametrize("made", [True, False])
def test_what_was_undone_in_part_is_neither_retried_nor_committed(made: bool) -> None:
    world = half_undone(made=made)
    for act in (world.commit, lambda: world.steer(steer.RetryJob)):
        refused = refusal(act)
        assert refused.code == "half-undone" and "seawall rollback" in refused.remedy
    world.roll_back(2)
    assert world.events(said_ops.RollbackFinished)[-1].state == "completed"
    assert world.sites.sources == ALL_ON and not world.sites.made


# ── One that counts as failed and runs ───────────────────────────────────────────────────────


def test_a_vm_that_failed_and_was_made_is_not_deleted_without_the_plans_name() -> None:
    world = past_preflight(SiteWorld("failover", last_sync=False).begin())
    while not world.events(said.VmPoweredOn):
        world.act(next(iter(world.effects)))
        world.deliver_all()
    world.late("vm-recovery:shop:r1:db")
    world.live()
    assert (world.end.ready, world.end.failed) == (2, 1)
    # As a build committed it that left nobody out.
    committed = said_ops.RecoveryCommitted(plan="shop", commit="commit:shop:k1")
    world.states[JOB] = evolve(world.states[JOB], committed)
    world.deliver(TakeInstances(recovery=JOB, by="reversal:shop:t", vms=("app", "web")))
    # A committed failback brought these home.
    world.deliver(FreeInstances(recovery=JOB, by="commit:shop:f", vms=("app", "web"), home=True))
    assert refusal(lambda: clean(world)).code == "confirm"


# ── One that was seen long ago ───────────────────────────────────────────────────────────────


def test_a_retried_vm_is_powered_on_only_if_its_source_is_still_off() -> None:
    world = past_preflight(SiteWorld("failover", last_sync=False).begin())
    while "vm-recovery:shop:r1:db/power-on" not in world.effects:
        world.act(next(iter(world.effects)))
        world.deliver_all()
    assert world.effects["vm-recovery:shop:r1:db/power-on"].payload.source is None
    world.settle("vm-recovery:shop:r1:db/power-on", code="broken")
    world.live()
    world.steer(steer.RetryJob)
    world.grant_holds()
    world.deliver_all()
    effect = world.effects["vm-recovery:shop:r1:db/power-on"]
    assert effect.payload.source == steer.SourceCheck(site=header().protected)
    assert [need.budget for need in effect.needs] == [
        "west/StartInstances",
        "east/DescribeInstances",
    ]


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("off", "on"),
        ("on", "source-runs"),
        (Transient("no route", code="unreachable"), "on"),
        (Permanent("gone", code="site-gone"), "on"),
        (Permanent("who are you", code="denied"), "denied"),
    ],
)
async def test_a_source_that_runs_keeps_its_vm_off(answer: Any, found: str) -> None:
    class Site:
        async def state(self, *, vm: str, instance: str) -> str:
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        async def power_on(self, call: Any, *, instance_id: str) -> Any:
            return SimpleNamespace(instance_id=instance_id, addresses=(), powered_on_at=None)

    site = SimpleNamespace(power=Site(), compute=Site())
    source = steer.SourceCheck(site=header().protected)
    payload = work.PowerOn(
        site=SITE, plan="shop", job=JOB, vm="db", instance_id="i1", source=source
    )
    effect: Any = SimpleNamespace(payload=payload, effect_id="e", fence=1)
    tools: Any = SimpleNamespace(open_site=lambda _: site)
    try:
        state = await platform_work.power_on(tools, effect)
        assert (state.instance_id, found) == ("i1", "on")
    except Permanent as error:
        assert error.code == found


def test_a_site_that_came_back_while_people_were_waited_for_is_asked_again() -> None:
    step = ManualStep(
        name="dns", text="change it", at="after-pre-script", operations=("failover",)
    )
    world = SiteWorld("failover", source_gone=True, header=header(manual_steps=(step,)))
    past_preflight(world.begin(), source_lost=True)
    world.now += dt.timedelta(minutes=2)
    answered(world, "done")
    world.live()
    assert world.events(said_ops.SourceSecured) and not world.events(said_ops.SourceSiteLost)
    assert (world.end.ready, world.sites.sources["db"]) == (3, False)


def test_a_source_that_may_have_gone_off_unheard_is_switched_on_by_a_roll_back() -> None:
    world = past_preflight(SiteWorld("migrate").begin())
    world.act(f"{WEB}/look-at-source")
    world.sites.sources["web"] = False
    world.settle(f"{WEB}/shut-down-source", code="unreachable")  # it was done all the same
    while f"{WEB}/power-on-source/1" not in world.effects:
        world.deliver_all()
        world.act(next(iter(world.effects)))
        world.deliver_all()
    world.settle(f"{WEB}/power-on-source/1", code="site-gone")
    world.live()
    assert (world.end.state, world.end.awaits_commit) == ("failed", True)
    kept, back = world.to_scheduler(ReleaseHolds)
    assert "own-instance" not in kept.modes and back.vms == ("db", "app")
    world.roll_back()
    assert world.sites.sources == ALL_ON
