"""Failover and migration are steered like other recoveries, but never so that two VMs run."""

from __future__ import annotations

import pytest

from schemas import operations as said_ops
from schemas import recovery as said
from schemas import recovery_steering as steer
from shared.errors import Refused
from tests.unit.recovery.site_world import SiteWorld
from tests.unit.recovery.test_full_recoveries import kinds, past_preflight, refusal
from tests.unit.recovery.test_recovery import stream
from tests.unit.recovery.world import JOB, vm


def test_a_paused_failover_shuts_no_source_down_until_it_is_resumed() -> None:
    world = SiteWorld("failover").begin()
    world.deliver_all()
    world.steer(steer.PauseJob)
    world.settle(f"{JOB}/preflight")
    world.deliver_all()
    assert not world.effects and not world.events(said_ops.SourcesSecuring)
    world.steer(steer.ResumeJob)
    world.deliver_all()
    assert kinds(world) == ["look-at-source"]
    assert world.live().end.state == "completed"


def test_sources_that_are_off_wait_for_the_last_sync_while_it_is_paused() -> None:
    world = past_preflight(SiteWorld("migrate").begin())
    world.steer(steer.PauseJob)
    while world.effects:
        world.act(next(iter(world.effects)))
        world.deliver_all()
    assert not world.events(said_ops.LastSyncAsked)
    world.steer(steer.ResumeJob)
    world.deliver_all()
    assert world.events(said_ops.LastSyncAsked)


def left_out() -> SiteWorld:
    """A failover that goes on without `web`, whose source could not be fenced."""
    world = past_preflight(SiteWorld("failover").begin())
    world.settle("vm-source:shop:r1:web/look-at-source", code="site-gone")
    while not world.events(said.VmsLaunched):
        if world.effects:
            world.act(next(iter(world.effects)))
        elif not world.events(said_ops.LastSyncFinished):
            world.sync()
        world.deliver_all()
    return world


@pytest.mark.parametrize(("job", "code"), [(JOB, "nothing-failed"), (stream("web"), "not-fenced")])
def test_a_vm_whose_source_may_run_is_never_brought_up_by_a_retry(job: str, code: str) -> None:
    world = left_out()
    assert refusal(lambda: world.steer(steer.RetryJob, job)).code == code
    world.live()
    assert {vm for vm, _ in world.sites.made.values()} == {"db", "app"}


@pytest.mark.parametrize("command", [steer.RetryJob, steer.SkipStep])
@pytest.mark.parametrize("mode", ["failover", "migrate"])
def test_one_that_has_ended_is_for_its_commit_window(mode: str, command: type) -> None:
    world = SiteWorld(mode).begin(vm("db")).live()
    assert world.end.awaits_commit
    fields = {"step": "wait-ready"} if command is steer.SkipStep else {}
    with pytest.raises(Refused) as refused:
        world.steer(command, stream("db"), **fields)
    assert refused.value.code == "not-available" and "roll it back" in refused.value.remedy


def test_a_cancelled_one_says_how_it_leaves_the_sources() -> None:
    world = past_preflight(SiteWorld("failover", last_sync=False).begin())
    while not world.events(said.VmsLaunched):
        world.act(next(iter(world.effects)))
        world.deliver_all()
    world.steer(said.CancelRecoveryJob)
    world.live()
    assert world.end.state == "cancelled"
    assert "3 source(s) switched off" in world.end.left
