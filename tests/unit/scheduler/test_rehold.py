"""An ended recovery that wants to go on: when it may hold its VMs again."""

from __future__ import annotations

from typing import Any

import pytest

from schemas import scheduler as said
from schemas.recovery_steering import HoldAgain, HoldsAnswered
from tests.unit.scheduler.desk import Desk, at
from tests.unit.scheduler.test_full_recoveries import JOB as FAILOVER
from tests.unit.scheduler.test_full_recoveries import ended as full_recovery_ended
from tests.unit.scheduler.test_full_recoveries import recover as full_recovery
from tests.unit.scheduler.test_recoveries import JOB, end, ready, recover, release

OTHER = "recovery:shop:2"
MODES = ("read-copy", "own-instance")


def ended(
    *vms: str, kept: tuple[Any, ...] = ("own-instance",), checkpoint: str = "latest"
) -> Desk:
    """A test recovery that ended; `kept` of its holds last until its cleanup."""
    desk = ready(*vms)
    assert recover(desk).outcome == "done"
    release(desk, *(mode for mode in MODES if mode not in kept))
    end(desk)
    desk.sent.clear()
    return desk


def hold_again(desk: Desk, *vms: str, **fields: Any) -> HoldsAnswered:
    settings: dict[str, Any] = {"mode": "test", "checkpoint": "latest", "job": JOB, **fields}
    desk.tell(HoldAgain(plan="shop", vms=vms, command_id="c1", **settings))
    answer: HoldsAnswered = desk.sent[-1]
    assert isinstance(answer, HoldsAnswered) and answer.command_id == "c1"
    return answer


@pytest.mark.parametrize("kept", [(), ("own-instance",)])
def test_what_an_ended_recovery_held_is_held_again(kept: tuple[Any, ...]) -> None:
    desk = ended("db", "web", kept=kept)
    assert hold_again(desk, "db").problem is None
    assert desk.modes("db") == {JOB: MODES}
    assert desk.modes("web") == ({JOB: kept} if kept else {})
    assert not desk.plan.recoveries[JOB].ended


def test_it_is_given_back_as_after_the_first_end_and_recorded_again() -> None:
    desk = ended("db", "web")
    hold_again(desk, "db")
    release(desk, "read-copy")
    end(desk)
    assert desk.modes("db") == desk.modes("web") == {JOB: ("own-instance",)}
    assert desk.plan.recoveries[JOB].ended
    release(desk, "own-instance")
    assert desk.modes("db") == desk.modes("web") == {}
    assert JOB not in desk.plan.recoveries


def test_while_it_goes_on_no_other_recovery_of_its_vms_starts() -> None:
    desk = ended("db", kept=())
    hold_again(desk, "db")
    assert (answer := recover(desk, OTHER)).outcome == "refused" and answer.code == "busy"


def test_a_vm_that_another_recovery_holds_by_now_keeps_it_from_going_on() -> None:
    desk = ended("db", "web", kept=())
    assert recover(desk, OTHER, vms=("web",)).outcome == "done"
    answer = hold_again(desk, "db", "web")
    assert answer.problem is not None and answer.problem.code == "busy"
    assert OTHER in answer.problem.message and answer.problem.remedy
    assert desk.modes("db") == {}, "all holds or none"


def test_it_does_not_overtake_a_full_recovery_that_waits_for_the_vm() -> None:
    desk = ended("db")
    desk.until(at(15))
    full_recovery(desk, "failover", OTHER, last_sync=False)
    assert desk.vm("db").claim == OTHER
    answer = hold_again(desk, "db")
    assert answer.problem is not None and OTHER in answer.problem.message
    assert desk.modes("db") == {JOB: ("own-instance",)}


def test_a_commit_window_that_keeps_it_from_going_on_is_told() -> None:
    desk = ended("db")
    full_recovery(desk, "failover", OTHER)
    full_recovery_ended(desk, job=OTHER)
    answer = hold_again(desk, "db")
    assert answer.problem is not None and f"seawall commit {OTHER}" in answer.problem.remedy


def test_a_plan_or_vm_that_is_gone_keeps_it_from_going_on() -> None:
    desk = ended("db", "web", kept=())
    assert hold_again(desk, "elsewhere").problem.code == "unknown-vm"  # type: ignore[union-attr]
    desk.command(said.DeletePlan, plan="shop")
    answer = hold_again(desk, "db")
    assert answer.problem is not None and answer.problem.code == "unknown-plan"


def test_a_checkpoint_that_is_gone_keeps_it_from_going_on() -> None:
    desk = ended("db", kept=())
    answer = hold_again(desk, "db", checkpoint="checkpoint:shop:gone")
    assert answer.problem is not None and answer.problem.code == "unknown-checkpoint"


def test_asking_twice_grants_the_same_twice() -> None:
    desk = ended("db", kept=())
    assert hold_again(desk, "db").problem is None
    assert hold_again(desk, "db").problem is None
    assert desk.modes("db") == {JOB: MODES}


def test_a_failover_that_is_retried_and_rolled_back_has_its_vms_replicated_again() -> None:
    """It moves its VMs once: the second end must not take them for VMs that were stopped."""
    desk = ready("db", "web")
    full_recovery(desk)
    full_recovery_ended(desk, job=FAILOVER)
    assert desk.vm("db").moved == "failed-over" and not desk.vm("db").on
    assert hold_again(desk, "web", mode="failover", job=FAILOVER).problem is None
    assert desk.modes("web") == {FAILOVER: ("write-copy", "own-instance")}
    assert desk.vm("web").moved == "failed-over", "a plan does not start what runs elsewhere"
    full_recovery_ended(desk, job=FAILOVER)
    assert desk.modes("web") == desk.modes("db") == {FAILOVER: ("own-instance",)}
    desk.tell(said.ReturnVms(plan="shop", job=FAILOVER))
    assert desk.vm("db").on and desk.vm("web").on
    assert not desk.vm("web").moved
