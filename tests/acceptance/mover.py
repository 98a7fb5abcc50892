"""An operator who recovers a plan for real, decides what becomes of it, and judges each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shared.errors import SeawallError
from tests.acceptance.client import Client
from tests.acceptance.judge import Verdict, judge_cleanup, judge_recovery, judge_scripts
from tests.acceptance.live import LiveWorld
from tests.acceptance.moves import (
    judge_copies,
    judge_moved,
    judge_nothing_left,
    judge_outcome,
    judge_retired,
    judge_returned,
    scripts_that_ran,
)
from tests.acceptance.world import VMS
from tests.waiting import wait_until

HELD_S_MAX = 120.0
COPIED_S_MAX = 120.0
COPIED_POLL_S = 0.2
"""Each look reads 8 MiB twice."""

UNPLUGGED_VM = "web"
"""The last to boot: what can be done for the others is done when its last sync fails."""


class Mover:
    """Full recoveries and reversals of one plan over `VMS`; `full` are the ids of the recoveries
    it asked for, `committed` of those that were committed.

    `ended` gives a job once it has ended. One recovery at a time: commit, roll back and cleanup
    are of the last one.
    """

    def __init__(
        self,
        client: Client,
        world: LiveWorld,
        verdict: Verdict,
        *,
        plan: str,
        ended: Callable[[str], dict[str, Any]],
    ) -> None:
        self._client = client
        self._world = world
        self._verdict = verdict
        self._plan = plan
        self._ended = ended
        self.full: list[str] = []
        self.committed: list[str] = []
        self._synced = True

    def recover(self, mode: str, *, last_sync: bool = True) -> None:
        """Fail over, migrate or fail back: every VM is up at the other site, on what it left."""
        self._synced = last_sync
        job = self._asked(mode, **({} if last_sync else {"last_sync": False}))
        shown = self._client.script_steps(job)
        judge_scripts(self._world.script_lines(), shown, self._verdict)
        judge_outcome(job, shown, self._verdict)
        judge_recovery(self._world, job, self._verdict)
        if not job["awaits_commit"]:
            self._verdict.lost.append(f"{job['id']} awaits no decision")
        self._judge_moved()

    def fail_to_migrate(self) -> None:
        """Migrate VMs of which one cannot be copied any more: all stay where they were."""
        self._world.unplug(UNPLUGGED_VM)
        job = self._asked("migrate")
        self._world.plug(UNPLUGGED_VM)
        shown = scripts_that_ran(self._client.script_steps(job))
        judge_scripts(self._world.script_lines(), shown, self._verdict)
        judge_outcome(job, {}, self._verdict, expected="failed")
        if job["awaits_commit"]:
            self._verdict.lost.append(f"{job['id']} was taken back and awaits a decision")
        self._judge_returned()

    def commit(self) -> None:
        """Keep the instances: they are what they were, once, and what they came from stays off."""
        self._decided("commit")
        self._judge_moved()
        self._world.moved(self.full[-1])
        self.committed.append(self.full[-1])
        self._wait_released()

    def reverse(self) -> None:
        """Replicate what a committed recovery brought up, the other way, after it was written to:
        the copies are what the instances hold, and the originals what they were left as."""
        self._world.change_disks()
        job = self._started("reverse")
        judge_outcome(job, {}, self._verdict)
        if job["facts"].get("turned") != len(VMS):
            self._verdict.lost.append(f"{job['id']} turned {job['facts'].get('turned')} VMs")
        self.judge_copies()
        judge_retired(self._world, self._verdict)
        self._wait_directed("reverse")
        self._wait_released()

    def fail_back(self) -> None:
        """Bring the VMs home from what they run as; their originals stay as they were left."""
        self.recover("failback")
        judge_retired(self._world, self._verdict)

    def commit_failback(self) -> None:
        """Keep what came up at home: at once it is replicated the original way, over the copies
        from before."""
        self.commit()
        self._wait_directed("original")
        wait_until(
            self._copied, "what came home is copied", within_s=COPIED_S_MAX, poll_s=COPIED_POLL_S
        )
        self._wait_released(and_iterations=True)
        judge_retired(self._world, self._verdict)

    def roll_back(self) -> None:
        """Undo it: nothing is left of it, the sources run, the VMs may be had by others."""
        self._decided("rollback", confirm=self._plan)
        self._judge_returned()

    def clean_up(self) -> None:
        """Delete committed instances: nothing is left of them, and the sources stay off."""
        self._world.abandoned()
        self._clean_up(self._decided("cleanup", confirm=self._plan))

    def clean_up_before_failback(self) -> None:
        """Delete what ran away from home, for which nothing is to be typed: none of it is left,
        and what came home runs on."""
        self._clean_up(self._decided("cleanup", job=self.committed[-2]))
        judge_returned(self._world, self._verdict)

    def judge_copies(self) -> None:
        """The newest copies are what the VMs' disks hold."""
        judge_copies(self._world, self._verdict, plan=self._plan)

    def _clean_up(self, cleanup: dict[str, Any]) -> None:
        judge_cleanup(self._world, cleanup, self._verdict)
        judge_nothing_left(self._world, self._verdict)
        judge_retired(self._world, self._verdict)
        self._wait_released()

    def _asked(self, mode: str, **options: Any) -> dict[str, Any]:
        job = self._started(mode, **options)
        self.full.append(job["id"])
        return job

    def _started(self, mode: str, **options: Any) -> dict[str, Any]:
        path = f"/v1/plans/{self._plan}/recover"
        return self._ended(self._client.command(path, {"mode": mode, **options})["id"])

    def _decided(self, action: str, *, job: str = "", **options: Any) -> dict[str, Any]:
        path = f"/v1/jobs/{job or self.full[-1]}/{action}"
        decided = self._ended(self._client.command(path, options)["id"])
        judge_outcome(decided, {}, self._verdict)
        return decided

    def _judge_moved(self) -> None:
        judge_moved(self._world, self.full[-1], self._verdict, as_left=self._synced)

    def _judge_returned(self) -> None:
        self._world.wait_sources()
        judge_returned(self._world, self._verdict)
        judge_retired(self._world, self._verdict)
        self._wait_released()

    def _copied(self) -> bool:
        found = Verdict()
        try:
            judge_copies(self._world, found, plan=self._plan)
        except (OSError, SeawallError):
            return False  # The copy was switched while it was being read.
        return found.good

    def _wait_directed(self, direction: str) -> None:
        """Return once the plan goes that way; raises AssertionError."""
        wait_until(
            lambda: self._read_plan()["direction"] == direction,
            f"{self._plan} goes the {direction} way",
            within_s=HELD_S_MAX,
        )

    def _wait_released(self, *, and_iterations: bool = False) -> None:
        """Return once no job holds a VM any more, and none is copied; raises AssertionError."""
        busy = ("holds", "iteration") if and_iterations else ("holds",)
        wait_until(
            lambda: not any(vm[name] for vm in self._read_plan()["vms"] for name in busy),
            "the holds are given back",
            within_s=HELD_S_MAX,
        )

    def _read_plan(self) -> dict[str, Any]:
        plan: dict[str, Any] = self._client.request("GET", f"/v1/plans/{self._plan}")
        assert len(plan["vms"]) == len(VMS), plan["vms"]
        return plan
