"""`after`: what is refused when a plan is applied, what when it is recovered, in which order."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from schemas import scheduler as said
from schemas.children import ParentEnded
from schemas.plans import CheckpointPolicy
from schemas.recovery_groups import RecoverGroup, RecoveryGroupRequested, StartRecoveryGroup
from schemas.replicator import DeleteCheckpoint
from services.scheduler.domain.prerequisites import PLANS_MAX
from tests.unit.scheduler.desk import Desk, definition

JOB = "recovery-group:shop:g1"


def desk(*vms: str) -> Desk:
    found = Desk()
    found.add_sites(east=vms, west=())
    return found


def apply(found: Desk, name: str, *after: str) -> Any:
    return found.apply(definition(f"vm-{name}", name=name, after=after))


def recover(found: Desk, plan: str = "shop", **fields: Any) -> Any:
    job = f"recovery-group:{plan}:g1"
    asked = said.Recover(command_id="x", plan=plan, job=job, mode="test", **fields)
    return found.command(RecoverGroup, plan=plan, job=job, recover=asked)


def test_a_plan_that_comes_after_one_that_is_not_there_is_refused_by_name() -> None:
    answer = apply(desk("vm-shop"), "shop", "directory")
    assert (answer.outcome, answer.code) == ("refused", "invalid")
    assert "'directory'" in answer.message and "'shop' comes after" in answer.message


def test_a_circle_is_refused_with_every_plan_in_it() -> None:
    found = desk()
    for name, *after in (("dns",), ("mail", "dns"), ("shop", "mail")):
        assert apply(found, name, *after).outcome == "done"
    answer = apply(found, "dns", "shop")
    assert (answer.outcome, answer.code) == ("refused", "invalid")
    assert "dns after shop after mail after dns" in answer.message
    assert found.plan.header is not None


def test_a_dry_run_of_an_application_sees_the_circle_too() -> None:
    found = desk()
    for name, *after in (("dns",), ("shop", "dns")):
        apply(found, name, *after)
    closing = definition("vm-dns", name="dns", after=("shop",))
    assert found.apply(closing, dry_run=True).code == "invalid"


def test_what_a_plan_comes_after_is_part_of_its_version() -> None:
    found = desk()
    apply(found, "dns")
    apply(found, "shop", "dns")
    assert found.plan.header is not None and found.plan.header.after == ("dns",)
    again = apply(found, "shop", "dns")
    assert again.details["unchanged"] is True
    changed = apply(found, "shop")
    assert changed.details["changes"] == ['~ after: ["dns"] → []']


def test_the_group_holds_every_prerequisite_of_a_prerequisite_once_and_in_order() -> None:
    found = desk()
    plans = (("net",), ("dns", "net"), ("mail", "dns", "net"), ("shop", "mail", "dns"))
    for name, *after in plans:
        assert apply(found, name, *after).outcome == "done"
    found.sent.clear()
    assert recover(found).outcome == "done"
    (start,) = found.take(StartRecoveryGroup)
    assert [member.plan for member in start.members] == ["net", "dns", "mail", "shop"]
    assert start.members[2].after == ("dns", "net")
    assert all(member.tolerant for member in start.members)
    (requested,) = found.said(RecoveryGroupRequested)
    assert requested.plans == ("net", "dns", "mail", "shop")


def test_a_plan_without_prerequisites_is_a_group_of_itself() -> None:
    found = desk()
    apply(found, "shop")
    found.sent.clear()
    recover(found, on_error="stop")
    (start,) = found.take(StartRecoveryGroup)
    assert [(m.plan, m.after, m.tolerant) for m in start.members] == [("shop", (), False)]


def test_a_prerequisite_that_was_deleted_meanwhile_is_refused_at_recover() -> None:
    found = desk()
    apply(found, "dns")
    apply(found, "shop", "dns")
    assert found.command(said.DeletePlan, plan="dns").outcome == "done"  # type: ignore[union-attr]
    answer = recover(found)
    assert (answer.outcome, answer.code) == ("refused", "prerequisites")
    assert "'shop' comes after 'dns'" in answer.message
    assert found.take(StartRecoveryGroup) == []


# ── The checkpoint of the plan itself ────────────────────────────────────────────────────────

POINT = "checkpoint:shop:a"


def with_checkpoint(state: Any = "available") -> Desk:
    """A plan of two VMs that keeps one checkpoint; the one it has, or is making, is of vm-a."""
    found = desk("vm-a", "vm-b")
    policy = CheckpointPolicy(every_s=86_400.0, keep_last=1)
    found.apply(definition("vm-a", "vm-b", checkpoints=policy))
    found.copied("vm-a", "vm-b")
    make(found, POINT, state)
    found.sent.clear()
    return found


def make(found: Desk, name: str, state: Any = "available") -> None:
    found.command(said.CreateCheckpoint, plan="shop", job=name)
    if state != "creating":
        made = said.CheckpointEnded(
            plan="shop", checkpoint=name, state=state, created_at=found.now, vms=("vm-a",)
        )
        found.tell(made)


def delete(found: Desk) -> str:
    change: dict[str, Any] = {"plan": "shop", "checkpoint": POINT, "action": "delete"}
    answer = found.command(said.ChangeCheckpoint, **change)
    assert answer is not None
    return answer.code or answer.outcome


def test_the_checkpoint_of_a_group_is_kept_from_the_command_until_its_end() -> None:
    found = with_checkpoint()
    assert recover(found, vms=("vm-a",), checkpoint=POINT).outcome == "done"
    assert delete(found) == "in-use"
    found.now += dt.timedelta(minutes=1)
    make(found, "checkpoint:shop:b")
    assert not found.take(DeleteCheckpoint)
    found.tell(ParentEnded(plan="shop", job=JOB, state="completed"))
    assert [m.checkpoint for m in found.take(DeleteCheckpoint)] == [POINT]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"checkpoint": "checkpoint:shop:x"}, "unknown-checkpoint"),
        ({"checkpoint": POINT}, "no-copy"),
        ({"checkpoint": POINT, "vms": ("vm-x",)}, "unknown-vm"),
        ({"vms": ("vm-x",)}, "unknown-vm"),
    ],
)
def test_a_group_that_could_not_recover_its_own_plan_does_not_begin(
    fields: dict[str, Any], code: str
) -> None:
    found = with_checkpoint()
    answer = recover(found, **fields)
    assert (answer.outcome, answer.code) == ("refused", code)
    assert not found.take(StartRecoveryGroup) and not found.plan.parents


def test_a_group_waits_a_little_for_a_checkpoint_that_is_being_made() -> None:
    found = with_checkpoint("creating")
    asked = said.Recover(
        command_id="x", plan="shop", job=JOB, mode="test", vms=("vm-a",), checkpoint=POINT
    )
    found.command(RecoverGroup, patient=False, plan="shop", job=JOB, recover=asked)
    assert not found.take(StartRecoveryGroup)
    made = said.CheckpointEnded(
        plan="shop", checkpoint=POINT, state="available", created_at=found.now, vms=("vm-a",)
    )
    found.tell(made)
    found.until(found.now + dt.timedelta(seconds=1))
    assert len(found.take(StartRecoveryGroup)) == 1


def test_a_dry_run_of_a_group_keeps_no_checkpoint() -> None:
    found = with_checkpoint()
    assert recover(found, vms=("vm-a",), checkpoint=POINT, dry_run=True).outcome == "done"
    assert delete(found) == "done"


def test_an_unknown_plan_has_no_group() -> None:
    assert recover(desk(), "nothing").code == "unknown-plan"


def test_a_group_that_runs_keeps_its_plan_from_being_deleted() -> None:
    found = desk()
    apply(found, "shop")
    recover(found)
    answer = found.command(said.DeletePlan, plan="shop")
    assert answer is not None and answer.code == "busy" and JOB in answer.message


@pytest.mark.parametrize(("count", "outcome"), [(PLANS_MAX, "done"), (PLANS_MAX + 5, "refused")])
def test_a_chain_of_plans_has_a_bound(count: int, outcome: str) -> None:
    found = desk()
    found.verify = False
    names = [f"p{number}" for number in range(count)]
    answer = None
    for number, name in enumerate(names):
        answer = apply(found, name, *names[max(number - 1, 0) : number])
        if answer.outcome == "refused":
            break
    assert answer is not None and answer.outcome == outcome, answer
    if outcome == "refused":
        assert answer.message.startswith(f"more than {PLANS_MAX} plans come before")
