"""Any order of ticks, late timers, ends and commands: one iteration per VM, on the grid."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schemas import scheduler as said
from schemas.plans import OnceBlackout, ReplicationPolicy, Targets
from schemas.replicator import RunMemberEnded, StartIteration, StartRun
from services.scheduler.domain.grid import grid_for, to_us
from services.scheduler.domain.names import vm_stream
from tests.unit.scheduler.desk import START, at, definition, desk_with

VMS = ("a", "b", "c")
BLACKOUT = OnceBlackout(starts_at=at(100), ends_at=at(130))
POLICIES = tuple(
    ReplicationPolicy(
        interval_s=interval_s,
        start_at=START,
        synchronize=synchronize,
        spread_s=0.0 if synchronize else spread_s,
        blackouts=(BLACKOUT,),
    )
    for interval_s, spread_s in ((900.0, 300.0), (420.0, 0.0))
    for synchronize in (False, True)
)


class Ticking(RuleBasedStateMachine):
    """Three VMs; the replicator ends iterations whenever it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = POLICIES[0]
        self.grids = {self.policy}
        self.desk = desk_with(*VMS, replication=self.policy, targets=Targets(rpo_s=1800.0))
        self.running: dict[str, str] = {}
        self.members: dict[str, set[str]] = {}
        self.ever: Counter[str] = Counter()
        self.count = 0

    def listen(self) -> None:
        """Play the replicator: take what was started, count what every run waits for."""
        for opened in self.desk.take(StartRun):
            assert opened.run not in self.members
            self.members[opened.run] = set(opened.vms)
        for message in self.desk.take(StartIteration):
            assert message.vm not in self.running, "two iterations of one VM"
            self.running[message.vm] = message.iteration
            self.ever[message.iteration] += 1
            if message.run:
                assert message.vm in self.members[message.run]
        for told in self.desk.take(RunMemberEnded):
            self.members[told.run].discard(told.vm)

    @rule(minutes=st.floats(0.5, 40))
    def pass_time(self, minutes: float) -> None:
        self.desk.until(self.desk.now + dt.timedelta(minutes=minutes))
        self.listen()

    @rule(minutes=st.floats(0, 200))
    def be_down(self, minutes: float) -> None:
        """Nothing fires for a while, then everything that is due does."""
        self.desk.now += dt.timedelta(minutes=minutes)
        self.desk.until(self.desk.now)
        self.listen()

    @precondition(lambda self: self.running)
    @rule(
        data=st.data(),
        state=st.sampled_from(["completed", "partially-completed", "failed", "cancelled"]),
        copied=st.booleans(),
        twice=st.booleans(),
    )
    def iteration_ends(self, data: st.DataObject, state: Any, copied: bool, twice: bool) -> None:
        vm = data.draw(st.sampled_from(sorted(self.running)))
        iteration = self.running.pop(vm)
        ended = said.IterationEnded(
            plan="shop",
            vm=vm,
            iteration=iteration,
            state=state,
            checkpoint_at=self.desk.now if copied and "completed" in state else None,
        )
        run = self.desk.vm(vm).run
        if run:
            self.members[run].discard(vm)
        for _ in range(1 + twice):
            self.desk.tell(ended)
        self.listen()

    @rule(vms=st.sets(st.sampled_from(VMS)))
    def run_now(self, vms: set[str]) -> None:
        self.count += 1
        job = f"replication-run:shop:r{self.count}"
        self.desk.command(said.RunPlan, plan="shop", job=job, vms=tuple(sorted(vms)))
        self.listen()

    @rule(vms=st.sets(st.sampled_from(VMS)), cancel=st.booleans())
    def stop(self, vms: set[str], cancel: bool) -> None:
        self.desk.command(said.StopPlan, plan="shop", vms=tuple(sorted(vms)), cancel=cancel)
        self.listen()

    @rule(vms=st.sets(st.sampled_from(VMS)))
    def start(self, vms: set[str]) -> None:
        self.desk.command(said.StartPlan, plan="shop", vms=tuple(sorted(vms)))
        self.listen()

    @rule(vm=st.sampled_from(VMS))
    def reset(self, vm: str) -> None:
        self.desk.command(said.ResetVm, plan="shop", vm=vm)

    @rule(policy=st.sampled_from(POLICIES))
    def apply(self, policy: ReplicationPolicy) -> None:
        self.policy = policy
        self.grids.add(policy)
        self.desk.apply(definition(*VMS, replication=policy, targets=Targets(rpo_s=1800.0)))
        self.listen()

    @invariant()
    def what_runs_is_what_the_state_says(self) -> None:
        for vm in VMS:
            assert self.desk.vm(vm).iteration == self.running.get(vm, "")

    @invariant()
    def no_iteration_starts_twice(self) -> None:
        assert all(count == 1 for count in self.ever.values())

    @invariant()
    def every_tick_is_exactly_on_a_grid(self) -> None:
        for vm in VMS:
            grids = [grid_for(policy, vm=vm) for policy in self.grids]
            for event in self.desk.said(said.IterationDispatched, vm_stream("shop", vm)):
                if event.run.rpartition(":")[2].startswith("r"):
                    continue
                us = to_us(event.tick_at)
                assert any((us - g.start_us) % g.interval_us == 0 for g in grids)

    @invariant()
    def a_run_is_over_exactly_when_its_members_are(self) -> None:
        self.desk.settle_checks()
        self.listen()
        alive = {run for run, members in self.members.items() if members}
        assert set(self.desk.plan.runs) == alive

    @invariant()
    def nothing_waits_unless_something_runs_or_a_blackout_holds_it(self) -> None:
        for vm in VMS:
            state = self.desk.vm(vm)
            if state.queued_at is None or state.iteration:
                continue
            assert not state.queued_run
            assert state.setup is not None
            inside = BLACKOUT.starts_at <= self.desk.now < BLACKOUT.ends_at
            assert inside or state.setup.replication.synchronize or self._pending(vm)

    def _pending(self, vm: str) -> bool:
        timer = self.desk.timer(vm_stream("shop", vm), "tick")
        return timer is not None

    def teardown(self) -> None:
        """Whatever happened, a started plan goes on: every VM runs within two intervals."""
        self.desk.command(said.StartPlan, plan="shop")
        self.listen()
        for _ in range(10):
            for vm in sorted(self.running):
                self.running.pop(vm)
                run = self.desk.vm(vm).run
                if run:
                    self.members[run].discard(vm)
                self.desk.end(vm)
                self.listen()
            self.desk.settle_checks()
            self.listen()
            if not self.running:
                break
        self.desk.now = max(self.desk.now, BLACKOUT.ends_at)
        before = {vm: len(self._dispatched(vm)) for vm in VMS}
        self.desk.until(self.desk.now + dt.timedelta(seconds=2 * self.policy.interval_s))
        for vm in VMS:
            assert len(self._dispatched(vm)) > before[vm], f"{vm} never runs again"

    def _dispatched(self, vm: str) -> list[said.IterationDispatched]:
        return self.desk.said(said.IterationDispatched, vm_stream("shop", vm))


Ticking.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestTicking = Ticking.TestCase
