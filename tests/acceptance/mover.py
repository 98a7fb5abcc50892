"""An operator who recovers a plan for real, decides what becomes of it, and judges each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.acceptance.client import Client
from tests.acceptance.judge import Verdict, judge_cleanup, judge_recovery, judge_scripts
from tests.acceptance.live import LiveWorld
from tests.acceptance.moves import (
    judge_moved,
    judge_nothing_left,
    judge_outcome,
    judge_returned,
    scripts_that_ran,
)
from tests.acceptance.world import VMS
from tests.waiting import wait_until

HELD_S_MAX = 120.0
UNPLUGGED_VM = "web"
"""The last to boot: what can be done for the others is done when its last sync fails."""


class Mover:
    """Full recoveries of one plan over `VMS`; `full` are the ids of those it asked for.

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
        self._synced = True

    def recover(self, mode: str, *, last_sync: bool = True) -> None:
        """Fail over or migrate: every VM is up at west, on what its source left."""
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
        """Keep the instances: they are what they were, once, and their sources stay off."""
        self._decided("commit")
        self._judge_moved()
        self._wait_released()

    def roll_back(self) -> None:
        """Undo it: nothing is left at west, the sources run, the VMs may be had by others."""
        self._decided("rollback", confirm=self._plan)
        self._judge_returned()

    def clean_up(self) -> None:
        """Delete committed instances: nothing is left of them, and the sources stay off."""
        judge_cleanup(self._world, self._decided("cleanup", confirm=self._plan), self._verdict)
        judge_nothing_left(self._world, self._verdict)
        self._wait_released()

    def _asked(self, mode: str, **options: Any) -> dict[str, Any]:
        path = f"/v1/plans/{self._plan}/recover"
        job = self._client.command(path, {"mode": mode, **options})["id"]
        self.full.append(job)
        return self._ended(job)

    def _decided(self, action: str, **options: Any) -> dict[str, Any]:
        path = f"/v1/jobs/{self.full[-1]}/{action}"
        job = self._ended(self._client.command(path, options)["id"])
        judge_outcome(job, {}, self._verdict)
        return job

    def _judge_moved(self) -> None:
        judge_moved(self._world, self.full[-1], self._verdict, as_left=self._synced)

    def _judge_returned(self) -> None:
        self._world.wait_sources()
        judge_returned(self._world, self._verdict)
        self._wait_released()

    def _wait_released(self) -> None:
        """Return once no job holds a VM any more; raises AssertionError."""
        wait_until(self._released, "the holds are given back", within_s=HELD_S_MAX)

    def _released(self) -> bool:
        vms = self._client.request("GET", f"/v1/plans/{self._plan}")["vms"]
        assert len(vms) == len(VMS), vms
        return not any(vm["holds"] for vm in vms)
