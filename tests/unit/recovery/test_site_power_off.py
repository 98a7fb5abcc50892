"""Powering off what runs again at a lost site, as a saga: asked, done, and proven by looking.

Each step is done twice and fails once, before and after the platform did it; states take their
stored form between any two messages, as after a crash.
"""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from schemas import lost_sites as said
from schemas import operations as said_ops
from schemas import recovery_steering as steer
from schemas import registry
from schemas.common import Problem, StepTiming
from schemas.plans import ManualStep
from schemas.recovery import CancelRecoveryJob
from services.recovery.domain.lost_site import NAMED_MAX
from services.recovery.domain.site_power_off import ROUND_MAX
from shared.errors import Refused
from shared.fold import EVENT_BYTES_MAX
from shared.testing.spec import T0
from tests.unit.recovery.lost_world import LOOK, LostWorld
from tests.unit.recovery.site_world import STEPS_MAX
from tests.unit.recovery.world import JOB, header

ALL_OFF = {"db": False, "app": False, "web": False}
ALL_ON = dict.fromkeys(ALL_OFF, True)
POWER_OFF = "site-power-off:east:p1"


def end_of(world: LostWorld) -> said.SitePowerOffFinished:
    found: said.SitePowerOffFinished = world.events(said.SitePowerOffFinished)[-1]
    return found


def problem_of(world: LostWorld) -> Problem:
    problem = end_of(world).problem
    assert problem is not None
    return problem


def refusal(act: Any) -> Refused:
    with pytest.raises(Refused) as refused:
        act()
    return refused.value


def test_all_that_runs_is_shut_down_and_seen_to_be_off() -> None:
    world = LostWorld().lost().returns().power_off()
    end = end_of(world)
    assert (end.state, end.off, end.running, end.problem) == ("completed", 3, 0, None)
    assert [(step.name, step.state) for step in end.steps] == [
        ("look", "completed"), ("verify", "completed"),
    ]  # fmt: skip
    steps = {e.timing.name: e.timing.state for e in world.events(said.OriginalPoweredOff)}
    assert steps == {f"power-off {vm}": "completed" for vm in ALL_OFF}
    assert world.sites.sources == ALL_OFF
    # The watcher looks at once, and says that nothing runs any more.
    assert world.events(said.OriginalsSeen)[-1].found.running == 0
    assert world.to_scheduler(said.OriginalsFound)[-1].running == 0
    world.check_log()


def test_only_the_named_are_powered_off() -> None:
    world = LostWorld().lost().returns().power_off(vms=("db",))
    assert world.sites.sources == {**ALL_ON, "db": False}
    assert (end_of(world).state, end_of(world).running) == ("completed", 0)


def test_a_name_that_nobody_gave_up_stops_it_before_anything_is_touched() -> None:
    world = LostWorld().lost().returns().power_off(vms=("db", "other"))
    assert world.sites.sources == ALL_ON
    assert end_of(world).state == "failed"
    assert problem_of(world).code == "unknown-vm" and "other" in problem_of(world).message


def test_where_nothing_runs_the_first_look_is_the_proof() -> None:
    world = LostWorld().lost().returns()
    world.sites.sources = dict(ALL_OFF)
    world.power_off()
    assert (end_of(world).state, end_of(world).off) == ("completed", 0)
    assert not world.events(said_ops.SourceAsked)


def test_a_guest_that_ignores_the_shut_down_is_powered_off_and_that_is_said() -> None:
    world = LostWorld().lost().returns()
    world.sites.deaf = {"web"}
    world.power_off()
    assert world.sites.sources == ALL_OFF and end_of(world).state == "completed"
    assert [e.vm for e in world.events(said.OriginalPoweredOff) if e.forced] == ["web"]


def test_what_is_switched_on_again_by_something_else_is_no_success() -> None:
    world = LostWorld().lost().returns()
    world.restarts = {"db"}
    world.power_off()
    end = end_of(world)
    assert (end.state, end.running) == ("partially-completed", 1)
    assert problem_of(world).code == "runs-again" and "db" in problem_of(world).message
    world.restarts = set()
    world.power_off(2)
    assert world.sites.sources == ALL_OFF and end_of(world).state == "completed"
    world.check_log()


