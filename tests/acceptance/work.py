"""What an operator does in a crash trial, in stages: one stage after another on one plan.

`STAGES` says how each is done and how far a kill may be aimed into it; `OPERATIONS` which stages
a trial goes through, and into which of them it aims. A further operation is a stage and a row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from tests.acceptance.client import Client, encoded_scripts
from tests.acceptance.judge import Verdict, judge_cleanup, judge_recovery, judge_scripts
from tests.acceptance.live import LiveWorld
from tests.acceptance.mover import Mover
from tests.acceptance.moves import judge_moves, judge_outcome, judge_retired
from tests.acceptance.world import MORE, PLAN, World

FOLLOWED = 2
FULL_S_MAX = 120.0
"""A full recovery in which everything dies may have to start six processes on a busy machine, and
copies once more than a test."""


class Work:
    """An operator at a world's plans; what comes of it is judged at once.

    `mover` is there in a world whose sources run.
    """

    def __init__(self, client: Client, world: World, verdict: Verdict) -> None:
        self._client = client
        self._world = world
        self._verdict = verdict
        self._applied: set[str] = set()
        self.mover = (
            Mover(client, world, verdict, plan=PLAN, ended=self._ended)
            if isinstance(world, LiveWorld)
            else None
        )

    def _ended(self, job: str) -> dict[str, Any]:
        return self._client.wait_job(job, timeout_s=FULL_S_MAX)

    def protect(self) -> None:
        """Register the sites, apply the plan, make its first copies."""
        for site in ("east", "west"):
            settings = {"path": str(self._world.root / site)}
            body = {"name": site, "platform": "lab", "settings": settings}
            self._client.command("/v1/sites", body)
        self.replicate(PLAN)

    def main_job(self) -> None:
        """Register the sites, protect, replicate twice, test-recover, clean up."""
        self.protect()
        self.replicate(PLAN)
        self.test_recover(PLAN)

    def round(self) -> None:
        """Replicate, test-recover and clean up the second plan."""
        self.replicate(MORE)
        self.test_recover(MORE)

    def replicate(self, plan: str) -> None:
        """A run of the plan, which is applied before the first, over disks that change."""
        if plan not in self._applied:
            body = self._world.plan(plan)
            body["scripts"] = encoded_scripts(body["scripts"])
            self._client.command("/v1/plans", body)
            self._applied.add(plan)
        run = self._client.wait_job(self._client.command(f"/v1/plans/{plan}/run")["id"])
        if run["state"] != "completed":
            self._verdict.lost.append(f"replication {run['state']}: {self._why(run)}")
        if self.mover is not None and plan == PLAN:
            self.mover.judge_copies()
        self._world.change_disks(plan)

    def test_recover(self, plan: str) -> None:
        """A test recovery and its cleanup."""
        job = self._client.command(f"/v1/plans/{plan}/recover", {"mode": "test"})["id"]
        recovery = self._client.wait_job(job)
        judge_recovery(self._world, recovery, self._verdict)
        shown = self._client.script_steps(recovery)
        judge_scripts(self._world.script_lines(), shown, self._verdict)
        judge_outcome(recovery, shown, self._verdict)
        cleanup = self._client.wait_job(self._client.command(f"/v1/jobs/{job}/cleanup")["id"])
        judge_cleanup(self._world, cleanup, self._verdict)

    def judge(self) -> None:
        """What can be judged only over all that was done."""
        if self.mover is not None and isinstance(self._world, LiveWorld):
            judge_moves(self._world, self.mover.full, self._verdict)
            judge_retired(self._world, self._verdict)

    def _why(self, job: dict[str, Any]) -> str:
        told = [self._client.job(child) for child in job["children"]]
        return json.dumps([(child["vm"], child["state"], child["error"]) for child in told])


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that an operator does, and how much happens meanwhile.

    `commits` to the logs of services and `calls` that change something at a site, `seconds` on an
    idle machine: so far a kill is aimed. `calls_beyond` lie in what comes after it.
    """

    do: Callable[[Work], None]
    commits: int
    calls: int
    seconds: float
    calls_beyond: int = 0


def _mover(work: Work) -> Mover:
    assert work.mover is not None, "the sources of its world run"
    return work.mover


def _test(work: Work) -> None:
    work.main_job()


def _failover(work: Work) -> None:
    _mover(work).recover("failover")


def _failover_at_once(work: Work) -> None:
    _mover(work).recover("failover", last_sync=False)


def _migration(work: Work) -> None:
    _mover(work).recover("migrate")


def _undone_migration(work: Work) -> None:
    _mover(work).fail_to_migrate()


def _commit(work: Work) -> None:
    _mover(work).commit()


def _roll_back(work: Work) -> None:
    """Undo the recovery, and show that everything goes on as before it."""
    _mover(work).roll_back()


