"""The load of trials: operators who protect, replicate, recover, undo it, and judge that."""

from __future__ import annotations

import threading
import time
from typing import Any

from shared.errors import SeawallError
from tests.acceptance.client import Client, Gateways, encoded_scripts
from tests.acceptance.judge import Verdict, judge_cleanup, judge_recovery, judge_scripts
from tests.acceptance.live import LiveWorld
from tests.acceptance.mover import Mover
from tests.acceptance.moves import judge_moves
from tests.acceptance.world import World

JOB_S_MAX = 180.0
FULL_EVERY = 3
"""A round with a failover copies twice and takes longer than one with a test."""

BREAKS = (AssertionError, LookupError, OSError, SeawallError, TypeError, ValueError)
"""What may break a trial itself: it is told and counted as unfinished, and the others go on."""


class Operator(threading.Thread):
    """Protects one world and recovers it again and again, and judges what comes of it.

    Where the world's sources run, the first and every third round after it is a failover that is
    rolled back; all others are test recoveries. `protected` is set once its plan stands; `again`
    are steps that were tried more than once.
    """

    def __init__(
        self, gateways: Gateways, world: World, number: int, over: threading.Event
    ) -> None:
        super().__init__(name=f"operator-{number}")
        self.client = Measured(gateways, prefix=f"operator-{number}")
        self.plan = f"shop{number}"
        self.verdict = Verdict()
        self.again: list[str] = []
        self.rounds = 0
        self.protected = threading.Event()
        self._world = world
        self._number = number
        self._over = over
        self._mover: Mover | None = None
        if isinstance(world, LiveWorld):
            self._mover = Mover(
                self.client, world, self.verdict, plan=self.plan, ended=self._ended
            )

    def run(self) -> None:
        """Rounds until `over`; the one in hand is finished."""
        try:
            self._protect()
            self.protected.set()
            while not self._over.is_set() or not self.rounds:
                self._replicate()
                if self._mover is not None and self.rounds % FULL_EVERY == 0:
                    self._mover.recover("failover")
                    self._mover.roll_back()
                else:
                    self._test()
                self._world.change_disks()
                self.rounds += 1
        except BREAKS as broken:
            told = [repr(broken), *getattr(broken, "__notes__", ())]
            self.verdict.unfinished.append(" ".join(told)[:800])
            self.protected.set()

    def _protect(self) -> None:
        sites = {site: f"{site}{self._number}" for site in ("east", "west")}
        for site, name in sites.items():
            settings = {"path": str(self._world.root / site)}
            self.client.command(
                "/v1/sites", {"name": name, "platform": "lab", "settings": settings}
            )
        body = self._world.plan()
        body["plan"] |= {
            "name": self.plan,
            "protected_site": sites["east"],
            "recovery_site": sites["west"],
        }
        self.client.command("/v1/plans", {**body, "scripts": encoded_scripts(body["scripts"])})

    def judge(self) -> None:
        """What can be judged only over all rounds, once they are over."""
        if self._mover is not None and isinstance(self._world, LiveWorld):
            judge_moves(self._world, self._mover.full, self.verdict)

    def _replicate(self) -> None:
        run = self._ended(self.client.command(f"/v1/plans/{self.plan}/run")["id"])
        if run["state"] != "completed":
            self.verdict.lost.append(f"replication {run['state']}: {run['error']}")

    def _test(self) -> None:
        path = f"/v1/plans/{self.plan}/recover"
        recovery = self._ended(self.client.command(path, {"mode": "test"})["id"])
        judge_recovery(self._world, recovery, self.verdict)
        shown = self.client.script_steps(recovery)
        judge_scripts(self._world.script_lines(), shown, self.verdict)
        if recovery["state"] != "completed" and "unknown" not in shown.values():
            self.verdict.lost.append(f"recovery {recovery['state']}: {recovery['error']}")
        cleanup = self.client.command(f"/v1/jobs/{recovery['id']}/cleanup")["id"]
        judge_cleanup(self._world, self._ended(cleanup), self.verdict)

    def _ended(self, job: str) -> dict[str, Any]:
        """The job once it has ended."""
        ended = self.client.wait_job(job, timeout_s=JOB_S_MAX)
        for each in (ended, *map(self.client.job, ended["children"])):
            steps = [step["name"] for step in each["steps"] if step["attempts"] > 1]
            self.again += [f"{each['id']}: {step}" for step in steps]
        return ended


class Measured(Client):
    """A client that notes how long each command waited."""

    def __init__(self, gateways: Gateways, *, prefix: str) -> None:
        super().__init__(gateways, prefix=prefix)
        self.asked = 0
        self.stall_s = 0.0

    def command(self, path: str, body: Any = None) -> Any:
        """As the client's; counted and timed."""
        self.asked += 1
        began = time.monotonic()
        answer = super().command(path, body)
        self.stall_s = max(self.stall_s, time.monotonic() - began)
        return answer