def test_it_wants_the_sites_name_and_says_what_was_found() -> None:
    world = LostWorld().lost()
    unseen = refusal(lambda: world.power_off(confirm=""))
    assert unseen.code == "confirm" and "not answered" in unseen.message
    world.returns()
    refused = refusal(lambda: world.power_off(confirm="East"))
    assert refused.code == "confirm" and "--confirm east" in refused.remedy
    assert all(f"{vm} runs since" in refused.message for vm in ALL_ON)
    assert refused.message.count("BESIDE") == 3
    assert not world.events(said.SitePowerOffStarted)


def test_it_is_refused_where_no_failover_gave_anything_up_and_while_one_runs() -> None:
    assert refusal(LostWorld().power_off).code == "not-quarantined"
    world = LostWorld().lost().returns()
    for _ in range(2):
        world.deliver(
            said.PowerOffOriginals(command_id="c", job=POWER_OFF, site="east", confirm="east")
        )
    assert len(world.events(said.SitePowerOffStarted)) == 1
    assert refusal(lambda: world.power_off(2)).code == "being-powered-off"
    cancel = CancelRecoveryJob(command_id="c", job=POWER_OFF)
    assert refusal(lambda: world.deliver(cancel)).code == "not-cancellable"
    world.live()
    assert end_of(world).state == "completed"


@pytest.mark.parametrize(
    ("done", "code"), list(itertools.product((False, True), ("broken", "site-gone")))
)
def test_whichever_step_fails_nothing_is_called_done_that_was_not_seen(
    done: bool, code: str
) -> None:
    before = LostWorld().lost().returns().count
    total = LostWorld().lost().returns().power_off().count
    assert total - before > 8
    for number in range(before + 1, total + 1):
        world = LostWorld(fail_at=number, done=done, code=code).lost().returns().power_off()
        end = end_of(world)
        on = sum(world.sites.sources.values())
        assert (end.state == "completed") <= (on == 0), f"step {number}"
        assert end.state == "completed" or end.problem is not None
        assert not world.effects and not any(world.queues.values())
        world.check_log()
        world.power_off(2)
        assert world.sites.sources == ALL_OFF, f"repeated after step {number}"
        assert end_of(world).state == "completed"
        world.check_log()


def test_messages_that_come_twice_change_nothing() -> None:
    world = LostWorld().lost().returns()
    world.deliver(
        said.PowerOffOriginals(command_id="c", job=POWER_OFF, site="east", confirm="east")
    )
    for _ in range(STEPS_MAX):
        queue = next((queue for queue in world.queues.values() if queue), None)
        if queue is not None:
            message = queue.popleft()
            world.deliver(message)
            if not isinstance(message, said.LookAtLostSite):
                world.deliver(message)
        elif world.effects:
            world.act(next(iter(world.effects)))
        else:
            break
    assert end_of(world).state == "completed" and world.sites.sources == ALL_OFF
    assert len(world.events(said.OriginalPoweredOff)) == 3
    world.check_log()


def test_a_site_that_goes_again_meanwhile_fails_it_and_it_may_be_repeated() -> None:
    world = LostWorld().lost().returns()
    world.back = False
    world.power_off()
    assert (end_of(world).state, problem_of(world).code) == ("failed", "site-gone")
    world.back = True
    world.power_off(2)
    assert end_of(world).state == "completed"


def test_a_release_while_it_runs_lets_it_end() -> None:
    world = LostWorld().lost().returns()
    world.deliver(
        said.PowerOffOriginals(command_id="c", job=POWER_OFF, site="east", confirm="east")
    )
    world.deliver(said.SiteReleased(site="east"))
    world.live()
    assert end_of(world).state == "completed" and world.sites.sources == ALL_OFF
    assert LOOK not in world.timers
    world.check_log()


def test_a_roll_back_switches_on_what_was_powered_off_and_leaves_what_was_off() -> None:
    world = LostWorld().lost().returns()
    world.sites.sources["web"] = False
    world.power_off()
    world.sites.watching = True
    world.roll_back()
    assert world.sites.sources == {"db": True, "app": True, "web": False}
    assert world.event(said_ops.RecoveryRolledBack)
    assert world.sites.made == {}
    world.check_log()


def test_originals_that_nobody_touched_are_looked_for_and_not_called_one_by_one() -> None:
    world = LostWorld().lost()
    world.roll_back()
    end = world.event(said_ops.RollbackFinished)
    assert (end.state, end.untouched) == ("failed", True) and world.sites.made
    world.roll_back(2, leave_off=True)
    assert world.events(said_ops.RollbackFinished)[-1].left_off == tuple(ALL_ON)
    assert world.sites.made == {} and world.sites.sources == ALL_ON
    assert not [key for key in world.keys if key.startswith("vm-source:")]