def _clean_up(work: Work) -> None:
    _mover(work).clean_up()


def _reverse(work: Work) -> None:
    _mover(work).reverse()


def _follow(work: Work) -> None:
    """Iterations in reverse: whole disks were copied before, now what changed is."""
    for _ in range(FOLLOWED):
        work.replicate(PLAN)


def _failback(work: Work) -> None:
    _mover(work).fail_back()


def _undone_failback(work: Work) -> None:
    """Fail back and roll it back: the instances run on, and are replicated in reverse."""
    _mover(work).fail_back()
    _mover(work).roll_back()
    work.replicate(PLAN)


def _commit_failback(work: Work) -> None:
    _mover(work).commit_failback()


def _clean_up_before_failback(work: Work) -> None:
    _mover(work).clean_up_before_failback()


STAGES: Final[Mapping[str, Stage]] = {
    "test": Stage(do=_test, commits=200, calls=48, calls_beyond=152, seconds=4.0),
    "failover": Stage(do=_failover, commits=120, calls=32, seconds=4.5),
    "failover-at-once": Stage(do=_failover_at_once, commits=75, calls=19, seconds=3.5),
    "migration": Stage(do=_migration, commits=120, calls=32, seconds=4.5),
    "undone-migration": Stage(do=_undone_migration, commits=70, calls=15, seconds=3.2),
    "commit": Stage(do=_commit, commits=8, calls=0, seconds=0.15),
    "rollback": Stage(do=_roll_back, commits=30, calls=9, seconds=0.5),
    "cleanup": Stage(do=_clean_up, commits=24, calls=6, seconds=0.5),
    "reverse": Stage(do=_reverse, commits=36, calls=13, seconds=1.2),
    "follow": Stage(do=_follow, commits=48, calls=26, seconds=1.2),
    "failback": Stage(do=_failback, commits=115, calls=32, seconds=4.5),
    "undone-failback": Stage(do=_undone_failback, commits=170, calls=54, seconds=5.5),
    "failback-commit": Stage(do=_commit_failback, commits=22, calls=13, seconds=0.7),
    "failback-cleanup": Stage(do=_clean_up_before_failback, commits=17, calls=6, seconds=0.4),
}


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial is about: its stages in order, after the plan is protected where it is not
    the first stage's own, and those into which it aims a kill each.

    `replicated`: at the end the VMs run somewhere and are replicated from there.
    """

    stages: tuple[str, ...]
    aims: tuple[str, ...]
    replicated: bool = True


CHAIN: Final = "chain"
"""A kill in each stage of one world, there and back: the most kills for the least time."""

_THERE: Final = ("failover", "rollback", "undone-migration", "migration", "commit")
_BACK: Final = (
    "reverse", "follow", "undone-failback", "failback", "failback-commit", "failback-cleanup",
)  # fmt: skip
_AWAY: Final = ("failover-at-once", "commit", "reverse")
"""The quickest way to VMs that are replicated in reverse."""

OPERATIONS: Final[Mapping[str, Operation]] = {
    "test": Operation(stages=("test",), aims=("test",)),
    "failover": Operation(stages=("failover", "rollback"), aims=("failover",)),
    "failover-at-once": Operation(
        stages=("failover-at-once", "rollback"), aims=("failover-at-once",)
    ),
    "migration": Operation(
        stages=("migration", "commit", "cleanup"), aims=("migration",), replicated=False
    ),
    "undone-migration": Operation(stages=("undone-migration",), aims=("undone-migration",)),
    "rollback": Operation(stages=("migration", "rollback"), aims=("rollback",)),
    "commit": Operation(
        stages=("failover-at-once", "commit", "cleanup"), aims=("commit",), replicated=False
    ),
    "cleanup": Operation(
        stages=("failover", "commit", "cleanup"), aims=("cleanup",), replicated=False
    ),
    "reverse": Operation(stages=_AWAY, aims=("reverse",)),
    "follow": Operation(stages=(*_AWAY, "follow"), aims=("follow",)),
    "undone-failback": Operation(stages=(*_AWAY, "undone-failback"), aims=("undone-failback",)),
    "failback": Operation(
        stages=(*_AWAY, "failback", "failback-commit", "failback-cleanup"), aims=("failback",)
    ),
    "failback-commit": Operation(
        stages=(*_AWAY, "failback", "failback-commit", "failback-cleanup"),
        aims=("failback-commit",),
    ),
    "failback-cleanup": Operation(
        stages=(*_AWAY, "failback", "failback-commit", "failback-cleanup"),
        aims=("failback-cleanup",),
    ),
    CHAIN: Operation(stages=(*_THERE, *_BACK), aims=(*_THERE, *_BACK)),
}

MIXED: Final = tuple(name for name in OPERATIONS if name != CHAIN)
"""What a series of trials goes through, one after another."""
