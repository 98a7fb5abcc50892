"""Holds: which jobs may touch a VM together."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schemas import scheduler as said
from schemas.common import HoldMode
from services.scheduler.domain.holds import (
    FULL_RECOVERIES,
    MODES,
    JobClass,
    exclude,
    excluding_job,
    without,
)
from services.scheduler.domain.names import vm_stream
from tests.unit.scheduler.desk import desk_with

CLASSES: tuple[JobClass, ...] = get_args(JobClass)

# architecture.md §3, Holds, written out: which pairs of jobs exclude each other on one VM.
TOGETHER = {
    frozenset(pair)
    for pair in (
        ("iteration", "checkpoint"),
        ("iteration", "test"),
        ("checkpoint", "checkpoint"),
        ("checkpoint", "test"),
        *(("checkpoint", full) for full in FULL_RECOVERIES),
    )
}


@pytest.mark.parametrize(
    ("one", "other"), list(itertools.combinations_with_replacement(CLASSES, 2))
)
def test_every_pair_of_jobs_stands_together_or_excludes(one: JobClass, other: JobClass) -> None:
    together = frozenset((one, other)) in TOGETHER
    assert exclude(MODES[one], MODES[other]) is not together
    assert exclude(MODES[other], MODES[one]) is not together


@pytest.mark.parametrize("wanted", sorted(FULL_RECOVERIES))
def test_an_ended_test_does_not_exclude_a_full_recovery(wanted: JobClass) -> None:
    held: dict[str, tuple[HoldMode, ...]] = {"recovery:shop:t": ("own-instance",)}
    assert excluding_job(held, wanted=wanted) == "recovery:shop:t"
    assert excluding_job(held, wanted=wanted, ended_tests=("recovery:shop:t",)) == ""


def test_an_ended_test_excludes_another_test() -> None:
    held: dict[str, tuple[HoldMode, ...]] = {"recovery:shop:t": ("own-instance",)}
    found = excluding_job(held, wanted="test", ended_tests=("recovery:shop:t",))
    assert found == "recovery:shop:t"


def test_giving_back_leaves_the_other_modes() -> None:
    written: list[HoldMode] = ["write-copy"]
    assert without(MODES["failover"], written) == ("own-instance",)
    assert without(MODES["test"], MODES["test"]) == ()


class Holding(RuleBasedStateMachine):
    """Tests, failovers, dry runs, iterations and cleanups of three VMs in any order."""

    VMS = ("a", "b", "c")

    def __init__(self) -> None:
        super().__init__()
        self.desk = desk_with(*self.VMS)
        self.desk.copied(*self.VMS)
        self.model: dict[str, dict[str, set[str]]] = {vm: {} for vm in self.VMS}
        self.ended: set[str] = set()
        self.full: set[str] = set()
        self.running: set[str] = set()
        self.count = 0

    @rule(vms=st.sets(st.sampled_from(VMS)), dry_run=st.booleans())
    def recover(self, vms: set[str], dry_run: bool) -> None:
        self.count += 1
        job = f"recovery:shop:{self.count}"
        answer = self.desk.command(
            said.Recover, plan="shop", job=job, mode="test", vms=tuple(vms), dry_run=dry_run
        )
        assert answer is not None
        chosen = vms or set(self.VMS)
        taken = {vm for vm in chosen for held in self.model[vm].values() if "own-instance" in held}
        assert (answer.code == "busy") is (bool(taken) and not dry_run)
        if not taken and not dry_run:
            for vm in chosen:
                self.model[vm][job] = {"read-copy", "own-instance"}

    @rule(vms=st.sets(st.sampled_from(VMS)), last_sync=st.booleans())
    def fail_over(self, vms: set[str], last_sync: bool) -> None:
        self.count += 1
        job = f"recovery:shop:{self.count}"
        chosen = vms or set(self.VMS)
        taken = {
            vm
            for vm in chosen
            for other, held in self.model[vm].items()
            if "write-copy" in held
            or ("own-instance" in held and (other not in self.ended or other in self.full))
        }
        answer = self.desk.command(
            said.Recover,
            plan="shop",
            job=job,
            mode="failover",
            vms=tuple(vms),
            last_sync=last_sync,
        )
        for vm in sorted(chosen):
            # One without a last sync had the iteration cancelled, and waits for its end.
            if not taken and self.desk.vm(vm).iteration and not last_sync:
                self.desk.end(vm, "cancelled")
        self.desk.until(self.desk.now)
        assert (answer is not None and answer.code == "busy") is bool(taken)
        if not taken:
            self.full.add(job)
            for vm in chosen:
                self.model[vm][job] = {"write-copy", "own-instance"}

    def jobs(self) -> list[str]:
        return sorted({job for held in self.model.values() for job in held})

    @precondition(lambda self: self.jobs())
    @rule(
        data=st.data(),
        modes=st.sets(st.sampled_from(["read-copy", "write-copy", "own-instance"]), min_size=1),
        vms=st.sets(st.sampled_from(VMS)),
    )
    def give_back(self, data: st.DataObject, modes: set[HoldMode], vms: set[str]) -> None:
        job = data.draw(st.sampled_from(self.jobs()))
        self.desk.tell(
            said.ReleaseHolds(plan="shop", job=job, modes=tuple(sorted(modes)), vms=tuple(vms))
        )
        for vm in vms or set(self.VMS):
            left = self.model[vm].pop(job, set()) - modes
            if left:
                self.model[vm][job] = left

    @precondition(lambda self: self.jobs())
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.jobs()))
        self.ended.add(job)
        mode: said.RecoveryMode = "failover" if job in self.full else "test"
        self.desk.tell(said.RecoveryEnded(plan="shop", job=job, mode=mode, state="completed"))

    @rule(minutes=st.integers(1, 40))
    def pass_time(self, minutes: int) -> None:
        self.desk.until(self.desk.now + dt.timedelta(minutes=minutes))

    @rule(vm=st.sampled_from(VMS))
    def iteration_ends(self, vm: str) -> None:
        if self.desk.vm(vm).iteration:
            self.desk.end(vm)

    @invariant()
    def state_is_the_model(self) -> None:
        for vm in self.VMS:
            found = {job: set(modes) for job, modes in self.desk.modes(vm).items()}
            assert found == self.model[vm]

    @invariant()
    def nobody_shares_what_excludes(self) -> None:
        # A last sync lets the iteration that runs end under its hold; an ended test only waits
        # for somebody to tidy up.
        for vm in self.VMS:
            held = [modes for job, modes in self.desk.modes(vm).items() if job not in self.ended]
            for one, other in itertools.combinations(held, 2):
                assert not exclude(one, other)

    @invariant()
    def no_iteration_begins_while_a_full_recovery_holds_the_copy(self) -> None:
        for vm in self.VMS:
            writes = any("write-copy" in held for held in self.desk.modes(vm).values())
            running = self.desk.vm(vm).iteration
            assert not (writes and running and running not in self.running)
        self.running = {self.desk.vm(vm).iteration for vm in self.VMS}

    @invariant()
    def the_plan_remembers_exactly_who_holds(self) -> None:
        holding = {job for job, entry in self.desk.plan.recoveries.items() if not entry.released}
        assert holding == set(self.jobs())

    def teardown(self) -> None:
        for job in self.jobs():
            self.desk.tell(
                said.ReleaseHolds(
                    plan="shop", job=job, modes=("read-copy", "write-copy", "own-instance")
                )
            )
        answer = self.desk.command(said.DeletePlan, plan="shop")
        assert answer is not None
        assert answer.outcome == "done"
        assert all(not self.desk.cache.get(vm_stream("shop", vm)).state.on for vm in self.VMS)  # type: ignore[union-attr]


Holding.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestHolding = Holding.TestCase