def test_a_failover_that_is_cancelled_before_it_built_switches_on_what_was_powered_off() -> None:
    by_hand = ManualStep(
        name="look", text="look", at="before-boot-order", boot_order=1, operations=("failover",)
    )
    policy = header(build_ahead=False, manual_steps=(by_hand,))
    world = LostWorld(header=policy)
    world.begin()
    world.deliver_all()
    world.act(next(iter(world.effects)))
    world.deliver_all()
    assert world.event(steer.RecoveryAsked) and not world.effects
    # The question stands as well until somebody answers.
    world.standing |= set(world.timers)
    world.watch()
    world.returns().power_off()
    assert world.sites.sources == ALL_OFF
    world.deliver(CancelRecoveryJob(command_id="c", job=JOB))
    world.live()
    assert (world.end.state, world.end.awaits_commit) == ("cancelled", False)
    assert world.sites.sources == ALL_ON
    world.check_log()


def test_a_step_that_failed_is_told_also_where_the_original_went_off_by_itself() -> None:
    class Fading(LostWorld):
        def act(self, effect_id: str) -> None:
            if "r1:db/look-at-source" in effect_id:
                self.sites.sources["db"] = False
                self.settle(effect_id, code="broken")
            else:
                super().act(effect_id)

    world = Fading().lost().returns().power_off()
    end = end_of(world)
    assert (end.state, end.off, end.running) == ("partially-completed", 2, 0)
    assert problem_of(world).code == "broken" and world.sites.sources == ALL_OFF


def test_what_a_roll_back_switched_on_before_it_failed_is_in_production_and_left_on() -> None:
    class Stuck(LostWorld):
        def act(self, effect_id: str) -> None:
            if "r1:web/power-on-source" in effect_id:
                self.settle(effect_id, code="broken")
            else:
                super().act(effect_id)

    world = Stuck().lost().returns().power_off()
    world.roll_back()
    assert world.event(said_ops.RollbackFinished).state == "partially-completed"
    assert world.sites.sources == {"db": True, "app": True, "web": False}
    world.power_off(2)
    assert world.sites.sources == {"db": True, "app": True, "web": False}
    world.check_log()


def test_a_source_that_another_job_acts_on_is_said_to_be_busy_and_left_to_it() -> None:
    world = LostWorld().lost().returns()
    world.deliver(
        said.PowerOffOriginals(command_id="c", job=POWER_OFF, site="east", confirm="east")
    )
    world.act(f"{POWER_OFF}/look/1")
    world.deliver_all()
    stream = f"vm-source:shop:{JOB.rpartition(':')[2]}:db"
    assert f"{stream}/look-at-source" in world.effects
    asked = next(e for e in world.events(said_ops.SourceAsked) if e.vm == "db")
    fields = msgspec.structs.asdict(asked)
    world.deliver(said_ops.SecureSource(stream=stream, **{**fields, "job": "cleanup:shop:x"}))
    (news,) = world.queues["shop"]
    assert (news.to, news.news, news.problem.code) == ("cleanup:shop:x", "failed", "busy")
    world.queues["shop"].clear()
    world.live()
    assert end_of(world).state == "completed"


def test_a_round_and_a_look_of_the_longest_names_fit_their_events() -> None:
    name, recovery = "v" * 63, f"recovery:{'p' * 63}:{'k' * 26}"
    timing = StepTiming(name="look", state="completed", started_at=T0, ended_at=T0)
    round_of = said.SitePowerOffLooked(
        at=T0, timing=timing, originals=((recovery, name, "i" * 40),) * ROUND_MAX, vms=(name,) * 10
    )
    original = said.Original(
        plan="p" * 63, recovery=recovery, vm=name, since=T0, runs_as="i" * 40,
        instance="i" * 40, doubled=True,
    )  # fmt: skip
    found = said.Given(
        recovery=recovery,
        plan="p" * 63,
        given_up=2000,
        running=2000,
        doubled=2000,
        digest="d" * 16,
        originals=(original,) * NAMED_MAX,
    )
    for event in (round_of, said.OriginalsSeen(site="s" * 63, at=T0, found=found)):
        _, _, data = registry.encode(event)
        assert EVENT_BYTES_MAX / 3 < len(data) < EVENT_BYTES_MAX
